//! Copies of a body, for readers that must never hold it up.
//!
//! The pieces are shared, not copied. What a slow reader has not taken yet is bounded, for each reader and for all of a worker;
//! one that falls further behind loses the rest of its copy.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::body::BodyError;

/// How far one reader may fall behind, in bytes.
const MAX_LAG: usize = 256 * 1024;

/// How far all readers of a worker together may fall behind, in bytes.
const MAX_TOTAL_LAG: usize = 16 * 1024 * 1024;

/// The same in pieces: each costs its bookkeeping, however small it is.
const MAX_PIECES: usize = 4 * 1024;

/// What all copies of a worker hold.
#[derive(Clone, Default)]
pub(crate) struct Held(Rc<Cell<usize>>);

impl Held {
    fn take(&self, bytes: usize) -> bool {
        let after = self.0.get() + bytes;
        let granted = after <= MAX_TOTAL_LAG;
        if granted {
            self.0.set(after);
        }
        granted
    }

    fn give(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_sub(bytes));
    }
}

struct State {
    held: Held,
    queued: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    end: End,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// More may come.
    Open,
    /// The body is complete.
    Complete,
    /// There will be no more of it.
    Cut(Cut),
}

/// Why a copy is not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// The original was not read to its end.
    #[error("the request that this is a copy of ended before its body did")]
    Source,
    /// Nobody reads it any more.
    #[error("the mirror wants no more of the request's body")]
    Unread,
    /// The reader was too slow.
    #[error("the mirror did not keep up with the request's body")]
    Lag,
}

impl State {
    fn cut(&mut self, why: Cut) {
        if self.end == End::Open {
            self.end = End::Cut(why);
            self.drop_queued();
            self.wake();
        }
    }

    fn drop_queued(&mut self) {
        self.held.give(std::mem::take(&mut self.bytes));
        self.queued = VecDeque::new();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The side that the body comes in at. Dropped before its end, it cuts the copy.
pub(crate) struct Tee(Rc<RefCell<State>>);

/// The copy.
pub(crate) struct TeeReader {
    state: Rc<RefCell<State>>,
    size: SizeHint,
}

/// A copy of a body of this size, empty so far.
pub(crate) fn tee(held: &Held, size: SizeHint) -> (Tee, TeeReader) {
    let state = State { held: held.clone(), queued: VecDeque::new(), bytes: 0, trailers: None, end: End::Open, waker: None };
    let state = Rc::new(RefCell::new(state));
    (Tee(Rc::clone(&state)), TeeReader { state, size })
}

impl Tee {
    /// The next piece.
    pub(crate) fn data(&self, bytes: &Bytes) {
        let mut state = self.0.borrow_mut();
        if state.end != End::Open {
            return;
        }
        let too_far = state.bytes + bytes.len() > MAX_LAG || state.queued.len() >= MAX_PIECES;
        if too_far || !state.held.take(bytes.len()) {
            state.cut(Cut::Lag);
            return;
        }
        state.bytes += bytes.len();
        state.queued.push_back(bytes.clone());
        state.wake();
    }

    /// The body is complete.
    pub(crate) fn end(&self, trailers: Option<&HeaderMap>) {
        let mut state = self.0.borrow_mut();
        if state.end == End::Open {
            state.end = End::Complete;
            state.trailers = trailers.cloned();
            state.wake();
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.0.borrow_mut().cut(Cut::Source);
    }
}

impl TeeReader {
    /// The next frame of the copy.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state.borrow_mut();
        if let Some(bytes) = state.queued.pop_front() {
            state.bytes = state.bytes.saturating_sub(bytes.len());
            state.held.give(bytes.len());
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match state.end {
            End::Cut(why) => Poll::Ready(Some(Err(why.into()))),
            End::Complete => Poll::Ready(state.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            End::Open => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nothing more comes.
    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        state.end == End::Complete && state.queued.is_empty() && state.trailers.is_none()
    }

    /// What is known of the body's length.
    pub(crate) const fn size_hint(&self) -> SizeHint {
        self.size
    }

    /// Tells, also after the reader is gone, why the copy is not complete.
    pub(crate) fn fate(&self) -> Fate {
        Fate(Rc::clone(&self.state))
    }
}

impl Drop for TeeReader {
    fn drop(&mut self) {
        let mut state = self.state.borrow_mut();
        state.cut(Cut::Unread);
        // Of a complete body too, what was not read is held by nobody.
        state.drop_queued();
    }
}

/// What became of a copy.
pub(crate) struct Fate(Rc<RefCell<State>>);

impl Fate {
    /// Why it is not complete, if it is not.
    pub(crate) fn cut(&self) -> Option<Cut> {
        match self.0.borrow().end {
            End::Cut(why) => Some(why),
            End::Open | End::Complete => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Poll::{Pending, Ready};

    fn next(reader: &mut TeeReader) -> Poll<Option<Result<Bytes, String>>> {
        let mut cx = Context::from_waker(Waker::noop());
        reader
            .poll_frame(&mut cx)
            .map(|frame| frame.map(|frame| frame.map(|it| it.into_data().unwrap_or_default()).map_err(|error| error.to_string())))
    }

    fn pair(held: &Held) -> (Tee, TeeReader) {
        tee(held, SizeHint::default())
    }

    #[test]
    fn a_copy_is_read_piece_by_piece_to_its_trailers() {
        let held = Held::default();
        let (tee, mut reader) = pair(&held);
        assert_eq!(next(&mut reader), Pending);
        tee.data(&Bytes::from_static(b"one"));
        tee.data(&Bytes::from_static(b"two"));
        assert_eq!(held.0.get(), 6);
        assert_eq!(next(&mut reader), Ready(Some(Ok("one".into()))));
        let mut trailers = HeaderMap::new();
        trailers.insert("x", "1".parse().unwrap());
        tee.end(Some(&trailers));
        drop(tee);
        assert_eq!(next(&mut reader), Ready(Some(Ok("two".into()))));
        assert!(!reader.is_end_stream());
        assert_eq!(next(&mut reader), Ready(Some(Ok(Bytes::new()))), "the trailers");
        assert_eq!(next(&mut reader), Ready(None));
        assert!(reader.is_end_stream() && held.0.get() == 0);
    }

    #[test]
    fn a_body_that_is_not_read_to_its_end_cuts_the_copy() {
        let held = Held::default();
        let (tee, mut reader) = pair(&held);
        let fate = reader.fate();
        tee.data(&Bytes::from_static(b"one"));
        drop(tee);
        assert_eq!(next(&mut reader), Ready(Some(Err(Cut::Source.to_string()))));
        assert_eq!((fate.cut(), held.0.get()), (Some(Cut::Source), 0));
    }

    #[test]
    fn a_copy_that_nobody_reads_any_more_holds_nothing_whoever_still_asks_for_its_fate() {
        let held = Held::default();
        let (tee, reader) = pair(&held);
        let fate = reader.fate();
        tee.data(&Bytes::from_static(b"one"));
        drop(reader);
        tee.data(&Bytes::from_static(b"two"));
        tee.end(None);
        assert_eq!((fate.cut(), held.0.get()), (Some(Cut::Unread), 0));

        let (tee, reader) = pair(&held);
        tee.data(&Bytes::from_static(b"one"));
        tee.end(None);
        let fate = reader.fate();
        drop(reader);
        assert_eq!((fate.cut(), held.0.get()), (None, 0));
    }

    #[test]
    fn who_falls_behind_loses_the_rest_and_holds_nothing() {
        let held = Held::default();
        let (tee, mut reader) = pair(&held);
        let piece = Bytes::from(vec![0; MAX_LAG / 2]);
        for _ in 0..3 {
            tee.data(&piece);
        }
        assert_eq!(next(&mut reader), Ready(Some(Err(Cut::Lag.to_string()))));
        assert_eq!((reader.fate().cut(), held.0.get()), (Some(Cut::Lag), 0));

        let (tee, reader) = pair(&held);
        for _ in 0..=MAX_PIECES {
            tee.data(&Bytes::from_static(b"x"));
        }
        assert_eq!((reader.fate().cut(), held.0.get()), (Some(Cut::Lag), 0));
    }

    #[test]
    fn all_copies_together_are_bounded_and_give_back_what_they_held() {
        let held = Held::default();
        let piece = Bytes::from(vec![0; MAX_LAG]);
        let pairs: Vec<_> = (0..=MAX_TOTAL_LAG / MAX_LAG).map(|_| pair(&held)).collect();
        for (tee, _) in &pairs {
            tee.data(&piece);
        }
        let cut = pairs.iter().filter(|(_, reader)| reader.fate().cut() == Some(Cut::Lag)).count();
        assert_eq!((cut, held.0.get()), (1, MAX_TOTAL_LAG));
        drop(pairs);
        assert_eq!(held.0.get(), 0);
    }
}
