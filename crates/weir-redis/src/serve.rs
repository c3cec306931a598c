//! One connection: commands in, replies out, in order.
use crate::{
    commands::Session,
    reply::Reply,
    request::{Command, Parser},
    server::Server,
};
use bytes::BytesMut;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

/// Commands that are run together.
const BATCH: usize = 64;

/// Of the connection in memory, each way.
const PIPE: usize = 64 << 10;
impl Server {
    /// A connection in memory. Must be called within a tokio runtime, whose task serves it until it is dropped.
    pub fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let server = self.clone();
        tokio::spawn(async move {
            // A connection that breaks the protocol has been told so, and is closed.
            let _ = serve(&server, ours, None).await;
        });
        theirs
    }
}

/// Answers a command in place of the server.
pub type Intercept<'a> = &'a (dyn Fn(&Command) -> Option<Reply> + Send + Sync);

/// Serves until the client closes, breaks the protocol or the server ends. `intercept` sees what an authenticated client sends.
///
/// # Errors
/// Of the connection.
pub async fn serve(
    server: &Server,
    mut io: impl AsyncRead + AsyncWrite + Unpin + Send,
    intercept: Option<Intercept<'_>>,
) -> io::Result<()> {
    let (mut parser, mut input, mut session) = (Parser::default(), BytesMut::new(), Session::default());
    let max = server.options().max_memory;
    loop {
        let mut commands = Vec::new();
        let wrong = loop {
            if commands.len() >= BATCH {
                break None;
            }
            match parser.take(&mut input, max) {
                Ok(Some(command)) => commands.push(command),
                Ok(None) => break None,
                Err(wrong) => break Some(wrong),
            }
        };
        let idle = commands.is_empty();
        match intercept {
            None => run(server, &mut io, &mut session, commands).await?,
            Some(intercept) => {
                for command in commands {
                    let known = session.authenticated || server.options().password.is_none();
                    match intercept(&command).filter(|_| known) {
                        Some(reply) => write(&mut io, reply).await?,
                        None => run(server, &mut io, &mut session, vec![command]).await?,
                    }
                }
            }
        }
        if let Some(wrong) = wrong {
            return write(&mut io, Reply::Error(wrong.to_string().into())).await;
        }
        if idle && io.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

async fn run(server: &Server, io: &mut (impl AsyncWrite + Unpin), session: &mut Session, mut commands: Vec<Command>) -> io::Result<()> {
    while !commands.is_empty() {
        let done = server.execute(commands, session.clone()).await?;
        *session = done.session;
        commands = done.left;
        io.write_all(&done.replies).await?;
        io.flush().await?;
    }
    Ok(())
}

async fn write(io: &mut (impl AsyncWrite + Unpin), reply: Reply) -> io::Result<()> {
    let mut out = Vec::new();
    reply.write(&mut out);
    io.write_all(&out).await?;
    io.flush().await
}
