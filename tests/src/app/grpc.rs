//! A small gRPC service, framed by hand: `weir.test.Echo` with `Say` (unary), `Count` (server streaming), `Chat` (both ways)
//! and `Fail` (an error without a message).

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use prost::Message;

use crate::body::{self, Outgoing};

/// What the paths of its methods begin with.
pub(crate) const PREFIX: &str = "/weir.test.Echo/";

/// The only message.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Words {
    /// A text.
    #[prost(string, tag = "1")]
    pub text: String,
    /// How often it is wanted, or which one this is.
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

impl Words {
    /// The message with gRPC's prefix: no compression, and its length.
    #[must_use]
    pub fn frame(&self) -> Bytes {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(self.encoded_len()).expect("a test's message is short"));
        frame.extend_from_slice(&self.encode_to_vec());
        frame.freeze()
    }

    /// All messages of a body.
    ///
    /// # Panics
    ///
    /// When the body is not a whole number of uncompressed messages.
    #[must_use]
    pub fn read_all(mut body: &[u8]) -> Vec<Self> {
        let mut messages = Vec::new();
        while let [compressed, a, b, c, d, rest @ ..] = body {
            assert_eq!(*compressed, 0, "nobody asked for compression");
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            messages.push(Self::decode(&rest[..length]).expect("the message decodes"));
            body = &rest[length..];
        }
        assert!(body.is_empty(), "bytes are left over after the last message");
        messages
    }
}

/// Answers one call.
pub(crate) async fn answer(app: &str, request: Request<Incoming>) -> Response<Outgoing> {
    let response = Response::builder().header("content-type", "application/grpc").header("x-app", app);
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let built = match method.as_str() {
        "Say" | "Count" => match request.into_body().collect().await {
            Ok(body) => response.body(answers(&method, app, &body.to_bytes())),
            Err(_) => response.header("grpc-status", "13").body(body::empty()),
        },
        "Chat" => response.body(chat(request.into_body())),
        _ => response.header("grpc-status", "7").header("grpc-message", "not for you").body(body::empty()),
    };
    built.expect("the response is well-formed")
}

fn answers(method: &str, app: &str, body: &[u8]) -> Outgoing {
    let asked = Words::read_all(body).into_iter().next().unwrap_or_default();
    let count = if method == "Count" { asked.count } else { 1 };
    let text = format!("{app}: {}", asked.text);
    let messages = (1..=count).map(move |count| Ok(Frame::data(Words { text: text.clone(), count }.frame())));
    StreamBody::new(stream::iter(messages.chain([Ok(Frame::trailers(trailers()))]))).boxed_unsync()
}

/// Sends each piece back as it comes: the framing stays valid, whatever the pieces are.
fn chat(body: Incoming) -> Outgoing {
    let pieces = body.into_data_stream().take_while(|piece| std::future::ready(piece.is_ok()));
    // The end may come as a piece of nothing. Sent back before the trailers it would be an empty DATA frame that ends nothing, and
    // h2 closes a connection on which more than a hundred of those have come.
    let pieces = pieces.filter(|piece| std::future::ready(piece.as_ref().is_ok_and(|piece| !piece.is_empty())));
    let frames = pieces.map(|piece| Ok(Frame::data(piece.unwrap_or_default())));
    StreamBody::new(frames.chain(stream::iter([Ok(Frame::trailers(trailers()))]))).boxed_unsync()
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-trailer", HeaderValue::from_static("kept"));
    trailers
}
