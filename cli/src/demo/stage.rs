//! Everything a demo needs before its first process: addresses, a directory, manifests, tokens; and what to start with them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::block::{Block, Need, NoBlock};
use super::fleet::{Fleet, FleetError, Launch, Programs};
use super::manifest::{self, ManifestError, Workload};
use super::scene::{Health, Scene};

/// The control plane's process.
pub(crate) const CONTROL_PLANE: &str = "control-plane";
/// Where the control plane lives in the block that manifests are written for.
const CONTROL_PLANE_IP: Ipv4Addr = Ipv4Addr::new(127, 10, 0, 1);
const GRPC_PORT: u16 = 15410;
const HTTP_PORT: u16 = 15411;
/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;

/// The manifests of `examples/canary`, so that the demo needs no other file than the programs.
const CANARY: [(&str, &str); 5] = [
    ("endpoints.yaml", include_str!("../../../examples/canary/endpoints.yaml")),
    ("namespace.yaml", include_str!("../../../examples/canary/namespace.yaml")),
    ("pods.yaml", include_str!("../../../examples/canary/pods.yaml")),
    ("route.yaml", include_str!("../../../examples/canary/route.yaml")),
    ("services.yaml", include_str!("../../../examples/canary/services.yaml")),
];

/// A demo that could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    NoBlock(#[from] NoBlock),
    #[error("{} could not be written: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no temporary directory for the demo (TMPDIR says where): {0}")]
    NoDirectory(io::Error),
    #[error("/dev/urandom gave no randomness for the workloads' tokens: {0}")]
    NoRandomness(io::Error),
}

/// A prepared demo. Its directory is deleted when it is dropped, unless [`Stage::keep`] was called.
pub(crate) struct Stage {
    directory: TempDir,
    block: Block,
    workloads: Vec<Workload>,
    programs: Programs,
}

/// The embedded manifests.
pub(crate) fn canary() -> Vec<(PathBuf, String)> {
    CANARY.iter().map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).collect()
}

impl Stage {
    /// Takes addresses, and writes manifests and tokens into a new directory.
    ///
    /// `origin` names where `files` come from.
    ///
    /// # Errors
    /// The manifests are of no use, no addresses are free, or a file cannot be written.
    pub(crate) fn prepare(
        origin: &Path,
        files: &[(PathBuf, String)],
        wanted_block: Option<u8>,
        programs: Programs,
    ) -> Result<Self, StageError> {
        let block = Block::claim(wanted_block, &needs(&manifest::workloads(origin, files)?))?;
        let moved: Vec<_> = files.iter().map(|(path, text)| (path.clone(), block.rewrite(text))).collect();
        let workloads = manifest::workloads(origin, &moved)?;
        let directory = tempfile::Builder::new().prefix("weir-demo-").tempdir().map_err(StageError::NoDirectory)?;
        let stage = Self { directory, block, workloads, programs };
        for name in ["manifests", "ca", "tokens", "state", "logs"] {
            let path = stage.path(name);
            fs::create_dir(&path).map_err(|source| StageError::Write { path, source })?;
        }
        for (path, text) in &moved {
            let path = stage.manifests().join(path.file_name().unwrap_or(path.as_os_str()));
            write(&path, text)?;
        }
        for workload in &stage.workloads {
            let path = stage.state(workload);
            fs::create_dir(&path).map_err(|source| StageError::Write { path, source })?;
        }
        stage.write_tokens()?;
        Ok(stage)
    }

    /// One token for each workload, as a join token would be handed to a machine, and the control plane's list of them.
    fn write_tokens(&self) -> Result<(), StageError> {
        let mut list = String::new();
        for workload in &self.workloads {
            let token = random_token().map_err(StageError::NoRandomness)?;
            list.push_str(&format!("{token} {} {}\n", workload.namespace, workload.service_account));
            write(&self.token(workload), &token)?;
        }
        write(&self.path("tokens.list"), &list)
    }

    /// Starts everything: the control plane, then all workloads at once. Returns when all are ready.
    ///
    /// # Errors
    /// A process does not start, or does not get ready.
    pub(crate) async fn start(&self, fleet: &mut Fleet, scene: &Scene) -> Result<(), FleetError> {
        for name in std::iter::once(CONTROL_PLANE).chain(self.workloads.iter().map(|workload| workload.name.as_str())) {
            scene.facts().set_health(name, Health::Down);
        }
        self.start_control_plane(fleet, scene).await?;
        for workload in &self.workloads {
            fleet.start(self.app(workload, &app_process(workload)))?;
            fleet.start(self.sidecar(workload, &sidecar_process(workload)))?;
        }
        for workload in &self.workloads {
            fleet.ready_tcp(&app_process(workload), workload.app()).await?;
            fleet.ready_http(&sidecar_process(workload), workload.admin(), "/ready").await?;
            scene.facts().set_health(&workload.name, Health::Up);
        }
        Ok(())
    }

    /// Starts the control plane and waits until it is ready.
    ///
    /// # Errors
    /// It does not start, or does not get ready.
    pub(crate) async fn start_control_plane(&self, fleet: &mut Fleet, scene: &Scene) -> Result<(), FleetError> {
        fleet.start(self.control_plane())?;
        fleet.ready_http(CONTROL_PLANE, self.control_plane_http(), "/ready").await?;
        scene.facts().set_health(CONTROL_PLANE, Health::Up);
        Ok(())
    }

    fn control_plane(&self) -> Launch<'_> {
        let mut source = OsString::from("dir:");
        source.push(self.manifests());
        let settings: [(&str, OsString); 5] = [
            ("--source", source),
            ("--ca-dir", self.path("ca").into()),
            ("--token-file", self.path("tokens.list").into()),
            ("--grpc-listen", self.control_plane_at(GRPC_PORT).to_string().into()),
            ("--http-listen", self.control_plane_http().to_string().into()),
        ];
        let arguments = settings.into_iter().flat_map(|(flag, value)| [flag.into(), value]).collect();
        Launch { name: CONTROL_PLANE, program: &self.programs.control_plane, arguments, environment: Vec::new() }
    }

    fn sidecar<'a>(&'a self, workload: &Workload, name: &'a str) -> Launch<'a> {
        let environment: [(&str, OsString); 12] = [
            ("WEIR_POD_NAME", workload.name.as_str().into()),
            ("WEIR_POD_NAMESPACE", workload.namespace.as_str().into()),
            ("WEIR_SERVICE_ACCOUNT", workload.service_account.as_str().into()),
            ("WEIR_POD_IP", workload.ip.to_string().into()),
            ("WEIR_CONTROL_PLANE", self.control_plane_at(GRPC_PORT).to_string().into()),
            ("WEIR_TRUST_BUNDLE", self.path("ca").join("ca.crt").into()),
            ("WEIR_TOKEN", self.token(workload).into()),
            ("WEIR_STATE_DIR", self.state(workload).into()),
            ("WEIR_OUTBOUND_LISTEN", workload.outbound().to_string().into()),
            ("WEIR_ADMIN_LISTEN", workload.admin().to_string().into()),
            ("WEIR_INBOUND", format!("{}={}", workload.inbound(), workload.app()).into()),
            ("WEIR_WORKERS", "1".into()),
        ];
        let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Launch { name, program: &self.programs.proxy, arguments: Vec::new(), environment }
    }

    /// The app gets its container's environment, and what it must know about itself.
    fn app<'a>(&'a self, workload: &Workload, name: &'a str) -> Launch<'a> {
        let own: [(&str, String); 5] = [
            ("WEIR_DEMO_LISTEN", workload.app().to_string()),
            ("WEIR_DEMO_PROXY", workload.outbound().to_string()),
            ("WEIR_POD_NAME", workload.name.clone()),
            ("WEIR_DEMO_SERVICE", workload.service.clone()),
            ("WEIR_DEMO_VERSION", workload.version.clone()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
        let environment = workload.env.iter().map(|(name, value)| (name.clone(), value.into())).chain(own).collect();
        Launch { name, program: &self.programs.weir, arguments: vec!["demo-app".into()], environment }
    }

    /// The workloads.
    pub(crate) fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The workload of this name.
    pub(crate) fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.name == name)
    }

    /// `127.N.0.0/16`.
    pub(crate) fn network(&self) -> String {
        self.block.network()
    }

    /// The control plane's HTTP port.
    pub(crate) fn control_plane_http(&self) -> SocketAddrV4 {
        self.control_plane_at(HTTP_PORT)
    }

    fn control_plane_at(&self, port: u16) -> SocketAddrV4 {
        self.block.address(SocketAddrV4::new(CONTROL_PLANE_IP, port))
    }

    /// Where the control plane reads from.
    pub(crate) fn manifests(&self) -> PathBuf {
        self.path("manifests")
    }

    /// The route whose weights the story edits.
    pub(crate) fn route(&self) -> PathBuf {
        self.manifests().join("route.yaml")
    }

    /// The demo's directory, for files that belong nowhere else.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn state(&self, workload: &Workload) -> PathBuf {
        self.path("state").join(&workload.name)
    }

    fn token(&self, workload: &Workload) -> PathBuf {
        self.path("tokens").join(&workload.name)
    }

    /// Leaves the directory where it is; returns where the logs are.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.path("logs")
    }
}

/// The sidecar's process.
pub(crate) fn sidecar_process(workload: &Workload) -> String {
    format!("{}.sidecar", workload.name)
}

/// The app's process.
pub(crate) fn app_process(workload: &Workload) -> String {
    format!("{}.app", workload.name)
}

/// The workload that a process belongs to; the control plane belongs to itself.
pub(crate) fn owner(process: &str) -> &str {
    process.strip_suffix(".sidecar").or_else(|| process.strip_suffix(".app")).unwrap_or(process)
}

/// Every address that will be listened on.
fn needs(workloads: &[Workload]) -> Vec<Need> {
    let control_plane = [GRPC_PORT, HTTP_PORT]
        .map(|port| Need { address: SocketAddrV4::new(CONTROL_PLANE_IP, port), user: "for the control plane".to_owned() });
    let of_workload = |workload: &Workload| {
        let need = |address, part: &str| Need { address, user: format!("for {}'s {part}", workload.name) };
        let sidecar = [workload.inbound(), workload.outbound(), workload.admin()].map(|address| need(address, "sidecar"));
        sidecar.into_iter().chain([need(workload.app(), "app")])
    };
    control_plane.into_iter().chain(workloads.iter().flat_map(of_workload)).collect()
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write(path: &Path, text: &str) -> Result<(), StageError> {
    fs::write(path, text).map_err(|source| StageError::Write { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_canary_has_every_file_of_the_example_and_its_workloads() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/canary");
        let written = manifest::read_files(&example).unwrap();
        let names = |files: &[(PathBuf, String)]| {
            files.iter().map(|(path, text)| (path.file_name().unwrap().to_owned(), text.clone())).collect::<Vec<_>>()
        };
        assert_eq!(names(&written), names(&canary()));
        let workloads = manifest::workloads(&example, &canary()).unwrap();
        let listed: Vec<_> = workloads.iter().map(|workload| workload.name.as_str()).collect();
        assert_eq!(listed, ["frontend", "catalog-v1-a", "catalog-v1-b", "catalog-v2", "prices"]);
        assert_eq!(needs(&workloads).len(), 2 + 5 * 4);
    }

    #[test]
    fn every_example_has_workloads_that_agree_with_its_endpoints() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        for example in ["canary", "blue-green", "retries-and-timeouts", "header-routing", "grpc"] {
            let directory = examples.join(example);
            let files = manifest::read_files(&directory).unwrap();
            let endpoints = &files.iter().find(|(path, _)| path.ends_with("endpoints.yaml")).unwrap().1;
            for workload in manifest::workloads(&directory, &files).unwrap() {
                let known = endpoints.contains(&format!("[\"{}\"]", workload.ip)) && endpoints.contains("port: 9080");
                assert!(known || workload.service == "client", "{example}: {} is behind no Service", workload.name);
                assert_eq!(workload.port, 9080);
            }
            assert!(directory.join("README.md").is_file(), "{example}");
        }
    }

    #[test]
    fn two_demos_are_prepared_beside_each_other_and_leave_nothing() {
        let prepare = || {
            let [weir, proxy, control_plane] = ["weir", "weir-proxy", "weir-control-plane"].map(PathBuf::from);
            Stage::prepare(Path::new("canary"), &canary(), None, Programs { weir, proxy, control_plane }).unwrap()
        };
        let [first, second] = [prepare(), prepare()];
        for stage in [&first, &second] {
            let prefix = stage.network().replace("0.0/16", "");
            let pods = fs::read_to_string(stage.manifests().join("pods.yaml")).unwrap();
            assert!(pods.contains(&format!("podIP: {prefix}1.5")), "{pods}");
            let frontend = stage.workload("frontend").unwrap();
            assert_eq!(frontend.outbound().to_string(), format!("{prefix}1.1:15401"));
            let token = fs::read_to_string(stage.token(frontend)).unwrap();
            let tokens = fs::read_to_string(stage.path("tokens.list")).unwrap();
            assert!(tokens.contains(&format!("{token} shop frontend\n")));
        }
        assert_ne!(first.network(), second.network());
        let left = [first.path(""), second.path("")];
        drop((first, second));
        assert!(left.iter().all(|directory| !directory.exists()));
    }

    #[test]
    fn tokens_differ() {
        let token = random_token().unwrap();
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        assert_ne!(token, random_token().unwrap());
    }
}
