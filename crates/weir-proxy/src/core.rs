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
        let [a, b, c, d] = [96, 64, 32, 0].map(|shift| hex((bits >> shift) as u32));
        let mut out = [b'-'; 36];
        out[..8].copy_from_slice(&a);
        out[9..13].copy_from_slice(&b[..4]);
        out[14..18].copy_from_slice(&b[4..]);
        out[19..23].copy_from_slice(&c[..4]);
        out[24..28].copy_from_slice(&c[4..]);
        out[28..].copy_from_slice(&d);
        out
    }
}

/// The eight digits of a number, all at once: each gets a byte, and those above 9 are moved on to the letters.
fn hex(number: u32) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let halves = (u64::from(number) | u64::from(number) << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff;
    let digits = (bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = ((digits + ONES * 6) >> 4) & ONES;
    (digits + ONES * u64::from(b'0') + letters * u64::from(b'a' - b'0' - 10)).to_be_bytes()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_their_digits() {
        let mut random = Random::new(7);
        let some = std::iter::repeat_with(|| random.next() as u32).take(1000);
        for number in [0, 9, 10, 0x0a9f_f90a, 0x1234_5678, 0x9abc_def0, u32::MAX].into_iter().chain(some) {
            assert_eq!(hex(number), format!("{number:08x}").as_bytes());
        }
    }
}
