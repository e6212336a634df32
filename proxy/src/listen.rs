//! Listening sockets, one set per worker: the kernel spreads connections over them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that may wait to be accepted. The kernel's own maximum (`net.core.somaxconn`) bounds it further.
const BACKLOG: i32 = 4096;

/// An address to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The address.
    pub(crate) address: SocketAddr,
    /// The setting that it comes from.
    pub(crate) setting: &'static str,
    /// Beside one of IPv4, because nobody said where: a machine without IPv6 is none the worse for it.
    pub(crate) beside: bool,
}

impl Place {
    /// One that somebody asked for, or that is the default.
    pub(crate) const fn of(address: SocketAddr, setting: &'static str) -> Self {
        Self { address, setting, beside: false }
    }

    /// One of IPv6 beside it.
    pub(crate) const fn beside(address: SocketAddr, setting: &'static str) -> Self {
        Self { address, setting, beside: true }
    }

    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        if self.beside {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        Ok(socket)
    }

    /// `None` where it is one of IPv6 that nobody asked for, and the machine has no IPv6 or has it switched off.
    fn tried<T>(&self, tried: io::Result<T>) -> Result<Option<T>, ListenError> {
        const EAFNOSUPPORT: i32 = 97;
        let has_none =
            |error: &io::Error| error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable;
        match tried {
            Err(error) if self.beside && has_none(&error) => Ok(None),
            tried => tried.map(Some).map_err(|source| ListenError { address: self.address, setting: self.setting, source }),
        }
    }
}

/// A listener whose address could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({setting}): {source}; stop what uses the address or choose another one")]
pub(crate) struct ListenError {
    address: SocketAddr,
    setting: &'static str,
    source: io::Error,
}

/// Binds an address. Every worker binds the same one.
///
/// # Errors
///
/// Names the address and the setting.
pub(crate) fn bind(place: &Place) -> Result<Option<TcpListener>, ListenError> {
    let open = || {
        let socket = place.socket()?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&place.address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    place.tried(open())
}

/// Fails when somebody else listens there already. `SO_REUSEPORT` would let two proxies of one user share the address silently,
/// and each would get half of the other's connections.
///
/// # Errors
///
/// Names the address and the setting.
pub(crate) fn is_free(place: &Place) -> Result<(), ListenError> {
    bind_alone(place).map(drop)
}

/// Binds an address that nobody shares.
///
/// # Errors
///
/// Names the address and the setting.
pub(crate) fn bind_alone(place: &Place) -> Result<Option<StdListener>, ListenError> {
    let open = || {
        let socket = place.socket()?;
        socket.set_nonblocking(true)?;
        socket.bind(&place.address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    place.tried(open())
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
