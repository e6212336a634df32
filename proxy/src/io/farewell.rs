//! The end of an HTTP/1 connection, as its client is to see it.
//!
//! Two things would tell a client less than is known. What hyper refuses by itself, before there is a request, it answers with a
//! bare status: it goes out with the mesh's reason instead. And a connection that is closed while its client still writes is
//! reset by the kernel, which may take the answer away from a client that has not read it yet: what comes is read and dropped
//! for a while. An answer that breaks off ends like this too: what there is of it reaches its client, its head above all.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::fault::{Fault, Hop, Reason};

/// How long a client may go on writing after its answer, and how much. Enough for one that reads only when all is written;
/// no way to keep a connection.
const LINGER: Duration = Duration::from_secs(3);
const MAX_DROPPED: usize = 64 * 1024 * 1024;

/// What one read drops.
const SCRAP: usize = 16 * 1024;

/// What the two ends of a connection's service know of each other.
#[derive(Debug, Default)]
pub(crate) struct Talk {
    answers: Cell<u64>,
    unread: Cell<bool>,
    /// Something has been written, and not all of it is known to be out.
    unwritten: Cell<bool>,
    broken_off: Cell<bool>,
    parted: Cell<bool>,
    aside: Cell<bool>,
}

impl Talk {
    /// A request has come, and has a body or none. Its answer is being given until what is returned is dropped.
    pub(crate) fn begin(self: &Rc<Self>, has_body: bool) -> Answering {
        self.answers.set(self.answers.get() + 1);
        self.unread.set(has_body);
        Answering(Rc::clone(self))
    }

    /// Whether an answer is being given, or prepared.
    pub(crate) fn is_answering(&self) -> bool {
        self.answers.get() > 0
    }

    /// Whether all that was to be written is out.
    pub(crate) fn is_written(&self) -> bool {
        !self.unwritten.get()
    }

    /// While this is so, the end of hyper's part is not the end of the connection.
    pub(crate) fn put_aside(&self, aside: bool) {
        self.aside.set(aside);
    }

    /// The answer that is being given will never be complete: the connection ends with what there is of it.
    fn break_off(&self) {
        self.broken_off.set(true);
    }

    /// Whether all that there was has been written, and the connection's end after it.
    fn has_parted(&self) -> bool {
        self.parted.get()
    }
}

/// An answer that is being given.
#[derive(Debug)]
pub(crate) struct Answering(Rc<Talk>);

impl Answering {
    /// The answer has broken off. What is returned ends when its client has been told what there is of it, or takes it no more.
    pub(crate) fn break_off(&self) -> Parting {
        self.0.break_off();
        Parting { talk: Rc::clone(&self.0), limit: Box::pin(sleep(LINGER)) }
    }
}

/// The last words of an answer that has broken off.
#[derive(Debug)]
pub(crate) struct Parting {
    talk: Rc<Talk>,
    limit: Pin<Box<Sleep>>,
}

impl Parting {
    /// Whether they have been written. The connection's own task asks; it is woken when it flushes.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.talk.has_parted() { Poll::Ready(()) } else { self.limit.as_mut().poll(cx) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answers.set(self.0.answers.get().saturating_sub(1));
    }
}

/// A server's side of an HTTP/1 connection.
pub(crate) struct Farewell<T> {
    inner: T,
    hop: Hop,
    talk: Rc<Talk>,
    /// Since everything was last written out an application's answer has begun: what is written may be its.
    answering: bool,
    /// What goes out instead of hyper's own words, as far as it is not written yet.
    instead: Option<Bytes>,
    end: End,
}

enum End {
    Open,
    Lingering { until: Pin<Box<Sleep>>, left: usize },
    Over,
}

impl<T> Farewell<T> {
    /// Watches over the end of `inner`.
    pub(crate) fn new(inner: T, hop: Hop, talk: Rc<Talk>) -> Self {
        Self { inner, hop, talk, answering: false, instead: None, end: End::Open }
    }

    /// What is watched over.
    pub(crate) const fn inner_mut(&mut self) -> &mut T {
        &mut self.inner
    }

    /// The same, no longer watched over.
    pub(crate) fn into_inner(self) -> T {
        self.inner
    }

    /// Whether what is written next belongs to an answer of the service's.
    fn is_answering(&mut self) -> bool {
        self.answering |= self.talk.is_answering();
        self.answering
    }
}

/// Answers bytes that are no HTTP request, where nothing but HTTP is spoken, and ends the connection. Whoever wrote HTTP with a
/// mistake in it learns what was wrong; whoever speaks something else sees an answer that its protocol does not have.
pub(crate) async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(stream: T, hop: Hop, fault: &Fault) {
    let talk = Rc::new(Talk::default());
    talk.unread.set(true);
    let mut stream = Farewell::new(stream, hop, talk);
    let status = fault.reason.status();
    let reason = status.canonical_reason().unwrap_or_default();
    if let Some(answer) = answer(&format!("{} {reason}", status.as_str()), hop, fault)
        && stream.write_all(&answer).await.is_ok()
    {
        let _ = stream.shutdown().await;
    }
}

/// An answer without a body, after which the connection is closed.
fn answer(status: &str, hop: Hop, fault: &Fault) -> Option<Bytes> {
    let value = fault.header(hop);
    let value = value.to_str().ok()?;
    Some(Bytes::from(format!("HTTP/1.1 {status}\r\nweir-error: {value}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")))
}

/// What to say where hyper says no more than a status. `None`: it is something else.
fn explain(words: &[u8], hop: Hop) -> Option<Bytes> {
    let text = std::str::from_utf8(words).ok()?;
    let line = text.strip_prefix("HTTP/1.1 ")?.split("\r\n").next()?;
    if !text.ends_with("\r\n\r\n") || !text.contains("content-length: 0\r\n") {
        return None;
    }
    let fault = match line.get(..3)? {
        "400" => {
            Fault::new(Reason::BadRequest, "the request is not HTTP/1.1 as RFC 9112 has it: its first line, a header or a length")
        }
        "414" => Fault::new(Reason::HeadersTooLarge, "the request's target is longer than 64 KiB"),
        "431" => Fault::new(Reason::HeadersTooLarge, "the request's head has more than 64 KiB, or more than 100 header lines"),
        _ => return None,
    };
    answer(line, hop, &fault)
}

impl<T: AsyncRead + Unpin> AsyncRead for Farewell<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Farewell<T> {
    /// Writes all of `instead`, and then says that the `whole` of what was to be written has been.
    fn poll_instead(&mut self, cx: &mut Context<'_>, whole: usize) -> Poll<io::Result<usize>> {
        while let Some(instead) = self.instead.as_mut().filter(|it| !it.is_empty()) {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            instead.advance(written);
        }
        self.instead = None;
        Poll::Ready(Ok(whole))
    }

    /// Drops what comes until the client has closed, or the time or the amount is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scrap = [0; SCRAP];
        while let End::Lingering { until, left } = &mut self.end {
            let mut buf = ReadBuf::new(&mut scrap);
            let over = match Pin::new(&mut self.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => {
                    *left = left.saturating_sub(buf.filled().len());
                    buf.filled().is_empty() || *left == 0
                }
                Poll::Ready(Err(_)) => true,
                Poll::Pending => {
                    ready!(until.as_mut().poll(cx));
                    true
                }
            };
            if over {
                self.end = End::Over;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Farewell<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.talk.unwritten.set(true);
        if self.instead.is_some() {
            return self.poll_instead(cx, buf.len());
        }
        if !self.is_answering()
            && let Some(instead) = explain(buf, self.hop)
        {
            // The rest of what was refused is still coming.
            self.talk.unread.set(true);
            self.instead = Some(instead);
            return self.poll_instead(cx, buf.len());
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.is_answering() {
            self.talk.unwritten.set(true);
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        // A refusal is a head and nothing else.
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever flushes has written out all that there was.
        self.answering = false;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.talk.unwritten.set(false);
        if self.talk.broken_off.get() && !self.talk.has_parted() {
            ready!(self.as_mut().poll_shutdown(cx))?;
            self.talk.parted.set(true);
            // The body that has broken off is to be asked again.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.talk.aside.get() {
            return Poll::Ready(Ok(()));
        }
        if matches!(self.end, End::Open) {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            self.end = if self.talk.unread.get() {
                End::Lingering { until: Box::pin(sleep(LINGER)), left: MAX_DROPPED }
            } else {
                End::Over
            };
        }
        self.poll_linger(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const REFUSAL: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    fn farewell(inner: tokio::io::DuplexStream) -> (Farewell<tokio::io::DuplexStream>, Rc<Talk>) {
        let talk = Rc::new(Talk::default());
        (Farewell::new(inner, Hop::Inbound, Rc::clone(&talk)), talk)
    }

    #[tokio::test]
    async fn a_bare_refusal_goes_out_with_its_reason() {
        // Less room than the words need: they go out piece by piece.
        let (mut client, server) = duplex(16);
        let (mut server, _) = farewell(server);
        let writing = async {
            assert_eq!(server.write(REFUSAL).await.unwrap(), REFUSAL.len());
            server.flush().await.unwrap();
            drop(server);
        };
        let mut seen = String::new();
        let reading = async { client.read_to_string(&mut seen).await };
        let ((), read) = tokio::join!(writing, reading);
        read.unwrap();
        assert!(
            seen.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\nweir-error: headers-too-large; hop=inbound;"),
            "{seen}"
        );
        assert!(seen.ends_with("\r\ncontent-length: 0\r\n\r\n"), "{seen}");
    }

    #[tokio::test]
    async fn an_answer_of_the_service_is_never_touched_also_not_the_end_of_it_that_is_written_late() {
        let (mut client, server) = duplex(1024);
        let (mut server, talk) = farewell(server);
        let answering = talk.begin(false);
        server.write_all(REFUSAL).await.unwrap();
        server.flush().await.unwrap();
        // The body has ended and its last piece, which looks like a refusal, is still to be written.
        server.write_all(b"x").await.unwrap();
        drop(answering);
        server.write_all(REFUSAL).await.unwrap();
        server.flush().await.unwrap();
        drop(server);
        let mut seen = Vec::new();
        client.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, [REFUSAL, b"x", REFUSAL].concat());
    }

    #[tokio::test]
    async fn a_client_that_may_still_write_is_listened_to_until_it_closes() {
        for has_body in [false, true] {
            let (mut client, server) = duplex(1024);
            let (mut server, talk) = farewell(server);
            drop(talk.begin(has_body));
            let mut closing = std::pin::pin!(server.shutdown());
            assert_eq!(futures_util::poll!(closing.as_mut()).is_pending(), has_body);
            if has_body {
                // More than there is room for: it is read.
                let write = async {
                    client.write_all(&[b'x'; 5000]).await.unwrap();
                    drop(client);
                };
                let (closed, ()) = tokio::join!(closing, write);
                closed.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_ends_with_what_there_is_of_it() {
        // Less room than the words need.
        let (mut client, server) = duplex(8);
        let (mut server, talk) = farewell(server);
        let answering = talk.begin(false);
        let mut parting = answering.break_off();
        let writing = async {
            server.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").await.unwrap();
            assert!(std::future::poll_fn(|cx| Poll::Ready(parting.poll_over(cx))).await.is_pending());
            server.flush().await.unwrap();
            assert!(std::future::poll_fn(|cx| Poll::Ready(parting.poll_over(cx))).await.is_ready());
        };
        let mut seen = String::new();
        let ((), read) = tokio::join!(writing, client.read_to_string(&mut seen));
        read.unwrap();
        assert_eq!(seen, "HTTP/1.1 200 OK\r\n\r\nhalf");
    }
}
