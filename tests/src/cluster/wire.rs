//! The networks of the node and of its pods, entered from outside.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::{Capture, Namespace};
use crate::tools;

/// The node's network, from which every pod and every Service is reached.
#[must_use]
pub fn node() -> Namespace {
    let name = std::env::var("WEIR_CLUSTER_NAME").unwrap_or_else(|_| "weir".to_owned());
    Namespace::existing(&Path::new("/run/netns").join(name))
}

/// The network of the pod that has this address.
///
/// # Errors
///
/// When no pod of the node has it.
pub async fn network_of(address: IpAddr) -> Result<Namespace, String> {
    tokio::task::spawn_blocking(move || find(address)).await.map_err(|error| error.to_string())?
}

fn find(address: IpAddr) -> Result<Namespace, String> {
    let directory = mounted_networks()?;
    let entries = std::fs::read_dir(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    for entry in entries.flatten() {
        let network = Namespace::existing(&entry.path());
        let mut show = Command::new(tools::require("ip"));
        show.args(["-brief", "address", "show"]);
        // A pod that goes away meanwhile is not the one.
        let Ok(output) = network.try_output(show) else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut addresses = text.split_whitespace().filter_map(|word| word.split('/').next());
        if addresses.any(|word| word.parse() == Ok(address)) {
            return Ok(network);
        }
    }
    Err(format!("no pod of this node has the address {address}"))
}

/// Where the pods' networks are mounted: among the mounts of the node, which any of its processes shows.
fn mounted_networks() -> Result<PathBuf, String> {
    let runs = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "containerd");
    let containerd = node().processes().into_iter().find(runs).ok_or("the cluster has no containerd")?;
    Ok(PathBuf::from(format!("/proc/{containerd}/root/run/netns")))
}

/// Records what goes over the pod's wire. What stays within the pod, on its loopback, is not recorded: there the application
/// and its sidecar talk as they like.
#[must_use]
pub fn capture(network: &Namespace) -> Capture {
    // Frames of the loopback interface have no addresses: twelve zeros before the protocol.
    network.capture(|frame| frame.get(..12).is_some_and(|addresses| addresses.iter().any(|byte| *byte != 0)))
}
