//! The cluster, the images in it, and Weir: once per test process, and only as far as it is not there already.

use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::OnceCell;

use super::kubectl::{cluster, kubectl, run, run_now};
use super::{DEADLINE, SYSTEM, until};
use crate::binaries::workspace;
use crate::wait::ensure;

/// The parts of Weir in the cluster.
pub const PARTS: [&str; 2] = ["weir-control-plane", "weir-injector"];
/// Images that the scenarios use, by the programs in them.
const IMAGES: [&str; 4] = ["proxy", "control-plane", "injector", "test-app"];
/// Remembers in the cluster which programs its images were made of.
const BUILD: &str = "weir-tests/build";

/// Whether namespaces of failed scenarios, and the cluster, are left as they are.
#[must_use]
pub fn is_kept() -> bool {
    std::env::var_os("WEIR_CLUSTER_KEEP").is_some_and(|value| !value.is_empty())
}

/// Waits until Weir runs in a cluster, and does what is needed for that.
///
/// # Panics
///
/// When that fails: once with all the details, and for every further scenario with the same words.
pub(super) async fn is_there() {
    static INSTALLED: OnceCell<Result<(), String>> = OnceCell::const_new();
    if let Err(error) = INSTALLED.get_or_init(install_all).await {
        panic!("there is no cluster with Weir in it: {error}");
    }
}

async fn install_all() -> Result<(), String> {
    let programs = programs().await?;
    if run(cluster(&["status"]), None).await.is_err() {
        run(cluster(&["up"]), None).await?;
    }
    let build = fingerprint(&programs)?;
    let loaded = run(kubectl(&["get", "namespace", "default", "-o", &jsonpath()]), None).await?;
    let same = loaded.trim() == build;
    if !same {
        load_images(&programs).await?;
    }
    // What an earlier process left behind would only take the cores away.
    run(kubectl(&["delete", "namespace", "--selector", "weir-tests=scenario", "--wait=false"]), None).await?;
    let crds = run(Command::new(workspace().join("tests/conformance/crds")), None).await?;
    run(kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"]), Some(crds)).await?;
    install(&[]).await?;
    if !same {
        // The tag is the same as before, so that Kubernetes would keep the pods of the old programs.
        for part in PARTS {
            run(kubectl(&["-n", SYSTEM, "rollout", "restart", &format!("deployment/{part}")]), None).await?;
        }
    }
    is_ready().await?;
    let remembered = format!("{BUILD}={build}");
    run(kubectl(&["annotate", "--overwrite", "namespace", "default", &remembered]), None).await?;
    Ok(())
}

/// Installs Weir, with these options, or puts back what a scenario has broken: `weir install | kubectl apply -f -`.
///
/// # Errors
///
/// What the command or the API server says.
pub async fn install(options: &[&str]) -> Result<(), String> {
    let objects = run(weir(&[&["install"], options].concat()), None).await?;
    run(kubectl(&["apply", "-f", "-"]), Some(objects)).await?;
    Ok(())
}

/// Puts back what a scenario broke before it failed, so that the others do not fail with it.
pub(super) fn repair() {
    let apply = |objects| run_now(kubectl(&["apply", "-f", "-"]), Some(objects));
    if let Err(error) = run_now(weir(&["install"]), None).and_then(apply) {
        eprintln!("Weir could not be installed again: {error}");
    }
    for part in PARTS {
        let _ = run_now(kubectl(&["-n", SYSTEM, "rollout", "status", &format!("deployment/{part}"), "--timeout=60s"]), None);
    }
}

/// Waits until all replicas of Weir's parts are new and ready.
///
/// # Errors
///
/// When they are not.
pub async fn is_ready() -> Result<(), String> {
    let timeout = format!("--timeout={}s", DEADLINE.as_secs());
    for part in PARTS {
        run(kubectl(&["-n", SYSTEM, "rollout", "status", &format!("deployment/{part}"), &timeout]), None).await?;
    }
    Ok(())
}

/// The command `weir` against the cluster.
#[must_use]
pub fn weir(arguments: &[&str]) -> Command {
    let mut command = cluster(&["exec"]);
    command.arg(directory().join("weir")).args(arguments);
    command
}

/// Waits until a Deployment of Weir has this many ready pods and no others.
///
/// # Panics
///
/// When that does not come.
pub async fn has_replicas(part: &str, replicas: usize) {
    let selector = format!("app.kubernetes.io/name={part}");
    until(&format!("{part} has {replicas} pods"), async || {
        let list = super::kubectl::json(&["-n", SYSTEM, "get", "pods", "--selector", &selector]).await?;
        let pods: Vec<super::Pod> = list["items"].as_array().into_iter().flatten().cloned().map(super::Pod::from).collect();
        let ready = pods.iter().filter(|pod| pod.is_ready()).count();
        ensure(ready == replicas && pods.len() == replicas, || format!("it has {} pods, {ready} of them ready", pods.len()))
    })
    .await;
}

fn jsonpath() -> String {
    format!("jsonpath={{.metadata.annotations.{}}}", BUILD.replace('.', "\\."))
}

fn directory() -> PathBuf {
    match std::env::var_os("WEIR_BIN_DIR") {
        Some(given) => workspace().join(given),
        None => workspace().join("target/quick"),
    }
}

/// The directory of all programs, built if nobody says that they are.
async fn programs() -> Result<PathBuf, String> {
    if std::env::var_os("WEIR_BIN_DIR").is_none() {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.current_dir(workspace()).args(["build", "--quiet", "--profile", "quick", "--workspace", "--bins"]);
        run(build, None).await?;
    }
    Ok(directory())
}

fn fingerprint(programs: &Path) -> Result<String, String> {
    let mut all = Vec::new();
    for image in IMAGES {
        let path = programs.join(format!("weir-{image}"));
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}; make build", path.display()))?;
        all.extend_from_slice(digest(&SHA256, &bytes).as_ref());
    }
    let whole = digest(&SHA256, &all);
    Ok(whole.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

async fn load_images(programs: &Path) -> Result<(), String> {
    let out = workspace().join("target/images");
    let mut build = Command::new(workspace().join("tests/cluster/images/build"));
    build.arg("--bin-dir").arg(programs).arg("--out").arg(&out).args(IMAGES);
    run(build, None).await?;
    let mut load = cluster(&["load"]);
    load.args(IMAGES.map(|image| out.join(format!("{image}.tar"))));
    run(load, None).await?;
    Ok(())
}
