//! The control plane's metrics.

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

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
    /// Connections that failed before they could ask for anything, by `reason`.
    pub handshakes_failed: IntCounterVec,
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
            handshakes_failed: IntCounterVec::new(
                Opts::new(name("handshakes_failed_total"), "Connections that ended before they could ask for anything"),
                &["reason"],
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
