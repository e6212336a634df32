//! The injector's metrics.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::process_collector::ProcessCollector;
use prometheus::{Encoder, Gauge, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Reviews take fractions of a millisecond, and up to seconds where the API server has to be asked.
const BUCKETS: [f64; 9] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.01, 0.05, 0.25, 1.0, 5.0];

/// All metrics, registered. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    handshakes_failed: IntCounterVec,
    certificate_expiry: Gauge,
    authority_expiry: Gauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    ///
    /// When two have one name, which no test would let pass.
    pub fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("weir_injector_{name}");
        let metrics = Self {
            registry: Registry::new(),
            requests: IntCounterVec::new(Opts::new(name("requests_total"), "Reviews answered"), &["webhook", "result"])?,
            duration: HistogramVec::new(
                HistogramOpts::new(name("request_duration_seconds"), "Time from a review's arrival to its answer")
                    .buckets(BUCKETS.to_vec()),
                &["webhook"],
            )?,
            handshakes_failed: IntCounterVec::new(
                Opts::new(name("handshakes_failed_total"), "Connections that ended before a request"),
                &["reason"],
            )?,
            certificate_expiry: Gauge::new(
                name("certificate_expiry_timestamp_seconds"),
                "When the certificate that is served ends, in seconds since 1970; 0 before there is one",
            )?,
            authority_expiry: Gauge::new(
                name("authority_expiry_timestamp_seconds"),
                "When the authority of that certificate ends, in seconds since 1970; 0 before there is one",
            )?,
        };
        let Self { registry, requests, duration, handshakes_failed, certificate_expiry, authority_expiry } = metrics.clone();
        registry.register(Box::new(requests))?;
        registry.register(Box::new(duration))?;
        registry.register(Box::new(handshakes_failed))?;
        registry.register(Box::new(certificate_expiry))?;
        registry.register(Box::new(authority_expiry))?;
        registry.register(Box::new(ProcessCollector::for_self()))?;
        Ok(metrics)
    }

    /// Counts a review that was answered. Both labels are from closed lists.
    pub fn answered(&self, webhook: &'static str, result: &'static str, took: Duration) {
        self.requests.with_label_values(&[webhook, result]).inc();
        self.duration.with_label_values(&[webhook]).observe(took.as_secs_f64());
    }

    /// Counts a connection that ended before a request.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.handshakes_failed.with_label_values(&[reason]).inc();
    }

    /// Notes when what is served ends.
    pub fn certificate_ends(&self, certificate: SystemTime, authority: Option<SystemTime>) {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.certificate_expiry.set(seconds(certificate));
        self.authority_expiry.set(authority.map(seconds).unwrap_or_default());
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
