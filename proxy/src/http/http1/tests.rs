use std::cell::Cell;
use std::io;
use std::task::Context;

use http::StatusCode;
use http::header::{CONNECTION, UPGRADE};
use http_body_util::BodyExt;
use tokio::io::{DuplexStream, ReadBuf, duplex};
use tokio::task::LocalSet;
use tokio::time::advance;

use super::*;

/// Says how much the last read had room for: one byte while a connection is put aside.
struct Observed {
    inner: DuplexStream,
    room: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl AsyncRead for Observed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.room.store(buf.remaining(), std::sync::atomic::Ordering::Relaxed);
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Observed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A client and what serves it.
struct Pair {
    client: DuplexStream,
    room: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    drain: watch::Sender<bool>,
    served: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Pair {
    fn new<F, Fut>(buffer: usize, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + 'static,
        Fut: Future<Output = Response<Body>> + 'static,
    {
        let (client, server) = duplex(buffer);
        let room = std::sync::Arc::default();
        let io = Prefixed::new(bytes::Bytes::new(), Observed { inner: server, room: std::sync::Arc::clone(&room) });
        let (drain, draining) = watch::channel(false);
        let served = tokio::task::spawn_local(serve(io, Hop::Inbound, Some(draining), Rc::new(handler)));
        Self { client, room, drain, served }
    }

    fn is_aside(&self) -> bool {
        self.room.load(std::sync::atomic::Ordering::Relaxed) == 1
    }

    async fn say(&mut self, words: &str) {
        self.client.write_all(words.as_bytes()).await.unwrap();
    }

    /// What comes until `end` has come.
    async fn hear(&mut self, end: &str) -> String {
        let mut heard = String::new();
        while !heard.ends_with(end) {
            match self.client.read_u8().await {
                Ok(byte) => heard.push(char::from(byte)),
                Err(error) => panic!("{error} after {heard:?}"),
            }
        }
        heard
    }

    async fn ask(&mut self, path: &str) {
        self.say(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        self.hear(&format!("\r\n\r\n{path}")).await;
    }

    async fn hears_the_end(&mut self) -> String {
        let mut rest = String::new();
        self.client.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

/// Lets time pass in steps that are shorter than anything waits, so that everybody gets to look.
async fn silence(seconds: u64) {
    for _ in 0..seconds * 2 {
        advance(Duration::from_millis(500)).await;
        tokio::task::yield_now().await;
    }
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let _ = request.into_body().collect().await;
    Response::new(Body::full(path))
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

#[test]
fn a_silent_connection_is_put_aside_and_taken_up_again() {
    run(async {
        let mut pair = Pair::new(1024, echo);
        for round in 0..5 {
            pair.ask(&format!("/{round}")).await;
            assert!(!pair.is_aside());
            silence(5).await;
            assert!(pair.is_aside());
        }
        // Requests that come one after the other keep it in its place.
        for _ in 0..20 {
            pair.ask("/often").await;
            silence(1).await;
            assert!(!pair.is_aside());
        }
        silence(5).await;
        pair.say("POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbo").await;
        silence(30).await;
        pair.say("dyGET /pipelined HTTP/1.1\r\nhost: a\r\n\r\n").await;
        pair.hear("/body").await;
        pair.hear("/pipelined").await;
        drop(pair.client);
        pair.served.await.unwrap().unwrap();
    });
}

#[test]
fn a_client_that_takes_its_time_over_a_head_has_some_and_no_more() {
    run(async {
        for requests_before in [0, 1] {
            let mut pair = Pair::new(1024, echo);
            for _ in 0..requests_before {
                pair.ask("/before").await;
            }
            pair.say("GET /slow HT").await;
            silence(80).await;
            pair.say("TP/1.1\r\nhost: a\r\n\r\n").await;
            pair.hear("/slow").await;
            pair.say("GET /slower").await;
            for _ in 0..100 {
                silence(1).await;
                let _ = pair.client.write_all(b"r").await;
            }
            assert_eq!(pair.hears_the_end().await, "");
            assert!(pair.served.is_finished());
        }
    });
}

#[test]
fn a_connection_that_stays_silent_is_closed() {
    run(async {
        let mut pair = Pair::new(1024, echo);
        pair.ask("/").await;
        silence(85).await;
        assert!(!pair.served.is_finished(), "clients keep idle connections for a minute");
        silence(15).await;
        assert_eq!(pair.hears_the_end().await, "");
        pair.served.await.unwrap().unwrap();
    });
}

#[test]
fn a_drain_closes_a_connection_that_is_put_aside() {
    run(async {
        let mut pair = Pair::new(1024, echo);
        pair.ask("/").await;
        silence(5).await;
        assert!(pair.is_aside());
        pair.drain.send_replace(true);
        assert_eq!(pair.hears_the_end().await, "");
        pair.served.await.unwrap().unwrap();
    });
}

#[test]
fn an_answer_under_way_keeps_its_connection_however_long_it_takes() {
    run(async {
        let mut pair = Pair::new(1024, |request| async move {
            sleep(Duration::from_secs(600)).await;
            echo(request).await
        });
        pair.say("GET /late HTTP/1.1\r\nhost: a\r\n\r\n").await;
        silence(500).await;
        assert!(!pair.is_aside() && !pair.served.is_finished());
        pair.hear("/late").await;
    });
}

#[test]
fn an_answer_that_its_client_does_not_read_is_written_to_its_end() {
    run(async {
        // The answer's end has left the service, and most of it waits for its client.
        let mut pair = Pair::new(16, |_| async { Response::new(Body::full("x".repeat(4096) + "end")) });
        pair.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        silence(60).await;
        assert!(!pair.is_aside());
        assert!(pair.hear("xend").await.len() > 4096);
        silence(5).await;
        assert!(pair.is_aside());
    });
}

#[test]
fn a_body_that_comes_after_its_answer_is_read_to_its_end() {
    run(async {
        let got = Rc::new(Cell::new(0));
        let counted = Rc::clone(&got);
        let mut pair = Pair::new(1024, move |request| {
            let counted = Rc::clone(&counted);
            async move {
                // As a mirror's copy does.
                tokio::task::spawn_local(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        counted.set(counted.get() + frame.into_data().map_or(0, |data| data.len()));
                    }
                });
                Response::new(Body::full("early"))
            }
        });
        pair.say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\na").await;
        pair.hear("early").await;
        for piece in ["b", "c", "d", "e"] {
            silence(10).await;
            pair.say(piece).await;
        }
        assert_eq!(pair.hears_the_end().await, "");
        assert_eq!(got.get(), 5);
        pair.served.await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_becomes_what_its_request_asked_for_with_all_that_was_said() {
    run(async {
        for silent_before in [false, true] {
            let mut pair = Pair::new(1024, |mut request: Request<Incoming>| async move {
                let Some(half) = ClientHalf::take(request.extensions_mut()) else { return echo(request).await };
                tokio::task::spawn_local(async move {
                    let mut stream = half.switched().await.unwrap();
                    let (mut read, mut write) = tokio::io::split(&mut stream);
                    tokio::io::copy(&mut read, &mut write).await.unwrap();
                    stream.shutdown().await.unwrap();
                });
                let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
                switching.header(CONNECTION, "upgrade").header(UPGRADE, "echo").body(Body::Empty).unwrap()
            });
            pair.ask("/before").await;
            if silent_before {
                silence(5).await;
            }
            // The client does not wait for the answer.
            pair.say("GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nfirst").await;
            let answer = pair.hear("\r\n\r\nfirst").await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            silence(600).await;
            pair.say("second").await;
            pair.hear("second").await;
            pair.client.shutdown().await.unwrap();
            assert_eq!(pair.hears_the_end().await, "");
            pair.served.await.unwrap().unwrap();
        }
    });
}

#[test]
fn an_upgrade_that_is_declined_leaves_an_ordinary_connection() {
    run(async {
        let mut pair = Pair::new(1024, |mut request: Request<Incoming>| async move {
            drop(ClientHalf::take(request.extensions_mut()));
            echo(request).await
        });
        pair.say("GET /no HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
        pair.hear("/no").await;
        silence(5).await;
        assert!(pair.is_aside());
        pair.ask("/after").await;
        drop(pair.client);
        pair.served.await.unwrap().unwrap();
    });
}
