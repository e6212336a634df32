//! A kind is followed through whatever an API server does. Time is the test's own, so no wait takes any.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::follow::{Change, Follower, What};
use super::health::Health;
use super::kinds::watched;
use crate::kube::testing::{Answer, Script, bookmark, event, script, service};
use crate::metrics::Metrics;
use crate::objects::Kind;

struct Run {
    script: Script,
    changes: mpsc::Receiver<Change>,
    health: Health,
}

fn follow(kind: Kind, answers: Vec<Answer>) -> Run {
    let script = script(answers);
    let (sender, changes) = mpsc::channel(16);
    let health = Health::new(Metrics::new().unwrap());
    let follower = Follower::new(watched(kind).unwrap(), script.client.clone(), sender, health.clone());
    tokio::spawn(follower.run());
    Run { script, changes, health }
}

impl Run {
    /// The next changes in short.
    async fn hear(&mut self, count: usize) -> Vec<String> {
        let mut heard = Vec::new();
        for _ in 0..count {
            let what = self.changes.recv().await.unwrap().what;
            let name = |value: &Value| value["metadata"]["name"].as_str().unwrap().to_owned();
            heard.push(match what {
                What::Listing => "listing".to_owned(),
                What::Listed => "listed".to_owned(),
                What::Absent => "absent".to_owned(),
                What::Put(value) => format!("+{}", name(&value)),
                What::Delete(value) => format!("-{}", name(&value)),
            });
        }
        heard
    }

    /// The next request's path and query.
    async fn asked(&mut self) -> String {
        self.script.asked.recv().await.unwrap().path
    }

    fn shown(&self, kind: Kind) -> Option<String> {
        let all = self.health.diagnostics();
        let text = all.iter().map(ToString::to_string).find(|it| it.starts_with(kind.as_str()));
        text.filter(|it| !it.contains("not been read yet"))
    }
}

fn listed(names: &[&str], version: u64) -> Vec<Value> {
    let items = names.iter().map(|name| event("ADDED", service(name, 1)));
    items.chain([bookmark(version, true)]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_as_the_beginning_of_a_watch_and_the_next_watch_goes_on_from_its_end() {
    let mut events = listed(&["a", "b"], 10);
    events.extend([event("MODIFIED", service("a", 11)), event("DELETED", service("b", 12)), bookmark(15, false)]);
    let more = vec![event("ADDED", service("c", 16))];
    let mut run = follow(Kind::Service, vec![Answer::Ends(events), Answer::Stands(more)]);
    assert_eq!(run.hear(7).await, ["listing", "+a", "+b", "listed", "+a", "-b", "+c"]);
    let first = run.asked().await;
    assert!(first.starts_with("/api/v1/services?") && first.contains("sendInitialEvents=true"), "{first}");
    assert!(first.ends_with("resourceVersion="), "what is true now, not what a cache has: {first}");
    let second = run.asked().await;
    assert!(second.ends_with("resourceVersion=15") && !second.contains("sendInitialEvents"), "{second}");
    assert_eq!(run.shown(Kind::Service), None);
}

#[tokio::test(start_paused = true)]
async fn objects_come_with_their_kind_and_without_what_is_not_used() {
    let mut run = follow(Kind::Service, vec![Answer::Stands(listed(&["a"], 10))]);
    run.changes.recv().await.unwrap();
    let What::Put(value) = run.changes.recv().await.unwrap().what else { panic!("not an object") };
    assert_eq!(value["apiVersion"], "v1");
    assert_eq!(value["kind"], "Service");
    assert_eq!(value["metadata"].get("managedFields"), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_stream_lists_is_listed_in_pages() {
    let page = |names: &[&str], next: &str| {
        let items: Vec<Value> = names.iter().map(|name| service(name, 1)).collect();
        Answer::Json(json!({"kind": "ServiceList", "metadata": {"resourceVersion": "20", "continue": next}, "items": items}))
    };
    let answers = vec![Answer::Status(422), page(&["a", "b"], "more"), page(&["c"], ""), Answer::Stands(vec![])];
    let mut run = follow(Kind::Service, answers);
    assert_eq!(run.hear(5).await, ["listing", "+a", "+b", "+c", "listed"]);
    assert!(run.asked().await.contains("sendInitialEvents"));
    assert!(run.asked().await.contains("limit=500"));
    assert!(run.asked().await.contains("continue=more"));
    assert!(run.asked().await.ends_with("resourceVersion=20"));
    assert_eq!(run.shown(Kind::Service), None);
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_is_listed_again() {
    let gone =
        json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old", "metadata": {}});
    let mut first = listed(&["a"], 10);
    first.push(event("ERROR", gone));
    let answers = vec![Answer::Ends(first), Answer::Status(410), Answer::Stands(listed(&["b"], 30))];
    let mut run = follow(Kind::Service, answers);
    assert_eq!(run.hear(6).await, ["listing", "+a", "listed", "listing", "+b", "listed"]);
    assert!(run.asked().await.ends_with("resourceVersion="));
    assert!(run.asked().await.ends_with("resourceVersion="));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_a_while_costs_nothing() {
    let mut answers = vec![Answer::Breaks(listed(&["a"], 10))];
    answers.extend((0..20).map(|_| Answer::Refused));
    answers.push(Answer::Stands(vec![event("ADDED", service("b", 11))]));
    let mut run = follow(Kind::Service, answers);
    assert_eq!(run.hear(3).await, ["listing", "+a", "listed"]);
    // Nothing is told until it is back, and then what happened since.
    assert_eq!(run.hear(1).await, ["+b"]);
    for _ in 0..22 {
        let path = run.asked().await;
        assert!(path.ends_with("resourceVersion=") || path.ends_with("resourceVersion=10"), "{path}");
    }
    assert_eq!(run.shown(Kind::Service), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_away_and_has_forgotten_is_asked_at_once() {
    let mut answers = vec![Answer::Breaks(listed(&["a"], 10))];
    answers.extend((0..20).map(|_| Answer::Refused));
    answers.extend([Answer::Status(503), Answer::Status(410), Answer::Stands(listed(&["b"], 30))]);
    let mut run = follow(Kind::Service, answers);
    assert_eq!(run.hear(3).await, ["listing", "+a", "listed"]);
    for _ in 0..22 {
        run.asked().await;
    }
    // It has answered: no more waiting as for one that is away.
    let back = tokio::time::Instant::now();
    assert_eq!(run.hear(3).await, ["listing", "+b", "listed"]);
    assert!(back.elapsed() < std::time::Duration::from_secs(1), "{:?}", back.elapsed());
    assert_eq!(run.shown(Kind::Service), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_gone_back_in_time_is_listed_again() {
    let answers = vec![
        Answer::Breaks(listed(&["a"], 10)),
        // "Too large resource version"
        Answer::Status(504),
        Answer::Status(504),
        Answer::Status(504),
        Answer::Stands(listed(&["b"], 5)),
    ];
    let mut run = follow(Kind::Service, answers);
    assert_eq!(run.hear(6).await, ["listing", "+a", "listed", "listing", "+b", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_is_told_from_its_beginning() {
    let cut = vec![event("ADDED", service("a", 1))];
    let answers = vec![Answer::Ends(cut), Answer::Stands(listed(&["a", "b"], 10))];
    let mut run = follow(Kind::Service, answers);
    assert_eq!(run.hear(6).await, ["listing", "+a", "listing", "+a", "+b", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_read_is_said_and_tried_again() {
    let mut answers: Vec<Answer> = (0..5).map(|_| Answer::Status(403)).collect();
    answers.push(Answer::Stands(vec![]));
    let mut run = follow(Kind::Service, answers);
    for _ in 0..6 {
        run.asked().await;
    }
    let shown = run.shown(Kind::Service).unwrap();
    assert!(shown.contains("Services are not followed: status 403") && shown.contains("Role"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_installed_later_is_found() {
    let absent = || [Answer::Status(404), Answer::Json(json!("ok"))];
    let mut answers = Vec::from(absent());
    answers.extend(absent());
    answers.extend(absent());
    answers.push(Answer::Stands(listed(&["a"], 10)));
    let mut run = follow(Kind::HttpRoute, answers);
    assert_eq!(run.hear(4).await, ["absent", "listing", "+a", "listed"]);
    assert!(run.asked().await.starts_with("/apis/gateway.networking.k8s.io/v1/httproutes?"));
    assert_eq!(run.asked().await, "/readyz");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_still_starting_is_not_believed() {
    let answers =
        vec![Answer::Status(404), Answer::Status(500), Answer::Status(404), Answer::Refused, Answer::Stands(listed(&["a"], 10))];
    let mut run = follow(Kind::HttpRoute, answers);
    assert_eq!(run.hear(3).await, ["listing", "+a", "listed"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_whose_objects_were_known_must_be_away_for_long() {
    let mut answers = vec![Answer::Breaks(listed(&["a"], 10))];
    answers.extend((0..40).flat_map(|_| [Answer::Status(404), Answer::Json(json!("ok"))]));
    let start = tokio::time::Instant::now();
    let mut run = follow(Kind::HttpRoute, answers);
    assert_eq!(run.hear(4).await, ["listing", "+a", "listed", "absent"]);
    assert!(start.elapsed() >= std::time::Duration::from_secs(30));
}
