//! The question "does this server work?", asked when a configuration is loaded.
use super::{
    Duplex, Options,
    pipeline::Pipeline,
    resp::{ProtocolError, command},
};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Why a server does not work.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("{0}")]
    Protocol(ProtocolError),
    #[error("no answer to PING within {0:?}")]
    Timeout(Duration),
    #[error("the server asks for a password: {0}")]
    NoPassword(String),
    #[error("{command} was refused: {answer}")]
    Refused { command: String, answer: String },
}

/// Opens the conversation as a client would, and sends `PING`.
///
/// # Errors
/// Checks that a server answers; an error names the likely reason.
pub async fn check(mut io: impl Duplex, options: &Options) -> Result<(), CheckError> {
    let mut pipeline = Pipeline::new();
    let talk = async {
        let mut answers = Vec::new();
        pipeline.push(&command(&[b"PING"]), false, Instant::now() + options.timeout, (), &mut answers);
        pipeline.connected(options, &mut answers);
        while answers.is_empty() {
            io.write_all(&pipeline.out.split()).await?;
            io.flush().await?;
            if io.read_buf(&mut pipeline.inbox).await? == 0 {
                return Err(CheckError::Closed);
            }
            pipeline.receive(options, &mut answers).map_err(CheckError::Protocol)?;
        }
        Ok(super::pipeline::error_text(&answers[0].1))
    };
    let said = timeout(options.timeout, talk).await.map_err(|_| CheckError::Timeout(options.timeout))??;
    let refused = |command: &str, answer: &str| Err(CheckError::Refused { command: command.into(), answer: answer.into() });
    let verdicts = &pipeline.verdicts;
    if let Some(text) = &verdicts.auth {
        return refused("AUTH", text);
    }
    match (&verdicts.select, said) {
        (_, Some(text)) if text.starts_with("NOAUTH") => Err(CheckError::NoPassword(text)),
        (Some(text), _) => refused(&format!("SELECT {}", options.database), text),
        (None, Some(text)) if text.starts_with("NOPERM") => Ok(()),
        (None, Some(text)) => refused("PING", &text),
        (None, None) => Ok(()),
    }
}
