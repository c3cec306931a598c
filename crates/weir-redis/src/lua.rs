//! Scripts: which are known, and the Lua state that runs them.
mod bits;
mod convert;
mod host;
mod json;
mod raised;
mod run;
mod vm;

use crate::{
    commands::{Scripting, Session},
    number,
    options::ScriptLimits,
    reply::{Answer, Refusal, Reply},
    store::Store,
};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use sha1::{Digest, Sha1};
use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
};
use vm::Vm;

/// Scripts that are remembered; the oldest goes first.
const MAX_SCRIPTS: usize = 1024;

pub struct Scripts {
    store: Rc<RefCell<Store>>,
    limits: ScriptLimits,
    known: HashMap<String, Bytes>,
    order: VecDeque<String>,
    vm: Option<Vm>,
    /// Scripts that were ended for their instructions or memory.
    pub stopped: u64,
}

pub fn sha1hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha1::digest(bytes))
}

impl Scripts {
    pub fn new(store: Rc<RefCell<Store>>, limits: ScriptLimits) -> Scripts {
        Scripts { store, limits, known: HashMap::new(), order: VecDeque::new(), vm: None, stopped: 0 }
    }

    pub fn run(&mut self, what: Scripting, session: &Session, args: &[Bytes]) -> Answer {
        match what {
            Scripting::Eval { read_only } => {
                let sha = sha1hex(&args[1]);
                self.eval(&sha, Some(&args[1]), read_only, session, args)
            }
            Scripting::EvalSha { read_only } => {
                let sha = String::from_utf8_lossy(&args[1]).to_ascii_lowercase();
                self.eval(&sha, None, read_only, session, args)
            }
            Scripting::Script => self.manage(args),
        }
    }

    fn eval(&mut self, sha: &str, body: Option<&Bytes>, read_only: bool, session: &Session, args: &[Bytes]) -> Answer {
        let keys = number::integer(&args[2]).ok_or(Refusal::NotInteger)?;
        if keys > i64::try_from(args.len()).unwrap_or(i64::MAX) - 3 {
            return Err(Refusal::say("ERR Number of keys can't be greater than number of args"));
        }
        let keys = usize::try_from(keys).map_err(|_| Refusal::say("ERR Number of keys can't be negative"))?;
        let new = match (self.known.get(sha), body) {
            (Some(known), _) => (known.clone(), false),
            (None, Some(body)) => (body.clone(), true),
            (None, None) => return Err(Refusal::say("NOSCRIPT No matching script. Please use EVAL.")),
        };
        let vm = self.vm()?;
        vm.compile(sha, &new.0)?;
        if new.1 {
            self.remember(sha, &new.0);
        }
        let (keys, args) = args[3..].split_at(keys);
        let vm = self.vm()?;
        let (answer, stopped) = vm.run(sha, keys, args, session, read_only);
        if stopped {
            // What it left behind is not for the next one.
            self.vm = None;
            self.stopped += 1;
        }
        answer
    }

    fn vm(&mut self) -> Result<&mut Vm, Refusal> {
        let vm = match self.vm.take() {
            Some(vm) => vm,
            None => Vm::new(self.store.clone(), self.limits).map_err(|e| Refusal::Other(format!("ERR Lua does not start: {e}").into()))?,
        };
        Ok(self.vm.insert(vm))
    }

    fn remember(&mut self, sha: &str, body: &Bytes) {
        if self.known.insert(sha.into(), body.clone()).is_some() {
            return;
        }
        self.order.push_back(sha.into());
        if self.order.len() > MAX_SCRIPTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            if let Some(vm) = &mut self.vm {
                vm.forget(&oldest);
            }
        }
    }

    fn manage(&mut self, args: &[Bytes]) -> Answer {
        let word = args[1].to_ascii_lowercase();
        let arity = || Refusal::Arity(format!("script|{}", String::from_utf8_lossy(&word)));
        match (&word[..], args.len()) {
            (b"load", 3) => {
                let sha = sha1hex(&args[2]);
                self.vm()?.compile(&sha, &args[2])?;
                self.remember(&sha, &args[2]);
                Ok(Reply::text(sha))
            }
            (b"exists", 3..) => {
                let known = |sha: &Bytes| self.known.contains_key(&*String::from_utf8_lossy(sha).to_ascii_lowercase());
                Ok(Reply::Array(args[2..].iter().map(|sha| Reply::flag(known(sha))).collect()))
            }
            (b"flush", 2..) => {
                let mode = args.get(2).is_none_or(|m| m.eq_ignore_ascii_case(b"async") || m.eq_ignore_ascii_case(b"sync"));
                if args.len() > 3 || !mode {
                    return Err(Refusal::say("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
                }
                self.known.clear();
                self.order.clear();
                self.vm = None;
                Ok(Reply::OK)
            }
            (b"load" | b"exists", _) => Err(arity()),
            _ => {
                let word = String::from_utf8_lossy(&args[1]).into_owned();
                Err(Refusal::Other(format!("ERR unknown subcommand '{word:.128}'. Try SCRIPT HELP.").into()))
            }
        }
    }
}
