//! Flags and environment variables of `weir-injector`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::installation::{Installation, KubernetesVersion};
use crate::settings::{Defaults, LogFormat, LogLevel, Resources};

/// Puts the sidecar into pods as they are created, and warns of objects that will not do what they seem to.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-injector", version, about, max_term_width = 110)]
pub struct Flags {
    /// Namespace of the mesh itself, where the injector's own Secret and Service are
    #[arg(long, env = "WEIR_NAMESPACE", value_name = "NAME", default_value = "weir-system")]
    namespace: String,
    /// Name of the own pod; only log lines and the spread of renewals depend on it
    #[arg(long, env = "WEIR_POD_NAME", value_name = "NAME", default_value = "")]
    pod_name: String,
    /// How the API server is reached from outside a Pod [default: the Pod's service account, KUBECONFIG, ~/.kube/config]
    #[arg(long, env = "WEIR_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where the API server calls (HTTPS)
    #[arg(long, env = "WEIR_LISTEN", value_name = "IP:PORT", default_value = "0.0.0.0:15443")]
    listen: String,
    /// Service by which the API server calls; the certificate names it
    #[arg(long, env = "WEIR_SERVICE", value_name = "NAME", default_value = "weir-injector")]
    service: String,
    /// More names and addresses for the certificate, separated by commas: for API servers that call by URL
    #[arg(long, env = "WEIR_TLS_NAMES", value_name = "NAMES", default_value = "")]
    tls_names: String,
    /// Secret with the injector's certificate; made where there is none
    #[arg(long, env = "WEIR_TLS_SECRET", value_name = "NAME", default_value = "weir-injector-tls")]
    tls_secret: String,
    /// Name of the two webhook configurations whose caBundle is kept right
    #[arg(long, env = "WEIR_WEBHOOK_CONFIGURATION", value_name = "NAME", default_value = "weir-injector")]
    webhook_configuration: String,
    /// Image of the sidecar
    #[arg(long, env = "WEIR_PROXY_IMAGE", value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// When the image of the sidecar is pulled: Always, IfNotPresent or Never
    #[arg(long, env = "WEIR_PROXY_IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent")]
    proxy_image_pull_policy: String,
    /// Processor time that is set aside for a sidecar; empty for none
    #[arg(long, env = "WEIR_PROXY_CPU_REQUEST", value_name = "CORES", default_value = "20m")]
    proxy_cpu_request: String,
    /// Processor time at which a sidecar is slowed down; empty for no limit
    #[arg(long, env = "WEIR_PROXY_CPU_LIMIT", value_name = "CORES", default_value = "")]
    proxy_cpu_limit: String,
    /// Memory that is set aside for a sidecar; empty for none
    #[arg(long, env = "WEIR_PROXY_MEMORY_REQUEST", value_name = "BYTES", default_value = "32Mi")]
    proxy_memory_request: String,
    /// Memory at which a sidecar is killed; empty for no limit
    #[arg(long, env = "WEIR_PROXY_MEMORY_LIMIT", value_name = "BYTES", default_value = "256Mi")]
    proxy_memory_limit: String,
    /// How much sidecars log: error, warn, info, debug or trace
    #[arg(long, env = "WEIR_PROXY_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    proxy_log_level: String,
    /// How log lines of sidecars look: text or json
    #[arg(long, env = "WEIR_PROXY_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    proxy_log_format: String,
    /// Where sidecars find the control plane's gRPC [default: weir-control-plane in the mesh's namespace, port 15410]
    #[arg(long, env = "WEIR_CONTROL_PLANE", value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// The trust domain of the mesh: the first part of every identity
    #[arg(long, env = "WEIR_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// What the cluster's DNS names end in
    #[arg(long, env = "WEIR_CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
    /// ConfigMap with the trust bundle in every namespace
    #[arg(long, env = "WEIR_TRUST_BUNDLE_CONFIGMAP", value_name = "NAME", default_value = "weir-trust-bundle")]
    trust_bundle_configmap: String,
    /// Version of the cluster [default: what the API server and the nodes say]
    #[arg(long, env = "WEIR_KUBERNETES_VERSION", value_name = "VERSION")]
    kubernetes_version: Option<String>,
    /// How long to serve on after SIGTERM, until nobody is sent here any more: a number with s or m
    #[arg(long, env = "WEIR_DRAIN_DELAY", value_name = "DURATION", default_value = "5s")]
    drain_delay: String,
    /// How log lines look: text or json
    #[arg(long, env = "WEIR_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Which log lines are written: error, warn, info, debug, trace, or as RUST_LOG (which counts where this is not given)
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Everything, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Name of the own pod, or empty.
    pub pod_name: String,
    /// How the API server is reached, where that is not to be found out.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server calls.
    pub listen: SocketAddr,
    /// Names and addresses of the certificate, the Service's name for API servers first.
    pub tls_names: Vec<String>,
    /// Secret with the certificate, in the namespace of [`Checked::installation`].
    pub tls_secret: String,
    /// Name of both webhook configurations.
    pub webhook_configuration: String,
    /// How the mesh is installed. The version of Kubernetes in it stands until the cluster has been asked.
    pub installation: Installation,
    /// Whether that version is the user's, and the cluster is not asked.
    pub fixed_version: bool,
    /// How long to serve on after SIGTERM.
    pub drain_delay: Duration,
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
        f.write_str("weir-injector cannot start with these settings:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for BadSettings {}

/// Kubernetes kills a pod 30 seconds after SIGTERM unless told otherwise, and open reviews need some of them.
const MAX_DRAIN_DELAY: Duration = Duration::from_secs(300);
/// An API server calls by one or two names; this bounds the certificate.
const MAX_TLS_NAMES: usize = 32;

impl Flags {
    /// Checks them all.
    ///
    /// # Errors
    ///
    /// All that is wrong, at once.
    pub fn check(self) -> Result<Checked, BadSettings> {
        let mut wrong = Wrong::default();
        let defaults = Installation::default();
        let kubeconfig = self.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty());
        let listen = wrong.check("--listen", listen(&self.listen));
        for (flag, text) in [
            ("--namespace", &self.namespace),
            ("--service", &self.service),
            ("--tls-secret", &self.tls_secret),
            ("--webhook-configuration", &self.webhook_configuration),
            ("--trust-domain", &self.trust_domain),
            ("--cluster-domain", &self.cluster_domain),
            ("--trust-bundle-configmap", &self.trust_bundle_configmap),
        ] {
            wrong.check(flag, dns_name(text));
        }
        let tls_names = wrong.check("--tls-names", tls_names(&self.tls_names, &self.own_names()));
        let sidecars = self.sidecars(&mut wrong);
        let image = self.proxy_image.unwrap_or(defaults.image);
        wrong.check("--proxy-image", image_name(&image));
        let control_plane = self.control_plane.filter(|text| !text.is_empty());
        let in_mesh = || format!("weir-control-plane.{}.svc.{}:15410", self.namespace, self.cluster_domain);
        let control_plane = control_plane.unwrap_or_else(in_mesh);
        wrong.check("--control-plane", host_and_port(&control_plane));
        wrong.check("--proxy-image-pull-policy", pull_policy(&self.proxy_image_pull_policy));
        let version = self.kubernetes_version.filter(|text| !text.is_empty()).map(|text| text.parse::<KubernetesVersion>());
        let version = wrong.check("--kubernetes-version", version.transpose().map_err(|error| format!("is wrong: {error}")));
        let drain_delay = wrong.check("--drain-delay", delay(&self.drain_delay));
        let log_format = wrong.check("--log-format", self.log_format.parse::<LogFormat>());
        let log_filter = wrong.check("--log-level", log_filter(self.log_level));
        let checked = (|| {
            let version = version?;
            let installation = Installation {
                image,
                image_pull_policy: self.proxy_image_pull_policy,
                version: defaults.version,
                namespace: self.namespace,
                control_plane,
                trust_domain: self.trust_domain,
                cluster_domain: self.cluster_domain,
                trust_bundle: self.trust_bundle_configmap,
                kubernetes: version.unwrap_or(defaults.kubernetes),
                sidecars: sidecars?,
            };
            Some(Checked {
                pod_name: self.pod_name,
                kubeconfig,
                listen: listen?,
                tls_names: tls_names?,
                tls_secret: self.tls_secret,
                webhook_configuration: self.webhook_configuration,
                installation,
                fixed_version: version.is_some(),
                drain_delay: drain_delay?,
                log_format: log_format?,
                log_filter: log_filter?,
            })
        })();
        checked.filter(|_| wrong.0.is_empty()).ok_or(BadSettings(wrong.0))
    }

    /// What counts for sidecars unless annotations say otherwise.
    fn sidecars(&self, wrong: &mut Wrong) -> Option<Defaults> {
        let resources = Resources::parse(
            &self.proxy_cpu_request,
            &self.proxy_cpu_limit,
            &self.proxy_memory_request,
            &self.proxy_memory_limit,
        );
        let resources = resources.map_err(|errors| {
            errors.into_iter().for_each(|(name, problem)| wrong.add(&format!("--proxy-{name}"), &problem));
        });
        let log_level = wrong.check("--proxy-log-level", self.proxy_log_level.parse::<LogLevel>());
        let log_format = wrong.check("--proxy-log-format", self.proxy_log_format.parse::<LogFormat>());
        Some(Defaults { resources: resources.ok()?, log_level: log_level?, log_format: log_format? })
    }

    /// The names of the Service, the one that API servers verify first.
    fn own_names(&self) -> [String; 4] {
        let Self { service, namespace, cluster_domain, .. } = self;
        [
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.{cluster_domain}"),
            format!("{service}.{namespace}"),
            service.clone(),
        ]
    }
}

#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn check<T>(&mut self, flag: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|message| self.add(flag, &message)).ok()
    }

    fn add(&mut self, flag: &str, message: &str) {
        let variable = format!("WEIR_{}", flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase());
        self.0.push(format!("{flag} ({variable}) {message}"));
    }
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("is `{text}`: write IP:PORT, for example 0.0.0.0:15443"))
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn dns_name(text: &str) -> Result<(), String> {
    let problem = || format!("is `{text}`: write a name of small letters, digits, `-` and `.`");
    is_dns_name(text).then_some(()).ok_or_else(problem)
}

fn tls_names(text: &str, own: &[String]) -> Result<Vec<String>, String> {
    let mut names = own.to_vec();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name.parse::<IpAddr>().is_err() && !is_dns_name(name) {
            return Err(format!("has `{name}`: write DNS names and IP addresses, separated by commas"));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.len() > MAX_TLS_NAMES {
        Err(format!("has too many names: write at most {}", MAX_TLS_NAMES - own.len()))
    } else {
        Ok(names)
    }
}

fn image_name(text: &str) -> Result<(), String> {
    let bad = text.is_empty() || text.bytes().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control());
    if bad { Err(format!("is `{text}`: write an image, for example ghcr.io/weir-mesh/proxy:1.0.0")) } else { Ok(()) }
}

fn host_and_port(text: &str) -> Result<(), String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port != 0);
    port.map(|_| ()).ok_or_else(|| format!("is `{text}`: write HOST:PORT, for example weir-control-plane.weir-system.svc:15410"))
}

fn pull_policy(text: &str) -> Result<(), String> {
    let known = matches!(text, "Always" | "IfNotPresent" | "Never" | "");
    known.then_some(()).ok_or_else(|| format!("is `{text}`: write Always, IfNotPresent or Never"))
}

fn delay(text: &str) -> Result<Duration, String> {
    let wrong = || format!("is `{text}`: write a number with s or m up to 5m, for example 5s");
    let (number, seconds) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 60),
        (None, None) => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let delay = Duration::from_secs(number.saturating_mul(seconds));
    if delay > MAX_DRAIN_DELAY { Err(wrong()) } else { Ok(delay) }
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

    fn check(arguments: &[&str]) -> Result<Checked, String> {
        let all = std::iter::once("weir-injector").chain(arguments.iter().copied());
        Flags::try_parse_from(all).unwrap().check().map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_has_to_be_said() {
        let checked = check(&[]).unwrap();
        assert_eq!(checked.listen.port(), 15443);
        assert_eq!(checked.installation.control_plane, "weir-control-plane.weir-system.svc.cluster.local:15410");
        assert_eq!(checked.installation.sidecars, Defaults::default());
        assert_eq!(checked.drain_delay, Duration::from_secs(5));
        assert!(!checked.fixed_version);
        let names = ["weir-injector.weir-system.svc", "weir-injector.weir-system.svc.cluster.local", "weir-injector.weir-system"];
        assert_eq!(checked.tls_names[..3], names);
    }

    #[test]
    fn what_is_said_counts() {
        let checked = check(&[
            "--namespace=mesh",
            "--cluster-domain=corp.example",
            "--kubernetes-version=1.28",
            "--tls-names=127.0.0.1, injector.example,127.0.0.1",
            "--proxy-memory-limit=",
            "--proxy-cpu-limit=2",
        ])
        .unwrap();
        assert_eq!(checked.installation.control_plane, "weir-control-plane.mesh.svc.corp.example:15410");
        assert_eq!(checked.tls_names[0], "weir-injector.mesh.svc");
        assert_eq!(checked.tls_names[4..], ["127.0.0.1", "injector.example"]);
        assert!(checked.fixed_version);
        assert_eq!(checked.installation.sidecars.resources.memory_limit, None);
        assert_eq!(checked.installation.sidecars.resources.cpu_limit, "2".parse().ok());
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let wrong = check(&[
            "--namespace=No_Namespace",
            "--listen=15443",
            "--service=-",
            "--tls-names=a b",
            "--tls-secret=",
            "--webhook-configuration=A",
            "--proxy-image= ",
            "--proxy-image-pull-policy=Sometimes",
            "--proxy-cpu-request=fast",
            "--proxy-memory-request=1Gi",
            "--control-plane=here",
            "--trust-domain=..",
            "--cluster-domain=..",
            "--trust-bundle-configmap=..",
            "--kubernetes-version=new",
            "--drain-delay=1h",
            "--proxy-log-level=loud",
            "--proxy-log-format=xml",
            "--log-format=xml",
            "--log-level=a=b=c",
        ])
        .unwrap_err();
        assert_eq!(wrong.lines().count(), 21, "{wrong}");
        for line in wrong.lines().skip(1) {
            assert!(line.starts_with("  --") && line.contains(" (WEIR_"), "{line}");
        }
    }
}
