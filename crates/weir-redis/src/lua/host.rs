//! The functions that scripts call.
use super::{bits, convert, json, raised::Raised, run::Run, sha1hex};
use crate::{
    commands::{self, NO_SCRIPT, WRITES},
    reply::{Refusal, Reply},
};
use bytes::Bytes;
use mlua::{Function, IntoLuaMulti, Lua, MultiValue, Table, Value, Variadic, chunk::ChunkMode};
use std::rc::Rc;

fn raise(text: impl Into<String>) -> mlua::Error {
    mlua::Error::external(Raised(text.into()))
}

/// All of them, for the sandbox.
pub fn functions(lua: &Lua, run: &Rc<Run>) -> mlua::Result<Table> {
    let host = lua.create_table()?;
    let caller = run.clone();
    host.raw_set(
        "call",
        lua.create_function(move |lua, args: Variadic<Value>| match call(&caller, &args) {
            Reply::Error(text) => Err(raise(String::from_utf8_lossy(&text))),
            reply => convert::to_lua(lua, &reply),
        })?,
    )?;
    let caller = run.clone();
    host.raw_set("pcall", lua.create_function(move |lua, args: Variadic<Value>| convert::to_lua(lua, &call(&caller, &args)))?)?;
    host.raw_set("sha1hex", lua.create_function(hash)?)?;
    host.raw_set("log", lua.create_function(log)?)?;
    host.raw_set("setresp", lua.create_function(set_resp)?)?;
    host.raw_set("status_reply", lua.create_function(|lua, args: Variadic<Value>| single(lua, &args, "ok"))?)?;
    host.raw_set("error_reply", lua.create_function(|lua, args: Variadic<Value>| single(lua, &args, "err"))?)?;
    host.raw_set("plain", lua.create_function(|lua, error: Value| plain(lua, error))?)?;
    host.raw_set(
        "read_only",
        lua.create_function(|lua, _: Variadic<Value>| Err::<(), _>(at_caller(lua, "Attempt to modify a readonly table")))?,
    )?;
    let protected = lua.create_table()?;
    protected.set_metatable(Some(weak(lua)?))?;
    host.raw_set("protected", protected.clone())?;
    let known = protected.clone();
    host.raw_set(
        "rawset",
        lua.create_function(move |_, (table, key, value): (Table, Value, Value)| {
            unprotected(&known, &table)?;
            table.raw_set(key, value)?;
            Ok(table)
        })?,
    )?;
    host.raw_set(
        "setmetatable",
        lua.create_function(move |lua, (table, meta): (Table, Value)| {
            unprotected(&protected, &table)?;
            lua.named_registry_value::<Function>(SET_METATABLE)?.call::<Table>((table, meta))
        })?,
    )?;
    lua.set_named_registry_value(SET_METATABLE, lua.globals().raw_get::<Function>("setmetatable")?)?;
    host.raw_set(
        "undefined",
        lua.create_function(|lua, (_, name): (Value, Value)| {
            let name = name.to_string().unwrap_or_default();
            Err::<(), _>(at_caller(lua, &format!("Script attempted to access nonexistent global variable '{name}'")))
        })?,
    )?;
    let checked = run.clone();
    host.raw_set("check_budget", lua.create_function(move |_, ()| checked.over_budget().map_err(mlua::Error::external))?)?;
    let random = run.clone();
    host.raw_set("random", lua.create_function(move |lua, args: Variadic<f64>| random_of(lua, &random, &args))?)?;
    let seeded = run.clone();
    host.raw_set(
        "randomseed",
        lua.create_function(move |_, number: f64| {
            seeded.random.set(seed(number as i64 as u32));
            Ok(())
        })?,
    )?;
    host.raw_set("bit", bits::library(lua)?)?;
    host.raw_set("cjson", json::library(lua)?)?;
    // Known once there is an environment.
    host.raw_set(
        "loadstring",
        lua.create_function(|lua, args: MultiValue| lua.named_registry_value::<Function>(LOAD)?.call::<MultiValue>(args))?,
    )?;
    Ok(host)
}

const LOAD: &str = "load";
const SET_METATABLE: &str = "setmetatable";

/// A metatable of keys that do not keep what they name alive.
fn weak(lua: &Lua) -> mlua::Result<Table> {
    let meta = lua.create_table()?;
    meta.raw_set("__mode", "k")?;
    Ok(meta)
}

fn unprotected(protected: &Table, table: &Table) -> mlua::Result<()> {
    match protected.raw_get::<Value>(table.clone())? {
        Value::Nil => Ok(()),
        _ => Err(mlua::Error::external(Placed("Attempt to modify a readonly table".into()))),
    }
}

/// Code that scripts compile sees what they see. Never bytecode: a wrong one is a way out of the sandbox.
pub fn environment(lua: &Lua, environment: &Table) -> mlua::Result<()> {
    let environment = environment.clone();
    let load = lua.create_function(move |lua, (code, name): (mlua::LuaString, Option<mlua::LuaString>)| {
        let name = name.map_or_else(|| code.to_string_lossy(), |n| n.to_string_lossy());
        let code = code.as_bytes().to_vec();
        let chunk = lua.load(code).set_name(name).set_mode(ChunkMode::Text).set_environment(environment.clone());
        match chunk.into_function() {
            Ok(function) => function.into_lua_multi(lua),
            Err(mlua::Error::SyntaxError { message, .. }) => (Value::Nil, message).into_lua_multi(lua),
            Err(e) => (Value::Nil, e.to_string()).into_lua_multi(lua),
        }
    })?;
    lua.set_named_registry_value(LOAD, load)
}

/// `redis.call` and `redis.pcall`.
fn call(run: &Run, args: &[Value]) -> Reply {
    let fail = |text: String| Reply::Error(Bytes::from(text));
    if args.is_empty() {
        return fail("ERR Please specify at least one argument for this redis lib call".into());
    }
    let Some(args) = args.iter().map(convert::argument).collect::<Option<Vec<_>>>() else {
        return fail("ERR Lua redis lib command arguments must be strings or integers".into());
    };
    let Some(command) = commands::find(&args[0]) else { return fail("ERR Unknown Redis command called from script".into()) };
    if !command.takes(args.len()) {
        return fail("ERR Wrong number of args calling Redis command from script".into());
    }
    let plain = match command.run {
        commands::Run::Plain(plain) if command.flags & NO_SCRIPT == 0 => plain,
        _ => return fail("ERR This Redis command is not allowed from script".into()),
    };
    if run.read_only.get() && command.flags & WRITES != 0 {
        return fail("ERR Write commands are not allowed from read-only scripts.".into());
    }
    let mut store = run.store.borrow_mut();
    if command.flags & commands::GROWS != 0
        && let Err(refusal) = store.room()
    {
        return refusal.reply();
    }
    let answer = commands::run(plain, command.name, &mut store, &mut run.session.borrow_mut(), &args);
    answer.unwrap_or_else(|refusal: Refusal| refusal.reply())
}

fn hash(lua: &Lua, args: Variadic<Value>) -> mlua::Result<mlua::LuaString> {
    let [value] = &args[..] else { return Err(raise("ERR wrong number of arguments")) };
    lua.create_string(sha1hex(&convert::argument(value).unwrap_or_default()))
}

/// Levels are checked; the text goes nowhere, as plugins have a log of their own.
fn log(_: &Lua, args: Variadic<Value>) -> mlua::Result<()> {
    match &args[..] {
        [] | [_] => Err(raise("ERR redis.log() requires two arguments or more.")),
        [level, ..] => match convert::number_of(level) {
            None => Err(raise("ERR First argument must be a number (log level).")),
            Some(n) if !(0.0..=3.0).contains(&n) => Err(raise("ERR Invalid debug level.")),
            Some(_) => Ok(()),
        },
    }
}

fn set_resp(_: &Lua, args: Variadic<Value>) -> mlua::Result<()> {
    match &args[..] {
        [version] => match convert::number_of(version) {
            Some(2.0) => Ok(()),
            Some(3.0) => Err(raise("ERR the embedded Redis speaks RESP 2 only")),
            _ => Err(raise("ERR RESP version must be 2 or 3.")),
        },
        _ => Err(raise("ERR redis.setresp() requires one argument.")),
    }
}

/// `redis.status_reply` and `redis.error_reply`.
fn single(lua: &Lua, args: &[Value], field: &str) -> mlua::Result<Value> {
    let [Value::String(text)] = args else { return convert::error(lua, b"ERR wrong number or type of arguments") };
    let mut text = text.as_bytes().to_vec();
    let table = lua.create_table()?;
    if field == "err" {
        if text.first() == Some(&b'-') {
            text.remove(0);
        } else if !text.contains(&b' ') {
            text.splice(..0, *b"ERR ");
        }
    }
    table.raw_set(field, lua.create_string(&text)?)?;
    Ok(Value::Table(table))
}

/// An error as scripts see it: a table for what the host raised, everything else as it is.
fn plain(lua: &Lua, error: Value) -> mlua::Result<Value> {
    let Value::Error(e) = &error else { return Ok(error) };
    let text = match (e.downcast_ref::<Placed>(), e.downcast_ref::<Raised>()) {
        (Some(placed), _) => return Ok(Value::String(lua.create_string(&placed.0)?)),
        (_, Some(raised)) => raised.0.clone(),
        _ => format!("ERR {}", first_line(&e.to_string())),
    };
    convert::error(lua, text.as_bytes())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// An error whose text names the place, as `error` of Lua makes one.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
struct Placed(String);

fn at_caller(lua: &Lua, text: &str) -> mlua::Error {
    let place = lua.inspect_stack(1, |d| (d.source().short_src.map(|s| s.into_owned()), d.current_line()));
    mlua::Error::external(Placed(match place {
        Some((Some(source), Some(line))) => format!("{source}:{line}: {text}"),
        _ => text.to_string(),
    }))
}

/// Callers that are looked at for the place of an error.
const MAX_LEVELS: usize = 8;

/// Makes a table of an error that ends a script, with the place where it happened.
pub fn handler(lua: &Lua) -> mlua::Result<Function> {
    lua.create_function(|lua, error: Value| {
        let error = plain(lua, error)?;
        let table = match error {
            Value::Table(table) => table,
            other => {
                let table = lua.create_table()?;
                let mut text = b"ERR ".to_vec();
                match &other {
                    Value::String(s) => text.extend_from_slice(&s.as_bytes()),
                    other => text.extend_from_slice(other.to_string().unwrap_or_default().as_bytes()),
                }
                table.raw_set("err", lua.create_string(&text)?)?;
                table
            }
        };
        // Functions of the host and of Lua's libraries have no lines: who called them has.
        let place = |level| {
            lua.inspect_stack(level, |d| {
                let source = d.source();
                (source.what == "C", source.source.map(|s| s.into_owned()), d.current_line())
            })
        };
        let found = (1..MAX_LEVELS).map_while(place).find(|(c, ..)| !c);
        if let Some((_, Some(source), line)) = found {
            table.raw_set("source", source)?;
            table.raw_set("line", line.map_or_else(|| "-1".to_string(), |l| l.to_string()))?;
        }
        Ok(table)
    })
}

fn seed(number: u32) -> u64 {
    (u64::from(number) << 16) + 0x330e
}

fn next_random(run: &Run) -> u32 {
    let next = run.random.get().wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & 0xffff_ffff_ffff;
    run.random.set(next);
    u32::try_from(next >> 17).unwrap_or(0)
}

fn random_of(lua: &Lua, run: &Run, args: &[f64]) -> mlua::Result<f64> {
    let most = i32::MAX.unsigned_abs();
    let r = f64::from(next_random(run) % most) / f64::from(most);
    match args {
        [] => Ok(r),
        [upper] if *upper >= 1.0 => Ok((r * upper.trunc()).floor() + 1.0),
        [lower, upper] if lower <= upper => Ok((r * (upper.trunc() - lower.trunc() + 1.0)).floor() + lower.trunc()),
        [_] | [_, _] => Err(at_caller(lua, &format!("bad argument #{} to 'random' (interval is empty)", args.len()))),
        _ => Err(at_caller(lua, "wrong number of arguments")),
    }
}
