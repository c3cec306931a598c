//! A hub that runs: what it prints, the signals that it gets, and how another process takes over.
use super::{config::Config, service};
use crate::cli::output::{say, warning};
use anyhow::Result;
use std::{process::ExitCode, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::broadcast::error::RecvError,
    task::JoinSet,
};
use weir_config::text::counted;
use weir_edge::{
    dummy::Interface,
    handover::{HandoverError, Predecessor, Sockets, Successor},
    run::{Options, Running},
    settings,
};

/// Time between two looks at the file of settings.
const RELOAD: Duration = Duration::from_millis(500);

/// What a signal asks for.
enum Wanted {
    End,
    /// SIGUSR2, as nginx has it.
    HandOver,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    user2: Signal,
}

impl Signals {
    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::End,
            _ = self.interrupt.recv() => Wanted::End,
            _ = self.user2.recv() => Wanted::HandOver,
        }
    }

    async fn end(&mut self) {
        while matches!(self.next().await, Wanted::HandOver) {}
    }
}

/// Serves until a signal ends it, or until another process has taken over and what was open has ended.
pub async fn serve(mut options: Options, mut config: Option<Config>, drain_time: Duration) -> Result<ExitCode> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        user2: signal(SignalKind::user_defined2())?,
    };
    let mut predecessor = Predecessor::of_this_process()?;
    let mut inherited = predecessor.as_mut().map(Predecessor::sockets).transpose()?.unwrap_or_default();
    // What is open in hubs that have given their sockets away.
    let mut retired = JoinSet::new();
    loop {
        let running = Running::start(options.clone(), inherited).await?;
        print(&running, &options);
        if let Some(predecessor) = predecessor.take() {
            say!("process {} has taken over from process {}", std::process::id(), predecessor.id);
            predecessor.serving()?;
        }
        if let Err(e) = service::ready() {
            warning!("cannot tell the service manager: {e}");
        }
        let successor = loop {
            match follow(&running, &mut config, &mut signals).await {
                Wanted::End => {
                    remove(options.interface.take()).await;
                    return Ok(ExitCode::SUCCESS);
                }
                Wanted::HandOver => match successor().await {
                    Ok(successor) => break successor,
                    Err(e) => warning!("{e}; this process goes on"),
                },
            }
        };
        options.settings = running.hub.settings.borrow().file.clone();
        match hand_over(running, successor).await {
            Ok(running) => {
                retired.spawn(async move { running.drain(drain_time).await });
                tokio::select! {
                    _ = retired.join_all() => {}
                    () = signals.end() => {}
                }
                return Ok(ExitCode::SUCCESS);
            }
            Err((running, sockets, e)) => {
                warning!("{e}; this process goes on");
                retired.spawn(async move { running.drain(drain_time).await });
                inherited = sockets;
            }
        }
    }
}

/// A hub that is stopped leaves no address behind at which nobody answers.
async fn remove(interface: Option<Interface>) {
    let Some(interface) = interface else { return };
    if let Ok(Err(e)) = tokio::task::spawn_blocking(move || interface.remove()).await {
        warning!("{e}");
    }
}

/// Starts the process that takes over, and waits until it could.
async fn successor() -> Result<Successor, HandoverError> {
    let started = tokio::task::spawn_blocking(|| {
        let mut successor = Successor::start()?;
        match successor.ready() {
            Ok(()) => Ok(successor),
            Err(e) => {
                successor.end();
                Err(e)
            }
        }
    });
    started.await.unwrap_or_else(|e| Err(HandoverError::Failed(std::io::Error::other(e))))
}

/// Gives the store and the sockets away; where that fails, they are back.
async fn hand_over(mut running: Running, mut successor: Successor) -> Result<Running, (Running, Sockets, HandoverError)> {
    let sockets = running.hand_over().await;
    let given = tokio::task::spawn_blocking(move || match successor.give(&sockets) {
        Ok(()) => Ok(()),
        Err(e) => {
            successor.end();
            Err((sockets, e))
        }
    });
    match given.await {
        Ok(Ok(())) => Ok(running),
        Ok(Err((sockets, e))) => Err((running, sockets, e)),
        Err(e) => Err((running, Sockets::default(), HandoverError::Failed(std::io::Error::other(e)))),
    }
}

fn print(running: &Running, options: &Options) {
    let (lists, objects) = running.hub.cache.kept();
    say!("kept: {}, {}", counted(lists, "list"), counted(objects, "object"));
    let waiting = running.hub.writes.outbox.waiting();
    if waiting > 0 {
        say!("waiting to be sent: {}", counted(waiting, "write"));
    }
    if let Err(e) = running.hub.remote.credentials() {
        warning!("{e}; until it can be read, requests of the node are answered from what was kept");
    }
    for (scheme, address) in &running.listeners {
        match *scheme {
            "admin" => say!("admin endpoints at http://{address}"),
            "pool" => say!("listening for other hubs of the node pool on https://{address}"),
            scheme => say!("listening on {scheme}://{address}"),
        }
    }
    match &running.no_admin_socket {
        None => say!("admin socket at {}", options.admin_socket.display()),
        Some(e) => warning!("no admin socket at {}: {e}", options.admin_socket.display()),
    }
    let servers: Vec<&str> = options.servers.iter().map(url::Url::as_str).collect();
    say!("API server at {}", servers.join(", "));
}

/// Prints what happens until a signal comes.
async fn follow(running: &Running, config: &mut Option<Config>, signals: &mut Signals) -> Wanted {
    let mut notices = running.hub.writes.outbox.notices();
    let mut link = running.hub.remote.changes();
    let mut look = tokio::time::interval(RELOAD);
    loop {
        tokio::select! {
            _ = look.tick() => reload(running, config),
            wanted = signals.next() => return wanted,
            notice = notices.recv() => match notice {
                Ok(notice) => say!("{notice}"),
                Err(RecvError::Lagged(n)) => say!("{} were not printed", counted(n as usize, "line")),
                Err(RecvError::Closed) => return Wanted::End,
            },
            changed = link.changed() => match changed {
                Err(_) => return Wanted::End,
                Ok(()) if *link.borrow_and_update() => say!("the API server can be reached"),
                Ok(()) => say!("the API server cannot be reached: reads are answered from what was kept, and what the node reports is kept to be sent later"),
            },
        }
    }
}

/// Reads the file of settings again if it has changed.
fn reload(running: &Running, config: &mut Option<Config>) {
    let Some(config) = config else { return };
    match config.changed() {
        None => {}
        Some(Ok(file)) => {
            settings::set(&running.hub.settings, |settings| &mut settings.file, file);
            say!("{} was read again", config.path().display());
        }
        Some(Err(findings)) => warning!("{}; the previous settings stay in effect", config.bad(&findings)),
    }
}
