//! Commands of lists. None of them blocks.
use super::{Call, Command, GROWS, WRITES, command, range};
use crate::{
    reply::{Answer, Refusal, Reply},
    value::List,
};
use bytes::Bytes;

const GROW: u8 = GROWS | WRITES;

pub const COMMANDS: &[Command] = &[
    command("lpush", -3, GROW, |c| push(c, true)),
    command("rpush", -3, GROW, |c| push(c, false)),
    command("lpushx", -3, GROW, |c| push_known(c, true)),
    command("rpushx", -3, GROW, |c| push_known(c, false)),
    command("lpop", -2, WRITES, |c| pop(c, true)),
    command("rpop", -2, WRITES, |c| pop(c, false)),
    command("llen", 2, 0, |c| Ok(Reply::count(read(c)?.map_or(0, |l| l.items().len())))),
    command("lrange", 4, 0, get_range),
    command("lindex", 3, 0, get),
    command("lset", 4, GROW, set),
    command("lrem", 4, WRITES, remove),
    command("ltrim", 4, WRITES, trim),
    command("linsert", 5, GROW, insert),
    command("rpoplpush", 3, GROW, |c| shift(c, false, true)),
    command("lmove", 5, GROW, |c| {
        let side = |at| {
            if c.is(at, "left") {
                Ok(true)
            } else if c.is(at, "right") {
                Ok(false)
            } else {
                Err(Refusal::Syntax)
            }
        };
        let (from, to) = (side(3)?, side(4)?);
        shift(c, from, to)
    }),
];

fn read<'a>(c: &'a Call<'_>) -> Result<Option<&'a List>, Refusal> {
    c.db.read(c.key())
}

fn push(c: &mut Call<'_>, front: bool) -> Answer {
    let (key, items) = (c.key().clone(), &c.args[2..]);
    c.db.edit_or_new::<List, _>(&key, |list| {
        items.iter().for_each(|item| list.push(front, item.clone()));
        Ok(Reply::count(list.items().len()))
    })
}

fn push_known(c: &mut Call<'_>, front: bool) -> Answer {
    if read(c)?.is_none() {
        return Ok(Reply::Int(0));
    }
    push(c, front)
}

fn pop(c: &mut Call<'_>, front: bool) -> Answer {
    if c.args.len() > 3 {
        return Err(c.arity());
    }
    let count = match c.args.len() {
        3 => Some(usize::try_from(c.int(2).map_err(|_| Refusal::NotPositive)?).map_err(|_| Refusal::NotPositive)?),
        _ => None,
    };
    let key = c.key().clone();
    let popped = c.db.edit::<List, _>(&key, |list| {
        let count = count.unwrap_or(1).min(list.items().len());
        Ok((0..count).filter_map(|_| list.pop(front)).collect::<Vec<_>>())
    })?;
    Ok(match (popped, count) {
        (None, None) => Reply::Nil,
        (None, Some(_)) => Reply::NilArray,
        (Some(items), None) => Reply::of(items.into_iter().next()),
        (Some(items), Some(_)) => Reply::list(items),
    })
}

fn get_range(c: &mut Call<'_>) -> Answer {
    let (from, to) = (c.int(2)?, c.int(3)?);
    let Some(list) = read(c)? else { return Ok(Reply::Array(Vec::new())) };
    Ok(Reply::list(list.items().range(range(from, to, list.items().len())).cloned()))
}

/// The place that an index means, from either end.
fn place(index: i64, len: usize) -> Option<usize> {
    let at = if index < 0 { index.checked_add(i64::try_from(len).ok()?)? } else { index };
    usize::try_from(at).ok().filter(|at| *at < len)
}

fn get(c: &mut Call<'_>) -> Answer {
    let Some(list) = read(c)? else { return Ok(Reply::Nil) };
    let index = c.int(2)?;
    Ok(Reply::of(place(index, list.items().len()).and_then(|at| list.items().get(at).cloned())))
}

fn set(c: &mut Call<'_>) -> Answer {
    if read(c)?.is_none() {
        return Err(Refusal::NoSuchKey);
    }
    let index = c.int(2)?;
    let (key, item) = (c.key().clone(), c.args[3].clone());
    let set = c.db.edit::<List, _>(&key, |list| {
        let at = place(index, list.items().len()).ok_or(Refusal::Index)?;
        list.set(at, item).ok_or(Refusal::Index)
    })?;
    set.map(|()| Reply::OK).ok_or(Refusal::NoSuchKey)
}

fn remove(c: &mut Call<'_>) -> Answer {
    let count = c.int(2)?;
    let (key, item) = (c.key().clone(), c.args[3].clone());
    let gone = c.db.edit::<List, _>(&key, |list| {
        let found: Vec<usize> = list.items().iter().enumerate().filter(|(_, i)| **i == item).map(|(at, _)| at).collect();
        let most = match usize::try_from(count.unsigned_abs()) {
            Ok(0) | Err(_) => found.len(),
            Ok(n) => n.min(found.len()),
        };
        let chosen = if count < 0 { &found[found.len() - most..] } else { &found[..most] };
        let mut next = chosen.iter().peekable();
        list.retain(|at, _| next.next_if(|n| **n == at).is_none());
        Ok(chosen.len())
    })?;
    Ok(Reply::count(gone.unwrap_or(0)))
}

fn trim(c: &mut Call<'_>) -> Answer {
    let (from, to) = (c.int(2)?, c.int(3)?);
    let key = c.key().clone();
    c.db.edit::<List, _>(&key, |list| {
        let kept = range(from, to, list.items().len());
        list.retain(|at, _| kept.contains(&at));
        Ok(())
    })?;
    Ok(Reply::OK)
}

fn insert(c: &mut Call<'_>) -> Answer {
    let after = match (c.is(2, "after"), c.is(2, "before")) {
        (true, _) => 1,
        (_, true) => 0,
        _ => return Err(Refusal::Syntax),
    };
    let (key, pivot, item) = (c.key().clone(), c.args[3].clone(), c.args[4].clone());
    let len = c.db.edit::<List, _>(&key, |list| {
        let Some(at) = list.items().iter().position(|i| *i == pivot) else { return Ok(-1) };
        list.insert(at + after, item);
        Ok(i64::try_from(list.items().len()).unwrap_or(i64::MAX))
    })?;
    Ok(Reply::Int(len.unwrap_or(0)))
}

/// From one list's end to another's, which may be the same list.
fn shift(c: &mut Call<'_>, from_front: bool, to_front: bool) -> Answer {
    let (from, to) = (c.args[1].clone(), c.args[2].clone());
    if c.db.read::<List>(&from)?.is_none() {
        return Ok(Reply::Nil);
    }
    c.db.read::<List>(&to)?;
    let item: Option<Bytes> = c.db.edit::<List, _>(&from, |list| Ok(list.pop(from_front)))?.flatten();
    if let Some(item) = &item {
        c.db.edit_or_new::<List, _>(&to, |list| {
            list.push(to_front, item.clone());
            Ok(())
        })?;
    }
    Ok(Reply::of(item))
}
