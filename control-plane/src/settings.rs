//! Flags and environment variables.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;
use weir_core::names::{Label, TrustDomain};

use crate::ca::sign::LEAF_LIFETIME;
use crate::kube::ClusterSettings;

/// Gives every proxy of the mesh its configuration and its identity.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-control-plane", version, about, max_term_width = 110)]
pub struct Flags {
    /// Where the Kubernetes objects come from: kubernetes, the API server; or dir:PATH, a directory of YAML files that is watched
    #[arg(long, env = "WEIR_SOURCE", value_name = "SOURCE")]
    source: Option<String>,
    /// The trust domain of the mesh: the first part of every identity
    #[arg(long, env = "WEIR_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// With --source kubernetes outside a Pod: the kubeconfig, instead of the one of KUBECONFIG or ~/.kube/config
    #[arg(long, env = "WEIR_KUBECONFIG", value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// With --source kubernetes: the namespace that the control plane runs in
    #[arg(long, env = "WEIR_NAMESPACE", value_name = "NAME", default_value = "weir-system")]
    namespace: String,
    /// With --source kubernetes: the name of this Pod; the host's name where it is not given
    #[arg(long, env = "WEIR_POD_NAME", value_name = "NAME")]
    pod_name: Option<String>,
    /// What the cluster's DNS names end in
    #[arg(long, env = "WEIR_CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
    /// Directory of the certificate authority; made on the first start. Its ca.crt is what proxies are given to trust. Not with
    /// --source kubernetes, where a Secret has it
    #[arg(long, env = "WEIR_CA_DIR", value_name = "PATH")]
    ca_dir: Option<PathBuf>,
    /// File with the join tokens of workloads, a line each: TOKEN NAMESPACE SERVICEACCOUNT. Read again when it changes. Not with
    /// --source kubernetes, where service accounts have tokens
    #[arg(long, env = "WEIR_TOKEN_FILE", value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Where proxies connect (gRPC over TLS)
    #[arg(long, env = "WEIR_GRPC_LISTEN", value_name = "IP:PORT", default_value = "0.0.0.0:15410")]
    grpc_listen: String,
    /// Where metrics, health and the JSON API are served (HTTP)
    #[arg(long, env = "WEIR_HTTP_LISTEN", value_name = "IP:PORT", default_value = "127.0.0.1:15411")]
    http_listen: String,
    /// How long workloads' certificates live: a number with s, m, h or d
    #[arg(long, env = "WEIR_LEAF_LIFETIME", value_name = "DURATION", default_value = "24h")]
    leaf_lifetime: String,
    /// How log lines look: text or json
    #[arg(long, env = "WEIR_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Which log lines are written: error, warn, info, debug, trace, or as RUST_LOG (which counts where this is not given)
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory, which has the certificate authority and the tokens beside it.
    Directory(PathBuf),
    /// An API server.
    Kubernetes(ClusterSettings),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "dir:{}", path.display()),
            Self::Kubernetes(_) => f.write_str("kubernetes"),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Everything, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// See [`Source`].
    pub source: Source,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// What the cluster's DNS names end in.
    pub cluster_domain: String,
    /// Directory of the certificate authority; always there with [`Source::Directory`], and never with [`Source::Kubernetes`].
    pub ca_dir: Option<PathBuf>,
    /// File with the join tokens.
    pub token_file: Option<PathBuf>,
    /// Where proxies connect.
    pub grpc_listen: SocketAddr,
    /// Where metrics and pages are.
    pub http_listen: SocketAddr,
    /// How long workloads' certificates live.
    pub leaf_lifetime: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which log lines are written.
    pub log_filter: String,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSettings(Vec<String>);

impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("weir-control-plane cannot start with these settings:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for BadSettings {}

/// A proxy renews at some two thirds of the life, and retries every second at first.
const MIN_LEAF_LIFETIME: Duration = Duration::from_secs(5);
/// The longest life keeps well inside an issuer's year.
const MAX_LEAF_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

impl Flags {
    /// Checks them all.
    ///
    /// # Errors
    ///
    /// All that is wrong, at once.
    pub fn check(self) -> Result<Settings, BadSettings> {
        let mut wrong = Wrong::default();
        let cluster = ClusterSettings {
            kubeconfig: self.kubeconfig.clone(),
            namespace: self.namespace.clone(),
            pod_name: self.pod_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(host_name),
        };
        let source = wrong.check("--source", source(self.source.as_deref(), cluster));
        let in_cluster = self.source.as_deref() == Some("kubernetes");
        wrong.check("--namespace", label(&self.namespace));
        let cluster_domain = wrong.check("--cluster-domain", domain(&self.cluster_domain));
        let trust_domain = wrong.check("--trust-domain", self.trust_domain.parse().map_err(|e| format!("{e}")));
        let ca_dir = wrong.check("--ca-dir", ca_dir(self.ca_dir, in_cluster));
        let token_file = wrong.check("--token-file", token_file(self.token_file, in_cluster));
        wrong.check("--kubeconfig", kubeconfig(self.kubeconfig, in_cluster));
        let grpc_listen = wrong.check("--grpc-listen", listen(&self.grpc_listen));
        let http_listen = wrong.check("--http-listen", listen(&self.http_listen));
        if grpc_listen.is_some_and(|it| it.port() != 0 && Some(it) == http_listen) {
            wrong.0.push("--http-listen (WEIR_HTTP_LISTEN) is the same as --grpc-listen: give it another port".to_owned());
        }
        let leaf_lifetime = wrong.check("--leaf-lifetime", lifetime(&self.leaf_lifetime));
        let log_format = wrong.check("--log-format", log_format(&self.log_format));
        let log_filter = wrong.check("--log-level", log_filter(self.log_level));
        let settings = (|| {
            Some(Settings {
                source: source?,
                trust_domain: trust_domain?,
                cluster_domain: cluster_domain?,
                ca_dir: ca_dir?,
                token_file: token_file?,
                grpc_listen: grpc_listen?,
                http_listen: http_listen?,
                leaf_lifetime: leaf_lifetime?,
                log_format: log_format?,
                log_filter: log_filter?,
            })
        })();
        settings.filter(|_| wrong.0.is_empty()).ok_or(BadSettings(wrong.0))
    }
}

#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn check<T>(&mut self, flag: &str, value: Result<T, String>) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(message) => {
                let variable = format!("WEIR_{}", flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase());
                self.0.push(format!("{flag} ({variable}) {message}"));
                None
            }
        }
    }
}

fn source(text: Option<&str>, cluster: ClusterSettings) -> Result<Source, String> {
    let choice = "write kubernetes, or dir:PATH with a directory of YAML files";
    match text {
        None => Err(format!("is missing: {choice}")),
        Some("kubernetes") => Ok(Source::Kubernetes(cluster)),
        Some(text) => match text.strip_prefix("dir:") {
            Some(path) if !path.is_empty() => {
                let path = PathBuf::from(path);
                match std::fs::metadata(&path) {
                    Ok(metadata) if metadata.is_dir() => Ok(Source::Directory(path)),
                    Ok(_) => Err(format!("names {}, which is not a directory", path.display())),
                    Err(error) => Err(format!("names {}, which cannot be read: {error}", path.display())),
                }
            }
            _ => Err(format!("is `{text}`: {choice}")),
        },
    }
}

fn ca_dir(path: Option<PathBuf>, in_cluster: bool) -> Result<Option<PathBuf>, String> {
    match (path, in_cluster) {
        (Some(_), true) => {
            Err("is given with --source kubernetes, where the Secret `weir-ca` has the certificate authority: leave it out, or \
                 put an authority of your own into the Secret `weir-root`"
                .to_owned())
        }
        (None, false) => Err("is missing: name a directory for the certificate authority, for example ./ca".to_owned()),
        (path, _) => Ok(path),
    }
}

fn token_file(path: Option<PathBuf>, in_cluster: bool) -> Result<Option<PathBuf>, String> {
    if path.is_some() && in_cluster {
        return Err("is given with --source kubernetes, where workloads show the tokens of their service accounts: leave it out"
            .to_owned());
    }
    readable(path)
}

fn kubeconfig(path: Option<PathBuf>, in_cluster: bool) -> Result<Option<PathBuf>, String> {
    if path.is_some() && !in_cluster {
        return Err("is given without --source kubernetes, and only that speaks to an API server".to_owned());
    }
    readable(path)
}

fn readable(path: Option<PathBuf>) -> Result<Option<PathBuf>, String> {
    let Some(path) = path else { return Ok(None) };
    match std::fs::read(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err(format!("names {}, which cannot be read: {error}", path.display())),
    }
}

fn label(text: &str) -> Result<Label, String> {
    text.parse().map_err(|error| format!("is `{text}`: {error}"))
}

/// Labels with dots between them; a dot at the end is common in DNS and means nothing here.
fn domain(text: &str) -> Result<String, String> {
    let name = text.trim_end_matches('.');
    for part in name.split('.') {
        part.parse::<Label>().map_err(|error| format!("is `{text}`: write a domain such as cluster.local ({error})"))?;
    }
    Ok(name.to_owned())
}

/// A Pod's host name is its own name, unless it says otherwise.
fn host_name() -> String {
    let written = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = written.trim();
    if name.is_empty() { "weir-control-plane".to_owned() } else { name.to_owned() }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("is `{text}`: write IP:PORT, for example 127.0.0.1:15410"))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || format!("is `{text}`: write a number with s, m, h or d, for example 24h");
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text.trim_end_matches(unit).parse().map_err(|_| wrong())?;
    let lifetime = Duration::from_secs(number.saturating_mul(seconds));
    if (MIN_LEAF_LIFETIME..=MAX_LEAF_LIFETIME).contains(&lifetime) {
        Ok(lifetime)
    } else {
        let usual = LEAF_LIFETIME.as_secs() / 3600;
        Err(format!("is `{text}`: write a time from 5s to 90d; {usual}h is usual"))
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("is `{text}`: write text or json")),
    }
}

fn log_filter(level: Option<String>) -> Result<String, String> {
    let text = level.or_else(|| std::env::var("RUST_LOG").ok()).filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| "info".to_owned());
    match EnvFilter::try_new(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("is `{text}`, which cannot be read ({error}): write error, warn, info, debug or trace")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(arguments: &[&str]) -> Result<Settings, String> {
        let all = std::iter::once("weir-control-plane").chain(arguments.iter().copied());
        Flags::try_parse_from(all).unwrap().check().map_err(|error| error.to_string())
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = check(&[
            "--source=etcd",
            "--trust-domain=Bad_Domain",
            "--cluster-domain=Bad_Domain",
            "--namespace=No.Namespace",
            "--kubeconfig=/does/not/exist",
            "--token-file=/does/not/exist",
            "--grpc-listen=15410",
            "--http-listen=localhost:1",
            "--leaf-lifetime=1s",
            "--log-format=xml",
            "--log-level=a=b=c",
        ])
        .unwrap_err();
        for flag in [
            "--source",
            "--trust-domain",
            "--cluster-domain",
            "--namespace",
            "--kubeconfig",
            "--ca-dir",
            "--token-file",
            "--grpc-listen",
            "--http-listen",
            "--leaf-lifetime",
            "--log-format",
            "--log-level",
        ] {
            assert!(wrong.contains(&format!("\n  {flag} (WEIR_")), "{flag} in {wrong}");
        }
    }

    #[test]
    fn in_a_cluster_secrets_and_tokens_are_the_clusters() {
        let settings =
            check(&["--source=kubernetes", "--namespace=mesh", "--pod-name=a-1", "--cluster-domain=corp.example."]).unwrap();
        let expected = ClusterSettings { kubeconfig: None, namespace: "mesh".to_owned(), pod_name: "a-1".to_owned() };
        assert_eq!(settings.source, Source::Kubernetes(expected));
        assert_eq!((settings.ca_dir, settings.cluster_domain.as_str()), (None, "corp.example"));
        let wrong = check(&["--source=kubernetes", "--ca-dir=/ca", "--token-file=/etc/hostname"]).unwrap_err();
        for said in ["--ca-dir (WEIR_CA_DIR) is given with --source kubernetes", "--token-file (WEIR_TOKEN_FILE) is given with"] {
            assert!(wrong.contains(said), "{said} in {wrong}");
        }
    }

    #[test]
    fn a_directory_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let source = format!("--source=dir:{}", dir.path().display());
        let settings = check(&[&source, "--ca-dir=/nowhere/ca", "--leaf-lifetime=90s"]).unwrap();
        assert_eq!(settings.source, Source::Directory(dir.path().to_owned()));
        assert_eq!(settings.leaf_lifetime, Duration::from_secs(90));
        assert_eq!(settings.grpc_listen.to_string(), "0.0.0.0:15410");
    }
}
