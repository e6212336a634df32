//! What an explanation says, as programs read it.

use std::net::SocketAddr;

use serde::Serialize;
use weir_core::reason::Reason;

/// What would become of it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// In one sentence.
    pub summary: String,
    /// How it ends.
    pub outcome: Outcome,
    /// What the name or address in the request stands for.
    pub destination: String,
    /// The rule that it falls under: `HTTPRoute shop/reviews rule 0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Time limits, retries and mirrors of that rule, and what TrafficPolicies add.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// Who gets it, each with its share.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendLine>,
    /// Every match of the port's rules in the order of precedence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub considered: Vec<RuleLine>,
    /// Routes that name the Service and have no say here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without_effect: Vec<RouteLine>,
    /// What else is worth knowing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How a request ends.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    /// It reaches an endpoint, whichever backend the dice choose.
    Forwarded,
    /// Some shares reach an endpoint; the others fail, see the backends.
    ForwardedInPart,
    /// It goes outside the mesh, as it is.
    Outside,
    /// The route itself answers it: a redirect, or a preflight.
    Answered {
        /// The status.
        status: u16,
    },
    /// It fails.
    Fails {
        /// The status.
        status: u16,
        /// The reason as `weir-error` has it.
        reason: &'static str,
    },
}

impl Outcome {
    /// Whether somebody who sent the request would be content.
    #[must_use]
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Forwarded | Self::Outside | Self::Answered { .. })
    }
}

/// A backend of the rule.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BackendLine {
    /// The service port.
    pub backend: String,
    /// Its weight; its share is this over the sum of all.
    pub weight: u32,
    /// Its share of the requests in percent.
    pub percent: String,
    /// What arrives there: method, host and path after all filters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// Headers that filters set, add or remove on the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Why its share fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<Failure>,
    /// Who may get it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointLine>,
}

/// Why a share fails.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The status.
    pub status: u16,
    /// The reason as `weir-error` has it.
    pub reason: &'static str,
    /// In a sentence.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(reason: Reason, detail: String) -> Self {
        Self { status: reason.status().as_u16(), reason: reason.as_str(), detail }
    }
}

/// An endpoint.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointLine {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its Pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// Who must answer there; none: plaintext, or what `tls` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// What a BackendTLSPolicy makes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Its zone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// A match of a rule.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RuleLine {
    /// The rule.
    pub rule: String,
    /// What it matches.
    pub matches: String,
    /// `taken`, `less specific`, or the first condition that does not hold.
    pub verdict: String,
}

/// A route without effect.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RouteLine {
    /// The route.
    pub route: String,
    /// Why it has none.
    pub why: String,
}
