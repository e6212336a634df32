//! Copies an opaque connection both ways.
//!
//! Each direction ends by itself: when one side has finished sending, the other is told (a TCP FIN or a TLS close_notify) and may
//! go on. Buffers grow with what flows and are given back when a direction falls idle, so a quiet connection costs no buffer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes at first. Fits a typical message of a chatty protocol.
const SMALL: usize = 4 * 1024;
/// What it takes once reads fill the buffer: four TLS records, beyond which system calls no longer dominate.
const LARGE: usize = 64 * 1024;

/// Bytes that went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    /// From the first stream to the second.
    pub(crate) forward: u64,
    /// From the second stream to the first.
    pub(crate) backward: u64,
}

/// Copies until both directions have ended or one has failed. `sent` and `received` count while it flows. Cancelling it drops
/// both streams.
///
/// # Errors
///
/// The first error of either stream.
pub(crate) async fn copy_both<A, B>(a: &mut A, b: &mut B, sent: &IntCounter, received: &IntCounter) -> io::Result<Copied>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forward = Direction::new();
    let mut backward = Direction::new();
    poll_fn(|cx| {
        let first = forward.poll(cx, a, b, sent)?;
        let second = backward.poll(cx, b, a, received)?;
        if first.is_pending() || second.is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(Ok(Copied { forward: forward.total, backward: backward.total }))
    })
    .await
}

enum Stage {
    Copying,
    ShuttingDown,
    Done,
}

struct Direction {
    stage: Stage,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    next_size: usize,
    unflushed: bool,
    total: u64,
}

impl Direction {
    const fn new() -> Self {
        Self { stage: Stage::Copying, buffer: Vec::new(), start: 0, end: 0, next_size: SMALL, unflushed: false, total: 0 }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, count: &IntCounter) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.stage {
                Stage::Copying => {
                    ready!(self.poll_copy(cx, from, to, count))?;
                    self.stage = Stage::ShuttingDown;
                }
                Stage::ShuttingDown => {
                    // The other side may be gone already, which is as good as having been told.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.stage = Stage::Done;
                }
                Stage::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Ready when the reader has ended and everything is written.
    fn poll_copy<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W, count: &IntCounter) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.start < self.end {
                let pending = self.buffer.get(self.start..self.end).unwrap_or_default();
                let written = ready!(Pin::new(&mut *to).poll_write(cx, pending))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.start += written;
                self.total += written as u64;
                self.unflushed = true;
                count.inc_by(written as u64);
            }
            match self.poll_fill(cx, from) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    // Idle: the buffer goes back. The next one is as large as the flow had made it.
                    self.buffer = Vec::new();
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<usize>> {
        if self.buffer.len() != self.next_size {
            self.buffer = vec![0; self.next_size];
        }
        let mut read = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(from).poll_read(cx, &mut read))?;
        let filled = read.filled().len();
        (self.start, self.end) = (0, filled);
        self.next_size = if filled == self.buffer.len() {
            (self.next_size * 4).min(LARGE)
        } else if filled < self.next_size / 8 {
            (self.next_size / 4).max(SMALL)
        } else {
            self.next_size
        };
        Poll::Ready(Ok(filled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn counter() -> IntCounter {
        IntCounter::new("bytes", "bytes").unwrap()
    }

    #[tokio::test]
    async fn one_side_may_finish_sending_and_still_be_answered() {
        let (mut client, mut left) = duplex(128);
        let (mut right, mut server) = duplex(128);
        let (sent, received) = (counter(), counter());
        let proxy = async { copy_both(&mut left, &mut right, &sent, &received).await.unwrap() };
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            server.read_to_string(&mut asked).await.unwrap();
            assert_eq!(asked, "question");
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answered = String::new();
            client.read_to_string(&mut answered).await.unwrap();
            assert_eq!(answered, "answer");
        };
        let (copied, ()) = tokio::join!(proxy, talk);
        assert_eq!(copied, Copied { forward: 8, backward: 6 });
        assert_eq!((sent.get(), received.get()), (8, 6));
    }

    #[tokio::test]
    async fn large_transfers_arrive_whole() {
        let (mut client, mut left) = duplex(100_000);
        let (mut right, mut server) = duplex(1_000);
        let body: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let (sent, received) = (counter(), counter());
        let proxy = async { copy_both(&mut left, &mut right, &sent, &received).await.unwrap() };
        let upload = async {
            client.write_all(&body).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let download = async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            server.shutdown().await.unwrap();
            all
        };
        let (_, (), all) = tokio::join!(proxy, upload, download);
        assert_eq!(all, body);
    }
}
