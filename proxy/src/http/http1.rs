//! A client's HTTP/1 connection: served while it says something, put aside while it is silent.
//!
//! hyper keeps two buffers of 8 KiB and its state for each connection, for as long as the connection lives. Most connections that
//! a sidecar holds are silent for most of their lives. So one that has been silent for a while is taken out of hyper, which gives
//! all of that back, and put in again with the first byte of its next request. What is left of it meanwhile is its socket and its
//! task.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{DRAIN_GRACE, Requests};
use crate::body::Body;
use crate::fault::Hop;
use crate::guarded::{Guard, Guarded};
use crate::io::farewell::{Farewell, Talk};
use crate::io::prefixed::Prefixed;
use crate::io::upgraded::{ClientHalf, Handover};

/// A request's head may have this many bytes: what common servers admit, several times over.
const MAX_HEAD: usize = 64 * 1024;

/// How long a client may take over a request's head, and how long its connection may stay idle between two. Longer than the minute
/// after which common clients give up idle connections themselves.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);

/// How often a connection is looked at: one that has been silent from one look to the next is put aside. Long enough that putting
/// it back, which costs some allocations, is nothing beside how rarely it is used.
const LOOK: Duration = Duration::from_secs(2);

/// Serves an HTTP/1 connection until it ends. When `drain` turns true the request under way is finished and the connection closed.
///
/// # Errors
///
/// How the connection broke.
pub(crate) async fn serve<I, F, Fut>(
    io: Prefixed<I>,
    hop: Hop,
    mut drain: Option<watch::Receiver<bool>>,
    handler: Rc<F>,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + 'static,
    Fut: Future<Output = Response<Body>> + 'static,
{
    let client = Client::default();
    let serving = client.clone();
    let mut service = service_fn(move |mut request: Request<Incoming>| {
        let _ = serving.requests.begin();
        let answering = serving.talk.begin(!request.body().is_end_stream());
        if let Some(handover) = ClientHalf::offer(request.extensions_mut()) {
            serving.handover.replace(Some(handover));
        }
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await.map(|body| Guarded::new(body, Guard::Http1(answering)))) }
    });
    let mut io = Farewell::new(io, hop, Rc::clone(&client.talk));
    let mut silence = Silence::new(client.clone());
    loop {
        // In a box, so that a connection which is put aside takes no room for it.
        let mut connection = Box::new(builder().serve_connection(TokioIo::new(io), service));
        let aside = serve_until_silent(&mut connection, &client, &mut silence, &mut drain).await?;
        let parts = connection.into_parts();
        (io, service) = (parts.io.into_inner(), parts.service);
        if !aside {
            // hyper leaves the connection open only where it has become something else.
            if let Some(handover) = client.handover.take() {
                io.inner_mut().put_back(&parts.read_buf);
                handover.give(io.into_inner());
            }
            return Ok(());
        }
        if parts.read_buf.is_empty() {
            match timeout(HEAD_TIMEOUT, first_byte(&mut io, &mut drain)).await {
                Ok(Some(byte)) => io.inner_mut().put_back(&[byte]),
                Ok(None) | Err(_) => {
                    // A client that is gone cannot be told.
                    let _ = io.shutdown().await;
                    return Ok(());
                }
            }
            silence.broken();
        } else {
            // The beginning of a head: the client is slow, not silent.
            io.inner_mut().put_back(&parts.read_buf);
        }
        silence.taken_up();
    }
}

fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    // `Silence` keeps the time, for all of a connection's requests together: hyper would set a timer for each.
    builder.header_read_timeout(None).max_buf_size(MAX_HEAD).auto_date_header(false);
    builder
}

/// What is known of a client's connection.
#[derive(Clone, Default)]
struct Client {
    requests: Requests,
    talk: Rc<Talk>,
    /// Where the connection goes once it has become what its last request asked for.
    handover: Rc<RefCell<Option<Handover>>>,
}

/// Drives a connection. Says whether it has been silent for a while and is to be put aside; otherwise it has ended, or become
/// something else.
async fn serve_until_silent<I, S>(
    connection: &mut http1::Connection<TokioIo<Farewell<Prefixed<I>>>, S>,
    client: &Client,
    silence: &mut Silence,
    drain: &mut Option<watch::Receiver<bool>>,
) -> hyper::Result<bool>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: HttpService<Incoming, ResBody = Guarded, Error = Infallible> + Unpin,
{
    let mut drained = pin!(turns_true(drain));
    loop {
        let silent = tokio::select! {
            biased;
            ended = &mut *connection => return ended.map(|()| false),
            () = drained.as_mut() => None,
            silent = silence.next() => Some(silent),
        };
        match silent {
            None => {
                // Closes the connection between two requests, or after the one under way. Before the first one it waits for it.
                Pin::new(&mut *connection).graceful_shutdown();
                return tokio::select! {
                    ended = &mut *connection => ended.map(|()| false),
                    () = sleep(DRAIN_GRACE), if client.requests.begun() == 0 => {
                        if client.requests.begun() == 0 { Ok(false) } else { connection.await.map(|()| false) }
                    }
                };
            }
            Some(Silent::TooLong) => return Ok(false),
            Some(Silent::Between) => {
                // Between two requests it leaves at once, with all that it has read, and the talk sees to it that the socket stays
                // open. Where hyper knows better, because a body whose answer is over still comes, it ends when that does.
                client.talk.put_aside(true);
                Pin::new(&mut *connection).graceful_shutdown();
                let left = poll_fn(|cx| Poll::Ready(Pin::new(&mut *connection).poll(cx))).await;
                client.talk.put_aside(false);
                if let Poll::Ready(ended) = left {
                    return ended.map(|()| true);
                }
            }
        }
    }
}

/// Waits until a drain begins.
async fn turns_true(drain: &mut Option<watch::Receiver<bool>>) {
    match drain {
        // Whoever could begin one is gone with the process.
        Some(drain) => drop(drain.wait_for(|draining| *draining).await),
        None => pending().await,
    }
}

/// The first byte of the next request. `None`: there will be none.
async fn first_byte<I>(io: &mut I, drain: &mut Option<watch::Receiver<bool>>) -> Option<u8>
where
    I: AsyncRead + Unpin,
{
    let mut byte = [0];
    tokio::select! {
        biased;
        read = io.read(&mut byte) => matches!(read, Ok(1)).then(|| byte[0]),
        () = turns_true(drain) => None,
    }
}

/// How a client is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silent {
    /// For a while, after an answer.
    Between,
    /// For as long as it may be, or as long as it may take over a head.
    TooLong,
}

/// How long a client has been silent. It looks from time to time, so that no request pays for it.
struct Silence {
    client: Client,
    look: Pin<Box<Sleep>>,
    /// The requests that had begun at the last look, and when the connection was last taken up by hyper.
    begun: u64,
    taken_up: u64,
    /// Since when it is known to wait for its client.
    since: Instant,
}

impl Silence {
    fn new(client: Client) -> Self {
        Self { client, look: Box::pin(sleep(LOOK)), begun: 0, taken_up: 0, since: Instant::now() }
    }

    /// The client has said something.
    fn broken(&mut self) {
        self.since = Instant::now();
        self.look.as_mut().reset(self.since + LOOK);
    }

    /// hyper has the connection, with the beginning of a head, which it is not asked to give back.
    fn taken_up(&mut self) {
        self.taken_up = self.client.requests.begun();
    }

    /// Waits until the client has been silent for a while. Can be dropped and called again.
    async fn next(&mut self) -> Silent {
        loop {
            self.look.as_mut().await;
            let begun = self.client.requests.begun();
            let now = Instant::now();
            self.look.as_mut().reset(now + LOOK);
            if begun != self.begun || self.client.talk.is_answering() {
                (self.begun, self.since) = (begun, now);
            } else if now.duration_since(self.since) >= HEAD_TIMEOUT {
                return Silent::TooLong;
            } else if begun > self.taken_up && self.client.talk.is_written() {
                return Silent::Between;
            }
        }
    }
}

#[cfg(test)]
mod tests;
