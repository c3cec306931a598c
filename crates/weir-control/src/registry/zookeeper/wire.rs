//! The packets of ZooKeeper's protocol, in its serialization (jute): big-endian numbers, texts and lists with their lengths.
use std::time::Duration;

const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;
const PING_XID: i32 = -2;
const NOTIFICATION_XID: i32 = -1;
const NO_NODE: i32 = -101;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("a packet of ZooKeeper ends early or is not valid")]
    Malformed,
    #[error("ZooKeeper refuses the session")]
    NoSession,
    #[error("ZooKeeper answers with the error {0}")]
    Failed(i32),
}

/// What is asked of a node; each sets a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ask {
    Children,
    Data,
    /// For a node that is not there: the watch says when it comes.
    Exists,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    Answer {
        xid: i32,
        answer: Answer,
    },
    /// Something happened to a node whose watch is gone with that.
    Event {
        kind: EventKind,
        path: String,
    },
    Ping,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    NoNode,
    /// The fields of the answer, to be read by what was asked.
    Body(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Created,
    Deleted,
    DataChanged,
    ChildrenChanged,
    /// Of the session.
    Other,
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as i32).to_be_bytes().to_vec();
    out.extend_from_slice(body);
    out
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as i32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Asks for a new session.
pub fn connect(session: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    // The version of the protocol, the last transaction seen, the timeout, no session yet, its password.
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&0i64.to_be_bytes());
    body.extend_from_slice(&(session.as_millis() as i32).to_be_bytes());
    body.extend_from_slice(&0i64.to_be_bytes());
    body.extend_from_slice(&16i32.to_be_bytes());
    body.extend_from_slice(&[0; 16]);
    framed(&body)
}

pub fn check_connected(packet: &[u8]) -> Result<(), WireError> {
    let mut read = Reader(packet);
    let (_version, timeout) = (read.int()?, read.int()?);
    if timeout > 0 { Ok(()) } else { Err(WireError::NoSession) }
}

pub fn ping() -> Vec<u8> {
    framed(&[PING_XID.to_be_bytes(), PING.to_be_bytes()].concat())
}

pub fn ask(xid: i32, ask: Ask, path: &str) -> Vec<u8> {
    let code = match ask {
        Ask::Children => GET_CHILDREN,
        Ask::Data => GET_DATA,
        Ask::Exists => EXISTS,
    };
    let mut body = [xid.to_be_bytes(), code.to_be_bytes()].concat();
    text(path, &mut body);
    body.push(1);
    framed(&body)
}

pub fn read(packet: &[u8]) -> Result<Packet, WireError> {
    let mut read = Reader(packet);
    let (xid, _zxid, error) = (read.int()?, read.long()?, read.int()?);
    match (xid, error) {
        (PING_XID, _) => Ok(Packet::Ping),
        (NOTIFICATION_XID, _) => {
            let (kind, _state) = (read.int()?, read.int()?);
            let kind = match kind {
                1 => EventKind::Created,
                2 => EventKind::Deleted,
                3 => EventKind::DataChanged,
                4 => EventKind::ChildrenChanged,
                _ => EventKind::Other,
            };
            Ok(Packet::Event { kind, path: read.text()? })
        }
        (_, 0) => Ok(Packet::Answer { xid, answer: Answer::Body(read.0.to_vec()) }),
        (_, NO_NODE) => Ok(Packet::Answer { xid, answer: Answer::NoNode }),
        (_, error) => Err(WireError::Failed(error)),
    }
}

pub fn children(body: &[u8]) -> Result<Vec<String>, WireError> {
    let mut read = Reader(body);
    let count = usize::try_from(read.int()?).unwrap_or(0);
    // Each has at least its length.
    if count > body.len() / 4 {
        return Err(WireError::Malformed);
    }
    (0..count).map(|_| read.text()).collect()
}

pub fn data(body: &[u8]) -> Result<Vec<u8>, WireError> {
    Reader(body).bytes().map(<[u8]>::to_vec)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }
    fn int(&mut self) -> Result<i32, WireError> {
        self.take(4)?.try_into().map(i32::from_be_bytes).map_err(|_| WireError::Malformed)
    }
    fn long(&mut self) -> Result<i64, WireError> {
        self.take(8)?.try_into().map(i64::from_be_bytes).map_err(|_| WireError::Malformed)
    }
    /// A length of -1 is nothing at all.
    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.int()?;
        self.take(usize::try_from(length.max(0)).unwrap_or(0))
    }
    fn text(&mut self) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn packets_are_read_and_broken_ones_refused() {
        let head = |xid: i32, error: i32| [&xid.to_be_bytes()[..], &7i64.to_be_bytes(), &error.to_be_bytes()].concat();
        let mut event = head(-1, 0);
        event.extend_from_slice(&4i32.to_be_bytes());
        event.extend_from_slice(&3i32.to_be_bytes());
        text("/a", &mut event);
        assert_eq!(read(&event), Ok(Packet::Event { kind: EventKind::ChildrenChanged, path: "/a".into() }));
        assert_eq!(read(&head(-2, 0)), Ok(Packet::Ping));
        assert_eq!(read(&head(5, -101)), Ok(Packet::Answer { xid: 5, answer: Answer::NoNode }));
        assert_eq!(read(&head(5, -112)), Err(WireError::Failed(-112)));
        for end in 0..event.len() {
            assert_eq!(read(&event[..end]), Err(WireError::Malformed), "{end}");
        }
        let mut list = 2i32.to_be_bytes().to_vec();
        text("x", &mut list);
        text("y", &mut list);
        assert_eq!(children(&list).unwrap(), ["x", "y"]);
        assert_eq!(children(&[0x7f, 0xff, 0xff, 0xff]), Err(WireError::Malformed), "a count that no packet can hold");
        assert_eq!(data(&(-1i32).to_be_bytes()).unwrap(), b"");
        assert_eq!(ask(1, Ask::Children, "/a"), [0, 0, 0, 15, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 2, b'/', b'a', 1]);
    }
}
