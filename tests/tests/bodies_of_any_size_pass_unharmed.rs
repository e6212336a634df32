//! Bodies pass unharmed in both directions, whatever their size, and are never gathered in a proxy's memory.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use weir_tests::body::{self, Digest, digest_of_stream};
use weir_tests::prelude::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// No body, the smallest, one over the usual window, and one that could not hide in a buffer.
const SIZES: [u64; 4] = [0, 1, 64 * KIB + 1, 100 * MIB];
/// What a proxy may grow by while 100 MiB pass: windows and buffers of a few connections, far below the body.
const GROWTH: u64 = 24 * MIB;

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

/// Peak memory of both proxies.
fn peaks(workloads: [&Workload; 2]) -> [u64; 2] {
    workloads.map(|workload| workload.proxy().process().peak_memory())
}

fn assert_flat(before: [u64; 2], after: [u64; 2]) {
    for (before, after) in before.into_iter().zip(after) {
        assert!(after - before <= GROWTH, "a proxy's memory grew from {before} to {after} bytes while 100 MiB passed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_any_size_arrive_whole_with_flat_memory() {
    let (_mesh, caller, reviews) = pair().await;
    let before = peaks([&caller, &reviews]);
    for client in [caller.client(), caller.client().h2()] {
        for size in SIZES {
            let answer = client.request(Method::POST, "http://reviews/sink").stream(body::stream_of(size)).send().await;
            assert_eq!(answer.text(), digest_of_stream(size).to_string(), "{size} bytes");
        }
    }
    assert_flat(before, peaks([&caller, &reviews]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_any_size_arrive_whole_with_flat_memory() {
    let (_mesh, caller, reviews) = pair().await;
    let before = peaks([&caller, &reviews]);
    for client in [caller.client(), caller.client().h2()] {
        for size in SIZES {
            let response = client.request(Method::GET, &format!("http://reviews/bytes/{size}")).open().await.unwrap();
            assert_eq!(Digest::of_body(response.into_body()).await, Ok(digest_of_stream(size)), "{size} bytes");
        }
    }
    assert_flat(before, peaks([&caller, &reviews]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_streams_both_ways_at_once() {
    let (_mesh, caller, _reviews) = pair().await;
    for client in [caller.client(), caller.client().h2()] {
        let size = 8 * MIB;
        let response = client.request(Method::POST, "http://reviews/echo").stream(body::stream_of(size)).open().await.unwrap();
        assert_eq!(Digest::of_body(response.into_body()).await, Ok(digest_of_stream(size)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_stops_reading_does_not_fill_a_proxys_memory() {
    let (_mesh, caller, reviews) = pair().await;
    let before = peaks([&caller, &reviews]);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(caller.client().request(Method::GET, &format!("http://reviews/bytes/{}", 100 * MIB)).open().await.unwrap());
    }
    // The proxies hold what they hold once an answer that is read has passed beside the stalled ones.
    let size = 100 * MIB;
    let response = caller.client().request(Method::GET, &format!("http://reviews/bytes/{size}")).open().await.unwrap();
    assert_eq!(Digest::of_body(response.into_body()).await, Ok(digest_of_stream(size)), "others pass by the stalled ones");
    assert_flat(before, peaks([&caller, &reviews]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_breaks_off_at_the_client() {
    let (_mesh, caller, _reviews) = pair().await;
    for client in [caller.client(), caller.client().h2()] {
        client.try_get("http://reviews/break").await.expect_err("half an answer passed for a whole one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_expects_100_continue_is_served() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = weir_tests::raw::Raw::connect(caller.client().address()).await;
    raw.write("POST http://reviews/sink HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100"));
    raw.write("body").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
}

/// A body and how it is sent.
#[derive(Clone, Debug)]
struct Sent {
    /// Sizes of its pieces.
    pieces: Vec<usize>,
    /// Where in a stream of bytes without repetition it begins.
    first: u8,
    http2: bool,
    /// With its length told beforehand, and so without trailers.
    length_told: bool,
    trailer: Option<String>,
}

/// Nothing, little, about a window, and what lies between.
fn piece() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), 2..100_usize, 1_000..20_000_usize, 65_530..65_542_usize, 262_140..262_150_usize]
}

fn sent() -> impl Strategy<Value = Sent> {
    let trailer = proptest::option::of("[a-z0-9]([ -~]{0,40}[a-z0-9])?");
    let parts = (prop::collection::vec(piece(), 0..8), any::<u8>(), any::<bool>(), any::<bool>(), trailer);
    parts.prop_map(|(pieces, first, http2, length_told, trailer)| Sent { pieces, first, http2, length_told, trailer })
}

impl Sent {
    fn bytes(&self) -> Bytes {
        let length = self.pieces.iter().sum();
        // 251 is prime: a lost or swapped piece of any usual size changes what comes after it.
        (0..length).map(|at: usize| u8::try_from((at + usize::from(self.first)) % 251).unwrap_or_default()).collect()
    }

    fn body(&self) -> body::Outgoing {
        let mut rest = self.bytes();
        if self.length_told {
            return body::full(rest);
        }
        let mut frames: Vec<_> = self.pieces.iter().map(|length| Ok(Frame::data(rest.split_to(*length)))).collect();
        frames.extend(self.trailers().map(|trailers| Ok(Frame::trailers(trailers))));
        StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
    }

    fn trailers(&self) -> Option<HeaderMap> {
        let value = self.trailer.as_ref().filter(|_| !self.length_told)?;
        Some(HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), HeaderValue::from_str(value).ok()?)]))
    }

    /// Whether it comes back as it was sent.
    async fn comes_back(&self, caller: &Workload) -> Result<(), TestCaseError> {
        let client = if self.http2 { caller.client().h2() } else { caller.client() };
        let mut sending = client.request(Method::POST, "http://reviews/echo").header("te", "trailers");
        if self.trailers().is_some() {
            sending = sending.header("trailer", "x-end");
        }
        let answer = sending.stream(self.body()).try_send().await.map_err(TestCaseError::fail)?;
        prop_assert_eq!(answer.status, 200);
        prop_assert!(answer.body == self.bytes(), "{} bytes came back of {}", answer.body.len(), self.bytes().len());
        prop_assert_eq!(answer.trailers.unwrap_or_default(), self.trailers().unwrap_or_default());
        Ok(())
    }
}

#[test]
fn a_body_in_any_pieces_comes_back_as_it_was_sent() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (_mesh, caller, _reviews) = runtime.block_on(pair());
    let config = ProptestConfig { cases: 64, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&sent(), |sent| runtime.block_on(sent.comes_back(&caller)));
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}
