//! The application's own probes and hooks, asked in the kubelet's place.
//!
//! The kubelet has no certificate, so it cannot ask an application that takes mutual TLS only; and a connection that is
//! redirected opens at the sidecar whether or not the application lives. The injector therefore sends probes to the admin
//! page's `/probe/CONTAINER/KIND`, and puts what they really ask into `WEIR_PROBES` ([`settings`]). Here it is asked, at the
//! pod's own address, in the way that the kubelet asks: by [`http`], by [`grpc`], or by a TCP connection alone.

mod grpc;
mod http;
mod settings;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use settings::{Action, Port};
pub(crate) use settings::{Probe, Probes};

use crate::settings::InboundMapping;

/// Probes and hooks under way at one time. A pod has a handful; the bound keeps a flood away from the application.
const MAX_AT_ONCE: usize = 32;

/// The kubelet's own limit runs at the same time, over one more connection. So much earlier the answer is given that says what
/// was waited for.
const MARGIN: Duration = Duration::from_millis(30);

/// A hook has no time limit in Kubernetes but the pod's end. This is as long as a connection to the admin page lives.
const HOOK_TIMEOUT: Duration = Duration::from_secs(600);

/// What is said of a failure is bounded: it repeats what the application sent.
const MAX_REASON: usize = 512;

/// What a probe or hook came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It passed, by what the application said or did.
    Passed(String),
    /// The application answered, with this status, which counts as a failure.
    Failed(StatusCode, String),
    /// There was no answer.
    NoAnswer(StatusCode, String),
}

/// Why there was no answer that could be judged.
#[derive(Debug)]
enum Broken {
    /// There is no connection.
    Connect(SocketAddr, std::io::Error),
    /// The TLS handshake failed.
    Tls(std::io::Error),
    /// The answer, or the connection, is broken.
    Answer(String),
}

/// Asks the application, on behalf of whoever holds this.
#[derive(Debug)]
pub(crate) struct Prober {
    probes: Probes,
    address: IpAddr,
    mappings: Vec<InboundMapping>,
    places: Semaphore,
}

impl Prober {
    /// Asks an application that is reached at the first of these addresses, which is the one that the kubelet would ask at.
    pub(crate) fn new(probes: Probes, pod_ips: &[IpAddr], mappings: &[InboundMapping]) -> Self {
        let address = pod_ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        Self { probes, address, mappings: mappings.to_vec(), places: Semaphore::new(MAX_AT_ONCE) }
    }

    /// The probe or hook by its name, `CONTAINER/KIND`.
    pub(crate) fn find(&self, name: &str) -> Option<&Probe> {
        self.probes.find(name)
    }

    /// Asks. `asker` is the User-Agent of whoever wants to know, whom the application sees as the one that asks.
    /// Cancelling ends the connection.
    pub(crate) async fn ask(&self, name: &str, probe: &Probe, asker: Option<&HeaderValue>) -> Outcome {
        let Ok(_place) = self.places.try_acquire() else {
            let reason = format!("{MAX_AT_ONCE} probes are under way already; does the application answer them?");
            return Outcome::NoAnswer(StatusCode::SERVICE_UNAVAILABLE, reason);
        };
        let limit = if probe.is_hook { HOOK_TIMEOUT } else { probe.timeout.saturating_sub(MARGIN) };
        let target = Target { address: self.target(&probe.port), port: &probe.port };
        let asked = timeout(limit, run(&target, &probe.action, asker)).await;
        let outcome = match asked {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(broken)) => Outcome::NoAnswer(broken.status(), broken.explain(&target)),
            Err(_) => {
                let reason = format!("the application on {target} did not answer within {:?}", probe.timeout);
                Outcome::NoAnswer(StatusCode::GATEWAY_TIMEOUT, reason)
            }
        };
        let outcome = outcome.bounded();
        note(name, &probe.failing, &outcome);
        outcome
    }

    /// Where the application listens. Without redirection, its address as others know it may be this proxy's own listener.
    fn target(&self, port: &Port) -> SocketAddr {
        let dialled = SocketAddr::new(self.address, port.number);
        self.mappings.iter().find(|mapping| mapping.listen == dialled).map_or(dialled, |mapping| mapping.app)
    }
}

async fn run(target: &Target<'_>, action: &Action, asker: Option<&HeaderValue>) -> Result<Outcome, Broken> {
    match action {
        Action::Http(get) => http::ask(target.address, get, asker).await,
        Action::Grpc(service) => grpc::ask(target.address, service, asker).await,
        Action::Tcp => connect(target.address).await.map(|_| Outcome::Passed(format!("{target} accepts connections"))),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Broken> {
    TcpStream::connect(address).await.map_err(|error| Broken::Connect(address, error))
}

/// Says in the log when a probe begins to fail and when it passes again: the kubelet's events have the status alone.
fn note(name: &str, failing: &AtomicBool, outcome: &Outcome) {
    match outcome {
        Outcome::Passed(_) if failing.swap(false, Ordering::Relaxed) => tracing::info!(probe = name, "passes again"),
        Outcome::Passed(_) => {}
        Outcome::Failed(_, reason) | Outcome::NoAnswer(_, reason) if !failing.swap(true, Ordering::Relaxed) => {
            tracing::warn!(probe = name, "the application's probe fails: {reason}");
        }
        Outcome::Failed(_, reason) | Outcome::NoAnswer(_, reason) => tracing::debug!(probe = name, "fails still: {reason}"),
    }
}

/// Where is asked, as messages name it.
struct Target<'a> {
    address: SocketAddr,
    port: &'a Port,
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        match &self.port.name {
            Some(name) => write!(f, " (port {name})"),
            None => Ok(()),
        }
    }
}

impl Broken {
    /// What the kubelet is answered.
    fn status(&self) -> StatusCode {
        match self {
            Self::Connect(..) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Tls(_) | Self::Answer(_) => StatusCode::BAD_GATEWAY,
        }
    }

    fn explain(&self, target: &Target<'_>) -> String {
        match self {
            Self::Connect(address, error) if *address == target.address => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => {
                    format!("connection refused on {target}: the application is not listening there")
                }
                _ => format!("no connection to the application on {target}: {error}"),
            },
            Self::Connect(address, error) => format!("no connection to {address}, where the application redirects to: {error}"),
            Self::Tls(error) => format!("the TLS handshake with the application on {target} failed: {error}; does it speak TLS?"),
            Self::Answer(what) => format!("the application on {target} broke off: {what}"),
        }
    }
}

impl Outcome {
    fn bounded(self) -> Self {
        match self {
            Self::Passed(reason) => Self::Passed(bounded(&reason)),
            Self::Failed(status, reason) => Self::Failed(status, bounded(&reason)),
            Self::NoAnswer(status, reason) => Self::NoAnswer(status, bounded(&reason)),
        }
    }
}

/// Shortens, and leaves out what a terminal would act on.
fn bounded(text: &str) -> String {
    text.chars().take(MAX_REASON).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests;
