//! Applications that stand behind the sidecars and know nothing of them.
//!
//! [`App`] says what to run; [`RunningApp`] is it, on its address, and can be programmed and asked while it runs.

pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod tcp;

use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use grpc::Words;

/// What an application does.
#[derive(Clone, Debug)]
pub enum App {
    /// HTTP/1.1 and HTTP/2 with prior knowledge on one port, gRPC and upgrades included. It says who it is in `x-app`.
    ///
    /// The path tells what to answer: `/status/CODE`, `/delay/MILLISECONDS`, `/bytes/COUNT`, `/sink` (length and hash of the
    /// request's body), `/echo`, `/trailers`, `/hold` (until released), `/reset` (at the head), `/reset-after-body`, `/break`
    /// (after half an answer). Any other path is answered with what the request looked like, as JSON.
    Http(String),
    /// Sends back what it gets; after the client's half-close it says how much that was, and closes.
    TcpEcho,
    /// Speaks first: a greeting, then it sends back what it gets.
    TcpServerFirst(String),
    /// Accepts and answers every connection with these bytes, whatever the client said, then closes.
    Rude(Vec<u8>),
}

impl App {
    /// An HTTP application of this name.
    #[must_use]
    pub fn http(name: &str) -> Self {
        Self::Http(name.to_owned())
    }

    /// Starts it on `address`.
    ///
    /// # Panics
    ///
    /// When the address cannot be bound.
    #[must_use]
    pub fn start(self, address: SocketAddr) -> RunningApp {
        let listener =
            StdListener::bind(address).unwrap_or_else(|error| panic!("the application cannot listen on {address}: {error}"));
        self.serve(listener)
    }

    /// Starts it on a listener that the caller made, for example in another network namespace.
    ///
    /// # Panics
    ///
    /// When the listener is unusable.
    #[must_use]
    pub fn serve(self, listener: StdListener) -> RunningApp {
        let address = listener.local_addr().expect("a bound listener has an address");
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let listener = TcpListener::from_std(listener).expect("a runtime is there");
        let state = Arc::new(State::default());
        let task = tokio::spawn(accept(self, listener, Arc::clone(&state)));
        RunningApp { address, state, task }
    }
}

/// What the next request gets instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status.
    Status(u16),
    /// A reset of the connection as soon as the head is there.
    Reset,
    /// A reset once the whole request has been read.
    ResetAfterBody,
    /// Nothing, for as long as the client waits.
    Silence,
}

/// What all connections of an application share.
#[derive(Default)]
pub(crate) struct State {
    requests: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<VecDeque<Fault>>,
    /// Digests of the bodies that came to `/sink`.
    sunk: Mutex<Vec<String>>,
    held: watch::Sender<usize>,
    released: watch::Sender<bool>,
    connections: watch::Sender<usize>,
    accepted: watch::Sender<u64>,
}

/// An application that runs. It ends, connections and all, when this is dropped.
pub struct RunningApp {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl RunningApp {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests to `path` (without the query) that have reached it.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn requests(&self, path: &str) -> u64 {
        self.state.requests.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// Digests of the bodies that came to `/sink`, as its answers say them.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn sunk(&self) -> Vec<String> {
        self.state.sunk.lock().unwrap().clone()
    }

    /// The next `count` requests fail like this.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    pub fn fail_next(&self, count: usize, fault: Fault) {
        self.state.faults.lock().unwrap().extend(std::iter::repeat_n(fault, count));
    }

    /// Waits until `count` requests to `/hold` are being held.
    ///
    /// # Panics
    ///
    /// When they do not come.
    pub async fn holds(&self, count: usize) {
        let mut held = self.state.held.subscribe();
        let waited = tokio::time::timeout(crate::wait::DEADLINE, held.wait_for(|held| *held >= count)).await;
        assert!(waited.is_ok(), "{count} requests to /hold did not come: {} did", self.state.held.borrow().to_owned());
    }

    /// Lets the requests to `/hold` go, those to come as well.
    pub fn release(&self) {
        self.state.released.send_replace(true);
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.state.connections.borrow()
    }

    /// Connections that were ever accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        *self.state.accepted.borrow()
    }

    /// Ends it as a crash does: the port is closed and so is every connection.
    pub async fn kill(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for RunningApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(app: App, listener: TcpListener, state: Arc<State>) {
    // Dropped with this future, which ends every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                state.accepted.send_modify(|accepted| *accepted += 1);
                let (app, open) = (app.clone(), Open::new(Arc::clone(&state)));
                connections.spawn(async move {
                    match app {
                        App::Http(name) => http::serve(stream, &name, Arc::clone(&open.0)).await,
                        App::TcpEcho => tcp::echo(stream).await,
                        App::TcpServerFirst(greeting) => tcp::server_first(stream, &greeting).await,
                        App::Rude(answer) => tcp::rude(stream, &answer).await,
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection for as long as it lives.
struct Open(Arc<State>);

impl Open {
    fn new(state: Arc<State>) -> Self {
        state.connections.send_modify(|open| *open += 1);
        Self(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests;
