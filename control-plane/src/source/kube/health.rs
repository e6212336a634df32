//! How well each kind is known at the moment, said once per change and shown on the pages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kinds::WATCHED;
use crate::diagnostics::{Diagnostic, Level};
use crate::kube::Failure;
use crate::metrics::Metrics;
use crate::objects::Kind;

/// How well a kind is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Not asked for yet.
    Starting,
    /// What is known of it is kept up to date.
    Connected,
    /// It is not installed.
    Absent,
    /// It is not kept up to date.
    Failed(Failure, Before),
}

/// How well all kinds are known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    kinds: Arc<Mutex<BTreeMap<Kind, State>>>,
    metrics: Metrics,
}

/// Whether a kind was known before it was not kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    Known,
    Unknown,
}

/// What changed so that somebody wants to read about it.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Nothing,
    Installed,
    NotInstalled,
    Failed,
    Back,
    /// The first kind that nobody answers for; the others will follow, and that is no news.
    Unreachable,
    /// The last of them.
    ReachableAgain,
}

impl Health {
    /// Nothing has been asked yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        for watched in &WATCHED {
            metrics.source_connected.with_label_values(&[watched.kind.as_str()]).set(0);
        }
        let kinds = WATCHED.iter().map(|it| (it.kind, State::Starting)).collect();
        Self { kinds: Arc::new(Mutex::new(kinds)), metrics }
    }

    pub(super) fn connected(&self, kind: Kind) {
        self.set(kind, State::Connected);
    }

    pub(super) fn absent(&self, kind: Kind) {
        self.set(kind, State::Absent);
    }

    pub(super) fn failed(&self, kind: Kind, failure: &Failure) {
        self.metrics.source_errors.with_label_values(&[kind.as_str(), failure.reason()]).inc();
        let before = match self.lock().get(&kind) {
            None | Some(State::Starting | State::Failed(_, Before::Unknown)) => Before::Unknown,
            Some(State::Connected | State::Absent | State::Failed(_, Before::Known)) => Before::Known,
        };
        self.set(kind, State::Failed(failure.clone(), before));
    }

    /// What the pages show of it.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let kinds = self.lock();
        let shown = kinds.iter().filter_map(|(kind, state)| {
            let (level, message) = match state {
                State::Connected => return None,
                State::Starting => (Level::Warning, format!("{}s have not been read yet", kind.as_str())),
                State::Absent => (Level::Warning, not_installed(*kind)),
                State::Failed(failure, before) => (Level::Error, not_followed(*kind, failure, *before)),
            };
            Some(Diagnostic { file: None, line: None, column: None, level, object: None, field: None, message })
        });
        shown.collect()
    }

    fn set(&self, kind: Kind, new: State) {
        let news = {
            let mut kinds = self.lock();
            let news = news(&kinds, kind, &new);
            kinds.insert(kind, new.clone());
            news
        };
        let up = !matches!(new, State::Failed(..) | State::Starting);
        self.metrics.source_connected.with_label_values(&[kind.as_str()]).set(i64::from(up));
        say(kind, &new, &news);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, State>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For all kinds, not for this one: it is down, or starting.
fn is_away(state: &State) -> bool {
    matches!(state, State::Failed(Failure::Unreachable(_) | Failure::Busy(_), _))
}

fn news(kinds: &BTreeMap<Kind, State>, kind: Kind, new: &State) -> News {
    let old = kinds.get(&kind).unwrap_or(&State::Starting);
    let others_away = kinds.iter().any(|(other, state)| *other != kind && is_away(state));
    match (old, new) {
        (old, new) if is_away(new) => {
            if is_away(old) || others_away {
                News::Nothing
            } else {
                News::Unreachable
            }
        }
        (State::Failed(old, _), State::Failed(new, _)) if old.reason() == new.reason() => News::Nothing,
        (_, State::Failed(..)) => News::Failed,
        (State::Absent, State::Absent) => News::Nothing,
        (_, State::Absent) => News::NotInstalled,
        (State::Absent, State::Connected) => News::Installed,
        (old, State::Connected) if is_away(old) => {
            if others_away {
                News::Nothing
            } else {
                News::ReachableAgain
            }
        }
        (State::Failed(..), State::Connected) => News::Back,
        (State::Starting | State::Connected, State::Connected) | (_, State::Starting) => News::Nothing,
    }
}

fn say(kind: Kind, state: &State, news: &News) {
    match (news, state) {
        (News::Unreachable, State::Failed(failure, before)) => {
            tracing::error!("{failure}; {}, and it is tried again and again", meanwhile(*before));
        }
        (News::Failed, State::Failed(failure, before)) => tracing::error!("{}", not_followed(kind, failure, *before)),
        (News::ReachableAgain, _) => tracing::info!("the API server can be reached again"),
        (News::Back, _) => tracing::info!("{}s are followed again", kind.as_str()),
        (News::Installed, _) => tracing::info!("{} is installed now", kind.as_str()),
        (News::NotInstalled, _) => tracing::info!("{}", not_installed(kind)),
        (News::Nothing | News::Unreachable | News::Failed, _) => {}
    }
}

fn not_installed(kind: Kind) -> String {
    let name = kind.as_str();
    format!("{name} is not installed in this cluster (Gateway API, gateway.networking.k8s.io/v1); everything else is served")
}

fn not_followed(kind: Kind, failure: &Failure, before: Before) -> String {
    format!("{}s are not followed: {failure}; {}", kind.as_str(), meanwhile(before))
}

const fn meanwhile(before: Before) -> &'static str {
    match before {
        Before::Known => "what was read before is served on",
        Before::Unknown => "this replica is not ready without it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> State {
        State::Failed(Failure::Unreachable("refused".to_owned()), Before::Known)
    }

    fn forbidden(text: &str) -> State {
        State::Failed(Failure::Forbidden(text.to_owned()), Before::Known)
    }

    #[test]
    fn a_change_is_said_once() {
        let (pod, slice) = (Kind::Pod, Kind::EndpointSlice);
        let mut kinds: BTreeMap<Kind, State> = BTreeMap::from([(pod, State::Starting), (slice, State::Starting)]);
        for (kind, new, expected) in [
            (pod, State::Connected, News::Nothing),
            (slice, State::Connected, News::Nothing),
            (pod, unreachable(), News::Unreachable),
            (slice, unreachable(), News::Nothing),
            (pod, State::Failed(Failure::Unreachable("timed out".to_owned()), Before::Known), News::Nothing),
            (pod, State::Failed(Failure::Busy("starting".to_owned()), Before::Known), News::Nothing),
            (slice, State::Connected, News::Nothing),
            (pod, State::Connected, News::ReachableAgain),
            (pod, forbidden("a"), News::Failed),
            (pod, forbidden("b"), News::Nothing),
            (pod, State::Failed(Failure::Server("x".to_owned()), Before::Known), News::Failed),
            (pod, State::Connected, News::Back),
            (slice, State::Absent, News::NotInstalled),
            (slice, State::Absent, News::Nothing),
            (slice, State::Connected, News::Installed),
        ] {
            assert_eq!(news(&kinds, kind, &new), expected, "{kind:?} {new:?}");
            kinds.insert(kind, new);
        }
    }

    #[test]
    fn pages_and_metrics_show_what_is_wrong() {
        let metrics = Metrics::new().unwrap();
        let health = Health::new(metrics.clone());
        assert_eq!(health.diagnostics().len(), WATCHED.len());
        for watched in &WATCHED {
            health.connected(watched.kind);
        }
        assert!(health.diagnostics().is_empty());
        let before = Health::new(metrics.clone());
        before.failed(Kind::Pod, &Failure::Forbidden("no".to_owned()));
        assert!(before.diagnostics().iter().any(|it| it.message.contains("not ready without it")));
        health.failed(Kind::Pod, &Failure::Forbidden("pods is forbidden".to_owned()));
        health.absent(Kind::HttpRoute);
        let shown: Vec<String> = health.diagnostics().iter().map(ToString::to_string).collect();
        assert!(shown.iter().any(|it| it.contains("Pods are not followed: pods is forbidden")), "{shown:?}");
        assert!(shown.iter().any(|it| it.contains("HTTPRoute is not installed")), "{shown:?}");
        let text = metrics.render().unwrap();
        for line in [
            r#"weir_control_plane_source_connected{kind="Pod"} 0"#,
            r#"weir_control_plane_source_connected{kind="HTTPRoute"} 1"#,
            r#"weir_control_plane_source_errors_total{kind="Pod",reason="forbidden"} 2"#,
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
