//! A client of the admin socket.
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::{
    io,
    path::{Path, PathBuf},
};
use tokio::net::UnixStream;

/// Most bytes of an answer.
const MAX_ANSWER: usize = 1 << 30;

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cannot connect to {}: {error}", socket.display())]
    Connect { socket: PathBuf, error: io::Error },
    #[error("{}: {error}", socket.display())]
    Broken { socket: PathBuf, error: String },
    #[error("{path}: {status}: {}", body.trim_end())]
    Refused { path: String, status: StatusCode, body: String },
}

/// `GET` of a path; any status but 200 is an error.
pub async fn ask(socket: &Path, path: &str) -> Result<Bytes, AskError> {
    let io = UnixStream::connect(socket).await.map_err(|error| AskError::Connect { socket: socket.into(), error })?;
    let broken = |error: String| AskError::Broken { socket: socket.into(), error };
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| broken(e.to_string()))?;
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new()).map_err(|e| broken(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|e| broken(e.to_string()))?.to_bytes();
    match status {
        StatusCode::OK => Ok(body),
        _ => Err(AskError::Refused { path: path.into(), status, body: String::from_utf8_lossy(&body).into_owned() }),
    }
}
