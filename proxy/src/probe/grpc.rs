//! The gRPC health protocol, version 1: `grpc.health.v1.Health/Check` without TLS, as the kubelet asks it.

use std::net::SocketAddr;

use ::http::header::{CONTENT_TYPE, TE, USER_AGENT};
use ::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::task::JoinSet;

use super::{Broken, Outcome, connect};
use crate::pool::root_cause;

const PATH: &str = "/grpc.health.v1.Health/Check";
/// A message's flags and length before it.
const PREFIX: usize = 5;
/// The answer is a number.
const MAX_ANSWER: usize = 1024;
/// `UNIMPLEMENTED` and `NOT_FOUND` of gRPC.
const UNIMPLEMENTED: &str = "12";
const NOT_FOUND: &str = "5";

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(prost::Message)]
struct CheckResponse {
    #[prost(enumeration = "Health", tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Health {
    Unknown = 0,
    Up = 1,
    Down = 2,
    ServiceUnknown = 3,
}

pub(super) async fn ask(address: SocketAddr, service: &str, asker: Option<&HeaderValue>) -> Result<Outcome, Broken> {
    let stream = connect(address).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the probe, also when that is cancelled.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let answer = sender.send_request(request(address, service, asker)?).await.map_err(broken)?;
    let (head, mut body) = answer.into_parts();
    if head.status != StatusCode::OK {
        return Ok(failed(format!("the application answered {}, which is not gRPC", head.status.as_u16())));
    }
    let mut message = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.map_err(broken)?.into_data() {
            Ok(data) if message.len() + data.len() <= MAX_ANSWER => message.put(data),
            Ok(_) => return Err(Broken::Answer(format!("its health is said in more than {MAX_ANSWER} bytes"))),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(judge(trailers.as_ref().unwrap_or(&head.headers), &message, service))
}

fn request(address: SocketAddr, service: &str, asker: Option<&HeaderValue>) -> Result<Request<Full<Bytes>>, Broken> {
    let message = CheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut body = BytesMut::with_capacity(PREFIX + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    body.put_slice(&message);
    let uri = Uri::builder().scheme("http").authority(address.to_string()).path_and_query(PATH).build();
    let mut request = Request::new(Full::new(body.freeze()));
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.map_err(|error| Broken::Answer(format!("it cannot be asked: {error}")))?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, asker.cloned().unwrap_or(HeaderValue::from_static("kube-probe/weir")));
    Ok(request)
}

/// What the answer means. `end` has the gRPC status: the trailers, or the head where there is nothing else.
fn judge(end: &HeaderMap, message: &[u8], service: &str) -> Outcome {
    let status = end.get("grpc-status").and_then(|it| it.to_str().ok()).unwrap_or("missing");
    let said = end.get("grpc-message").and_then(|it| it.to_str().ok()).unwrap_or_default();
    match status {
        "0" => {}
        UNIMPLEMENTED => return failed("the application does not implement the gRPC health protocol".into()),
        NOT_FOUND => return failed(format!("the application knows nothing of the health of service `{service}`")),
        status => return failed(format!("the application answered with gRPC status {status} {said}")),
    }
    let answer = message.get(PREFIX..).filter(|_| message.first() == Some(&0)).and_then(|it| CheckResponse::decode(it).ok());
    match answer.map(|answer| answer.status()) {
        Some(Health::Up) => Outcome::Passed("the application says that it is SERVING".into()),
        Some(other) => failed(format!("the application says {} of service `{service}`", other.name())),
        None => failed("the application's answer is not one of the gRPC health protocol".into()),
    }
}

impl Health {
    const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Up => "SERVING",
            Self::Down => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
        }
    }
}

fn failed(reason: String) -> Outcome {
    Outcome::Failed(StatusCode::SERVICE_UNAVAILABLE, reason)
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn broken(error: hyper::Error) -> Broken {
    Broken::Answer(root_cause(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serving_passes() {
        let answer = |grpc: Option<&'static str>, message: &[u8]| {
            let mut end = HeaderMap::new();
            grpc.map(|status| end.insert("grpc-status", HeaderValue::from_static(status)));
            judge(&end, message, "cart")
        };
        assert!(matches!(answer(Some("0"), &[0, 0, 0, 0, 2, 8, 1]), Outcome::Passed(_)));
        for (grpc, message, expected) in [
            (Some("0"), &[0, 0, 0, 0, 2, 8, 2][..], "NOT_SERVING of service `cart`"),
            (Some("0"), &[0, 0, 0, 0, 2, 8, 3], "SERVICE_UNKNOWN"),
            (Some("0"), &[0, 0, 0, 0, 0], "UNKNOWN"),
            (Some("0"), &[1, 0, 0, 0, 2, 8, 1], "not one of the gRPC health protocol"),
            (Some("0"), &[], "not one of the gRPC health protocol"),
            (Some("12"), &[], "does not implement"),
            (Some("5"), &[], "knows nothing"),
            (Some("14"), &[], "gRPC status 14"),
            (None, &[0, 0, 0, 0, 2, 8, 1], "gRPC status missing"),
        ] {
            match answer(grpc, message) {
                Outcome::Failed(_, said) => assert!(said.contains(expected), "{said}"),
                other => panic!("{message:?}: {other:?}"),
            }
        }
    }
}
