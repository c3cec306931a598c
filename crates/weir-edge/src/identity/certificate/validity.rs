//! How long a certificate is good, and when to ask for the next one.
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use weir_net::tls::Details;

/// Certificates are read again after so long at the latest: the clock may have been set.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What a certificate needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing for so long.
    Wait(Duration),
    /// It is good, and the next one should be asked for.
    Renew,
    /// It is of no use: there is none, or it has expired.
    Request,
}

/// What the certificate needs now. It is renewed at 75 to 85 % of its time: not at the same moment on all nodes that were made together.
/// A certificate of the future is left alone. The clock is slow, as on a node that starts without a battery for it, and the next one would
/// not be valid either, or be expired once the clock is set.
pub fn next(certificate: Option<&Details>, now: SystemTime) -> Next {
    let Some(details) = certificate else { return Next::Request };
    let (begin, end, now) = (details.not_before, details.not_after, seconds(now));
    if now >= end {
        return Next::Request;
    }
    if now < begin {
        return Next::Wait(LOOK_AGAIN);
    }
    let thousandths = 750 + i64::from(details.key_digest[0]) * 100 / 255;
    let renew = begin.saturating_add((end - begin) / 1000 * thousandths);
    match u64::try_from(renew - now) {
        Ok(left @ 1..) => Next::Wait(Duration::from_secs(left).min(LOOK_AGAIN)),
        _ => Next::Renew,
    }
}

/// Whether a certificate is valid at a time.
pub fn is_valid(details: &Details, now: SystemTime) -> bool {
    (details.not_before..details.not_after).contains(&seconds(now))
}

pub fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_at_about_four_fifths_of_its_time() {
        let with = |first: u8| Details {
            subject: String::new(),
            serial: String::new(),
            dns_names: Vec::new(),
            uris: Vec::new(),
            addresses: Vec::new(),
            not_before: 1_000_000,
            not_after: 2_000_000,
            key_digest: [first; 32],
        };
        let at = |n: i64| match u64::try_from(n) {
            Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
            Err(_) => UNIX_EPOCH - Duration::from_secs(n.unsigned_abs()),
        };
        let table = [
            (0, -1_000_000, Next::Wait(LOOK_AGAIN)),
            (0, 999_999, Next::Wait(LOOK_AGAIN)),
            (0, 1_000_000, Next::Wait(LOOK_AGAIN)),
            (0, 1_749_990, Next::Wait(Duration::from_secs(10))),
            (0, 1_750_000, Next::Renew),
            (128, 1_799_000, Next::Wait(LOOK_AGAIN)),
            (128, 1_801_000, Next::Renew),
            (255, 1_849_999, Next::Wait(Duration::from_secs(1))),
            (255, 1_999_999, Next::Renew),
            (255, 2_000_000, Next::Request),
        ];
        for (first, now, wanted) in table {
            assert_eq!(next(Some(&with(first)), at(now)), wanted, "{first} {now}");
            assert_eq!(is_valid(&with(first), at(now)), (1_000_000..2_000_000).contains(&now), "{first} {now}");
        }
        assert_eq!(next(None, at(0)), Next::Request);
    }
}
