//! The applications do what scenarios rely on, asked without any proxy between.

use std::net::SocketAddr;

use http::Method;

use super::{App, Fault, RunningApp, Words};
use crate::address;
use crate::body::{self, Digest, digest_of_stream};
use crate::client::{Client, request};
use crate::load::Load;
use crate::raw::Raw;

fn start(app: App) -> (RunningApp, Client) {
    let running = app.start(SocketAddr::new(address::loopback().into(), 8080));
    let client = Client::to(running.address());
    (running, client)
}

fn url(client: Client, path: &str) -> String {
    format!("http://{}{path}", client.address())
}

#[tokio::test]
async fn it_describes_requests_in_both_versions() {
    let (app, client) = start(App::http("it"));
    for (client, version) in [(client, "HTTP/1.1"), (client.h2(), "HTTP/2")] {
        let answer = client.request(Method::PUT, &url(client, "/a?b=c")).header("x-y", "z").body("text").send().await;
        assert_eq!(answer.app(), "it");
        let seen = answer.seen();
        assert_eq!((&seen["method"], &seen["path"], &seen["query"]), (&"PUT".into(), &"/a".into(), &"b=c".into()));
        assert_eq!((&seen["version"], &seen["body"]), (&version.into(), &"text".into()));
        assert_eq!(answer.seen_header("x-y"), ["z"]);
    }
    assert_eq!(app.requests("/a"), 2);
}

#[tokio::test]
async fn it_answers_as_the_path_says_and_fails_as_it_is_told() {
    let (app, client) = start(App::http("it"));
    assert_eq!(client.get(&url(client, "/status/418")).await.status, 418);
    let response = client.request(Method::GET, &url(client, "/bytes/200000")).open().await.unwrap();
    assert_eq!(Digest::of_body(response.into_body()).await, Ok(digest_of_stream(200_000)));
    let answer = client.request(Method::POST, &url(client, "/sink")).stream(body::stream_of(200_000)).send().await;
    assert_eq!(answer.text(), digest_of_stream(200_000).to_string());
    for path in ["/reset", "/reset-after-body", "/break"] {
        client.try_get(&url(client, path)).await.expect_err(path);
    }
    app.fail_next(1, Fault::Status(503));
    app.fail_next(1, Fault::Reset);
    assert_eq!(client.get(&url(client, "/x")).await.status, 503);
    client.try_get(&url(client, "/x")).await.expect_err("a reset");
    assert_eq!(client.get(&url(client, "/x")).await.status, 200);
    assert_eq!(app.requests("/x"), 3);
}

#[tokio::test]
async fn it_holds_requests_until_they_are_released() {
    let (app, client) = start(App::http("it"));
    let held = tokio::spawn(async move { client.get(&url(client, "/hold")).await });
    app.holds(1).await;
    app.release();
    assert_eq!(held.await.unwrap().text(), "released");
}

#[tokio::test]
async fn it_sends_and_reads_trailers_in_both_versions() {
    let (_app, client) = start(App::http("it"));
    for client in [client, client.h2()] {
        let answer = client.request(Method::GET, &url(client, "/trailers")).header("te", "trailers").send().await;
        assert_eq!(answer.trailer("x-answer-trailer"), Some("kept"));
    }
    let mut raw = Raw::connect(client.address()).await;
    raw.write("POST /trailers HTTP/1.1\r\nhost: it\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-request-trailer: asked\r\n\r\n")
        .await;
    raw.head().await;
    assert!(raw.until("\r\n\r\n").await.contains("x-seen-trailer: asked"));
}

#[tokio::test]
async fn it_speaks_grpc_and_upgrades() {
    let (_app, client) = start(App::http("it"));
    let call =
        |method: &str, body| client.h2().request(Method::POST, &url(client, &format!("/weir.test.Echo/{method}"))).body(body);
    let words = Words { text: "hi".to_owned(), count: 3 };
    let answer = call("Count", words.frame()).send().await;
    assert_eq!(Words::read_all(&answer.body).len(), 3);
    assert_eq!(answer.trailer("grpc-status"), Some("0"));
    assert_eq!(call("Chat", words.frame()).send().await.body, words.frame());
    assert_eq!(call("Fail", words.frame()).send().await.header("grpc-status"), Some("7"));
    let mut raw = Raw::connect(client.address()).await;
    raw.write("GET / HTTP/1.1\r\nhost: it\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101"));
    raw.write("echo").await;
    raw.until("echo").await;
}

#[tokio::test]
async fn it_counts_connections_and_dies_when_it_is_killed() {
    let (mut app, client) = start(App::http("it"));
    let mut connection = client.connect().await.unwrap();
    connection.send(request(Method::GET, &url(client, "/"))).await.unwrap();
    assert_eq!((app.connections(), app.accepted()), (1, 1));
    app.kill().await;
    connection.send(request(Method::GET, &url(client, "/"))).await.expect_err("the connection is gone");
    client.try_get(&url(client, "/")).await.expect_err("and so is the listener");
}

#[tokio::test]
async fn tcp_applications_echo_greet_and_half_close() {
    let (_echo, client) = start(App::TcpEcho);
    let mut raw = Raw::connect(client.address()).await;
    raw.write("four").await;
    raw.until("four").await;
    raw.finish().await;
    assert_eq!(raw.rest().await, b"bye 4");
    let (_greeter, client) = start(App::TcpServerFirst("hello\n".to_owned()));
    let mut raw = Raw::connect(client.address()).await;
    assert_eq!(raw.until("\n").await, "hello\n");
}

#[tokio::test]
async fn a_load_counts_successes_and_failures() {
    let (app, client) = start(App::http("it"));
    let load = Load::get(client, 3, &url(client, "/x"));
    load.passes(50).await;
    app.fail_next(2, Fault::Status(500));
    app.fail_next(1, Fault::Reset);
    load.passes(50).await;
    let tally = load.stop().await;
    assert_eq!(tally.failed, 3, "{tally:?}");
    assert_eq!(tally.succeeded() + tally.failed, app.requests("/x"));
    assert_eq!(tally.answered.keys().collect::<Vec<_>>(), ["it"]);
}
