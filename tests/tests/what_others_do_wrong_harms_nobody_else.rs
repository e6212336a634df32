//! What clients and applications do wrong, or only unusually, stays between them: it is passed on or refused as it is, nobody
//! else waits for it, and nobody else is blamed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these end a test; its helpers here are part of it")]

#[path = "what_others_do_wrong_harms_nobody_else/stand_in.rs"]
mod stand_in;

use stand_in::StandIn;
use tokio::net::TcpStream;
use weir_tests::client::request;
use weir_tests::prelude::*;
use weir_tests::raw::Raw;

/// A Service `odd` whose application answers as the script says, with a sidecar and without.
async fn scripted(meshed: bool, port_name: &str, script: stand_in::Script) -> (Mesh, Workload, Workload, StandIn) {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, (odd, listener)) = tokio::join!(start, stand_in::workload(&mesh, "odd", meshed));
    let app = StandIn::scripted(listener, script);
    mesh.service("odd").port(80, port_name).backed_by([&odd]).apply();
    mesh.reaches(&caller, "http://odd/plain").await;
    if meshed {
        // Its sidecar is told apart from the caller's; until then it does not know what the application speaks.
        until("the callee knows the Service it is reached by", async || {
            caller.client().try_get("http://odd/plain").await?;
            let counted = odd.metrics().await.sum("weir_http_requests_total", &[("direction", "inbound"), ("service", "odd")]);
            ensure(counted >= 1.0, || "no request is counted under it".to_owned())
        })
        .await;
    }
    (mesh, caller, odd, app)
}

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

/// What `workload`'s sidecar has counted as `reason` at either hop.
async fn errors(workload: &Workload, reason: &str) -> f64 {
    workload.metrics().await.sum("weir_mesh_errors_total", &[("reason", reason)])
}

async fn ejections(workload: &Workload) -> f64 {
    workload.metrics().await.sum("weir_endpoint_ejections_total", &[])
}

/// Fails unless `count` is none at all.
#[track_caller]
fn none(count: f64, what: &str) {
    assert!(count < 0.5, "{count} {what}");
}

fn answers(path: &str) -> Option<String> {
    let (status, rest) = match path {
        "/sized" => ("200 OK", "content-length: 5\r\n\r\nhello"),
        "/chunked" => ("200 OK", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        "/empty" => ("200 OK", "content-length: 0\r\n\r\n"),
        "/no-content" => ("204 No Content", "\r\n"),
        "/moved" => ("301 Moved Permanently", "location: /there\r\ncontent-length: 5\r\n\r\nthere"),
        "/missing" => ("404 Not Found", "content-length: 7\r\n\r\nnowhere"),
        "/forbidden" => ("403 Forbidden", "content-length: 2\r\n\r\nno"),
        "/accepted" => ("101 Switching Protocols", "connection: upgrade\r\nupgrade: websocket\r\n\r\n"),
        "/silent" => return None,
        // Lengths that are lies: the chunks say how long the body is (RFC 9112, section 6.3).
        "/shorter" => (
            "200 OK",
            "content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
        ),
        "/longer" => ("200 OK", "transfer-encoding: chunked\r\ncontent-length: 100\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        _ => ("200 OK", "content-length: 5\r\n\r\nplain"),
    };
    Some(format!("HTTP/1.1 {status}\r\nx-app: odd\r\n{rest}"))
}

/// A GET that offers to become a WebSocket.
fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: odd\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn an_upgrade_is_declined_as_the_application_says(meshed: bool) {
    let (_mesh, caller, _odd, app) = scripted(meshed, "http", answers).await;
    for (path, status, body) in [
        ("/sized", 200, "hello"),
        ("/chunked", 200, "hello"),
        ("/empty", 200, ""),
        ("/no-content", 204, ""),
        ("/moved", 301, "there"),
        ("/missing", 404, "nowhere"),
    ] {
        let mut connection = caller.client().connect().await.unwrap();
        let mut offer = request(Method::GET, &format!("http://odd{path}"));
        offer.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        offer.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        let answer = connection.send(offer).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!((answer.status.as_u16(), answer.text().as_str(), answer.app()), (status, body, "odd"), "{path}: {answer:?}");
        assert!(!answer.headers.contains_key("weir-status") && answer.mesh_error().is_none(), "{path}: {answer:?}");
        assert_eq!(answer.header("location"), (path == "/moved").then_some("/there"), "{path}");
        let next = connection.send(request(Method::GET, "http://odd/plain")).await;
        assert_eq!(next.map(|answer| answer.text()).as_deref(), Ok("plain"), "{path}: the connection goes on as HTTP");
    }
    let offered = app.heads().iter().filter(|head| head.to_ascii_lowercase().contains("upgrade: websocket")).count();
    assert_eq!(offered, 6, "each was offered to the application as an upgrade, once");
    none(errors(&caller, "upstream-reset").await, "upgrades that were declined are called broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_is_declined_behind_a_sidecar_is_answered_as_the_application_says() {
    an_upgrade_is_declined_as_the_application_says(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_is_declined_outside_the_mesh_is_answered_as_the_application_says() {
    an_upgrade_is_declined_as_the_application_says(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routes_time_limit_and_filters_hold_for_upgrades_too() {
    for meshed in [true, false] {
        let (mesh, caller, _odd, app) = scripted(meshed, "http", answers).await;
        mesh.route(
            "odd",
            "
            - timeouts: {request: 2s}
              filters:
              - type: ResponseHeaderModifier
                responseHeaderModifier: {set: [{name: x-route, value: limited}]}
              backendRefs: [{name: odd, port: 80}]",
        );
        mesh.sees(&caller, "http://odd/plain", |answer| ensure(answer.header("x-route").is_some(), || "no route yet".into()))
            .await;
        for (path, status) in [("/accepted", "HTTP/1.1 101"), ("/forbidden", "HTTP/1.1 403")] {
            let mut raw = Raw::connect(caller.client().address()).await;
            raw.write(upgrade(path)).await;
            let head = raw.head().await;
            assert!(head.starts_with(status) && head.contains("x-route: limited"), "{path}, meshed: {meshed}: {head}");
        }
        let idle = app.connections();
        let mut raw = Raw::connect(caller.client().address()).await;
        raw.write(upgrade("/silent")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 504"), "meshed: {meshed}: {head}");
        assert!(head.contains("weir-error: request-timeout; hop=outbound"), "meshed: {meshed}: {head}");
        assert_eq!(app.heads().iter().filter(|head| head.starts_with("GET /silent")).count(), 1);
        until("the application is rid of the request", async || {
            let open = app.connections();
            ensure(open <= idle, || format!("{open} connections are open, {idle} were"))
        })
        .await;
    }
}

/// An HTTP/2 application that admits three streams on a connection, and a caller. Both sidecars have one worker, so that all
/// requests share what there is.
async fn few_streams(meshed: bool) -> (Mesh, Workload, Workload, StandIn) {
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, (few, listener)) = tokio::join!(start, stand_in::workload(&mesh, "few", meshed));
    let app = StandIn::with_few_streams(listener, 3);
    mesh.service("few").app_protocol("kubernetes.io/h2c").backed_by([&few]).apply();
    mesh.reaches(&caller, "http://few/quick").await;
    (mesh, caller, few, app)
}

async fn a_quick_request_is_answered_while_others_hold_all_streams(meshed: bool) {
    let (_mesh, caller, _few, app) = few_streams(meshed).await;
    let mut held = tokio::task::JoinSet::new();
    for count in 1..=10 {
        let client = caller.client();
        held.spawn(async move { client.try_get("http://few/hold").await });
        app.holds(count).await;
        let answer = caller.client().get("http://few/quick").await;
        assert_eq!(answer.text(), "quick", "behind {count} that are held: {answer:?}");
    }
    assert!(held.try_join_next().is_none(), "those that are held are still waiting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_hang_behind_an_application_that_admits_few_streams() {
    a_quick_request_is_answered_while_others_hold_all_streams(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_hang_behind_an_endpoint_outside_the_mesh_that_admits_few_streams() {
    a_quick_request_is_answered_while_others_hold_all_streams(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_posts_at_once_all_reach_an_application_that_admits_few_streams() {
    for meshed in [true, false] {
        let (_mesh, caller, _few, app) = few_streams(meshed).await;
        let mut posts = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let client = caller.client();
            posts.spawn(async move { client.request(Method::POST, "http://few/hold").body("once").try_send().await });
        }
        tokio::select! {
            () = app.holds(40) => {}
            Some(ended) = posts.join_next() => panic!("one was not held, meshed: {meshed}: {ended:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_break_off_their_uploads_are_held_against_nobody_else() {
    let mesh = Mesh::start().await;
    let start = |name| mesh.workload(name).service_account("reviews").app(App::http(name)).start();
    let (caller, a, b) = tokio::join!(mesh.caller(), start("replica-a"), start("replica-b"));
    mesh.service("reviews").backed_by([&a, &b]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    for count in 1..=40 {
        let mut raw = Raw::connect(caller.client().address()).await;
        raw.write("POST http://reviews/sink HTTP/1.1\r\nhost: reviews\r\ncontent-length: 100000\r\n\r\n").await;
        raw.write([b'x'; 1000]).await;
        drop(raw);
        let aborted = [("direction", "outbound"), ("reason", "client-aborted")];
        caller.proxy().counts("weir_mesh_errors_total", &aborted, f64::from(count)).await;
    }
    none(ejections(&caller).await, "ejections for what clients did");
    for workload in [&caller, &a, &b] {
        none(errors(workload, "upstream-reset").await, "broken answers are claimed where there was none");
    }
    none(
        caller.metrics().await.sum("weir_http_requests_total", &[("status", "502")]),
        "uploads are counted as failures of others",
    );
    for replica in ["replica-a", "replica-b"] {
        let by_it = |answer: &Answer| ensure(answer.app() == replica, || format!("not by {replica}"));
        mesh.sees(&caller, "http://reviews/", by_it).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_chunks_and_a_length_arrives_whole_without_a_length_that_lies() {
    for meshed in [true, false] {
        let (_mesh, caller, _odd, _app) = scripted(meshed, "http1", answers).await;
        for (path, body) in [("/shorter", "0123456789abcdef0123456789abcdef"), ("/longer", "ok")] {
            for client in [caller.client(), caller.client().h2()] {
                let mut connection = client.connect().await.unwrap();
                let answer = connection.send(request(Method::GET, &format!("http://odd{path}"))).await;
                let answer = answer.unwrap_or_else(|error| panic!("{path}, meshed: {meshed}: {error}"));
                assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, body), "{path}, meshed: {meshed}: {answer:?}");
                let length = answer.header("content-length").map(str::to_owned);
                assert!(length.is_none_or(|length| length == body.len().to_string()), "{path}, meshed: {meshed}: {answer:?}");
                let next = connection.send(request(Method::GET, "http://odd/plain")).await;
                assert_eq!(next.map(|answer| answer.text()).as_deref(), Ok("plain"), "{path}, meshed: {meshed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_chunks_and_a_length_is_refused_or_read_in_one_way() {
    let (_mesh, caller, odd, app) = scripted(true, "http", answers).await;
    for lengths in ["content-length: 4\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 4"] {
        for address in [caller.client().address(), odd.inbound()] {
            let before = app.heads().len();
            let mut raw = Raw::connect(address).await;
            raw.write(format!("POST /two-lengths HTTP/1.1\r\nhost: odd\r\n{lengths}\r\nconnection: close\r\n\r\n")).await;
            raw.write("0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: odd\r\n\r\n").await;
            let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{lengths}: one request has one answer: {answer:?}");
            let seen = app.heads().split_off(before);
            if answer.starts_with("HTTP/1.1 400") {
                assert!(seen.is_empty(), "{lengths}: what is refused reaches nobody: {seen:?}");
                continue;
            }
            assert!(answer.starts_with("HTTP/1.1 200"), "{lengths}: {answer:?}");
            let [head] = seen.as_slice() else { panic!("{lengths}: not one request: {seen:?}") };
            let head = head.to_ascii_lowercase();
            let both =
                head.contains("content-length: 4") || (head.contains("content-length") && head.contains("transfer-encoding"));
            assert!(head.starts_with("post /two-lengths ") && !both, "{lengths}: {head}");
        }
    }
    assert!(!app.heads().iter().any(|head| head.contains("/smuggled")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_in_pieces_arrives_as_one_at_an_application_that_speaks_http_1_1() {
    for meshed in [true, false] {
        let (_mesh, caller, _odd, app) = scripted(meshed, "http1", answers).await;
        let sending = caller.client().h2().request(Method::GET, "http://odd/cookies");
        let answer = sending.header("cookie", "a=1").header("cookie", "b=2; c=3").header("cookie", "d=4").send().await;
        assert_eq!(answer.text(), "plain", "{answer:?}");
        let heads = app.heads();
        let head = heads.iter().find(|head| head.starts_with("GET /cookies")).unwrap().to_ascii_lowercase();
        let lines: Vec<&str> = head.lines().filter(|line| line.starts_with("cookie:")).collect();
        assert_eq!(lines, ["cookie: a=1; b=2; c=3; d=4"], "meshed: {meshed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_line_says_what_stays_on_its_hop() {
    let (_mesh, caller, odd, app) = scripted(true, "http", answers).await;
    for (path, address) in [("/outbound", caller.client().address()), ("/inbound", odd.inbound())] {
        let mut raw = Raw::connect(address).await;
        raw.write(format!(
            "GET {path} HTTP/1.1\r\nhost: odd\r\nconnection: x-first\r\nx-first: 1\r\nx-second: 2\r\nx-third: 3\r\nx-kept: 4\r\n\
             connection: x-second, close\r\nconnection: , x-third ,\r\n\r\n"
        ))
        .await;
        assert!(raw.rest().await.starts_with(b"HTTP/1.1 200"));
        let heads = app.heads();
        let head = heads.iter().find(|head| head.starts_with(&format!("GET {path} "))).unwrap().to_ascii_lowercase();
        for gone in ["x-first", "x-second", "x-third"] {
            assert!(!head.contains(gone), "{gone} went on: {head}");
        }
        assert!(head.contains("x-kept: 4"), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_by_a_pods_address_are_counted_as_the_mutual_tls_that_they_are() {
    let (_mesh, caller, reviews) = pair().await;
    let url = format!("http://{}/by-address", reviews.inbound());
    let direct = [("direction", "outbound"), ("backend", ""), ("status", "200")];
    none(caller.metrics().await.sum("weir_http_requests_total", &direct), "calls by address before there was one");
    for _ in 0..5 {
        let answer = caller.client().get(&url).await;
        assert_eq!(answer.seen_header("weir-client-id"), ["spiffe://cluster.local/ns/shop/sa/caller"]);
    }
    let mutual = [&direct[..], &[("tls", "mutual"), ("peer", "spiffe://cluster.local/ns/shop/sa/reviews")]].concat();
    caller.proxy().counts("weir_http_requests_total", &mutual, 5.0).await;
    none(
        caller.metrics().await.sum("weir_http_requests_total", &[("tls", "none"), ("status", "200")]),
        "calls are counted as plaintext",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_a_dead_address_are_retried_within_a_budget() {
    const REQUESTS: u32 = 400;
    let mesh = Mesh::start().await;
    let start = mesh.workload("caller").one_worker().start();
    let (caller, mut dead) = tokio::join!(start, mesh.workload("dead").app(App::http("dead")).start());
    dead.kill().await;
    let url = format!("http://{}/", dead.inbound());
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (client, url) = (caller.client(), url.clone());
        clients.spawn(async move {
            let mut connection = client.connect().await.unwrap();
            for _ in 0..REQUESTS / 8 {
                let answer = connection.send(request(Method::GET, &url)).await.unwrap();
                assert_eq!(answer.made_by_mesh(502, "outbound").reason, "connect-failed");
            }
        });
    }
    clients.join_all().await;
    // A fifth of the requests and ten a second; without a budget there are three for each.
    let retries = caller.metrics().await.sum("weir_http_retries_total", &[]);
    assert!(retries > 0.5, "some retries are allowed");
    assert!(retries < f64::from(2 * REQUESTS), "{retries} retries of {REQUESTS} requests: there is no budget");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_do_not_hold_a_drain() {
    let mesh = Mesh::start().await;
    let start = |name| mesh.workload(name).app(App::http(name)).setting("WEIR_DRAIN_TIMEOUT", "120s").start();
    // The one's port is said to speak HTTP; of the other's nothing is said, so that its application may be the first to speak.
    let (caller, told, untold) = tokio::join!(mesh.caller(), start("told"), start("untold"));
    mesh.service("told").backed_by([&told]).apply();
    mesh.reaches(&caller, "http://told/").await;
    for workload in [&told, &untold] {
        let descriptors = async || workload.metrics().await.sum("process_open_fds", &[]);
        let before = descriptors().await;
        let mut silent = Vec::new();
        // Nothing at all, the beginning of a method, and the beginning of a TLS handshake.
        for first in ["", "", "", "", "GE", "\x16\x03\x01"] {
            let mut raw = Raw::over(TcpStream::connect(workload.inbound()).await.unwrap());
            raw.write(first).await;
            silent.push(raw);
        }
        until("the proxy has taken the connections", async || {
            let now = descriptors().await;
            ensure(now >= before + 6.0, || format!("it has {now} files open, and had {before}"))
        })
        .await;
        workload.proxy().terminate();
        // Far less than the drain may take: waiting ends after a quarter of it.
        assert!(workload.proxy().end().await.success(), "{} ends in order", workload.name());
        drop(silent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_none_are_answered_with_400_and_held_against_nobody_else() {
    let (_mesh, caller, reviews) = pair().await;
    for size in ["-1", "zz", "ffffffffffffffffff"] {
        for address in [caller.client().address(), reviews.inbound()] {
            for _ in 0..5 {
                let mut raw = Raw::connect(address).await;
                raw.write("POST /sink HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
                raw.write(format!("{size}\r\nhello\r\n")).await;
                let answer = String::from_utf8_lossy(&raw.rest().await).into_owned();
                assert!(answer.starts_with("HTTP/1.1 400"), "a chunk of {size}: {answer:?}");
            }
        }
    }
    none(ejections(&caller).await, "ejections for what clients did");
    for workload in [&caller, &reviews] {
        none(errors(workload, "upstream-reset").await, "broken answers are claimed where there was none");
    }
    assert_eq!(caller.client().get("http://reviews/").await.app(), "reviews");
}
