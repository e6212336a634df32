//! Applications that the harness's own would not be: one that writes byte for byte what it is told, and one that admits few
//! streams. Each stands where a workload's own application stood.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weir_tests::prelude::*;
use weir_tests::wait::DEADLINE;

/// What the byte-exact application answers to a path. `None`: nothing, ever.
pub(crate) type Script = fn(&str) -> Option<String>;

/// An application that runs; it ends when this is dropped.
pub(crate) struct StandIn {
    heads: Arc<Mutex<Vec<String>>>,
    held: watch::Sender<usize>,
    open: watch::Sender<usize>,
    _connections: JoinSet<()>,
}

/// A workload, behind a sidecar or without one, whose application this test writes itself.
pub(crate) async fn workload(mesh: &Mesh, name: &str, meshed: bool) -> (Workload, TcpListener) {
    let builder = mesh.workload(name).one_worker().app(App::Rude(Vec::new()));
    let mut workload = if meshed { builder.start().await } else { builder.outside_the_mesh().start().await };
    workload.kill_app().await;
    let mapping = workload.settings().environment.get("WEIR_INBOUND").filter(|_| meshed);
    let address = match mapping.and_then(|mapping| mapping.split_once('=')) {
        Some((_, app)) => app.parse().unwrap(),
        None => workload.inbound(),
    };
    let listener = bind(address).await;
    (workload, listener)
}

/// The application that was there has been killed; its last connection may still be closing.
async fn bind(address: SocketAddr) -> TcpListener {
    until("the application's address is free", async || TcpListener::bind(address).await.map_err(|error| error.to_string())).await
}

impl StandIn {
    /// HTTP/1.1, byte for byte, on connections that stay open.
    pub(crate) fn scripted(listener: TcpListener, script: Script) -> Self {
        Self::serve(listener, move |stream, state| answer_by_script(stream, script, state.heads))
    }

    /// HTTP/2 with prior knowledge, at most `streams` at once on one connection. `/hold` is never answered.
    pub(crate) fn with_few_streams(listener: TcpListener, streams: u32) -> Self {
        Self::serve(listener, move |stream, state| serve_streams(stream, streams, state.held))
    }

    fn serve<Fut>(listener: TcpListener, connection: impl Fn(TcpStream, State) -> Fut + Send + 'static) -> Self
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let state = State { heads: Arc::default(), held: watch::Sender::new(0), open: watch::Sender::new(0) };
        let (heads, held, open) = (Arc::clone(&state.heads), state.held.clone(), state.open.clone());
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            // Dropped with this future, which ends every connection.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (open, serving) = (state.open.clone(), connection(stream, state.clone()));
                open.send_modify(|open| *open += 1);
                connections.spawn(async move {
                    serving.await;
                    open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { heads, held, open, _connections: accepting }
    }

    /// The heads of all requests that have come, byte for byte.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Waits until `count` requests to `/hold` are being held.
    pub(crate) async fn holds(&self, count: usize) {
        let mut held = self.held.subscribe();
        let waited = tokio::time::timeout(DEADLINE, held.wait_for(|held| *held >= count)).await;
        assert!(
            waited.is_ok(),
            "{count} requests to /hold did not come: {} did, on {} connections",
            *self.held.borrow(),
            self.connections()
        );
    }

    /// Connections that are open now.
    pub(crate) fn connections(&self) -> usize {
        *self.open.borrow()
    }
}

/// What the connections share.
#[derive(Clone)]
struct State {
    heads: Arc<Mutex<Vec<String>>>,
    held: watch::Sender<usize>,
    open: watch::Sender<usize>,
}

async fn answer_by_script(mut stream: TcpStream, script: Script, heads: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    loop {
        while let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            let head = String::from_utf8_lossy(&std::mem::replace(&mut read, rest)).into_owned();
            if !head.contains(" HTTP/1.1\r\n") {
                // The body of the request before.
                continue;
            }
            let answer = script(head.split(' ').nth(1).unwrap_or_default());
            heads.lock().unwrap().push(head);
            if let Some(answer) = answer
                && stream.write_all(answer.as_bytes()).await.is_err()
            {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut read).await, Ok(count) if count > 0) {
            return;
        }
    }
}

async fn serve_streams(stream: TcpStream, streams: u32, held: watch::Sender<usize>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let held = held.clone();
        async move {
            if request.uri().path() == "/hold" {
                held.send_modify(|held| *held += 1);
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(Full::new(Bytes::from_static(b"quick")));
            response.headers_mut().insert("x-app", HeaderValue::from_static("few"));
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let _ = builder.max_concurrent_streams(streams).serve_connection(TokioIo::new(stream), service).await;
}
