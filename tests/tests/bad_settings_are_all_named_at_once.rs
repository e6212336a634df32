//! Bad settings are all named in one message with what to write instead; a taken port is named with its setting.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::net::TcpListener;
use std::process::Command;

use weir_tests::prelude::*;
use weir_tests::proxy::run_to_end;
use weir_tests::{address, binaries};

/// The settings that a proxy cannot do without.
const REQUIRED: [&str; 7] = [
    "WEIR_POD_NAME",
    "WEIR_POD_NAMESPACE",
    "WEIR_SERVICE_ACCOUNT",
    "WEIR_POD_IP",
    "WEIR_CONTROL_PLANE",
    "WEIR_TRUST_BUNDLE",
    "WEIR_TOKEN",
];

fn command(binary: std::path::PathBuf) -> Command {
    let mut command = Command::new(binary);
    command.env_clear();
    command
}

async fn refused(command: Command, status: i32) -> String {
    let directory = tempfile::tempdir().unwrap();
    let (ended, log) = run_to_end(command, directory.path()).await;
    assert_eq!(ended.code(), Some(status), "{log}");
    log
}

#[tokio::test]
async fn a_proxy_without_settings_names_every_one_it_needs() {
    let said = refused(command(binaries::proxy()), 2).await;
    for setting in REQUIRED {
        assert!(said.contains(setting), "{setting} is missing and not named: {said}");
    }
}

#[tokio::test]
async fn wrong_settings_are_named_together_with_what_was_written_and_what_to_write() {
    let mut command = command(binaries::proxy());
    let wrong = [
        ("WEIR_POD_NAME", "Not_A_Name"),
        ("WEIR_POD_NAMESPACE", "a b"),
        ("WEIR_SERVICE_ACCOUNT", "-x"),
        ("WEIR_POD_IP", "here"),
        ("WEIR_CONTROL_PLANE", "no-port"),
        ("WEIR_OUTBOUND_LISTEN", "15401"),
        ("WEIR_INBOUND_LISTEN", "everywhere"),
        ("WEIR_ADMIN_LISTEN", "127.0.0.1:99999"),
        ("WEIR_WORKERS", "many"),
        ("WEIR_INBOUND", "127.0.0.1:8080"),
        ("WEIR_DRAIN_TIMEOUT", "soon"),
        ("WEIR_LOG_FORMAT", "xml"),
    ];
    command.envs(wrong);
    let said = refused(command, 2).await;
    for (setting, _) in wrong {
        assert!(said.contains(setting), "{setting} is wrong and not named: {said}");
    }
    assert!(said.contains("WEIR_TOKEN") && said.contains("WEIR_TRUST_BUNDLE"), "what is missing is named beside it: {said}");
    assert!(said.contains("Not_A_Name") && said.contains("text or json"), "with what was written and what to write: {said}");
}

#[tokio::test]
async fn a_control_plane_without_settings_names_every_one_it_needs() {
    let mut command = command(binaries::control_plane());
    command.args(["--grpc-listen", "nowhere", "--http-listen", "x", "--trust-domain", "Not A Domain"]);
    let said = refused(command, 2).await;
    for setting in ["source", "grpc-listen", "http-listen", "trust-domain"] {
        assert!(said.contains(setting), "{setting} is not named: {said}");
    }
}

#[tokio::test]
async fn unknown_flags_are_bad_usage() {
    for binary in [binaries::proxy(), binaries::control_plane()] {
        let mut command = command(binary);
        command.arg("--no-such-flag");
        let said = refused(command, 2).await;
        assert!(said.contains("--no-such-flag"), "{said}");
    }
}

#[tokio::test]
async fn help_and_version_are_answered() {
    for (binary, name) in [(binaries::proxy(), "weir-proxy"), (binaries::control_plane(), "weir-control-plane")] {
        let mut help = command(binary.clone());
        help.arg("--help");
        let said = refused(help, 0).await;
        assert!(said.contains("WEIR_") && said.contains("--log-format"), "every flag is named with its variable: {said}");
        let mut version = command(binary);
        version.arg("--version");
        let said = refused(version, 0).await;
        assert!(said.starts_with(name), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_whose_port_is_taken_names_the_port_and_its_setting() {
    let mesh = Mesh::start().await;
    let workload = mesh.workload("late").app(App::http("late")).start().await;
    let home = workload.address();
    for (setting, port) in [("WEIR_OUTBOUND_LISTEN", 15401), ("WEIR_ADMIN_LISTEN", 15420), ("WEIR_INBOUND", 8080)] {
        let elsewhere = address::loopback();
        let taken = TcpListener::bind((elsewhere, port)).unwrap();
        // Everything stands at another address, where one port is taken.
        let mut settings = workload.settings().clone();
        for value in settings.environment.values_mut() {
            *value = value.replace(&home.to_string(), &elsewhere.to_string());
        }
        let said = refused(settings.command(), 1).await;
        assert!(said.contains(setting) && said.contains(&format!("{elsewhere}:{port}")), "{setting}: {said}");
        drop(taken);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_proxy_on_the_same_ports_does_not_share_the_traffic_of_the_first() {
    let mesh = Mesh::start().await;
    let caller = mesh.caller().await;
    let said = refused(caller.settings().command(), 1).await;
    assert!(said.contains("WEIR_"), "the setting is named: {said}");
    caller.proxy().process().still_runs().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_whose_port_is_taken_names_the_port_and_its_setting() {
    let mesh = Mesh::start().await;
    let said = refused(mesh.control_plane().command(), 1).await;
    assert!(said.contains("grpc-listen") || said.contains("http-listen"), "the setting is named: {said}");
    assert!(said.contains(":1541"), "the address is named: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_whose_directory_is_missing_says_so() {
    let mut command = command(binaries::control_plane());
    let directory = tempfile::tempdir().unwrap();
    let home = address::loopback();
    command.args(["--source", "dir:/no/such/directory", "--ca-dir"]).arg(directory.path());
    command.args(["--grpc-listen", &format!("{home}:15410"), "--http-listen", &format!("{home}:15411")]);
    let directory = tempfile::tempdir().unwrap();
    let (status, said) = run_to_end(command, directory.path()).await;
    assert!(!status.success() && said.contains("/no/such/directory"), "{status}: {said}");
}
