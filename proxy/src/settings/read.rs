//! Reads single settings, and keeps what is wrong with them.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use weir_core::names::InvalidName;

use super::{Flags, InboundMapping, LogFormat, Problem, Workload};

/// More worker threads than this are a typing error: no machine that runs pods has so many cores.
const MAX_WORKERS: usize = 1024;
/// A drain that takes longer than a day is a typing error.
const MAX_DRAIN: Duration = Duration::from_secs(86_400);

/// Collects what is wrong.
#[derive(Default)]
pub(crate) struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    /// Whether nothing is wrong so far.
    pub(crate) const fn is_content(&self) -> bool {
        self.problems.is_empty()
    }

    /// All that was wrong.
    pub(crate) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Notes what is wrong with a setting, and what to write.
    pub(crate) fn wrong(&mut self, setting: &'static str, what: String, write: &'static str) {
        self.problems.push(Problem { setting, what, write });
    }

    /// The value of a setting; `None` if it is not set or wrong.
    pub(crate) fn optional<T>(
        &mut self,
        setting: &'static str,
        value: Option<String>,
        write: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = value.filter(|text| !text.trim().is_empty())?;
        parse(value.trim()).map_err(|what| self.problems.push(Problem { setting, what, write })).ok()
    }

    pub(super) fn required<T>(
        &mut self,
        setting: &'static str,
        value: Option<String>,
        write: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if value.as_ref().is_none_or(|text| text.trim().is_empty()) {
            self.problems.push(Problem { setting, what: "is not set".into(), write });
            return None;
        }
        self.optional(setting, value, write, parse)
    }

    pub(super) fn workload(&mut self, flags: &Flags) -> Option<Workload> {
        let pod = self.required("WEIR_POD_NAME", flags.pod_name.clone(), "the pod's name, for example reviews-v1-7d4f", parsed);
        let namespace =
            self.required("WEIR_POD_NAMESPACE", flags.pod_namespace.clone(), "the pod's namespace, for example shop", parsed);
        let account = "the pod's service account, for example default";
        let service_account = self.required("WEIR_SERVICE_ACCOUNT", flags.service_account.clone(), account, parsed);
        let ips = "the addresses that others reach the workload at, for example 10.1.2.3, several separated by commas";
        let pod_ips = self.required("WEIR_POD_IP", flags.pod_ip.clone(), ips, pod_ips);
        Some(Workload { pod: pod?, namespace: namespace?, service_account: service_account?, pod_ips: pod_ips? })
    }

    /// Two listeners at one address: with SO_REUSEPORT the operating system would allow it and mix their connections up.
    pub(super) fn different(
        &mut self,
        outbound: SocketAddr,
        inbound: Option<SocketAddr>,
        admin: SocketAddr,
        mappings: &[InboundMapping],
    ) {
        let mut listeners = vec![("WEIR_OUTBOUND_LISTEN", outbound)];
        listeners.extend(inbound.map(|address| ("WEIR_INBOUND_LISTEN", address)));
        listeners.push(("WEIR_ADMIN_LISTEN", admin));
        listeners.extend(mappings.iter().map(|mapping| ("WEIR_INBOUND", mapping.listen)));
        for (index, (setting, address)) in listeners.iter().enumerate() {
            if let Some((other, _)) = listeners.iter().take(index).find(|(_, earlier)| overlap(*earlier, *address)) {
                let what = format!("{address} is taken by {other} already");
                self.problems.push(Problem { setting, what, write: "an address and port of its own" });
            }
        }
    }
}

/// Whether one listener would take the other's connections. One for all addresses leaves those of a more specific one alone, so
/// only equal addresses collide; port 0 is chosen by the operating system and never collides.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a == b && a.port() != 0
}

pub(super) fn parsed<T: std::str::FromStr<Err = InvalidName>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: InvalidName| error.to_string())
}

#[expect(clippy::unnecessary_wraps, reason = "has the shape of every parser here")]
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

pub(super) fn host_port(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err(format!("`{text}` has a scheme, and it is always gRPC over TLS"));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port"))?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let odd = host.is_empty() || bare_v6 || host.contains(['/', '@', ' ', '?', '#']);
    match port.parse::<u16>() {
        Ok(port) if port != 0 && !odd => Ok(text.to_owned()),
        _ => Err(format!("`{text}` is not HOST:PORT")),
    }
}

pub(super) fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an IP address with a port"))
}

pub(super) fn worker_count(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MAX_WORKERS);
    count.ok_or_else(|| format!("`{text}` is not a number of worker threads"))
}

pub(super) fn pod_ips(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut ips = Vec::new();
    for part in text.split(',').map(str::trim) {
        let ip: IpAddr = part.parse().map_err(|_| format!("`{part}` is not an IP address"))?;
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(format!("nobody can be reached at {ip}"));
        }
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

pub(super) fn inbound_mappings(text: &str) -> Result<Vec<InboundMapping>, String> {
    let mut mappings: Vec<InboundMapping> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (listen, app) = part.split_once('=').ok_or_else(|| format!("`{part}` has no `=`"))?;
        let mapping = InboundMapping { listen: listener(listen.trim())?, app: listener(app.trim())? };
        if mapping.listen == mapping.app {
            return Err(format!("`{part}` would send what comes in back to itself"));
        }
        if mapping.app.port() == 0 || mapping.listen.port() == 0 {
            return Err(format!("`{part}` has port 0"));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let wrong = || format!("`{text}` is not a duration");
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let duration = number.checked_mul(unit_ms).map(Duration::from_millis).filter(|it| *it <= MAX_DRAIN);
    duration.ok_or_else(|| format!("`{text}` is too long"))
}

pub(super) fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is not a log format")),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = tracing_subscriber::EnvFilter::try_new(text);
    filter.map(|_| text.to_owned()).map_err(|error| format!("`{text}` is not a log level: {error}"))
}
