//! Exit codes, messages and signals of the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(30);

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-proxy"));
    command.env_clear();
    command
}

/// An address that was free a moment ago, on an IP of its own so that it still is: nobody else is given a port of it.
fn free() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [process, _, _, _] = std::process::id().to_le_bytes();
    let ip = Ipv4Addr::new(127, 64 + process % 64, 0, NEXT.fetch_add(1, Ordering::Relaxed));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// A proxy that has no control plane, and ends with the test.
struct Proxy {
    child: Child,
    admin: SocketAddr,
    outbound: SocketAddr,
    lines: mpsc::Receiver<String>,
    /// Lines that were read already: which of two threads speaks first is nobody's promise.
    seen: RefCell<Vec<String>>,
    _directory: TempDir,
}

fn flags(directory: &TempDir, outbound: SocketAddr, admin: SocketAddr) -> Vec<String> {
    let path = |name: &str| directory.path().join(name).display().to_string();
    vec![
        "--pod-name=web-1".into(),
        "--pod-namespace=shop".into(),
        "--service-account=web".into(),
        "--pod-ip=127.0.0.9".into(),
        format!("--control-plane={}", free()),
        format!("--trust-bundle={}", path("none.pem")),
        format!("--token={}", path("token")),
        format!("--outbound-listen={outbound}"),
        format!("--inbound-listen={}", free()),
        format!("--admin-listen={admin}"),
        "--workers=2".into(),
    ]
}

impl Proxy {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let (outbound, admin) = (free(), free());
        let mut child = binary().args(flags(&directory, outbound, admin)).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let proxy = Self { child, admin, outbound, lines, seen: RefCell::default(), _directory: directory };
        proxy.says("started");
        proxy
    }

    /// Waits until a line of the log has this text, or finds the one that had it.
    fn says(&self, text: &str) -> String {
        let mut seen = self.seen.borrow_mut();
        loop {
            if let Some(line) = seen.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let Ok(line) = self.lines.recv_timeout(LONG) else { panic!("`{text}` is not in the log: {}", seen.join("\n")) };
            seen.push(line);
        }
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn bad_usage_is_exit_code_2_with_everything_that_is_wrong() {
    let output = binary().env("WEIR_WORKERS", "many").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    for setting in
        ["WEIR_POD_NAME", "WEIR_POD_NAMESPACE", "WEIR_SERVICE_ACCOUNT", "WEIR_POD_IP", "WEIR_CONTROL_PLANE", "WEIR_WORKERS"]
    {
        assert!(said.contains(setting), "{setting}: {said}");
    }
    let output = binary().arg("--no-such-flag").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("--no-such-flag"), "{}", text(&output));
}

#[test]
fn help_and_version_are_answers() {
    let help = binary().arg("--help").output().unwrap();
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("WEIR_CONTROL_PLANE"));
    let version = binary().arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("weir-proxy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_port_that_is_taken_is_named_with_its_setting() {
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (setting, flags) in
        [("WEIR_OUTBOUND_LISTEN", flags(&directory, address, free())), ("WEIR_ADMIN_LISTEN", flags(&directory, free(), address))]
    {
        let output = binary().args(flags).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(setting) && said.contains(&address.to_string()), "{said}");
    }
}

#[test]
fn it_starts_without_a_control_plane_and_says_why_it_is_not_ready() {
    let proxy = Proxy::start();
    assert!(proxy.says("no certificate yet").contains("WEIR_TOKEN"));
    let answer = proxy.ask("GET /ready");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("certificate"), "{answer}");
    assert!(proxy.ask("GET /live").starts_with("HTTP/1.1 200"));
    assert!(proxy.ask("GET /clusters").contains("\"workersThatDidNotAnswer\": 0"));
}

#[test]
fn a_proxy_at_rest_drains_at_once() {
    for signal in ["-TERM", "-INT"] {
        let mut proxy = Proxy::start();
        proxy.signal(signal);
        assert_eq!(proxy.exit_code(), Some(0), "{signal}");
    }
    let mut proxy = Proxy::start();
    assert!(proxy.ask("POST /drain").starts_with("HTTP/1.1 202"));
    assert_eq!(proxy.exit_code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut proxy = Proxy::start();
    // A request that never ends keeps the drain waiting.
    let mut open = TcpStream::connect(proxy.outbound).unwrap();
    open.write_all(b"POST http://reviews.shop/ HTTP/1.1\r\nhost: reviews.shop\r\ncontent-length: 10\r\n\r\n").unwrap();
    proxy.signal("-TERM");
    proxy.says("draining");
    assert!(proxy.ask("GET /ready").contains("draining"));
    proxy.signal("-TERM");
    assert_eq!(proxy.exit_code(), Some(1));
    drop(open);
}
