//! What annotations set: read from the pod, and from the namespace where the pod says nothing.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::pod::{Metadata, Namespace, Pod};
use crate::ports::{PortSet, excerpt, parse_networks};
use crate::quantity::Quantity;

/// The annotation or label that asks for a sidecar or declines it.
pub const INJECT: &str = "weir.dev/inject";
/// The annotation that the injector writes.
pub const STATUS: &str = "weir.dev/status";
pub(crate) const OPAQUE_PORTS: &str = "weir.dev/opaque-ports";
const SKIP_INBOUND_PORTS: &str = "weir.dev/skip-inbound-ports";
const SKIP_OUTBOUND_PORTS: &str = "weir.dev/skip-outbound-ports";
const SKIP_OUTBOUND_CIDRS: &str = "weir.dev/skip-outbound-cidrs";
const CPU_REQUEST: &str = "weir.dev/proxy-cpu-request";
const CPU_LIMIT: &str = "weir.dev/proxy-cpu-limit";
const MEMORY_REQUEST: &str = "weir.dev/proxy-memory-request";
const MEMORY_LIMIT: &str = "weir.dev/proxy-memory-limit";
const LOG_LEVEL: &str = "weir.dev/proxy-log-level";
const MTLS: &str = "weir.dev/mtls";

/// Every name under `weir.dev/` that means something on a pod or a namespace.
pub const KNOWN: [&str; 12] = [
    INJECT,
    MTLS,
    OPAQUE_PORTS,
    CPU_LIMIT,
    CPU_REQUEST,
    LOG_LEVEL,
    MEMORY_LIMIT,
    MEMORY_REQUEST,
    SKIP_INBOUND_PORTS,
    SKIP_OUTBOUND_CIDRS,
    SKIP_OUTBOUND_PORTS,
    STATUS,
];

/// What is asked for one pod's sidecar.
///
/// `weir.dev/mtls` and `weir.dev/opaque-ports` are checked with the others but are not here: the control plane reads them
/// where they stand, so that a change reaches running pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Ports of the workload whose connections do not pass the sidecar.
    pub skip_inbound_ports: PortSet,
    /// Ports that the workload calls past the sidecar.
    pub skip_outbound_ports: PortSet,
    /// Networks that the workload calls past the sidecar.
    pub skip_outbound_networks: Vec<IpNet>,
    /// Processor time and memory.
    pub resources: Resources,
    /// How much the sidecar logs.
    pub log_level: LogLevel,
}

/// What counts for a sidecar where no annotation says anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Processor time and memory.
    pub resources: Resources,
    /// How much it logs.
    pub log_level: LogLevel,
    /// How its log lines look. No annotation changes it: whoever collects logs wants one form of them.
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl LogFormat {
    /// As settings write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = [Self::Text, Self::Json].into_iter().find(|format| format.as_str() == text);
        found.ok_or_else(|| format!("is `{}`: write text or json", excerpt(text)))
    }
}

/// Processor time and memory of the sidecar. `None`: not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Processor time that the scheduler sets aside.
    pub cpu_request: Option<Quantity>,
    /// Processor time at which the sidecar is slowed down.
    pub cpu_limit: Option<Quantity>,
    /// Memory that the scheduler sets aside.
    pub memory_request: Option<Quantity>,
    /// Memory at which the sidecar is killed.
    pub memory_limit: Option<Quantity>,
}

/// Enough for an idle sidecar; the scheduler packs pods by it.
const DEFAULT_CPU_REQUEST: &str = "20m";
/// An idle sidecar with a small configuration stays well below.
const DEFAULT_MEMORY_REQUEST: &str = "32Mi";
/// Buffers, streams and configuration are bounded, so this is reached by a fault only. There is no default processor limit:
/// throttling would be felt as latency by every caller.
const DEFAULT_MEMORY_LIMIT: &str = "256Mi";

impl Default for Resources {
    fn default() -> Self {
        let amount = |text: &str| text.parse::<Quantity>().ok();
        Self {
            cpu_request: amount(DEFAULT_CPU_REQUEST),
            cpu_limit: None,
            memory_request: amount(DEFAULT_MEMORY_REQUEST),
            memory_limit: amount(DEFAULT_MEMORY_LIMIT),
        }
    }
}

impl Resources {
    /// Resources as they are written for all sidecars of a mesh, empty texts for what is not limited.
    ///
    /// # Errors
    ///
    /// What is wrong, each with the name of the amount that it is wrong with.
    pub fn parse(
        cpu_request: &str,
        cpu_limit: &str,
        memory_request: &str,
        memory_limit: &str,
    ) -> Result<Self, Vec<(&'static str, String)>> {
        let mut wrong = Vec::new();
        let mut amount = |name, text: &str, allowed, parse: fn(&str) -> Result<Quantity, String>| {
            if text.is_empty() {
                return None;
            }
            parse(text).map_err(|problem| wrong.push((name, format!("is `{}`: {problem}; write {allowed}", excerpt(text))))).ok()
        };
        let resources = Self {
            cpu_request: amount("cpu-request", cpu_request, CPU, parse_cpu),
            cpu_limit: amount("cpu-limit", cpu_limit, CPU, parse_cpu),
            memory_request: amount("memory-request", memory_request, MEMORY, parse_memory),
            memory_limit: amount("memory-limit", memory_limit, MEMORY, parse_memory),
        };
        let above = |request: &Option<Quantity>, limit: &Option<Quantity>| limit.is_some() && request > limit;
        if above(&resources.cpu_request, &resources.cpu_limit) {
            wrong.push(("cpu-request", "is more than the limit: write at most the limit".to_owned()));
        }
        if above(&resources.memory_request, &resources.memory_limit) {
            wrong.push(("memory-request", "is more than the limit: write at most the limit".to_owned()));
        }
        if wrong.is_empty() { Ok(resources) } else { Err(wrong) }
    }

    /// Fills what is not set. A default never contradicts what is set: it gives way.
    fn or(mut self, defaults: &Self) -> Self {
        let at_most = |value: &Option<Quantity>, limit: &Option<Quantity>| match (value, limit) {
            (Some(value), Some(limit)) => Some(value.clone().min(limit.clone())),
            (value, _) => value.clone(),
        };
        let at_least = |limit: &Option<Quantity>, request: &Option<Quantity>| match (limit, request) {
            (Some(limit), Some(request)) => Some(limit.clone().max(request.clone())),
            (limit, _) => limit.clone(),
        };
        self.memory_limit = self.memory_limit.or_else(|| at_least(&defaults.memory_limit, &self.memory_request));
        self.cpu_limit = self.cpu_limit.or_else(|| at_least(&defaults.cpu_limit, &self.cpu_request));
        self.memory_request = self.memory_request.or_else(|| at_most(&defaults.memory_request, &self.memory_limit));
        self.cpu_request = self.cpu_request.or_else(|| at_most(&defaults.cpu_request, &self.cpu_limit));
        self
    }
}

/// How much the sidecar logs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// What may go wrong.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// Every connection.
    Debug,
    /// Everything.
    Trace,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.as_str() == text);
        found.ok_or_else(|| format!("is `{}`: write {LEVELS}", excerpt(text)))
    }
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As annotations and settings write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Where a label or an annotation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The pod.
    Pod,
    /// Its namespace, by name.
    Namespace(String),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod => f.write_str("the pod"),
            Self::Namespace(name) => write!(f, "namespace `{}`", excerpt(name)),
        }
    }
}

/// A setting that cannot be used, with what would be allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} of {owner} is `{value}`: {problem}; allowed: {allowed}")]
pub struct InvalidSetting {
    /// The label or annotation.
    pub name: &'static str,
    /// What it stands on.
    pub owner: Owner,
    /// Its value, shortened.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
    /// What may be written instead.
    pub allowed: &'static str,
}

impl InvalidSetting {
    pub(crate) fn new(name: &'static str, owner: Owner, value: &str, problem: impl Into<String>, allowed: &'static str) -> Self {
        Self { name, owner, value: excerpt(value), problem: problem.into(), allowed }
    }
}

const PORTS: &str = "ports from 1 to 65535 and ranges of them, separated by commas, such as `3306,9000-9100`";
const NETWORKS: &str = "IPv4 and IPv6 networks separated by commas, such as `10.0.0.0/8,fd00::/8`";
const CPU: &str = "cores or thousandths of one, such as `0.5` or `250m`";
const MEMORY: &str = "bytes with or without a suffix, such as `64Mi`";
const LEVELS: &str = "error, warn, info, debug or trace";

impl Settings {
    /// Reads the annotations of a pod, and those of its namespace where the pod has none of that name. `defaults`
    /// count where neither says anything.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, not only the first.
    pub fn read(pod: &Pod, namespace: &Namespace, defaults: &Defaults) -> Result<Self, Vec<InvalidSetting>> {
        let mut annotations = Annotations { pod: &pod.metadata, namespace, errors: Vec::new() };
        let skip_inbound_ports = annotations.ports(SKIP_INBOUND_PORTS);
        let skip_outbound_ports = annotations.ports(SKIP_OUTBOUND_PORTS);
        let skip_outbound_networks =
            annotations.read(SKIP_OUTBOUND_CIDRS, NETWORKS, |text| parse_networks(text).map_err(|e| e.to_string()));
        annotations.ports(OPAQUE_PORTS);
        annotations.read(MTLS, "permissive or strict", |text| match text {
            "permissive" | "strict" => Ok(()),
            _ => Err("this is neither".into()),
        });
        let log_level = annotations.read(LOG_LEVEL, LEVELS, |text| text.parse().map_err(|_: String| "this is no level".into()));
        let own = annotations.resources();
        if !annotations.errors.is_empty() {
            return Err(annotations.errors);
        }
        Ok(Self {
            skip_inbound_ports: skip_inbound_ports.unwrap_or_default(),
            skip_outbound_ports: skip_outbound_ports.unwrap_or_default(),
            skip_outbound_networks: skip_outbound_networks.unwrap_or_default(),
            resources: own.or(&defaults.resources),
            log_level: log_level.unwrap_or(defaults.log_level),
        })
    }
}

/// The annotations that count, and what was wrong with those read so far.
struct Annotations<'a> {
    pod: &'a Metadata,
    namespace: &'a Namespace,
    errors: Vec<InvalidSetting>,
}

impl Annotations<'_> {
    /// The pod's own word, or else the namespace's.
    fn find(&self, name: &str) -> Option<(&str, Owner)> {
        let own = self.pod.annotations.get(name).map(|value| (value.as_str(), Owner::Pod));
        let inherited = || {
            let value = self.namespace.metadata.annotations.get(name)?;
            Some((value.as_str(), Owner::Namespace(self.namespace.name.clone())))
        };
        own.or_else(inherited)
    }

    fn read<T>(&mut self, name: &'static str, allowed: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (value, owner) = self.find(name)?;
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                let invalid = InvalidSetting::new(name, owner, value, problem, allowed);
                self.errors.push(invalid);
                None
            }
        }
    }

    fn ports(&mut self, name: &'static str) -> Option<PortSet> {
        self.read(name, PORTS, |text| text.parse::<PortSet>().map_err(|e| e.to_string()))
    }

    fn resources(&mut self) -> Resources {
        let resources = Resources {
            cpu_request: self.read(CPU_REQUEST, CPU, parse_cpu),
            cpu_limit: self.read(CPU_LIMIT, CPU, parse_cpu),
            memory_request: self.read(MEMORY_REQUEST, MEMORY, parse_memory),
            memory_limit: self.read(MEMORY_LIMIT, MEMORY, parse_memory),
        };
        self.check_order(CPU_REQUEST, resources.cpu_request.as_ref(), CPU_LIMIT, resources.cpu_limit.as_ref());
        self.check_order(MEMORY_REQUEST, resources.memory_request.as_ref(), MEMORY_LIMIT, resources.memory_limit.as_ref());
        resources
    }

    fn check_order(
        &mut self,
        request_name: &'static str,
        request: Option<&Quantity>,
        limit_name: &str,
        limit: Option<&Quantity>,
    ) {
        let (Some(request), Some(limit)) = (request, limit) else { return };
        if request > limit {
            let owner = self.find(request_name).map_or(Owner::Pod, |(_, owner)| owner);
            let problem = format!("it is more than {limit_name}, which is `{limit}`");
            let invalid = InvalidSetting::new(request_name, owner, &request.to_string(), problem, "at most the limit");
            self.errors.push(invalid);
        }
    }
}

fn parse_cpu(text: &str) -> Result<Quantity, String> {
    let quantity = text.parse::<Quantity>().map_err(|e| e.to_string())?;
    if quantity.is_zero() || !quantity.is_whole_millis() {
        return Err("the smallest share of a processor is `1m`, and shares are multiples of it".into());
    }
    Ok(quantity)
}

fn parse_memory(text: &str) -> Result<Quantity, String> {
    let quantity = text.parse::<Quantity>().map_err(|e| e.to_string())?;
    if quantity.is_zero() || !quantity.is_whole() {
        return Err("it is not a whole number of bytes (`m` means thousandths, `M` millions)".into());
    }
    Ok(quantity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotated(annotations: &[(&str, &str)]) -> Metadata {
        let annotations = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Metadata { annotations, ..Metadata::default() }
    }

    fn read(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Result<Settings, Vec<InvalidSetting>> {
        let pod = Pod { metadata: annotated(pod), ..Pod::default() };
        Settings::read(&pod, &Namespace { name: "shop".into(), metadata: annotated(namespace) }, &Defaults::default())
    }

    fn quantity(text: &str) -> Option<Quantity> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_pods_annotation_wins_over_the_namespaces() {
        let namespace = [(SKIP_OUTBOUND_PORTS, "25"), (SKIP_INBOUND_PORTS, "not a port"), (LOG_LEVEL, "debug")];
        let settings = read(&[(SKIP_OUTBOUND_PORTS, "26"), (SKIP_INBOUND_PORTS, "")], &namespace).unwrap();
        assert_eq!(settings.skip_outbound_ports.to_string(), "26");
        assert!(settings.skip_inbound_ports.is_empty());
        assert_eq!(settings.log_level, LogLevel::Debug);
    }

    #[test]
    fn every_error_is_reported_at_once_with_its_owner() {
        let pod = [(OPAQUE_PORTS, "80-"), (MTLS, "on"), (MEMORY_LIMIT, "100m"), (CPU_REQUEST, "100u"), (LOG_LEVEL, "loud")];
        let errors = read(&pod, &[(SKIP_OUTBOUND_CIDRS, "10.0.0.0/40")]).unwrap_err();
        let mut text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        text.sort();
        assert_eq!(
            text,
            [
                "weir.dev/mtls of the pod is `on`: this is neither; allowed: permissive or strict",
                "weir.dev/opaque-ports of the pod is `80-`: `80-` is not a port or a range of ports; allowed: ports from 1 to \
                 65535 and ranges of them, separated by commas, such as `3306,9000-9100`",
                "weir.dev/proxy-cpu-request of the pod is `100u`: the smallest share of a processor is `1m`, and shares are \
                 multiples of it; allowed: cores or thousandths of one, such as `0.5` or `250m`",
                "weir.dev/proxy-log-level of the pod is `loud`: this is no level; allowed: error, warn, info, debug or trace",
                "weir.dev/proxy-memory-limit of the pod is `100m`: it is not a whole number of bytes (`m` means thousandths, \
                 `M` millions); allowed: bytes with or without a suffix, such as `64Mi`",
                "weir.dev/skip-outbound-cidrs of namespace `shop` is `10.0.0.0/40`: `10.0.0.0/40` is not a network; allowed: \
                 IPv4 and IPv6 networks separated by commas, such as `10.0.0.0/8,fd00::/8`",
            ]
        );
    }

    #[test]
    fn a_request_above_its_limit_is_refused() {
        let errors = read(&[(CPU_REQUEST, "1")], &[(CPU_LIMIT, "500m")]).unwrap_err();
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let expected = "weir.dev/proxy-cpu-request of the pod is `1`: it is more than weir.dev/proxy-cpu-limit, which is `500m`; \
                        allowed: at most the limit";
        assert_eq!(text, [expected]);
    }

    #[test]
    fn defaults_give_way_to_what_is_set() {
        let resources = read(&[(MEMORY_REQUEST, "1Gi"), (CPU_LIMIT, "10m")], &[]).unwrap().resources;
        assert_eq!(resources.memory_limit, quantity("1Gi"));
        assert_eq!(resources.cpu_request, quantity("10m"));
        let resources = read(&[(MEMORY_LIMIT, "16Mi")], &[]).unwrap().resources;
        assert_eq!(resources.memory_request, quantity("16Mi"));
        assert_eq!((resources.cpu_request, resources.cpu_limit), (quantity(DEFAULT_CPU_REQUEST), None));
    }
}
