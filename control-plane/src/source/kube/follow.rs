//! Follows one kind: lists it, watches it, and begins again where something went wrong.
//!
//! A list comes as the beginning of a watch where the API server can do that (it then need not put all of it together at once),
//! and in pages elsewhere. What was told before stays true until a complete list says otherwise.

use std::io;
use std::pin::pin;
use std::time::Duration;

use futures_util::{AsyncBufReadExt, Stream, StreamExt};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::{Request, Status};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::health::Health;
use super::kinds::Watched;
use super::next::{Next, next};
use super::prune::prune;
use super::wire::{Bookmark, Event, Page};
use crate::kube::failure::plain_words;
use crate::kube::{Failure, backoff};
use crate::objects::Kind;

/// Something about a kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) kind: Kind,
    pub(super) what: What,
}

/// What it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// All objects of the kind follow.
    Listing,
    /// An object, new or changed or listed.
    Put(Value),
    /// An object is gone.
    Delete(Value),
    /// What was not put since `Listing` is gone.
    Listed,
    /// There is no such kind, and so no object of it.
    Absent,
}

/// Objects in a page of a list.
const PAGE: u32 = 500;
/// How long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the next object of a list may take that comes as the beginning of a watch.
const LIST_SILENCE: Duration = Duration::from_secs(30);
/// A watch that stands for this long is one that works. Many are answered and then end at once.
const SETTLED: Duration = Duration::from_secs(1);
/// A watch lasts from this long, in seconds,
const SHORTEST_WATCH: u32 = 200;
/// to this long: not all are renewed at once.
const LONGEST_WATCH: u32 = 290;
/// A watch that neither says anything nor ends when it should. The API server marks silent ones every minute.
const SILENCE: Duration = Duration::from_secs(310);
/// The first wait after a failure,
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// and the longest: an API server that comes back is noticed within it.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How often a kind that is not installed is looked for.
const ABSENT_LOOK: Duration = Duration::from_secs(2);
/// A kind whose objects were known must be away for this long before they are given up: when a definition is deleted, each
/// object is reported as deleted first, so that whatever is left then is left by some trouble of the API server's.
const ABSENT_GRACE: Duration = Duration::from_secs(30);

/// Follows one kind.
pub(super) struct Follower {
    pub(super) watched: &'static Watched,
    pub(super) client: Client,
    pub(super) changes: mpsc::Sender<Change>,
    pub(super) health: Health,
    /// Where the next watch begins; nothing known: with a list.
    version: Option<String>,
    /// A list can come as the beginning of a watch.
    streaming: bool,
    /// Failures in a row.
    failures: u32,
    /// Whether nobody answered at the last of them.
    unreachable: bool,
    /// Lists in a row that were needed because the API server had forgotten.
    expiries: u32,
    absence: Absence,
    rng: fastrand::Rng,
}

/// Whether the kind is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    /// Nothing is known yet.
    Unknown,
    /// It is: its objects have been told.
    Present,
    /// It has not been since then; its objects still count.
    Since(Instant),
    /// It is not, and that has been told.
    Told,
}

/// Why following pauses.
enum Trouble {
    /// Nobody wants to know any more.
    Unwanted,
    Failure(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl Follower {
    pub(super) fn new(watched: &'static Watched, client: Client, changes: mpsc::Sender<Change>, health: Health) -> Self {
        Self {
            watched,
            client,
            changes,
            health,
            version: None,
            streaming: true,
            failures: 0,
            unreachable: false,
            expiries: 0,
            absence: Absence::Unknown,
            rng: fastrand::Rng::new(),
        }
    }

    /// Follows until nobody wants to know any more.
    pub(super) async fn run(mut self) {
        loop {
            let failure = match self.turn().await {
                Ok(()) => continue,
                Err(Trouble::Unwanted) => return,
                Err(Trouble::Failure(failure)) => failure,
            };
            self.count(&failure);
            let listing = self.version.is_none();
            let next = next(&failure, listing, self.streaming, self.watched.optional, self.failures);
            tracing::debug!(kind = self.watched.kind.as_str(), %failure, ?next, failures = self.failures, "following failed");
            let wait = match next {
                Next::Absent => match self.absent(failure).await {
                    Ok(()) => ABSENT_LOOK,
                    Err(Trouble::Unwanted) => return,
                    Err(Trouble::Failure(failure)) => self.failed(&failure),
                },
                Next::Pages => {
                    self.streaming = false;
                    continue;
                }
                Next::Relist => {
                    self.version = None;
                    // To have been away for too long is no failure, unless it happens again and again.
                    if failure == Failure::Expired && self.expiries == 1 { FIRST_WAIT } else { self.failed(&failure) }
                }
                Next::Resume => self.failed(&failure),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changes.closed() => return,
            }
        }
    }

    /// Counts a failure. An API server that answers after it was away is asked again as soon as at the first failure.
    fn count(&mut self, failure: &Failure) {
        let unreachable = matches!(failure, Failure::Unreachable(_));
        let is_back = std::mem::replace(&mut self.unreachable, unreachable) && !unreachable;
        if *failure == Failure::Expired {
            self.expiries = self.expiries.saturating_add(1);
            self.failures = self.expiries;
        } else if is_back {
            self.failures = 1;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
    }

    fn failed(&mut self, failure: &Failure) -> Duration {
        self.health.failed(self.watched.kind, failure);
        backoff(self.failures, FIRST_WAIT, LONGEST_WAIT, &mut self.rng)
    }

    /// One list, or one watch, or both.
    async fn turn(&mut self) -> Result<(), Trouble> {
        if self.version.is_none() && !self.streaming {
            self.list().await?;
        }
        let listing = self.version.is_none();
        let parameters = WatchParams {
            timeout: Some(self.rng.u32(SHORTEST_WATCH..=LONGEST_WATCH)),
            send_initial_events: listing,
            ..WatchParams::default()
        };
        // To list from no version at all is to list what is true now; from "0" it would be what some cache has.
        let version = self.version.clone().unwrap_or_default();
        let request = Request::new(self.watched.path()).watch(&parameters, &version).map_err(unsendable)?;
        let lines = self.client.request_stream(request).await.map_err(|error| Failure::of(&error))?.lines();
        if listing {
            self.tell(What::Listing).await?;
        }
        self.read(lines, listing).await
    }

    /// Lists everything in pages.
    async fn list(&mut self) -> Result<(), Trouble> {
        self.tell(What::Listing).await?;
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let request = Request::new(self.watched.path()).list(&parameters).map_err(unsendable)?;
            let page: Page = match tokio::time::timeout(PAGE_TIMEOUT, self.client.request(request)).await {
                Ok(page) => page.map_err(|error| Failure::of(&error))?,
                Err(_) => return Err(Failure::Unreachable(format!("a list took longer than {PAGE_TIMEOUT:?}")).into()),
            };
            for item in page.items.unwrap_or_default() {
                let (value, _) = self.understand(&item)?;
                self.tell(What::Put(value)).await?;
            }
            parameters.continue_token = page.metadata.continuation.filter(|it| !it.is_empty());
            if parameters.continue_token.is_none() {
                self.version = page.metadata.resource_version.filter(|it| !it.is_empty());
                break;
            }
        }
        if self.version.is_none() {
            return Err(Failure::Server("a list has no resourceVersion".to_owned()).into());
        }
        self.complete().await
    }

    /// The list that was told is complete.
    async fn complete(&mut self) -> Result<(), Trouble> {
        self.absence = Absence::Present;
        self.tell(What::Listed).await
    }

    /// Reads a watch to its end.
    async fn read(&mut self, lines: impl Stream<Item = io::Result<String>>, mut listing: bool) -> Result<(), Trouble> {
        let mut lines = pin!(lines);
        let mut settled = false;
        loop {
            let patience = match (listing, settled) {
                (true, _) => LIST_SILENCE,
                (false, false) => SETTLED,
                (false, true) => SILENCE,
            };
            let line = match tokio::time::timeout(patience, lines.next()).await {
                Ok(Some(line)) => {
                    line.map_err(|error| Failure::Unreachable(format!("a watch broke off: {}", plain_words(&error))))?
                }
                Ok(None) if listing => return Err(Failure::Server("a list ended before its end".to_owned()).into()),
                Ok(None) if !settled => {
                    return Err(Failure::Server("a watch ended as soon as it had begun".to_owned()).into());
                }
                Ok(None) => return Ok(()),
                Err(_) if listing => {
                    self.streaming = false;
                    return Err(Failure::Server(format!("a list stopped for {LIST_SILENCE:?} before its end")).into());
                }
                Err(_) if !settled => {
                    settled = true;
                    self.settled();
                    continue;
                }
                Err(_) => return Err(Failure::Unreachable(format!("a watch was silent for {SILENCE:?}")).into()),
            };
            let event: Event = serde_json::from_str(&line).map_err(|error| self.unreadable(&error))?;
            listing &= !self.event(&event, listing).await?;
            if !listing && !settled {
                settled = true;
                self.settled();
            }
        }
    }

    /// Tells one event. Whether it was the end of the list.
    async fn event(&mut self, event: &Event, listing: bool) -> Result<bool, Trouble> {
        let (what, version) = match event.kind.as_str() {
            "ADDED" | "MODIFIED" => {
                let (value, version) = self.understand(&event.object)?;
                (Some(What::Put(value)), version)
            }
            "DELETED" => {
                let (value, version) = self.understand(&event.object)?;
                (Some(What::Delete(value)), version)
            }
            "BOOKMARK" => {
                let mark: Bookmark = serde_json::from_str(event.object.get()).map_err(|error| self.unreadable(&error))?;
                if listing && mark.metadata.annotations.contains_key("k8s.io/initial-events-end") {
                    self.version = Some(mark.metadata.resource_version);
                    self.complete().await?;
                    return Ok(true);
                }
                (None, Some(mark.metadata.resource_version))
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(event.object.get()).map_err(|error| self.unreadable(&error))?;
                return Err(Failure::of_status(&status).into());
            }
            // Kinds of events of tomorrow.
            _ => (None, None),
        };
        if let Some(what) = what {
            self.tell(what).await?;
        }
        // Only a list that is complete can be gone on from.
        if !listing && version.is_some() {
            self.version = version;
        }
        Ok(false)
    }

    fn unreadable(&self, error: &serde_json::Error) -> Failure {
        Failure::Server(format!("an object of the kind {} cannot be read: {error}", self.watched.kind.as_str()))
    }

    /// A watch works.
    fn settled(&mut self) {
        self.failures = 0;
        self.expiries = 0;
        self.health.connected(self.watched.kind);
    }

    /// An object with its kind, and its version.
    fn understand(&self, text: &RawValue) -> Result<(Value, Option<String>), Failure> {
        let mut value = prune(text.get(), self.watched.keep).map_err(|error| self.unreadable(&error))?;
        // Items of a list do not say what they are.
        if let Some(fields) = value.as_object_mut() {
            fields.insert("apiVersion".to_owned(), self.watched.api_version().into());
            fields.insert("kind".to_owned(), self.watched.kind.as_str().into());
        }
        let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
        Ok((value, version))
    }

    async fn tell(&self, what: What) -> Result<(), Trouble> {
        self.changes.send(Change { kind: self.watched.kind, what }).await.map_err(|_| Trouble::Unwanted)
    }

    /// The API server says that there is no such kind.
    async fn absent(&mut self, failure: Failure) -> Result<(), Trouble> {
        if !self.is_server_ready().await {
            // While it starts it may not know yet what is installed.
            return Err(failure.into());
        }
        self.version = None;
        self.failures = 0;
        self.health.absent(self.watched.kind);
        let gone = match self.absence {
            Absence::Unknown => true,
            Absence::Present => {
                self.absence = Absence::Since(Instant::now());
                false
            }
            Absence::Since(since) => since.elapsed() >= ABSENT_GRACE,
            Absence::Told => false,
        };
        if gone {
            self.absence = Absence::Told;
            self.tell(What::Absent).await?;
        }
        Ok(())
    }

    /// Whether the API server says of itself that it has started. One that does not let us ask has.
    async fn is_server_ready(&self) -> bool {
        let Ok(request) = http::Request::get("/readyz").body(Vec::new()) else { return true };
        match self.client.request_text(request).await {
            Ok(_) => true,
            Err(error) => {
                matches!(Failure::of(&error), Failure::Unauthenticated(_) | Failure::Forbidden(_) | Failure::NotFound(_))
            }
        }
    }
}

fn unsendable(error: kube::core::request::Error) -> Failure {
    Failure::Server(format!("a request cannot be made: {error}"))
}
