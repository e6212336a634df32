//! `weir demo-app`: the app of every workload in the demo and the examples.
//!
//! It says who it is, calls the services it was told to call through its sidecar, and puts their answers into its own. It
//! knows nothing of the mesh but the address of a forward proxy. It can be slow and fail when a manifest or a request says so.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::client::{CallError, Client};

/// How long another service may take. Longer than any timeout that the examples' routes set, so that theirs is the one seen.
const CALL_PATIENCE: Duration = Duration::from_secs(15);
/// The longest delay that a request can ask for.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// Names the Pod on every answer, gRPC included.
const POD_HEADER: HeaderName = HeaderName::from_static("x-demo-pod");
/// Why this app could not call another one.
const ERROR_HEADER: HeaderName = HeaderName::from_static("x-demo-error");
/// The mesh's own word on its errors.
const WEIR_ERROR: HeaderName = HeaderName::from_static("weir-error");
/// The one gRPC method there is.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse { status: SERVING }` behind the five bytes that open a gRPC message.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The command line of `weir demo-app`.
#[derive(Args, Clone)]
pub(crate) struct AppArgs {
    /// Where to listen
    #[arg(long, env = "WEIR_DEMO_LISTEN")]
    listen: SocketAddrV4,
    /// The sidecar, as a forward proxy
    #[arg(long, env = "WEIR_DEMO_PROXY")]
    proxy: SocketAddrV4,
    /// Name of the Pod
    #[arg(long, env = "WEIR_POD_NAME")]
    pod: String,
    /// Name of the service
    #[arg(long, env = "WEIR_DEMO_SERVICE")]
    service: String,
    /// Its version
    #[arg(long, env = "WEIR_DEMO_VERSION")]
    app_version: String,
    /// Services that each request calls, with the request's own path
    #[arg(long, env = "WEIR_DEMO_CALLS", value_delimiter = ',')]
    calls: Vec<Uri>,
    /// Answers every so many requests with 503; 0: none
    #[arg(long, env = "WEIR_DEMO_FAIL_EVERY", default_value_t = 0)]
    fail_every: u64,
}

/// Serves until it is killed.
pub(crate) fn run_app(args: AppArgs) -> ExitCode {
    let served =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| runtime.block_on(serve(args)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir demo-app: {error}");
            ExitCode::FAILURE
        }
    }
}

struct App {
    args: AppArgs,
    sidecar: Client,
    requests: AtomicU64,
}

async fn serve(args: AppArgs) -> io::Result<()> {
    let address = args.listen;
    let listener = TcpListener::bind(SocketAddr::V4(address))
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{address} (--listen) could not be listened on: {error}")))?;
    let app = Arc::new(App { sidecar: Client::new(args.proxy, CALL_PATIENCE), args, requests: AtomicU64::new(0) });
    loop {
        match listener.accept().await {
            Ok((connection, _)) => drop(tokio::spawn(serve_connection(Arc::clone(&app), connection))),
            Err(error) => {
                eprintln!("weir demo-app: accept: {error}");
                // Out of file descriptors, most likely; asking again at once would only spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve_connection(app: Arc<App>, connection: TcpStream) {
    if let Err(error) = connection.set_nodelay(true) {
        eprintln!("weir demo-app: TCP_NODELAY: {error}");
    }
    let service = hyper::service::service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(app.answer(request).await) }
    });
    // What ends a connection early is the other side's business, and counted there.
    let _ended = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(connection), service).await;
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        while let Some(Ok(_)) = body.frame().await {}
        let delay = asked_delay(&head.uri);
        if !delay.is_zero() {
            // Even a sleep of nothing lasts until the timer's next millisecond.
            tokio::time::sleep(delay).await;
        }
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let mut response = if is_grpc(&head.headers) {
            grpc_answer(head.uri.path())
        } else if self.args.fail_every > 0 && number.is_multiple_of(self.args.fail_every) {
            let error = format!("request {number} of this Pod: every {} fail", self.args.fail_every);
            json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "pod": self.args.pod, "error": error }))
        } else {
            self.http_answer(&head.uri, &head.headers).await
        };
        if let Ok(pod) = HeaderValue::from_str(&self.args.pod) {
            response.headers_mut().insert(POD_HEADER, pod);
        }
        response
    }

    async fn http_answer(&self, uri: &Uri, headers: &HeaderMap) -> Response<Body> {
        let mut calls = Vec::new();
        for service in &self.args.calls {
            match self.call(service, uri, headers).await {
                Ok(response) if response.status() == StatusCode::OK => calls.push(Called::read(response.body())),
                Ok(response) => return self.passed_on(service, response),
                Err(error) => return self.unreachable(service, &error),
            }
        }
        let AppArgs { service, app_version, pod, .. } = self.args.clone();
        json_answer(StatusCode::OK, &Answer { service, version: app_version, pod, path: uri.path().to_owned(), calls })
    }

    async fn call(&self, service: &Uri, uri: &Uri, headers: &HeaderMap) -> Result<Response<Bytes>, CallError> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = format!("{}{path}", service.to_string().trim_end_matches('/'));
        let mut request = Request::get(target);
        if let Some(host) = service.authority() {
            request = request.header(header::HOST, host.as_str());
        }
        for (name, value) in headers.iter().filter(|(name, _)| travels(name)) {
            request = request.header(name, value);
        }
        let address = self.args.proxy;
        let request = request
            .body(Empty::new())
            .map_err(|error| CallError::Connect { address, source: io::Error::new(io::ErrorKind::InvalidInput, error) })?;
        self.sidecar.send(request).await
    }

    /// Another service failed: this app fails alike, and says which one and why. (A sidecar lets no app speak for the mesh: a
    /// `weir-error` set here would be removed.)
    fn passed_on(&self, service: &Uri, response: Response<Bytes>) -> Response<Body> {
        let reason = [WEIR_ERROR, ERROR_HEADER].into_iter().find_map(|name| response.headers().get(name));
        let reason = reason.map_or(String::new(), |reason| format!(": {}", String::from_utf8_lossy(reason.as_bytes())));
        let error = format!("{}: {service} answered {}{reason}", self.args.pod, response.status());
        let told = String::from_utf8_lossy(response.body());
        self.failed(response.status(), &error, &told)
    }

    fn unreachable(&self, service: &Uri, error: &CallError) -> Response<Body> {
        self.failed(StatusCode::BAD_GATEWAY, &format!("{}: {service} was not reached: {error}", self.args.pod), "")
    }

    fn failed(&self, status: StatusCode, error: &str, told: &str) -> Response<Body> {
        let mut own = json_answer(status, &json!({ "pod": self.args.pod, "error": error, "told": told }));
        if let Ok(value) = HeaderValue::from_str(error) {
            own.headers_mut().insert(ERROR_HEADER, value);
        }
        own
    }
}

/// What an app says when all is well, in this order.
#[derive(Serialize, Deserialize)]
struct Answer {
    service: String,
    version: String,
    pod: String,
    path: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    calls: Vec<Called>,
}

/// What another service said: an app like this one, or whatever else a manifest pointed to.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Called {
    App(Answer),
    Other(String),
}

impl Called {
    fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_else(|_| Self::Other(String::from_utf8_lossy(body).into_owned()))
    }
}

/// Headers of a request that go on to the services it causes calls to.
fn travels(name: &HeaderName) -> bool {
    matches!(name.as_str(), "user-agent" | "traceparent" | "tracestate") || name.as_str().starts_with("x-")
}

/// `?delay=800`: milliseconds.
fn asked_delay(uri: &Uri) -> Duration {
    let asked = uri.query().unwrap_or_default().split('&').find_map(|parameter| parameter.strip_prefix("delay="));
    asked.and_then(|ms| ms.parse().ok()).map_or(Duration::ZERO, Duration::from_millis).min(MAX_DELAY)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn grpc_answer(path: &str) -> Response<Body> {
    let (body, trailers_only): (Body, _) = if path == HEALTH_CHECK {
        let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
        (Full::new(Bytes::from_static(SERVING)).with_trailers(async { Some(Ok(trailers)) }).boxed_unsync(), None)
    } else {
        (Empty::new().boxed_unsync(), Some(HeaderValue::from_static("12")))
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(unimplemented) = trailers_only {
        response.headers_mut().insert("grpc-status", unimplemented);
    }
    response
}

fn json_answer(status: StatusCode, answer: &impl Serialize) -> Response<Body> {
    // Strings and lists of strings always have a JSON form.
    let mut text = serde_json::to_vec(answer).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_can_ask_for_a_bounded_delay() {
        for (uri, expected) in [("/a", 0), ("/a?delay=800", 800), ("/a?x=1&delay=20", 20), ("/?delay=no", 0)] {
            assert_eq!(asked_delay(&Uri::from_static(uri)), Duration::from_millis(expected), "{uri}");
        }
        assert_eq!(asked_delay(&Uri::from_static("/?delay=99999999999")), MAX_DELAY);
    }

    #[test]
    fn only_headers_that_belong_to_the_whole_journey_travel() {
        let travelling = ["user-agent", "traceparent", "x-beta"].map(HeaderName::from_static);
        let staying = ["host", "connection", "weir-client-id", "content-length"].map(HeaderName::from_static);
        assert!(travelling.iter().all(travels));
        assert!(!staying.iter().any(travels));
    }

    #[test]
    fn answers_nest_and_keep_their_order() {
        let prices = r#"{"service":"prices","version":"v1","pod":"prices","path":"/"}"#;
        let calls = vec![Called::read(prices.as_bytes()), Called::read(b"<html>")];
        let [service, version, pod, path] = ["catalog", "v2", "catalog-v2", "/a"].map(str::to_owned);
        let answer = serde_json::to_string(&Answer { service, version, pod, path, calls }).unwrap();
        let start = r#"{"service":"catalog","version":"v2","pod":"catalog-v2","path":"/a","calls":["#;
        assert_eq!(answer, format!("{start}{prices},\"<html>\"]}}"));
    }

    #[tokio::test]
    async fn a_health_check_is_answered_with_a_message_and_a_status() {
        let body = grpc_answer(HEALTH_CHECK).into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap().get("grpc-status").unwrap(), "0");
        assert_eq!(body.to_bytes(), SERVING);
        assert_eq!(grpc_answer("/other.Service/Method").headers().get("grpc-status").unwrap(), "12");
    }
}
