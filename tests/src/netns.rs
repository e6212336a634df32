//! Network namespaces: workloads that have the network of a pod, redirection included.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use http::Method;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{Answer, Connection, request};
use crate::process::Process;
use crate::{binaries, tools};

/// The user that sidecars run as, whose traffic is not redirected.
pub const SIDECAR_USER: u32 = 15400;

/// A network namespace. One that the harness made is removed with the scenario.
pub struct Namespace {
    name: String,
    /// What it is entered by.
    handle: PathBuf,
    made: bool,
}

impl Namespace {
    /// A new one, with its loopback up.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    #[must_use]
    pub fn new(purpose: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-{}-{}-{purpose}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["netns", "add", &name]);
        let handle = Path::new("/run/netns").join(&name);
        let namespace = Self { name, handle, made: true };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    /// One that somebody else made and removes, such as a pod's, by the file that it is mounted on.
    #[must_use]
    pub fn existing(handle: &Path) -> Self {
        let name = handle.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, handle: handle.to_owned(), made: false }
    }

    /// The processes in it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let inode = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.ino());
        let wanted = inode(&self.handle);
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| wanted.is_some() && inode(Path::new(&format!("/proc/{pid}/ns/net"))) == wanted).collect()
    }

    /// Records every packet that its interfaces carry from now on, if `wanted`.
    ///
    /// # Panics
    ///
    /// When packets cannot be captured.
    #[must_use]
    pub fn capture(&self, wanted: fn(&[u8]) -> bool) -> Capture {
        /// `ETH_P_ALL`, in network byte order as the kernel wants it.
        const EVERY_PROTOCOL: i32 = 0x0300;
        let socket = self.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERY_PROTOCOL))));
        let mut socket = socket.expect("packets can be captured");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout can be set");
        socket.set_recv_buffer_size(8 << 20).expect("the buffer can grow");
        let (bytes, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (record, stop) = (Arc::clone(&bytes), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            while !stop.load(Ordering::Relaxed) {
                if let Ok(count) = socket.read(&mut packet)
                    && wanted(&packet[..count])
                {
                    record.lock().unwrap().extend_from_slice(&packet[..count]);
                }
            }
        });
        Capture { bytes, done, thread: Some(thread) }
    }

    /// Does something inside. Sockets and processes that it makes belong to the namespace, wherever they are used later.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        self.try_enter(action).unwrap_or_else(|error| panic!("{} cannot be entered: {error}", self.handle.display()))
    }

    /// Does something inside, if it is still there.
    ///
    /// # Errors
    ///
    /// When it cannot be entered.
    fn try_enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> io::Result<T> {
        let handle = File::open(&self.handle)?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(action())
            });
            inside.join().expect("the action ends in order")
        })
    }

    /// A listener inside.
    ///
    /// # Panics
    ///
    /// When the address is not free.
    #[must_use]
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.enter(|| TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address} in {}: {error}", self.name))
    }

    /// A connection made from inside.
    ///
    /// # Errors
    ///
    /// When nobody accepts it.
    pub fn connect(&self, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let stream = self.try_enter(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))??;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }

    /// GET of a page, asked from inside.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Answer, String> {
        let stream = self.connect(address).map_err(|error| error.to_string())?;
        Connection::over(stream, false).await?.send(request(Method::GET, &format!("http://{address}{path}"))).await
    }

    /// A process inside.
    #[must_use]
    pub fn spawn(&self, name: &str, command: Command, directory: &std::path::Path) -> Process {
        self.enter(|| Process::spawn(name, command, directory))
    }

    /// Runs a program inside to its end, if the namespace is still there, and answers with its output.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn try_output(&self, mut command: Command) -> io::Result<std::process::Output> {
        self.try_enter(|| command.output())?
    }

    /// Runs a program inside to its end and answers with its output.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn output(&self, command: Command) -> std::process::Output {
        self.try_output(command).expect("the program starts")
    }

    /// Puts the redirection of a meshed pod in place, as a pod's init container does.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn redirect(&self) {
        let mut init = Command::new(binaries::proxy());
        init.env_clear().arg("init");
        let output = self.output(init);
        assert!(output.status.success(), "weir-proxy init: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A wire between this namespace and another one: `eth0` on both sides, with these addresses in CIDR notation, and
    /// everything else behind it.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn wire(&self, addresses: &[&str], other: &Self, other_addresses: &[&str]) {
        ip(&["link", "add", "eth0", "netns", &self.name, "type", "veth", "peer", "name", "eth0", "netns", &other.name]);
        for (namespace, addresses) in [(self, addresses), (other, other_addresses)] {
            namespace.ip(&["link", "set", "eth0", "up"]);
            for address in addresses {
                // Without looking for somebody else who has it: an IPv6 address could not be used before.
                let now: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                namespace.ip(&[&["address", "add", address, "dev", "eth0"], now].concat());
                let family = if address.contains(':') { "-6" } else { "-4" };
                namespace.ip(&[family, "route", "replace", "default", "dev", "eth0"]);
            }
        }
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", self.name.as_str()], arguments].concat());
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.made {
            let _ = Command::new(tools::require("ip")).args(["netns", "del", &self.name]).status();
        }
    }
}

/// The network between the workloads: each is attached with a wire of its own.
pub struct Fabric {
    inside: Namespace,
    attached: AtomicU32,
}

impl Fabric {
    /// A network with nobody on it but a host at `address`.
    ///
    /// # Panics
    ///
    /// When a tool or a right is missing.
    #[must_use]
    pub fn new(address: Ipv4Addr) -> Self {
        tools::require_root();
        let inside = Namespace::new("fabric");
        inside.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]);
        let forwarding = inside.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"));
        forwarding.expect("the fabric can be made to forward");
        Self { inside, attached: AtomicU32::new(0) }
    }

    /// The namespace of the network itself, where all wires end.
    #[must_use]
    pub fn inside(&self) -> &Namespace {
        &self.inside
    }

    /// A namespace with this address, from which everything on the network can be reached.
    #[must_use]
    pub fn attach(&self, purpose: &str, address: Ipv4Addr) -> Namespace {
        let namespace = Namespace::new(purpose);
        let wire = format!("wire{}", self.attached.fetch_add(1, Ordering::Relaxed));
        let (fabric, pod) = (self.inside.name.as_str(), namespace.name.as_str());
        ip(&["link", "add", &wire, "netns", fabric, "type", "veth", "peer", "name", "eth0", "netns", pod]);
        self.inside.ip(&["link", "set", &wire, "up"]);
        self.inside.ip(&["route", "add", &format!("{address}/32"), "dev", &wire]);
        namespace.ip(&["address", "add", &format!("{address}/32"), "dev", "eth0"]);
        namespace.ip(&["link", "set", "eth0", "up"]);
        // The other end answers for every address, as the host side of a pod's wire does.
        namespace.ip(&["route", "add", "169.254.1.1", "dev", "eth0", "scope", "link"]);
        namespace.ip(&["route", "add", "default", "via", "169.254.1.1", "dev", "eth0"]);
        self.inside.ip(&["address", "add", "169.254.1.1/32", "dev", &wire]);
        namespace
    }

    /// Records every packet that crosses the network from now on.
    ///
    /// # Panics
    ///
    /// When packets cannot be captured.
    #[must_use]
    pub fn capture(&self) -> Capture {
        self.inside.capture(|_| true)
    }
}

/// What crossed the network.
pub struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Whether these bytes stood in one packet.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn has(&self, needle: &str) -> bool {
        self.bytes.lock().unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
    }

    /// Bytes recorded so far.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.lock().unwrap().len()
    }

    /// Whether nothing crossed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new(tools::require("ip")).args(arguments).output().expect("ip starts");
    assert!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
}
