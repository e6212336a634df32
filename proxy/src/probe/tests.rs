use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// What an application was asked.
#[derive(Clone, Debug, Default)]
struct Asked(Arc<Mutex<Vec<(String, HeaderMap)>>>);

/// Answers by path: `/STATUS`, `/to?LOCATION`, `/slow`, and the gRPC health of service `good`.
async fn answer(asked: Asked, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    asked.0.lock().unwrap().push((request.uri().to_string(), request.headers().clone()));
    let uri = request.uri().clone();
    let mut response = Response::new(Full::new(Bytes::from("words\nof the application")));
    match (uri.path(), uri.query()) {
        ("/slow", _) => std::future::pending().await,
        ("/to", Some(location)) => {
            *response.status_mut() = StatusCode::FOUND;
            response.headers_mut().insert("location", location.parse().unwrap());
        }
        (path, _) => {
            if let Ok(status) = path.trim_start_matches('/').parse::<u16>() {
                *response.status_mut() = StatusCode::from_u16(status).unwrap();
            }
        }
    }
    Ok(response)
}

async fn serve_http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, asked: Asked) {
    let service = service_fn(move |request| answer(asked.clone(), request));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn application(asked: &Asked) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), asked.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http(stream, asked.clone()));
        }
    });
    port
}

fn prober(probes: &str) -> Prober {
    Prober::new(probes.parse().unwrap(), &[IpAddr::from([127, 0, 0, 1])], &[])
}

async fn asks(probe: String) -> Outcome {
    let prober = prober(&format!("{{\"app/liveness\": {probe}}}"));
    let asker = HeaderValue::from_static("kube-probe/1.34");
    prober.ask("app/liveness", prober.find("app/liveness").unwrap(), Some(&asker)).await
}

async fn gets(port: u16, path: &str) -> Outcome {
    asks(format!(r#"{{"httpGet": {{"port": {port}, "path": "{path}"}}, "portName": "web", "timeoutSeconds": 1}}"#)).await
}

#[tokio::test]
async fn statuses_count_as_the_kubelet_counts_them() {
    let port = application(&Asked::default()).await;
    for status in ["200", "204", "299", "304", "399"] {
        assert_eq!(gets(port, &format!("/{status}")).await, Outcome::Passed(format!("the application answered {status}")));
    }
    for status in [404_u16, 500, 503] {
        let said = format!("the application answered {status}: words?of the application");
        let code = StatusCode::from_u16(status).unwrap();
        assert_eq!(gets(port, &format!("/{status}")).await, Outcome::Failed(code, said));
    }
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_and_end() {
    let asked = Asked::default();
    let port = application(&asked).await;
    assert_eq!(gets(port, "/to?/to?/200").await, Outcome::Passed("the application answered 200".into()));
    assert!(matches!(gets(port, "/to?/500").await, Outcome::Failed(StatusCode::INTERNAL_SERVER_ERROR, _)));
    let elsewhere = gets(port, "/to?http://localhost:1/500").await;
    assert!(matches!(&elsewhere, Outcome::Passed(said) if said.contains("another host")), "{elsewhere:?}");
    asked.0.lock().unwrap().clear();
    let endless = gets(port, &format!("/to?{}", "/to?".repeat(20))).await;
    assert!(matches!(&endless, Outcome::Failed(_, said) if said.contains("redirected 10 times")), "{endless:?}");
    assert_eq!(asked.0.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn the_application_sees_the_probe_that_was_written() {
    let asked = Asked::default();
    let port = application(&asked).await;
    let headers = r#"[{"name": "Host", "value": "shop.example"}, {"name": "X-Probe", "value": "1"}]"#;
    asks(format!(r#"{{"httpGet": {{"port": {port}, "path": "/a?b", "httpHeaders": {headers}}}}}"#)).await;
    let (uri, headers) = asked.0.lock().unwrap().pop().unwrap();
    assert_eq!(uri, "/a?b");
    assert_eq!((&headers["host"], &headers["x-probe"]), (&"shop.example".parse().unwrap(), &"1".parse().unwrap()));
    assert_eq!(headers["user-agent"], "kube-probe/1.34");
}

#[tokio::test]
async fn what_does_not_answer_is_told_with_its_reason() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = Outcome::NoAnswer(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("connection refused on 127.0.0.1:{nobody} (port web): the application is not listening there"),
    );
    assert_eq!(gets(nobody, "/").await, refused);
    assert_eq!(asks(format!(r#"{{"tcpSocket": {{"port": {nobody}}}, "portName": "web"}}"#)).await, refused);
    let port = application(&Asked::default()).await;
    let slow = gets(port, "/slow").await;
    assert!(matches!(&slow, Outcome::NoAnswer(StatusCode::GATEWAY_TIMEOUT, said) if said.contains("within 1s")), "{slow:?}");
    // Another protocol than the application's.
    for (probe, status) in [(r#""grpc": {"port": PORT}"#, 502), (r#""httpGet": {"port": PORT, "scheme": "HTTPS"}"#, 502)] {
        let outcome = asks(format!("{{{}}}", probe.replace("PORT", &port.to_string()))).await;
        assert!(matches!(&outcome, Outcome::NoAnswer(code, _) if code.as_u16() == status), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_tcp_probe_is_a_connection() {
    let port = application(&Asked::default()).await;
    assert!(matches!(asks(format!(r#"{{"tcpSocket": {{"port": {port}}}}}"#)).await, Outcome::Passed(_)));
}

#[tokio::test]
async fn any_certificate_will_do() {
    let signed = rcgen::generate_simple_self_signed(["nobody.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    for (versions, alpn) in [
        (&[&rustls::version::TLS12][..], &b""[..]),
        (&[&rustls::version::TLS13], b"http/1.1"),
        (&[&rustls::version::TLS13], b"h2"),
    ] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let certificate = vec![signed.cert.der().clone()];
        let mut config = config.with_no_client_auth().with_single_cert(certificate, key.clone_key()).unwrap();
        config.alpn_protocols = vec![alpn.to_vec()].into_iter().filter(|it| !it.is_empty()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_http2 = alpn == b"h2";
        tokio::spawn(async move {
            let stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
            if is_http2 {
                let service = service_fn(|request| answer(Asked::default(), request));
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            } else {
                serve_http(stream, Asked::default()).await;
            }
        });
        let outcome = asks(format!(r#"{{"httpGet": {{"port": {port}, "path": "/204", "scheme": "HTTPS"}}}}"#)).await;
        assert_eq!(outcome, Outcome::Passed("the application answered 204".into()), "{alpn:?}");
    }
}

/// The health of service `good` is SERVING, of all others NOT_SERVING.
async fn health(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    assert_eq!((request.uri().path(), &request.headers()["te"]), ("/grpc.health.v1.Health/Check", &"trailers".parse().unwrap()));
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let serving = if asked.ends_with(b"good") { 1 } else { 2 };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, serving])), Frame::trailers(trailers)];
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames.map(Ok)));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}

#[tokio::test]
async fn grpc_health_is_asked_for_by_service() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { serving.serve_connection(TokioIo::new(stream), service_fn(health)).await });
        }
    });
    let good = asks(format!(r#"{{"grpc": {{"port": {port}, "service": "good"}}}}"#)).await;
    assert!(matches!(good, Outcome::Passed(_)), "{good:?}");
    let bad = asks(format!(r#"{{"grpc": {{"port": {port}}}}}"#)).await;
    assert!(matches!(&bad, Outcome::Failed(StatusCode::SERVICE_UNAVAILABLE, said) if said.contains("NOT_SERVING")), "{bad:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_bounded_and_clean() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let body = "\u{1b}[31m".repeat(1000);
        let head = format!("HTTP/1.1 500 No\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        drop(listener.accept().await);
    });
    let Outcome::Failed(_, said) = gets(port, "/").await else { panic!("not failed") };
    assert!(said.len() <= MAX_REASON && !said.contains('\u{1b}'), "{said:?}");
    let broken = gets(port, "/").await;
    assert!(matches!(broken, Outcome::NoAnswer(StatusCode::BAD_GATEWAY, _)), "{broken:?}");
}

#[tokio::test]
async fn a_flood_of_probes_stops_at_the_bound() {
    let port = application(&Asked::default()).await;
    let prober = Arc::new(prober(&format!(r#"{{"app/liveness": {{"httpGet": {{"port": {port}, "path": "/slow"}}}}}}"#)));
    let probe = |prober: Arc<Prober>| async move { prober.ask("app/liveness", prober.find("app/liveness").unwrap(), None).await };
    let under_way: Vec<_> = (0..MAX_AT_ONCE).map(|_| tokio::spawn(probe(Arc::clone(&prober)))).collect();
    while prober.places.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let refused = probe(Arc::clone(&prober)).await;
    assert!(matches!(&refused, Outcome::NoAnswer(_, said) if said.contains("under way already")), "{refused:?}");
    for one in under_way {
        assert!(matches!(one.await.unwrap(), Outcome::NoAnswer(StatusCode::GATEWAY_TIMEOUT, _)));
    }
}

#[test]
fn without_redirection_the_application_is_where_the_mapping_says() {
    let mapping = InboundMapping { listen: "127.10.0.1:8080".parse().unwrap(), app: "127.0.0.1:18080".parse().unwrap() };
    let prober = Prober::new(Probes::default(), &["127.10.0.1".parse().unwrap(), "::1".parse().unwrap()], &[mapping]);
    let target = |number| prober.target(&Port { number, name: None }).to_string();
    assert_eq!((target(8080).as_str(), target(9090).as_str()), ("127.0.0.1:18080", "127.10.0.1:9090"));
}
