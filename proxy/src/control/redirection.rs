//! Whether the rules that `weir-proxy init` writes are in place.
//!
//! To read them takes a capability that the sidecar does not have. But one of them sends connections to a port of the loopback
//! address, where nobody listens, to the admin page; and since all of them are put in place together, or not at all, a
//! connection that arrives there says that all are.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::init::CHECK_PORT;
use crate::shared::Shared;

/// How often it is looked while they are not in place, which keeps the workload from being ready.
const LOOK_SOON: Duration = Duration::from_millis(500);
/// How often later.
const LOOK: Duration = Duration::from_secs(10);
/// The connection does not leave the machine.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps [`Shared::redirected`] true to what is, for ever. Does nothing where redirection is not expected.
pub(super) async fn watch(shared: &Shared) -> Infallible {
    if !shared.settings.expect_redirection {
        return std::future::pending().await;
    }
    let mut said_missing = false;
    loop {
        let in_place = matches!(timeout(LOOK_TIMEOUT, is_in_place()).await, Ok(Ok(true)));
        let was_in_place = shared.redirected.swap(in_place, Ordering::Relaxed);
        if in_place && !was_in_place {
            tracing::info!("the workload's traffic is redirected here");
            said_missing = false;
        } else if !in_place && !said_missing {
            tracing::error!(
                "the workload's traffic is not redirected here, so this pod is not ready: the rules of `weir-proxy init` are not \
                 in place in its network; has the container weir-init run in it, and has somebody removed the table `inet weir`?"
            );
            said_missing = true;
        }
        sleep(if in_place { LOOK } else { LOOK_SOON }).await;
    }
}

/// Whether a connection to the port that only the rules give an answer reaches this proxy's admin page.
async fn is_in_place() -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, CHECK_PORT))).await?;
    stream.write_all(b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    (&mut stream).take(1024).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\r\n\r\nlive\n"))
}
