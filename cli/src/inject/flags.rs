//! The command line of `weir inject`, checked.

use clap::Args;
use weir_core::names::{Label, TrustDomain};
use weir_injector::installation::Installation;

/// The command line of `weir inject`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "A pod or a workload gets the sidecar unless it, or the Namespace object for it in the input, says \
                        weir.dev/inject: disabled; in a cluster, the webhook waits for `enabled`. Everything else, comments \
                        included, is written as it was read.\n\n\
                        Examples:\n  weir inject deployment.yaml | kubectl diff -f -\n  helm template shop ./chart | weir inject -n shop -")]
pub(crate) struct InjectArgs {
    /// Files of Kubernetes manifests, YAML or JSON; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    pub(super) files: Vec<String>,
    /// Namespace of the objects that do not name theirs
    #[arg(short, long, env = "WEIR_NAMESPACE", value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Say nothing on stderr but errors
    #[arg(short, long, env = "WEIR_QUIET", value_parser = clap::builder::FalseyValueParser::new())]
    pub(super) quiet: bool,
    /// Image of the sidecar; by default weir-proxy in the version of this command
    #[arg(long, env = "WEIR_PROXY_IMAGE", value_name = "IMAGE")]
    proxy_image: Option<String>,
    /// When nodes pull the image: Always, IfNotPresent or Never
    #[arg(long, env = "WEIR_IMAGE_PULL_POLICY", value_name = "POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// Kubernetes of the cluster: sidecars are native from 1.29 on, and ordinary containers below
    #[arg(long, env = "WEIR_KUBERNETES_VERSION", value_name = "VERSION", default_value = "1.29")]
    kubernetes_version: String,
    /// Namespace of the mesh itself, which gets no sidecars
    #[arg(long, env = "WEIR_MESH_NAMESPACE", value_name = "NAME", default_value = "weir-system")]
    mesh_namespace: String,
    /// The control plane's gRPC; by default weir-control-plane in the mesh's namespace, port 15410
    #[arg(long, env = "WEIR_CONTROL_PLANE", value_name = "HOST:PORT")]
    control_plane: Option<String>,
    /// Trust domain of the mesh
    #[arg(long, env = "WEIR_TRUST_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// DNS domain of the cluster
    #[arg(long, env = "WEIR_CLUSTER_DOMAIN", value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
    /// ConfigMap in the workloads' namespaces whose ca.crt is the trust bundle
    #[arg(long, env = "WEIR_TRUST_BUNDLE_CONFIGMAP", value_name = "NAME", default_value = "weir-trust-bundle")]
    trust_bundle_configmap: String,
}

/// What the command line says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Namespace of the objects that do not name theirs.
    pub(super) namespace: String,
    /// How the mesh is installed.
    pub(super) installation: Installation,
}

impl InjectArgs {
    /// Checks everything.
    ///
    /// # Errors
    ///
    /// All that is wrong, at once.
    pub(super) fn check(&self) -> Result<Settings, Vec<String>> {
        let defaults = Installation::default();
        let mut wrong = Wrong::default();
        if self.files.iter().filter(|file| *file == "-").count() > 1 {
            wrong.0.push("`-` is given twice, and stdin can be read only once".to_owned());
        }
        let namespace = wrong.label("--namespace", &self.namespace);
        let mesh_namespace = wrong.label("--mesh-namespace", &self.mesh_namespace);
        let is_domain = |text: &str| text.parse::<TrustDomain>().is_ok();
        let name = "lower-case letters, digits, `-` and `.`, for example cluster.local";
        wrong.check("--trust-domain", &self.trust_domain, is_domain, name);
        wrong.check("--cluster-domain", &self.cluster_domain, is_domain, name);
        let bundle = "the name of a ConfigMap, for example weir-trust-bundle";
        wrong.check("--trust-bundle-configmap", &self.trust_bundle_configmap, is_domain, bundle);
        let image = self.proxy_image.clone().unwrap_or(defaults.image);
        let is_image = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        wrong.check("--proxy-image", &image, is_image, "an image, for example registry.example/weir-proxy:0.1.0");
        let is_policy = |text: &str| matches!(text, "Always" | "IfNotPresent" | "Never");
        wrong.check("--image-pull-policy", &self.image_pull_policy, is_policy, "Always, IfNotPresent or Never");
        let default_address = format!("weir-control-plane.{mesh_namespace}.svc.{}:15410", self.cluster_domain);
        let control_plane = self.control_plane.clone().unwrap_or(default_address);
        let address = "HOST:PORT, for example weir-control-plane.weir-system.svc.cluster.local:15410";
        wrong.check("--control-plane", &control_plane, is_address, address);
        let kubernetes = self.kubernetes_version.parse().map_err(|error| {
            wrong.0.push(format!("--kubernetes-version (WEIR_KUBERNETES_VERSION): {error}"));
        });
        let Some(kubernetes) = kubernetes.ok().filter(|_| wrong.0.is_empty()) else { return Err(wrong.0) };
        let installation = Installation {
            image,
            image_pull_policy: self.image_pull_policy.clone(),
            version: defaults.version,
            namespace: mesh_namespace,
            control_plane,
            trust_domain: self.trust_domain.clone(),
            cluster_domain: self.cluster_domain.clone(),
            trust_bundle: self.trust_bundle_configmap.clone(),
            kubernetes,
            sidecars: defaults.sidecars,
        };
        Ok(Settings { namespace, installation })
    }
}

/// What is wrong so far.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn check(&mut self, flag: &str, value: &str, is_right: impl Fn(&str) -> bool, instead: &str) {
        if !is_right(value) {
            let variable = format!("WEIR_{}", flag.trim_start_matches('-').replace('-', "_").to_ascii_uppercase());
            self.0.push(format!("{flag} ({variable}) is `{}`: write {instead}", super::workload::shown(value)));
        }
    }

    fn label(&mut self, flag: &str, value: &str) -> String {
        let is_label = |text: &str| text.parse::<Label>().is_ok();
        self.check(flag, value, is_label, "the name of a namespace: lower-case letters, digits and `-`, 63 at most");
        value.to_owned()
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic());
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: InjectArgs,
    }

    fn checked(flags: &[&str]) -> Result<Settings, Vec<String>> {
        Line::try_parse_from(["inject"].iter().chain(flags)).unwrap().args.check()
    }

    #[test]
    fn without_flags_it_is_the_installation_that_the_webhook_knows() {
        assert_eq!(checked(&["-"]), Ok(Settings { namespace: "default".into(), installation: Installation::default() }));
    }

    #[test]
    fn the_control_plane_is_looked_for_in_the_meshs_namespace() {
        let settings = checked(&["--mesh-namespace=mesh", "--cluster-domain=example.org", "-"]).unwrap();
        assert_eq!(settings.installation.control_plane, "weir-control-plane.mesh.svc.example.org:15410");
        let settings = checked(&["--control-plane=10.0.0.1:9", "-"]).unwrap();
        assert_eq!(settings.installation.control_plane, "10.0.0.1:9");
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let errors = checked(&[
            "-",
            "-",
            "--namespace=Shop",
            "--mesh-namespace=",
            "--trust-domain=a_b",
            "--cluster-domain=.",
            "--trust-bundle-configmap=A",
            "--proxy-image=a b",
            "--image-pull-policy=always",
            "--control-plane=host",
            "--kubernetes-version=new",
        ])
        .unwrap_err();
        assert_eq!(errors.len(), 10, "{errors:#?}");
        assert!(errors.iter().skip(1).all(|error| error.starts_with("--") && error.contains("(WEIR_")), "{errors:#?}");
    }
}
