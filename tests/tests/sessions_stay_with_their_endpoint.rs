//! Requests of one session go to one endpoint (GEP-1619), by cookie and by header, for as long as it is there.

use std::collections::BTreeSet;

use weir_tests::prelude::*;

const SETTINGS: [&str; 2] = ["{sessionName: sid}", "{sessionName: x-session, type: Header}"];

/// Two versions of a Service with equal weights, one of them with two endpoints; and how the rule keeps sessions.
async fn versions(persistence: &str) -> (Mesh, Workload, Vec<Workload>) {
    let mesh = Mesh::start().await;
    let (caller, a, b, c) = tokio::join!(mesh.caller(), mesh.backend("a"), mesh.backend("b"), mesh.backend("c"));
    mesh.service("one").backed_by([&a, &b]).apply();
    mesh.service("two").backed_by([&c]).apply();
    mesh.service("reviews").apply();
    mesh.route(
        "reviews",
        &format!("- {{sessionPersistence: {persistence}, backendRefs: [{{name: one, port: 80}}, {{name: two, port: 80}}]}}"),
    );
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, vec![a, b, c])
}

/// What the client is told of its session: the pair of the request's header that carries it on.
fn told(answer: &Answer) -> Option<(&'static str, String)> {
    if let Some(cookie) = answer.header("set-cookie") {
        let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
        assert!(pair.starts_with("sid=") && attributes.contains("HttpOnly"), "{cookie}");
        return Some(("cookie", pair.to_owned()));
    }
    answer.header("x-session").map(|value| ("x-session", value.to_owned()))
}

async fn ask(caller: &Workload, session: Option<&(&'static str, String)>) -> Answer {
    let sending = caller.client().request(Method::GET, "http://reviews/");
    match session {
        Some((name, value)) => sending.header(name, value).send().await,
        None => sending.send().await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_with_its_endpoint_and_sessions_are_spread() {
    for setting in SETTINGS {
        let (_mesh, caller, _backends) = versions(setting).await;
        let mut used = BTreeSet::new();
        for _ in 0..20 {
            let first = ask(&caller, None).await;
            let session = told(&first);
            assert!(session.is_some(), "{setting}: the client is told: {first:?}");
            for _ in 0..5 {
                // Each on a connection of its own, and so also by the other worker.
                let next = ask(&caller, session.as_ref()).await;
                assert_eq!((next.status.as_u16(), next.app()), (200, first.app()), "{setting}");
            }
            used.insert(first.app().to_owned());
        }
        assert_eq!(used.len(), 3, "{setting}: {used:?}");
        // What is no token begins a session.
        let made_up = told(&ask(&caller, Some(&("cookie", "sid=1-0-0-0-0".to_owned()))).await);
        assert!(made_up.is_some(), "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_is_told_once_and_a_header_each_time() {
    for (setting, again) in [(SETTINGS[0], false), (SETTINGS[1], true), ("{sessionName: sid, idleTimeout: 1h}", true)] {
        let (_mesh, caller, _backends) = versions(setting).await;
        let session = told(&ask(&caller, None).await);
        assert_eq!(told(&ask(&caller, session.as_ref()).await).is_some(), again, "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_endpoint_is_gone_moves_once() {
    let (mesh, caller, mut backends) = versions(SETTINGS[0]).await;
    let (first, session) = until("a session is at a", async || {
        let answer = ask(&caller, None).await;
        ensure(answer.app() == "a", || answer.app().to_owned()).map(|()| (answer.app().to_owned(), told(&answer)))
    })
    .await;
    assert_eq!(ask(&caller, session.as_ref()).await.app(), first);
    mesh.service("one").backed_by([&backends[1]]).apply();
    let moved = until("the session is at the endpoint that is left", async || {
        let answer = ask(&caller, session.as_ref()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        ensure(answer.app() == "b", || answer.app().to_owned()).map(|()| told(&answer))
    })
    .await;
    assert!(moved.is_some(), "and the client is told");
    for _ in 0..5 {
        assert_eq!(ask(&caller, moved.as_ref()).await.app(), "b");
    }
    // An endpoint that dies takes nobody with it.
    backends[1].kill_app().await;
    mesh.service("one").backed_by([&backends[0], &backends[1]]).apply();
    let answer = until("another endpoint answers", async || {
        let answer = ask(&caller, moved.as_ref()).await;
        ensure(answer.status == 200 && answer.app() == "a", || format!("{answer:?}")).map(|()| answer)
    })
    .await;
    assert!(told(&answer).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_in_how_sessions_are_kept_is_named() {
    let mesh = Mesh::start().await;
    mesh.service("reviews").apply();
    for (persistence, words) in [
        ("{sessionName: 'a b'}", "sessionPersistence.sessionName"),
        ("{cookieConfig: {lifetimeType: Permanent}}", "sessionPersistence.absoluteTimeout"),
        ("{idleTimeout: soon}", "sessionPersistence.idleTimeout"),
        ("{type: Query}", "sessionPersistence.type"),
    ] {
        mesh.route("reviews", &format!("- {{sessionPersistence: {persistence}, backendRefs: [{{name: reviews, port: 80}}]}}"));
        mesh.control_plane().diagnoses(&["route-reviews.yaml", words]).await;
    }
}
