//! A workload: an application on an address of its own, and usually a sidecar beside it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::app::{App, RunningApp};
use crate::client::Client;
use crate::manifest::Pod;
use crate::mesh::Ground;
use crate::metrics::Metrics;
use crate::proxy::{Proxy, ProxySettings};
use crate::{NAMESPACE, address};

/// The port that pods listen on.
pub const POD_PORT: u16 = 8080;

/// What a workload shall be. Everything has a default that most scenarios want.
pub struct WorkloadBuilder {
    ground: Arc<Ground>,
    name: String,
    namespace: String,
    service_account: String,
    app: Option<App>,
    app_at: Option<SocketAddr>,
    meshed: bool,
    annotations: Vec<(String, String)>,
    environment: BTreeMap<String, String>,
    token: Option<String>,
}

impl WorkloadBuilder {
    pub(crate) fn new(ground: Arc<Ground>, name: &str) -> Self {
        Self {
            ground,
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            service_account: name.to_owned(),
            app: None,
            app_at: None,
            meshed: true,
            annotations: Vec::new(),
            environment: BTreeMap::new(),
            token: None,
        }
    }

    /// Runs this application in it.
    #[must_use]
    pub fn app(self, app: App) -> Self {
        Self { app: Some(app), ..self }
    }

    /// With an application at this address that the scenario runs itself.
    #[must_use]
    pub fn app_at(self, address: SocketAddr) -> Self {
        Self { app_at: Some(address), ..self }
    }

    /// Without a sidecar.
    #[must_use]
    pub fn outside_the_mesh(self) -> Self {
        Self { meshed: false, ..self }
    }

    /// In another namespace.
    #[must_use]
    pub fn namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self }
    }

    /// With this service account; its own name otherwise.
    #[must_use]
    pub fn service_account(self, account: &str) -> Self {
        Self { service_account: account.to_owned(), ..self }
    }

    /// With an annotation on its Pod.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Refuses plaintext.
    #[must_use]
    pub fn strict(self) -> Self {
        self.annotation("weir.dev/mtls", "strict")
    }

    /// With a setting of its proxy.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With one worker, where a scenario counts what each worker does for itself.
    #[must_use]
    pub fn one_worker(self) -> Self {
        self.setting("WEIR_WORKERS", "1")
    }

    /// With this token, which nobody registers for it.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// Writes its Pod, starts its application and its proxy, and waits until the proxy is ready.
    pub async fn start(self) -> Workload {
        let workload = self.spawn();
        if let Some(proxy) = &workload.proxy {
            proxy.ready().await;
        }
        workload
    }

    /// The same without waiting.
    #[must_use]
    pub fn spawn(self) -> Workload {
        let address = address::loopback();
        let pod = Pod {
            name: &self.name,
            namespace: &self.namespace,
            service_account: &self.service_account,
            address,
            meshed: self.meshed,
            annotations: &self.annotations,
        };
        self.ground.manifests.write(&format!("pod-{}", self.name), &pod.yaml());
        let at_pod = SocketAddr::new(address.into(), POD_PORT);
        let at_app = if let Some(address) = self.app_at {
            address
        } else if self.meshed {
            SocketAddr::new(address::loopback().into(), POD_PORT)
        } else {
            at_pod
        };
        let inbound = ((self.app.is_some() || self.app_at.is_some()) && self.meshed).then(|| format!("{at_pod}={at_app}"));
        let app = self.app.clone().map(|app| app.start(at_app));
        let settings = self.settings(address, inbound.as_deref());
        let proxy = self.meshed.then(|| settings.spawn());
        Workload { name: self.name, address, app, settings, proxy }
    }

    /// The environment of its proxy.
    fn settings(&self, address: Ipv4Addr, inbound: Option<&str>) -> ProxySettings {
        let outbound = SocketAddr::new(address.into(), 15401);
        let admin = SocketAddr::new(address.into(), 15420);
        let token = match &self.token {
            Some(token) => token.clone(),
            None => self.ground.issue_token(&self.namespace, &self.service_account),
        };
        let token_file = self.ground.path(&format!("token-{}", self.name));
        std::fs::write(&token_file, token).expect("a token can be written");
        let state = self.ground.path(&format!("state-{}", self.name));
        std::fs::create_dir_all(&state).expect("a state directory can be made");
        let mut environment: BTreeMap<String, String> = [
            ("WEIR_POD_NAME", self.name.clone()),
            ("WEIR_POD_NAMESPACE", self.namespace.clone()),
            ("WEIR_SERVICE_ACCOUNT", self.service_account.clone()),
            ("WEIR_POD_IP", address.to_string()),
            ("WEIR_CONTROL_PLANE", self.ground.control_plane.grpc().to_string()),
            ("WEIR_TRUST_BUNDLE", self.ground.control_plane.trust_bundle().display().to_string()),
            ("WEIR_TOKEN", token_file.display().to_string()),
            ("WEIR_STATE_DIR", state.display().to_string()),
            ("WEIR_OUTBOUND_LISTEN", outbound.to_string()),
            ("WEIR_ADMIN_LISTEN", admin.to_string()),
            // More than one, so that nothing works only because all is on one thread; not as many as the machine has,
            // so that a scenario does not depend on it.
            ("WEIR_WORKERS", "2".to_owned()),
            ("WEIR_LOG_LEVEL", "info".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        match inbound {
            Some(inbound) => environment.insert("WEIR_INBOUND".to_owned(), inbound.to_owned()),
            None => environment.insert("WEIR_INBOUND_LISTEN".to_owned(), SocketAddr::new(address.into(), 15406).to_string()),
        };
        environment.extend(self.environment.clone());
        ProxySettings { name: self.name.clone(), environment, directory: self.ground.path("."), outbound, admin }
    }
}

/// A workload that was started.
pub struct Workload {
    name: String,
    address: Ipv4Addr,
    app: Option<RunningApp>,
    settings: ProxySettings,
    proxy: Option<Proxy>,
}

impl Workload {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, as a pod's.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where peers reach its application.
    #[must_use]
    pub fn inbound(&self) -> SocketAddr {
        SocketAddr::new(self.address.into(), POD_PORT)
    }

    /// Its application.
    ///
    /// # Panics
    ///
    /// When it has none.
    #[must_use]
    pub fn app(&self) -> &RunningApp {
        self.app.as_ref().expect("the workload has an application")
    }

    /// Kills its application.
    pub async fn kill_app(&mut self) {
        if let Some(app) = &mut self.app {
            app.kill().await;
        }
    }

    /// Its sidecar.
    ///
    /// # Panics
    ///
    /// When it has none, or it was stopped.
    #[must_use]
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("the workload has a running sidecar")
    }

    /// A client that calls through its sidecar.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::to(self.settings.outbound)
    }

    /// Its sidecar's metrics.
    pub async fn metrics(&self) -> Metrics {
        self.proxy().metrics().await
    }

    /// How its sidecar was started.
    #[must_use]
    pub fn settings(&self) -> &ProxySettings {
        &self.settings
    }

    /// Kills the sidecar as a crash does.
    pub fn kill_proxy(&mut self) {
        if let Some(proxy) = self.proxy.take() {
            proxy.process().kill();
        }
    }

    /// Starts the sidecar again, with the same settings, and waits until it is ready.
    pub async fn restart_proxy(&mut self) {
        self.kill_proxy();
        let proxy = self.settings.spawn();
        proxy.ready().await;
        self.proxy = Some(proxy);
    }

    /// Application and sidecar end at once, as when the machine is cut off.
    pub async fn kill(&mut self) {
        self.kill_proxy();
        self.kill_app().await;
    }
}
