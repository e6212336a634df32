//! An application that a scenario writes byte for byte: what it answers, when, and how it closes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::address;
use crate::raw::Raw;

/// What an origin answers on this path by itself, so that a scenario can wait for its mesh. It is not recorded.
pub const READY: &str = "/ready";

/// An application that runs; it ends, connections and all, when this is dropped.
pub struct Origin {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _accepting: JoinSet<()>,
}

impl Origin {
    /// Serves HTTP/1.1 on a loopback address of its own. `script` is given the connection and the head of a request, byte for
    /// byte, and returns the connection if it is to be kept; the request's body is still to be read.
    ///
    /// # Panics
    ///
    /// When no address is free.
    pub async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Raw, String) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Option<Raw>> + Send + 'static,
    {
        let address = SocketAddr::new(address::loopback().into(), 8080);
        let listener = TcpListener::bind(address).await.expect("a fresh address can be bound");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (script, recorded) = (Arc::new(script), Arc::clone(&heads));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            // Dropped with this future, which ends every connection.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(Raw::over(stream), Arc::clone(&script), Arc::clone(&recorded)));
            }
        });
        Self { address, heads, _accepting: accepting }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests that have come, byte for byte.
    ///
    /// # Panics
    ///
    /// Never in a sound harness.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// Those whose request line contains `words`.
    #[must_use]
    pub fn heads_with(&self, words: &str) -> Vec<String> {
        self.heads().into_iter().filter(|head| head.lines().next().is_some_and(|line| line.contains(words))).collect()
    }
}

async fn serve<F, Fut>(mut raw: Raw, script: Arc<F>, heads: Arc<Mutex<Vec<String>>>)
where
    F: Fn(Raw, String) -> Fut,
    Fut: Future<Output = Option<Raw>>,
{
    while let Some(head) = raw.next_head().await {
        if head.split(' ').nth(1) == Some(READY) {
            raw.write("HTTP/1.1 200 OK\r\nx-app: origin\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        }
        heads.lock().unwrap().push(head.clone());
        match script(raw, head).await {
            Some(kept) => raw = kept,
            None => return,
        }
    }
}
