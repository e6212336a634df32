//! A steady stream of requests in the background, of which none may fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::Request;
use tokio::task::JoinSet;

use crate::body::Outgoing;
use crate::client::{Client, request};
use crate::wait::{ensure, until};

/// Failures that are kept to be shown.
const SHOWN: usize = 5;

/// A load that runs. Each of its clients sends one request after another on a connection that it keeps.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: JoinSet<Tally>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Answered with a success, by the application that answered.
    pub answered: BTreeMap<String, u64>,
    /// Everything else.
    pub failed: u64,
    /// The first failures, in words.
    pub failures: Vec<String>,
}

impl Load {
    /// GETs of `url` by `clients` clients at once.
    #[must_use]
    pub fn get(client: Client, clients: usize, url: &str) -> Self {
        let url = url.to_owned();
        Self::start(client, clients, move || request(http::Method::GET, &url))
    }

    /// Any requests by `clients` clients at once.
    #[must_use]
    pub fn start(client: Client, clients: usize, make: impl Fn() -> Request<Outgoing> + Clone + Send + Sync + 'static) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            tasks.spawn(send_until(Arc::clone(&stop), Arc::clone(&answered), client, make.clone()));
        }
        Self { stop, answered, clients: tasks }
    }

    /// Waits until `count` more requests have ended, well or not.
    pub async fn passes(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        until(&format!("the load has passed {count} requests more"), async || {
            let now = self.answered.load(Ordering::Relaxed);
            ensure(now >= goal, || format!("{} are missing", goal - now))
        })
        .await;
    }

    /// Lets each client finish its request and answers with what became of all.
    ///
    /// # Panics
    ///
    /// When a client panicked.
    pub async fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Tally::default();
        while let Some(tally) = self.clients.join_next().await {
            total.add(tally.expect("a client of the load ends in order"));
        }
        total
    }
}

impl Tally {
    /// Requests that succeeded.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Fails unless every request succeeded, and there were some.
    ///
    /// # Panics
    ///
    /// When one failed.
    #[track_caller]
    pub fn lost_none(&self) {
        assert!(self.failed == 0, "{} of {} requests failed: {:#?}", self.failed, self.failed + self.succeeded(), self.failures);
        assert!(self.succeeded() > 0, "no request was sent");
    }

    fn add(&mut self, other: Self) {
        for (app, count) in other.answered {
            *self.answered.entry(app).or_default() += count;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.failures.truncate(SHOWN);
    }

    fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.failures.len() < SHOWN {
            self.failures.push(reason);
        }
    }
}

async fn send_until(stop: Arc<AtomicBool>, count: Arc<AtomicU64>, client: Client, make: impl Fn() -> Request<Outgoing>) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match client.connect().await {
                Ok(open) => open,
                Err(reason) => {
                    tally.fail(reason);
                    count.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            },
        };
        let ended = open.send(make()).await;
        // A connection that its server announced to close may still look open for a moment.
        let closing = ended.as_ref().is_ok_and(|answer| answer.header("connection") == Some("close"));
        match ended {
            Ok(answer) if answer.status.is_success() => *tally.answered.entry(answer.app().to_owned()).or_default() += 1,
            Ok(answer) => tally.fail(format!("{} {:?}", answer.status, answer.header("weir-error"))),
            Err(reason) => tally.fail(reason),
        }
        count.fetch_add(1, Ordering::Relaxed);
        connection = (open.is_open() && !closing).then_some(open);
    }
    tally
}
