//! HTTP/1.0, HTTP/1.1, HTTP/2, gRPC, upgrades and raw TCP pass through two sidecars as if these were not there.

use weir_tests::app::Words;
use weir_tests::body;
use weir_tests::client::{Connection, request};
use weir_tests::prelude::*;
use weir_tests::raw::Raw;

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

/// A TCP application behind a Service with this port name, and a caller.
async fn tcp(app: App, port_name: &str) -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, server) = tokio::join!(mesh.caller(), mesh.workload("tcp").app(app).start());
    mesh.service("tcp").port(9000, port_name).backed_by([&server]).apply();
    let address = caller.client().address();
    until("the Service is known", async || {
        let mut raw = Raw::connect(address).await;
        raw.write("CONNECT tcp:9000 HTTP/1.1\r\nhost: tcp:9000\r\n\r\n").await;
        let head = raw.head().await;
        ensure(head.starts_with("HTTP/1.1 200"), || head)
    })
    .await;
    (mesh, caller, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_is_answered_in_its_own_way() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write("GET http://reviews/old HTTP/1.0\r\n\r\n").await;
    let answer = String::from_utf8(raw.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "HTTP/1.0 has no chunks: {answer}");
    assert!(answer.contains("\"path\":\"/old\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_in_origin_form_is_routed_by_its_host() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write("GET /x HTTP/1.1\r\nHost: reviews\r\n\r\nGET /y HTTP/1.1\r\nHost: reviews\r\nconnection: close\r\n\r\n").await;
    let answers = String::from_utf8(raw.rest().await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "two requests in one packet have two answers: {answers}");
    assert!(answers.find("\"path\":\"/x\"") < answers.find("\"path\":\"/y\""), "in their order: {answers}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_one_http2_connection_do_not_wait_for_each_other() {
    let (_mesh, caller, reviews) = pair().await;
    let client = caller.client().h2();
    let mut connection = client.connect().await.unwrap();
    let held = connection.open_request(request(Method::GET, "http://reviews/quick")).await.unwrap();
    assert_eq!(held.version(), http::Version::HTTP_2);
    let waiting = tokio::spawn(async move { client.get("http://reviews/hold").await });
    reviews.app().holds(1).await;
    for _ in 0..20 {
        let answer = connection.send(request(Method::GET, "http://reviews/quick")).await.unwrap();
        assert_eq!(answer.seen()["version"], "HTTP/2", "the application is asked in the version that the client speaks");
    }
    reviews.app().release();
    assert_eq!(waiting.await.unwrap().text(), "released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_in_both_directions_over_http_1_1() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write(
        "POST http://reviews/trailers HTTP/1.1\r\nhost: reviews\r\nte: trailers\r\ntransfer-encoding: chunked\r\n\
         trailer: x-request-trailer\r\n\r\n4\r\nbody\r\n0\r\nx-request-trailer: asked\r\n\r\n",
    )
    .await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let rest = raw.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(rest.contains("x-answer-trailer: kept"), "{rest}");
    assert!(rest.contains("x-seen-trailer: asked"), "{rest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_pass_over_http2_to_an_application_that_speaks_http_1_1() {
    let (_mesh, caller, _reviews) = pair().await;
    let answer = caller.client().h2().request(Method::GET, "http://reviews/trailers").header("te", "trailers").send().await;
    assert_eq!(answer.text(), "before the trailers");
    assert_eq!(answer.trailer("x-answer-trailer"), Some("kept"));
}

/// A gRPC application on a port of that name.
async fn grpc() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, server) = tokio::join!(mesh.caller(), mesh.workload("echo").app(App::http("echo")).start());
    mesh.service("echo").port(50051, "grpc").backed_by([&server]).apply();
    mesh.reaches(&caller, "http://echo:50051/").await;
    (mesh, caller, server)
}

async fn call(caller: &Workload, method: &str, body: impl Into<bytes::Bytes>) -> Answer {
    let sending = caller.client().h2().request(Method::POST, &format!("http://echo:50051/weir.test.Echo/{method}"));
    sending.header("content-type", "application/grpc").header("te", "trailers").body(body).send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_calls_pass_with_their_trailers() {
    let (_mesh, caller, _echo) = grpc().await;
    let words = |text: &str, count| Words { text: text.to_owned(), count };
    let answer = call(&caller, "Say", words("hello", 0).frame()).await;
    assert_eq!(Words::read_all(&answer.body), [words("echo: hello", 1)]);
    assert_eq!((answer.trailer("grpc-status"), answer.trailer("x-trailer")), (Some("0"), Some("kept")));

    let answer = call(&caller, "Count", words("again", 500).frame()).await;
    assert_eq!(Words::read_all(&answer.body).len(), 500);
    assert_eq!(answer.trailer("grpc-status"), Some("0"));

    let answer = call(&caller, "Fail", words("", 0).frame()).await;
    assert_eq!((answer.header("grpc-status"), answer.header("grpc-message")), (Some("7"), Some("not for you")));
    assert!(answer.mesh_error().is_none(), "the application's own refusal is not the mesh's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_flow_both_ways_before_either_ends() {
    use http_body_util::BodyExt;
    let (_mesh, caller, _echo) = grpc().await;
    let (send, receive) = tokio::sync::mpsc::channel::<bytes::Bytes>(4);
    let frames = futures_util::stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|data| (Ok(http_body::Frame::data(data)), receive))
    });
    let body = http_body_util::StreamBody::new(frames).boxed_unsync();
    let sending = caller.client().h2().request(Method::POST, "http://echo:50051/weir.test.Echo/Chat").stream(body);
    let mut response = sending.header("content-type", "application/grpc").header("te", "trailers").open().await.unwrap();
    for count in 1..=50 {
        let words = Words { text: "turn".to_owned(), count };
        send.send(words.frame()).await.unwrap();
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(Words::read_all(frame.data_ref().unwrap()), [words], "each answer comes before the next question");
    }
    drop(send);
    let trailers = response.body_mut().frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

/// One stream that is open: what is sent on it, and what comes back.
struct Chat {
    send: tokio::sync::mpsc::Sender<bytes::Bytes>,
    answers: hyper::body::Incoming,
}

impl Chat {
    async fn open(connection: &mut Connection) -> Result<Self, String> {
        let (send, receive) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
        let frames = futures_util::stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|data| (Ok(http_body::Frame::data(data)), receive))
        });
        let mut request = request(Method::POST, "http://echo:50051/weir.test.Echo/Chat");
        *request.body_mut() = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(frames));
        request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
        let answers = connection.open_request(request).await?.into_body();
        Ok(Self { send, answers })
    }

    /// Says something, and waits until it has come back.
    async fn turn(&mut self, count: u32) -> Result<(), String> {
        let words = Words { text: "turn".to_owned(), count };
        self.send.send(words.frame()).await.map_err(|error| error.to_string())?;
        let frame = http_body_util::BodyExt::frame(&mut self.answers).await.ok_or("the stream is over")?;
        let data = frame.map_err(|error| format!("{error:?}"))?.into_data().map_err(|_| "trailers too early")?;
        ensure(Words::read_all(&data) == [words], || format!("{data:?}"))
    }

    /// Ends it, and answers with its status.
    async fn end(self) -> Result<String, String> {
        let Self { send, mut answers } = self;
        drop(send);
        let frame = http_body_util::BodyExt::frame(&mut answers).await.ok_or("there are no trailers")?;
        let trailers = frame.map_err(|error| format!("{error:?}"))?.into_trailers().map_err(|_| "data after the end")?;
        Ok(trailers.get("grpc-status").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_grpc_streams_are_open_at_once_and_none_is_lost() {
    const CONNECTIONS: usize = 20;
    const EACH: usize = 500;
    let (_mesh, caller, echo) = grpc().await;
    let client = caller.client().h2();
    // All of them are open before the first one ends: nobody goes on alone.
    let all_open = std::sync::Arc::new(tokio::sync::Barrier::new(CONNECTIONS));
    let many = (0..CONNECTIONS).map(|_| {
        let all_open = std::sync::Arc::clone(&all_open);
        tokio::spawn(async move {
            let mut connection = client.connect().await?;
            let mut chats = Vec::with_capacity(EACH);
            for _ in 0..EACH {
                let mut chat = Chat::open(&mut connection).await?;
                chat.turn(1).await?;
                chats.push(chat);
            }
            all_open.wait().await;
            let mut ended = 0;
            for mut chat in chats {
                chat.turn(2).await?;
                let status = chat.end().await?;
                ensure(status == "0", || format!("grpc-status {status}"))?;
                ended += 1;
            }
            Ok::<usize, String>(ended)
        })
    });
    let mut ended = 0;
    for task in futures_util::future::join_all(many).await {
        ended += task.unwrap().unwrap();
    }
    assert_eq!(ended, CONNECTIONS * EACH);
    assert_eq!(echo.app().requests("/weir.test.Echo/Chat"), 10_000, "each was opened once");
    // Nothing is left behind.
    until("no request is under way", async || {
        let page: serde_json::Value =
            serde_json::from_str(&caller.proxy().ask("/clusters").await?.text()).map_err(|it| it.to_string())?;
        let clusters = page["clusters"].as_array().into_iter().flatten();
        let endpoints: Vec<&serde_json::Value> = clusters.flat_map(|it| it["endpoints"].as_array()).flatten().collect();
        ensure(!endpoints.is_empty() && endpoints.iter().all(|it| it["outstanding"] == 0), || page.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_to_a_websocket_goes_through_both_sidecars() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write(
        "GET http://reviews/chat HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    let head = raw.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
    for text in ["one", "two", "three"] {
        raw.write(text).await;
        raw.until(text).await;
    }
    raw.finish().await;
    assert!(raw.rest().await.is_empty(), "the end passes as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_an_upgrade_that_is_declined_is_an_ordinary_request() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write(
        "GET http://reviews/plain HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
        http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    )
    .await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "h2c upgrades are not carried: {head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_carries_bytes_and_half_closes() {
    let (_mesh, caller, server) = tcp(App::TcpEcho, "tcp").await;
    let mut tunnel = Raw::tunnel(caller.client().address(), "tcp:9000").await;
    let bytes = vec![b'x'; 1 << 20];
    let (mut sent, mut seen) = (0, 0);
    for piece in bytes.chunks(64 * 1024) {
        tunnel.write(piece).await;
        sent += piece.len();
        while seen < sent {
            seen += tunnel.until("x").await.len();
        }
    }
    tunnel.finish().await;
    assert_eq!(tunnel.rest().await, b"bye 1048576", "after our end the server still speaks");
    let labels = [("direction", "outbound"), ("service", "tcp"), ("tls", "mutual")];
    caller.proxy().counts("weir_tcp_connections_total", &labels, 1.0).await;
    caller.proxy().counts("weir_tcp_bytes_total", &labels, 2_097_152.0).await;
    server.proxy().counts("weir_tcp_bytes_total", &[("direction", "inbound"), ("tls", "mutual")], 2_097_152.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_is_heard_whatever_its_port_is_called() {
    for port_name in ["tcp", "mystery"] {
        let (_mesh, caller, _server) = tcp(App::TcpServerFirst("220 ready\r\n".to_owned()), port_name).await;
        let mut tunnel = Raw::tunnel(caller.client().address(), "tcp:9000").await;
        assert_eq!(tunnel.until("\r\n").await, "220 ready\r\n", "port {port_name}");
        tunnel.write("EHLO\r\n").await;
        tunnel.until("EHLO\r\n").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_to_an_http_port_is_routed_request_by_request() {
    let (mesh, caller, _reviews) = pair().await;
    mesh.route(
        "reviews",
        "
        - matches: [{path: {type: PathPrefix, value: /known}}]
          backendRefs: [{name: reviews, port: 80}]",
    );
    mesh.gets(&caller, "http://reviews/unknown", 404).await;
    let mut tunnel = Raw::tunnel(caller.client().address(), "reviews:80").await;
    tunnel.write("GET /known HTTP/1.1\r\nhost: anything\r\n\r\n").await;
    assert!(tunnel.head().await.starts_with("HTTP/1.1 200"), "the tunnel's target decides, not the Host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_to_nobody_is_refused_with_a_reason() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let mut raw = Raw::connect(caller.client().address()).await;
    raw.write("CONNECT nobody.shop:9000 HTTP/1.1\r\nhost: nobody.shop:9000\r\n\r\n").await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(head.contains("weir-error: unknown-destination"), "{head}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_without_a_sidecar_is_called_in_plaintext() {
    let mesh = Mesh::start().await;
    let start = mesh.workload("legacy").outside_the_mesh().app(App::http("legacy")).start();
    let (caller, legacy) = tokio::join!(mesh.caller(), start);
    mesh.service("legacy").backed_by([&legacy]).apply();
    let answer = mesh.reaches(&caller, "http://legacy/").await;
    assert_eq!(answer.app(), "legacy");
    assert!(answer.seen_header("weir-client-id").is_empty());
    let sending = caller.client().request(Method::POST, "http://legacy/sink").stream(body::stream_of(70_000));
    assert_eq!(sending.send().await.text(), body::digest_of_stream(70_000).to_string());
    caller.proxy().counts("weir_http_requests_total", &[("service", "legacy"), ("tls", "none")], 2.0).await;
}
