//! Programs that some scenarios use. One that is missing fails the scenario; `make test` installs all of them.

use std::path::PathBuf;
use std::process::{Command, Output};

/// Where `program` is.
///
/// # Panics
///
/// When it is not installed, with the package that has it.
#[must_use]
pub fn require(program: &str) -> PathBuf {
    let package = match program {
        "nft" => "nftables",
        "ip" => "iproute2",
        "h2load" => "nghttp2-client",
        "psql" => "postgresql-client",
        "postgres" | "initdb" | "pgbench" => "postgresql",
        "redis-cli" => "redis-tools",
        other => other,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps administrators' programs out of an ordinary user's PATH.
    let extra = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path)
        .chain(extra)
        .chain(postgresql())
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("this scenario needs `{program}`: apt-get install {package} (`make test` does)"))
}

/// Where Debian has PostgreSQL's own programs, a directory for each version.
fn postgresql() -> impl Iterator<Item = PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|version| version.path().join("bin"))
}

/// Where h2spec is. It is built from its Go module when it is not there yet.
///
/// # Panics
///
/// When that cannot be done, with what is missing.
pub async fn h2spec() -> PathBuf {
    let script = crate::binaries::workspace().join("tests/h2spec/build");
    PathBuf::from(stdout(&run(Command::new(script)).await).trim_end())
}

/// Fails with a clear message unless the test runs as root, which network namespaces need.
///
/// # Panics
///
/// When it does not.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this scenario makes network namespaces and needs root: run it as root, or in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    );
}

/// Runs a program to its end without blocking the test's runtime.
///
/// # Panics
///
/// When it does not start.
pub async fn run(mut command: Command) -> Output {
    let name = command.get_program().to_string_lossy().into_owned();
    tokio::task::spawn_blocking(move || command.output())
        .await
        .expect("the blocking task runs")
        .unwrap_or_else(|error| panic!("{name} does not start: {error}"))
}

/// Its standard output, when it succeeded.
///
/// # Panics
///
/// When it failed, with what it wrote.
pub fn stdout(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the program failed ({}): {err}\n{out}", output.status);
    out
}
