//! What changes something.
use super::{Query, Reply};
use crate::{
    Shared,
    app_log::{Level, Logger},
    drain::Phase,
    worker_thread::Command,
};
use hyper::StatusCode;
use std::sync::Arc;

pub(super) fn drain_listeners(shared: &Arc<Shared>, query: &Query) -> Reply {
    if !query.has("graceful") {
        shared.close_listeners();
        return Reply::text("OK\n");
    }
    shared.post_all(|| Command::Phase(Phase::Draining));
    if !query.has("skip_exit") {
        let shared = shared.clone();
        tokio::spawn(async move {
            tokio::time::sleep(shared.options.drain_time).await;
            shared.close_listeners();
        });
    }
    Reply::text("OK\n")
}

pub(super) fn health_fail(shared: &Arc<Shared>, _: &Query) -> Reply {
    shared.fail_health_check(true);
    Reply::text("OK\n")
}

pub(super) fn health_ok(shared: &Arc<Shared>, _: &Query) -> Reply {
    shared.fail_health_check(false);
    Reply::text("OK\n")
}

pub(super) fn quit(shared: &Arc<Shared>, _: &Query) -> Reply {
    shared.quit();
    Reply::text("OK\n")
}

pub(super) fn reopen_logs(shared: &Arc<Shared>, _: &Query) -> Reply {
    shared.sinks.reopen();
    Reply::text("OK\n")
}

/// All or nothing: one wrong word changes no level.
pub(super) fn logging(_: &Arc<Shared>, query: &Query) -> Reply {
    match wanted(&query.0) {
        Err(why) => return Reply::error(StatusCode::BAD_REQUEST, format!("{why}\n")),
        Ok(wanted) => wanted.into_iter().for_each(|(logger, level)| logger.set_level(level)),
    }
    let mut out = "active loggers:\n".to_string();
    for logger in Logger::ALL {
        out += &format!("  {}: {}\n", logger.name(), logger.level().name());
    }
    Reply::text(out)
}

/// A word of `/logging` that means nothing.
#[derive(Debug, thiserror::Error)]
enum LoggingError {
    #[error("unknown level `{0}`; accepted are {names}", names = Level::ALL.map(Level::name).join(", "))]
    Level(String),
    #[error("unknown logger `{0}`; there are {names}", names = Logger::ALL.iter().map(|l| l.name()).collect::<Vec<_>>().join(", "))]
    Logger(String),
    #[error("`{0}` is not of the form LOGGER:LEVEL")]
    Pair(String),
}

fn wanted(query: &[(String, String)]) -> Result<Vec<(Logger, Level)>, LoggingError> {
    let level = |word: &str| Level::parse(word).ok_or_else(|| LoggingError::Level(word.into()));
    let logger = |word: &str| Logger::ALL.iter().copied().find(|l| l.name() == word).ok_or_else(|| LoggingError::Logger(word.into()));
    let mut out = Vec::new();
    for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
        match name.as_str() {
            "level" => {
                let level = level(value)?;
                out.extend(Logger::ALL.iter().map(|l| (*l, level)));
            }
            "paths" => {
                for pair in value.split(',') {
                    let (name, word) = pair.split_once(':').ok_or_else(|| LoggingError::Pair(pair.into()))?;
                    out.push((logger(name)?, level(word)?));
                }
            }
            name => out.push((logger(name)?, level(value)?)),
        }
    }
    Ok(out)
}
