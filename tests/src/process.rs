//! A process under test: its log goes to a file, and it ends with the test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Resource, Signal};

use crate::wait::{ensure, until};

/// Lines of a process's log that are printed when its test fails.
const TAIL: usize = 60;

/// A running process.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

/// Lets this process, and what it starts from now on, have as many files and connections open as the system allows. Says how many.
pub fn allow_many_files() -> usize {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    limit.maximum.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

impl Process {
    /// Starts `command` with its output in `DIRECTORY/NAME.log`. A second process of the same name writes on below the first.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, mut command: Command, directory: &Path) -> Self {
        let log = directory.join(format!("{name}.log"));
        let out = std::fs::File::options().create(true).append(true).open(&log).expect("the log file can be made");
        let err = out.try_clone().expect("the log file can be shared");
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), log, child: Mutex::new(child) }
    }

    /// Its id.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    ///
    /// When the kernel does not know it.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().expect("a child can be waited for")
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGSTOP: the process stays and does nothing.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_child(&self.child.lock().unwrap());
            rustix::process::kill_process(pid, signal).expect("a child can be signalled");
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Waits until it ends by itself.
    pub async fn end(&self) -> ExitStatus {
        until(&format!("{} ends", self.name), async || self.ended().ok_or_else(|| "it still runs".to_owned())).await
    }

    /// Waits until its log has a line with all of `words`, and answers with that line.
    pub async fn logs(&self, words: &[&str]) -> String {
        until(&format!("{} logs a line with {words:?}", self.name), async || {
            let log = self.log();
            let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
            line.map(str::to_owned).ok_or_else(|| format!("the log ends with\n{}", tail(&log)))
        })
        .await
    }

    /// The most memory that it ever had resident, in bytes (`VmHWM`).
    ///
    /// # Panics
    ///
    /// When it has ended.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that it has resident, in bytes (`VmRSS`).
    ///
    /// # Panics
    ///
    /// When it has ended.
    #[must_use]
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the kernel counts memory");
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("memory is a number");
        kilobytes * 1024
    }

    /// Fails at once when the process has ended, with the end of its log.
    ///
    /// # Errors
    ///
    /// How it ended.
    pub fn still_runs(&self) -> Result<(), String> {
        let ended = self.ended();
        ensure(ended.is_none(), || {
            let how = ended.map(|status| status.to_string()).unwrap_or_default();
            format!("{} has ended ({how}); its log ends with\n{}", self.name, tail(&self.log()))
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut report = format!("---- end of the log of {} ----\n{}", self.name, tail(&self.log()));
            let _ = writeln!(report, "----");
            eprintln!("{report}");
        }
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
