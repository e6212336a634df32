//! Where the binaries under test are.
//!
//! `WEIR_BIN_DIR` names a directory that has them; without it they are built once, with the `quick` profile.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The proxy's binary.
#[must_use]
pub fn proxy() -> PathBuf {
    binary("weir-proxy")
}

/// Puts a copy of the proxy's binary where any user can run it, wherever the workspace is.
///
/// Another program makes it. What this process has open for writing, a child that another thread is just starting has open
/// too until it runs its own program, and until then nobody can run the copy ("Text file busy").
///
/// # Panics
///
/// When it cannot be made.
pub fn copy_proxy(to: &Path) {
    let status = Command::new("cp").arg(proxy()).arg(to).status().expect("cp can be run");
    assert!(status.success(), "the proxy's binary is not copied to {}: {status}", to.display());
}

/// The control plane's binary.
#[must_use]
pub fn control_plane() -> PathBuf {
    binary("weir-control-plane")
}

/// The simulator of many proxies.
#[must_use]
pub fn bench_scale() -> PathBuf {
    binary("weir-bench-scale")
}

/// The user's command.
#[must_use]
pub fn weir() -> PathBuf {
    binary("weir")
}

fn binary(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(
        path.is_file(),
        "{} is missing; unset WEIR_BIN_DIR to have it built, or point it at a directory that has it",
        path.display()
    );
    path
}

fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| match std::env::var_os("WEIR_BIN_DIR") {
        Some(given) => workspace().join(given),
        None => build(),
    })
}

/// The directory of the workspace.
///
/// # Panics
///
/// Never: this crate lies in it.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_path_buf()
}

/// Builds the binaries. Test processes that start at the same moment take turns, so that the machine builds them once.
fn build() -> PathBuf {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("`cargo metadata` reads the workspace");
    let target = metadata.target_directory.into_std_path_buf();
    std::fs::create_dir_all(&target).expect("the target directory can be made");
    let turn = File::create(target.join(".scenario-binaries.lock")).expect("the lock file can be made");
    turn.lock().expect("the lock file can be locked");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--quiet", "--profile", "quick", "--bins", "-p", "weir-proxy", "-p", "weir-control-plane", "-p", "weir"])
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the binaries under test do not build; see the compiler's messages above");
    target.join("quick")
}
