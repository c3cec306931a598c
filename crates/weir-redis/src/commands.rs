//! The commands: their names, what they take, and how one is run.
mod connection;
mod hashes;
mod keys;
mod lists;
mod sets;
mod sorted_set_ranges;
mod sorted_sets;
mod strings;

use crate::{
    number,
    reply::{Answer, Refusal},
    store::{Database, Store},
};
use bytes::Bytes;
use std::{collections::HashMap, sync::OnceLock};

/// What a connection has chosen.
#[derive(Clone, Debug, Default)]
pub struct Session {
    pub database: usize,
    pub authenticated: bool,
}

/// It may need memory: refused at the limit.
pub const GROWS: u8 = 1;
/// Not from scripts.
pub const NO_SCRIPT: u8 = 2;
/// It changes something: not from read-only scripts.
pub const WRITES: u8 = 4;

#[derive(Clone, Copy)]
pub struct Command {
    pub name: &'static str,
    /// Words, the name among them; negative: at least so many.
    arity: i32,
    pub flags: u8,
    pub run: Run,
}

#[derive(Clone, Copy)]
pub enum Run {
    Plain(fn(&mut Call<'_>) -> Answer),
    Script(Scripting),
    Auth,
}

/// Those that the Lua engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripting {
    Eval { read_only: bool },
    EvalSha { read_only: bool },
    Script,
}

pub const fn command(name: &'static str, arity: i32, flags: u8, run: fn(&mut Call<'_>) -> Answer) -> Command {
    Command { name, arity, flags, run: Run::Plain(run) }
}

const fn script(name: &'static str, arity: i32, run: Scripting) -> Command {
    Command { name, arity, flags: NO_SCRIPT, run: Run::Script(run) }
}

/// Those that need more than the databases.
const OF_THE_ENGINE: &[Command] = &[
    script("eval", -3, Scripting::Eval { read_only: false }),
    script("eval_ro", -3, Scripting::Eval { read_only: true }),
    script("evalsha", -3, Scripting::EvalSha { read_only: false }),
    script("evalsha_ro", -3, Scripting::EvalSha { read_only: true }),
    script("script", -2, Scripting::Script),
    Command { name: "auth", arity: -2, flags: NO_SCRIPT, run: Run::Auth },
];

/// The command of this name, in any case.
pub fn find(name: &[u8]) -> Option<Command> {
    static ALL: OnceLock<HashMap<&'static str, Command>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let lists = [
            connection::COMMANDS,
            keys::COMMANDS,
            strings::COMMANDS,
            hashes::COMMANDS,
            lists::COMMANDS,
            sets::COMMANDS,
            sorted_sets::COMMANDS,
            sorted_set_ranges::COMMANDS,
            OF_THE_ENGINE,
        ];
        lists.into_iter().flatten().map(|c| (c.name, *c)).collect()
    });
    all.get(std::str::from_utf8(name).ok()?.to_ascii_lowercase().as_str()).copied()
}

impl Command {
    pub fn takes(&self, words: usize) -> bool {
        let least = usize::try_from(self.arity.unsigned_abs()).unwrap_or(usize::MAX);
        if self.arity < 0 { words >= least } else { words == least }
    }
}

/// A command under way.
pub struct Call<'a> {
    pub db: Database<'a>,
    pub session: &'a mut Session,
    /// The name first.
    pub args: &'a [Bytes],
    pub name: &'static str,
}

/// Runs a plain command, whose number of words fits.
pub fn run(plain: fn(&mut Call<'_>) -> Answer, name: &'static str, store: &mut Store, session: &mut Session, args: &[Bytes]) -> Answer {
    let db = store.database(session.database);
    plain(&mut Call { db, session, args, name })
}

impl Call<'_> {
    pub fn key(&self) -> &Bytes {
        &self.args[1]
    }

    pub fn int(&self, at: usize) -> Result<i64, Refusal> {
        number::integer(&self.args[at]).ok_or(Refusal::NotInteger)
    }

    /// Whether the argument is this word, in any case.
    pub fn is(&self, at: usize, word: &str) -> bool {
        self.args.get(at).is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    }

    pub fn arity(&self) -> Refusal {
        Refusal::Arity(self.name.into())
    }
}

/// From and to of a range, which may count from the end: a half-open range within `len`.
pub fn range(from: i64, to: i64, len: usize) -> std::ops::Range<usize> {
    let whole = i64::try_from(len).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at.saturating_add(whole).max(0) } else { at };
    let from = place(from);
    let to = if to < 0 { to.saturating_add(whole) } else { to.min(whole - 1) };
    if from > to || from >= whole {
        return 0..0;
    }
    usize::try_from(from).unwrap_or(0)..usize::try_from(to + 1).unwrap_or(0)
}

/// A random number.
pub fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}

/// `cursor [MATCH pattern] [COUNT n] [TYPE t]`, from this argument on.
pub struct Scan {
    pub cursor: u64,
    pub count: usize,
    pattern: Option<Bytes>,
    pub kind: Option<String>,
}

impl Scan {
    pub fn read(call: &Call<'_>, at: usize, with_type: bool) -> Result<Scan, Refusal> {
        let cursor = std::str::from_utf8(&call.args[at]).ok().and_then(|t| t.parse().ok());
        let cursor = cursor.ok_or(Refusal::say("ERR invalid cursor"))?;
        let mut scan = Scan { cursor, count: 10, pattern: None, kind: None };
        let mut at = at + 1;
        while at < call.args.len() {
            let value = call.args.get(at + 1).ok_or(Refusal::Syntax)?;
            if call.is(at, "count") {
                scan.count = match call.int(at + 1)? {
                    n if n < 1 => return Err(Refusal::Syntax),
                    n => usize::try_from(n).unwrap_or(usize::MAX),
                };
            } else if call.is(at, "match") {
                scan.pattern = Some(value.clone());
            } else if with_type && call.is(at, "type") {
                scan.kind = Some(String::from_utf8_lossy(value).to_ascii_lowercase());
            } else {
                return Err(Refusal::Syntax);
            }
            at += 2;
        }
        Ok(scan)
    }

    pub fn takes(&self, name: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|p| crate::glob::matches(p, name))
    }

    pub fn reply(next: u64, items: Vec<crate::reply::Reply>) -> crate::reply::Reply {
        use crate::reply::Reply;
        Reply::Array(vec![Reply::text(next.to_string()), Reply::Array(items)])
    }
}
