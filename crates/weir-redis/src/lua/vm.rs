//! One Lua state, and a script in it.
use super::{convert, host, run::Run};
use crate::{
    commands::Session,
    options::ScriptLimits,
    reply::{Answer, Refusal, Reply},
    store::Store,
};
use bytes::Bytes;
use mlua::{Function, HookTriggers, Lua, LuaOptions, MultiValue, StdLib, Table, Value, VmState, chunk::ChunkMode};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// The budget is looked at each time that so many instructions have run.
const STEP: u32 = 10_000;

pub struct Vm {
    lua: Lua,
    run: Rc<Run>,
    environment: Table,
    /// The globals behind the environment.
    visible: Table,
    protected_call: Function,
    handler: Function,
    compiled: HashMap<String, Script>,
}

#[derive(Clone)]
struct Script {
    function: Function,
    read_only: bool,
}

impl Vm {
    pub fn new(store: Rc<RefCell<Store>>, limits: ScriptLimits) -> mlua::Result<Vm> {
        let lua = Lua::new_with(StdLib::TABLE | StdLib::STRING | StdLib::MATH, LuaOptions::new().catch_rust_panics(false))?;
        let run = Rc::new(Run::new(store, limits));
        let protected_call = lua.globals().get("xpcall")?;
        let functions = host::functions(&lua, &run)?;
        let (environment, visible) = lua.load(include_str!("sandbox.lua")).set_name("=redis").call::<(Table, Table)>(functions)?;
        host::environment(&lua, &environment)?;
        let handler = host::handler(&lua)?;
        let counted = run.clone();
        lua.set_global_hook(HookTriggers::new().every_nth_instruction(STEP), move |_, _| {
            counted.spend(STEP);
            counted.over_budget().map(|()| VmState::Continue).map_err(mlua::Error::external)
        })?;
        lua.set_memory_limit(limits.memory)?;
        Ok(Vm { lua, run, environment, visible, protected_call, handler, compiled: HashMap::new() })
    }

    /// Compiles a script unless it is there.
    pub fn compile(&mut self, sha: &str, body: &Bytes) -> Result<(), Refusal> {
        if self.compiled.contains_key(sha) {
            return Ok(());
        }
        let (flags, code) = shebang(body)?;
        let chunk = self.lua.load(code).set_name("@user_script").set_mode(ChunkMode::Text).set_environment(self.environment.clone());
        let function = chunk.into_function().map_err(|e| {
            let why = match &e {
                mlua::Error::SyntaxError { message, .. } => message.clone(),
                other => other.to_string(),
            };
            Refusal::Other(format!("ERR Error compiling script (new function): {why}").into())
        })?;
        self.compiled.insert(sha.into(), Script { function, read_only: flags.read_only });
        Ok(())
    }

    pub fn forget(&mut self, sha: &str) {
        self.compiled.remove(sha);
    }

    /// Runs a compiled script. True when it was stopped: this state must not be used again.
    pub fn run(&mut self, sha: &str, keys: &[Bytes], args: &[Bytes], session: &Session, read_only: bool) -> (Answer, bool) {
        let Some(script) = self.compiled.get(sha).cloned() else { return (Err(Refusal::NoSuchKey), false) };
        self.run.begin(session, read_only || script.read_only);
        let answer = match self.call(&script.function, keys, args) {
            Ok((true, value)) => convert::to_reply(&value),
            Ok((false, failure)) => Ok(failed(&failure, sha)),
            Err(e) => Err(Refusal::Other(format!("ERR Error running script {sha}, {e}").into())),
        };
        let out_of_memory = self.lua.used_memory().saturating_mul(2) > self.run.limits.memory;
        (answer, self.run.over_budget().is_err() || out_of_memory)
    }

    fn call(&self, function: &Function, keys: &[Bytes], args: &[Bytes]) -> mlua::Result<(bool, Value)> {
        for (name, list) in [("KEYS", keys), ("ARGV", args)] {
            let table = self.lua.create_table_with_capacity(list.len(), 0)?;
            for (at, text) in list.iter().enumerate() {
                table.raw_set(at + 1, self.lua.create_string(text)?)?;
            }
            self.visible.raw_set(name, table)?;
        }
        let mut results = self.protected_call.call::<MultiValue>((function.clone(), self.handler.clone()))?;
        let fine = matches!(results.pop_front(), Some(Value::Boolean(true)));
        Ok((fine, results.pop_front().unwrap_or(Value::Nil)))
    }
}

/// The reply for a script that failed, with the place where it did.
fn failed(failure: &Value, sha: &str) -> Reply {
    let Value::Table(table) = failure else {
        let why = match failure {
            Value::String(text) => text.to_string_lossy(),
            Value::Error(e) => e.to_string(),
            _ => "execution failure".into(),
        };
        return Reply::Error(convert::line(format!("ERR Error running script {sha}, {why:.100}").as_bytes()));
    };
    let text = |name: &str| table.raw_get::<Option<mlua::LuaString>>(name).ok().flatten().map(|t| t.as_bytes().to_vec());
    let mut message = text("err").unwrap_or_else(|| b"ERR unknown error".to_vec());
    if let (Some(source), Some(line)) = (text("source"), text("line")) {
        message.extend_from_slice(format!(" script: {sha}, on ").as_bytes());
        message.extend_from_slice(&source);
        message.push(b':');
        message.extend_from_slice(&line);
        message.push(b'.');
    }
    Reply::Error(convert::line(&message))
}

#[derive(Default)]
struct Flags {
    read_only: bool,
}

/// The first line of a script may name its engine and flags. Without that line's text, so that lines keep their numbers.
fn shebang(body: &Bytes) -> Result<(Flags, &[u8]), Refusal> {
    let mut flags = Flags::default();
    let Some(rest) = body.strip_prefix(b"#!") else { return Ok((flags, body)) };
    let end = rest.iter().position(|b| *b == b'\n').ok_or(Refusal::say("ERR Invalid script shebang"))?;
    let line = String::from_utf8_lossy(&rest[..end]).into_owned();
    let mut words = line.split_whitespace();
    let engine = words.next().unwrap_or_default();
    if engine != "lua" {
        return Err(Refusal::Other(format!("ERR Unexpected engine in script shebang: #!{engine}").into()));
    }
    for word in words {
        let Some(list) = word.strip_prefix("flags=") else {
            return Err(Refusal::Other(format!("ERR Unknown lua shebang option: {word}").into()));
        };
        for flag in list.split(',').filter(|f| !f.is_empty()) {
            match flag {
                "no-writes" => flags.read_only = true,
                "allow-oom" | "allow-stale" | "no-cluster" | "allow-cross-slot-keys" => {}
                _ => return Err(Refusal::Other(format!("ERR Unexpected flag in script shebang: {flag}").into())),
            }
        }
    }
    Ok((flags, &rest[end..]))
}
