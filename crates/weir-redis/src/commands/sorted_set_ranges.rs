//! Ranges of sorted sets: by rank, by score, by member.
use super::{
    Call, Command, WRITES, command, range,
    sorted_sets::{read, score},
};
use crate::{
    number,
    reply::{Answer, Refusal, Reply},
    value::{Score, SortedSet},
};
use bytes::Bytes;

pub const COMMANDS: &[Command] = &[
    command("zrange", -4, 0, |c| show(c, Options::none(By::Rank, false))),
    command("zrevrange", -4, 0, |c| show(c, Options::none(By::Rank, true).fixed())),
    command("zrangebyscore", -4, 0, |c| show(c, Options::none(By::Score, false).fixed())),
    command("zrevrangebyscore", -4, 0, |c| show(c, Options::none(By::Score, true).fixed())),
    command("zrangebylex", -4, 0, |c| show(c, Options::none(By::Lex, false).fixed())),
    command("zrevrangebylex", -4, 0, |c| show(c, Options::none(By::Lex, true).fixed())),
    command("zcount", 4, 0, |c| count(c, By::Score)),
    command("zlexcount", 4, 0, |c| count(c, By::Lex)),
    command("zremrangebyrank", 4, WRITES, |c| remove(c, By::Rank)),
    command("zremrangebyscore", 4, WRITES, |c| remove(c, By::Score)),
    command("zremrangebylex", 4, WRITES, |c| remove(c, By::Lex)),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Rank,
    Score,
    Lex,
}

struct Options {
    by: By,
    reversed: bool,
    /// The name of the command says it all: `BYSCORE`, `BYLEX` and `REV` are not taken.
    fixed: bool,
    limit: Option<(i64, i64)>,
    scores: bool,
}

impl Options {
    fn none(by: By, reversed: bool) -> Options {
        Options { by, reversed, fixed: false, limit: None, scores: false }
    }

    fn fixed(self) -> Options {
        Options { fixed: true, ..self }
    }

    fn read(mut self, c: &Call<'_>) -> Result<Options, Refusal> {
        let mut at = 4;
        while at < c.args.len() {
            if c.is(at, "withscores") {
                self.scores = true;
            } else if c.is(at, "limit") && at + 2 < c.args.len() {
                self.limit = Some((c.int(at + 1)?, c.int(at + 2)?));
                at += 2;
            } else if !self.fixed && c.is(at, "rev") {
                self.reversed = true;
            } else if !self.fixed && self.by == By::Rank && c.is(at, "bylex") {
                self.by = By::Lex;
            } else if !self.fixed && self.by == By::Rank && c.is(at, "byscore") {
                self.by = By::Score;
            } else {
                return Err(Refusal::Syntax);
            }
            at += 1;
        }
        if self.limit.is_some_and(|(_, count)| count != -1) && self.by == By::Rank {
            return Err(Refusal::say("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"));
        }
        if self.scores && self.by == By::Lex {
            return Err(Refusal::say("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
        }
        Ok(self)
    }
}

/// An end of a range.
#[derive(Clone, Debug)]
struct End<T> {
    value: T,
    open: bool,
}

fn score_end(text: &Bytes) -> Result<End<f64>, Refusal> {
    let (open, number) = text.strip_prefix(b"(").map_or((false, &text[..]), |rest| (true, rest));
    let value = number::float(number).ok_or(Refusal::say("ERR min or max is not a float"))?;
    Ok(End { value, open })
}

#[derive(Clone, Debug, PartialEq)]
enum Lex {
    Least,
    Most,
    Member(Bytes),
}

fn lex_end(text: &Bytes) -> Result<End<Lex>, Refusal> {
    let (value, open) = match text.split_first() {
        Some((b'-', [])) => (Lex::Least, false),
        Some((b'+', [])) => (Lex::Most, false),
        Some((b'(', _)) => (Lex::Member(text.slice(1..)), true),
        Some((b'[', _)) => (Lex::Member(text.slice(1..)), false),
        _ => return Err(Refusal::say("ERR min or max not valid string range item")),
    };
    Ok(End { value, open })
}

/// A range that was understood: what is within it.
enum Range {
    Rank(i64, i64),
    Score(End<f64>, End<f64>),
    Lex(End<Lex>, End<Lex>),
}

impl Range {
    fn read(by: By, min: &Bytes, max: &Bytes) -> Result<Range, Refusal> {
        let int = |text: &Bytes| number::integer(text).ok_or(Refusal::NotInteger);
        Ok(match by {
            By::Rank => Range::Rank(int(min)?, int(max)?),
            By::Score => Range::Score(score_end(min)?, score_end(max)?),
            By::Lex => Range::Lex(lex_end(min)?, lex_end(max)?),
        })
    }

    /// In order, or from the end.
    fn of(&self, set: &SortedSet, reversed: bool) -> Vec<(f64, Bytes)> {
        let pair = |(score, member): &(Score, Bytes)| (score.0, member.clone());
        let order = set.order();
        match self {
            Range::Rank(from, to) => {
                let wanted = range(*from, *to, set.len());
                let take = wanted.len();
                match reversed {
                    true => order.iter().rev().skip(wanted.start).take(take).map(pair).collect(),
                    false => order.iter().skip(wanted.start).take(take).map(pair).collect(),
                }
            }
            Range::Score(min, max) => {
                if min.value > max.value || (min.value == max.value && (min.open || max.open)) {
                    return Vec::new();
                }
                let above = |score: f64| if min.open { score > min.value } else { score >= min.value };
                let below = |score: f64| if max.open { score < max.value } else { score <= max.value };
                let from = order.range((Score(min.value), Bytes::new())..);
                let all = from.skip_while(|(s, _)| !above(s.0)).take_while(|(s, _)| below(s.0));
                let mut found: Vec<_> = all.map(pair).collect();
                if reversed {
                    found.reverse();
                }
                found
            }
            Range::Lex(min, max) => {
                let above = |member: &Bytes| match &min.value {
                    Lex::Least => true,
                    Lex::Most => false,
                    Lex::Member(least) => {
                        if min.open {
                            member > least
                        } else {
                            member >= least
                        }
                    }
                };
                let below = |member: &Bytes| match &max.value {
                    Lex::Least => false,
                    Lex::Most => true,
                    Lex::Member(most) => {
                        if max.open {
                            member < most
                        } else {
                            member <= most
                        }
                    }
                };
                let mut found: Vec<_> = order.iter().filter(|(_, m)| above(m) && below(m)).map(pair).collect();
                if reversed {
                    found.reverse();
                }
                found
            }
        }
    }
}

fn show(c: &mut Call<'_>, options: Options) -> Answer {
    let options = options.read(c)?;
    let (min, max) = if options.reversed && options.by != By::Rank { (3, 2) } else { (2, 3) };
    let range = Range::read(options.by, &c.args[min], &c.args[max])?;
    let Some(set) = read(c)? else { return Ok(Reply::Array(Vec::new())) };
    let found = range.of(set, options.reversed);
    let (skip, most) = match options.limit {
        None => (0, usize::MAX),
        Some((offset, count)) => match usize::try_from(offset) {
            Ok(offset) => (offset, usize::try_from(count).unwrap_or(usize::MAX)),
            Err(_) => (0, 0),
        },
    };
    let shown = found.into_iter().skip(skip).take(most);
    Ok(Reply::Array(match options.scores {
        true => shown.flat_map(|(number, member)| [Reply::Bulk(member), score(number)]).collect(),
        false => shown.map(|(_, member)| Reply::Bulk(member)).collect(),
    }))
}

fn count(c: &mut Call<'_>, by: By) -> Answer {
    let range = Range::read(by, &c.args[2], &c.args[3])?;
    Ok(Reply::count(read(c)?.map_or(0, |set| range.of(set, false).len())))
}

fn remove(c: &mut Call<'_>, by: By) -> Answer {
    let range = Range::read(by, &c.args[2], &c.args[3])?;
    let key = c.key().clone();
    let gone = c.db.edit::<SortedSet, _>(&key, |set| {
        let found = range.of(set, false);
        found.iter().for_each(|(_, member)| _ = set.remove(member));
        Ok(found.len())
    })?;
    Ok(Reply::count(gone.unwrap_or(0)))
}
