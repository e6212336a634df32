//! What HTTP allows and few clients do passes through two sidecars as it would without them; what HTTP forbids is refused, and
//! the application never sees two requests where its client wrote one.

use weir_tests::body::{self, Digest, digest_of_stream};
use weir_tests::origin::Origin;
use weir_tests::prelude::*;
use weir_tests::raw::Raw;

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

/// A Service `odd` whose application this test writes byte for byte, behind a sidecar, and a caller.
async fn behind_a_sidecar(origin: &Origin) -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let starting = mesh.workload("odd").app_at(origin.address()).start();
    let (caller, odd) = tokio::join!(mesh.caller(), starting);
    mesh.service("odd").port(80, "http1").backed_by([&odd]).apply();
    mesh.reaches(&caller, "http://odd/ready").await;
    (mesh, caller, odd)
}

/// What a head says a body's length is.
fn length_of(head: &str) -> usize {
    let lower = head.to_ascii_lowercase();
    lower.lines().find_map(|line| line.strip_prefix("content-length:")).map_or(0, |value| value.trim().parse().unwrap_or(0))
}

/// Answers every request with its request line, after its body.
async fn repeat(mut raw: Raw, head: String) -> Option<Raw> {
    let mut body = raw.exactly(length_of(&head)).await;
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = raw.until("0\r\n\r\n").await.into_bytes();
    }
    let text = format!("{} {}", head.lines().next().unwrap_or_default(), String::from_utf8_lossy(&body));
    raw.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await;
    Some(raw)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http_1_0_client_keeps_its_connection_only_if_it_asks_to() {
    let (_mesh, caller, reviews) = pair().await;
    for address in [caller.client().address(), reviews.inbound()] {
        let mut raw = Raw::connect(address).await;
        for path in ["/first", "/second"] {
            raw.write(format!(
                "POST {path} HTTP/1.0\r\nhost: reviews\r\nconnection: keep-alive\r\ncontent-length: 4\r\n\r\nbody"
            ))
            .await;
            let head = raw.head().await;
            assert!(head.contains(" 200 ") && head.to_ascii_lowercase().contains("connection: keep-alive"), "{head}");
            let body = raw.exactly(length_of(&head)).await;
            let body = String::from_utf8_lossy(&body).into_owned();
            assert!(body.contains(&format!("\"path\":\"{path}\"")) && body.contains("\"body\":\"body\""), "{body}");
        }
        raw.write("GET /last HTTP/1.0\r\nhost: reviews\r\n\r\n").await;
        let rest = String::from_utf8_lossy(&raw.rest().await).into_owned();
        assert!(rest.contains("\"path\":\"/last\""), "unasked it is closed after the answer: {rest}");
        // An answer of unknown length ends with the connection, as HTTP/1.0 has it.
        let mut raw = Raw::connect(address).await;
        raw.write("GET /bytes/100000 HTTP/1.0\r\nhost: reviews\r\nconnection: keep-alive\r\n\r\n").await;
        let head = raw.head().await.to_ascii_lowercase();
        assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
        let body = http_body_util::Full::new(bytes::Bytes::from(raw.rest().await));
        assert_eq!(Digest::of_body(body).await.unwrap(), digest_of_stream(100_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_one_packet_are_answered_in_their_order_with_their_own_bodies() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    let requests = "GET /1 HTTP/1.1\r\nhost: odd\r\n\r\n\
        POST /2 HTTP/1.1\r\nhost: odd\r\ncontent-length: 31\r\n\r\nGET /inner HTTP/1.1\r\nhost: odd\n\
        POST /3 HTTP/1.1\r\nhost: odd\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n\
        HEAD /4 HTTP/1.1\r\nhost: odd\r\n\r\n\
        GET /5 HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\nGET /after-close HTTP/1.1\r\nhost: odd\r\n\r\n";
    for address in [caller.client().address(), odd.inbound()] {
        let before = origin.heads().len();
        let mut raw = Raw::connect(address).await;
        raw.write(requests).await;
        let answers = String::from_utf8_lossy(&raw.rest().await).into_owned();
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 5, "{answers}");
        let lines: Vec<String> =
            origin.heads().split_off(before).iter().map(|head| head.lines().next().unwrap_or_default().to_owned()).collect();
        let expected = ["GET /1", "POST /2", "POST /3", "HEAD /4", "GET /5"].map(|line| format!("{line} HTTP/1.1"));
        assert_eq!(lines, expected, "a body is never taken for a request");
        let at = |text: &str| answers.find(text).unwrap_or_else(|| panic!("no {text} in {answers}"));
        assert!(at("GET /1") < at("POST /2") && at("POST /2") < at("POST /3") && at("POST /3") < at("GET /5"), "{answers}");
        assert!(answers.contains("GET /inner HTTP/1.1") && answers.contains("hello"), "{answers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_continue_is_told_to_go_on_and_its_body_arrives() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for (path, address) in [("/out", caller.client().address()), ("/in", odd.inbound())] {
        let mut raw = Raw::connect(address).await;
        raw.write(format!("POST {path} HTTP/1.1\r\nhost: odd\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")).await;
        // This client does not go on before it is told to.
        assert_eq!(raw.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        raw.write("hello").await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let body = raw.exactly(length_of(&head)).await;
        assert_eq!(String::from_utf8_lossy(&body), format!("POST {path} HTTP/1.1 hello"));
    }
}

/// Refuses by the head alone. `/close`: and closes, whatever the client still writes.
async fn refuse_early(mut raw: Raw, head: String) -> Option<Raw> {
    let (status, length) = if head.contains("/expect") { (417, 0) } else { (413, 9) };
    let body = &"too large"[..length];
    raw.write(format!("HTTP/1.1 {status} No\r\nx-app: odd\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")).await;
    raw.finish().await;
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_comes_before_the_body_has_been_read_is_not_lost() {
    let origin = Origin::start(refuse_early).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for address in [caller.client().address(), odd.inbound()] {
        for _ in 0..20 {
            // A client that waits for leave to send its body.
            let mut raw = Raw::connect(address).await;
            raw.write("POST /expect HTTP/1.1\r\nhost: odd\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n").await;
            let mut head = raw.head().await;
            if head.starts_with("HTTP/1.1 100") {
                head = raw.head().await;
            }
            assert!(head.starts_with("HTTP/1.1 417") && head.contains("x-app: odd"), "{head}");
        }
    }
    for client in [caller.client(), caller.client().h2()] {
        for _ in 0..20 {
            let answer = client.request(Method::POST, "http://odd/upload").stream(body::stream_of(4_000_000)).send().await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (413, "too large"), "{answer:?}");
            assert!(answer.mesh_error().is_none(), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_flows_on_after_its_answer_has_ended() {
    let (sums, mut received) = tokio::sync::mpsc::unbounded_channel::<usize>();
    let origin = Origin::start(move |mut raw: Raw, head: String| {
        let sums = sums.clone();
        async move {
            raw.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            let length = length_of(&head);
            let mut seen = 0;
            while seen < length {
                seen += raw.exactly((length - seen).min(10_000)).await.len();
            }
            let _ = sums.send(seen);
            Some(raw)
        }
    })
    .await;
    let (_mesh, caller, _odd) = behind_a_sidecar(&origin).await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write("POST /early HTTP/1.1\r\nhost: odd\r\ncontent-length: 2000000\r\n\r\nx").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(raw.exactly(2).await, b"ok");
    raw.write(vec![b'x'; 1_999_999]).await;
    assert_eq!(received.recv().await, Some(2_000_000));
}

/// Two interim answers, then the final one.
async fn hint(mut raw: Raw, _head: String) -> Option<Raw> {
    raw.write("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n").await;
    raw.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal").await;
    Some(raw)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interim_answers_never_stand_in_for_the_final_one() {
    let origin = Origin::start(hint).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for address in [caller.client().address(), odd.inbound()] {
        let mut raw = Raw::connect(address).await;
        for _ in 0..3 {
            raw.write("GET /hinted HTTP/1.1\r\nhost: odd\r\n\r\n").await;
            let mut head = raw.head().await;
            while head.starts_with("HTTP/1.1 102") || head.starts_with("HTTP/1.1 103") {
                head = raw.head().await;
            }
            assert!(head.starts_with("HTTP/1.1 200") && !head.contains("preload"), "{head}");
            assert_eq!(raw.exactly(5).await, b"final");
        }
    }
    assert_eq!(caller.client().h2().get("http://odd/hinted").await.text(), "final");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_both_ways_over_http2_from_end_to_end() {
    use http_body_util::BodyExt;
    let mesh = Mesh::start().await;
    let (caller, echo) = tokio::join!(mesh.caller(), mesh.workload("echo").app(App::http("echo")).start());
    mesh.service("echo").app_protocol("kubernetes.io/h2c").backed_by([&echo]).apply();
    mesh.reaches(&caller, "http://echo/").await;
    for client in [caller.client(), caller.client().h2()] {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-request-trailer", "asked".parse().unwrap());
        let frames = [Ok(http_body::Frame::data(bytes::Bytes::from_static(b"body"))), Ok(http_body::Frame::trailers(trailers))];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let sending = client.request(Method::POST, "http://echo/trailers").stream(body);
        let answer = sending.header("te", "trailers").header("trailer", "x-request-trailer").send().await;
        assert_eq!((answer.trailer("x-answer-trailer"), answer.trailer("x-seen-trailer")), (Some("kept"), Some("asked")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_pass_up_to_the_bound_and_over_it_are_refused_by_name() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    // The bound is 64 KiB for all of the head; HTTP/1.1 has a hundred lines.
    let big = "b".repeat(60_000);
    for client in [caller.client(), caller.client().h2()] {
        let answer = client.request(Method::GET, "http://odd/big").header("x-big", &big).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(origin.heads_with("/big").pop().is_some_and(|head| head.contains(&big)), "it arrived whole");
    }
    let many = |count: usize| (0..count).map(|number| format!("x-{number}: {number}\r\n")).collect::<String>();
    for address in [caller.client().address(), odd.inbound()] {
        let mut raw = Raw::connect(address).await;
        raw.write(format!("GET /many HTTP/1.1\r\nhost: odd\r\n{}\r\n", many(95))).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 200"));
        for over in [many(200), format!("x-big: {}\r\n", "b".repeat(70_000))] {
            let mut raw = Raw::connect(address).await;
            raw.write(format!("GET /over HTTP/1.1\r\nhost: odd\r\n{over}\r\n")).await;
            let answer = raw.head().await;
            assert!(answer.starts_with("HTTP/1.1 431"), "{answer:?}");
            assert!(answer.contains("weir-error: headers-too-large; hop="), "{answer:?}");
        }
    }
    // HTTP/2 counts more for each line, and so its bound is twice as high; what is over it is refused by its own layer.
    let over = "b".repeat(140_000);
    let answer = caller.client().h2().request(Method::GET, "http://odd/over").header("x-big", &over).send().await;
    assert_eq!(answer.status, 431, "{answer:?}");
    assert!(origin.heads_with("/over").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_head_is_over_the_bound_is_a_clean_error() {
    let origin = Origin::start(|mut raw: Raw, head: String| async move {
        let size = if head.contains("/fits") { 60_000 } else { 300_000 };
        raw.write(format!("HTTP/1.1 200 OK\r\nx-big: {}\r\ncontent-length: 2\r\n\r\nok", "b".repeat(size))).await;
        Some(raw)
    })
    .await;
    let (_mesh, caller, _odd) = behind_a_sidecar(&origin).await;
    // The second client here admits no more than 16 KiB.
    let answer = caller.client().get("http://odd/fits").await;
    assert_eq!((answer.header("x-big").map(str::len), answer.text().as_str()), (Some(60_000), "ok"));
    for client in [caller.client(), caller.client().h2()] {
        let answer = client.get("http://odd/over").await;
        assert_eq!(answer.status, 502, "{answer:?}");
        assert!(answer.mesh_error().is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_length_beside_chunks_the_connection_is_closed_unasked() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for lengths in ["content-length: 4\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 4"] {
        for address in [caller.client().address(), odd.inbound()] {
            let mut raw = Raw::connect(address).await;
            raw.write(format!("POST /both HTTP/1.1\r\nhost: odd\r\n{lengths}\r\n\r\n0\r\n\r\n")).await;
            raw.write("GET /smuggled HTTP/1.1\r\nhost: odd\r\n\r\n").await;
            let answers = String::from_utf8_lossy(&raw.rest().await).into_owned();
            assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "RFC 9112, section 6.3: {answers}");
        }
    }
    assert!(origin.heads_with("/smuggled").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_is_ambiguous_is_refused_or_written_anew_in_one_way() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for (what, request) in [
        ("line feeds alone", "POST /x HTTP/1.1\nhost: odd\nconnection: close\ncontent-length: 2\nx-kept: 1\n\nok"),
        (
            "a chunk size with a prefix",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "a chunk size with a sign",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n+2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "a chunk with an extension",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\n\r\n",
        ),
        (
            "a line feed in an extension",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2;\nxx\r\nok\r\n0\r\n\r\n",
        ),
        (
            "chunks that end with line feeds",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\nok\n0\n\n",
        ),
        (
            "chunked twice",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "a coding that only looks so",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: xchunked\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "a tab before the coding",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding:\tchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "chunks in HTTP/1.0",
            "POST /x HTTP/1.0\r\nhost: odd\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            "the same length twice",
            "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        ),
        ("an empty header name", "POST /x HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n: x\r\ncontent-length: 2\r\n\r\nok"),
        ("a first line that is folded", "POST /x HTTP/1.1\r\n host: odd\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
        ("two spaces in the request line", "POST  /x  HTTP/1.1\r\nhost: odd\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
        ("a version that is none", "POST /x HTTP/1.2\r\nhost: odd\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
    ] {
        for address in [caller.client().address(), odd.inbound()] {
            let before = origin.heads().len();
            let mut raw = Raw::connect(address).await;
            raw.write(request).await;
            let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
            let seen = origin.heads().split_off(before);
            let refused = answer.starts_with("HTTP/1.1 400");
            assert!(refused || answer.contains(" 200 OK"), "{what}: {answer:?}");
            assert!(answer.matches("HTTP/1.").count() <= 2, "{what}: one request has one answer: {answer:?}");
            let [head] = seen.as_slice() else {
                assert!(refused && seen.is_empty(), "{what}: {seen:?} {answer:?}");
                continue;
            };
            assert!(!head.replace("\r\n", "").contains(['\r', '\n']), "{what}: {head:?}");
            assert!(head.starts_with("POST /x HTTP/1.1\r\n"), "{what}: {head:?}");
            let lower = head.to_ascii_lowercase();
            let lengths = lower.matches("content-length:").count() + lower.matches("transfer-encoding:").count();
            assert_eq!(lengths, 1, "{what}: {head:?}");
            assert!(refused || answer.ends_with("ok") || answer.contains("2\r\nok\r\n0"), "{what}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_is_routed_is_the_host_that_is_sent() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    let hosts = |head: &str| {
        let lower = head.to_ascii_lowercase();
        lower.lines().filter_map(|line| line.strip_prefix("host:").map(|it| it.trim().to_owned())).collect::<Vec<_>>()
    };
    for (what, head) in [
        ("no host", "GET /no HTTP/1.1\r\n"),
        ("two hosts", "GET /no HTTP/1.1\r\nhost: odd\r\nhost: odd\r\n"),
        ("two different hosts", "GET /no HTTP/1.1\r\nhost: odd\r\nhost: other\r\n"),
        ("a list", "GET /no HTTP/1.1\r\nhost: odd, other\r\n"),
        ("a user", "GET /no HTTP/1.1\r\nhost: admin@odd\r\n"),
        ("a path", "GET /no HTTP/1.1\r\nhost: odd/admin\r\n"),
        ("a space", "GET /no HTTP/1.1\r\nhost: odd other\r\n"),
        ("a port that is none", "GET /no HTTP/1.1\r\nhost: odd:http\r\n"),
        ("nothing", "GET /no HTTP/1.1\r\nhost: \r\n"),
        ("a user in the target", "GET http://admin@odd/no HTTP/1.1\r\nhost: odd\r\n"),
    ] {
        for address in [caller.client().address(), odd.inbound()] {
            let mut raw = Raw::connect(address).await;
            raw.write(format!("{head}connection: close\r\n\r\n")).await;
            let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
            assert!(answer.starts_with("HTTP/1.1 400"), "{what} at {address}: {answer:?}");
        }
    }
    assert!(origin.heads_with("/no").is_empty(), "{:?}", origin.heads());
    // The absolute form decides, and the application is told the host that was decided by (RFC 9112, section 3.2.2).
    for address in [caller.client().address(), odd.inbound()] {
        let mut raw = Raw::connect(address).await;
        raw.write("GET http://odd/absolute HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n").await;
        assert!(raw.rest().await.starts_with(b"HTTP/1.1 200"));
        let heads = origin.heads_with("/absolute");
        let head = heads.last().unwrap_or_else(|| panic!("it did not arrive"));
        assert!(head.starts_with("GET /absolute HTTP/1.1\r\n"), "{head}");
        assert_eq!(hosts(head), ["odd"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_arrives_byte_for_byte() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for path in [
        "//x",
        "/./x",
        "/a/../x",
        "/%2e%2e/x",
        "/%2E%2e%2fx",
        "/a%2fb",
        "/a;b=c/d",
        "/a//b///",
        "/?",
        "/?a=b?c=d&&",
        "/%00",
        "/%",
        "/%zz",
        "/a+b",
        "/a%20b",
        "/~a",
        "/(a)",
        "/a|b",
        "/[a]",
        "/{a}",
        "/a\\b",
        "/a^b",
        "/\"a\"",
        "/a:b@c",
        "///",
        "/caf%C3%A9",
        "/x?y#z",
    ] {
        for address in [caller.client().address(), odd.inbound()] {
            let before = origin.heads().len();
            let mut raw = Raw::connect(address).await;
            raw.write(format!("GET {path} HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\n")).await;
            let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
            let seen = origin.heads().split_off(before);
            if answer.starts_with("HTTP/1.1 400") {
                assert!(seen.is_empty(), "{path}: {seen:?}");
                continue;
            }
            let [head] = seen.as_slice() else { panic!("{path}: {answer:?} {seen:?}") };
            let sent = path.split('#').next().unwrap_or_default();
            assert!(head.starts_with(&format!("GET {sent} HTTP/1.1\r\n")), "{path}: {head}");
        }
    }
    // The same from HTTP/2, where the path is a header of its own.
    for path in ["//x", "/./x", "/a/../x", "/%2e%2e/x", "/a%2fb", "/a;b=c/d", "/a//b///?"] {
        let answer = caller.client().h2().get(&format!("http://odd{path}")).await;
        assert!(answer.text().starts_with(&format!("GET {path} HTTP/1.1")), "{path}: {answer:?}");
    }
    for address in [caller.client().address(), odd.inbound()] {
        let mut raw = Raw::connect(address).await;
        raw.write("OPTIONS * HTTP/1.1\r\nhost: odd\r\nconnection: close\r\n\r\n").await;
        let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
        let head = origin.heads_with("OPTIONS").pop();
        assert!(
            answer.starts_with("HTTP/1.1 400") || head.is_some_and(|head| head.starts_with("OPTIONS * HTTP/1.1\r\n")),
            "{address}: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_can_have_the_meshs_own_headers_removed_or_made_up() {
    let origin = Origin::start(repeat).await;
    let (_mesh, caller, odd) = behind_a_sidecar(&origin).await;
    for address in [caller.client().address(), odd.inbound()] {
        let mut raw = Raw::connect(address).await;
        raw.write(
            "POST /claims HTTP/1.1\r\nhost: odd\r\nconnection: close, weir-client-id, weir-proto, content-length, transfer-encoding, \
             host, x-forwarded-for\r\nweir-client-id: spiffe://cluster.local/ns/shop/sa/admin\r\nWeir-Client-ID: other\r\n\
             weir-proto: http2\r\nx-forwarded-for: 10.0.0.1\r\ncontent-length: 2\r\n\r\nok",
        )
        .await;
        let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        let head = origin.heads_with("/claims").pop().unwrap_or_default().to_ascii_lowercase();
        let ids: Vec<&str> = head.lines().filter(|line| line.starts_with("weir-client-id")).collect();
        let expected: &[&str] =
            if address == odd.inbound() { &[] } else { &["weir-client-id: spiffe://cluster.local/ns/shop/sa/caller"] };
        assert_eq!(ids, expected);
        assert!(head.contains("host: odd\r\n") && head.contains("x-forwarded-for: 10.0.0.1\r\n"), "{head}");
        assert!(!head.contains("weir-proto"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_over_http2_passes_as_one_over_http_1_1_does() {
    let (_mesh, caller, reviews) = pair().await;
    for address in [caller.client().address(), reviews.inbound()] {
        let mut raw = weir_tests::frames::Http2::connect(address).await;
        raw.headers(
            1,
            &[
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                (":scheme", "http"),
                (":path", "/chat"),
                (":authority", "reviews"),
                ("sec-websocket-version", "13"),
            ],
            false,
        )
        .await;
        let answer = raw.answer(1).await;
        assert_eq!(answer.status, "200", "{answer:?}");
        raw.data(1, b"hello", false).await;
        assert_eq!(raw.bytes(1, 5).await, b"hello");
        raw.data(1, b"", true).await;
        raw.ended(1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_over_http2_carries_bytes_both_ways() {
    let mesh = Mesh::start().await;
    let (caller, server) = tokio::join!(mesh.caller(), mesh.workload("tcp").app(App::TcpEcho).start());
    mesh.service("tcp").port(9000, "tcp").backed_by([&server]).apply();
    let address = caller.client().address();
    until("the tunnel stands", async || {
        let mut h2 = weir_tests::frames::Http2::connect(address).await;
        h2.headers(1, &[(":method", "CONNECT"), (":authority", "tcp:9000")], false).await;
        let answer = h2.answer(1).await;
        ensure(answer.status == "200", || format!("{answer:?}"))?;
        h2.data(1, b"four", false).await;
        assert_eq!(h2.bytes(1, 4).await, b"four");
        h2.data(1, b"", true).await;
        assert_eq!(h2.bytes(1, 5).await, b"bye 4", "after our end the server still speaks");
        h2.ended(1).await;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_many_small_pieces_flows_both_ways_for_long() {
    use http_body_util::BodyExt;
    let (_mesh, caller, _reviews) = pair().await;
    for client in [caller.client(), caller.client().h2()] {
        let (send, receive) = tokio::sync::mpsc::channel::<bytes::Bytes>(4);
        let frames = futures_util::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|data| (Ok(http_body::Frame::data(data)), receive))
        });
        let body = http_body_util::StreamBody::new(frames).boxed_unsync();
        let mut response = client.request(Method::POST, "http://reviews/echo").stream(body).open().await.unwrap();
        for turn in 0..3000_u32 {
            let word = turn.to_be_bytes();
            send.send(bytes::Bytes::copy_from_slice(&word)).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < word.len() {
                let frame = response.body_mut().frame().await.unwrap().unwrap();
                seen.extend_from_slice(frame.data_ref().unwrap());
            }
            assert_eq!(seen, word);
        }
        drop(send);
        let rest = response.into_body().collect().await.unwrap().to_bytes();
        assert!(rest.is_empty(), "{rest:?}");
    }
}
