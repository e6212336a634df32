//! HTTP/2 frame by frame: a client that writes what no library would let it write.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wait::DEADLINE;

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, section 6).
pub const DATA: u8 = 0;
/// Header fields.
pub const HEADERS: u8 = 1;
/// The end of a stream by force.
pub const RST_STREAM: u8 = 3;
/// Settings of a connection.
pub const SETTINGS: u8 = 4;
/// A measurement of a round trip.
pub const PING: u8 = 6;
/// The end of a connection.
pub const GOAWAY: u8 = 7;
/// More room to send.
pub const WINDOW_UPDATE: u8 = 8;
/// Header fields, continued.
pub const CONTINUATION: u8 = 9;

/// The last frame of its stream; an acknowledgement on a connection's own frames.
pub const END_STREAM: u8 = 1;
/// The last frame of a header block.
pub const END_HEADERS: u8 = 4;

/// The head of an answer: its status, which is all that is read of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Three digits; empty where the stream was reset or the connection ended before.
    pub status: String,
    /// Whether nothing follows.
    pub ended: bool,
}

/// A connection on which frames are written and awaited.
pub struct Http2 {
    stream: TcpStream,
    pending: Vec<u8>,
    streams: BTreeMap<u32, Stream>,
    goaway: Option<u32>,
    closed: bool,
}

#[derive(Default)]
struct Stream {
    head: Option<Head>,
    data: Vec<u8>,
    ended: bool,
}

impl Http2 {
    /// Connects and says the preface with empty SETTINGS.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_settings(address, &[]).await
    }

    /// The same with these settings.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    pub async fn with_settings(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("no connection to {address}: {error}"));
        let _ = stream.set_nodelay(true);
        let mut http2 = Self { stream, pending: Vec::new(), streams: BTreeMap::new(), goaway: None, closed: false };
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        http2.write(PREFACE).await;
        http2.frame(SETTINGS, 0, 0, &payload).await;
        http2
    }

    /// Writes bytes; `false` when the other side has closed.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Writes a frame; `false` when the other side has closed.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.write(&frame(kind, flags, stream, payload)).await
    }

    /// Writes a request's or trailers' header fields in one frame.
    pub async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) -> bool {
        self.frame(HEADERS, END_HEADERS | u8::from(end), stream, &block(fields)).await
    }

    /// Writes a frame of a body.
    pub async fn data(&mut self, stream: u32, data: &[u8], end: bool) -> bool {
        self.frame(DATA, u8::from(end), stream, data).await
    }

    /// The head of the answer on `stream`.
    ///
    /// # Panics
    ///
    /// When nothing comes in time.
    pub async fn answer(&mut self, stream: u32) -> Head {
        loop {
            let known = self.streams.entry(stream).or_default();
            if let Some(head) = &known.head {
                return head.clone();
            }
            if known.ended || self.closed {
                return Head { status: String::new(), ended: true };
            }
            self.read().await;
        }
    }

    /// The next `count` bytes of the answer's body.
    ///
    /// # Panics
    ///
    /// When it ends before.
    pub async fn bytes(&mut self, stream: u32, count: usize) -> Vec<u8> {
        loop {
            let known = self.streams.entry(stream).or_default();
            if known.data.len() >= count {
                let rest = known.data.split_off(count);
                return std::mem::replace(&mut known.data, rest);
            }
            assert!(!known.ended && !self.closed, "stream {stream} ended with {} of {count} bytes", known.data.len());
            self.read().await;
        }
    }

    /// Waits for the stream's end.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub async fn ended(&mut self, stream: u32) {
        while !self.closed && !self.streams.entry(stream).or_default().ended {
            self.read().await;
        }
    }

    /// Waits for the end of the connection; answers with the code of its GOAWAY, if there was one.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub async fn end(&mut self) -> Option<u32> {
        while !self.closed {
            self.read().await;
        }
        self.goaway
    }

    /// Reads a frame, acknowledges what must be, and gives room for as much as came.
    async fn read(&mut self) {
        while self.pending.len() < 9 || self.pending.len() < 9 + length(&self.pending) {
            let read = timeout(DEADLINE, self.stream.read_buf(&mut self.pending)).await;
            match read.unwrap_or_else(|_| panic!("nothing came and nothing closed within {DEADLINE:?}")) {
                Ok(count) if count > 0 => {}
                _ => {
                    self.closed = true;
                    return;
                }
            }
        }
        let rest = self.pending.split_off(9 + length(&self.pending));
        let frame = std::mem::replace(&mut self.pending, rest);
        let (kind, flags) = (frame[3], frame[4]);
        let id = u32::from_be_bytes([frame[5] & 0x7f, frame[6], frame[7], frame[8]]);
        let payload = &frame[9..];
        self.take(kind, flags, id, payload).await;
    }

    async fn take(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) {
        let ended = flags & END_STREAM != 0;
        match kind {
            DATA => {
                let known = self.streams.entry(id).or_default();
                known.data.extend_from_slice(payload);
                known.ended |= ended;
                let count = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
                if !payload.is_empty() {
                    self.frame(WINDOW_UPDATE, 0, 0, &count).await;
                    self.frame(WINDOW_UPDATE, 0, id, &count).await;
                }
            }
            HEADERS => {
                let known = self.streams.entry(id).or_default();
                known.ended |= ended;
                // Trailers tell nothing here.
                known.head.get_or_insert_with(|| Head { status: status(payload), ended });
            }
            RST_STREAM => self.streams.entry(id).or_default().ended = true,
            SETTINGS if !ended => {
                self.frame(SETTINGS, END_STREAM, 0, &[]).await;
            }
            PING if !ended => {
                self.frame(PING, END_STREAM, 0, payload).await;
            }
            GOAWAY => self.goaway = payload.get(4..8).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes),
            _ => {}
        }
    }
}

/// A frame with its head (RFC 9113, section 4.1).
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Header fields, each written out in full (RFC 7541, section 6.2.2).
///
/// # Panics
///
/// When a name or value has 127 bytes or more, which this writer has no need for.
#[must_use]
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short header field"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// The status of an answer: an entry of the static table (RFC 7541, appendix A), or written out with its name indexed.
fn status(block: &[u8]) -> String {
    let mut at = 0;
    // Changes of the dynamic table's size may come first.
    while block.get(at).is_some_and(|byte| byte & 0xe0 == 0x20) {
        at += 1;
    }
    let known = ["200", "204", "206", "304", "400", "404", "500"];
    match block.get(at) {
        Some(byte @ 0x88..=0x8e) => known[usize::from(byte - 0x88)].to_owned(),
        // The value is Huffman-coded digits, each of five or six bits.
        Some(_) => digits(block.get(at + 2..).unwrap_or_default()),
        None => String::new(),
    }
}

/// Three digits in HPACK's Huffman code: 0, 1 and 2 have five bits, the others six (RFC 7541, appendix B).
fn digits(bytes: &[u8]) -> String {
    let mut bits = bytes.iter().take(4).flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect::<Vec<_>>();
    let mut text = String::new();
    while text.len() < 3 && bits.len() >= 6 {
        let value = |count: usize| bits[..count].iter().fold(0_u8, |value, bit| value << 1 | bit);
        let (digit, count) = if value(5) <= 2 { (value(5), 5) } else { (value(6).wrapping_sub(0x19) + 3, 6) };
        text.push(char::from(b'0' + digit.min(9)));
        bits.drain(..count);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_from_both_of_their_forms() {
        assert_eq!(status(&[0x88]), "200");
        // 431: 4 is 011010, 3 is 011001, 1 is 00001, and ones fill the last byte.
        assert_eq!(status(&[0x48, 0x83, 0b0110_1001, 0b1001_0000, 0b1111_1111]), "431");
        assert_eq!(status(&[0x3f & 0x20, 0x8d]), "404");
    }
}
