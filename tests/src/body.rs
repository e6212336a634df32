//! Bodies: streamed pseudo-random bytes, and hashes of what arrived.

use std::convert::Infallible;
use std::fmt::Write as _;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

/// Any body that is sent.
pub type Outgoing = UnsyncBoxBody<Bytes, Infallible>;

/// Length of the block that [`stream_of`] repeats. Prime, so that a lost, doubled or swapped piece of any usual buffer size
/// changes the bytes.
const BLOCK: usize = 65_521;

/// No body.
#[must_use]
pub fn empty() -> Outgoing {
    full(Bytes::new())
}

/// These bytes, with their length known.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Outgoing {
    Full::new(bytes.into()).boxed_unsync()
}

/// `length` bytes, made as they are asked for, the length not told.
#[must_use]
pub fn stream_of(length: u64) -> Outgoing {
    let block = block();
    let frames = stream::unfold(length, move |left| {
        let count = left.min(BLOCK as u64);
        let piece = block.slice(..usize::try_from(count).unwrap_or(BLOCK));
        async move { (count > 0).then(|| (Ok(Frame::data(piece)), left - count)) }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// What [`Digest::of_body`] finds when the bytes of [`stream_of`] arrive unharmed.
#[must_use]
pub fn digest_of_stream(length: u64) -> Digest {
    let (block, mut hasher, mut left) = (block(), digest::Context::new(&digest::SHA256), length);
    while left > 0 {
        let count = left.min(BLOCK as u64);
        hasher.update(&block[..usize::try_from(count).unwrap_or(BLOCK)]);
        left -= count;
    }
    Digest { length, sha256: hex(hasher.finish().as_ref()) }
}

fn block() -> Bytes {
    // xorshift: any bytes that do not repeat within the block.
    let mut state = 0x9e37_79b9_u32;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    });
    bytes.take(BLOCK).collect()
}

/// Length and hash of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Bytes.
    pub length: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Digest {
    /// Reads a body to its end and keeps only its hash.
    ///
    /// # Errors
    ///
    /// When the body breaks off.
    pub async fn of_body<B>(mut body: B) -> Result<Self, String>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let (mut hasher, mut length) = (digest::Context::new(&digest::SHA256), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the body broke off after {length} bytes: {error}"))?;
            if let Ok(data) = frame.into_data() {
                hasher.update(&data);
                length += data.len() as u64;
            }
        }
        Ok(Self { length, sha256: hex(hasher.finish().as_ref()) })
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.length, self.sha256)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
