//! Gathers the writes of one event-loop turn into one.
//!
//! HTTP/2 flushes after every frame that becomes ready, so a multiplexed connection makes several small TLS records and
//! system calls per request. Here `poll_write` only fills a buffer and `poll_flush` says ready at once; a task of its own,
//! woken by the first byte, runs after everything that was ready in this turn and writes all of it together.
//!
//! The buffer is bounded: over [`HIGH_WATER`] the writer waits, which is the back-pressure that flow control needs.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait to be written. Four of the largest TLS records: enough to keep the socket busy in bulk transfers,
/// small enough that a thousand slow readers cost no more than 64 MiB.
const HIGH_WATER: usize = 64 * 1024;

/// A buffer that has grown beyond this is given back when it runs empty.
const KEEP: usize = 16 * 1024;

/// The half that HTTP/2 reads and writes. Its other half is a task that ends when this is dropped.
pub(crate) struct Coalesced<T> {
    shared: Rc<RefCell<State<T>>>,
}

struct State<T> {
    io: T,
    buffer: BytesMut,
    /// The task that writes; woken when the buffer stops being empty.
    flusher: Option<Waker>,
    /// The writer, when the buffer is full.
    writer: Option<Waker>,
    failed: Option<io::ErrorKind>,
    /// The writer is gone or shuts down: the task has nothing left to do.
    detached: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Coalesced<T> {
    /// Wraps a stream and starts its writing task on this thread's `LocalSet`.
    pub(crate) fn new(io: T) -> Self {
        let shared = Rc::new(RefCell::new(State {
            io,
            buffer: BytesMut::new(),
            flusher: None,
            writer: None,
            failed: None,
            detached: false,
        }));
        let flusher = Rc::clone(&shared);
        tokio::task::spawn_local(async move { poll_fn(|cx| flusher.borrow_mut().poll_flusher(cx)).await });
        Self { shared }
    }
}

impl<T: AsyncWrite + Unpin> State<T> {
    /// Writes until the buffer is empty, then waits for more. Ends with the stream.
    fn poll_flusher(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.detached || self.failed.is_some() {
            return Poll::Ready(());
        }
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => {
                if !self.flusher.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    self.flusher = Some(cx.waker().clone());
                }
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                self.failed = Some(error.kind());
                self.wake_writer();
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.buffer.advance(written);
            if self.buffer.len() < HIGH_WATER {
                self.wake_writer();
            }
        }
        if self.buffer.capacity() > KEEP {
            self.buffer = BytesMut::new();
        }
        // TLS keeps what the socket did not take; without a flush it would stay there.
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn accept(&mut self, cx: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let Some(mut room) = HIGH_WATER.checked_sub(self.buffer.len()).filter(|room| *room > 0) else {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let was_empty = self.buffer.is_empty();
        let mut taken = 0;
        for slice in slices {
            let take = slice.len().min(room);
            self.buffer.extend_from_slice(slice.get(..take).unwrap_or_default());
            taken += take;
            room -= take;
            if room == 0 {
                break;
            }
        }
        if was_empty
            && taken > 0
            && let Some(flusher) = &self.flusher
        {
            flusher.wake_by_ref();
        }
        Poll::Ready(Ok(taken))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Coalesced<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.borrow_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Coalesced<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.borrow_mut().accept(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.shared.borrow_mut().accept(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shared.borrow().failed {
            Some(kind) => Poll::Ready(Err(kind.into())),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.borrow_mut();
        // From here on this task writes, and so it is the one that the socket wakes.
        state.detached = true;
        ready!(state.poll_drain(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

impl<T> Drop for Coalesced<T> {
    fn drop(&mut self) {
        let mut state = self.shared.borrow_mut();
        state.detached = true;
        if let Some(flusher) = state.flusher.take() {
            flusher.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::{LocalSet, yield_now};

    #[tokio::test]
    async fn writes_of_one_turn_arrive_together() {
        LocalSet::new()
            .run_until(async {
                let (near, mut far) = duplex(1024);
                let mut stream = Coalesced::new(near);
                yield_now().await;
                for part in ["a", "b", "c"] {
                    stream.write_all(part.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
                let mut buf = [0; 16];
                let read = far.read(&mut buf).await.unwrap();
                assert_eq!(&buf[..read], b"abc");
            })
            .await;
    }

    #[tokio::test]
    async fn a_reader_that_stalls_stops_the_writer_at_the_bound() {
        LocalSet::new()
            .run_until(async {
                let (near, mut far) = duplex(64);
                let mut stream = Coalesced::new(near);
                let sent = vec![7_u8; HIGH_WATER * 2];
                let writer = tokio::task::spawn_local(async move {
                    stream.write_all(&sent).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
                for _ in 0..100 {
                    yield_now().await;
                }
                assert!(!writer.is_finished());
                let mut received = Vec::new();
                far.read_to_end(&mut received).await.unwrap();
                assert_eq!(received.len(), HIGH_WATER * 2);
                writer.await.unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn a_broken_stream_fails_the_next_write() {
        LocalSet::new()
            .run_until(async {
                let (near, far) = duplex(64);
                let mut stream = Coalesced::new(near);
                drop(far);
                stream.write_all(b"x").await.unwrap();
                yield_now().await;
                yield_now().await;
                assert!(stream.write_all(b"y").await.is_err());
            })
            .await;
    }

    #[tokio::test]
    async fn shutdown_delivers_what_is_buffered() {
        LocalSet::new()
            .run_until(async {
                let (near, mut far) = duplex(1024);
                let mut stream = Coalesced::new(near);
                stream.write_all(b"last words").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut text = String::new();
                far.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "last words");
            })
            .await;
    }
}
