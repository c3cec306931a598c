//! A client of the admin socket.
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;

/// Most bytes of an error.
const MAX_ERROR: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cannot connect to {}: {error}; is the hub running?", socket.display())]
    Connect { socket: PathBuf, error: io::Error },
    #[error("{}: {error}", socket.display())]
    Broken { socket: PathBuf, error: String },
    #[error("cannot write the answer: {0}")]
    Write(io::Error),
    #[error("{} ({status})", body.trim_end())]
    Refused { status: StatusCode, body: String },
}

/// Sends a request and writes the body of the answer; any status but 200 is an error.
pub async fn ask(socket: &Path, method: Method, path: &str, out: &mut impl Write) -> Result<(), AskError> {
    let io = UnixStream::connect(socket).await.map_err(|error| AskError::Connect { socket: socket.into(), error })?;
    let broken = |error: String| AskError::Broken { socket: socket.into(), error };
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| broken(e.to_string()))?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new());
    let response = sender.send_request(request.map_err(|e| broken(e.to_string()))?).await.map_err(|e| broken(e.to_string()))?;
    let status = response.status();
    let mut body = response.into_body();
    if status != StatusCode::OK {
        let body = Limited::new(body, MAX_ERROR).collect().await.map_err(|e| broken(e.to_string()))?.to_bytes();
        return Err(AskError::Refused { status, body: String::from_utf8_lossy(&body).into_owned() });
    }
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| broken(e.to_string()))?.into_data() {
            out.write_all(&data).map_err(AskError::Write)?;
        }
    }
    Ok(())
}
