//! Commands of hashes.
use super::{Call, Command, GROWS, Scan, WRITES, command, strings::sum};
use crate::{
    number,
    reply::{Answer, Refusal, Reply},
    value::Hash,
};
use bytes::Bytes;

const GROW: u8 = GROWS | WRITES;

pub const COMMANDS: &[Command] = &[
    command("hset", -4, GROW, |c| set(c).map(Reply::count)),
    command("hmset", -4, GROW, |c| set(c).map(|_| Reply::OK)),
    command("hsetnx", 4, GROW, set_nx),
    command("hget", 3, 0, |c| Ok(Reply::of(read(c)?.and_then(|h| h.get(&c.args[2]).cloned())))),
    command("hmget", -3, 0, mget),
    command("hgetall", 2, 0, |c| Ok(Reply::list(read(c)?.into_iter().flat_map(Hash::iter).flat_map(|(f, v)| [f.clone(), v.clone()])))),
    command("hkeys", 2, 0, |c| Ok(Reply::list(read(c)?.into_iter().flat_map(Hash::keys).cloned()))),
    command("hvals", 2, 0, |c| Ok(Reply::list(read(c)?.into_iter().flat_map(Hash::iter).map(|(_, v)| v.clone())))),
    command("hlen", 2, 0, |c| Ok(Reply::count(read(c)?.map_or(0, Hash::len)))),
    command("hstrlen", 3, 0, |c| Ok(Reply::count(read(c)?.and_then(|h| h.get(&c.args[2])).map_or(0, Bytes::len)))),
    command("hexists", 3, 0, |c| Ok(Reply::flag(read(c)?.is_some_and(|h| h.contains(&c.args[2]))))),
    command("hdel", -3, WRITES, remove),
    command("hincrby", 4, GROW, add),
    command("hincrbyfloat", 4, GROW, add_float),
    command("hscan", -3, 0, scan),
];

fn read<'a>(c: &'a Call<'_>) -> Result<Option<&'a Hash>, Refusal> {
    c.db.read(c.key())
}

fn set(c: &mut Call<'_>) -> Result<usize, Refusal> {
    if !c.args.len().is_multiple_of(2) {
        return Err(c.arity());
    }
    let (key, pairs) = (c.key().clone(), c.args[2..].chunks_exact(2));
    c.db.edit_or_new::<Hash, _>(&key, |hash| Ok(pairs.filter(|p| hash.insert(p[0].clone(), p[1].clone()).is_none()).count()))
}

fn set_nx(c: &mut Call<'_>) -> Answer {
    let (key, field, value) = (c.key().clone(), c.args[2].clone(), c.args[3].clone());
    c.db.edit_or_new::<Hash, _>(&key, |hash| {
        let new = !hash.contains(&field);
        if new {
            hash.insert(field, value);
        }
        Ok(Reply::flag(new))
    })
}

fn mget(c: &mut Call<'_>) -> Answer {
    let hash = read(c)?;
    Ok(Reply::Array(c.args[2..].iter().map(|f| Reply::of(hash.and_then(|h| h.get(f).cloned()))).collect()))
}

fn remove(c: &mut Call<'_>) -> Answer {
    let (key, fields) = (c.key().clone(), &c.args[2..]);
    let gone = c.db.edit::<Hash, _>(&key, |hash| Ok(fields.iter().filter(|f| hash.remove(f).is_some()).count()))?;
    Ok(Reply::count(gone.unwrap_or(0)))
}

fn add(c: &mut Call<'_>) -> Answer {
    let by = c.int(3)?;
    let (key, field) = (c.key().clone(), c.args[2].clone());
    c.db.edit_or_new::<Hash, _>(&key, |hash| {
        let before = match hash.get(&field) {
            Some(value) => number::integer(value).ok_or(Refusal::say("ERR hash value is not an integer"))?,
            None => 0,
        };
        let sum = before.checked_add(by).ok_or(Refusal::Overflow)?;
        hash.insert(field, Bytes::from(sum.to_string()));
        Ok(Reply::Int(sum))
    })
}

fn add_float(c: &mut Call<'_>) -> Answer {
    let by = number::float(&c.args[3]).ok_or(Refusal::NotFloat)?;
    if by.is_infinite() {
        return Err(Refusal::say("ERR value is NaN or Infinity"));
    }
    let (key, field, by) = (c.key().clone(), c.args[2].clone(), c.args[3].clone());
    c.db.edit_or_new::<Hash, _>(&key, |hash| {
        let before = hash.get(&field).cloned().unwrap_or(Bytes::from_static(b"0"));
        let sum = sum(&before, &by, Refusal::say("ERR hash value is not a float"))?;
        hash.insert(field, sum.clone());
        Ok(Reply::Bulk(sum))
    })
}

/// What a small hash, set or sorted set holds is walked in one step, as Redis does.
pub const SMALL: usize = 512;

fn scan(c: &mut Call<'_>) -> Answer {
    let scan = Scan::read(c, 2, false)?;
    let Some(hash) = read(c)? else { return Ok(Scan::reply(0, Vec::new())) };
    let (next, seen) = if hash.len() <= SMALL { hash.scan(0, usize::MAX) } else { hash.scan(scan.cursor, scan.count) };
    let wanted = seen.into_iter().filter(|(field, _)| scan.takes(field));
    Ok(Scan::reply(next, wanted.flat_map(|(f, v)| [Reply::Bulk(f.clone()), Reply::Bulk(v.clone())]).collect()))
}
