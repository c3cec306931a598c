//! One command after the other.
use crate::{
    commands::{self, GROWS, Run, Session},
    lua::Scripts,
    options::Options,
    reply::{Answer, Refusal, Reply},
    store::Store,
};
use bytes::Bytes;
use std::{
    cell::RefCell,
    fmt::Write as _,
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

pub struct Engine {
    pub store: Rc<RefCell<Store>>,
    pub scripts: Scripts,
    password: Option<String>,
}

impl Engine {
    pub fn new(options: &Options) -> Engine {
        let store = Rc::new(RefCell::new(Store::new(options.max_memory)));
        let scripts = Scripts::new(store.clone(), options.scripts);
        Engine { store, scripts, password: options.password.clone() }
    }

    pub fn execute(&mut self, session: &mut Session, args: &[Bytes]) -> Reply {
        self.store.borrow_mut().tick(now());
        self.answer(session, args).unwrap_or_else(|refusal| refusal.reply())
    }

    fn answer(&mut self, session: &mut Session, args: &[Bytes]) -> Answer {
        let command = commands::find(&args[0]).ok_or_else(|| unknown(args))?;
        if !command.takes(args.len()) {
            return Err(Refusal::Arity(command.name.into()));
        }
        if self.password.is_some() && !session.authenticated && !matches!(command.run, Run::Auth) {
            return Err(Refusal::NoAuth);
        }
        match command.run {
            Run::Auth => self.authenticate(session, args),
            Run::Script(script) => self.scripts.run(script, session, args),
            Run::Plain(plain) => {
                let mut store = self.store.borrow_mut();
                if command.flags & GROWS != 0 {
                    store.room()?;
                }
                commands::run(plain, command.name, &mut store, session, args)
            }
        }
    }

    fn authenticate(&self, session: &mut Session, args: &[Bytes]) -> Answer {
        let (user, password) = match args {
            [_, password] => (None, password),
            [_, user, password] => (Some(user), password),
            _ => return Err(Refusal::Syntax),
        };
        let known = match &self.password {
            None if user.is_none() => {
                return Err(Refusal::say(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                ));
            }
            None => user.is_some_and(|u| &u[..] == b"default"),
            Some(wanted) => user.is_none_or(|u| &u[..] == b"default") && wanted.as_bytes() == &password[..],
        };
        if !known {
            return Err(Refusal::say("WRONGPASS invalid username-password pair or user is disabled."));
        }
        session.authenticated = true;
        Ok(Reply::OK)
    }
}

/// Unix time in milliseconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX))
}

/// As much of the arguments as fits.
const QUOTED: usize = 128;

fn unknown(args: &[Bytes]) -> Refusal {
    let cut = |text: &Bytes, most: usize| String::from_utf8_lossy(&text[..text.len().min(most)]).into_owned();
    let mut shown = String::new();
    for argument in &args[1..] {
        if shown.len() >= QUOTED {
            break;
        }
        let _ = write!(shown, "'{}' ", cut(argument, QUOTED - shown.len()));
    }
    Refusal::Other(format!("ERR unknown command '{}', with args beginning with: {shown}", cut(&args[0], QUOTED)).into())
}
