//! `weir.v1.Discovery` on the wire, without encoding a resource once for every proxy.
//!
//! A message inside a message and a run of bytes look the same in Protocol Buffers. So [`SharedResponse`] is a
//! `weir.v1.DiscoveryResponse` whose resources are bytes that were encoded before; proxies cannot tell the difference, and a
//! test holds the two to that.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weir_proto::v1::{DiscoveryRequest, ResourceName};

use super::stream::Discovery;

/// A `weir.v1.DiscoveryResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SharedResponse {
    /// Numbered from 1.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// Encoded `weir.v1.Resource`s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub updated: Vec<Bytes>,
    /// Subscribed names that do not exist.
    #[prost(message, repeated, tag = "3")]
    pub removed: Vec<ResourceName>,
    /// Names that nothing refers to any more.
    #[prost(message, repeated, tag = "4")]
    pub forgotten: Vec<ResourceName>,
}

/// Largest message that is taken from a proxy, in bytes: a subscription to ten thousand names with the longest names.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Largest message that is sent, in bytes. A response ends far below (see `session`) unless one Service alone is larger.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// What a stream's responses come through.
pub type Responses = ReceiverStream<Result<SharedResponse, Status>>;

/// The gRPC service around a [`Discovery`].
#[derive(Clone, Debug)]
pub struct DiscoveryService {
    discovery: Discovery,
}

impl DiscoveryService {
    /// Serves `discovery`.
    #[must_use]
    pub const fn new(discovery: Discovery) -> Self {
        Self { discovery }
    }
}

impl NamedService for DiscoveryService {
    const NAME: &'static str = weir_proto::v1::discovery_server::SERVICE_NAME;
}

impl tonic::codegen::Service<http::Request<Body>> for DiscoveryService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let opener = Opener(self.discovery.clone());
        Box::pin(async move {
            if request.uri().path() != STREAM_PATH {
                return Ok(Status::unimplemented("weir.v1.Discovery has the method Stream only").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<SharedResponse, DiscoveryRequest>::default())
                .max_decoding_message_size(MAX_REQUEST_BYTES)
                .max_encoding_message_size(MAX_RESPONSE_BYTES);
            Ok(grpc.streaming(opener, request).await)
        })
    }
}

/// The path of `weir.v1.Discovery/Stream`.
const STREAM_PATH: &str = "/weir.v1.Discovery/Stream";

/// Opens a stream for each call.
struct Opener(Discovery);

impl StreamingService<DiscoveryRequest> for Opener {
    type Response = SharedResponse;
    type ResponseStream = Responses;
    type Future = Ready<Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        ready(self.0.open(request).map(Response::new))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use weir_proto::v1;

    use super::*;

    #[test]
    fn a_shared_response_is_a_discovery_response() {
        let name = |text: &str| ResourceName { kind: v1::ResourceKind::Service.into(), name: text.into() };
        let resource = v1::Resource { name: Some(name("a/b")), version: "7".into(), body: None };
        let shared = SharedResponse {
            sequence: 9,
            updated: vec![resource.encode_to_vec().into()],
            removed: vec![name("c/d")],
            forgotten: vec![name("e/f")],
        };
        let plain = v1::DiscoveryResponse {
            sequence: 9,
            updated: vec![resource],
            removed: vec![name("c/d")],
            forgotten: vec![name("e/f")],
        };
        assert_eq!(shared.encode_to_vec(), plain.encode_to_vec());
    }
}
