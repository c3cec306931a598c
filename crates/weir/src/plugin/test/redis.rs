//! A stand-in for Redis: strings, counters, hashes and expiry in memory; any other command by a scripted reply.
mod store;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};
use store::Store;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use weir_config::node::{Node, Value};

/// The largest command that is read; a plugin that sends more is wrong.
const MAX_COMMAND: usize = 64 << 20;

#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Asked for by AUTH before anything else.
    pub password: Option<String>,
    /// Nobody listens.
    pub down: bool,
    pub data: Vec<(String, String)>,
    /// For commands that begin with these words (the first in any case).
    pub replies: Vec<(Vec<String>, Reply)>,
}

/// A reply in RESP 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Status(&'static str),
    Error(String),
    Int(i64),
    Text(String),
    Nil,
    List(Vec<Reply>),
}

impl Reply {
    /// From YAML: text, number, null, or a list of these.
    pub fn of(node: &Node) -> Reply {
        match &node.value {
            Value::Null => Reply::Nil,
            Value::Int(n) => Reply::Int(*n),
            Value::Bool(b) => Reply::Int(i64::from(*b)),
            Value::List(items) => Reply::List(items.iter().map(Reply::of).collect()),
            Value::String(text) => Reply::Text(text.to_string()),
            _ => Reply::Text(node.to_json().to_string()),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Status(s) => out.extend(format!("+{s}\r\n").bytes()),
            Reply::Error(e) => out.extend(format!("-{e}\r\n").bytes()),
            Reply::Int(n) => out.extend(format!(":{n}\r\n").bytes()),
            Reply::Text(t) => out.extend(format!("${}\r\n{t}\r\n", t.len()).bytes()),
            Reply::Nil => out.extend(b"$-1\r\n"),
            Reply::List(items) => {
                out.extend(format!("*{}\r\n", items.len()).bytes());
                items.iter().for_each(|i| i.write(out));
            }
        }
    }
}

pub struct StandIn {
    pub address: SocketAddr,
    shared: Arc<(Script, Mutex<Store>)>,
    task: Option<JoinHandle<()>>,
}

impl StandIn {
    pub async fn start(script: Script) -> io::Result<StandIn> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (down, store) = (script.down, Store::new(&script.data));
        let shared = Arc::new((script, Mutex::new(store)));
        let task = (!down).then(|| tokio::spawn(accept(listener, shared.clone())));
        Ok(StandIn { address, shared, task })
    }

    /// The value of a string, for the expectations.
    pub fn value(&self, key: &str) -> Option<String> {
        self.shared.1.lock().unwrap_or_else(PoisonError::into_inner).text(key)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Connections end with this: a stand-in that is gone answers nobody.
async fn accept(listener: TcpListener, shared: Arc<(Script, Mutex<Store>)>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A connection that breaks the protocol is closed, as Redis does.
        connections.spawn(serve(stream, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, shared: Arc<(Script, Mutex<Store>)>) -> io::Result<()> {
    let (script, store) = &*shared;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut known = script.password.is_none();
    let mut out = Vec::new();
    while let Some(command) = command(&mut read).await? {
        answer(script, store, &command, &mut known).write(&mut out);
        if read.buffer().is_empty() {
            write.write_all(&out).await?;
            out.clear();
        }
    }
    Ok(())
}

fn answer(script: &Script, store: &Mutex<Store>, command: &[String], known: &mut bool) -> Reply {
    let word = command.first().map(|w| w.to_ascii_uppercase()).unwrap_or_default();
    if word == "AUTH" {
        *known = script.password.as_deref() == command.last().map(String::as_str);
        return match (*known, &script.password) {
            (true, _) => Reply::Status("OK"),
            (_, None) => Reply::Error("ERR AUTH <password> called without any password configured".into()),
            _ => Reply::Error("WRONGPASS invalid username-password pair or user is disabled.".into()),
        };
    }
    if !*known {
        return Reply::Error("NOAUTH Authentication required.".into());
    }
    let begins = |words: &[String]| {
        words.len() <= command.len()
            && words.iter().zip(command).enumerate().all(|(i, (w, c))| w == c || (i == 0 && w.eq_ignore_ascii_case(c)))
    };
    if let Some((_, reply)) = script.replies.iter().find(|(words, _)| begins(words)) {
        return reply.clone();
    }
    store.lock().unwrap_or_else(PoisonError::into_inner).run(&word, &command[1.min(command.len())..])
}

/// One command: an array of bulk strings. `None` at the end.
async fn command(read: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Vec<String>>> {
    let Some(count) = number(read, '*').await? else { return Ok(None) };
    let (mut words, mut total) = (Vec::new(), 0);
    for _ in 0..count {
        let size = number(read, '$').await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        total += size;
        if total > MAX_COMMAND {
            return Err(io::Error::other("the command is too large"));
        }
        let mut word = vec![0; size + 2];
        read.read_exact(&mut word).await?;
        word.truncate(size);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(Some(words))
}

async fn number(read: &mut (impl AsyncBufReadExt + Unpin), kind: char) -> io::Result<Option<usize>> {
    let mut line = String::new();
    if read.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let number = line.trim_end().strip_prefix(kind).and_then(|n| n.parse().ok());
    number.map(Some).ok_or_else(|| io::Error::other(format!("not RESP: {line:?}")))
}
