//! A control plane process on a directory of manifests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::RwLock;

use serde_json::Value;

use crate::client::Client;
use crate::manifest::Manifests;
use crate::metrics::Metrics;
use crate::process::Process;
use crate::wait::{ensure, until};
use crate::{address, binaries};

/// A control plane. It can be killed and started again on the same addresses.
pub struct ControlPlane {
    address: Ipv4Addr,
    manifests: Manifests,
    directory: PathBuf,
    arguments: Vec<String>,
    process: RwLock<Option<Process>>,
}

impl ControlPlane {
    /// One below `directory`, not yet started, with `arguments` beside the usual ones.
    #[must_use]
    pub fn below(directory: &Path, manifests: Manifests, arguments: Vec<String>) -> Self {
        Self::at(address::loopback(), directory, manifests, arguments)
    }

    /// The same on a given address.
    #[must_use]
    pub fn at(address: Ipv4Addr, directory: &Path, manifests: Manifests, arguments: Vec<String>) -> Self {
        let control_plane =
            Self { address, manifests, directory: directory.to_path_buf(), arguments, process: RwLock::new(None) };
        std::fs::write(control_plane.token_file(), "").expect("the token file can be made");
        control_plane
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(binaries::control_plane());
        command
            .env_clear()
            .arg("--source")
            .arg(format!("dir:{}", self.manifests.path().display()))
            .arg("--ca-dir")
            .arg(self.ca_dir())
            .arg("--token-file")
            .arg(self.token_file())
            .arg("--grpc-listen")
            .arg(self.grpc().to_string())
            .arg("--http-listen")
            .arg(self.http().to_string())
            .args(&self.arguments);
        command
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    ///
    /// When it does not become ready.
    pub async fn start(&self) {
        self.adopt(Process::spawn("control-plane", self.command(), &self.directory));
        until("the control plane is ready", async || {
            self.with(Process::still_runs)?;
            let answer = Client::to(self.http()).try_get(&self.url("/ready")).await?;
            ensure(answer.status == 200, || format!("/ready says {}: {}", answer.status, answer.text()))
        })
        .await;
    }

    /// Takes over a process that was started elsewhere with [`Self::command`].
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    pub fn adopt(&self, process: Process) {
        *self.process.write().unwrap() = Some(process);
    }

    /// Kills it.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    pub fn kill(&self) {
        if let Some(process) = self.process.write().unwrap().take() {
            process.kill();
        }
    }

    /// Asks something of the process.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn with<T>(&self, question: impl FnOnce(&Process) -> T) -> T {
        question(self.process.read().unwrap().as_ref().expect("the control plane was started"))
    }

    /// Its whole log.
    #[must_use]
    pub fn log(&self) -> String {
        self.with(Process::log)
    }

    /// Waits until it has logged a line with all of `words`.
    pub async fn logs(&self, words: &[&str]) -> String {
        until(&format!("the control plane logs a line with {words:?}"), async || {
            let log = self.log();
            let found = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            found.map(str::to_owned).ok_or_else(|| format!("its log is\n{log}"))
        })
        .await
    }

    /// Where proxies reach it.
    #[must_use]
    pub fn grpc(&self) -> SocketAddr {
        SocketAddr::new(self.address.into(), 15410)
    }

    /// Its HTTP side.
    #[must_use]
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.address.into(), 15411)
    }

    /// A URL of its HTTP side.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http())
    }

    /// Where it keeps its CA.
    #[must_use]
    pub fn ca_dir(&self) -> PathBuf {
        self.directory.join("ca")
    }

    /// The file with the trust bundle.
    #[must_use]
    pub fn trust_bundle(&self) -> PathBuf {
        self.ca_dir().join("ca.crt")
    }

    /// The manifests that it reads.
    #[must_use]
    pub const fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The file with the join tokens.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// Its metrics, read strictly.
    ///
    /// # Panics
    ///
    /// When they break the format.
    pub async fn metrics(&self) -> Metrics {
        let page = Client::to(self.http()).get(&self.url("/metrics")).await;
        Metrics::parse(&page.text()).unwrap_or_else(|error| panic!("the control plane's metrics: {error}"))
    }

    /// What it has to say about the manifests, as its API says it.
    ///
    /// # Panics
    ///
    /// When the API does not answer with JSON.
    pub async fn diagnostics(&self) -> Value {
        let answer = Client::to(self.http()).get(&self.url("/api/v1/diagnostics")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_slice(&answer.body).expect("the API answers with JSON")
    }

    /// Waits until the diagnostics have, somewhere, one entry with all of `words`.
    pub async fn diagnoses(&self, words: &[&str]) -> Value {
        until(&format!("the diagnostics name {words:?}"), async || {
            let all = self.diagnostics().await;
            entries(&all)
                .find(|entry| {
                    let text = entry.to_string();
                    words.iter().all(|word| text.contains(word))
                })
                .cloned()
                .ok_or_else(|| format!("they are {all}"))
        })
        .await
    }
}

/// The list, whether it is the answer itself or stands in it under a name.
fn entries(all: &Value) -> impl Iterator<Item = &Value> {
    let inner = all.as_object().into_iter().flat_map(|map| map.values());
    std::iter::once(all).chain(inner).filter_map(Value::as_array).flatten()
}
