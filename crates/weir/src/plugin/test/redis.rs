//! A stand-in for a Redis server: the embedded Redis behind a port, and scripted replies to some commands.
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use weir_config::node::{Node, Value};
use weir_redis::{Command, Options, Reply, Server};

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

impl Script {
    fn reply(&self, command: &Command) -> Option<Reply> {
        let begins = |words: &[String]| {
            words.len() <= command.len()
                && words
                    .iter()
                    .zip(command)
                    .enumerate()
                    .all(|(i, (w, c))| w.as_bytes() == &c[..] || (i == 0 && w.as_bytes().eq_ignore_ascii_case(c)))
        };
        self.replies.iter().find(|(words, _)| begins(words)).map(|(_, reply)| reply.clone())
    }
}

/// From YAML: text, number, null, or a list of these.
pub fn reply(node: &Node) -> Reply {
    match &node.value {
        Value::Null => Reply::Nil,
        Value::Int(n) => Reply::Int(*n),
        Value::Bool(b) => Reply::Int(i64::from(*b)),
        Value::List(items) => Reply::Array(items.iter().map(reply).collect()),
        Value::String(text) => Reply::text(text.to_string()),
        _ => Reply::text(node.to_json().to_string()),
    }
}

pub struct StandIn {
    pub address: SocketAddr,
    server: Server,
    task: Option<JoinHandle<()>>,
}

impl StandIn {
    pub async fn start(script: Script) -> io::Result<StandIn> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = Server::start("stand-in", Options { password: script.password.clone(), ..Options::default() })?;
        for (key, value) in &script.data {
            server.run(&[b"SET", key.as_bytes(), value.as_bytes()]).await?;
        }
        let task = (!script.down).then(|| tokio::spawn(accept(listener, server.clone(), Arc::new(script))));
        Ok(StandIn { address, server, task })
    }

    /// The value of a string, for the expectations.
    pub async fn value(&self, key: &str) -> Option<String> {
        let reply = self.server.run(&[b"GET", key.as_bytes()]).await.ok()?;
        // `$n`, the text, and the end of its line.
        let from = reply.strip_prefix(b"$")?.iter().position(|b| *b == b'\n')? + 2;
        let text = reply.get(from..)?.strip_suffix(b"\r\n")?;
        Some(String::from_utf8_lossy(text).into_owned())
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
async fn accept(listener: TcpListener, server: Server, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (server, script) = (server.clone(), script.clone());
        // A connection that breaks the protocol is closed, as Redis does.
        connections.spawn(async move { weir_redis::serve(&server, stream, Some(&|command: &Command| script.reply(command))).await });
        while connections.try_join_next().is_some() {}
    }
}
