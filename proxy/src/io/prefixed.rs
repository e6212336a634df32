//! A stream that gives back the bytes which detection has already read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads `prefix` first, then the stream.
pub(crate) struct Prefixed<T> {
    prefix: Bytes,
    inner: T,
}

impl<T> Prefixed<T> {
    /// The stream as it was before `prefix` was read from it.
    pub(crate) const fn new(prefix: Bytes, inner: T) -> Self {
        Self { prefix, inner }
    }

    /// The stream itself.
    pub(crate) const fn inner(&self) -> &T {
        &self.inner
    }

    /// Gives back what has been read and not used: it is read again before everything else.
    pub(crate) fn put_back(&mut self, read: &[u8]) {
        self.prefix = if self.prefix.is_empty() { Bytes::copy_from_slice(read) } else { [read, &self.prefix].concat().into() };
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Prefixed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let take = self.prefix.len().min(buf.remaining());
        buf.put_slice(self.prefix.get(..take).unwrap_or_default());
        self.prefix.advance(take);
        if self.prefix.is_empty() {
            // Gives the allocation back: a connection may live for days.
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Prefixed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
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
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn what_was_sniffed_is_read_again_before_the_rest() {
        let mut stream = Prefixed::new(Bytes::from_static(b"GET "), &b"/ HTTP/1.1"[..]);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "GET / HTTP/1.1");
    }

    #[tokio::test]
    async fn what_is_put_back_comes_first() {
        let mut stream = Prefixed::new(Bytes::from_static(b" HTTP"), &b"/1.1"[..]);
        stream.put_back(b"GET /");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.put_back(b"again");
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "GET / HTTP/1.1again");
    }
}
