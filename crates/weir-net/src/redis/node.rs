//! One server: the socket under a [`Pipeline`], opened when it is needed.
use super::{Answer, Error, Options, ProtocolError, Status, count, pipeline::Pipeline, resp::Query};
use bytes::Bytes;
use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{Sleep, sleep, sleep_until, timeout_at},
};

/// A connection in the clear or under TLS.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// Opens a connection: to the client's own server, or to the `host:port` of a redirect (the host may be empty: the same one).
pub type Dial = Rc<dyn Fn(Option<&str>) -> Dialing>;
/// A connection on its way.
pub type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>>>>;

/// Who waits for an answer.
pub(super) type Done = Box<dyn FnOnce(Answer)>;

/// After a failure nothing is tried for this long, doubling up to the second; meanwhile commands fail.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// An immediate failure is reported after this pause, so that a caller in a retry loop cannot spin.
const FAIL_PAUSE: Duration = Duration::from_millis(1);
/// A refused handshake is tried again after this time: the password may have been corrected.
const RETRY_HANDSHAKE: Duration = Duration::from_secs(1);
const READ_SIZE: usize = 16 << 10;
/// Reads in one turn of the loop.
const READS: usize = 16;

pub(super) struct Node {
    shared: Rc<Shared>,
}

struct Shared {
    options: Rc<Options>,
    status: Rc<Status>,
    dial: Dial,
    /// `None` for the client's own server.
    address: Option<String>,
    inner: RefCell<Inner>,
    /// Of the task that drives the connection.
    waker: RefCell<Option<Waker>>,
    dropped: Cell<bool>,
}

struct Inner {
    pipeline: Pipeline<Done>,
    /// A task connects or drives.
    running: bool,
    /// The task must connect again.
    reopen: bool,
    opened: Option<Instant>,
    /// Connections in a row that yielded no reply.
    failures: u32,
    retry_at: Option<Instant>,
}

enum End {
    Failed(Error),
    Reopen,
    Dropped,
}

impl Node {
    pub fn new(options: Rc<Options>, status: Rc<Status>, dial: Dial, address: Option<String>) -> Node {
        let inner = Inner { pipeline: Pipeline::new(), running: false, reopen: false, opened: None, failures: 0, retry_at: None };
        Node {
            shared: Rc::new(Shared {
                options,
                status,
                dial,
                address,
                inner: RefCell::new(inner),
                waker: RefCell::new(None),
                dropped: Cell::new(false),
            }),
        }
    }

    /// The last connection failed, and it is too early for another.
    pub fn is_down(&self) -> bool {
        let inner = self.shared.inner.borrow();
        !inner.running && inner.retry_at.is_some_and(|at| at > Instant::now())
    }

    /// `done` is never called before this returns.
    pub fn call(&self, query: &Query, asking: bool, deadline: Instant, done: Done) {
        let shared = &self.shared;
        let now = Instant::now();
        let mut answers = Vec::new();
        let mut inner = shared.inner.borrow_mut();
        if !inner.running && inner.retry_at.is_some_and(|at| at > now) {
            let last = shared.status.last_error.borrow().clone();
            return fail_later(done, last.unwrap_or(Error::Timeout));
        }
        if !inner.pipeline.has_room(query.bytes.len(), &shared.options) {
            count(&shared.status.counters.overflows);
            return fail_later(done, Error::Overflow);
        }
        if inner.is_stale(now) {
            inner.pipeline.close();
            inner.reopen = true;
        }
        inner.pipeline.push(&query.bytes, asking, deadline, done, &mut answers);
        let start = !std::mem::replace(&mut inner.running, true);
        drop(inner);
        if start {
            tokio::task::spawn_local(run(shared.clone()));
        } else {
            shared.wake();
        }
        for (done, reply) in answers {
            tokio::task::spawn_local(async move { done(Ok(reply)) });
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.dropped.set(true);
        self.shared.wake();
    }
}

impl Inner {
    fn is_stale(&self, now: Instant) -> bool {
        let verdicts = &self.pipeline.verdicts;
        (verdicts.auth.is_some() || verdicts.select.is_some())
            && self.running
            && self.pipeline.is_idle()
            && self.opened.is_some_and(|t| now.duration_since(t) > RETRY_HANDSHAKE)
    }

    fn fruitless(&mut self) {
        let wait = BACKOFF.0.saturating_mul(1 << self.failures.min(8)).min(BACKOFF.1);
        self.failures += 1;
        self.retry_at = Some(Instant::now() + wait);
    }
}

fn fail_later(done: Done, error: Error) {
    tokio::task::spawn_local(async move {
        sleep(FAIL_PAUSE).await;
        done(Err(error));
    });
}

impl Shared {
    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ends this connection for all who wait on it.
    fn fail(&self, error: Error, fruitless: bool) {
        let waiting = {
            let mut inner = self.inner.borrow_mut();
            inner.running = false;
            inner.opened = None;
            if fruitless {
                inner.fruitless();
            }
            inner.pipeline.close()
        };
        self.status.connected.set(false);
        *self.status.last_error.borrow_mut() = Some(error.clone());
        for done in waiting {
            done(Err(error.clone()));
        }
    }

    fn keep_verdicts(&self) {
        let inner = self.inner.borrow();
        *self.status.auth_error.borrow_mut() = inner.pipeline.verdicts.auth.clone();
        *self.status.select_error.borrow_mut() = inner.pipeline.verdicts.select.clone();
    }
}

/// Connects and drives until the connection ends; the next command starts another.
async fn run(shared: Rc<Shared>) {
    loop {
        let io = match connect(&shared).await {
            Ok(io) => io,
            Err(e) => {
                count(&shared.status.counters.connect_failures);
                return shared.fail(e, true);
            }
        };
        count(&shared.status.counters.connects);
        shared.status.connected.set(true);
        let mut answers = Vec::new();
        {
            let mut inner = shared.inner.borrow_mut();
            inner.opened = Some(Instant::now());
            inner.reopen = false;
            inner.pipeline.connected(&shared.options, &mut answers);
        }
        let mut driver = Driver { shared: &shared, io, timer: None, unflushed: false, replies: 0 };
        match poll_fn(|cx| driver.poll(cx)).await {
            End::Reopen => continue,
            End::Failed(e) => {
                let too_much = matches!(e, Error::Protocol(ProtocolError::TooLarge | ProtocolError::TooDeep));
                let fruitless = driver.replies == 0 && !too_much;
                drop(driver);
                return shared.fail(e, fruitless);
            }
            End::Dropped => return shared.fail(Error::Closed("the client is gone".into()), false),
        }
    }
}

async fn connect(shared: &Shared) -> Result<Box<dyn Duplex>, Error> {
    let deadline = shared.inner.borrow().pipeline.deadline().unwrap_or_else(|| Instant::now() + shared.options.timeout);
    let dialled = timeout_at(deadline.into(), (shared.dial)(shared.address.as_deref())).await;
    match dialled {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(e)) => Err(Error::Connect(e.to_string())),
        Err(_) => {
            count(&shared.status.counters.timeouts);
            Err(Error::Connect("timed out".into()))
        }
    }
}

struct Driver<'a> {
    shared: &'a Rc<Shared>,
    io: Box<dyn Duplex>,
    /// May ring early: it is only moved when it has rung.
    timer: Option<Pin<Box<Sleep>>>,
    unflushed: bool,
    replies: u64,
}

impl Driver<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        *self.shared.waker.borrow_mut() = Some(cx.waker().clone());
        if std::mem::take(&mut self.shared.inner.borrow_mut().reopen) {
            return Poll::Ready(End::Reopen);
        }
        // What is read may free what is to be written: the commands behind the handshake.
        let talked = self.write(cx).and_then(|()| self.read(cx)).and_then(|()| self.write(cx));
        if let Err(e) = talked {
            return Poll::Ready(End::Failed(e));
        }
        if self.shared.dropped.get() && self.shared.inner.borrow().pipeline.is_idle() {
            return Poll::Ready(End::Dropped);
        }
        self.poll_timer(cx)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.poll_write(cx).map_err(|e| Error::Closed(e.to_string()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut inner = self.shared.inner.borrow_mut();
        let out = &mut inner.pipeline.out;
        while !out.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, out) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    bytes::Buf::advance(out, n);
                    self.unflushed = true;
                }
                Poll::Ready(Err(e)) => return Err(e),
                Poll::Pending => return Ok(()),
            }
        }
        if self.unflushed && Pin::new(&mut self.io).poll_flush(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        for _ in 0..READS {
            let mut answers: Vec<(Done, Bytes)> = Vec::new();
            let (received, handshaking) = {
                let inner = &mut *self.shared.inner.borrow_mut();
                let inbox = &mut inner.pipeline.inbox;
                inbox.reserve(READ_SIZE);
                match pin!(self.io.read_buf(inbox)).poll(cx) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(0)) => return Err(Error::Closed("by the server".into())),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(e)) => return Err(Error::Closed(e.to_string())),
                }
                (inner.pipeline.receive(&self.shared.options, &mut answers), self.replies == 0)
            };
            if handshaking {
                self.shared.keep_verdicts();
            }
            self.deliver(answers);
            received.map_err(Error::Protocol)?;
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Without any borrow: who is answered may call again at once.
    fn deliver(&mut self, answers: Vec<(Done, Bytes)>) {
        if !answers.is_empty() {
            let mut inner = self.shared.inner.borrow_mut();
            (inner.failures, inner.retry_at) = (0, None);
        }
        for (done, reply) in answers {
            self.replies += 1;
            done(Ok(reply));
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let deadline = self.shared.inner.borrow().pipeline.deadline();
            match (&mut self.timer, deadline) {
                (None, None) => return Poll::Pending,
                (None, Some(at)) => self.timer = Some(Box::pin(sleep_until(at.into()))),
                (Some(timer), deadline) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    match deadline {
                        Some(at) if at <= Instant::now() => {
                            count(&self.shared.status.counters.timeouts);
                            return Poll::Ready(End::Failed(Error::Timeout));
                        }
                        Some(at) => timer.as_mut().reset(at.into()),
                        None => self.timer = None,
                    }
                }
            }
        }
    }
}
