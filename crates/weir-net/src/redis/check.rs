//! The question "does this server work?", asked when a configuration is loaded.
use super::{Duplex, Options, pipeline::Pipeline, resp::command};
use std::time::Instant;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Opens the conversation as a client would, and sends `PING`.
///
/// # Errors
/// What is wrong, in words that name the likely reason.
pub async fn check(mut io: impl Duplex, options: &Options) -> Result<(), String> {
    let mut pipeline = Pipeline::new();
    let talk = async {
        let mut answers = Vec::new();
        pipeline.push(&command(&[b"PING"]), false, Instant::now() + options.timeout, (), &mut answers);
        pipeline.connected(options, &mut answers);
        while answers.is_empty() {
            io.write_all(&pipeline.out.split()).await.map_err(|e| e.to_string())?;
            io.flush().await.map_err(|e| e.to_string())?;
            if io.read_buf(&mut pipeline.inbox).await.map_err(|e| e.to_string())? == 0 {
                return Err("the server closed the connection".to_string());
            }
            pipeline.receive(options, &mut answers).map_err(|e| e.to_string())?;
        }
        Ok(super::pipeline::error_text(&answers[0].1))
    };
    let said = timeout(options.timeout, talk).await.map_err(|_| format!("no answer to PING within {:?}", options.timeout))??;
    let verdicts = &pipeline.verdicts;
    if let Some(text) = &verdicts.auth {
        return Err(format!("AUTH was refused: {text}"));
    }
    match (&verdicts.select, said) {
        (_, Some(text)) if text.starts_with("NOAUTH") => Err(format!("the server asks for a password: {text}")),
        (Some(text), _) => Err(format!("SELECT {} was refused: {text}", options.database)),
        (None, Some(text)) if text.starts_with("NOPERM") => Ok(()),
        (None, Some(text)) => Err(format!("PING was refused: {text}")),
        (None, None) => Ok(()),
    }
}
