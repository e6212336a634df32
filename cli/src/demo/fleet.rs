//! The demo's processes: started, watched, killed; each by its pid and in a process group of its own, so that Ctrl-C in the
//! terminal reaches the demo alone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::client::{Client, origin};

/// How long a process may take to be ready. A machine that is busy compiling needs some of it.
const START_LIMIT: Duration = Duration::from_secs(12);
/// How often readiness is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much of a log a message quotes.
const QUOTED_LINES: usize = 6;

/// A process that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    #[error("{} is not there: build it with `cargo build --bins`, or say with WEIR_BIN_DIR in which directory it is", .0.display())]
    NoProgram(PathBuf),
    #[error("the demo does not find its own program: {0}")]
    NoSelf(io::Error),
    #[error("{name} could not be started: {source}")]
    Start { name: String, source: io::Error },
    #[error("{name} ended by itself ({status}){log}")]
    Ended { name: String, status: ExitStatus, log: Quoted },
    #[error("{name} was not ready within {START_LIMIT:?}{log}")]
    NotReady { name: String, log: Quoted },
    #[error("{name} could not be ended: {source}")]
    Kill { name: String, source: io::Error },
}

/// The end of a log.
#[derive(Debug)]
pub(crate) struct Quoted(String);

impl std::fmt::Display for Quoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { f.write_str(" and logged nothing") } else { write!(f, ". It logged last:\n{}", self.0) }
    }
}

/// The programs that the demo starts.
#[derive(Debug)]
pub(crate) struct Programs {
    /// `weir` itself.
    pub(crate) weir: PathBuf,
    pub(crate) proxy: PathBuf,
    pub(crate) control_plane: PathBuf,
}

impl Programs {
    /// Looks in `directory`, or beside this program.
    ///
    /// # Errors
    /// One is missing.
    pub(crate) fn find(directory: Option<&Path>) -> Result<Self, FleetError> {
        let weir = std::env::current_exe().map_err(FleetError::NoSelf)?;
        let directory = directory.or_else(|| weir.parent()).unwrap_or(Path::new("."));
        let find = |name: &str| {
            let path = directory.join(name);
            if path.is_file() { Ok(path) } else { Err(FleetError::NoProgram(path)) }
        };
        Ok(Self { proxy: find("weir-proxy")?, control_plane: find("weir-control-plane")?, weir })
    }
}

/// What to run.
pub(crate) struct Launch<'a> {
    /// Names the process and its log.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, OsString)>,
}

/// The running processes. Dropping it kills them all.
pub(crate) struct Fleet {
    weir: PathBuf,
    logs: PathBuf,
    running: BTreeMap<String, Child>,
}

impl Fleet {
    /// A fleet without processes that writes its logs into a directory.
    pub(crate) fn new(weir: PathBuf, logs: PathBuf) -> Self {
        Self { weir, logs, running: BTreeMap::new() }
    }

    /// Starts a process. It ends with the demo, whatever ends that.
    ///
    /// To be called on the thread that lives as long as the demo: the kernel ties the process to the thread that started it.
    ///
    /// # Errors
    /// Its log or itself cannot be made.
    pub(crate) fn start(&mut self, launch: Launch<'_>) -> Result<(), FleetError> {
        let Launch { name, program, arguments, environment } = launch;
        let failed = |source| FleetError::Start { name: name.to_owned(), source };
        let log = File::options().create(true).append(true).open(self.log(name)).map_err(failed)?;
        let mut command = Command::new(&self.weir);
        command.arg("demo-child").arg("--parent").arg(std::process::id().to_string()).arg("--").arg(program).args(arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.envs(environment).stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
        self.running.insert(name.to_owned(), child);
        Ok(())
    }

    /// Waits until an HTTP server says 200 to `path`.
    ///
    /// # Errors
    /// The process ends, or does not get ready in time.
    pub(crate) async fn ready_http(&mut self, name: &str, address: SocketAddrV4, path: &str) -> Result<(), FleetError> {
        let client = Client::new(address, Duration::from_secs(1));
        let asked = async || match origin(address, path) {
            Ok(request) => client.send(request).await.is_ok_and(|response| response.status() == http::StatusCode::OK),
            Err(_) => false,
        };
        self.ready(name, asked).await
    }

    /// Waits until something listens.
    ///
    /// # Errors
    /// The process ends, or does not get ready in time.
    pub(crate) async fn ready_tcp(&mut self, name: &str, address: SocketAddrV4) -> Result<(), FleetError> {
        self.ready(name, async || TcpStream::connect(address).await.is_ok()).await
    }

    async fn ready(&mut self, name: &str, asked: impl AsyncFn() -> bool) -> Result<(), FleetError> {
        let deadline = Instant::now() + START_LIMIT;
        while !asked().await {
            if let Some((name, status)) = self.ended() {
                return Err(FleetError::Ended { log: self.quote(&name), name, status });
            }
            if Instant::now() >= deadline {
                return Err(FleetError::NotReady { name: name.to_owned(), log: self.quote(name) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Kills a process (SIGKILL: no drain, no goodbye) and waits until it is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<(), FleetError> {
        match self.running.remove(name) {
            Some(mut child) => child.kill().await.map_err(|source| FleetError::Kill { name: name.to_owned(), source }),
            None => Ok(()),
        }
    }

    /// Kills everything and waits until it is gone.
    pub(crate) async fn kill_all(&mut self) {
        for child in self.running.values_mut() {
            // Fails only if it has ended already.
            let _gone = child.start_kill();
        }
        for (_, mut child) in std::mem::take(&mut self.running) {
            let _status = child.wait().await;
        }
    }

    /// A process that ended without being asked to, once.
    pub(crate) fn ended(&mut self) -> Option<(String, ExitStatus)> {
        let ended = self.running.iter_mut().find_map(|(name, child)| Some((name.clone(), child.try_wait().ok()??)))?;
        self.running.remove(&ended.0);
        Some(ended)
    }

    /// The same as an error, with the end of its log.
    pub(crate) fn ended_error(&mut self) -> Option<FleetError> {
        self.ended().map(|(name, status)| FleetError::Ended { log: self.quote(&name), name, status })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn quote(&self, name: &str) -> Quoted {
        let log = fs::read(self.log(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().map(|line| format!("  {}", line.replace(char::is_control, " "))).collect();
        Quoted(lines.get(lines.len().saturating_sub(QUOTED_LINES)..).unwrap_or_default().join("\n"))
    }
}

/// Settings of the user's own proxies must not reach the demo's. How much is logged may.
fn is_foreign_setting(name: &str) -> bool {
    name.starts_with("WEIR_") && !name.starts_with("WEIR_LOG_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(directory: &Path) -> Fleet {
        // Stands for `weir demo-child --parent PID -- PROGRAM ARGS`.
        let launcher = directory.join("launcher");
        fs::write(&launcher, "#!/bin/sh\nshift 4\nexec \"$@\"\n").unwrap();
        fs::set_permissions(&launcher, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        Fleet::new(launcher, directory.to_path_buf())
    }

    fn shell<'a>(name: &'a str, script: &str) -> Launch<'a> {
        let arguments = ["-c", script].map(OsString::from).to_vec();
        Launch { name, program: Path::new("/bin/sh"), arguments, environment: Vec::new() }
    }

    #[tokio::test]
    async fn a_process_that_ends_by_itself_is_reported_with_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let mut fleet = fleet(directory.path());
        fleet.start(shell("app", "echo first; echo port taken >&2; exit 7")).unwrap();
        let error = fleet.ready("app", async || false).await.unwrap_err().to_string();
        assert!(error.starts_with("app ended by itself (exit status: 7)"), "{error}");
        assert!(error.ends_with("  first\n  port taken"), "{error}");
    }

    #[tokio::test]
    async fn what_was_killed_is_gone_and_not_reported() {
        let directory = tempfile::tempdir().unwrap();
        let mut fleet = fleet(directory.path());
        for name in ["one", "two", "three"] {
            fleet.start(shell(name, "sleep 1000")).unwrap();
        }
        let pids: Vec<_> = fleet.running.values().filter_map(Child::id).collect();
        assert_eq!(pids.len(), 3);
        fleet.kill("one").await.unwrap();
        assert!(fleet.ended().is_none());
        fleet.kill_all().await;
        assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
    }

    #[test]
    fn a_missing_program_is_named_with_the_remedy() {
        let error = Programs::find(Some(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/weir-proxy is not there: build it with"), "{error}");
    }
}
