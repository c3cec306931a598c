//! Between replies and Lua's values.
use crate::{
    number,
    reply::{Refusal, Reply},
};
use bytes::Bytes;
use mlua::{Lua, Table, Value};

/// Tables within tables that a script may return.
const MAX_DEPTH: usize = 128;

/// What a script sees of a reply; an error is a table with `err`.
pub fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Int(n) => Value::Number(*n as f64),
        Reply::Bulk(bytes) => Value::String(lua.create_string(bytes)?),
        Reply::Nil | Reply::NilArray => Value::Boolean(false),
        Reply::Status(text) => field(lua, "ok", text)?,
        Reply::Error(text) => error(lua, text)?,
        Reply::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (at, item) in items.iter().enumerate() {
                table.raw_set(at + 1, to_lua(lua, item)?)?;
            }
            Value::Table(table)
        }
    })
}

/// A number, and not a string that holds one.
pub fn number_of(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) => Some(*n),
        _ => None,
    }
}

fn field(lua: &Lua, name: &str, text: &[u8]) -> mlua::Result<Value> {
    let table = lua.create_table()?;
    table.raw_set(name, lua.create_string(text)?)?;
    Ok(Value::Table(table))
}

pub fn error(lua: &Lua, text: &[u8]) -> mlua::Result<Value> {
    field(lua, "err", text)
}

/// What a script answers with.
pub fn to_reply(value: &Value) -> Result<Reply, Refusal> {
    reply_of(value, 0)
}

fn reply_of(value: &Value, depth: usize) -> Result<Reply, Refusal> {
    if depth > MAX_DEPTH {
        return Err(Refusal::say("ERR reached lua stack limit"));
    }
    Ok(match value {
        Value::String(text) => Reply::Bulk(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(n) => Reply::Int(*n),
        // The fraction is cut off.
        Value::Number(n) => Reply::Int(*n as i64),
        Value::Boolean(true) => Reply::Int(1),
        Value::Table(table) => table_of(table, depth)?,
        _ => Reply::Nil,
    })
}

fn table_of(table: &Table, depth: usize) -> Result<Reply, Refusal> {
    let of = |name: &str| table.raw_get::<Value>(name).unwrap_or(Value::Nil);
    if let Value::String(text) = of("err") {
        return Ok(Reply::Error(line(&text.as_bytes())));
    }
    if let Value::String(text) = of("ok") {
        return Ok(Reply::Status(line(&text.as_bytes())));
    }
    if let Some(n) = number_of(&of("double")) {
        return Ok(Reply::text(number::double(n)));
    }
    let mut items = Vec::new();
    for at in 1.. {
        match table.raw_get::<Value>(at).unwrap_or(Value::Nil) {
            Value::Nil => break,
            item => items.push(reply_of(&item, depth + 1)?),
        }
    }
    Ok(Reply::Array(items))
}

/// A line of the protocol ends where it says.
pub fn line(text: &[u8]) -> Bytes {
    text.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }).collect::<Vec<_>>().into()
}

/// An argument of `redis.call`; `None` for what is neither text nor number.
pub fn argument(value: &Value) -> Option<Bytes> {
    match value {
        Value::String(text) => Some(Bytes::copy_from_slice(&text.as_bytes())),
        Value::Integer(n) => Some(Bytes::from(n.to_string())),
        Value::Number(n) => Some(Bytes::from(number::double(*n))),
        _ => None,
    }
}
