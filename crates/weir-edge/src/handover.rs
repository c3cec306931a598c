//! Another process takes over: it gets the listening sockets, and then the store, so that no connection is refused meanwhile.
//!
//! The process that serves starts the new one with a socket as its standard input. On it go, in this order: `ready` (the new one can
//! read its settings), the names of the sockets with their descriptors (the store is free now), `serving` (the new one accepts). Until
//! the last word the old one can go on by itself.
use rustix::{
    cmsg_space,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg},
};
use std::{
    env, io,
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Tells a process that its parent hands over to it: the parent's process id.
const VARIABLE: &str = "WEIR_EDGE_HANDOVER";
/// Most sockets.
const SOCKETS: usize = 8;
/// For one step.
const PATIENCE: Duration = Duration::from_secs(60);
const READY: &str = "ready\n";
const SERVING: &str = "serving\n";

/// Listening sockets by the names of their listeners.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(String, TcpListener)>);

impl Sockets {
    pub fn add(&mut self, name: &str, listener: TcpListener) {
        self.0.push((name.into(), listener));
    }

    pub fn take(&mut self, name: &str) -> Option<TcpListener> {
        let at = self.0.iter().position(|(of, _)| of == name)?;
        Some(self.0.remove(at).1)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("cannot start {program:?}: {error}")]
    Start { program: String, error: io::Error },
    #[error("the new process did not take over: {0}")]
    Failed(io::Error),
    #[error("the process that serves did not hand over: {0}")]
    Refused(io::Error),
}

/// The new process, as the old one sees it.
pub struct Successor {
    child: Child,
    stream: UnixStream,
}

impl Successor {
    /// Starts the program of this process again, which may be another file by now, with the same arguments.
    pub fn start() -> Result<Successor, HandoverError> {
        let mut arguments = env::args_os();
        let program = arguments.next().unwrap_or_default();
        let failed = |error| HandoverError::Start { program: program.to_string_lossy().into_owned(), error };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        ours.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        let mut command = Command::new(&program);
        command.args(arguments).env(VARIABLE, std::process::id().to_string()).stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn().map_err(failed)?;
        Ok(Successor { child, stream: ours })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it could serve.
    pub fn ready(&mut self) -> Result<(), HandoverError> {
        self.expect(READY)
    }

    /// Gives it the sockets, and waits until it accepts connections. The store is free.
    pub fn give(&mut self, sockets: &Sockets) -> Result<(), HandoverError> {
        send(&self.stream, sockets).map_err(HandoverError::Failed)?;
        self.expect(SERVING)
    }

    /// Ends it, where it cannot take over.
    pub fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn expect(&mut self, word: &str) -> Result<(), HandoverError> {
        let mut got = vec![0; word.len()];
        match self.stream.read_exact(&mut got) {
            Ok(()) if got == word.as_bytes() => Ok(()),
            Ok(()) => Err(HandoverError::Failed(io::Error::other("it is another program"))),
            Err(e) => Err(HandoverError::Failed(match e.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                    io::Error::other(format!("it has ended without {:?}", word.trim_end()))
                }
                io::ErrorKind::WouldBlock => io::Error::other(format!("no {:?} within {PATIENCE:?}", word.trim_end())),
                _ => e,
            })),
        }
    }
}

/// The old process, as the new one sees it.
pub struct Predecessor {
    stream: UnixStream,
    pub id: u32,
}

impl Predecessor {
    /// `None`: nobody hands over to this process.
    pub fn of_this_process() -> Result<Option<Predecessor>, HandoverError> {
        let parent = rustix::process::getppid().map(|id| id.as_raw_nonzero().get().cast_unsigned());
        let told = env::var(VARIABLE).ok().and_then(|text| text.parse::<u32>().ok());
        let Some(id) = told.filter(|told| Some(*told) == parent) else { return Ok(None) };
        let stream = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from).map_err(HandoverError::Refused)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(HandoverError::Refused)?;
        Ok(Some(Predecessor { stream, id }))
    }

    /// Asks for the sockets. Once they are here, the store is free.
    pub fn sockets(&mut self) -> Result<Sockets, HandoverError> {
        self.stream.write_all(READY.as_bytes()).map_err(HandoverError::Refused)?;
        receive(&self.stream).map_err(HandoverError::Refused)
    }

    /// Connections are accepted from now on.
    pub fn serving(mut self) -> Result<(), HandoverError> {
        self.stream.write_all(SERVING.as_bytes()).map_err(HandoverError::Refused)
    }
}

fn send(stream: &UnixStream, sockets: &Sockets) -> io::Result<()> {
    let names: Vec<&str> = sockets.0.iter().map(|(name, _)| name.as_str()).collect();
    let descriptors: Vec<_> = sockets.0.iter().map(|(_, listener)| listener.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other(format!("more than {SOCKETS} sockets")));
    }
    let text = names.join("\n") + "\n\n";
    match sendmsg(stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)? {
        sent if sent == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

fn receive(stream: &UnixStream) -> io::Result<Sockets> {
    let mut text = [0; 1024];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptors = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<OwnedFd>>(),
        _ => Vec::new(),
    });
    let listeners: Vec<TcpListener> = descriptors.map(TcpListener::from).collect();
    let text = std::str::from_utf8(&text[..message.bytes]).ok().and_then(|text| text.strip_suffix("\n\n"));
    let names: Vec<&str> = text.ok_or_else(|| io::Error::other("it has ended"))?.lines().collect();
    match names.len() == listeners.len() {
        true => Ok(Sockets(names.into_iter().map(String::from).zip(listeners).collect())),
        false => Err(io::Error::other("sockets are missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn sockets_go_to_another_process_with_who_waits_on_them() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut sockets = Sockets::default();
        for name in ["http", "https"] {
            sockets.add(name, TcpListener::bind("127.0.0.1:0").unwrap());
        }
        let address = sockets.0[1].1.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        send(&here, &sockets).unwrap();
        drop(sockets);
        let mut got = receive(&there).unwrap();
        let listener = got.take("https").unwrap();
        assert!(got.take("https").is_none() && got.take("http").is_some());
        listener.accept().unwrap().0.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(here);
        assert!(receive(&there).is_err());
    }
}
