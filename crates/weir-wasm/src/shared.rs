//! Shared data and queues: process-wide, keyed by `vm_id`, bounded.
//!
//! A [`Vm`] lives as long as somebody holds it: every instance does, and so does an owner that wants the data to outlive a restart.
use crate::host::QueueWaker;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

/// Bounds of each `vm_id`. Beyond them the entry written longest ago goes; of a queue, its own oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedLimits {
    /// Keys and values.
    pub data_bytes: usize,
    pub data_entries: usize,
    /// Queues; one more is refused.
    pub queues: usize,
    /// Of all its queues together.
    pub queue_bytes: usize,
    pub queue_entries: usize,
}

/// The longest name of a queue.
const QUEUE_NAME: usize = 1024;

impl Default for SharedLimits {
    fn default() -> Self {
        SharedLimits { data_bytes: 64 << 20, data_entries: 1 << 17, queues: 1024, queue_bytes: 16 << 20, queue_entries: 1 << 14 }
    }
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Ok,
    CasMismatch,
    /// Larger than the whole space.
    TooLarge,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedStats {
    pub vms: usize,
    pub queues: usize,
}

/// What one `vm_id` holds, and what its bounds have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmStats {
    pub data_entries: usize,
    pub data_bytes: usize,
    pub queue_entries: usize,
    pub queue_bytes: usize,
    /// Entries of shared data that were pushed out by a bound, and values that were refused.
    pub evicted: u64,
    /// Queue entries that were pushed out by a bound, and queues that were refused.
    pub queue_dropped: u64,
}

/// All of a process.
pub struct Shared {
    limits: SharedLimits,
    vms: Mutex<HashMap<String, Weak<Vm>>>,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    last: u32,
    by_id: HashMap<u32, Queue>,
    by_vm: HashMap<String, Space>,
}

/// The queues of one `vm_id`.
#[derive(Default)]
struct Space {
    ids: HashMap<Vec<u8>, u32>,
    entries: usize,
    bytes: usize,
    max_bytes: usize,
    dropped: u64,
}

struct Queue {
    vm_id: String,
    entries: VecDeque<Vec<u8>>,
    waker: QueueWaker,
}

/// The space of one `vm_id`.
pub struct Vm {
    id: String,
    shared: Arc<Shared>,
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    max_bytes: usize,
    evicted: u64,
    entries: HashMap<Arc<[u8]>, Entry>,
    /// By the time of the last write, for eviction.
    order: BTreeMap<u64, Arc<[u8]>>,
    clock: u64,
    bytes: usize,
}

struct Entry {
    value: Vec<u8>,
    cas: u32,
    written: u64,
}

/// A panic elsewhere leaves these maps whole: every change is made under the lock without anything that can panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(limits: SharedLimits) -> Arc<Shared> {
        Arc::new(Shared { limits, vms: Mutex::default(), queues: Mutex::default() })
    }

    /// The space of a `vm_id`, made when nobody holds it yet.
    pub fn vm(self: &Arc<Self>, id: &str) -> Arc<Vm> {
        let mut vms = lock(&self.vms);
        if let Some(vm) = vms.get(id).and_then(Weak::upgrade) {
            return vm;
        }
        let data = Data { max_bytes: self.limits.data_bytes, ..Data::default() };
        let vm = Arc::new(Vm { id: id.to_owned(), shared: self.clone(), data: Mutex::new(data) });
        lock(&self.queues).by_vm.entry(id.to_owned()).or_default().max_bytes = self.limits.queue_bytes;
        vms.insert(id.to_owned(), Arc::downgrade(&vm));
        vm
    }

    pub fn stats(&self) -> SharedStats {
        SharedStats { vms: lock(&self.vms).len(), queues: lock(&self.queues).by_id.len() }
    }

    pub(crate) fn resolve_queue(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        lock(&self.queues).find(vm_id, name)
    }

    /// False for an unknown queue. Wakes the queue's last registrant.
    pub(crate) fn enqueue(&self, id: u32, entry: &[u8]) -> bool {
        let waker = {
            let mut queues = lock(&self.queues);
            let Queues { by_id, by_vm, .. } = &mut *queues;
            let Some(queue) = by_id.get_mut(&id) else { return false };
            let Some(space) = by_vm.get_mut(&queue.vm_id) else { return false };
            space.bytes += entry.len();
            space.entries += 1;
            queue.entries.push_back(entry.to_vec());
            while space.entries > self.limits.queue_entries || space.bytes > space.max_bytes {
                let Some(oldest) = queue.entries.pop_front() else { break };
                space.bytes -= oldest.len();
                space.entries -= 1;
                space.dropped += 1;
            }
            queue.waker.clone()
        };
        waker(id);
        true
    }

    /// `None`: no such queue; `Some(None)`: empty.
    pub(crate) fn dequeue(&self, id: u32) -> Option<Option<Vec<u8>>> {
        let mut queues = lock(&self.queues);
        let Queues { by_id, by_vm, .. } = &mut *queues;
        let queue = by_id.get_mut(&id)?;
        let entry = queue.entries.pop_front();
        if let (Some(entry), Some(space)) = (&entry, by_vm.get_mut(&queue.vm_id)) {
            space.bytes -= entry.len();
            space.entries -= 1;
        }
        Some(entry)
    }
}

impl Queues {
    fn find(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.by_vm.get(vm_id)?.ids.get(name).copied()
    }
}

impl Vm {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Appends the value to `out`; its CAS number, never 0.
    pub fn get(&self, key: &[u8], out: &mut Vec<u8>) -> Option<u32> {
        let data = lock(&self.data);
        let entry = data.entries.get(key)?;
        out.extend_from_slice(&entry.value);
        Some(entry.cas)
    }

    /// `cas` 0 writes in any case; a key that does not exist ignores it.
    pub fn set(&self, key: &[u8], value: &[u8], cas: u32) -> Stored {
        let mut guard = lock(&self.data);
        let data = &mut *guard;
        if key.len().saturating_add(value.len()) > data.max_bytes {
            data.evicted += 1;
            return Stored::TooLarge;
        }
        data.clock += 1;
        let now = data.clock;
        let name = match data.entries.get_mut(key) {
            Some(entry) if cas != 0 && cas != entry.cas => return Stored::CasMismatch,
            Some(entry) => {
                data.bytes = data.bytes - entry.value.len() + value.len();
                entry.value.clear();
                entry.value.extend_from_slice(value);
                entry.cas = entry.cas.checked_add(1).unwrap_or(1);
                let before = std::mem::replace(&mut entry.written, now);
                data.order.remove(&before).unwrap_or_else(|| key.into())
            }
            None => {
                let name: Arc<[u8]> = key.into();
                data.bytes += key.len() + value.len();
                data.entries.insert(name.clone(), Entry { value: value.to_vec(), cas: 1, written: now });
                name
            }
        };
        data.order.insert(now, name);
        while data.bytes > data.max_bytes || data.entries.len() > self.shared.limits.data_entries {
            let Some((_, oldest)) = data.order.pop_first() else { break };
            if let Some(entry) = data.entries.remove(&oldest) {
                data.bytes -= oldest.len() + entry.value.len();
                data.evicted += 1;
            }
        }
        Stored::Ok
    }

    /// Bounds of its own, in place of the process': bytes of shared data, and of all its queues. What is held stays until the next write.
    pub fn limit(&self, data_bytes: usize, queue_bytes: usize) {
        lock(&self.data).max_bytes = data_bytes;
        if let Some(space) = lock(&self.shared.queues).by_vm.get_mut(&self.id) {
            space.max_bytes = queue_bytes;
        }
    }

    pub fn stats(&self) -> VmStats {
        let queues = lock(&self.shared.queues);
        let (queue_entries, queue_bytes, queue_dropped) =
            queues.by_vm.get(&self.id).map_or((0, 0, 0), |space| (space.entries, space.bytes, space.dropped));
        drop(queues);
        let data = lock(&self.data);
        let (data_entries, data_bytes) = (data.entries.len(), data.bytes);
        VmStats { data_entries, data_bytes, queue_entries, queue_bytes, evicted: data.evicted, queue_dropped }
    }

    /// The id of that queue; the caller is woken from now on. `None` when there are too many.
    pub(crate) fn register_queue(&self, name: &[u8], waker: QueueWaker) -> Option<u32> {
        let mut queues = lock(&self.shared.queues);
        if let Some(id) = queues.find(&self.id, name) {
            if let Some(queue) = queues.by_id.get_mut(&id) {
                queue.waker = waker;
            }
            return Some(id);
        }
        let next = queues.last + 1;
        let space = queues.by_vm.get_mut(&self.id)?;
        if space.ids.len() >= self.shared.limits.queues || name.len() > QUEUE_NAME {
            space.dropped += 1;
            return None;
        }
        space.ids.insert(name.to_vec(), next);
        queues.last = next;
        queues.by_id.insert(next, Queue { vm_id: self.id.clone(), entries: VecDeque::new(), waker });
        Some(next)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let mut vms = lock(&self.shared.vms);
        // Somebody may have made a new one of this id since the last holder let go.
        if vms.get(&self.id).is_some_and(|vm| vm.strong_count() == 0) {
            vms.remove(&self.id);
            let mut queues = lock(&self.shared.queues);
            queues.by_vm.remove(&self.id);
            queues.by_id.retain(|_, q| q.vm_id != self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shared() -> Arc<Shared> {
        Shared::new(SharedLimits { data_bytes: 32, data_entries: 3, queues: 2, queue_bytes: 8, queue_entries: 3 })
    }

    #[test]
    fn data_is_bounded_by_entries_and_bytes_and_the_oldest_write_goes() {
        let shared = shared();
        let vm = shared.vm("a");
        let get = |key: &[u8]| vm.get(key, &mut Vec::new());
        for key in [b"1", b"2", b"3"] {
            assert_eq!(vm.set(key, b"v", 0), Stored::Ok);
        }
        assert_eq!(vm.set(b"1", b"w", 0), Stored::Ok);
        assert_eq!(vm.set(b"4", b"v", 0), Stored::Ok);
        assert_eq!((get(b"1"), get(b"2"), get(b"3"), get(b"4")), (Some(2), None, Some(1), Some(1)));
        assert_eq!(vm.set(b"5", &[0; 30], 0), Stored::Ok);
        assert_eq!((vm.stats().data_entries, vm.stats().data_bytes), (1, 31));
        assert_eq!(vm.set(b"6", &[0; 32], 0), Stored::TooLarge);
        assert_eq!(vm.stats().evicted, 5);
        vm.limit(64, 8);
        assert_eq!(vm.set(b"6", &[0; 32], 0), Stored::Ok);
        assert_eq!((vm.stats().data_entries, vm.stats().data_bytes), (2, 64));
    }

    #[test]
    fn data_ends_with_the_last_holder() {
        let shared = shared();
        let (first, second) = (shared.vm("a"), shared.vm("a"));
        first.set(b"k", b"v", 0);
        let queue = first.register_queue(b"q", Arc::new(|_| ())).unwrap();
        drop(first);
        assert_eq!(second.get(b"k", &mut Vec::new()), Some(1));
        assert!(shared.enqueue(queue, b"x"));
        drop(second);
        assert_eq!(shared.vm("a").get(b"k", &mut Vec::new()), None);
        assert!(!shared.enqueue(queue, b"x"));
        assert_eq!((shared.stats().vms, shared.stats().queues), (0, 0));
    }

    #[test]
    fn queues_are_bounded() {
        let shared = shared();
        let vm = shared.vm("a");
        let queue = vm.register_queue(b"q", Arc::new(|_| ())).unwrap();
        assert_eq!(vm.register_queue(b"q", Arc::new(|_| ())), Some(queue));
        assert!(vm.register_queue(b"r", Arc::new(|_| ())).is_some());
        assert_eq!(vm.register_queue(b"s", Arc::new(|_| ())), None);
        for entry in [&b"1"[..], b"2", b"3", b"4", b"567890"] {
            assert!(shared.enqueue(queue, entry));
        }
        let mut left = Vec::new();
        while let Some(Some(entry)) = shared.dequeue(queue) {
            left.push(entry);
        }
        assert_eq!(left, [&b"3"[..], b"4", b"567890"]);
        assert_eq!(vm.stats().queue_dropped, 3, "two entries and a queue");
        assert_eq!(shared.dequeue(99), None);
        // The bounds are those of all queues together, and no name is long.
        let other = vm.register_queue(b"r", Arc::new(|_| ())).unwrap();
        for queue in [queue, other, queue, other] {
            assert!(shared.enqueue(queue, b"12345678"));
        }
        assert_eq!((vm.stats().queue_entries, vm.stats().queue_bytes), (1, 8));
        assert_eq!(shared.vm("b").register_queue(&[0; QUEUE_NAME + 1], Arc::new(|_| ())), None);
    }

    #[test]
    fn compare_and_set_loses_no_update() {
        let shared = Shared::new(SharedLimits::default());
        let vm = shared.vm("a");
        vm.set(b"n", &0u64.to_le_bytes(), 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        loop {
                            let mut value = Vec::new();
                            let cas = vm.get(b"n", &mut value).unwrap();
                            let next = u64::from_le_bytes(value.try_into().unwrap()) + 1;
                            if vm.set(b"n", &next.to_le_bytes(), cas) == Stored::Ok {
                                break;
                            }
                        }
                    }
                });
            }
        });
        let mut value = Vec::new();
        vm.get(b"n", &mut value);
        assert_eq!(value, 2000u64.to_le_bytes());
    }
}
