//! An API server.
//!
//! [`kinds`] says what is watched, and `prune` reads of each object only what is used. Each kind has a `follow` of its own, which
//! keeps listing and watching whatever happens; `collect` makes batches of what they tell, the first one when all kinds have been
//! listed. Objects are kept nowhere but in the index: a list that follows a gap is compared by name with what was told before.

mod collect;
#[cfg(test)]
mod collect_tests;
mod follow;
#[cfg(test)]
mod follow_tests;
mod health;
pub mod kinds;
mod next;
mod prune;
mod wire;

use std::time::Instant;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::health::Health;

use self::collect::Collector;
use self::follow::{Change, Follower};
use self::kinds::WATCHED;
use crate::source::Batch;

/// Changes that wait to be collected. Whoever tells them waits meanwhile, and the API server with it.
const CHANGES: usize = 256;

/// Follows all kinds and sends batches. Ends when nobody receives any more.
pub async fn watch(client: Client, health: Health, batches: mpsc::Sender<Batch>) {
    let (sender, mut changes) = mpsc::channel::<Change>(CHANGES);
    let mut followers = JoinSet::new();
    for watched in &WATCHED {
        followers.spawn(Follower::new(watched, client.clone(), sender.clone(), health.clone()).run());
    }
    drop(sender);
    let mut collector = Collector::new(WATCHED.iter().map(|it| it.kind));
    let mut taken = Vec::with_capacity(CHANGES);
    loop {
        let due = collector.due();
        tokio::select! {
            count = changes.recv_many(&mut taken, CHANGES) => {
                if count == 0 {
                    return;
                }
                let now = Instant::now();
                for change in taken.drain(..) {
                    collector.take(change, now);
                }
            }
            () = wait_until(due) => {}
            () = batches.closed() => return,
        }
        if let Some(batch) = collector.batch(Instant::now())
            && batches.send(batch).await.is_err()
        {
            return;
        }
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
