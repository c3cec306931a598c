//! Compiled access logs, kept from one configuration to the next.
use crate::access_log::{AccessLogger, Sinks};
use std::sync::Arc;
use weir_config::{diagnostic::Diagnostic, model::AccessLog};

#[derive(Default)]
pub(super) struct Logs(Vec<Compiled>);

struct Compiled {
    config: Vec<AccessLog>,
    logs: Arc<[AccessLogger]>,
    findings: Vec<Diagnostic>,
}

impl Logs {
    /// The access logs of a connection manager. One that cannot be compiled or opened is left out and said.
    pub fn get(&mut self, config: &[AccessLog], sinks: &Sinks) -> (Arc<[AccessLogger]>, &[Diagnostic]) {
        let at = self.0.iter().position(|c| c.config == config).unwrap_or_else(|| {
            let (mut logs, mut findings) = (Vec::new(), Vec::new());
            for log in config {
                match AccessLogger::compile(log, sinks) {
                    Ok(logger) => logs.push(logger),
                    Err(f) => findings.extend(f),
                }
            }
            self.0.push(Compiled { config: config.to_vec(), logs: logs.into(), findings });
            self.0.len() - 1
        });
        (self.0[at].logs.clone(), &self.0[at].findings)
    }

    /// Forgets logs that nothing writes to.
    pub fn sweep(&mut self) {
        self.0.retain(|c| Arc::strong_count(&c.logs) > 1);
    }
}
