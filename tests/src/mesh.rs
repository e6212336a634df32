//! A mesh of one's own: a control plane, and whatever the scenario puts into it.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use crate::NAMESPACE;
use crate::app::App;
use crate::client::Answer;
use crate::control_plane::ControlPlane;
use crate::manifest::{self, Manifests};
use crate::service::ServiceBuilder;
use crate::wait::{ensure, until};
use crate::workload::{Workload, WorkloadBuilder};

/// What the parts of one mesh stand on.
pub struct Ground {
    pub(crate) manifests: Manifests,
    pub(crate) control_plane: ControlPlane,
    /// Removed when everything that stands on it is gone.
    directory: TempDir,
}

impl Ground {
    /// A path in the mesh's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A virtual address that belongs to a Service's name. Nobody listens there.
    #[must_use]
    pub(crate) fn cluster_ip(&self, name: &str) -> Ipv4Addr {
        let hash = name.bytes().fold(0_u16, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let [high, low] = hash.to_be_bytes();
        Ipv4Addr::new(10, 96, high, low)
    }

    /// A token that the control plane knows.
    pub(crate) fn issue_token(&self, namespace: &str, account: &str) -> String {
        let token = format!("token-of-{namespace}-{account}");
        let mut file =
            std::fs::File::options().append(true).open(self.control_plane.token_file()).expect("the token file is there");
        writeln!(file, "{token} {namespace} {account}").expect("a token can be added");
        token
    }
}

/// A mesh. It ends with the scenario.
pub struct Mesh {
    ground: Arc<Ground>,
}

impl Mesh {
    /// A control plane on an empty directory, with the namespace `shop`.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more arguments for the control plane.
    ///
    /// # Panics
    ///
    /// When it does not become ready.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("weir-").tempdir().expect("a directory can be made");
        let manifests = Manifests::below(directory.path());
        manifests.write("namespaces", &manifest::namespace(NAMESPACE));
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let control_plane = ControlPlane::below(directory.path(), manifests.clone(), arguments);
        control_plane.start().await;
        Self { ground: Arc::new(Ground { manifests, control_plane, directory }) }
    }

    /// The control plane.
    #[must_use]
    pub fn control_plane(&self) -> &ControlPlane {
        &self.ground.control_plane
    }

    /// The manifests, for what no builder here can write.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.ground.manifests
    }

    /// A path in the mesh's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.ground.path(name)
    }

    /// Begins a workload.
    #[must_use]
    pub fn workload(&self, name: &str) -> WorkloadBuilder {
        WorkloadBuilder::new(Arc::clone(&self.ground), name)
    }

    /// Begins a Service on port 80, `http`, without endpoints.
    #[must_use]
    pub fn service(&self, name: &str) -> ServiceBuilder {
        ServiceBuilder::new(Arc::clone(&self.ground), name)
    }

    /// The virtual address of the Service of this name.
    #[must_use]
    pub fn cluster_ip(&self, name: &str) -> Ipv4Addr {
        self.ground.cluster_ip(name)
    }

    /// A meshed workload that only calls others.
    pub async fn caller(&self) -> Workload {
        self.workload("caller").start().await
    }

    /// A meshed HTTP workload and a Service, both of this name.
    pub async fn backend(&self, name: &str) -> Workload {
        let workload = self.workload(name).app(App::http(name)).start().await;
        self.service(name).backed_by([&workload]).apply();
        workload
    }

    /// Writes the HTTPRoute of a Service, of the same name. `rules` is the list as a user writes it.
    pub fn route(&self, service: &str, rules: &str) {
        self.manifests().write(&format!("route-{service}"), &manifest::route("HTTPRoute", service, NAMESPACE, service, rules));
    }

    /// Waits until a GET of `url` through the caller's sidecar is answered by an application, and answers with that.
    pub async fn reaches(&self, caller: &Workload, url: &str) -> Answer {
        self.sees(caller, url, |answer| ensure(!answer.app().is_empty(), || "no application answered".to_owned())).await
    }

    /// Waits until a GET of `url` is answered as `wanted`, and answers with that.
    pub async fn sees(&self, caller: &Workload, url: &str, wanted: impl Fn(&Answer) -> Result<(), String>) -> Answer {
        until(&format!("GET {url} is answered as wanted"), async || {
            let answer = caller.client().try_get(url).await?;
            let told = |reason| format!("{reason}; the answer was {} {:?} {}", answer.status, answer.headers, answer.text());
            wanted(&answer).map_err(told).map(|()| answer.clone())
        })
        .await
    }

    /// Waits until a GET of `url` has this status.
    pub async fn gets(&self, caller: &Workload, url: &str, status: u16) -> Answer {
        self.sees(caller, url, |answer| ensure(answer.status == status, || format!("the status is not {status}"))).await
    }
}
