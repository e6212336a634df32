//! The control plane's metrics.

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// All metrics, registered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Proxies that have a stream.
    pub connected_proxies: IntGauge,
    /// Responses sent to proxies.
    pub pushes: IntCounter,
    /// Responses that proxies refused.
    pub nacks: IntCounter,
    /// Batches of changes taken from the source.
    pub changes: IntCounter,
    /// Kubernetes objects known.
    pub objects: IntGauge,
    /// Problems found in the source, by `level`.
    pub diagnostics: IntGaugeVec,
    /// Certificates signed for workloads.
    pub certificates_issued: IntCounter,
    /// Requests for certificates that were refused, by `reason`.
    pub certificates_refused: IntCounterVec,
    /// When the issuer's certificate ends, in seconds since 1970.
    pub issuer_expiry: Gauge,
    /// When the `root` and the `issuer` (or whatever comes first of what is above a leaf) end, in seconds since 1970.
    pub ca_expiry: GaugeVec,
    /// 1 for the `phase` that the rotation of the root is in.
    pub rotation_phase: IntGaugeVec,
    /// Proxies of this replica that a rotation waits for.
    pub rotation_behind: IntGauge,
    /// Namespaces whose trust bundle is not as it should be; told by the replica that writes.
    pub bundles_behind: IntGauge,
    /// 1 while the user's own root in `weir-root` is refused.
    pub given_refused: IntGauge,
    /// Connections that failed before they could ask for anything, by `reason`.
    pub handshakes_failed: IntCounterVec,
    /// Of the API server, by `kind`: 1 while what is known of the kind is kept up to date, or the kind is not installed.
    pub source_connected: IntGaugeVec,
    /// Lists and watches of the API server that failed, by `kind` and `reason`.
    pub source_errors: IntCounterVec,
    /// 1 on the replica that writes to the cluster.
    pub leader: IntGauge,
    /// Statuses of routes sent to the API server, by `result`.
    pub status_writes: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    ///
    /// When two have one name, which no test would let pass.
    pub fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("weir_control_plane_{name}");
        let metrics = Self {
            registry: Registry::new(),
            connected_proxies: IntGauge::new(name("connected_proxies"), "Proxies that have a configuration stream")?,
            pushes: IntCounter::new(name("pushes_total"), "Configuration responses sent to proxies")?,
            nacks: IntCounter::new(name("nacks_total"), "Configuration responses that proxies refused")?,
            changes: IntCounter::new(name("changes_total"), "Batches of changes taken from the source")?,
            objects: IntGauge::new(name("objects"), "Kubernetes objects that the mesh is made of")?,
            diagnostics: IntGaugeVec::new(
                Opts::new(name("diagnostics"), "Problems in the source that stand at the moment"),
                &["level"],
            )?,
            certificates_issued: IntCounter::new(name("certificates_issued_total"), "Certificates signed for workloads")?,
            certificates_refused: IntCounterVec::new(
                Opts::new(name("certificates_refused_total"), "Requests for a certificate that were refused"),
                &["reason"],
            )?,
            issuer_expiry: Gauge::new(
                name("issuer_expiry_timestamp_seconds"),
                "When the issuer's certificate ends, in seconds since 1970",
            )?,
            ca_expiry: GaugeVec::new(
                Opts::new("weir_ca_expiry_timestamp_seconds", "When the root and the issuer end, in seconds since 1970"),
                &["certificate"],
            )?,
            rotation_phase: IntGaugeVec::new(
                Opts::new("weir_ca_rotation_phase", "1 for the phase that the rotation of the root is in"),
                &["phase"],
            )?,
            rotation_behind: IntGauge::new(
                "weir_ca_rotation_proxies_behind",
                "Proxies of this replica without the bundle in force, or with a certificate of a root that does not sign any more",
            )?,
            bundles_behind: IntGauge::new(
                "weir_ca_bundles_behind",
                "Namespaces whose ConfigMap weir-trust-bundle is not as it should be; told by the replica that writes",
            )?,
            given_refused: IntGauge::new("weir_ca_given_root_refused", "1 while the Secret weir-root cannot be used")?,
            handshakes_failed: IntCounterVec::new(
                Opts::new(name("handshakes_failed_total"), "Connections that ended before they could ask for anything"),
                &["reason"],
            )?,
            source_connected: IntGaugeVec::new(
                Opts::new(
                    name("source_connected"),
                    "1 while what is known of the kind is kept up to date, or it is not installed",
                ),
                &["kind"],
            )?,
            source_errors: IntCounterVec::new(
                Opts::new(name("source_errors_total"), "Lists and watches of the API server that failed"),
                &["kind", "reason"],
            )?,
            leader: IntGauge::new(name("leader"), "1 on the replica that writes to the cluster")?,
            status_writes: IntCounterVec::new(
                Opts::new(name("status_writes_total"), "Statuses of routes sent to the API server"),
                &["result"],
            )?,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> Result<(), prometheus::Error> {
        let Self { registry, .. } = self;
        registry.register(Box::new(self.connected_proxies.clone()))?;
        registry.register(Box::new(self.pushes.clone()))?;
        registry.register(Box::new(self.nacks.clone()))?;
        registry.register(Box::new(self.changes.clone()))?;
        registry.register(Box::new(self.objects.clone()))?;
        registry.register(Box::new(self.diagnostics.clone()))?;
        registry.register(Box::new(self.certificates_issued.clone()))?;
        registry.register(Box::new(self.certificates_refused.clone()))?;
        registry.register(Box::new(self.issuer_expiry.clone()))?;
        registry.register(Box::new(self.handshakes_failed.clone()))?;
        registry.register(Box::new(self.ca_expiry.clone()))?;
        registry.register(Box::new(self.rotation_phase.clone()))?;
        registry.register(Box::new(self.rotation_behind.clone()))?;
        registry.register(Box::new(self.bundles_behind.clone()))?;
        registry.register(Box::new(self.given_refused.clone()))?;
        registry.register(Box::new(self.source_connected.clone()))?;
        registry.register(Box::new(self.source_errors.clone()))?;
        registry.register(Box::new(self.leader.clone()))?;
        registry.register(Box::new(self.status_writes.clone()))?;
        registry.register(Box::new(ProcessCollector::for_self()))
    }

    /// All of them in the text format of Prometheus.
    ///
    /// # Errors
    ///
    /// When a value cannot be written.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
