//! Shared data and queues: process-wide, keyed by `vm_id`, bounded.
//!
//! A [`Vm`] lives as long as somebody holds it: every instance does, and so does an owner that wants the data to outlive a restart.
use crate::host::QueueWaker;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Bounds of each `vm_id` and each queue. Beyond them the entry written longest ago goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedLimits {
    /// Keys and values of one `vm_id`.
    pub data_bytes: usize,
    pub data_entries: usize,
    /// Queues of one `vm_id`; one more is refused.
    pub queues: usize,
    pub queue_bytes: usize,
    pub queue_entries: usize,
}

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
    /// Entries of shared data that were pushed out by a bound.
    pub evicted: u64,
    /// Queue entries that were pushed out by a bound.
    pub queue_dropped: u64,
}

/// All of a process.
pub struct Shared {
    limits: SharedLimits,
    vms: Mutex<HashMap<String, Weak<Vm>>>,
    queues: Mutex<Queues>,
    evicted: AtomicU64,
    queue_dropped: AtomicU64,
}

#[derive(Default)]
struct Queues {
    last: u32,
    by_id: HashMap<u32, Queue>,
}

struct Queue {
    vm_id: String,
    name: Vec<u8>,
    entries: VecDeque<Vec<u8>>,
    bytes: usize,
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
        Arc::new(Shared {
            limits,
            vms: Mutex::default(),
            queues: Mutex::default(),
            evicted: AtomicU64::new(0),
            queue_dropped: AtomicU64::new(0),
        })
    }

    /// The space of a `vm_id`, made when nobody holds it yet.
    pub fn vm(self: &Arc<Self>, id: &str) -> Arc<Vm> {
        let mut vms = lock(&self.vms);
        if let Some(vm) = vms.get(id).and_then(Weak::upgrade) {
            return vm;
        }
        let vm = Arc::new(Vm { id: id.to_owned(), shared: self.clone(), data: Mutex::default() });
        vms.insert(id.to_owned(), Arc::downgrade(&vm));
        vm
    }

    pub fn stats(&self) -> SharedStats {
        SharedStats {
            vms: lock(&self.vms).len(),
            queues: lock(&self.queues).by_id.len(),
            evicted: self.evicted.load(Relaxed),
            queue_dropped: self.queue_dropped.load(Relaxed),
        }
    }

    pub(crate) fn resolve_queue(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        lock(&self.queues).find(vm_id, name)
    }

    /// False for an unknown queue. Wakes the queue's last registrant.
    pub(crate) fn enqueue(&self, id: u32, entry: &[u8]) -> bool {
        let waker = {
            let mut queues = lock(&self.queues);
            let Some(queue) = queues.by_id.get_mut(&id) else { return false };
            queue.bytes += entry.len();
            queue.entries.push_back(entry.to_vec());
            while queue.entries.len() > self.limits.queue_entries || queue.bytes > self.limits.queue_bytes {
                let Some(oldest) = queue.entries.pop_front() else { break };
                queue.bytes -= oldest.len();
                self.queue_dropped.fetch_add(1, Relaxed);
            }
            queue.waker.clone()
        };
        waker(id);
        true
    }

    /// `None`: no such queue; `Some(None)`: empty.
    pub(crate) fn dequeue(&self, id: u32) -> Option<Option<Vec<u8>>> {
        let mut queues = lock(&self.queues);
        let queue = queues.by_id.get_mut(&id)?;
        let entry = queue.entries.pop_front();
        queue.bytes -= entry.as_ref().map_or(0, Vec::len);
        Some(entry)
    }
}

impl Queues {
    fn find(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.by_id.iter().find(|(_, q)| q.vm_id == vm_id && q.name == name).map(|(id, _)| *id)
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
        let limits = &self.shared.limits;
        if key.len().saturating_add(value.len()) > limits.data_bytes {
            return Stored::TooLarge;
        }
        let mut guard = lock(&self.data);
        let data = &mut *guard;
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
        while data.bytes > limits.data_bytes || data.entries.len() > limits.data_entries {
            let Some((_, oldest)) = data.order.pop_first() else { break };
            if let Some(entry) = data.entries.remove(&oldest) {
                data.bytes -= oldest.len() + entry.value.len();
                self.shared.evicted.fetch_add(1, Relaxed);
            }
        }
        Stored::Ok
    }

    /// Entries and bytes of shared data.
    pub fn size(&self) -> (usize, usize) {
        let data = lock(&self.data);
        (data.entries.len(), data.bytes)
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
        if queues.by_id.values().filter(|q| q.vm_id == self.id).count() >= self.shared.limits.queues {
            return None;
        }
        queues.last += 1;
        let id = queues.last;
        let queue = Queue { vm_id: self.id.clone(), name: name.to_vec(), entries: VecDeque::new(), bytes: 0, waker };
        queues.by_id.insert(id, queue);
        Some(id)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let mut vms = lock(&self.shared.vms);
        // Somebody may have made a new one of this id since the last holder let go.
        if vms.get(&self.id).is_some_and(|vm| vm.strong_count() == 0) {
            vms.remove(&self.id);
            lock(&self.shared.queues).by_id.retain(|_, q| q.vm_id != self.id);
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
        assert_eq!(vm.size(), (1, 31));
        assert_eq!(vm.set(b"6", &[0; 32], 0), Stored::TooLarge);
        assert_eq!(shared.stats().evicted, 4);
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
        assert_eq!(shared.stats().queue_dropped, 2);
        assert_eq!(shared.dequeue(99), None);
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
