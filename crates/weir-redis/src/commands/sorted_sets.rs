//! Commands of sorted sets, apart from those of ranges.
use super::{Call, Command, GROWS, Scan, WRITES, command};
use crate::{
    number,
    reply::{Answer, Refusal, Reply},
    value::SortedSet,
};
use bytes::Bytes;

const GROW: u8 = GROWS | WRITES;

pub const COMMANDS: &[Command] = &[
    command("zadd", -4, GROW, |c| add(c, false)),
    command("zincrby", 4, GROW, |c| add(c, true)),
    command("zrem", -3, WRITES, remove),
    command("zscore", 3, 0, |c| Ok(score_or_nil(read(c)?.and_then(|z| z.score(&c.args[2]))))),
    command("zmscore", -3, 0, scores),
    command("zcard", 2, 0, |c| Ok(Reply::count(read(c)?.map_or(0, SortedSet::len)))),
    command("zrank", 3, 0, |c| rank(c, false)),
    command("zrevrank", 3, 0, |c| rank(c, true)),
    command("zpopmin", -2, WRITES, |c| pop(c, true)),
    command("zpopmax", -2, WRITES, |c| pop(c, false)),
    command("zscan", -3, 0, scan),
];

pub fn read<'a>(c: &'a Call<'_>) -> Result<Option<&'a SortedSet>, Refusal> {
    c.db.read(c.key())
}

pub fn score(score: f64) -> Reply {
    Reply::text(number::double(score))
}

fn score_or_nil(found: Option<f64>) -> Reply {
    found.map_or(Reply::Nil, score)
}

#[derive(Clone, Copy, Default)]
struct How {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    changed: bool,
    increment: bool,
}

impl How {
    fn read(c: &Call<'_>) -> Result<(How, usize), Refusal> {
        let (mut how, mut at) = (How::default(), 2);
        while let Some(word) = c.args.get(at) {
            match &word.to_ascii_lowercase()[..] {
                b"nx" => how.nx = true,
                b"xx" => how.xx = true,
                b"gt" => how.gt = true,
                b"lt" => how.lt = true,
                b"ch" => how.changed = true,
                b"incr" => how.increment = true,
                _ => break,
            }
            at += 1;
        }
        Ok((how, at))
    }

    fn check(self, pairs: usize) -> Result<(), Refusal> {
        if self.nx && self.xx {
            return Err(Refusal::say("ERR XX and NX options at the same time are not compatible"));
        }
        if [self.gt, self.lt, self.nx].into_iter().filter(|on| *on).count() > 1 {
            return Err(Refusal::say("ERR GT, LT, and/or NX options at the same time are not compatible"));
        }
        if self.increment && pairs > 1 {
            return Err(Refusal::say("ERR INCR option supports a single increment-element pair"));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Done {
    added: usize,
    updated: usize,
    /// The last score; `None` where an option forbade it.
    score: Option<f64>,
}

fn add(c: &mut Call<'_>, increment: bool) -> Answer {
    let (how, from) = if increment { (How { increment, ..How::default() }, 2) } else { How::read(c)? };
    let words = &c.args[from..];
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return Err(Refusal::Syntax);
    }
    how.check(words.len() / 2)?;
    // -0 is 0.
    let pairs = words.chunks_exact(2).map(|p| Ok((number::float(&p[0]).ok_or(Refusal::NotFloat)? + 0.0, p[1].clone())));
    let pairs = pairs.collect::<Result<Vec<_>, Refusal>>()?;
    let key = c.key().clone();
    if how.xx && read(c)?.is_none() {
        return Ok(if how.increment { Reply::Nil } else { Reply::Int(0) });
    }
    let done = c.db.edit_or_new::<SortedSet, _>(&key, |set| put(set, pairs, how))?;
    Ok(match how.increment {
        true => score_or_nil(done.score),
        false => Reply::count(done.added + if how.changed { done.updated } else { 0 }),
    })
}

fn put(set: &mut SortedSet, pairs: Vec<(f64, Bytes)>, how: How) -> Result<Done, Refusal> {
    let mut done = Done::default();
    for (score, member) in pairs {
        let Some(before) = set.score(&member) else {
            if !how.xx {
                set.insert(member, score);
                done.added += 1;
                done.score = Some(score);
            }
            continue;
        };
        if how.nx {
            continue;
        }
        let score = if how.increment { before + score } else { score };
        if score.is_nan() {
            return Err(Refusal::say("ERR resulting score is not a number (NaN)"));
        }
        if (how.lt && score >= before) || (how.gt && score <= before) {
            continue;
        }
        done.score = Some(score);
        if score != before {
            set.insert(member, score);
            done.updated += 1;
        }
    }
    Ok(done)
}

fn remove(c: &mut Call<'_>) -> Answer {
    let (key, members) = (c.key().clone(), &c.args[2..]);
    let gone = c.db.edit::<SortedSet, _>(&key, |set| Ok(members.iter().filter(|m| set.remove(m).is_some()).count()))?;
    Ok(Reply::count(gone.unwrap_or(0)))
}

fn scores(c: &mut Call<'_>) -> Answer {
    let set = read(c)?;
    Ok(Reply::Array(c.args[2..].iter().map(|m| score_or_nil(set.and_then(|s| s.score(m)))).collect()))
}

fn rank(c: &mut Call<'_>, reversed: bool) -> Answer {
    let Some(set) = read(c)? else { return Ok(Reply::Nil) };
    let Some(score) = set.score(&c.args[2]) else { return Ok(Reply::Nil) };
    let below = set.order().range(..(crate::value::Score(score), c.args[2].clone())).count();
    Ok(Reply::count(if reversed { set.len() - 1 - below } else { below }))
}

fn pop(c: &mut Call<'_>, least: bool) -> Answer {
    let count = match c.args.len() {
        2 => 1,
        3 => c.int(2).ok().and_then(|n| usize::try_from(n).ok()).ok_or(Refusal::NotPositive)?,
        _ => return Err(Refusal::Syntax),
    };
    let key = c.key().clone();
    let popped = c.db.edit::<SortedSet, _>(&key, |set| {
        let mut popped = Vec::new();
        while popped.len() < count.saturating_mul(2) {
            let next = if least { set.order().first() } else { set.order().last() };
            let Some((number, member)) = next.cloned() else { break };
            set.remove(&member);
            popped.extend([Reply::Bulk(member), score(number.0)]);
        }
        Ok(popped)
    })?;
    Ok(Reply::Array(popped.unwrap_or_default()))
}

/// As many as Redis keeps in one piece.
const SMALL: usize = 128;

fn scan(c: &mut Call<'_>) -> Answer {
    let scan = Scan::read(c, 2, false)?;
    let Some(set) = read(c)? else { return Ok(Scan::reply(0, Vec::new())) };
    let (next, seen) = match set.len() <= SMALL {
        true => (0, set.order().iter().map(|(score, member)| (member.clone(), score.0)).collect::<Vec<_>>()),
        false => {
            let (next, seen) = set.members().scan(scan.cursor, scan.count);
            (next, seen.into_iter().map(|(member, score)| (member.clone(), *score)).collect())
        }
    };
    let wanted = seen.into_iter().filter(|(member, _)| scan.takes(member));
    Ok(Scan::reply(next, wanted.flat_map(|(member, number)| [Reply::Bulk(member), score(number)]).collect()))
}
