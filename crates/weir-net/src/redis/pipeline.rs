//! One connection without its socket: what is to be written, whose reply comes next, who has waited too long.
use super::{
    Options, ProtocolError,
    resp::{Framer, command},
};
use bytes::{Bytes, BytesMut};
use std::{collections::VecDeque, time::Instant};

/// `T` stands for who waits for a reply.
pub(super) struct Pipeline<T> {
    stage: Stage,
    /// Verdicts still awaited, in order.
    steps: VecDeque<Step>,
    /// Not written before the handshake is over.
    waiting: VecDeque<(Bytes, Pending<T>)>,
    waiting_bytes: usize,
    sent: VecDeque<Pending<T>>,
    /// Bytes to write.
    pub out: BytesMut,
    /// Bytes read.
    pub inbox: BytesMut,
    framer: Framer,
    pub verdicts: Verdicts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No connection, or its handshake is under way.
    Closed,
    Ready,
    /// `SELECT` was refused: nothing may run on the wrong database.
    Refusing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Auth,
    Select,
}

struct Pending<T> {
    who: T,
    deadline: Instant,
    /// Replies before the one that is asked for (`ASKING`).
    skip: u8,
}

/// What the server refused of the handshake, in its words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdicts {
    pub auth: Option<String>,
    pub select: Option<String>,
}

impl<T> Pipeline<T> {
    pub fn new() -> Pipeline<T> {
        Pipeline {
            stage: Stage::Closed,
            steps: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent: VecDeque::new(),
            out: BytesMut::new(),
            inbox: BytesMut::new(),
            framer: Framer::default(),
            verdicts: Verdicts::default(),
        }
    }

    /// Whether one more command of this size may wait.
    pub fn has_room(&self, len: usize, options: &Options) -> bool {
        let bytes = self.out.len() + self.waiting_bytes;
        self.sent.len() + self.waiting.len() < options.max_pending && (bytes == 0 || bytes + len <= options.max_pending_bytes)
    }

    /// A command; with `asking` behind an `ASKING` whose reply is dropped. Deadlines must not go backwards.
    pub fn push(&mut self, query: &Bytes, asking: bool, deadline: Instant, who: T, answers: &mut Vec<(T, Bytes)>) {
        let pending = Pending { who, deadline, skip: u8::from(asking) };
        match self.stage {
            Stage::Closed => {
                self.waiting_bytes += query.len();
                self.waiting.push_back((query.clone(), pending));
            }
            Stage::Ready => self.send(query, pending),
            Stage::Refusing => answers.push((pending.who, self.refusal())),
        }
    }

    fn send(&mut self, query: &[u8], pending: Pending<T>) {
        if pending.skip > 0 {
            self.out.extend_from_slice(&command(&[b"ASKING"]));
        }
        self.out.extend_from_slice(query);
        self.sent.push_back(pending);
    }

    /// The socket is open: credentials and database go first.
    pub fn connected(&mut self, options: &Options, answers: &mut Vec<(T, Bytes)>) {
        for (step, query) in handshake(options) {
            self.out.extend_from_slice(&query);
            self.steps.push_back(step);
        }
        self.verdicts = Verdicts::default();
        self.ready_if_done(answers);
    }

    fn ready_if_done(&mut self, answers: &mut Vec<(T, Bytes)>) {
        if !self.steps.is_empty() {
            return;
        }
        self.stage = if self.verdicts.select.is_some() { Stage::Refusing } else { Stage::Ready };
        self.waiting_bytes = 0;
        while let Some((query, pending)) = self.waiting.pop_front() {
            match self.stage {
                Stage::Refusing => answers.push((pending.who, self.refusal())),
                _ => self.send(&query, pending),
            }
        }
    }

    fn refusal(&self) -> Bytes {
        Bytes::from(format!("-{}\r\n", self.verdicts.select.as_deref().unwrap_or("ERR the database was refused")))
    }

    /// Takes whole replies out of [`Pipeline::inbox`].
    pub fn receive(&mut self, options: &Options, answers: &mut Vec<(T, Bytes)>) -> Result<(), ProtocolError> {
        while let Some(frame) = self.framer.next(&self.inbox, &options.limits)? {
            let reply = self.inbox.split_to(frame.len).freeze();
            if frame.push {
                continue;
            }
            if let Some(step) = self.steps.pop_front() {
                self.verdict(step, &reply);
                self.ready_if_done(answers);
                continue;
            }
            let first = self.sent.front_mut().ok_or(ProtocolError::Unasked)?;
            if first.skip > 0 {
                first.skip -= 1;
            } else if let Some(pending) = self.sent.pop_front() {
                answers.push((pending.who, reply));
            }
        }
        Ok(())
    }

    fn verdict(&mut self, step: Step, reply: &[u8]) {
        let refused = error_text(reply);
        match step {
            Step::Auth => self.verdicts.auth = refused,
            Step::Select => self.verdicts.select = refused,
        }
    }

    /// When the oldest command has waited too long.
    pub fn deadline(&self) -> Option<Instant> {
        self.sent.front().or(self.waiting.front().map(|(_, p)| p)).map(|p| p.deadline)
    }

    /// Nobody waits for anything.
    pub fn is_idle(&self) -> bool {
        self.sent.is_empty() && self.waiting.is_empty()
    }

    /// The connection is gone: everybody who waited, in order. The pipeline is as new.
    pub fn close(&mut self) -> Vec<T> {
        let old = std::mem::replace(self, Pipeline { verdicts: self.verdicts.clone(), ..Pipeline::new() });
        old.sent.into_iter().chain(old.waiting.into_iter().map(|(_, p)| p)).map(|p| p.who).collect()
    }
}

/// The commands before all others.
fn handshake(options: &Options) -> Vec<(Step, Bytes)> {
    let mut out = Vec::new();
    if !options.password.is_empty() {
        let (user, password) = (options.user.as_bytes(), options.password.as_bytes());
        out.push((Step::Auth, if user.is_empty() { command(&[b"AUTH", password]) } else { command(&[b"AUTH", user, password]) }));
    }
    if options.database != 0 {
        out.push((Step::Select, command(&[b"SELECT", options.database.to_string().as_bytes()])));
    }
    out
}

/// The text of an error reply.
pub(super) fn error_text(reply: &[u8]) -> Option<String> {
    let text = reply.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(text).trim_end().to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Rig {
        p: Pipeline<u32>,
        options: Options,
        now: Instant,
    }

    impl Rig {
        fn new(password: &str, database: u32) -> Rig {
            let options = Options { password: password.into(), database, ..Options::default() };
            Rig { p: Pipeline::new(), options, now: Instant::now() }
        }
        fn push(&mut self, who: u32) -> Vec<(u32, Bytes)> {
            let mut out = Vec::new();
            self.p.push(&command(&[b"GET", b"k"]), false, self.now + self.options.timeout, who, &mut out);
            out
        }
        fn connected(&mut self) -> String {
            self.p.connected(&self.options, &mut Vec::new());
            self.written()
        }
        fn written(&mut self) -> String {
            String::from_utf8(self.p.out.split().to_vec()).unwrap().replace("\r\n", " ")
        }
        fn read(&mut self, text: &str) -> Vec<(u32, String)> {
            self.p.inbox.extend_from_slice(text.as_bytes());
            let mut out = Vec::new();
            self.p.receive(&self.options, &mut out).unwrap();
            out.into_iter().map(|(w, b)| (w, String::from_utf8(b.to_vec()).unwrap())).collect()
        }
    }

    const GET: &str = "*2 $3 GET $1 k ";

    #[test]
    fn replies_go_to_those_who_asked_in_order() {
        let mut r = Rig::new("", 0);
        r.push(1);
        assert_eq!(r.connected(), GET);
        r.push(2);
        assert_eq!(r.written(), GET);
        assert_eq!(r.read("+a\r\n+"), [(1, "+a\r\n".into())]);
        assert_eq!(r.read("b\r\n"), [(2, "+b\r\n".into())]);
        assert!(r.p.is_idle());
        r.p.inbox.extend_from_slice(b"+c\r\n");
        assert_eq!(r.p.receive(&r.options, &mut Vec::new()), Err(ProtocolError::Unasked));
    }

    #[test]
    fn the_handshake_is_not_mixed_with_replies() {
        let mut r = Rig::new("pw", 2);
        r.push(1);
        assert_eq!(r.connected(), "*2 $4 AUTH $2 pw *2 $6 SELECT $1 2 ");
        assert!(r.read("-WRONGPASS no\r\n").is_empty());
        assert_eq!(r.written(), "", "not before the database is known");
        assert!(r.read("+OK\r\n").is_empty());
        assert_eq!(r.written(), GET);
        assert_eq!(r.read("-NOAUTH x\r\n"), [(1, "-NOAUTH x\r\n".into())]);
        assert_eq!(r.p.verdicts, Verdicts { auth: Some("WRONGPASS no".into()), select: None });
    }

    #[test]
    fn nothing_runs_on_the_wrong_database() {
        let mut r = Rig::new("", 99);
        r.push(1);
        r.connected();
        assert_eq!(r.read("-ERR DB index is out of range\r\n"), [(1, "-ERR DB index is out of range\r\n".into())]);
        assert_eq!(r.push(2).len(), 1);
        assert_eq!(r.written(), "");
    }

    #[test]
    fn an_end_fails_all_in_order_and_starts_anew() {
        let mut r = Rig::new("pw", 0);
        r.push(1);
        r.connected();
        r.read("+OK\r\n");
        r.push(2);
        assert_eq!(r.p.deadline(), Some(r.now + r.options.timeout));
        assert_eq!(r.p.close(), [1, 2]);
        assert_eq!(r.p.deadline(), None);
        r.push(3);
        r.written();
        assert_eq!(r.connected(), "*2 $4 AUTH $2 pw ", "the handshake again, the command behind it");
        r.read("+OK\r\n");
        assert_eq!(r.written(), GET);
    }

    #[test]
    fn asking_drops_its_own_reply() {
        let mut r = Rig::new("", 0);
        r.connected();
        r.p.push(&command(&[b"GET", b"k"]), true, r.now, 1, &mut Vec::new());
        assert_eq!(r.written(), format!("*1 $6 ASKING {GET}"));
        assert_eq!(r.read("+OK\r\n+v\r\n"), [(1, "+v\r\n".into())]);
    }

    #[test]
    fn waiting_is_bounded() {
        let mut r = Rig::new("", 0);
        r.options.max_pending = 2;
        r.options.max_pending_bytes = 30;
        assert!(r.p.has_room(1 << 20, &r.options), "a lone large command goes");
        r.push(1);
        assert!(!r.p.has_room(20, &r.options));
        assert!(r.p.has_room(1, &r.options));
        r.push(2);
        assert!(!r.p.has_room(1, &r.options));
    }
}
