//! How a proxy is told what to do: flags, each also an environment variable.
//!
//! Every value is read and checked before anything starts, and all that is wrong is said at once.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use weir_core::names::{Label, ObjectName, TrustDomain};

use crate::init;

/// More worker threads than this are a typing error: no machine that runs pods has so many cores.
const MAX_WORKERS: usize = 1024;
/// A drain that takes longer than a day is a typing error.
const MAX_DRAIN: Duration = Duration::from_secs(86_400);

/// What the process is to be.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// A proxy.
    Run(Box<Settings>),
    /// The writer of redirect rules.
    Init(init::Settings),
}

/// Everything that a proxy is told at its start.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The workload that it stands beside.
    pub(crate) workload: Workload,
    /// `host:port` of the control plane's gRPC.
    pub(crate) control_plane: String,
    /// PEM file with the mesh's roots.
    pub(crate) trust_bundle: PathBuf,
    /// File with the token that proves the workload's identity. Read again for each certificate.
    pub(crate) token: PathBuf,
    /// The mesh's trust domain.
    pub(crate) trust_domain: TrustDomain,
    /// Where the configuration and the certificate are kept for the next start.
    pub(crate) state_dir: Option<PathBuf>,
    /// Where the workload's own connections come in.
    pub(crate) outbound_listen: SocketAddr,
    /// Where redirected connections from others come in. `None`: there is no redirection, see [`inbound`](Self::inbound).
    pub(crate) inbound_listen: Option<SocketAddr>,
    /// Where the admin page is.
    pub(crate) admin_listen: SocketAddr,
    /// Worker threads.
    pub(crate) workers: NonZeroUsize,
    /// Inbound listeners without redirection.
    pub(crate) inbound: Vec<InboundMapping>,
    /// What the cluster's DNS names end in.
    pub(crate) cluster_domain: String,
    /// How long connections may take to end after SIGTERM.
    pub(crate) drain_timeout: Duration,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// Which log lines are written, in the syntax of `tracing`'s filters.
    pub(crate) log_level: String,
}

/// Who the workload is.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Its pod.
    pub(crate) pod: ObjectName,
    /// The pod's namespace.
    pub(crate) namespace: Label,
    /// The pod's service account.
    pub(crate) service_account: ObjectName,
    /// Addresses that others reach it at; at least one.
    pub(crate) pod_ips: Vec<IpAddr>,
}

/// Listen at one address as if the connection had been redirected, and hand it to the app at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InboundMapping {
    /// The workload's address, where others call it.
    pub(crate) listen: SocketAddr,
    /// Where the app really listens.
    pub(crate) app: SocketAddr,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The sidecar proxy of the Weir service mesh.
///
/// It stands beside one workload: what the workload calls is routed, balanced, retried and secured with mutual TLS; what calls
/// the workload is authenticated and let in by policy. SIGTERM drains: new connections go elsewhere, running ones are finished
/// for at most the drain timeout, then the proxy exits with 0. A second SIGTERM or SIGINT ends it at once with 1.
#[derive(Debug, Parser)]
#[command(name = "weir-proxy", version)]
struct Flags {
    #[command(subcommand)]
    task: Option<Task>,
    /// Name of the pod.
    #[arg(long, env = "WEIR_POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// Namespace of the pod.
    #[arg(long, env = "WEIR_POD_NAMESPACE", value_name = "NAME")]
    pod_namespace: Option<String>,
    /// Service account of the pod.
    #[arg(long, env = "WEIR_SERVICE_ACCOUNT", value_name = "NAME")]
    service_account: Option<String>,
    /// Address that others reach the workload at; several are separated by commas.
    #[arg(long, env = "WEIR_POD_IP", value_name = "IP,...")]
    pod_ip: Option<String>,
    /// The control plane's gRPC address.
    #[arg(long, env = "WEIR_CONTROL_PLANE", value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// File with the mesh's root certificates (PEM).
    #[arg(long, env = "WEIR_TRUST_BUNDLE", value_name = "PATH")]
    trust_bundle: Option<String>,
    /// File with the token that proves who the workload is.
    #[arg(long, env = "WEIR_TOKEN", value_name = "PATH")]
    token: Option<String>,
    /// The mesh's trust domain [default: cluster.local].
    #[arg(long, env = "WEIR_TRUST_DOMAIN", value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// Directory for the saved configuration and certificate; without it the proxy cannot start while the control plane is gone.
    #[arg(long, env = "WEIR_STATE_DIR", value_name = "PATH")]
    state_dir: Option<String>,
    /// Where the workload's own connections come in [default: 127.0.0.1:15401].
    #[arg(long, env = "WEIR_OUTBOUND_LISTEN", value_name = "IP:PORT")]
    outbound_listen: Option<String>,
    /// Where redirected connections from others come in [default: 0.0.0.0:15406, nowhere if --inbound is given].
    #[arg(long, env = "WEIR_INBOUND_LISTEN", value_name = "IP:PORT")]
    inbound_listen: Option<String>,
    /// Where the admin page is [default: 0.0.0.0:15420].
    #[arg(long, env = "WEIR_ADMIN_LISTEN", value_name = "IP:PORT")]
    admin_listen: Option<String>,
    /// Worker threads [default: the cores that this process may use].
    #[arg(long, env = "WEIR_WORKERS", value_name = "COUNT")]
    workers: Option<String>,
    /// Inbound listeners for running without redirection, separated by commas: 127.10.0.1:8080=127.0.0.1:18080.
    #[arg(long, env = "WEIR_INBOUND", value_name = "LISTEN=APP,...")]
    inbound: Option<String>,
    /// What the cluster's DNS names end in [default: cluster.local].
    #[arg(long, env = "WEIR_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// How long connections may take to end after SIGTERM [default: 30s].
    #[arg(long, env = "WEIR_DRAIN_TIMEOUT", value_name = "DURATION")]
    drain_timeout: Option<String>,
    /// How log lines look: text or json [default: text].
    #[arg(long, env = "WEIR_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<String>,
    /// Which log lines are written: error, warn, info, debug, trace, or a filter such as info,weir_proxy::control=debug
    /// [default: RUST_LOG, or info].
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Another task than being a proxy.
#[derive(Debug, Subcommand)]
enum Task {
    Init(init::Flags),
}

/// Why a proxy does not start.
#[derive(Debug)]
pub(crate) enum BadUsage {
    /// The command line itself, or a request for help or the version.
    CommandLine(clap::Error),
    /// Settings that are missing or wrong, all of them.
    Settings(Vec<Problem>),
}

/// One setting that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    setting: &'static str,
    what: String,
    write: &'static str,
}

impl fmt::Display for BadUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine(error) => error.fmt(f),
            Self::Settings(problems) => {
                let count = problems.len();
                writeln!(f, "weir-proxy: {count} {} missing or wrong:", if count == 1 { "setting is" } else { "settings are" })?;
                for Problem { setting, what, write } in problems {
                    write!(f, "  {setting}")?;
                    if let Some(name) = setting.strip_prefix("WEIR_") {
                        write!(f, " (--{})", name.to_ascii_lowercase().replace('_', "-"))?;
                    }
                    writeln!(f, ": {what}; write {write}")?;
                }
                Ok(())
            }
        }
    }
}

impl Asked {
    /// Reads the command line and, for what it does not say, the environment. An empty value counts as not set.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub(crate) fn read<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> Result<Self, BadUsage> {
        let mut flags = Flags::try_parse_from(args).map_err(BadUsage::CommandLine)?;
        let asked = match flags.task.take() {
            Some(Task::Init(flags)) => init::Settings::check(flags).map(Self::Init),
            None => Settings::check(flags).map(|settings| Self::Run(Box::new(settings))),
        };
        asked.map_err(BadUsage::Settings)
    }
}

impl Settings {
    /// A proxy's settings, for tests that start none.
    #[cfg(test)]
    pub(crate) fn read<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> Result<Self, BadUsage> {
        let flags = Flags::try_parse_from(args).map_err(BadUsage::CommandLine)?;
        Self::check(flags).map_err(BadUsage::Settings)
    }

    fn check(flags: Flags) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::default();
        let workload = reader.workload(&flags);
        let control_plane = reader.required(
            "WEIR_CONTROL_PLANE",
            flags.control_plane,
            "HOST:PORT, for example weir-control-plane.weir-system:15410",
            host_port,
        );
        let trust_bundle = reader.required(
            "WEIR_TRUST_BUNDLE",
            flags.trust_bundle,
            "the path of a PEM file with the mesh's root certificates",
            path,
        );
        let token = reader.required("WEIR_TOKEN", flags.token, "the path of a file with the workload's token", path);
        let domain = "the trust domain that the control plane was started with, for example cluster.local";
        let trust_domain = reader.optional("WEIR_TRUST_DOMAIN", flags.trust_domain, domain, parsed::<TrustDomain>);
        let state_dir = reader.optional("WEIR_STATE_DIR", flags.state_dir, "the path of a directory", path);
        let listen = "IP:PORT, for example 127.0.0.1:15401";
        let outbound_listen = reader.optional("WEIR_OUTBOUND_LISTEN", flags.outbound_listen, listen, listener);
        let inbound_listen = reader.optional("WEIR_INBOUND_LISTEN", flags.inbound_listen, listen, listener);
        let admin_listen = reader.optional("WEIR_ADMIN_LISTEN", flags.admin_listen, listen, listener);
        let workers =
            reader.optional("WEIR_WORKERS", flags.workers, "a number from 1 to 1024, or nothing for all cores", worker_count);
        let mappings = "LISTEN=APP, for example 127.10.0.1:8080=127.0.0.1:18080, several separated by commas";
        let inbound = reader.optional("WEIR_INBOUND", flags.inbound, mappings, inbound_mappings).unwrap_or_default();
        let domain = "a DNS name, for example cluster.local";
        let cluster_domain = reader.optional("WEIR_CLUSTER_DOMAIN", flags.cluster_domain, domain, parsed::<ObjectName>);
        let drain = "a duration up to a day, for example 30s, 500ms or 2m";
        let drain_timeout = reader.optional("WEIR_DRAIN_TIMEOUT", flags.drain_timeout, drain, duration);
        let log_format = reader.optional("WEIR_LOG_FORMAT", flags.log_format, "text or json", format);
        let level = "error, warn, info, debug, trace, or a filter such as info,weir_proxy::control=debug";
        let log_level = match flags.log_level {
            Some(filter) => reader.optional("WEIR_LOG_LEVEL", Some(filter), level, log_filter),
            None => reader.optional("RUST_LOG", std::env::var("RUST_LOG").ok(), level, log_filter),
        };

        let outbound_listen = outbound_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 15401)));
        let admin_listen = admin_listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 15420)));
        let redirected = inbound.is_empty().then_some(SocketAddr::from(([0, 0, 0, 0], 15406)));
        let inbound_listen = inbound_listen.or(redirected);
        reader.different(outbound_listen, inbound_listen, admin_listen, &inbound);
        let (Some(workload), Some(control_plane), Some(trust_bundle), Some(token), true) =
            (workload, control_plane, trust_bundle, token, reader.problems.is_empty())
        else {
            return Err(reader.problems);
        };
        Ok(Self {
            workload,
            control_plane,
            trust_bundle,
            token,
            trust_domain: trust_domain.unwrap_or_else(cluster_local),
            state_dir,
            outbound_listen,
            inbound_listen,
            admin_listen,
            workers: workers.unwrap_or_else(available_cores),
            inbound,
            cluster_domain: cluster_domain.map_or_else(|| "cluster.local".into(), |domain| domain.to_string()),
            drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(30)),
            log_format: log_format.unwrap_or(LogFormat::Text),
            log_level: log_level.unwrap_or_else(|| "info".into()),
        })
    }
}

/// Collects what is wrong.
#[derive(Default)]
pub(crate) struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
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

    fn required<T>(
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

    fn workload(&mut self, flags: &Flags) -> Option<Workload> {
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
    fn different(&mut self, outbound: SocketAddr, inbound: Option<SocketAddr>, admin: SocketAddr, mappings: &[InboundMapping]) {
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

fn parsed<T: std::str::FromStr<Err = weir_core::names::InvalidName>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: weir_core::names::InvalidName| error.to_string())
}

#[expect(clippy::unnecessary_wraps, reason = "has the shape of every parser here")]
fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

fn host_port(text: &str) -> Result<String, String> {
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

fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an IP address with a port"))
}

fn worker_count(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok().filter(|count| count.get() <= MAX_WORKERS);
    count.ok_or_else(|| format!("`{text}` is not a number of worker threads"))
}

fn pod_ips(text: &str) -> Result<Vec<IpAddr>, String> {
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

fn inbound_mappings(text: &str) -> Result<Vec<InboundMapping>, String> {
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

fn duration(text: &str) -> Result<Duration, String> {
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

fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is not a log format")),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    let filter = tracing_subscriber::EnvFilter::try_new(text);
    filter.map(|_| text.to_owned()).map_err(|error| format!("`{text}` is not a log level: {error}"))
}

fn cluster_local() -> TrustDomain {
    #[expect(clippy::expect_used, reason = "a constant, and a test reads it")]
    "cluster.local".parse().expect("a DNS name")
}

/// The standard library looks at the CPU mask and at the quota of the cgroup.
fn available_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests;
