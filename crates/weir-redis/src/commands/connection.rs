//! Commands about the connection and the server.
use super::{Call, Command, WRITES, command};
use crate::{
    reply::{Answer, Refusal, Reply},
    store::DATABASES,
};
use bytes::Bytes;

pub const COMMANDS: &[Command] = &[
    command("ping", -1, 0, ping),
    command("echo", 2, 0, |c| Ok(Reply::Bulk(c.args[1].clone()))),
    command("select", 2, 0, select),
    command("dbsize", 1, 0, |c| Ok(Reply::count(c.db.len()))),
    command("flushdb", -1, WRITES, flush_db),
    command("flushall", -1, WRITES, flush_all),
    command("time", 1, 0, time),
    command("publish", 3, 0, |_| Ok(Reply::Int(0))),
];

fn ping(c: &mut Call<'_>) -> Answer {
    match c.args.len() {
        1 => Ok(Reply::Status(Bytes::from_static(b"PONG"))),
        2 => Ok(Reply::Bulk(c.args[1].clone())),
        _ => Err(c.arity()),
    }
}

fn select(c: &mut Call<'_>) -> Answer {
    let number = usize::try_from(c.int(1)?).ok().filter(|n| *n < DATABASES);
    c.session.database = number.ok_or(Refusal::say("ERR DB index is out of range"))?;
    Ok(Reply::OK)
}

/// `ASYNC` and `SYNC` come to the same here.
fn flush_mode(c: &Call<'_>) -> Result<(), Refusal> {
    match c.args.len() {
        1 => Ok(()),
        2 if c.is(1, "async") || c.is(1, "sync") => Ok(()),
        _ => Err(Refusal::Syntax),
    }
}

fn flush_db(c: &mut Call<'_>) -> Answer {
    flush_mode(c)?;
    c.db.flush();
    Ok(Reply::OK)
}

fn flush_all(c: &mut Call<'_>) -> Answer {
    flush_mode(c)?;
    c.db.flush_all();
    Ok(Reply::OK)
}

fn time(c: &mut Call<'_>) -> Answer {
    let now = c.db.now();
    Ok(Reply::list([now / 1000, now % 1000 * 1000].map(|n| Bytes::from(n.to_string()))))
}
