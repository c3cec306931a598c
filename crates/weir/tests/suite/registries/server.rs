//! Servers for the tests that can be stopped, with all their connections, and started again at the same port.
use crate::harness::{free_port, runtime};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, Mutex},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

type Accept = Arc<dyn Fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Something that takes connections on a port of loopback.
pub struct Server {
    pub port: u16,
    accept: Accept,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    /// At a port.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        port: u16,
        accept: impl Fn(TcpStream) -> F + Send + Sync + 'static,
    ) -> Option<Server> {
        let accept: Accept = Arc::new(move |io| Box::pin(accept(io)));
        let mut server = Server { port, accept, running: Mutex::new(None) };
        server.port = server.listen()?;
        Some(server)
    }

    fn listen(&self) -> Option<u16> {
        let listener = runtime().block_on(TcpListener::bind(("127.0.0.1", self.port))).ok()?;
        let port = listener.local_addr().unwrap().port();
        let accept = self.accept.clone();
        let task = runtime().spawn(async move {
            // Its connections end with the task.
            let mut connections = JoinSet::new();
            while let Ok((io, _)) = listener.accept().await {
                connections.spawn(accept(io));
            }
        });
        *self.running.lock().unwrap() = Some(task);
        Some(port)
    }

    pub fn stop(&self) {
        if let Some(task) = self.running.lock().unwrap().take() {
            task.abort();
            let _ = runtime().block_on(task);
        }
    }

    pub fn restart(&self) {
        // The port may be in use by the connection of somebody else for a moment.
        crate::harness::eventually("the port is free", || self.listen());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The status, headers and JSON of an answer.
pub type Answer = (u16, Vec<(&'static str, String)>, String);

/// An HTTP/1 server; the handler gets the request and its body.
pub fn http<F: Future<Output = Answer> + Send + 'static>(
    handler: impl Fn(Request<()>, Bytes) -> F + Clone + Send + Sync + 'static,
) -> Server {
    let serve = move |io: TcpStream| {
        let handler = handler.clone();
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let handler = handler.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let (status, headers, text) = handler(Request::from_parts(head, ()), body).await;
                    let mut answer = Response::builder().status(status).header("content-type", "application/json");
                    for (name, value) in headers {
                        answer = answer.header(name, value);
                    }
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(text))).unwrap())
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
        }
    };
    // While it is stopped nobody else gets its port.
    Server::start(free_port(), serve).unwrap()
}
