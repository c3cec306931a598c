//! Commands of sets.
use super::{Call, Command, GROWS, Scan, WRITES, command, hashes::SMALL, random};
use crate::{
    number,
    reply::{Answer, Refusal, Reply},
    value::Set,
};
use bytes::Bytes;

const GROW: u8 = GROWS | WRITES;

pub const COMMANDS: &[Command] = &[
    command("sadd", -3, GROW, add),
    command("srem", -3, WRITES, remove),
    command("smembers", 2, 0, |c| Ok(Reply::list(members(read(c)?)))),
    command("sismember", 3, 0, |c| Ok(Reply::flag(read(c)?.is_some_and(|s| s.contains(&c.args[2]))))),
    command("smismember", -3, 0, are_members),
    command("scard", 2, 0, |c| Ok(Reply::count(read(c)?.map_or(0, Set::len)))),
    command("spop", -2, WRITES, pop),
    command("srandmember", -2, 0, some),
    command("smove", 4, GROW, shift),
    command("sinter", -2, 0, |c| Ok(Reply::list(combined(c, 1, Combine::Inter)?))),
    command("sunion", -2, 0, |c| Ok(Reply::list(combined(c, 1, Combine::Union)?))),
    command("sdiff", -2, 0, |c| Ok(Reply::list(combined(c, 1, Combine::Diff)?))),
    command("sinterstore", -3, GROW, |c| keep(c, Combine::Inter)),
    command("sunionstore", -3, GROW, |c| keep(c, Combine::Union)),
    command("sdiffstore", -3, GROW, |c| keep(c, Combine::Diff)),
    command("sintercard", -3, 0, inter_card),
    command("sscan", -3, 0, scan),
];

fn read<'a>(c: &'a Call<'_>) -> Result<Option<&'a Set>, Refusal> {
    c.db.read(c.key())
}

/// Small sets of integers are in their order, as Redis has them; others in the order of insertion.
fn members(set: Option<&Set>) -> Vec<Bytes> {
    let mut all: Vec<Bytes> = set.into_iter().flat_map(Set::keys).cloned().collect();
    if all.len() <= SMALL
        && let Some(numbers) = all.iter().map(|m| number::integer(m)).collect::<Option<Vec<i64>>>()
    {
        let mut sorted: Vec<_> = numbers.into_iter().zip(all).collect();
        sorted.sort_by_key(|(number, _)| *number);
        all = sorted.into_iter().map(|(_, member)| member).collect();
    }
    all
}

fn add(c: &mut Call<'_>) -> Answer {
    let (key, items) = (c.key().clone(), &c.args[2..]);
    c.db.edit_or_new::<Set, _>(&key, |set| Ok(Reply::count(items.iter().filter(|i| set.insert((*i).clone(), ()).is_none()).count())))
}

fn remove(c: &mut Call<'_>) -> Answer {
    let (key, items) = (c.key().clone(), &c.args[2..]);
    let gone = c.db.edit::<Set, _>(&key, |set| Ok(items.iter().filter(|i| set.remove(i).is_some()).count()))?;
    Ok(Reply::count(gone.unwrap_or(0)))
}

fn are_members(c: &mut Call<'_>) -> Answer {
    let set = read(c)?;
    Ok(Reply::Array(c.args[2..].iter().map(|m| Reply::flag(set.is_some_and(|s| s.contains(m)))).collect()))
}

/// The count behind the key.
fn count(c: &Call<'_>) -> Result<Option<i64>, Refusal> {
    match c.args.len() {
        2 => Ok(None),
        3 => Ok(Some(c.int(2)?)),
        _ => Err(Refusal::Syntax),
    }
}

fn pop(c: &mut Call<'_>) -> Answer {
    let count = match c.args.len() {
        2 => None,
        3 => Some(c.int(2).ok().and_then(|n| usize::try_from(n).ok()).ok_or(Refusal::NotPositive)?),
        _ => return Err(Refusal::Syntax),
    };
    let key = c.key().clone();
    let popped = c.db.edit::<Set, _>(&key, |set| {
        let most = count.unwrap_or(1).min(set.len());
        let mut popped = Vec::with_capacity(most);
        for _ in 0..most {
            let Some(member) = set.random(random()).cloned() else { break };
            set.remove(&member);
            popped.push(member);
        }
        Ok(popped)
    })?;
    let popped = popped.unwrap_or_default();
    Ok(if count.is_some() { Reply::list(popped) } else { Reply::of(popped.into_iter().next()) })
}

/// Members of a negative count may repeat.
const MOST: i64 = 1 << 20;

fn some(c: &mut Call<'_>) -> Answer {
    let count = count(c)?;
    let set = read(c)?;
    let Some(n) = count else { return Ok(Reply::of(set.and_then(|s| s.random(random()).cloned()))) };
    let Some(set) = set else { return Ok(Reply::Array(Vec::new())) };
    if n < 0 {
        if n < -MOST {
            return Err(Refusal::say("ERR value is out of range"));
        }
        return Ok(Reply::list((n..0).filter_map(|_| set.random(random()).cloned())));
    }
    let (mut all, n) = (members(Some(set)), usize::try_from(n).unwrap_or(usize::MAX));
    if n < all.len() {
        for at in 0..n {
            let other = at + usize::try_from(random() % (all.len() - at) as u64).unwrap_or(0);
            all.swap(at, other);
        }
        all.truncate(n);
    }
    Ok(Reply::list(all))
}

fn shift(c: &mut Call<'_>) -> Answer {
    let (from, to, member) = (c.args[1].clone(), c.args[2].clone(), c.args[3].clone());
    let Some(source) = c.db.read::<Set>(&from)? else { return Ok(Reply::Int(0)) };
    let there = source.contains(&member);
    c.db.read::<Set>(&to)?;
    if from == to || !there {
        return Ok(Reply::flag(there));
    }
    c.db.edit::<Set, _>(&from, |set| Ok(set.remove(&member)))?;
    c.db.edit_or_new::<Set, _>(&to, |set| Ok(set.insert(member, ())))?;
    Ok(Reply::Int(1))
}

#[derive(Clone, Copy, PartialEq)]
enum Combine {
    Inter,
    Union,
    Diff,
}

/// Of the keys from this argument on.
fn combined(c: &Call<'_>, from: usize, how: Combine) -> Result<Vec<Bytes>, Refusal> {
    let sets = c.args[from..].iter().map(|key| c.db.read::<Set>(key)).collect::<Result<Vec<_>, _>>()?;
    combine(&sets, how)
}

fn combine(sets: &[Option<&Set>], how: Combine) -> Result<Vec<Bytes>, Refusal> {
    let Some((first, others)) = sets.split_first() else { return Ok(Vec::new()) };
    let has = |set: &Option<&Set>, member: &Bytes| set.is_some_and(|s| s.contains(member));
    let mut result = Set::default();
    let mut put = |member: Bytes| _ = result.insert(member, ());
    match how {
        Combine::Union => sets.iter().flat_map(|s| members(*s)).for_each(&mut put),
        Combine::Inter => members(*first).into_iter().filter(|m| others.iter().all(|s| has(s, m))).for_each(&mut put),
        Combine::Diff => members(*first).into_iter().filter(|m| !others.iter().any(|s| has(s, m))).for_each(&mut put),
    }
    Ok(members(Some(&result)))
}

fn keep(c: &mut Call<'_>, how: Combine) -> Answer {
    let found = combined(c, 2, how)?;
    let key = c.key().clone();
    c.db.remove(&key);
    let mut set = Set::default();
    found.into_iter().for_each(|member| _ = set.insert(member, ()));
    let len = set.len();
    if len > 0 {
        c.db.put(key, crate::value::Value::Set(set));
    }
    Ok(Reply::count(len))
}

fn inter_card(c: &mut Call<'_>) -> Answer {
    let keys = c.int(1).map_err(|_| Refusal::say("ERR numkeys should be greater than 0"))?;
    let keys = usize::try_from(keys).ok().filter(|n| *n > 0).ok_or(Refusal::say("ERR numkeys should be greater than 0"))?;
    if keys > c.args.len() - 2 {
        return Err(Refusal::say("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    match c.args.len() - 2 - keys {
        0 => {}
        2 if c.is(2 + keys, "limit") => {
            let given = c.int(3 + keys).map_err(|_| Refusal::say("ERR LIMIT can't be negative"))?;
            limit = usize::try_from(given).map_err(|_| Refusal::say("ERR LIMIT can't be negative"))?;
        }
        _ => return Err(Refusal::Syntax),
    }
    let sets = c.args[2..2 + keys].iter().map(|key| c.db.read::<Set>(key)).collect::<Result<Vec<_>, _>>()?;
    let found = combine(&sets, Combine::Inter)?.len();
    Ok(Reply::count(if limit > 0 { found.min(limit) } else { found }))
}

fn scan(c: &mut Call<'_>) -> Answer {
    let scan = Scan::read(c, 2, false)?;
    let Some(set) = read(c)? else { return Ok(Scan::reply(0, Vec::new())) };
    let (next, seen) = if set.len() <= SMALL {
        (0, members(Some(set)))
    } else {
        let (next, seen) = set.scan(scan.cursor, scan.count);
        (next, seen.into_iter().map(|(member, ())| member.clone()).collect())
    };
    Ok(Scan::reply(next, seen.into_iter().filter(|m| scan.takes(m)).map(Reply::Bulk).collect()))
}
