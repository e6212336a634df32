//! Bodies pass unharmed in both directions, whatever their size, and are never gathered in a proxy's memory.

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
