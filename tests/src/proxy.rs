//! A sidecar process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::binaries;
use crate::client::{Answer, Client};
use crate::metrics::Metrics;
use crate::process::Process;
use crate::wait::{ensure, until};

/// How a sidecar is started: its environment, and nothing else.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// For the log file and messages.
    pub name: String,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// Where its log goes.
    pub directory: PathBuf,
    /// Its outbound side.
    pub outbound: SocketAddr,
    /// Its admin page.
    pub admin: SocketAddr,
}

impl ProxySettings {
    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(binaries::proxy());
        command.env_clear().envs(&self.environment);
        command
    }

    /// Starts it; it may not be ready yet.
    #[must_use]
    pub fn spawn(&self) -> Proxy {
        self.adopt(Process::spawn(&format!("proxy-{}", self.name), self.command(), &self.directory))
    }

    /// Takes over a process that was started elsewhere with [`Self::command`].
    #[must_use]
    pub fn adopt(&self, process: Process) -> Proxy {
        Proxy { process, outbound: self.outbound, admin: self.admin }
    }
}

/// A running sidecar.
pub struct Proxy {
    process: Process,
    outbound: SocketAddr,
    admin: SocketAddr,
}

impl Proxy {
    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        until("the proxy is ready", async || {
            self.process.still_runs()?;
            let answer = self.ask("/ready").await?;
            ensure(answer.status == 200, || format!("/ready says {}: {}", answer.status, answer.text()))
        })
        .await;
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A client of its outbound side.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::to(self.outbound)
    }

    /// Where its admin page is.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// GET of a page of the admin side.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub async fn ask(&self, path: &str) -> Result<Answer, String> {
        Client::to(self.admin).try_get(&format!("http://{}{path}", self.admin)).await
    }

    /// Its metrics, read strictly.
    ///
    /// # Panics
    ///
    /// When they cannot be read or break the format.
    pub async fn metrics(&self) -> Metrics {
        let page = self.ask("/metrics").await.expect("the admin page answers");
        Metrics::parse(&page.text()).unwrap_or_else(|error| panic!("the metrics break the format: {error}"))
    }

    /// Waits until the sum over the series of `name` with all of `labels` is at least `least`, and answers with it.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], least: f64) -> f64 {
        until(&format!("{name}{labels:?} is at least {least}"), async || {
            let metrics = self.metrics().await;
            let sum = metrics.sum(name, labels);
            let all: Vec<_> = metrics.series(name).collect();
            ensure(sum >= least, || format!("it is {sum}, of {all:?}")).map(|()| sum)
        })
        .await
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.process.terminate();
    }

    /// Waits for its end.
    pub async fn end(&self) -> ExitStatus {
        self.process.end().await
    }
}

/// A proxy that is expected to give up: its exit status and everything it wrote.
pub async fn run_to_end(command: Command, directory: &Path) -> (ExitStatus, String) {
    let process = Process::spawn("refused", command, directory);
    let status = process.end().await;
    (status, process.log())
}
