//! How a proxy is told what to do: flags, each also an environment variable.
//!
//! Every value is read and checked ([`read`]) before anything starts, and all that is wrong is said at once.

mod read;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Parser, Subcommand};
use weir_core::names::{Label, ObjectName, TrustDomain};

use crate::init;
use crate::probe::Probes;
use read::{duration, format, host_port, inbound_mappings, listener, log_filter, parsed, path, worker_count};

pub(crate) use read::Reader;

/// A drain is over when nothing has been open for this long: connections that were being accepted count as well.
const DRAIN_QUIET: Duration = Duration::from_millis(200);

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
    /// Listeners on IPv6 beside those above.
    pub(crate) ipv6: Ipv6Listeners,
    /// Worker threads.
    pub(crate) workers: NonZeroUsize,
    /// Inbound listeners without redirection.
    pub(crate) inbound: Vec<InboundMapping>,
    /// What the cluster's DNS names end in.
    pub(crate) cluster_domain: String,
    /// How long connections may take to end after SIGTERM.
    pub(crate) drain_timeout: Duration,
    /// How long after SIGTERM everything goes on, except that the proxy says that it is not ready.
    pub(crate) drain_delay: Duration,
    /// How long nothing must have been open for the drain to be over.
    pub(crate) drain_quiet: Duration,
    /// The application's own probes and hooks.
    pub(crate) probes: Probes,
    /// Whether the workload's traffic is to be redirected before it counts as ready.
    pub(crate) expect_redirection: bool,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// Which log lines are written, in the syntax of `tracing`'s filters.
    pub(crate) log_level: String,
}

/// Where a proxy listens on IPv6 as well, if the machine has it: everywhere that nobody said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ipv6Listeners {
    /// See [`Settings::outbound_listen`].
    pub(crate) outbound: Option<SocketAddr>,
    /// See [`Settings::inbound_listen`].
    pub(crate) inbound: Option<SocketAddr>,
    /// See [`Settings::admin_listen`].
    pub(crate) admin: Option<SocketAddr>,
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
    /// How long after SIGTERM connections of others are still taken, while they learn that this workload goes [default: 0s].
    #[arg(long, env = "WEIR_DRAIN_DELAY", value_name = "DURATION")]
    drain_delay: Option<String>,
    /// How long nothing must be open for a drain to be over [default: 200ms].
    #[arg(long, env = "WEIR_DRAIN_QUIET", value_name = "DURATION")]
    drain_quiet: Option<String>,
    /// The application's probes and hooks as JSON, asked at the admin page's /probe/CONTAINER/KIND; the injector writes it.
    #[arg(long, env = "WEIR_PROBES", value_name = "JSON")]
    probes: Option<String>,
    /// Not to be ready before the rules of `weir-proxy init` are in place.
    #[arg(long, env = "WEIR_EXPECT_REDIRECTION", value_parser = FalseyValueParser::new())]
    expect_redirection: bool,
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
    /// Whether connections to this address reach the workload's own application and not this proxy. Redirection leaves alone
    /// what a pod sends to itself, so nobody would answer a handshake there.
    pub(crate) fn is_own_application(&self, address: SocketAddr) -> bool {
        self.inbound_listen.is_some()
            && self.workload.pod_ips.contains(&address.ip())
            && !self.inbound.iter().any(|mapping| mapping.listen == address)
    }

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
        let delay = "a duration up to a day, for example 5s";
        let drain_delay = reader.optional("WEIR_DRAIN_DELAY", flags.drain_delay, delay, duration);
        let quiet = "a duration up to a day, for example 200ms or 5s";
        let drain_quiet = reader.optional("WEIR_DRAIN_QUIET", flags.drain_quiet, quiet, duration);
        let json = "what weir's injector writes, for example {\"app/readiness\": {\"tcpSocket\": {\"port\": 8080}}}";
        let probes = reader.optional("WEIR_PROBES", flags.probes, json, str::parse::<Probes>);
        let log_format = reader.optional("WEIR_LOG_FORMAT", flags.log_format, "text or json", format);
        let level = "error, warn, info, debug, trace, or a filter such as info,weir_proxy::control=debug";
        let log_level = match flags.log_level {
            Some(filter) => reader.optional("WEIR_LOG_LEVEL", Some(filter), level, log_filter),
            None => reader.optional("RUST_LOG", std::env::var("RUST_LOG").ok(), level, log_filter),
        };

        let redirects = inbound.is_empty();
        let ipv6 = Ipv6Listeners {
            outbound: outbound_listen.is_none().then_some(SocketAddr::from((Ipv6Addr::LOCALHOST, 15401))),
            inbound: (inbound_listen.is_none() && redirects).then_some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 15406))),
            admin: admin_listen.is_none().then_some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 15420))),
        };
        let outbound_listen = outbound_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 15401)));
        let admin_listen = admin_listen.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 15420)));
        let redirected = redirects.then_some(SocketAddr::from(([0, 0, 0, 0], 15406)));
        let inbound_listen = inbound_listen.or(redirected);
        reader.different(outbound_listen, inbound_listen, admin_listen, &inbound);
        let (Some(workload), Some(control_plane), Some(trust_bundle), Some(token), true) =
            (workload, control_plane, trust_bundle, token, reader.is_content())
        else {
            return Err(reader.into_problems());
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
            ipv6,
            workers: workers.unwrap_or_else(available_cores),
            inbound,
            cluster_domain: cluster_domain.map_or_else(|| "cluster.local".into(), |domain| domain.to_string()),
            drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(30)),
            drain_delay: drain_delay.unwrap_or_default(),
            drain_quiet: drain_quiet.unwrap_or(DRAIN_QUIET),
            probes: probes.unwrap_or_default(),
            expect_redirection: flags.expect_redirection,
            log_format: log_format.unwrap_or(LogFormat::Text),
            log_level: log_level.unwrap_or_else(|| "info".into()),
        })
    }
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
