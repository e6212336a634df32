//! The architecture holds: decisions stay pure, the servers stay apart, and only two files know both the wire and the core.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// What a decision must not be able to reach: runtimes, sockets, protocols, clusters, cryptography.
const IMPURE: [&str; 16] = [
    "tokio",
    "tokio-util",
    "async-std",
    "mio",
    "socket2",
    "hyper",
    "hyper-util",
    "h2",
    "tonic",
    "prost",
    "weir-proto",
    "kube",
    "k8s-openapi",
    "rustls",
    "aws-lc-rs",
    "weir-tls",
];

/// Libraries that the project does without, and what it has instead.
const BANNED: [(&str, &str); 5] = [
    ("ring", "aws-lc-rs"),
    ("openssl", "rustls"),
    ("native-tls", "rustls"),
    ("reqwest", "hyper"),
    ("serde_yaml", "serde-saphyr"),
];

/// The three servers: each may be installed without the others.
const SERVERS: [&str; 3] = ["weir-proxy", "weir-control-plane", "weir-injector"];

/// The encoder and the decoder, the only places that know what a resource looks like on both sides. Directories end in `/`.
const TRANSLATORS: [&str; 4] = [
    "control-plane/src/publish/encode.rs",
    "control-plane/src/publish/encode/",
    "proxy/src/control/decode.rs",
    "proxy/src/control/decode/",
];

/// Other files that name both crates, each with its reason. They move envelopes (names, versions, acknowledgements, certificate
/// requests) and look into no resource.
const CARRIERS: [(&str, &str); 7] = [
    ("control-plane/src/publish/resources.rs", "puts encoded bodies, names and versions together"),
    ("control-plane/src/server.rs", "tells both services who the peer of a connection is"),
    ("control-plane/src/publish/stream.rs", "reads who asks and for which names, and writes what the encoder made"),
    ("control-plane/src/identity.rs", "checks who asks for a certificate"),
    ("proxy/src/control/discovery.rs", "asks for names and hands responses to the decoder"),
    ("proxy/src/control/identity.rs", "asks for a certificate in the workload's name"),
    ("proxy/src/control/state.rs", "saves responses as they came, by name"),
];

/// Messages that describe the configuration itself, as opposed to its envelopes.
const CONTENT: [&str; 16] = [
    "resource::Body",
    "v1::Service",
    "v1::ServicePort",
    "v1::HttpRoutes",
    "v1::HttpRule",
    "v1::HttpMatch",
    "v1::HttpFilter",
    "v1::KeyMatch",
    "v1::WeightedBackend",
    "v1::Retry",
    "v1::Endpoints",
    "v1::Endpoint",
    "v1::Address",
    "v1::Inbound",
    "v1::InboundPort",
    "v1::TrustBundle",
];

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(weir_tests::binaries::workspace().join("Cargo.toml")).exec().unwrap()
}

/// Normal and build dependencies of every package, by name.
fn graph(metadata: &Metadata) -> BTreeMap<PackageId, Vec<PackageId>> {
    let resolve = metadata.resolve.as_ref().unwrap();
    let shipped = |node: &cargo_metadata::Node| {
        let deps = node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
        (node.id.clone(), deps.map(|dep| dep.pkg.clone()).collect())
    };
    resolve.nodes.iter().map(shipped).collect()
}

fn id(metadata: &Metadata, name: &str) -> PackageId {
    metadata.packages.iter().find(|package| *package.name == name).unwrap_or_else(|| panic!("there is no {name}")).id.clone()
}

/// Names of everything that `package` is built from.
fn closure(metadata: &Metadata, package: &str) -> BTreeSet<String> {
    let graph = graph(metadata);
    let (mut found, mut open) = (BTreeSet::new(), vec![id(metadata, package)]);
    while let Some(next) = open.pop() {
        for dependency in &graph[&next] {
            if found.insert(metadata[dependency].name.to_string()) {
                open.push(dependency.clone());
            }
        }
    }
    found
}

#[test]
fn the_core_is_built_without_runtimes_sockets_protocols_and_cryptography() {
    for package in ["weir-core", "weir-objects"] {
        let reached = closure(&metadata(), package);
        for name in IMPURE {
            assert!(!reached.contains(name), "{package} depends on {name}; a decision that needs it belongs into a server");
        }
    }
    assert!(closure(&metadata(), "weir-core").contains("thiserror"), "the graph is not read: weir-core depends on thiserror");
}

#[test]
fn the_servers_do_not_depend_on_each_other() {
    let metadata = metadata();
    for server in SERVERS {
        let reached = closure(&metadata, server);
        for other in SERVERS {
            assert!(server == other || !reached.contains(other), "{server} depends on {other}");
        }
    }
}

#[test]
fn nothing_that_ships_depends_on_the_tests() {
    let metadata = metadata();
    for package in metadata.workspace_packages().iter().filter(|package| *package.name != "weir-tests") {
        assert!(!closure(&metadata, &package.name).contains("weir-tests"), "{} depends on weir-tests", package.name);
    }
}

#[test]
fn libraries_that_the_project_does_without_are_not_built() {
    let built = built();
    assert!(built.contains("rustls"), "the tree is not read");
    for (name, instead) in BANNED {
        assert!(!built.contains(name), "something is built with {name}, and the project uses {instead}: cargo tree -i {name}");
    }
}

/// Names of everything that is built. `cargo metadata` also lists what features leave out.
fn built() -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(weir_tests::binaries::workspace())
        .args(["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}"])
        .output()
        .unwrap();
    let tree = weir_tests::tools::stdout(&output);
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn only_the_encoder_and_the_decoder_know_both_the_wire_and_the_core() {
    let (mut translators, mut strangers) = (0, Vec::new());
    for (name, code) in workspace_code() {
        if is_test(&name) || !(code.contains("weir_proto") && code.contains("weir_core")) {
            continue;
        }
        if is_one_of(&name, TRANSLATORS) {
            translators += 1;
        } else if !is_one_of(&name, CARRIERS.map(|(path, _)| path)) {
            strangers.push(name);
        }
    }
    assert!(translators >= 2, "the encoder and the decoder are there");
    assert!(
        strangers.is_empty(),
        "{strangers:?} know both weir_proto and weir_core; let the encoder or the decoder stand between"
    );
}

#[test]
fn what_a_resource_looks_like_on_the_wire_is_known_to_the_encoder_and_the_decoder_alone() {
    for (name, code) in workspace_code() {
        if is_test(&name) || is_one_of(&name, TRANSLATORS) {
            continue;
        }
        for message in CONTENT {
            let named = code.split(message).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_alphanumeric()));
            assert!(!named, "{name} knows the message {message}; let the encoder or the decoder stand between");
        }
    }
}

/// Every Rust file of the workspace: its path from there, and its code.
fn workspace_code() -> Vec<(String, String)> {
    let workspace = weir_tests::binaries::workspace();
    let named = |file: PathBuf| (file.strip_prefix(&workspace).unwrap().to_string_lossy().into_owned(), code_of(&file));
    sources(&workspace).into_iter().map(named).collect()
}

/// Tests compare both worlds, and the benchmark of the control plane plays the proxies' part. Neither ships.
fn is_test(name: &str) -> bool {
    name.starts_with("tests/")
        || name.starts_with("bench/scale/")
        || name.ends_with("/tests.rs")
        || name.ends_with("_tests.rs")
        || name.contains("/tests/")
}

fn is_one_of<'a>(name: &str, paths: impl IntoIterator<Item = &'a str>) -> bool {
    paths.into_iter().any(|path| name == path || (path.ends_with('/') && name.starts_with(path)))
}

#[test]
fn pure_parts_of_the_control_plane_never_see_the_wire() {
    let workspace = weir_tests::binaries::workspace();
    let pure = ["control-plane/src/index", "control-plane/src/translate", "objects/src"];
    for directory in pure {
        for file in sources(&workspace.join(directory)) {
            let code = code_of(&file);
            for impure in ["weir_proto", "tokio", "tonic", "std::fs", "std::net::Tcp", "SystemTime::now", "Instant::now"] {
                assert!(!code.contains(impure), "{} uses {impure}, and it is to decide, not to act", file.display());
            }
        }
    }
}

/// Rust files below a directory, without what is built.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return files };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A file without its comments, in which any name may be mentioned.
fn code_of(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}
