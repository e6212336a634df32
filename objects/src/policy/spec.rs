//! A TrafficPolicy as it is written. A field that nobody knows is a slip of the pen, and is refused.

use serde::Deserialize;

use crate::{KeyValueMatchSpec, raw};

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a TrafficPolicy)")]
pub(super) struct TrafficPolicyObject {
    pub(super) metadata: raw::Metadata,
    pub(super) spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (a TrafficPolicy's spec)")]
pub(super) struct Spec {
    pub(super) target_refs: Vec<TargetRef>,
    pub(super) load_balancing: LoadBalancing,
    pub(super) ejection: Ejection,
    pub(super) locality: Option<Locality>,
    pub(super) limits: Limits,
    pub(super) connections: Connections,
    pub(super) hedging: Option<Hedging>,
    pub(super) retry_budget: Option<RetryBudget>,
    pub(super) rate_limits: Vec<RateLimit>,
    pub(super) adaptive_concurrency: Option<AdaptiveConcurrency>,
    pub(super) faults: Vec<Fault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (a targetRef)")]
pub(super) struct TargetRef {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) section_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (loadBalancing)")]
pub(super) struct LoadBalancing {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) hash_on: Option<HashOn>,
    pub(super) slow_start: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (hashOn)")]
pub(super) struct HashOn {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (ejection)")]
pub(super) struct Ejection {
    pub(super) consecutive_failures: Option<i64>,
    pub(super) base_time: Option<String>,
    pub(super) max_time: Option<String>,
    pub(super) max_ejected_percent: Option<i64>,
    pub(super) interval: Option<String>,
    pub(super) min_requests: Option<i64>,
    pub(super) min_success_percent: Option<i64>,
    pub(super) max_latency_factor: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (locality)")]
pub(super) struct Locality {
    pub(super) prefer: Option<String>,
    pub(super) min_serving_percent: Option<i64>,
    pub(super) max_outstanding: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (limits)")]
pub(super) struct Limits {
    pub(super) requests: Option<i64>,
    pub(super) pending: Option<i64>,
    pub(super) connections: Option<i64>,
    pub(super) streams: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (hedging)")]
pub(super) struct Hedging {
    pub(super) after: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (connections)")]
pub(super) struct Connections {
    pub(super) idle_timeout: Option<String>,
    pub(super) max_age: Option<String>,
    pub(super) keep_alive: Option<String>,
}

/// In the shape of the Gateway API's `XBackendTrafficPolicy` (GEP-3388).
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (retryBudget)")]
pub(super) struct RetryBudget {
    pub(super) percent: Option<i64>,
    pub(super) interval: Option<String>,
    pub(super) min_retry_rate: Option<Rate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping with `count` and `interval`")]
pub(super) struct Rate {
    pub(super) count: Option<i64>,
    pub(super) interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (a rate limit)")]
pub(super) struct RateLimit {
    pub(super) requests: Option<i64>,
    pub(super) per: Option<String>,
    pub(super) burst: Option<i64>,
    pub(super) by: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (adaptiveConcurrency)")]
pub(super) struct AdaptiveConcurrency {
    pub(super) min: Option<i64>,
    pub(super) max: Option<i64>,
    pub(super) tolerance_percent: Option<i64>,
    pub(super) priorities: Vec<CallerPriority>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (a priority)")]
pub(super) struct CallerPriority {
    pub(super) level: Option<String>,
    pub(super) namespace: String,
    pub(super) service_account: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping (a fault)")]
pub(super) struct Fault {
    pub(super) percent: Option<i64>,
    pub(super) headers: Vec<KeyValueMatchSpec>,
    pub(super) delay: Option<String>,
    pub(super) abort: Option<Abort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields, expecting = "a mapping with `status`")]
pub(super) struct Abort {
    pub(super) status: Option<i64>,
}
