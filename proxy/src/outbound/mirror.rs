//! Copies of requests for mirrors: sent beside the request, answered for nobody. Nothing that happens to a copy delays, fails or
//! changes the request that it is a copy of.

use std::rc::Rc;
use std::time::Duration;

use http::request::Parts;
use http_body_util::BodyExt;
use weir_core::balance::{FailureCause, Outcome};
use weir_core::snapshot::Protocol;

use super::attempt::{ClientBody, addressed};
use super::request::Route;
use crate::body::RequestBody;
use crate::cluster::Cluster;
use crate::exchange::InFlightGuard;
use crate::pool::{Answer, SendError};
use crate::tee::{Cut, TeeReader, tee};
use crate::worker::Worker;

/// Copies under way in one worker. Above it requests are served without copies.
const MAX_COPIES: usize = 1_000;

/// How long a copy may take where the route sets no limit to a request.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// So much of a mirror's answer is read so that its connection can be used again; a longer one is broken off.
const MAX_ANSWER: usize = 256 * 1024;

/// Starts the copies of one request. `body` has not been read yet.
pub(super) fn start(worker: &Rc<Worker>, route: &Route, parts: &Parts, body: &ClientBody, client_http2: bool) {
    let timeout = route.timeouts().request.unwrap_or(DEFAULT_TIMEOUT);
    for cluster in &route.mirrors {
        if worker.copies.count() >= MAX_COPIES {
            cluster.mirrored().dropped.inc();
            continue;
        }
        let body = match body {
            ClientBody::Empty => None,
            ClientBody::Replay(replay) => {
                let (copy, reader) = tee(&worker.copied, replay.size_hint());
                replay.copy_to(copy);
                Some(reader)
            }
        };
        let copy = Copy {
            worker: Rc::clone(worker),
            cluster: Rc::clone(cluster),
            parts: parts.clone(),
            client_http2,
            protocol: route.protocol,
            _under_way: worker.copies.enter(),
        };
        tokio::task::spawn_local(async move {
            let fate = body.as_ref().map(TeeReader::fate);
            let result = tokio::time::timeout(timeout, copy.send(body)).await.unwrap_or(Err(()));
            let series = copy.cluster.mirrored();
            match (result, fate.and_then(|fate| fate.cut())) {
                (Ok(()), _) => series.answered.inc(),
                (Err(()), Some(Cut::Lag)) => series.dropped.inc(),
                (Err(()), Some(Cut::Source | Cut::Unread) | None) => series.failed.inc(),
            }
        });
    }
}

/// A copy on its way.
struct Copy {
    worker: Rc<Worker>,
    cluster: Rc<Cluster>,
    parts: Parts,
    client_http2: bool,
    protocol: Protocol,
    _under_way: InFlightGuard,
}

impl Copy {
    /// Sends it once: a mirror is not worth a retry.
    async fn send(&self, mut body: Option<TeeReader>) -> Result<(), ()> {
        // What a policy admits is for requests; a copy takes what they leave.
        let _slot = self.cluster.slots().map(|slots| slots.copy()).transpose()?;
        let mut pick = self.cluster.pick(&[], self.cluster.preference(&self.parts.headers)).map_err(|_| ())?;
        let upstream = Rc::clone(&pick.upstream);
        let protocols = [self.protocol, pick.protocol];
        let answer = loop {
            let empty = body.is_none();
            let body = body.take().map_or(RequestBody::Empty, RequestBody::Copy);
            let (request, wire) = addressed(&self.worker, &self.parts, body, &upstream, self.client_http2, protocols);
            match upstream.send(request, wire).await {
                // A connection that was kept had been closed; nothing has been sent.
                Err(SendError::Stale(_)) if empty => {}
                sent => break sent,
            }
        };
        let Answer { response, lease } = match answer {
            Ok(answer) => answer,
            Err(SendError::NotProcessed(_) | SendError::Stale(_)) => {
                pick.finish(Outcome::Failure(FailureCause::Connect));
                return Err(());
            }
            // Mostly the copy of the body was cut, which says nothing of the mirror.
            Err(SendError::Broke(_)) => return Err(()),
        };
        pick.answered();
        let mut incoming = response.into_body();
        let mut read = 0;
        while let Some(frame) = incoming.frame().await {
            read += frame.map_err(|_| ())?.data_ref().map_or(0, bytes::Bytes::len);
            if read > MAX_ANSWER {
                pick.finish(Outcome::Success);
                return Ok(());
            }
        }
        lease.release();
        pick.finish(Outcome::Success);
        Ok(())
    }
}
