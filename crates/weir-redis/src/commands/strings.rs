//! Commands of strings and counters.
use super::{Call, Command, GROWS, WRITES, command, range};
use crate::{
    number::{self, Decimal},
    reply::{Answer, Refusal, Reply},
    store::Database,
    value::Value,
};
use bytes::{Bytes, BytesMut};

const GROW: u8 = GROWS | WRITES;

pub const COMMANDS: &[Command] = &[
    command("get", 2, 0, |c| Ok(Reply::of(text(&c.db, c.key())?))),
    command("set", -3, GROW, set),
    command("setnx", 3, GROW, set_nx),
    command("setex", 4, GROW, |c| set_until(c, 1000)),
    command("psetex", 4, GROW, |c| set_until(c, 1)),
    command("getset", 3, GROW, get_set),
    command("getdel", 2, WRITES, get_del),
    command("getex", -2, WRITES, get_ex),
    command("mget", -2, 0, mget),
    command("mset", -3, GROW, |c| mset(c, false)),
    command("msetnx", -3, GROW, |c| mset(c, true)),
    command("append", 3, GROW, append),
    command("strlen", 2, 0, |c| Ok(Reply::count(text(&c.db, c.key())?.map_or(0, |t| t.len())))),
    command("getrange", 4, 0, get_range),
    command("substr", 4, 0, get_range),
    command("setrange", 4, GROW, set_range),
    command("incr", 2, GROW, |c| add(c, 1)),
    command("decr", 2, GROW, |c| add(c, -1)),
    command("incrby", 3, GROW, |c| add(c, c.int(2)?)),
    command("decrby", 3, GROW, |c| {
        let by = c.int(2)?.checked_neg().ok_or(Refusal::say("ERR decrement would overflow"))?;
        add(c, by)
    }),
    command("incrbyfloat", 3, GROW, add_float),
];

fn text(db: &Database<'_>, key: &[u8]) -> Result<Option<Bytes>, Refusal> {
    Ok(db.read::<Bytes>(key)?.cloned())
}

#[derive(PartialEq)]
enum Ends {
    /// As it was.
    Keep,
    Never,
    At(u64),
}

/// `EX 10` and its like. The number is checked when everything else is.
fn end_of(c: &Call<'_>, unit: &[u8], number: &Bytes) -> Result<u64, Refusal> {
    let n = number::integer(number).ok_or(Refusal::NotInteger)?;
    let invalid = || Refusal::ExpireTime(c.name.into());
    if n <= 0 {
        return Err(invalid());
    }
    let seconds = matches!(unit.first(), Some(b'e' | b'E'));
    let absolute = unit.len() == 4;
    let milliseconds = if seconds { n.checked_mul(1000).ok_or_else(invalid)? } else { n };
    let now = i64::try_from(c.db.now()).map_err(|_| invalid())?;
    let when = if absolute { milliseconds } else { milliseconds.checked_add(now).ok_or_else(invalid)? };
    u64::try_from(when).map_err(|_| invalid())
}

fn set(c: &mut Call<'_>) -> Answer {
    let (mut ends, mut only, mut get, mut at): (Option<(&Bytes, &Bytes)>, _, _, _) = (None, None, false, 3);
    let mut keep = false;
    while at < c.args.len() {
        let word = c.args[at].to_ascii_lowercase();
        match &word[..] {
            b"nx" if only != Some(true) => only = Some(false),
            b"xx" if only != Some(false) => only = Some(true),
            b"get" => get = true,
            b"keepttl" if ends.is_none() => keep = true,
            b"ex" | b"px" | b"exat" | b"pxat" if ends.is_none() && !keep && at + 1 < c.args.len() => {
                ends = Some((&c.args[at], &c.args[at + 1]));
                at += 1;
            }
            _ => return Err(Refusal::Syntax),
        }
        at += 1;
    }
    let ends = match ends {
        Some((unit, number)) => Ends::At(end_of(c, unit, number)?),
        None if keep => Ends::Keep,
        None => Ends::Never,
    };
    let key = c.key().clone();
    let before = if get { Some(text(&c.db, &key)?) } else { None };
    if only.is_some_and(|there| there != c.db.contains(&key)) {
        return Ok(before.map_or(Reply::Nil, Reply::of));
    }
    store(c, key, ends);
    Ok(before.map_or(Reply::OK, Reply::of))
}

/// The last word of `SET` is not always the value: this stores the one behind the key.
fn store(c: &mut Call<'_>, key: Bytes, ends: Ends) {
    let value = Value::String(c.args[2].clone());
    match ends {
        Ends::Keep => c.db.replace(key, value),
        Ends::Never => c.db.put(key, value),
        Ends::At(when) => {
            c.db.put(key.clone(), value);
            c.db.expire(&key, Some(when));
        }
    }
}

fn set_nx(c: &mut Call<'_>) -> Answer {
    let key = c.key().clone();
    let new = !c.db.contains(&key);
    if new {
        store(c, key, Ends::Never);
    }
    Ok(Reply::flag(new))
}

fn set_until(c: &mut Call<'_>, unit: i64) -> Answer {
    let word: &[u8] = if unit == 1 { b"px" } else { b"ex" };
    let when = end_of(c, word, &c.args[2])?;
    let key = c.key().clone();
    c.db.put(key.clone(), Value::String(c.args[3].clone()));
    c.db.expire(&key, Some(when));
    Ok(Reply::OK)
}

fn get_set(c: &mut Call<'_>) -> Answer {
    let key = c.key().clone();
    let before = text(&c.db, &key)?;
    store(c, key, Ends::Never);
    Ok(Reply::of(before))
}

fn get_del(c: &mut Call<'_>) -> Answer {
    let key = c.key().clone();
    let value = text(&c.db, &key)?;
    c.db.remove(&key);
    Ok(Reply::of(value))
}

fn get_ex(c: &mut Call<'_>) -> Answer {
    let key = c.key().clone();
    let ends = match (c.args.len(), c.args.get(2).map(|a| a.to_ascii_lowercase()).as_deref()) {
        (2, _) => Ends::Keep,
        (3, Some(b"persist")) => Ends::Never,
        (4, Some(b"ex" | b"px" | b"exat" | b"pxat")) => Ends::At(end_of(c, &c.args[2], &c.args[3])?),
        _ => return Err(Refusal::Syntax),
    };
    let value = text(&c.db, &key)?;
    match ends {
        Ends::Keep => {}
        Ends::Never => drop(c.db.expire(&key, None)),
        Ends::At(when) => drop(c.db.expire(&key, Some(when))),
    }
    Ok(Reply::of(value))
}

/// What is no string is nil.
fn mget(c: &mut Call<'_>) -> Answer {
    let value = |key: &Bytes| Reply::of(text(&c.db, key).ok().flatten());
    Ok(Reply::Array(c.args[1..].iter().map(value).collect()))
}

fn mset(c: &mut Call<'_>, only_new: bool) -> Answer {
    if c.args.len().is_multiple_of(2) {
        return Err(c.arity());
    }
    let pairs = c.args[1..].chunks_exact(2);
    if only_new && pairs.clone().any(|pair| c.db.contains(&pair[0])) {
        return Ok(Reply::Int(0));
    }
    for pair in pairs {
        c.db.put(pair[0].clone(), Value::String(pair[1].clone()));
    }
    Ok(if only_new { Reply::Int(1) } else { Reply::OK })
}

fn append(c: &mut Call<'_>) -> Answer {
    let (key, more, limit) = (c.key().clone(), c.args[2].clone(), c.db.max_bulk());
    let len = c.db.edit::<Bytes, _>(&key, |value| {
        if value.len() + more.len() > limit {
            return Err(Refusal::TooLong);
        }
        let mut grown = BytesMut::with_capacity(value.len() + more.len());
        grown.extend_from_slice(value);
        grown.extend_from_slice(&more);
        *value = grown.freeze();
        Ok(value.len())
    })?;
    let len = len.unwrap_or_else(|| {
        let len = more.len();
        c.db.put(key, Value::String(more));
        len
    });
    Ok(Reply::count(len))
}

fn get_range(c: &mut Call<'_>) -> Answer {
    let (from, to) = (c.int(2)?, c.int(3)?);
    let value = text(&c.db, c.key())?.unwrap_or_default();
    // Both before the beginning, in the wrong order: nothing, not the first byte.
    if from < 0 && to < 0 && from > to {
        return Ok(Reply::Bulk(Bytes::new()));
    }
    let whole = i64::try_from(value.len()).unwrap_or(i64::MAX);
    let to = if to < 0 { to.saturating_add(whole).max(0) } else { to };
    Ok(Reply::Bulk(value.slice(range(from, to, value.len()))))
}

fn set_range(c: &mut Call<'_>) -> Answer {
    let from = c.int(2)?;
    let from = usize::try_from(from).map_err(|_| Refusal::say("ERR offset is out of range"))?;
    let (key, new) = (c.key().clone(), c.args[3].clone());
    let value = text(&c.db, &key)?;
    if new.is_empty() {
        return Ok(Reply::count(value.map_or(0, |v| v.len())));
    }
    let end = from.checked_add(new.len()).filter(|end| *end <= c.db.max_bulk()).ok_or(Refusal::TooLong)?;
    let mut grown = BytesMut::from(&value.unwrap_or_default()[..]);
    if grown.len() < end {
        grown.resize(end, 0);
    }
    grown[from..end].copy_from_slice(&new);
    let len = grown.len();
    c.db.replace(key, Value::String(grown.freeze()));
    Ok(Reply::count(len))
}

fn add(c: &mut Call<'_>, by: i64) -> Answer {
    let key = c.key().clone();
    let before = match text(&c.db, &key)? {
        Some(value) => number::integer(&value).ok_or(Refusal::NotInteger)?,
        None => 0,
    };
    let sum = before.checked_add(by).ok_or(Refusal::Overflow)?;
    c.db.replace(key, Value::String(Bytes::from(sum.to_string())));
    Ok(Reply::Int(sum))
}

fn add_float(c: &mut Call<'_>) -> Answer {
    let key = c.key().clone();
    let before = text(&c.db, &key)?.unwrap_or(Bytes::from_static(b"0"));
    let sum = sum(&before, &c.args[2], Refusal::NotFloat)?;
    c.db.replace(key, Value::String(sum.clone()));
    Ok(Reply::Bulk(sum))
}

/// Both are texts of numbers; `bad` refuses the first.
pub fn sum(before: &[u8], by: &[u8], bad: Refusal) -> Result<Bytes, Refusal> {
    let before_number = number::float(before).ok_or(bad)?;
    let by_number = number::float(by).ok_or(Refusal::NotFloat)?;
    let total = before_number + by_number;
    if !total.is_finite() {
        return Err(Refusal::say("ERR increment would produce NaN or Infinity"));
    }
    let exact = Decimal::parse(before).zip(Decimal::parse(by)).and_then(|(a, b)| a.plus(b));
    Ok(Bytes::from(exact.map_or_else(|| format!("{total}"), |sum| sum.to_string())))
}
