//! Which server of a Redis Cluster holds which slot.
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

pub(super) const SLOTS: u16 = 16384;

/// The map of a Cluster, and what `MOVED` has said since it was read.
#[derive(Debug, Default)]
pub(super) struct Slots {
    ranges: Vec<Range>,
    moved: HashMap<u16, Rc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
    /// `host:port` of the master; the host may be empty: that of the server that was asked.
    pub master: Rc<str>,
}

impl Slots {
    pub fn new(mut ranges: Vec<Range>) -> Slots {
        ranges.sort_by_key(|r| r.first);
        Slots { ranges, moved: HashMap::new() }
    }

    pub fn master(&self, slot: u16) -> Option<&Rc<str>> {
        self.moved.get(&slot).or_else(|| {
            let after = self.ranges.partition_point(|r| r.first <= slot);
            self.ranges.get(after.checked_sub(1)?).filter(|r| r.last >= slot).map(|r| &r.master)
        })
    }

    pub fn moved(&mut self, slot: u16, to: Rc<str>) {
        self.moved.insert(slot, to);
    }

    pub fn forget(&mut self, slot: u16) {
        self.moved.remove(&slot);
    }

    pub fn masters(&self) -> HashSet<&Rc<str>> {
        self.ranges.iter().map(|r| &r.master).chain(self.moved.values()).collect()
    }
}

/// Reads the reply to `CLUSTER SLOTS`; `None` for anything else.
pub(super) fn parse(reply: &[u8]) -> Option<Vec<Range>> {
    let (mut reader, mut ranges) = (Reader(reply), Vec::new());
    let mut known: HashSet<Rc<str>> = HashSet::new();
    for _ in 0..reader.array()? {
        let parts = reader.array()?.checked_sub(2)?;
        let (first, last) = (reader.slot()?, reader.slot()?);
        let mut master = None;
        for server in 0..parts {
            let fields = reader.array()?.checked_sub(2)?;
            let (host, port) = (reader.text()?, reader.number()?);
            if server == 0 {
                let host = std::str::from_utf8(host).ok()?;
                let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                let shared = known.get(address.as_str()).cloned().unwrap_or_else(|| address.into());
                known.insert(shared.clone());
                master = Some(shared);
            }
            for _ in 0..fields {
                reader.skip(0)?;
            }
        }
        if first > last {
            return None;
        }
        ranges.push(Range { first, last, master: master? });
    }
    reader.0.is_empty().then_some(ranges)
}

/// A reply of RESP 2, from its front.
pub(super) struct Reader<'a>(pub &'a [u8]);

/// Arrays within arrays that are skipped.
const MAX_DEPTH: usize = 8;

impl<'a> Reader<'a> {
    fn line(&mut self, kind: u8) -> Option<&'a str> {
        let rest = self.0.strip_prefix(&[kind])?;
        let end = memchr::memchr(b'\n', rest)?;
        self.0 = &rest[end + 1..];
        std::str::from_utf8(rest[..end].strip_suffix(b"\r")?).ok()
    }

    /// How many items follow.
    pub fn array(&mut self) -> Option<usize> {
        self.line(b'*')?.parse().ok()
    }

    fn number(&mut self) -> Option<u16> {
        self.line(b':')?.parse().ok()
    }

    fn slot(&mut self) -> Option<u16> {
        self.number().filter(|slot| *slot < SLOTS)
    }

    /// A nil is an empty text.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        let len = self.line(b'$')?;
        if len == "-1" {
            return Some(b"");
        }
        let len: usize = len.parse().ok()?;
        let text = self.0.get(..len)?;
        self.0 = self.0.get(len..)?.strip_prefix(b"\r\n")?;
        Some(text)
    }

    fn skip(&mut self, depth: usize) -> Option<()> {
        match self.0.first()? {
            b'$' => self.text().map(drop),
            b'*' if depth < MAX_DEPTH => {
                for _ in 0..self.array()? {
                    self.skip(depth + 1)?;
                }
                Some(())
            }
            kind @ (b':' | b'+') => self.line(*kind).map(drop),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const REPLY: &str = "*3\r\n\
        *4\r\n:5461\r\n:10922\r\n*4\r\n$9\r\n127.0.0.1\r\n:7001\r\n$2\r\nid\r\n*2\r\n$8\r\nhostname\r\n$1\r\nh\r\n*3\r\n$1\r\nr\r\n:1\r\n$1\r\nx\r\n\
        *3\r\n:0\r\n:5460\r\n*3\r\n$0\r\n\r\n:7000\r\n$2\r\nid\r\n\
        *3\r\n:10923\r\n:16383\r\n*4\r\n$3\r\n::1\r\n:7002\r\n$2\r\nid\r\n*0\r\n";

    #[test]
    fn a_map_is_read_and_asked() {
        let mut slots = Slots::new(parse(REPLY.as_bytes()).unwrap());
        for (slot, master) in [(0, ":7000"), (5460, ":7000"), (5461, "127.0.0.1:7001"), (10922, "127.0.0.1:7001"), (16383, "[::1]:7002")] {
            assert_eq!(slots.master(slot).map(|m| &**m), Some(master), "{slot}");
        }
        slots.moved(0, "other:1".into());
        assert_eq!((slots.master(0).map(|m| &**m), slots.master(1).map(|m| &**m)), (Some("other:1"), Some(":7000")));
        assert_eq!(slots.masters().len(), 4);
        slots.forget(0);
        assert_eq!(slots.master(0).map(|m| &**m), Some(":7000"));
        let holes = Slots::new(vec![Range { first: 10, last: 20, master: "a:1".into() }]);
        assert!(holes.master(9).is_none() && holes.master(21).is_none() && holes.master(15).is_some());
        assert!(Slots::default().master(0).is_none());
    }

    #[test]
    fn no_other_reply_is_a_map() {
        for bad in [
            "",
            "-ERR This instance has cluster support disabled\r\n",
            "+OK\r\n",
            "*1\r\n*1\r\n:0\r\n",
            "*1\r\n*2\r\n:0\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:5\r\n:1\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\na\r\n:70000\r\n",
            "*99999999999\r\n",
            "*0\r\n+more\r\n",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
        let whole = REPLY.as_bytes();
        assert!((0..whole.len()).all(|end| parse(&whole[..end]).is_none()), "a part is no map");
        assert_eq!(parse(b"*0\r\n"), Some(Vec::new()));
    }
}
