//! What a TrafficPolicy says: how requests to a service port are spread, bounded, and disturbed on purpose.
//!
//! [`BackendPolicy`] is for the callers' sidecars and comes with a port's endpoints, so that it holds whichever route leads there.
//! [`Injection`] is for them too, and comes with the port that was called. [`RateLimit`] and
//! [`AdaptiveConcurrency`] are for the workload's own sidecar.

pub mod concurrency;
pub mod hash;
pub mod injection;
pub mod rate;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, header};

use crate::balance::BalanceConfig;
use crate::budget::BudgetConfig;
use crate::retry::RequestFacts;
pub use concurrency::AdaptiveConcurrency;
pub use injection::Injection;
pub use rate::{RateKey, RateLimit};

/// How callers choose among the endpoints of a port, and how often they may try again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendPolicy {
    /// Which endpoint gets a request, and which ones get none for a while.
    pub balance: BalanceConfig,
    /// What of a request the ring is asked for, where the balancer is one.
    pub hash_on: HashOn,
    /// How many retries there may be.
    pub budget: BudgetConfig,
    /// How much may be under way.
    pub limits: Limits,
    /// How connections are kept.
    pub connections: Connections,
    /// Whether a request that waits long for its answer is sent to another endpoint as well.
    pub hedging: Option<Hedging>,
}

/// A second attempt beside a first one that takes long ("The Tail at Scale", Dean and Barroso, 2013). It costs one of the retry
/// budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedging {
    /// How long the first may take until the second joins it.
    pub after: Duration,
}

impl Hedging {
    /// When a second attempt of such a request joins the first. `None`: never, because the request does more than read, or
    /// cannot be sent twice.
    #[must_use]
    pub fn after(&self, facts: RequestFacts) -> Option<Duration> {
        (facts.safe && facts.replayable).then_some(self.after)
    }
}

/// How much one proxy may have under way to a port, over all of its workers. `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests under way, from their first byte to the last of their answer.
    pub requests: Option<u32>,
    /// Requests that may wait until one of those has ended. Has a meaning with `requests` only.
    pub pending: u32,
    /// Connections that are carried as bytes.
    pub connections: Option<u32>,
    /// Streams under way on one HTTP/2 connection.
    pub streams: Option<u32>,
}

/// How connections to endpoints are kept. `None`: as the proxy does without a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// One that nothing has used for this long is closed.
    pub idle_timeout: Option<Duration>,
    /// One that is older takes no new request, and closes with the last that is under way.
    pub max_age: Option<Duration>,
    /// One that has requests under way and has been silent for this long is asked whether its other side is there (HTTP/2
    /// PING).
    pub keep_alive: Option<Duration>,
}

/// The part of a request by which requests that belong together are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    /// The workload that calls. Its sidecar calls for nobody else, so all of its requests belong together.
    #[default]
    Source,
    /// A header's first value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Arc<str>),
}

impl HashOn {
    /// Where on the ring a request stands. `None`: it does not have that header or cookie, and any endpoint will do.
    #[must_use]
    pub fn key(&self, headers: &HeaderMap, source: u64) -> Option<u64> {
        match self {
            Self::Source => Some(source),
            Self::Header(name) => headers.get(name).map(|value| hash::bytes(value.as_bytes())),
            Self::Cookie(name) => cookie(headers, name).map(hash::bytes),
        }
    }
}

/// The value of a cookie, without quotes around it (RFC 6265, section 4.2.1).
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(header::COOKIE).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|it| it.strip_suffix(b"\"")).unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_what_reads_is_sent_twice() {
        let hedging = Hedging { after: Duration::from_millis(50) };
        for (method, replayable, expected) in [
            (http::Method::GET, true, true),
            (http::Method::HEAD, true, true),
            (http::Method::OPTIONS, true, true),
            (http::Method::GET, false, false),
            (http::Method::POST, true, false),
            (http::Method::PUT, true, false),
            (http::Method::DELETE, true, false),
        ] {
            let after = hedging.after(RequestFacts::new(&method, replayable));
            assert_eq!(after, expected.then_some(Duration::from_millis(50)), "{method} {replayable}");
        }
    }

    #[test]
    fn a_request_is_known_by_what_the_policy_names() {
        let user = HashOn::Header("x-user".parse().unwrap());
        let session = HashOn::Cookie("sid".into());
        let of = |text: &str| Some(hash::bytes(text.as_bytes()));
        for (on, lines, expected) in [
            (&HashOn::Source, &[][..], Some(7)),
            (&user, &[("x-user", "ann"), ("x-user", "bob")], of("ann")),
            (&user, &[("x-other", "ann")], None),
            (&session, &[("cookie", "a=1; sid=xyz; b=2")], of("xyz")),
            (&session, &[("cookie", "a=1"), ("cookie", "sid=\"xyz\"")], of("xyz")),
            (&session, &[("cookie", "sidx=1; xsid=2; sid")], None),
            (&session, &[("cookie", "sid=")], of("")),
            (&session, &[], None),
        ] {
            assert_eq!(on.key(&headers(lines), 7), expected, "{on:?} of {lines:?}");
        }
    }
}
