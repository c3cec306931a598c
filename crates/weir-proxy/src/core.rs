//! What everything on a worker stands on: its clock, timers, buffers and random numbers.
use std::{
    cell::{Cell, RefCell},
    hash::{BuildHasher, RandomState},
    rc::Rc,
    time::{Duration, Instant, SystemTime},
};
use weir_net::{http::buf::BufPool, timer::Timers};

/// Read buffers: large enough that a busy body needs few system calls.
const BUFFER_BYTES: usize = 64 * 1024;
/// Free buffers that a worker keeps.
const KEEP: usize = 256;

/// Where the two digits of each byte stand in a UUID's text.
const UUID_BYTES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

pub struct Core {
    /// The number of the worker.
    pub index: usize,
    pub bufs: BufPool,
    pub timers: Rc<Timers>,
    /// The start of `now`. All workers share it: outlier detection and rate limits compare their times.
    epoch: Instant,
    /// Nanoseconds from 1970 to the epoch; corrected once a second, since the system's clock may be set.
    wall: Cell<u64>,
    moment: Cell<u64>,
    random: RefCell<Random>,
}

impl Core {
    pub fn new(index: usize, epoch: Instant) -> Core {
        Core {
            index,
            bufs: BufPool::new(BUFFER_BYTES, KEEP),
            timers: Rc::default(),
            epoch,
            wall: Cell::new(wall_of_epoch(SystemTime::now(), epoch.elapsed())),
            moment: Cell::new(epoch.elapsed().as_nanos() as u64),
            random: RefCell::new(Random::new(RandomState::new().hash_one(index))),
        }
    }
    /// Nanoseconds since the epoch.
    pub fn now(&self) -> u64 {
        let now = self.epoch.elapsed().as_nanos() as u64;
        self.moment.set(now);
        now
    }
    /// The last value of [`Core::now`], at most one tick old. Reading the clock costs as much as finding a route.
    pub fn moment(&self) -> u64 {
        self.moment.get()
    }
    /// Nanoseconds since 1970 for a value of `now`.
    pub fn wall(&self, now: u64) -> u64 {
        self.wall.get() + now
    }
    /// Follows the system's clock.
    pub fn correct_wall(&self) {
        self.wall.set(wall_of_epoch(SystemTime::now(), self.epoch.elapsed()));
    }
    /// Unique enough for ids and choices; not secret.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next()
    }
    /// A random UUID as text.
    pub fn uuid(&self) -> [u8; 36] {
        let bits = (u128::from(self.random()) << 64 | u128::from(self.random())) & !(0xf << 76) & !(3 << 62) | 4 << 76 | 2 << 62;
        let mut out = [b'-'; 36];
        for (b, at) in bits.to_be_bytes().into_iter().zip(UUID_BYTES) {
            out[at] = b"0123456789abcdef"[usize::from(b >> 4)];
            out[at + 1] = b"0123456789abcdef"[usize::from(b & 15)];
        }
        out
    }
}

/// The wall clock's time `elapsed` before `wall`, in nanoseconds since 1970.
fn wall_of_epoch(wall: SystemTime, elapsed: Duration) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.saturating_sub(elapsed).as_nanos() as u64
}

/// Spreads a number over all 64 bits (the finalizer of splitmix64).
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A small fast generator (splitmix64) for choices that no one gains by guessing.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}
