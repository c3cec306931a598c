//! Which encoding a client likes best (RFC 9110 section 12.5.3).

/// How a choice came about, for statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The encoding at this place of the list; the client named it.
    Named(usize),
    /// The same by `*`.
    Wildcard(usize),
    /// The client would rather have no compression.
    Identity,
    /// The client accepts none of the encodings.
    NotValid,
}

/// Chooses among `encodings`, the preferred one first. `header` is the value of `accept-encoding`.
pub fn choose(header: &[u8], encodings: &[&str]) -> Choice {
    let mut weights = vec![None; encodings.len()];
    let (mut identity, mut wildcard) = (None, None);
    for item in header.split(|c| *c == b',') {
        let mut parts = item.split(|c| *c == b';');
        let coding = parts.next().unwrap_or_default().trim_ascii();
        // A weight that is none says nothing of its coding, as in Envoy.
        let Some(weight) = weight(parts) else { continue };
        // The old name means the same.
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes()) || name == "gzip" && coding.eq_ignore_ascii_case(b"x-gzip");
        if let Some(at) = encodings.iter().position(|name| is(name)) {
            weights[at].get_or_insert(weight);
        } else if is("identity") {
            identity.get_or_insert(weight);
        } else if coding == b"*" {
            wildcard.get_or_insert(weight);
        }
    }
    let mut best: Option<(u16, Choice)> = None;
    for (at, weight) in weights.into_iter().enumerate() {
        let (weight, choice) = match (weight, wildcard) {
            (Some(weight), _) => (weight, Choice::Named(at)),
            (None, Some(weight)) => (weight, Choice::Wildcard(at)),
            (None, None) => continue,
        };
        if weight > best.map_or(0, |(most, _)| most) {
            best = Some((weight, choice));
        }
    }
    match (best, identity) {
        (Some((weight, choice)), identity) if weight >= identity.unwrap_or(0) => choice,
        (_, Some(1..)) => Choice::Identity,
        _ => Choice::NotValid,
    }
}

/// In thousandths; 1 where none is given. `None` for one that is malformed.
fn weight<'a>(parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    for parameter in parameters {
        let mut sides = parameter.splitn(2, |c| *c == b'=');
        if sides.next().unwrap_or_default().trim_ascii().eq_ignore_ascii_case(b"q") {
            return thousandths(sides.next()?.trim_ascii());
        }
    }
    Some(1000)
}

/// `0` to `1` with up to three digits behind the point.
fn thousandths(text: &[u8]) -> Option<u16> {
    let (whole, rest) = text.split_first()?;
    let digits = match rest.split_first() {
        None => &[],
        Some((b'.', digits)) => digits,
        Some(_) => return None,
    };
    if digits.len() > 3 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let part = (0..3).fold(0, |sum, i| sum * 10 + digits.get(i).map_or(0, |d| u16::from(d - b'0')));
    match (whole, part) {
        (b'0', part) => Some(part),
        (b'1', 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_encoding_is_chosen() {
        use Choice::*;
        // br, zstd, gzip
        let table = [
            ("gzip", Named(2)),
            ("x-gzip", Named(2)),
            ("GZip;Q=1", Named(2)),
            ("gzip, deflate, br, zstd", Named(0)),
            ("gzip, deflate", Named(2)),
            ("br;q=0.5, gzip;q=0.8", Named(2)),
            ("br;q=0.001", Named(0)),
            ("br;q=0, gzip", Named(2)),
            ("*", Wildcard(0)),
            ("*;q=0.5, gzip", Named(2)),
            ("gzip;q=0.5, *", Wildcard(0)),
            ("br;q=0, *", Wildcard(1)),
            ("gzip;q=0, br;q=0, zstd;q=0, *", NotValid),
            ("identity", Identity),
            ("identity, gzip;q=0.5", Identity),
            ("identity;q=0.5, gzip;q=0.5", Named(2)),
            ("identity;q=0, gzip", Named(2)),
            ("identity;q=0", NotValid),
            ("*;q=0", NotValid),
            ("*;q=0, identity", Identity),
            ("gzip;q=0", NotValid),
            ("deflate", NotValid),
            ("", NotValid),
            (",;,", NotValid),
            ("gzip;q=2, br;q=1.1, zstd;q=1.000", Named(1)),
            ("gzip;q=x", NotValid),
            ("gzip;q=0.0001", NotValid),
            ("gzip;q=", NotValid),
            ("gzip;q", NotValid),
            ("gzip;level=9", Named(2)),
            ("gzip ; q = 0.3", Named(2)),
            ("gzip;q=0, gzip;q=1", NotValid),
        ];
        for (header, choice) in table {
            assert_eq!(choose(header.as_bytes(), &["br", "zstd", "gzip"]), choice, "{header}");
        }
        assert_eq!(choose(b"br, gzip", &["gzip"]), Named(0));
        assert_eq!(choose(b"*", &[]), NotValid);
    }
}
