//! One pod with the network of a pod, on IPv4 and IPv6, and a host beside it that plays the node and everybody else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::binaries;
use crate::client::Answer;
use crate::control_plane::ControlPlane;
use crate::manifest::{self, Manifests, Pod};
use crate::netns::{Namespace, SIDECAR_USER};
use crate::process::Process;
use crate::tools::require_root;
use crate::wait::{ensure, until};

/// The pod's addresses.
pub const POD: [IpAddr; 2] = [IpAddr::V4(POD_V4), IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2))];
/// The host's.
pub const HOST: [IpAddr; 2] = [IpAddr::V4(HOST_V4), IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1))];
const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

/// A pod called `web` in namespace `shop`, and what surrounds it, in the order in which it has to end.
pub struct Sandbox {
    sidecar: Option<Process>,
    /// The pod's network.
    pub pod: Namespace,
    /// The host's. The control plane is there.
    pub host: Namespace,
    control_plane: ControlPlane,
    directory: TempDir,
}

impl Sandbox {
    /// The network and a control plane; no sidecar and no redirection yet. The pod has these annotations.
    ///
    /// # Panics
    ///
    /// When a right or a tool is missing.
    pub async fn new(annotations: &[(&str, &str)]) -> Self {
        require_root();
        let directory = tempfile::Builder::new().prefix("weir-pod-").tempdir().expect("a directory can be made");
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("it can be opened to the sidecar");
        let (pod, host) = (Namespace::new("pod"), Namespace::new("host"));
        let cidr = |address: IpAddr| format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 });
        let [pod_addresses, host_addresses] = [POD, HOST].map(|both| both.map(cidr));
        let (pod_addresses, host_addresses) = (pod_addresses.each_ref(), host_addresses.each_ref());
        pod.wire(&pod_addresses.map(String::as_str), &host, &host_addresses.map(String::as_str));
        let manifests = Manifests::below(directory.path());
        let annotations: Vec<_> = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let web = Pod {
            name: "web",
            namespace: "shop",
            service_account: "web",
            address: POD_V4,
            meshed: true,
            annotations: &annotations,
        };
        manifests.write("all", &[manifest::namespace("shop"), web.yaml()].join("---\n"));
        let control_plane = ControlPlane::at(HOST_V4, directory.path(), manifests, Vec::new());
        std::fs::write(control_plane.token_file(), "token-web shop web\n").expect("a token can be written");
        control_plane.adopt(host.spawn("control-plane", control_plane.command(), directory.path()));
        until("the control plane is ready", async || {
            control_plane.with(Process::still_runs)?;
            let answer = host.get(control_plane.http(), "/ready").await?;
            ensure(answer.status == 200, || format!("/ready says {}", answer.status))
        })
        .await;
        Self { sidecar: None, pod, host, control_plane, directory }
    }

    /// The same with redirection and a sidecar that is ready, with these settings besides those that the injector writes.
    pub async fn meshed(annotations: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let mut sandbox = Self::new(annotations).await;
        sandbox.pod.redirect();
        sandbox.start_sidecar(settings);
        sandbox.ready().await;
        sandbox
    }

    /// Starts the sidecar as its own user, without capabilities.
    ///
    /// # Panics
    ///
    /// When the files that it needs cannot be made.
    pub fn start_sidecar(&mut self, settings: &[(&str, &str)]) {
        let path = |name: &str| self.directory.path().join(name);
        // Somewhere that the sidecar's user can read, wherever the workspace is.
        let binary = path("weir-proxy");
        binaries::copy_proxy(&binary);
        let readable = |path: PathBuf, text: &[u8]| {
            std::fs::write(&path, text).expect("a file can be written");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("it can be opened to the sidecar");
            path.display().to_string()
        };
        let bundle = std::fs::read(self.control_plane.trust_bundle()).expect("the trust bundle is there");
        let state = path("state");
        std::fs::create_dir_all(&state).expect("a directory can be made");
        chown(&state, Some(SIDECAR_USER), Some(SIDECAR_USER)).expect("it can be given to the sidecar");
        let mut environment: BTreeMap<&str, String> = [
            ("WEIR_POD_NAME", "web".to_owned()),
            ("WEIR_POD_NAMESPACE", "shop".to_owned()),
            ("WEIR_SERVICE_ACCOUNT", "web".to_owned()),
            ("WEIR_POD_IP", POD.map(|ip| ip.to_string()).join(",")),
            ("WEIR_CONTROL_PLANE", format!("{HOST_V4}:15410")),
            ("WEIR_TRUST_BUNDLE", readable(path("bundle"), &bundle)),
            ("WEIR_TOKEN", readable(path("token"), b"token-web")),
            ("WEIR_STATE_DIR", state.display().to_string()),
            ("WEIR_WORKERS", "2".to_owned()),
            ("WEIR_EXPECT_REDIRECTION", "true".to_owned()),
        ]
        .into();
        environment.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut command = Command::new(binary);
        command.env_clear().envs(environment).uid(SIDECAR_USER).gid(SIDECAR_USER);
        self.sidecar = Some(self.pod.spawn("sidecar", command, self.directory.path()));
    }

    /// The sidecar.
    ///
    /// # Panics
    ///
    /// When it was not started.
    #[must_use]
    pub fn sidecar(&self) -> &Process {
        self.sidecar.as_ref().expect("the sidecar was started")
    }

    /// A page of the sidecar's admin side, asked from the host as the kubelet asks, at the pod's address of this family.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub async fn admin(&self, pod: IpAddr, path: &str) -> Result<Answer, String> {
        self.host.get((pod, 15420).into(), path).await
    }

    /// Waits until the sidecar is ready.
    pub async fn ready(&self) {
        until("the sidecar is ready", async || {
            self.sidecar().still_runs()?;
            let answer = self.admin(POD[0], "/ready").await?;
            ensure(answer.status == 200, || format!("/ready says {}: {}", answer.status, answer.text()))
        })
        .await;
    }
}
