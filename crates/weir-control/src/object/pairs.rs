//! Labels, annotations and selectors. There are several on every object, so all pairs of one are kept in one text.
use std::{fmt::Debug, sync::LazyLock};
use weir_config::model::Common;

/// Names with their values, in the order in which they were given. The text has each name and value behind its length.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs(Box<str>);

/// A digit of a length that is followed by a higher one; all are below 128, so that the whole stays a text.
const MORE: u8 = 64;
const BITS: u32 = 6;

impl Pairs {
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || Some((take(&mut rest)?, take(&mut rest)?)))
    }
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn put(out: &mut String, text: &str) {
    let mut left = text.len();
    loop {
        let digit = (left as u8) & (MORE - 1);
        left >>= BITS;
        out.push(char::from(if left > 0 { digit | MORE } else { digit }));
        if left == 0 {
            break;
        }
    }
    out.push_str(text);
}

fn take<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let digits = rest.bytes().position(|b| b & MORE == 0)? + 1;
    let length = rest.bytes().take(digits).rev().fold(0, |length, digit| length << BITS | usize::from(digit & (MORE - 1)));
    let (text, after) = rest.get(digits..)?.split_at_checked(length)?;
    *rest = after;
    Some(text)
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Pairs {
        let mut text = String::new();
        for (name, value) in pairs {
            put(&mut text, name.as_ref());
            put(&mut text, value.as_ref());
        }
        Pairs(text.into())
    }
}

impl Common for Pairs {
    fn common() -> &'static Pairs {
        static EMPTY: LazyLock<Pairs> = LazyLock::new(Pairs::default);
        &EMPTY
    }
}

impl Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_as_they_were() {
        let long = "x".repeat(70_000);
        let tables: &[&[(&str, &str)]] = &[
            &[],
            &[("", "")],
            &[("app", "shop"), ("tier", "")],
            &[("é\0\n@", "ü"), ("\u{7f}", "@@")],
            &[(&long[..63], &long[..64]), (&long[..4095], &long[..4096]), ("last", &long)],
        ];
        for table in tables {
            let pairs: Pairs = table.iter().copied().collect();
            assert_eq!(pairs.iter().collect::<Vec<_>>(), *table);
            assert_eq!(pairs.is_empty(), table.is_empty());
            for (name, value) in *table {
                assert_eq!(pairs.get(name), Some(*value));
            }
            assert_eq!(pairs.get("none"), None);
        }
    }
}
