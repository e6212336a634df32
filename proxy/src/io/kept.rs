//! A connection that is kept between requests, and looked at before it is used again.
//!
//! A server may close a connection that it keeps at any time, also in the moment in which the next request is written. What is
//! written then was never read by anybody, but the writer cannot prove it, and a POST must not be sent twice on a guess. So the
//! socket is asked whether the server has closed it, or said something that nobody asked for, in the system call before the
//! first write.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection had been closed when it was to be used again: nothing of the request has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kept connection had been closed by the server")]
pub(crate) struct Stale;

impl Stale {
    /// Whether this is what an error comes from.
    pub(crate) fn caused(error: &(dyn std::error::Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let io = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if io.is_some_and(|inner| inner.is::<Self>()) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Says that the next write is the first of another request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reuse(Arc<AtomicBool>);

impl Reuse {
    /// The connection is about to be used again.
    pub(crate) fn begins(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A TCP connection that is kept.
pub(crate) struct Kept {
    inner: TcpStream,
    reuse: Reuse,
    /// The server takes no more of the request. It may have answered before it closed, so that what it said is read before
    /// the connection counts as broken; what is written meanwhile goes nowhere.
    deaf: bool,
}

impl Kept {
    /// Keeps a connection; the first request needs no look.
    pub(crate) fn new(inner: TcpStream) -> (Self, Reuse) {
        let reuse = Reuse::default();
        (Self { inner, reuse: reuse.clone(), deaf: false }, reuse)
    }

    fn look(&self) -> io::Result<()> {
        // Workers have one thread; the atomic is there because hyper wants streams that could change theirs.
        if !self.reuse.0.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.reuse.0.store(false, Ordering::Relaxed);
        match SockRef::from(&self.inner).peek(&mut [MaybeUninit::uninit()]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Ok(_) | Err(_) => Err(io::Error::new(ErrorKind::NotConnected, Stale)),
        }
    }
}

impl Kept {
    fn heard(&mut self, written: Poll<io::Result<usize>>, whole: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.deaf = true;
                Poll::Ready(Ok(whole))
            }
            written => written,
        }
    }
}

impl AsyncRead for Kept {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Kept {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.look()?;
        if self.deaf {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.heard(written, buf.len())
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.look()?;
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        if self.deaf {
            return Poll::Ready(Ok(whole));
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.heard(written, whole)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (Kept, Reuse, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let (kept, reuse) = Kept::new(client);
        (kept, reuse, server)
    }

    #[tokio::test]
    async fn an_open_connection_is_written_to_again() {
        let (mut kept, reuse, mut server) = pair().await;
        for _ in 0..3 {
            kept.write_all(b"a").await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), b'a');
            server.write_all(b"b").await.unwrap();
            assert_eq!(kept.read_u8().await.unwrap(), b'b');
            reuse.begins();
        }
    }

    #[tokio::test]
    async fn an_answer_is_read_from_a_server_that_takes_no_more() {
        let (mut kept, _, mut server) = pair().await;
        kept.write_all(b"POST").await.unwrap();
        server.write_all(b"HTTP/1.1 413").await.unwrap();
        server.shutdown().await.unwrap();
        // With bytes unread, the close is a reset.
        drop(server);
        for _ in 0..100 {
            kept.write_all(&[b'x'; 10_000]).await.unwrap();
        }
        let mut answer = [0; 12];
        kept.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        assert!(!matches!(kept.read(&mut answer).await, Ok(count) if count > 0), "and then it has ended");
    }

    #[tokio::test]
    async fn a_closed_one_and_one_that_says_something_unasked_are_not() {
        for words in [&b""[..], b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
            let (mut kept, reuse, mut server) = pair().await;
            server.write_all(words).await.unwrap();
            drop(server);
            reuse.begins();
            let error = kept.write_all(b"a").await.unwrap_err();
            assert!(Stale::caused(&error), "{error:?}");
            assert!(!Stale::caused(&io::Error::from(ErrorKind::NotConnected)));
        }
    }
}
