//! An answer's body as a server's connection writes it: it holds on to something to its end, and breaks off so that its client
//! sees what there was.
//!
//! A body that fails ends its connection or its stream at once, and with it what waits there to be written: hyper drops an HTTP/1
//! connection's buffer, h2 clears a stream's queue. An application that resets its connection right after an answer's head would
//! leave the client without that head, as if nobody had answered. So the failure waits until what came before it is out.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::{Body, BodyError};
use crate::http::UnderWay;
use crate::io::farewell::{Answering, Parting};

/// Turns of the event loop that the failure of an HTTP/2 stream waits: its head is queued in the first, and written when the
/// connection's task has had its own.
const TURNS: u8 = 2;

/// What lives as long as an answer.
pub(crate) enum Guard {
    /// On a connection of HTTP/1.
    Http1(Answering),
    /// On one of many streams.
    Http2 {
        /// Counts it.
        _under_way: UnderWay,
    },
}

impl Guard {
    /// What has to happen before the answer's failure is passed on.
    fn parting(&self) -> Wait {
        match self {
            Self::Http1(answering) => Wait::Written(answering.break_off()),
            Self::Http2 { .. } => Wait::Turns(TURNS),
        }
    }
}

/// What a failure waits for.
enum Wait {
    /// Everything is written.
    Written(Parting),
    /// The event loop has turned this often.
    Turns(u8),
}

impl Wait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Written(parting) => parting.poll_over(cx),
            Self::Turns(0) => Poll::Ready(()),
            Self::Turns(left) => {
                *left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

/// An answer's body.
pub(crate) struct Guarded {
    body: Body,
    guard: Guard,
    failed: Option<(BodyError, Wait)>,
}

impl Guarded {
    /// Holds on to `guard` for as long as `body` is written.
    pub(crate) const fn new(body: Body, guard: Guard) -> Self {
        Self { body, guard, failed: None }
    }
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.failed.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Err(error)) => self.failed = Some((error, self.guard.parting())),
                frame => return Poll::Ready(frame),
            }
        }
        if let Some((_, wait)) = &mut self.failed {
            ready!(wait.poll(cx));
        }
        Poll::Ready(self.failed.take().map(|(error, _)| Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.failed.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
