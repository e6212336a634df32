//! Bodies on their way through the proxy: streamed, and kept only where a retry may need them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::exchange::Tracked;
use crate::tee::{Tee, TeeReader};

/// The error of a body: whatever broke the stream that it comes from.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// What goes back to the client.
#[expect(clippy::large_enum_variant, reason = "almost every body is the large one, and a box would be an allocation for each")]
pub(crate) enum Body {
    /// Nothing.
    Empty,
    /// An answer of the mesh's own.
    Full(Bytes),
    /// An answer from upstream.
    Upstream(Tracked),
}

impl Body {
    /// All of an answer.
    pub(crate) fn full(text: impl Into<Bytes>) -> Self {
        Self::Full(text.into())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => match std::mem::replace(&mut *self, Self::Empty) {
                Self::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Self::Upstream(tracked) => Pin::new(tracked).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Upstream(tracked) => tracked.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(tracked) => tracked.size_hint(),
        }
    }
}

/// What goes to the endpoint.
pub(crate) enum RequestBody {
    /// Nothing.
    Empty,
    /// The client's body, kept in part so that it can be sent again.
    Replay(Reader),
    /// A copy of it, for a mirror.
    Copy(TeeReader),
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Replay(reader) => reader.poll_frame(cx),
            Self::Copy(reader) => reader.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Replay(reader) => reader.is_end_stream(),
            Self::Copy(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replay(reader) => reader.body.borrow().size,
            Self::Copy(reader) => reader.size_hint(),
        }
    }
}

/// How much of a body is kept for a retry. Larger bodies are streamed and cannot be sent again once they have outgrown it.
pub(crate) const MAX_REPLAY: usize = 64 * 1024;

/// How many pieces it may come in: against bodies of very many very small frames, each of which costs its bookkeeping.
const MAX_REPLAY_FRAMES: usize = 1024;

/// A client's body that can be read again from its start while it has not outgrown [`MAX_REPLAY`].
pub(crate) struct ReplayBody(Rc<RefCell<Replay>>);

struct Replay {
    source: Incoming,
    size: SizeHint,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// The body outgrew the bound; what was kept is gone.
    overflowed: bool,
    ended: bool,
    /// The source failed: no attempt can have all of it.
    broken: bool,
    /// Counts attempts; an older reader has lost its claim to the source.
    attempt: u32,
    /// Who gets a copy of what comes out of the source.
    copies: Vec<Tee>,
}

impl ReplayBody {
    /// Takes over a client's body.
    pub(crate) fn new(source: Incoming) -> Self {
        Self(Rc::new(RefCell::new(Replay {
            size: source.size_hint(),
            source,
            kept: VecDeque::new(),
            kept_bytes: 0,
            trailers: None,
            overflowed: false,
            ended: false,
            broken: false,
            attempt: 0,
            copies: Vec::new(),
        })))
    }

    /// Hands `copy` everything that is read from now on: called before the first reader is made, all of the body.
    pub(crate) fn copy_to(&self, copy: Tee) {
        self.0.borrow_mut().copies.push(copy);
    }

    /// What is known of the body's length.
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.0.borrow().size
    }

    /// Whether a further attempt would get all of the body.
    pub(crate) fn replayable(&self) -> bool {
        let replay = self.0.borrow();
        !replay.overflowed && !replay.broken
    }

    /// Whether the client broke off in the middle of it.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.borrow().broken
    }

    /// The body from its start. Readers made earlier end with an error.
    pub(crate) fn reader(&self) -> Reader {
        let mut replay = self.0.borrow_mut();
        replay.attempt += 1;
        Reader { body: Rc::clone(&self.0), attempt: replay.attempt, next: 0, trailers_sent: false }
    }
}

/// One attempt's view of a body.
pub(crate) struct Reader {
    body: Rc<RefCell<Replay>>,
    attempt: u32,
    next: usize,
    trailers_sent: bool,
}

impl Reader {
    fn is_end_stream(&self) -> bool {
        let replay = self.body.borrow();
        replay.ended && self.next >= replay.kept.len() && (replay.trailers.is_none() || self.trailers_sent)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut replay = self.body.borrow_mut();
        if replay.attempt != self.attempt {
            return Poll::Ready(Some(Err("the request is being sent again elsewhere".into())));
        }
        if let Some(bytes) = replay.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(bytes.clone()))));
        }
        if replay.ended {
            return match &replay.trailers {
                Some(trailers) if !self.trailers_sent => {
                    self.trailers_sent = true;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))))
                }
                _ => Poll::Ready(None),
            };
        }
        let frame = match ready!(Pin::new(&mut replay.source).poll_frame(cx)) {
            None => {
                replay.ended = true;
                replay.copies.iter().for_each(|copy| copy.end(None));
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                replay.broken = true;
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(bytes) => {
                replay.keep(&bytes);
                self.next = replay.kept.len();
                replay.copies.iter().for_each(|copy| copy.data(&bytes));
                if replay.source.is_end_stream() {
                    replay.ended = true;
                    replay.copies.iter().for_each(|copy| copy.end(None));
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Err(frame) => match frame.into_trailers() {
                Ok(trailers) => {
                    replay.trailers = Some(trailers.clone());
                    replay.ended = true;
                    replay.copies.iter().for_each(|copy| copy.end(Some(&trailers)));
                    self.trailers_sent = true;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                Err(_) => Poll::Ready(Some(Err("a frame that is neither data nor trailers".into()))),
            },
        }
    }
}

impl Replay {
    fn keep(&mut self, bytes: &Bytes) {
        if self.overflowed {
            return;
        }
        self.kept_bytes += bytes.len();
        if self.kept_bytes > MAX_REPLAY || self.kept.len() >= MAX_REPLAY_FRAMES {
            self.overflowed = true;
            self.kept = VecDeque::new();
        } else {
            self.kept.push_back(bytes.clone());
        }
    }
}
