//! The control plane: the real binary, as a process of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use weir_core::names::TrustDomain;
use weir_proto::v1::CertifyRequest;
use weir_proto::v1::identity_client::IdentityClient;
use weir_tls::{Credentials, KeyRequest, Roots};

use crate::proxy;

/// Starting takes less than a second; reading tens of thousands of files takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What stands for a ServiceAccount's token outside Kubernetes.
const TOKEN: &str = "token-of-the-simulator";

/// The namespace and the service account of all proxies.
pub(crate) const NAMESPACE: &str = "scale";
pub(crate) const ACCOUNT: &str = "sim";

/// A control plane that runs until it is dropped.
pub(crate) struct Plane {
    /// Where proxies connect.
    pub(crate) grpc: SocketAddr,
    child: Child,
    directory: PathBuf,
}

/// What it has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    /// Seconds of CPU, in user space and in the kernel.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Resident memory, in MiB.
    pub(crate) resident: f64,
}

impl Plane {
    /// Starts the binary on `DIRECTORY/manifests`, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// In a sentence.
    pub(crate) async fn start(binary: &Path, directory: &Path) -> Result<Self, String> {
        let token = format!("{TOKEN} {NAMESPACE} {ACCOUNT}\n");
        fs::write(directory.join("tokens"), token).map_err(|error| error.to_string())?;
        let (grpc, http) = (free().map_err(|error| error.to_string())?, free().map_err(|error| error.to_string())?);
        let path = |name: &str| directory.join(name).display().to_string();
        let log = fs::File::create(directory.join("log")).map_err(|error| error.to_string())?;
        let child = Command::new(binary)
            .args(["--source", &format!("dir:{}", path("manifests")), "--ca-dir", &path("ca"), "--token-file", &path("tokens")])
            .args(["--grpc-listen", &grpc.to_string(), "--http-listen", &http.to_string(), "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}; build it: make bench-scale", binary.display()))?;
        let plane = Self { grpc, child, directory: directory.to_owned() };
        let begun = std::time::Instant::now();
        while !is_ready(http).await {
            if begun.elapsed() > PATIENCE {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(format!("the control plane is not ready after {PATIENCE:?}; its log:\n{log}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(plane)
    }

    /// The roots that its certificate leads to.
    ///
    /// # Errors
    ///
    /// In a sentence.
    pub(crate) fn roots(&self) -> Result<Roots, String> {
        let pem = fs::read_to_string(self.directory.join("ca/ca.crt")).map_err(|error| error.to_string())?;
        Roots::from_pem(trust_domain()?, &pem).map_err(|error| error.to_string())
    }

    /// A certificate for the proxies, asked for with a token as any proxy does.
    ///
    /// # Errors
    ///
    /// In a sentence.
    pub(crate) async fn credentials(&self) -> Result<Credentials, String> {
        let KeyRequest { key, csr_der } = KeyRequest::generate().map_err(|error| error.to_string())?;
        let channel = proxy::channel(self.grpc, &proxy::tls(None, &self.roots()?)?).await?;
        let request = CertifyRequest {
            token: TOKEN.into(),
            csr: csr_der.into(),
            namespace: NAMESPACE.into(),
            service_account: ACCOUNT.into(),
            pod: "sim".into(),
        };
        let answer = IdentityClient::new(channel).certify(request).await.map_err(|error| error.to_string())?;
        let chain = answer.into_inner().chain.iter().map(|der| der.to_vec().into()).collect();
        Credentials::new(chain, key).map_err(|error| error.to_string())
    }

    /// What it has used so far, from /proc. Ticks are a hundredth of a second on every Linux of today.
    pub(crate) fn used(&self) -> Used {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        // The name in brackets may have blanks in it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let seconds = |index: usize| fields.get(index).and_then(|it| it.parse::<f64>().ok()).unwrap_or_default() / 100.0;
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let resident = resident.split_whitespace().next().and_then(|it| it.parse::<f64>().ok()).unwrap_or_default() / 1024.0;
        Used { user: seconds(11), system: seconds(12), resident }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The trust domain of a control plane that was told none.
pub(crate) fn trust_domain() -> Result<TrustDomain, String> {
    "cluster.local".parse().map_err(|error| format!("{error}"))
}

/// A port that was free a moment ago.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

async fn is_ready(address: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET /ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.starts_with("HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
}
