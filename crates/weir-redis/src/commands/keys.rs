//! Commands of keys, whatever they hold.
use super::{Call, Command, GROWS, Scan, WRITES, command, random};
use crate::{
    reply::{Answer, Refusal, Reply},
    store::DATABASES,
};
use bytes::Bytes;

pub const COMMANDS: &[Command] = &[
    command("del", -2, WRITES, remove),
    command("unlink", -2, WRITES, remove),
    command("exists", -2, 0, exists),
    command("touch", -2, 0, exists),
    command("type", 2, 0, |c| Ok(Reply::Status(Bytes::from_static(c.db.get(c.key()).map_or("none", |v| v.kind()).as_bytes())))),
    command("expire", -3, WRITES, |c| expire(c, 1000, false)),
    command("pexpire", -3, WRITES, |c| expire(c, 1, false)),
    command("expireat", -3, WRITES, |c| expire(c, 1000, true)),
    command("pexpireat", -3, WRITES, |c| expire(c, 1, true)),
    command("ttl", 2, 0, |c| left(c, |when, now| (when - now + 500) / 1000)),
    command("pttl", 2, 0, |c| left(c, |when, now| when - now)),
    command("expiretime", 2, 0, |c| left(c, |when, _| (when + 500) / 1000)),
    command("pexpiretime", 2, 0, |c| left(c, |when, _| when)),
    command("persist", 2, WRITES, persist),
    command("keys", 2, 0, keys),
    command("scan", -2, 0, scan),
    command("randomkey", 1, 0, |c| Ok(Reply::of(c.db.random(random()).cloned()))),
    command("rename", 3, WRITES, |c| rename(c, false)),
    command("renamenx", 3, WRITES, |c| rename(c, true)),
    command("copy", -3, GROWS | WRITES, copy),
];

fn remove(c: &mut Call<'_>) -> Answer {
    let gone = c.args[1..].iter().filter(|key| c.db.remove(key).is_some()).count();
    Ok(Reply::count(gone))
}

fn exists(c: &mut Call<'_>) -> Answer {
    Ok(Reply::count(c.args[1..].iter().filter(|key| c.db.contains(key)).count()))
}

fn expire(c: &mut Call<'_>, unit: i64, absolute: bool) -> Answer {
    let n = c.int(2)?;
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for at in 3..c.args.len() {
        match &c.args[at].to_ascii_lowercase()[..] {
            b"nx" => nx = true,
            b"xx" => xx = true,
            b"gt" => gt = true,
            b"lt" => lt = true,
            other => {
                return Err(Refusal::Other(
                    format!("ERR Unsupported option {}", String::from_utf8_lossy(&c.args[at][..other.len()])).into(),
                ));
            }
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Refusal::say("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if gt && lt {
        return Err(Refusal::say("ERR GT and LT options at the same time are not compatible"));
    }
    let invalid = || Refusal::ExpireTime(c.name.into());
    let now = i64::try_from(c.db.now()).map_err(|_| invalid())?;
    let milliseconds = n.checked_mul(unit).ok_or_else(invalid)?;
    let when = if absolute { Some(milliseconds) } else { milliseconds.checked_add(now) }.ok_or_else(invalid)?;
    let when = u64::try_from(when).unwrap_or(0);
    let key = c.key().clone();
    let Some(current) = c.db.expires(&key) else { return Ok(Reply::Int(0)) };
    let refused = (nx && current.is_some())
        || (xx && current.is_none())
        || (gt && current.is_none_or(|now| when <= now))
        || (lt && current.is_some_and(|now| when >= now));
    if refused {
        return Ok(Reply::Int(0));
    }
    Ok(Reply::flag(c.db.expire(&key, Some(when))))
}

/// -2 without the key, -1 without an end.
fn left(c: &mut Call<'_>, of: fn(u64, u64) -> u64) -> Answer {
    let now = c.db.now();
    Ok(Reply::Int(match c.db.expires(c.key()) {
        None => -2,
        Some(None) => -1,
        Some(Some(when)) => i64::try_from(of(when, now)).unwrap_or(i64::MAX),
    }))
}

fn persist(c: &mut Call<'_>) -> Answer {
    let key = c.key().clone();
    let had = c.db.expires(&key).flatten().is_some();
    if had {
        c.db.expire(&key, None);
    }
    Ok(Reply::flag(had))
}

fn keys(c: &mut Call<'_>) -> Answer {
    let pattern = &c.args[1];
    Ok(Reply::list(c.db.keys().filter(|key| crate::glob::matches(pattern, key)).cloned()))
}

fn scan(c: &mut Call<'_>) -> Answer {
    let scan = Scan::read(c, 1, true)?;
    let (next, seen) = c.db.scan(scan.cursor, scan.count);
    let wanted = seen.into_iter().filter(|(key, value)| scan.takes(key) && scan.kind.as_ref().is_none_or(|k| k == value.kind()));
    Ok(Scan::reply(next, wanted.map(|(key, _)| Reply::Bulk(key.clone())).collect()))
}

fn rename(c: &mut Call<'_>, only_new: bool) -> Answer {
    let (from, to) = (c.args[1].clone(), c.args[2].clone());
    if !c.db.contains(&from) {
        return Err(Refusal::NoSuchKey);
    }
    if only_new && c.db.contains(&to) {
        return Ok(Reply::Int(0));
    }
    let ends = c.db.expires(&from).flatten();
    if from != to
        && let Some(value) = c.db.remove(&from)
    {
        c.db.put(to.clone(), value);
        if ends.is_some() {
            c.db.expire(&to, ends);
        }
    }
    Ok(if only_new { Reply::Int(1) } else { Reply::OK })
}

fn copy(c: &mut Call<'_>) -> Answer {
    let (from, to) = (c.args[1].clone(), c.args[2].clone());
    let (mut replace, mut at) = (false, 3);
    let mut database = c.session.database;
    while at < c.args.len() {
        if c.is(at, "replace") {
            replace = true;
        } else if c.is(at, "db") && at + 1 < c.args.len() {
            let number = usize::try_from(c.int(at + 1)?).ok().filter(|n| *n < DATABASES);
            database = number.ok_or(Refusal::say("ERR DB index is out of range"))?;
            at += 1;
        } else {
            return Err(Refusal::Syntax);
        }
        at += 1;
    }
    if from == to && database == c.session.database {
        return Err(Refusal::say("ERR source and destination objects are the same"));
    }
    let Some(value) = c.db.get(&from).cloned() else { return Ok(Reply::Int(0)) };
    let ends = c.db.expires(&from).flatten();
    let mut target = c.db.other(database);
    if target.contains(&to) && !replace {
        return Ok(Reply::Int(0));
    }
    target.put(to.clone(), value);
    if ends.is_some() {
        target.expire(&to, ends);
    }
    Ok(Reply::Int(1))
}
