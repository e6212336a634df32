//! The load: requests at a fixed rate, whether or not the earlier ones were answered.

use std::net::SocketAddrV4;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::client::{Client, origin};
use super::scene::Scene;
use super::tally::{Answered, Sample};

/// A user would have given up by then: it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests under way at most. Beyond it a request waits, and its waiting is part of its time.
const MAX_UNDER_WAY: usize = 512;

/// A load that runs until it is stopped.
pub(crate) struct Load {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Load {
    /// Sends `rate` requests a second to `frontend`, counted in `scene`.
    pub(crate) fn start(frontend: SocketAddrV4, rate: u32, scene: Scene) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(send(frontend, rate, scene, stopped)) }
    }

    /// Sends no more and waits for the answers that are outstanding, so that none goes uncounted.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        // A panic in there has been printed; the missing requests show in the count.
        let _ended = self.task.await;
    }
}

async fn send(frontend: SocketAddrV4, rate: u32, scene: Scene, mut stopped: watch::Receiver<bool>) {
    let client = Arc::new(Client::new(frontend, PATIENCE));
    let permits = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let mut due = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            _ = due.tick() => {}
            // Nothing waits for them, so they are collected as they end.
            Some(_) = under_way.join_next() => continue,
        }
        let sent = scene.now();
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let client = Arc::clone(&client);
        let scene = scene.clone();
        under_way.spawn(async move {
            let end = request(&client, frontend).await;
            let sample = Sample { sent, ended: scene.now(), end };
            scene.facts().tally.record(sample);
            drop(permit);
        });
    }
    while under_way.join_next().await.is_some() {}
}

async fn request(client: &Client, frontend: SocketAddrV4) -> Result<Answered, String> {
    let request = origin(frontend, "/").map_err(|error| error.to_string())?;
    let response = client.send(request).await.map_err(|error| error.to_string())?;
    read(&response)
}

/// Anything but a 200 that names the catalog's version is a failure.
fn read(response: &Response<Bytes>) -> Result<Answered, String> {
    if response.status() != StatusCode::OK {
        let header = |name| response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let mut told = format!("status {}", response.status());
        for name in ["weir-error", "x-demo-error"] {
            if let Some(value) = header(name) {
                told.push_str(&format!("; {name}: {value}"));
            }
        }
        return Err(told);
    }
    let answer: Value = serde_json::from_slice(response.body()).map_err(|error| format!("the answer is not JSON: {error}"))?;
    let catalog = |field: &str| answer.pointer(&format!("/calls/0/{field}")).and_then(Value::as_str).map(str::to_owned);
    match (catalog("version"), catalog("pod")) {
        (Some(version), Some(pod)) => Ok(Answered { version, pod }),
        _ => Err(format!("the answer does not say which catalog was asked: {answer}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> Response<Bytes> {
        let builder = Response::builder().status(status).header("weir-error", "no-endpoint; hop=outbound");
        builder.body(Bytes::from(body.to_owned())).unwrap()
    }

    #[test]
    fn an_answer_names_the_catalog_that_was_asked() {
        let answered = read(&response(200, r#"{"pod":"frontend","calls":[{"version":"v2","pod":"catalog-v2"}]}"#));
        assert_eq!(answered, Ok(Answered { version: "v2".to_owned(), pod: "catalog-v2".to_owned() }));
    }

    #[test]
    fn everything_else_is_a_failure_with_its_reason() {
        let refused = read(&response(503, "")).unwrap_err();
        assert_eq!(refused, "status 503 Service Unavailable; weir-error: no-endpoint; hop=outbound");
        assert!(read(&response(200, "<html>")).unwrap_err().starts_with("the answer is not JSON"));
        assert!(read(&response(200, "{}")).unwrap_err().starts_with("the answer does not say"));
        assert!(read(&response(204, "")).is_err());
    }
}
