//! Connections that have become something else: both halves joined, whatever carried them.

use std::sync::{Arc, Mutex, PoisonError};

use http::Extensions;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::copy::copy_both;
use crate::metrics::ConnectionSeries;

/// A connection as bytes, whatever carries it.
pub(crate) trait Bytestream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytestream for T {}

/// The client left before its connection became what it had asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client left before its connection was handed over")]
pub(crate) struct Left;

/// Where an HTTP/1 connection comes from once it has switched.
type Half = oneshot::Receiver<Box<dyn Bytestream>>;

/// A client's half of a connection that may become something else.
pub(crate) enum ClientHalf {
    /// All of an HTTP/1 connection.
    Connection(Half),
    /// A stream of an HTTP/2 connection.
    Stream(OnUpgrade),
}

/// Where an HTTP/1 connection is handed over.
pub(crate) struct Handover(oneshot::Sender<Box<dyn Bytestream>>);

/// The half of an HTTP/1 connection among its request's extensions, which have to be cloneable: the first to take it has it.
#[derive(Clone)]
struct Offered(Arc<Mutex<Option<Half>>>);

impl ClientHalf {
    /// Puts an HTTP/1 connection's half among the extensions of a request that asks for an upgrade, in the place of hyper's: only
    /// who drives a connection by itself can take it out of hyper again. `None`: it does not ask.
    pub(crate) fn offer(extensions: &mut Extensions) -> Option<Handover> {
        extensions.remove::<OnUpgrade>()?;
        let (handover, half) = oneshot::channel();
        extensions.insert(Offered(Arc::new(Mutex::new(Some(half)))));
        Some(Handover(handover))
    }

    /// Takes the half of a request's connection. `None`: it cannot become anything else.
    pub(crate) fn take(extensions: &mut Extensions) -> Option<Self> {
        if let Some(Offered(half)) = extensions.remove() {
            return half.lock().unwrap_or_else(PoisonError::into_inner).take().map(Self::Connection);
        }
        extensions.remove().map(Self::Stream)
    }

    /// Waits until the client's connection has become what was agreed on.
    ///
    /// # Errors
    ///
    /// The client went away before that.
    pub(crate) async fn switched(self) -> Result<Box<dyn Bytestream>, Left> {
        match self {
            Self::Connection(half) => half.await.map_err(|_| Left),
            Self::Stream(half) => match half.await {
                Ok(upgraded) => Ok(Box::new(TokioIo::new(upgraded))),
                Err(_) => Err(Left),
            },
        }
    }
}

impl Handover {
    /// Gives the connection to whoever has taken the client's half; closes it if nobody has.
    pub(crate) fn give(self, connection: impl Bytestream + 'static) {
        drop(self.0.send(Box::new(connection)));
    }
}

/// Waits until both sides have switched, then copies until both have ended. Ends early if one side goes away before that.
pub(crate) async fn join(client: ClientHalf, server: OnUpgrade, series: &ConnectionSeries) {
    let server = async { server.await.map_err(|_| Left) };
    match tokio::try_join!(client.switched(), server) {
        Ok((mut client, server)) => {
            let _open = series.open();
            let mut server = TokioIo::new(server);
            if let Err(error) = copy_both(&mut client, &mut server, &series.sent, &series.received).await {
                tracing::debug!(%error, "an upgraded connection broke off");
            }
        }
        Err(error) => tracing::debug!(%error, "an upgraded connection ended before it began"),
    }
}
