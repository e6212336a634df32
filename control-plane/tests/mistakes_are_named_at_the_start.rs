//! Settings and files that cannot be used: what is said, and the exit code.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use common::{ControlPlane, free_address, get, program};

/// Exit code and what was said.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = program().args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn all_settings_are_checked_at_once() {
    let (code, said) = run(&["--source", "dir:/does/not/exist", "--grpc-listen", "nowhere", "--leaf-lifetime", "soon"]);
    assert_eq!(code, Some(2));
    for flag in ["--source (WEIR_SOURCE)", "--ca-dir (WEIR_CA_DIR)", "--grpc-listen (WEIR_GRPC_LISTEN)", "--leaf-lifetime"] {
        assert!(said.contains(flag), "{flag} in {said}");
    }
    let (code, said) = run(&["--source", "kubernetes", "--ca-dir", "/tmp/x"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("--ca-dir (WEIR_CA_DIR) is given with --source kubernetes"), "{said}");
}

#[test]
fn settings_come_from_the_environment_as_well() {
    let output = program().env("WEIR_SOURCE", "nonsense").env("WEIR_LOG_FORMAT", "xml").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("`nonsense`") && said.contains("`xml`"), "{said}");
}

#[test]
fn a_taken_port_is_named_with_its_flag() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let source = format!("dir:{}", dir.path().display());
    let ca = dir.path().join("ca").display().to_string();
    let free = free_address().to_string();
    let (code, said) = run(&["--source", &source, "--ca-dir", &ca, "--grpc-listen", &free, "--http-listen", &address]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&address) && said.contains("--http-listen"), "{said}");
}

#[test]
fn a_half_written_authority_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    std::fs::create_dir(&ca).unwrap();
    std::fs::write(ca.join("ca.crt"), "x").unwrap();
    let source = format!("dir:{}", dir.path().display());
    let (grpc, http) = (free_address().to_string(), free_address().to_string());
    let (code, said) =
        run(&["--source", &source, "--ca-dir", &ca.display().to_string(), "--grpc-listen", &grpc, "--http-listen", &http]);
    assert_eq!(code, Some(1));
    assert!(said.contains("has ca.crt but not authority.json (or ca.key, issuer.crt, issuer.key)"), "{said}");
}

#[test]
fn pages_are_there_and_only_under_their_own_name() {
    let control_plane = ControlPlane::start(&[], &[]);
    for path in ["/ready", "/live", "/metrics", "/api/v1/routes", "/api/v1/services", "/api/v1/proxies", "/api/v1/diagnostics"] {
        assert_eq!(control_plane.get(path).unwrap().0, 200, "{path}");
    }
    assert_eq!(get(control_plane.http, "/api/v1/proxies", "evil.example").unwrap().0, 403);
    assert_eq!(control_plane.get("/other").unwrap().0, 404);
}

#[test]
fn a_restart_keeps_the_authority() {
    let first = ControlPlane::start(&[], &[]);
    let before = common::read(first.dir.path(), "ca/ca.crt");
    let (grpc, http) = (free_address().to_string(), free_address().to_string());
    let source = format!("dir:{}", first.path("manifests").display());
    let ca = first.path("ca").display().to_string();
    let mut second =
        program().args(["--source", &source, "--ca-dir", &ca, "--grpc-listen", &grpc, "--http-listen", &http]).spawn().unwrap();
    first.wait_until("the second one is ready", || {
        get(http.parse().unwrap(), "/ready", &http).is_some_and(|(status, _)| status == 200)
    });
    second.kill().unwrap();
    second.wait().unwrap();
    assert_eq!(common::read(first.dir.path(), "ca/ca.crt"), before);
}
