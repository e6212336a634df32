//! Connections that have become something else: both halves joined, whatever carried them.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::copy::copy_both;
use crate::metrics::ConnectionSeries;

/// Waits until both sides have switched, then copies until both have ended. Ends early if one side goes away before that.
pub(crate) async fn join(client: OnUpgrade, server: OnUpgrade, series: &ConnectionSeries) {
    match tokio::try_join!(client, server) {
        Ok((client, server)) => {
            let _open = series.open();
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            if let Err(error) = copy_both(&mut client, &mut server, &series.sent, &series.received).await {
                tracing::debug!(%error, "an upgraded connection broke off");
            }
        }
        Err(error) => tracing::debug!(%error, "an upgraded connection ended before it began"),
    }
}
