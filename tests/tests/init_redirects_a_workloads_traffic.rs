//! `weir-proxy init` redirects a workload's TCP into its sidecar, for IPv4 and IPv6, and leaves everything else alone.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use socket2::SockRef;
use weir_tests::binaries;
use weir_tests::netns::{Namespace, SIDECAR_USER};
use weir_tests::prelude::*;
use weir_tests::tools::{require, require_root, stdout};

const POD: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2))];
const PEER: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1))];
/// Addresses of nobody: only redirection gives a connection to them an answer.
const NOBODY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7))];
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// What somebody else wrote, in the same family and at the same hooks.
const FOREIGN: &str = "
table inet foreign {
  chain output {
    type nat hook output priority -100; policy accept;
    tcp dport 65000 counter accept
  }
  chain weir {
    tcp dport 1 accept
  }
}
table ip weir {
  chain outbound {
    tcp dport 2 accept
  }
}
";

/// A pod's network and one beside it.
fn networks() -> (Namespace, Namespace) {
    require_root();
    let (pod, peer) = (Namespace::new("pod"), Namespace::new("peer"));
    pod.wire(&["10.1.0.2/24", "fd01::2/64"], &peer, &["10.1.0.1/24", "10.1.0.9/24", "fd01::1/64", "fd01::9/64"]);
    (pod, peer)
}

fn init(flags: &[&str]) -> Command {
    let mut command = Command::new(binaries::proxy());
    command.env_clear().arg("init").args(flags);
    command
}

fn succeeds(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {err}", output.status);
    out.into_owned()
}

/// Everything that the kernel has, table by table.
fn tables(namespace: &Namespace) -> Vec<(String, String)> {
    let nft = |arguments: &[&str]| {
        let mut command = Command::new(require("nft"));
        command.args(arguments);
        stdout(&namespace.output(command))
    };
    let names = nft(&["list", "tables"]);
    let names = names.lines().map(|line| line.trim_start_matches("table ").to_owned());
    let listed = |name: String| {
        let (family, table) = name.split_once(' ').unwrap();
        let content = nft(&["list", "table", family, table]);
        (name, content)
    };
    names.map(listed).collect()
}

fn table(namespace: &Namespace, name: &str) -> Option<String> {
    tables(namespace).into_iter().find_map(|(table, content)| (table == name).then_some(content))
}

fn load(namespace: &Namespace, script: &str) {
    let mut nft = Command::new(require("nft"));
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    let mut nft = namespace.enter(move || nft.spawn()).unwrap();
    nft.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refuses\n{script}");
}

fn dial(from: &Namespace, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))
}

/// Dials, and answers with what the listener sees as the connection's original destination.
///
/// It takes a listener rather than an address: one that was closed may live on for a moment in the child of another
/// test's fork, and its address would not be free to be bound again.
fn original_destination(from: &Namespace, to: SocketAddr, listener: &TcpListener) -> SocketAddr {
    let at = listener.local_addr().unwrap();
    let _dialled = dial(from, to).unwrap_or_else(|error| panic!("{to} is not redirected to {at}: {error}"));
    let (accepted, _) = listener.accept().unwrap();
    let socket = SockRef::from(&accepted);
    let original = if to.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    original.unwrap().as_socket().unwrap()
}

#[test]
fn the_kernel_has_what_the_dry_run_prints_and_what_others_wrote_stays() {
    let (pod, by_nft) = networks();
    load(&pod, FOREIGN);
    let foreign = tables(&pod);
    assert_eq!(foreign.len(), 2);
    let long: Vec<String> = (1..=256).map(|port| format!("{}-{}", port * 100, port * 100 + 50)).collect();
    let long = format!("--skip-inbound-ports={}", long.join(","));
    let wide = [
        "--proxy-uid=1337",
        "--outbound-port=1401",
        "--skip-inbound-ports=22,8000-8010",
        "--skip-outbound-ports=25,5000-5100",
        "--skip-outbound-cidrs=10.0.0.0/12,192.0.2.7,fd00:1::/37,2001:db8::1",
    ];
    for flags in [&[][..], &wide, &["--skip-outbound-cidrs=0.0.0.0/0,::/0"], &[&long], &[]] {
        let script = succeeds(&pod.output(init(&[flags, &["--dry-run"]].concat())));
        let printed = script.lines().skip_while(|line| !line.ends_with('{')).fold(String::new(), |all, line| all + line + "\n");
        // Twice: the second run replaces the table that the first one made, and the next settings replace that one.
        for _ in 0..2 {
            succeeds(&pod.output(init(flags)));
            assert_eq!(table(&pod, "inet weir").unwrap(), printed, "{flags:?}");
        }
        load(&by_nft, &script);
        assert_eq!(table(&by_nft, "inet weir"), table(&pod, "inet weir"), "nft understands the script as it is meant");
    }
    for _ in 0..2 {
        succeeds(&pod.output(init(&["--remove"])));
        assert_eq!(tables(&pod), foreign);
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    let (pod, _peer) = networks();
    succeeds(&pod.output(init(&["--dry-run"])));
    assert_eq!(tables(&pod), []);
    pod.redirect();
    let before = tables(&pod);
    succeeds(&pod.output(init(&["--dry-run", "--remove"])));
    assert_eq!(tables(&pod), before);
}

#[test]
fn redirected_connections_arrive_with_the_address_that_was_dialled() {
    let (pod, peer) = networks();
    pod.redirect();
    for family in 0..2 {
        let outbound = pod.listen(SocketAddr::new(LOOPBACK[family], 15401));
        for target in [NOBODY[family], PEER[family]].map(|ip| SocketAddr::new(ip, 80)) {
            assert_eq!(original_destination(&pod, target, &outbound), target);
        }
        let (target, at) = (SocketAddr::new(POD[family], 8080), SocketAddr::new(ANY[family], 15406));
        assert_eq!(original_destination(&peer, target, &pod.listen(at)), target);
    }
    succeeds(&pod.output(init(&["--outbound-port=1401", "--inbound-port=1406"])));
    for family in 0..2 {
        let (target, at) = (SocketAddr::new(NOBODY[family], 443), SocketAddr::new(LOOPBACK[family], 1401));
        assert_eq!(original_destination(&pod, target, &pod.listen(at)), target);
        let (target, at) = (SocketAddr::new(POD[family], 8080), SocketAddr::new(ANY[family], 1406));
        assert_eq!(original_destination(&peer, target, &pod.listen(at)), target);
    }
}

#[test]
fn what_is_to_be_left_alone_arrives_where_it_was_going() {
    let (pod, peer) = networks();
    succeeds(&pod.output(init(&[
        "--skip-inbound-ports=9000-9010",
        "--skip-outbound-ports=7000,7100-7200",
        "--skip-outbound-cidrs=10.1.0.8/29,fd01::8/125",
    ])));
    // Nobody listens on the ports of a sidecar, so what is redirected is refused.
    let reaches = |from: &Namespace, ip: IpAddr, port: u16, listening: &Namespace| {
        let address = SocketAddr::new(ip, port);
        let _listener = listening.listen(address);
        match dial(from, address) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
            Err(error) => panic!("{address}: {error}"),
        }
    };
    for family in 0..2 {
        let (own, other, loopback) = (POD[family], PEER[family], LOOPBACK[family]);
        assert!(!reaches(&pod, other, 6999, &peer), "an ordinary port is redirected");
        for port in [7000, 7100, 7150, 7200] {
            assert!(reaches(&pod, other, port, &peer), "{port} was to be skipped");
        }
        assert!(!reaches(&pod, other, 7201, &peer));
        assert!(reaches(&pod, loopback, 8080, &pod), "the workload talks to itself");
        assert!(reaches(&pod, own, 8080, &pod), "also by its own address");
        for port in [9000, 9010, 15420] {
            assert!(reaches(&peer, own, port, &pod), "{port} was to be skipped");
        }
        assert!(!reaches(&peer, own, 9011, &pod), "an ordinary port is redirected");
    }
    for (family, near) in ["10.1.0.9", "fd01::9"].into_iter().enumerate() {
        assert!(reaches(&pod, near.parse().unwrap(), 80, &peer), "{near} is in a network to be skipped");
        assert!(!reaches(&pod, PEER[family], 80, &peer), "its neighbour is not");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sidecars_own_connections_are_left_alone() {
    let (pod, peer) = networks();
    pod.redirect();
    for address in PEER.map(|ip| SocketAddr::new(ip, 80)) {
        let _app = App::http("peer").serve(peer.listen(address));
        let curl = |user: u32| {
            let mut command = Command::new(require("curl"));
            command.env_clear().args(["--silent", "--fail", "--globoff", "--max-time", "20"]);
            command.arg(format!("http://{address}/")).uid(user).gid(user);
            tokio::task::block_in_place(|| pod.output(command))
        };
        succeeds(&curl(SIDECAR_USER));
        for user in [0, SIDECAR_USER + 1] {
            assert_eq!(curl(user).status.code(), Some(7), "user {user} is redirected to where nobody listens");
        }
    }
}

#[test]
fn who_may_not_write_rules_is_told_what_is_missing_and_what_to_write() {
    let (pod, _peer) = networks();
    let directory = tempfile::Builder::new().prefix("weir-init-").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Somewhere that the user can read, wherever the workspace is.
    let binary = directory.path().join("weir-proxy");
    binaries::copy_proxy(&binary);
    let mut command = Command::new(binary);
    command.env_clear().arg("init").uid(SIDECAR_USER).gid(SIDECAR_USER);
    let output = pod.output(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in ["CAP_NET_ADMIN is missing", "securityContext", "add: [NET_ADMIN]"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(tables(&pod), []);
}

#[test]
fn wrong_settings_are_named_together_whether_flag_or_variable() {
    let mut command = init(&["--proxy-uid=root", "--skip-outbound-cidrs=10.0.0.0/40"]);
    command.envs([("WEIR_INBOUND_PORT", "15420"), ("WEIR_SKIP_INBOUND_PORTS", "http"), ("WEIR_SKIP_OUTBOUND_PORTS", "")]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("weir-proxy: 4 settings are missing or wrong"), "{said}");
    for setting in ["WEIR_PROXY_UID", "WEIR_SKIP_OUTBOUND_CIDRS", "WEIR_INBOUND_PORT", "WEIR_SKIP_INBOUND_PORTS"] {
        assert!(said.contains(setting), "{setting}: {said}");
    }
}
