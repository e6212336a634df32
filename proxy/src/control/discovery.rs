//! The configuration: one stream to the control plane, followed for ever.
//!
//! [`run`] connects and reconnects; [`follow`] waits on one stream; [`apply`] changes state and never waits.

use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weir_core::backoff::Backoff;
use weir_core::snapshot::{Rejected, ResourceName};
use weir_proto::v1;
use weir_proto::v1::discovery_client::DiscoveryClient;
use weir_proto::v1::discovery_request::Kind;
use weir_tls::{Credentials, TlsError};

use super::connect::{self, CannotConnect};
use super::decode::{self, Invalid};
use super::{Control, Never, publish};
use crate::logging::LastSaid;
use crate::shared::Shared;

/// Waits between streams while a failure is young: a control plane that restarts, or of which another replica takes over, is
/// there again within seconds. At random, so that it is not met by everybody at once.
const RECONNECT_SOON: Backoff = Backoff { base: Duration::from_millis(50), max: Duration::from_millis(500) };
/// How long a failure is young.
const YOUNG: Duration = Duration::from_secs(5);
/// Waits after that.
const RECONNECT: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(5) };
/// A stream that lived this long was a good one, and the next failure is the first again.
const GOOD_STREAM: Duration = Duration::from_secs(30);
/// Time for the control plane to accept a stream.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a healthy stream is noted as such.
const HEALTHY_TICK: Duration = Duration::from_secs(1);
/// A stream changes to the new certificate this long before the end of its own, or a tenth of its life before.
const CERTIFICATE_MARGIN: Duration = Duration::from_secs(60);
/// A certificate that the control plane does not take is renewed at most this often.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);
/// The largest response. A proxy that calls a thousand services with ten endpoints and ten rules each is told so in about 5 MiB.
const MAX_RESPONSE: usize = 64 << 20;
/// Names in one Subscribe: well within what a gRPC server takes by default, 4 MiB.
const MAX_NAMES: usize = 5_000;
/// Versions in a Hello, for the same reason. What is not named is sent again, which costs bytes and nothing else.
const MAX_HELD: usize = 20_000;

/// Follows the control plane, for ever.
pub(super) async fn run(control: &Control) -> Never {
    let shared = &control.shared;
    let mut rng = fastrand::Rng::new();
    let said = LastSaid::default();
    let mut tls_changed = control.tls_changed.subscribe();
    let mut trouble = Trouble::default();
    let mut renewed = None;
    loop {
        while shared.tls.load().is_none() {
            let _ = tls_changed.changed().await;
        }
        let began = Instant::now();
        let Err(error) = follow(control, &said).await;
        shared.control.set_connected(false);
        if matches!(error, Ended::OldCertificate) {
            tracing::debug!("{error}");
            trouble = Trouble::default();
            continue;
        }
        if began.elapsed() >= GOOD_STREAM {
            trouble = Trouble::default();
        }
        if error.blames_certificate() && renewed.is_none_or(|at: Instant| at.elapsed() >= RENEWAL_PAUSE) {
            tracing::info!("the control plane does not take the certificate any more, so it is renewed now");
            renewed = Some(Instant::now());
            control.renew_now.notify_one();
        }
        let wait = trouble.wait(Instant::now(), &mut rng);
        if said.is_news(&error.key()) {
            tracing::warn!("the control plane is not followed, the last configuration serves on: {error}");
        } else {
            tracing::debug!("not followed still: {error}");
        }
        tls_changed.mark_unchanged();
        tokio::select! {
            () = sleep(wait) => {}
            _ = tls_changed.changed() => {}
        }
    }
}

/// How long the control plane has not been followed, and how often that was tried in vain since the failure was young.
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    failures: u32,
}

impl Trouble {
    /// One more failure: the wait before the next try.
    fn wait(&mut self, now: Instant, rng: &mut fastrand::Rng) -> Duration {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) < YOUNG {
            // The whole range from the first time on.
            return RECONNECT_SOON.delay(u32::MAX, rng);
        }
        self.failures = self.failures.saturating_add(1);
        RECONNECT.delay(self.failures, rng)
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("there is no certificate")]
    NoCertificate,
    #[error("{0}")]
    Connect(#[from] CannotConnect),
    #[error("the control plane did not accept the stream within {ACCEPT_TIMEOUT:?}")]
    NotAccepted,
    #[error("the control plane ended the stream: {message} ({code:?})")]
    Status { message: String, code: tonic::Code },
    #[error("the connection broke ({0}); the control plane died or stopped answering, or the network between is gone")]
    Broke(String),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("the certificate that the stream was opened with ends soon; opening another with the new one")]
    OldCertificate,
}

impl Ended {
    /// Whether the other side's TLS ended the connection. It does so when it has seen our certificate, which is after the
    /// handshake is done for us; what it does not like can only be the certificate.
    fn blames_certificate(&self) -> bool {
        matches!(self, Self::Broke(reason) if reason.contains("fatal alert"))
    }

    /// The failure without what differs each time, to tell whether it is news.
    fn key(&self) -> String {
        match self {
            Self::Connect(error) => error.key(),
            other => other.to_string(),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn broke(status: Status) -> Ended {
    // What the control plane says comes without a source; what happens to the connection has one, and its root has the words.
    let mut cause = std::error::Error::source(&status);
    let mut root = None;
    while let Some(error) = cause {
        root = Some(error.to_string());
        cause = error.source();
    }
    match root {
        Some(root) => Ended::Broke(root),
        None => Ended::Status { message: status.message().to_owned(), code: status.code() },
    }
}

/// One stream, until it ends.
async fn follow(control: &Control, said: &LastSaid) -> Result<Never, Ended> {
    let shared = &control.shared;
    let credentials = shared.tls.load().as_ref().map(|tls| tls.credentials.clone()).ok_or(Ended::NoCertificate)?;
    let channel = connect::channel(shared, Some(&credentials)).await?;
    let (send, requests) = mpsc::channel(8);
    let mut asker = Asker { send, subscribed: Vec::new() };
    asker.say(Kind::Hello(hello(shared))).await?;

    let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
    let opened = timeout(ACCEPT_TIMEOUT, client.stream(ReceiverStream::new(requests))).await;
    let mut responses = opened.map_err(|_| Ended::NotAccepted)?.map_err(broke)?.into_inner();
    shared.control.set_connected(true);
    said.is_over();
    tracing::info!(control_plane = %shared.settings.control_plane, "following the control plane");

    asker.subscribe(shared).await?;
    // What was saved is current until the control plane says otherwise, which it does at once.
    let mut current = shared.snapshot.load().trust().is_some();
    let mut healthy = interval(HEALTHY_TICK);
    healthy.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            response = responses.message() => {
                let response = response.map_err(broke)?.ok_or(Ended::Closed)?;
                let sequence = response.sequence;
                let applied = apply(control, &response);
                current = applied.is_ok();
                asker.say(answer(control, sequence, applied)).await?;
            }
            () = shared.demand.added() => asker.subscribe(shared).await?,
            _ = healthy.tick() => {
                if outlived(&credentials, control) {
                    return Err(Ended::OldCertificate);
                }
                if current {
                    shared.control.is_current(shared.now());
                }
            }
        }
    }
}

/// Whether there is a new certificate, and that of a stream ends soon, when the control plane would end the stream; or leads to a
/// root that is to be retired, and the control plane waits to see the new one.
fn outlived(credentials: &Credentials, control: &Control) -> bool {
    let validity = credentials.validity;
    let soon = (validity.lifetime() / 10).min(CERTIFICATE_MARGIN);
    let renewed = control.shared.tls.load_full().filter(|tls| tls.credentials.serial != credentials.serial);
    renewed.is_some_and(|tls| {
        let ends = validity.remaining(SystemTime::now()) <= soon;
        ends || (control.is_outdated(credentials) && !control.is_outdated(&tls.credentials))
    })
}

fn hello(shared: &Shared) -> v1::Hello {
    let workload = &shared.settings.workload;
    let held = shared.snapshot.load().versions().into_iter().take(MAX_HELD);
    v1::Hello {
        held: held
            .map(|(name, version)| v1::Held { name: Some(decode::wire_name(&name)), version: version.to_string() })
            .collect(),
        ..super::state::owner(workload)
    }
}

/// Speaks on the stream, and knows what was subscribed to on it.
struct Asker {
    send: mpsc::Sender<v1::DiscoveryRequest>,
    /// Sorted.
    subscribed: Vec<ResourceName>,
}

impl Asker {
    async fn say(&self, kind: Kind) -> Result<(), Ended> {
        // The other end is dropped when the stream is.
        self.send.send(v1::DiscoveryRequest { kind: Some(kind) }).await.map_err(|_| Ended::Closed)
    }

    /// Subscribes to what was asked for since the last call.
    async fn subscribe(&mut self, shared: &Shared) -> Result<(), Ended> {
        let wanted = shared.demand.names();
        let new: Vec<_> =
            wanted.iter().filter(|name| self.subscribed.binary_search(name).is_err()).map(decode::wire_name).collect();
        self.subscribed = wanted;
        for names in new.chunks(MAX_NAMES) {
            self.say(Kind::Subscribe(v1::Subscribe { names: names.to_vec() })).await?;
        }
        Ok(())
    }
}

/// Why a response was refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Invalid(#[from] Invalid),
    #[error("{0}")]
    Rejected(#[from] Rejected),
    #[error("the trust bundle cannot be used: {0}")]
    Trust(#[from] TlsError),
}

/// Applies a response whole or not at all.
fn apply(control: &Control, response: &v1::DiscoveryResponse) -> Result<(), Refused> {
    let shared = &control.shared;
    let update = decode::update(response)?;
    let before = shared.snapshot.load_full();
    let next = before.apply(update)?;
    // Only what is new: the roots in force may be younger than a bundle that came long ago. Roots that are no certificates are
    // found out here, before anything is in force.
    if next.trust() != before.trust()
        && let Some((roots, generation)) = super::announced_roots(&next)?
    {
        control.adopt_roots(&roots, generation)?;
    }
    publish(shared, next);
    control.store.note(response);
    shared.control.is_current(shared.now());
    Ok(())
}

/// What the control plane is told about its response.
fn answer(control: &Control, sequence: u64, applied: Result<(), Refused>) -> Kind {
    match applied {
        Ok(()) => {
            tracing::debug!(sequence, generation = control.shared.snapshot.load().generation(), "configuration applied");
            Kind::Ack(v1::Ack { sequence })
        }
        Err(error) => {
            control.shared.metrics.config_rejected.inc();
            tracing::warn!(sequence, "a configuration was refused, the old one serves on: {error}");
            let name = match &error {
                Refused::Trust(_) => Some(decode::wire_name(&ResourceName::Trust)),
                Refused::Rejected(Rejected::NamedTwice(name)) => Some(decode::wire_name(name)),
                Refused::Invalid(invalid) => invalid.name.as_ref().map(decode::wire_name),
                Refused::Rejected(_) => None,
            };
            Kind::Nack(v1::Nack { sequence, reason: error.to_string(), name })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_failure_is_tried_again_soon_and_an_old_one_ever_more_rarely() {
        let (mut trouble, mut rng) = (Trouble::default(), fastrand::Rng::with_seed(7));
        let start = Instant::now();
        for ms in [0, 400, 2000, 4999] {
            let wait = trouble.wait(start + Duration::from_millis(ms), &mut rng);
            assert!((50..=500).contains(&wait.as_millis()), "{wait:?}");
        }
        for (at, most) in [(5, 1), (6, 2), (8, 4), (12, 5), (17, 5), (1000, 5)] {
            let wait = trouble.wait(start + Duration::from_secs(at), &mut rng);
            assert!(wait >= Duration::from_millis(500) && wait <= Duration::from_secs(most), "{at}: {wait:?}");
        }
    }
}
