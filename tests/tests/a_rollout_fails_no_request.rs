//! Pods come and go, and applications close what they keep open: no request fails, also none that may not be sent twice.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use weir_tests::prelude::*;
use weir_tests::raw::Raw;

/// Long enough that no scenario waits for it: what ends, ends by itself.
const AN_HOUR: &str = "1h";

/// An application that keeps connections, answers requests without bodies, and counts.
struct Keeper {
    told: watch::Sender<Told>,
    served: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

/// What a [`Keeper`] was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    /// Times that it was to close the connections that wait for their next request.
    closings: u64,
    /// To take no new connections, and to close the others after their next request.
    leaving: bool,
}

impl Keeper {
    async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let keeper = Self { told: watch::Sender::default(), served: Arc::default(), open: Arc::default() };
        let (told, served, open) = (keeper.told.subscribe(), Arc::clone(&keeper.served), Arc::clone(&keeper.open));
        tokio::spawn(async move {
            let mut leaving = told.clone();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = leaving.wait_for(|told| told.leaving) => return,
                };
                let (told, served, open) = (told.clone(), Arc::clone(&served), Arc::clone(&open));
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    keep(stream, told, &served).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        keeper
    }

    /// Closes every connection that waits for its next request, as a server does whose patience is over.
    async fn close(&self) {
        self.told.send_modify(|told| told.closings += 1);
        until("the kept connections are closed", async || {
            let open = self.open.load(Ordering::SeqCst);
            ensure(open == 0, || format!("{open} are open"))
        })
        .await;
    }

    /// Takes nothing new from now on, as a server does that was told to end.
    fn leave(&self) {
        self.told.send_modify(|told| told.leaving = true);
    }
}

async fn keep(mut stream: TcpStream, mut told: watch::Receiver<Told>, served: &AtomicU64) {
    let closings = told.borrow_and_update().closings;
    let mut head = Vec::new();
    loop {
        tokio::select! {
            biased;
            read = stream.read_buf(&mut head) => if !matches!(read, Ok(count) if count > 0) { return },
            _ = told.wait_for(|told| told.closings > closings) => return,
        }
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        served.fetch_add(1, Ordering::SeqCst);
        head.clear();
        let leaving = told.borrow().leaving;
        let connection = if leaving { "connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\nx-app: keeper\r\n{connection}content-length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() || leaving {
            return;
        }
    }
}

/// A workload with such an application.
async fn keeper(mesh: &Mesh, name: &str) -> (Workload, Keeper) {
    let address = (weir_tests::address::loopback(), 8080).into();
    let app = Keeper::at(address).await;
    let workload = mesh.workload(name).service_account("reviews").one_worker().app_at(address).start().await;
    (workload, app)
}

/// A POST that arrives in the same moment as the application closes the connection that it would have gone over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_not_written_to_a_connection_that_the_application_has_closed() {
    let mesh = Mesh::start().await;
    let (caller, (reviews, app)) = tokio::join!(mesh.caller(), keeper(&mesh, "reviews"));
    mesh.service("reviews").backed_by([&reviews]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    let post = |path: &str| caller.client().request(Method::POST, &format!("http://reviews{path}")).try_send();
    let before = app.served.load(Ordering::SeqCst);
    for round in 0..40 {
        let answer = post("/kept").await.unwrap();
        assert_eq!(answer.status, 200, "round {round}: {answer:?}");
        // The sidecar learns of both at once: that the connection is closed, and that there is a request.
        reviews.proxy().process().pause();
        app.close().await;
        let under_way = tokio::spawn(post("/after"));
        let resume = async {
            // The request is on its way when the caller's sidecar waits for its answer.
            until("the request is under way", async || {
                let clusters = caller.proxy().ask("/clusters").await?.text();
                ensure(clusters.contains("\"outstanding\": 1"), || clusters)
            })
            .await;
            reviews.proxy().process().resume();
        };
        let (answer, ()) = tokio::join!(under_way, resume);
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status, 200, "round {round}: {answer:?}");
    }
    assert_eq!(app.served.load(Ordering::SeqCst), before + 80, "each was served once");
    assert!(caller.metrics().await.sum("weir_http_retries_total", &[]) < 0.5, "the caller noticed nothing");
}

/// POSTs under load while replicas come and go: the application ends first and its sidecar after it, as native sidecars do, and
/// the control plane says so only later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_replaced_under_a_load_of_posts() {
    let mesh = Mesh::start().await;
    let (caller, first, second) = tokio::join!(mesh.caller(), keeper(&mesh, "v1-a"), keeper(&mesh, "v1-b"));
    let mut replicas = vec![first, second];
    let serve_by = |replicas: &[(Workload, Keeper)]| {
        mesh.service("reviews").backed_by(replicas.iter().map(|(workload, _)| workload)).apply();
    };
    serve_by(&replicas);
    mesh.reaches(&caller, "http://reviews/").await;
    let (stop, passed) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (client, stop, passed) = (caller.client(), Arc::clone(&stop), Arc::clone(&passed));
            tokio::spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    match client.request(Method::POST, "http://reviews/").try_send().await {
                        Ok(answer) if answer.status == 200 => drop(passed.fetch_add(1, Ordering::SeqCst)),
                        other => failed.push(format!("{other:?}")),
                    }
                }
                failed
            })
        })
        .collect();
    let more_pass = async |count: u64| {
        let enough = passed.load(Ordering::SeqCst) + count;
        until("requests pass", async || ensure(passed.load(Ordering::SeqCst) >= enough, || "too few".to_owned())).await;
    };
    for round in 0..3 {
        let new = keeper(&mesh, &format!("v2-{round}")).await;
        let (leaving, app) = replicas.remove(0);
        replicas.push(new);
        more_pass(100).await;
        app.leave();
        // Callers do not know yet.
        more_pass(200).await;
        serve_by(&replicas);
        leaving.proxy().terminate();
        assert!(leaving.proxy().end().await.success());
        more_pass(100).await;
    }
    stop.store(true, Ordering::SeqCst);
    for one in load {
        assert_eq!(one.await.unwrap(), Vec::<String>::new(), "of {}", passed.load(Ordering::SeqCst));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_ends_at_once_when_its_application_is_done() {
    let mesh = Mesh::start().await;
    let reviews = mesh.workload("reviews").app(App::http("reviews")).setting("WEIR_DRAIN_TIMEOUT", AN_HOUR);
    let (caller, reviews) = tokio::join!(mesh.caller(), reviews.start());
    mesh.service("reviews").backed_by([&reviews]).apply();
    mesh.reaches(&caller, "http://reviews/").await;
    // A kept connection of a stranger, one with half a request, one that has said nothing, and a peer that does not answer.
    let mut idle = Raw::connect(reviews.inbound()).await;
    idle.write("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    idle.until("\r\n\r\n").await;
    let mut half = Raw::connect(reviews.inbound()).await;
    half.write("POST /half HTTP/1.1\r\nhost: rev").await;
    let silent = Raw::connect(reviews.inbound()).await;
    let kept = reviews.client().connect().await.unwrap();
    caller.proxy().process().pause();
    reviews.proxy().terminate();
    assert!(reviews.proxy().end().await.success());
    assert!(!reviews.proxy().process().log().contains("were still open"), "{}", reviews.proxy().process().log());
    drop((idle, half, silent, kept));
}

/// Without native sidecars everybody is told to end in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_sidecar_serves_on_until_its_application_is_done() {
    let mesh = Mesh::start().await;
    let job = mesh.workload("job").app(App::http("job")).setting("WEIR_DRAIN_DELAY", AN_HOUR);
    let (job, reviews) =
        tokio::join!(job.setting("WEIR_DRAIN_TIMEOUT", "2h").setting("WEIR_DRAIN_QUIET", "1h").start(), mesh.backend("reviews"));
    mesh.reaches(&job, "http://reviews/").await;
    job.proxy().terminate();
    job.proxy().process().logs(&["draining"]).await;
    let ready = job.proxy().ask("/ready").await.unwrap();
    assert_eq!(ready.status, 503, "whoever asks learns that it goes");
    for _ in 0..20 {
        assert_eq!(job.client().get("http://reviews/").await.status, 200, "it calls out");
        let answer = Client::to(job.inbound()).get(&format!("http://{}/", job.inbound())).await;
        assert_eq!(answer.app(), "job", "it is called by those who do not know yet");
    }
    assert!(reviews.app().requests("/") >= 20);
    job.proxy().terminate();
    assert!(!job.proxy().end().await.success());
}
