//! Keys and values, and the commands that plugins use most.
use super::Reply;
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

enum Stored {
    Text(String),
    Hash(BTreeMap<String, String>),
}

#[derive(Default)]
pub struct Store {
    keys: HashMap<String, (Stored, Option<Instant>)>,
}

const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl Store {
    pub fn new(data: &[(String, String)]) -> Store {
        Store { keys: data.iter().map(|(k, v)| (k.clone(), (Stored::Text(v.clone()), None))).collect() }
    }

    pub fn text(&mut self, key: &str) -> Option<String> {
        match self.get(key) {
            Some(Stored::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn get(&mut self, key: &str) -> Option<&mut Stored> {
        if self.keys.get(key).is_some_and(|(_, ends)| ends.is_some_and(|e| e <= Instant::now())) {
            self.keys.remove(key);
        }
        self.keys.get_mut(key).map(|(stored, _)| stored)
    }

    /// `word` is in capitals.
    pub fn run(&mut self, word: &str, args: &[String]) -> Reply {
        let arg = |i: usize| args.get(i).map(String::as_str);
        let number = |i: usize| arg(i).and_then(|a| a.parse::<i64>().ok());
        let reply = match (word, args.len()) {
            ("PING", 0) => Some(Reply::Status("PONG")),
            ("PING" | "ECHO", 1) => Some(Reply::Text(args[0].clone())),
            ("SELECT" | "CLIENT" | "HELLO", _) => Some(Reply::Status("OK")),
            ("FLUSHALL" | "FLUSHDB", _) => {
                self.keys.clear();
                Some(Reply::Status("OK"))
            }
            ("GET", 1) => Some(self.value(&args[0])),
            ("MGET", 1..) => Some(Reply::List(args.iter().map(|k| self.value(k)).collect())),
            ("SET", 2..) => Some(self.set(args)),
            ("SETEX", 3) => number(1).map(|s| self.put(&args[0], &args[2], Some(Duration::from_secs(s.unsigned_abs())))),
            ("SETNX", 2) => Some(match self.get(&args[0]) {
                Some(_) => Reply::Int(0),
                None => {
                    self.put(&args[0], &args[1], None);
                    Reply::Int(1)
                }
            }),
            ("MSET", n) if n > 0 && n % 2 == 0 => {
                args.chunks(2).for_each(|pair| drop(self.put(&pair[0], &pair[1], None)));
                Some(Reply::Status("OK"))
            }
            ("DEL" | "UNLINK", 1..) => {
                Some(Reply::Int(args.iter().filter(|k| self.get(k).is_some() && self.keys.remove(*k).is_some()).count() as i64))
            }
            ("EXISTS", 1..) => Some(Reply::Int(args.iter().filter(|k| self.get(k).is_some()).count() as i64)),
            ("INCR", 1) => Some(self.add(&args[0], 1)),
            ("DECR", 1) => Some(self.add(&args[0], -1)),
            ("INCRBY", 2) => number(1).map(|n| self.add(&args[0], n)),
            ("DECRBY", 2) => number(1).map(|n| self.add(&args[0], n.saturating_neg())),
            ("EXPIRE", 2) => number(1).map(|n| self.expire(&args[0], n, 1000)),
            ("PEXPIRE", 2) => number(1).map(|n| self.expire(&args[0], n, 1)),
            ("TTL", 1) => Some(self.left(&args[0], 1000)),
            ("PTTL", 1) => Some(self.left(&args[0], 1)),
            ("HGET", 2) => self.hash(&args[0], |h| h.get(&args[1]).map_or(Reply::Nil, |v| Reply::Text(v.clone()))),
            ("HGETALL", 1) => {
                self.hash(&args[0], |h| Reply::List(h.iter().flat_map(|(k, v)| [Reply::Text(k.clone()), Reply::Text(v.clone())]).collect()))
            }
            ("HDEL", 2..) => self.hash(&args[0], |h| Reply::Int(args[1..].iter().filter(|f| h.remove(*f).is_some()).count() as i64)),
            ("HEXISTS", 2) => self.hash(&args[0], |h| Reply::Int(i64::from(h.contains_key(&args[1])))),
            ("HSET", n) if n >= 3 && n % 2 == 1 => self.hash(&args[0], |h| {
                Reply::Int(args[1..].chunks(2).filter(|p| h.insert(p[0].clone(), p[1].clone()).is_none()).count() as i64)
            }),
            _ => None,
        };
        reply.unwrap_or_else(|| {
            let shown = [&[word.to_string()][..], args].concat().join(" ");
            Reply::Error(format!("ERR the stand-in does not know `{shown}`: give its answer under `replies`"))
        })
    }

    fn value(&mut self, key: &str) -> Reply {
        match self.get(key) {
            None => Reply::Nil,
            Some(Stored::Text(text)) => Reply::Text(text.clone()),
            Some(Stored::Hash(_)) => Reply::Error(WRONG_TYPE.into()),
        }
    }

    fn put(&mut self, key: &str, value: &str, lives: Option<Duration>) -> Reply {
        self.keys.insert(key.into(), (Stored::Text(value.into()), lives.map(|l| Instant::now() + l)));
        Reply::Status("OK")
    }

    fn set(&mut self, args: &[String]) -> Reply {
        let (mut lives, mut only, mut options) = (None, None, args[2..].iter());
        while let Some(option) = options.next() {
            let unit = match option.to_ascii_uppercase().as_str() {
                "EX" => 1000,
                "PX" => 1,
                "NX" => {
                    only = Some(false);
                    continue;
                }
                "XX" => {
                    only = Some(true);
                    continue;
                }
                _ => return Reply::Error("ERR syntax error".into()),
            };
            match options.next().and_then(|n| n.parse::<u64>().ok()) {
                Some(n) if n > 0 => lives = Some(Duration::from_millis(n * unit)),
                _ => return Reply::Error("ERR invalid expire time in 'set' command".into()),
            }
        }
        if only.is_some_and(|there| there != self.get(&args[0]).is_some()) {
            return Reply::Nil;
        }
        self.put(&args[0], &args[1], lives)
    }

    fn add(&mut self, key: &str, by: i64) -> Reply {
        let not_a_number = || Reply::Error("ERR value is not an integer or out of range".into());
        match self.get(key) {
            None => {
                self.put(key, &by.to_string(), None);
                Reply::Int(by)
            }
            Some(Stored::Text(text)) => match text.parse::<i64>().ok().and_then(|n| n.checked_add(by)) {
                Some(n) => {
                    *text = n.to_string();
                    Reply::Int(n)
                }
                None => not_a_number(),
            },
            Some(Stored::Hash(_)) => Reply::Error(WRONG_TYPE.into()),
        }
    }

    fn expire(&mut self, key: &str, count: i64, unit: u64) -> Reply {
        if self.get(key).is_none() {
            return Reply::Int(0);
        }
        let lives = Duration::from_millis(count.max(0).unsigned_abs() * unit);
        if let Some((_, ends)) = self.keys.get_mut(key) {
            *ends = Some(Instant::now() + lives);
        }
        Reply::Int(1)
    }

    /// -2 without the key, -1 without an end.
    fn left(&mut self, key: &str, unit: u128) -> Reply {
        if self.get(key).is_none() {
            return Reply::Int(-2);
        }
        let ends = self.keys.get(key).and_then(|(_, ends)| *ends);
        Reply::Int(ends.map_or(-1, |e| e.saturating_duration_since(Instant::now()).as_millis().div_ceil(unit) as i64))
    }

    fn hash(&mut self, key: &str, f: impl FnOnce(&mut BTreeMap<String, String>) -> Reply) -> Option<Reply> {
        if self.get(key).is_none() {
            self.keys.insert(key.into(), (Stored::Hash(BTreeMap::new()), None));
        }
        let Some(Stored::Hash(hash)) = self.get(key) else { return Some(Reply::Error(WRONG_TYPE.into())) };
        let reply = f(hash);
        if hash.is_empty() {
            self.keys.remove(key);
        }
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_redis_does() {
        let mut store = Store::new(&[("a".into(), "1".into())]);
        let text = |t: &str| Reply::Text(t.into());
        for (command, expected) in [
            ("PING", Reply::Status("PONG")),
            ("GET a", text("1")),
            ("GET none", Reply::Nil),
            ("MGET a none", Reply::List(vec![text("1"), Reply::Nil])),
            ("INCR a", Reply::Int(2)),
            ("INCRBY n 5", Reply::Int(5)),
            ("TTL a", Reply::Int(-1)),
            ("TTL none", Reply::Int(-2)),
            ("EXPIRE a 100", Reply::Int(1)),
            ("TTL a", Reply::Int(100)),
            ("SET a x NX", Reply::Nil),
            ("SET a x", Reply::Status("OK")),
            ("INCR a", Reply::Error("ERR value is not an integer or out of range".into())),
            ("SET b x PX 0", Reply::Error("ERR invalid expire time in 'set' command".into())),
            ("PEXPIRE a 0", Reply::Int(1)),
            ("EXISTS a n", Reply::Int(1)),
            ("DEL a n", Reply::Int(1)),
            ("HSET h f 1 g 2", Reply::Int(2)),
            ("HGETALL h", Reply::List(vec![text("f"), text("1"), text("g"), text("2")])),
            ("GET h", Reply::Error(WRONG_TYPE.into())),
            ("HDEL h f g", Reply::Int(2)),
            ("EXISTS h", Reply::Int(0)),
        ] {
            let words: Vec<String> = command.split(' ').map(String::from).collect();
            assert_eq!(store.run(&words[0], &words[1..]), expected, "{command}");
        }
        assert!(matches!(store.run("EVAL", &["x".into()]), Reply::Error(e) if e.contains("replies")));
    }
}
