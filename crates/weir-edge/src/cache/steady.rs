//! The wall clock, without its jumps. What was removed by its age stays removed, also when a clock that was set wrong is set right again.
use std::time::{Duration, Instant, SystemTime};

/// Clocks are corrected by less all the time.
const JUMP: Duration = Duration::from_secs(3600);
/// A jump that lasts so long counts: the clock was wrong before it.
const LASTS: Duration = Duration::from_secs(24 * 3600);

pub struct Steady {
    wall: SystemTime,
    at: Instant,
    /// Since when the wall clock is where it should not be.
    jumped: Option<Instant>,
}

impl Steady {
    pub fn new(wall: SystemTime, at: Instant) -> Steady {
        Steady { wall, at, jumped: None }
    }

    /// The time by which something may be too old: the earlier one of what the wall clock says and of what it should say.
    pub fn now(&mut self, wall: SystemTime, at: Instant) -> SystemTime {
        let expected = self.wall + at.saturating_duration_since(self.at);
        let off = wall.duration_since(expected).unwrap_or_else(|before| before.duration());
        let lasts = off >= JUMP && at.saturating_duration_since(*self.jumped.get_or_insert(at)) >= LASTS;
        if off < JUMP || lasts {
            *self = Steady::new(wall, at);
        }
        if lasts { wall } else { wall.min(expected) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_once_they_last() {
        const YEARS: i64 = 2 * 365 * 24;
        let (start, at) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000), Instant::now());
        let hours = |n: u64| Duration::from_secs(n * 3600);
        // Hours since the start, how many of them the wall clock is off, and how many of them are taken to be gone.
        let table: [&[(u64, i64, i64)]; 4] = [
            &[(1, 0, 1), (100, 0, 100)],
            &[(1, YEARS, 1), (20, YEARS, 20), (24, 0, 24), (30, 0, 30)],
            &[(1, YEARS, 1), (24, YEARS, 24), (25, YEARS, YEARS + 25), (26, YEARS, YEARS + 26), (27, 0, 27)],
            &[(1, -YEARS, 1 - YEARS), (2, 0, 2), (3, -YEARS, 3 - YEARS), (27, -YEARS, 27 - YEARS), (28, -YEARS, 28 - YEARS)],
        ];
        for (row, steps) in table.into_iter().enumerate() {
            let mut steady = Steady::new(start, at);
            for (gone, off, wanted) in steps {
                let at_wall = |n: i64| if n < 0 { start - hours(n.unsigned_abs()) } else { start + hours(n.unsigned_abs()) };
                let found = steady.now(at_wall(i64::try_from(*gone).unwrap() + off), at + hours(*gone));
                assert_eq!(found, at_wall(*wanted), "row {row}, hour {gone}");
            }
        }
    }
}
