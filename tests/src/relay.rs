//! A relay that breaks connections at a chosen byte: what a crash, a firewall or a bad cable does, in the moment that a scenario
//! wants it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Which bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Those that go to the server.
    Request,
    /// Those that come back.
    Answer,
}

/// What happens to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both sides see it end in order.
    Finish,
    /// Both sides see it reset.
    Reset,
    /// Nothing passes any more, and nobody is told, until the plan is forgotten.
    Stall,
}

/// A connection that breaks: `after` more bytes have passed this way it is cut. With 0 it is cut when the next byte comes, which
/// does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// Which bytes are counted.
    pub way: Way,
    /// How many of them still pass.
    pub after: usize,
    /// And then.
    pub cut: Cut,
}

#[derive(Default)]
struct Shared {
    planned: Mutex<Option<Break>>,
    passed: [AtomicUsize; 2],
    forgotten: Notify,
}

impl Shared {
    /// How many of `count` bytes may pass, and what happens after them.
    fn admit(&self, way: Way, count: usize) -> (usize, Option<Cut>) {
        let mut planned = self.planned.lock().unwrap();
        match planned.as_mut() {
            Some(plan) if plan.way == way && plan.after <= count => {
                let cut = (plan.after, Some(plan.cut));
                *planned = None;
                cut
            }
            Some(plan) if plan.way == way => {
                plan.after -= count;
                (count, None)
            }
            _ => (count, None),
        }
    }
}

/// A relay. It ends, connections and all, when this is dropped.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

impl Relay {
    /// Passes on what comes to `address`, whose port may be 0.
    ///
    /// # Panics
    ///
    /// When the address is taken.
    pub async fn start(address: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap_or_else(|error| panic!("{address} is not free: {error}"));
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let (inner, mut accepting) = (Arc::clone(&shared), JoinSet::new());
        accepting.spawn(async move {
            // Dropped with this future, which ends every connection.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&inner);
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(target).await {
                        relay(client, server, &shared).await;
                    }
                });
            }
        });
        Self { address, shared, _accepting: accepting }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whichever connection carries the byte in question is broken, once.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    pub fn plan(&self, plan: Break) {
        *self.shared.planned.lock().unwrap() = Some(plan);
    }

    /// Nothing is to be broken any more, and what stalls is closed. Whether nothing had been broken yet.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    pub fn forget(&self) -> bool {
        self.shared.forgotten.notify_waiters();
        self.shared.planned.lock().unwrap().take().is_some()
    }

    /// Bytes that have passed.
    #[must_use]
    pub fn passed(&self, way: Way) -> usize {
        self.shared.passed[way as usize].load(Ordering::Relaxed)
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, shared: &Shared) {
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let cut = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let there = pass(from_client, to_server, Way::Request, shared);
        let back = pass(from_server, to_client, Way::Answer, shared);
        tokio::pin!(there, back);
        // A side that has ended leaves the other to go on; a cut ends both.
        let first = tokio::select! { cut = &mut there => (cut, true), cut = &mut back => (cut, false) };
        match first {
            (Some(cut), _) => Some(cut),
            (None, true) => back.await,
            (None, false) => there.await,
        }
    };
    match cut {
        None => {}
        Some(Cut::Finish) => {
            let _ = tokio::join!(client.shutdown(), server.shutdown());
            // Bytes that nobody has read would make a reset of it.
            let (mut scrap, mut other) = (Vec::new(), Vec::new());
            let _ = tokio::join!(client.read_to_end(&mut scrap), server.read_to_end(&mut other));
        }
        Some(Cut::Reset) => {
            for stream in [&client, &server] {
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
        }
        Some(Cut::Stall) => shared.forgotten.notified().await,
    }
}

/// Passes bytes one way until they end, or the plan says otherwise.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, way: Way, shared: &Shared) -> Option<Cut> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) => {
                let _ = to.shutdown().await;
                return None;
            }
            // What the one side sees, the other is to see.
            Err(_) => return Some(Cut::Reset),
            Ok(count) => count,
        };
        let (admitted, cut) = shared.admit(way, count);
        if to.write_all(&buffer[..admitted]).await.is_err() {
            return Some(Cut::Reset);
        }
        shared.passed[way as usize].fetch_add(admitted, Ordering::Relaxed);
        if cut.is_some() {
            return cut;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address;
    use crate::raw::Raw;

    /// What a client sees of an echo behind a relay that breaks like this: the bytes, and whether they ended in order.
    async fn seen(plan: Break) -> (Vec<u8>, bool) {
        let echo = SocketAddr::new(address::loopback().into(), 8080);
        let listener = TcpListener::bind(echo).await.unwrap();
        let _echo = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        let address = SocketAddr::new(address::loopback().into(), 8080);
        let relay = Relay::start(address, echo).await;
        let mut raw = Raw::connect(address).await;
        raw.write("whole").await;
        assert_eq!(raw.exactly(5).await, b"whole");
        relay.plan(plan);
        let mut stream = raw.into_inner();
        stream.write_all(b"broken").await.unwrap();
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes).await.is_ok();
        assert!(!relay.forget());
        assert_eq!(relay.passed(Way::Answer), 5 + bytes.len());
        (bytes, ended)
    }

    #[tokio::test]
    async fn a_connection_breaks_at_its_byte() {
        for (way, after) in [(Way::Request, 0), (Way::Answer, 0), (Way::Answer, 3), (Way::Answer, 6)] {
            let (bytes, in_order) = seen(Break { way, after, cut: Cut::Finish }).await;
            assert!(in_order && bytes == b"broken"[..after], "{way:?} {after}: {bytes:?}");
        }
        let (bytes, in_order) = seen(Break { way: Way::Answer, after: 3, cut: Cut::Reset }).await;
        assert!(!in_order && b"bro".starts_with(&bytes), "{bytes:?}");
    }
}
