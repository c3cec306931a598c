//! The script that runs.
use super::raised::Raised;
use crate::{commands::Session, options::ScriptLimits, store::Store};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};

/// The state of the generator behind `math.random` before anybody seeds it: that of C's `lrand48`.
const FIRST_RANDOM: u64 = 0x1234_abcd_330e;

/// What the script that runs may do, and has done.
pub struct Run {
    pub store: Rc<RefCell<Store>>,
    pub session: RefCell<Session>,
    pub read_only: Cell<bool>,
    /// Instructions left.
    budget: Cell<u64>,
    ends: Cell<Instant>,
    pub limits: ScriptLimits,
    /// Of `math.random`: 48 bits.
    pub random: Cell<u64>,
}

impl Run {
    pub fn new(store: Rc<RefCell<Store>>, limits: ScriptLimits) -> Run {
        Run {
            store,
            session: RefCell::default(),
            read_only: Cell::new(false),
            budget: Cell::new(limits.instructions),
            ends: Cell::new(Instant::now() + limits.time),
            limits,
            random: Cell::new(FIRST_RANDOM),
        }
    }

    /// Before a script.
    pub fn begin(&self, session: &Session, read_only: bool) {
        self.budget.set(self.limits.instructions);
        self.ends.set(Instant::now() + self.limits.time);
        self.read_only.set(read_only);
        *self.session.borrow_mut() = session.clone();
    }

    /// Notes that so many instructions have run.
    pub fn spend(&self, instructions: u32) {
        self.budget.set(self.budget.get().saturating_sub(u64::from(instructions)));
    }

    /// Why the script must stop.
    pub fn over_budget(&self) -> Result<(), Raised> {
        if self.budget.get() == 0 {
            return Err(Raised(format!("ERR the script was stopped: it ran more than {} instructions", self.limits.instructions)));
        }
        if Instant::now() >= self.ends.get() {
            return Err(Raised(format!("ERR the script was stopped: it ran longer than {:?}", self.limits.time)));
        }
        Ok(())
    }
}
