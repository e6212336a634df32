//! Wherever a connection behind the caller breaks, at any byte: what may have had its effect is never repeated, and a client
//! learns what happened.

use std::net::SocketAddr;

use weir_tests::address;
use weir_tests::app::RunningApp;
use weir_tests::prelude::*;
use weir_tests::relay::{Break, Cut, Relay, Way};

const BODY: &str = "pay 100";

/// A Service `reviews` of one application, a relay somewhere on the way to it, and a caller.
struct Scene {
    mesh: Mesh,
    caller: Workload,
    _reviews: Workload,
    app: RunningApp,
    relay: Relay,
}

fn somewhere() -> SocketAddr {
    SocketAddr::new(address::loopback().into(), 8080)
}

impl Scene {
    /// The relay is between the application and its own sidecar.
    async fn before_the_application() -> Self {
        let (mesh, app, between) = (Mesh::start().await, App::http("reviews").start(somewhere()), somewhere());
        let relay = Relay::start(between, app.address()).await;
        let starting = mesh.workload("reviews").app_at(between).one_worker().start();
        let calling = mesh.workload("caller").one_worker().start();
        let (caller, reviews) = tokio::join!(calling, starting);
        mesh.service("reviews").backed_by([&reviews]).apply();
        Self::ready(mesh, caller, reviews, app, relay).await
    }

    /// The relay is between the two sidecars.
    async fn between_the_sidecars() -> Self {
        let (mesh, app, inbound) = (Mesh::start().await, App::http("reviews").start(somewhere()), somewhere());
        let mapping = format!("{inbound}={}", app.address());
        let starting = mesh.workload("reviews").app_at(app.address()).setting("WEIR_INBOUND", &mapping).one_worker().start();
        let calling = mesh.workload("caller").one_worker().start();
        let (caller, reviews) = tokio::join!(calling, starting);
        let relay = Relay::start(reviews.inbound(), inbound).await;
        mesh.service("reviews").backed_by([&reviews]).apply();
        Self::ready(mesh, caller, reviews, app, relay).await
    }

    async fn ready(mesh: Mesh, caller: Workload, reviews: Workload, app: RunningApp, relay: Relay) -> Self {
        mesh.reaches(&caller, "http://reviews/").await;
        Self { mesh, caller, _reviews: reviews, app, relay }
    }

    fn client(&self, http2: bool) -> Client {
        if http2 { self.caller.client().h2() } else { self.caller.client() }
    }

    /// Bytes that pass this way for one request and its answer.
    async fn length(&self, way: Way, method: &Method, http2: bool) -> usize {
        // The first one has more to say, and may meet what the last break has left.
        let exchange = async || {
            let answer = self.exchange(method, http2, "/case-00000").await?;
            ensure(answer.app() == "reviews", || format!("{answer:?}"))
        };
        for _ in 0..2 {
            until("the way is free", exchange).await;
        }
        let before = self.relay.passed(way);
        until("the way is free", exchange).await;
        self.relay.passed(way) - before
    }

    async fn exchange(&self, method: &Method, http2: bool, path: &str) -> Result<Answer, String> {
        let body = if *method == Method::POST { BODY } else { "" };
        self.client(http2).request(method.clone(), &format!("http://reviews{path}")).body(body).try_send().await
    }

    /// One exchange, broken like this. The error says what was wrong with what the client saw.
    async fn broken(&self, plan: Break, method: &Method, http2: bool, path: &str) -> Result<(), String> {
        self.relay.plan(plan);
        let seen = self.exchange(method, http2, path).await;
        self.relay.forget();
        let times = self.app.requests(path);
        ensure(*method != Method::POST || times <= 1, || format!("the application was given it {times} times"))?;
        match seen {
            Ok(answer) => match answer.mesh_error() {
                None => {
                    let seen: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                    let body = if *method == Method::POST { BODY } else { "" };
                    let right = answer.status == 200 && seen["path"] == path && seen["body"] == body && times > 0;
                    ensure(right, || format!("a wrong answer passed for a whole one: {answer:?}"))
                }
                Some(_) => ensure([502, 504].contains(&answer.status.as_u16()), || format!("not as documented: {answer:?}")),
            },
            // The head was there, and the client sees that what follows is not whole.
            Err(error) => ensure(error.contains("broke off"), || format!("no head at all: {error}")),
        }
    }

    /// Breaks one exchange after every few bytes, each way, by each of `cuts`, for a GET and a POST and each version.
    async fn sweep(&self, cuts: &[Cut], step: usize) {
        let (mut case, mut wrong) = (0, Vec::new());
        for (method, http2) in [(Method::POST, false), (Method::GET, false), (Method::POST, true), (Method::GET, true)] {
            for way in [Way::Request, Way::Answer] {
                let length = self.length(way, &method, http2).await;
                for (after, cut) in (0..=length).step_by(step).flat_map(|after| cuts.iter().map(move |cut| (after, *cut))) {
                    case += 1;
                    let (plan, path) = (Break { way, after, cut }, format!("/case-{case:05}"));
                    if let Err(reason) = self.broken(plan, &method, http2, &path).await {
                        wrong.push(format!("{method} HTTP/{} {plan:?}: {reason}", if http2 { 2 } else { 1 }));
                    }
                }
            }
        }
        assert!(case >= 8, "only {case} cases");
        assert!(wrong.is_empty(), "{} of {case} were wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_the_application_breaks_at_any_byte() {
    Scene::before_the_application().await.sweep(&[Cut::Finish, Cut::Reset], 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_between_two_sidecars_breaks_at_any_byte() {
    Scene::between_the_sidecars().await.sweep(&[Cut::Finish, Cut::Reset], 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_the_application_falls_silent_at_any_byte() {
    let scene = Scene::before_the_application().await;
    scene.mesh.route(
        "reviews",
        "
            - filters:
              - type: ResponseHeaderModifier
                responseHeaderModifier: {set: [{name: x-route, value: bounded}]}
              backendRefs: [{name: reviews, port: 80}]
              timeouts: {request: 1s}",
    );
    let routed = |answer: &Answer| ensure(answer.header("x-route").is_some(), || "no route yet".to_owned());
    scene.mesh.sees(&scene.caller, "http://reviews/", routed).await;
    scene.sweep(&[Cut::Stall], 190).await;
}
