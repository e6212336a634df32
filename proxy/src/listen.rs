//! Listening sockets, one set per worker: the kernel spreads connections over them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that may wait to be accepted. The kernel's own maximum (`net.core.somaxconn`) bounds it further.
const BACKLOG: i32 = 4096;

/// A listener whose address could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({setting}): {source}; stop what uses the address or choose another one")]
pub(crate) struct ListenError {
    address: SocketAddr,
    setting: &'static str,
    source: io::Error,
}

/// Binds `address`, which `setting` asked for. Every worker binds the same address.
///
/// # Errors
///
/// Names the address and the setting.
pub(crate) fn bind(address: SocketAddr, setting: &'static str) -> Result<TcpListener, ListenError> {
    open(address).map_err(|source| ListenError { address, setting, source })
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Fails when somebody else listens there already. `SO_REUSEPORT` would let two proxies of one user share the address silently,
/// and each would get half of the other's connections.
///
/// # Errors
///
/// Names the address and the setting.
pub(crate) fn is_free(address: SocketAddr, setting: &'static str) -> Result<(), ListenError> {
    let probe = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)
    };
    probe().map_err(|source| ListenError { address, setting, source })
}

/// Where a redirected connection was going. `None` for a connection that was made to the proxy itself.
pub(crate) fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let local = stream.local_addr().ok()?;
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    // Without an entry in the connection table the call fails: the connection was not redirected.
    let original = unmapped(original.ok()?.as_socket()?);
    (original != unmapped(local)).then_some(original)
}

/// An IPv4 address as such, also where a dual-stack socket shows it as IPv6.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), address.port()),
            None => address,
        },
        IpAddr::V4(_) => address,
    }
}
