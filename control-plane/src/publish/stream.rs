//! One proxy's stream: waits here, decides in [`session`](super::session).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::{Request, Status};
use weir_core::names::{Identity, Label, ObjectName};
use weir_core::snapshot::ResourceName;
use weir_proto::v1::discovery_request::Kind;
use weir_proto::v1::{DiscoveryRequest, Hello};
use weir_tls::{Roots, Utc};

use super::encode::{describe, parse_name};
use super::hub::Hub;
use super::proxies::{Entry, ProxyStatus, RefusedResponse};
use super::session::{Misbehaviour, Refusal, Session};
use super::wire::{Responses, SharedResponse};
use crate::objects::excerpt;
use crate::server::Peer;
use crate::translate::Workload;

/// How long a proxy may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A workload has one address of each family; some have a few more.
const MAX_POD_IPS: usize = 64;

/// `weir.v1.Discovery`.
#[derive(Clone, Debug)]
pub struct Discovery {
    hub: Hub,
}

impl Discovery {
    /// Serves what `hub` knows.
    #[must_use]
    pub const fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// Opens a stream for the peer of a connection.
    ///
    /// # Errors
    ///
    /// `UNAUTHENTICATED` without a client certificate.
    pub fn open(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Responses, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let Some(Peer { address, certified: Some((identity, not_after)), chain }) = peer else {
            return Err(Status::unauthenticated(
                "Discovery needs a client certificate of the mesh: ask weir.v1.Identity for one, and connect again with it",
            ));
        };
        // One response at a time is on its way, and at most one status after it.
        let (sender, receiver) = mpsc::channel(2);
        let requests = request.into_inner();
        let call = Call { hub: self.hub.clone(), requests, sender, address, identity, not_after, chain };
        tokio::spawn(call.run());
        Ok(ReceiverStream::new(receiver))
    }
}

/// A stream that was opened.
struct Call {
    hub: Hub,
    requests: Streaming<DiscoveryRequest>,
    sender: mpsc::Sender<Result<SharedResponse, Status>>,
    address: SocketAddr,
    identity: Identity,
    not_after: SystemTime,
    chain: Arc<[CertificateDer<'static>]>,
}

/// What can happen to a stream.
enum Happened {
    Request(Result<Option<DiscoveryRequest>, Status>),
    Change(Result<Arc<crate::index::Dirty>, broadcast::error::RecvError>),
    CertificateEnded,
    Stopping,
    Gone,
}

impl Call {
    /// Until the proxy goes, its certificate ends or the control plane stops.
    async fn run(mut self) {
        let end = match self.greet().await {
            Ok((mut session, entry)) => self.serve(&mut session, &entry).await,
            Err(status) => status,
        };
        self.finish(end).await;
    }

    async fn greet(&mut self) -> Result<(Session, Entry), Status> {
        let first = tokio::time::timeout(HELLO_TIMEOUT, self.requests.message()).await;
        let hello = match first.map_err(|_| Status::deadline_exceeded("no Hello came in time"))?? {
            Some(DiscoveryRequest { kind: Some(Kind::Hello(hello)) }) => hello,
            _ => return Err(Status::invalid_argument("the first request must be a Hello")),
        };
        let workload = workload(&hello, &self.identity)?;
        let status = ProxyStatus {
            namespace: workload.namespace.to_string(),
            pod: excerpt(&hello.pod),
            service_account: workload.service_account.to_string(),
            version: excerpt(&hello.proxy_version),
            address: self.address.to_string(),
            connected_since: Utc(SystemTime::now()).to_string(),
            certificate_ends: Utc(self.not_after).to_string(),
            roots: self.roots(),
            ..ProxyStatus::default()
        };
        tracing::info!(namespace = %status.namespace, pod = %status.pod, peer = %self.address, "a proxy connected");
        let entry = self.hub.proxies().enter(status);
        let entry = entry.ok_or_else(|| Status::resource_exhausted("this control plane has as many proxies as it can serve"))?;
        // Names that only a newer or older proxy knows are of no use to either side.
        let held = hello.held.into_iter().filter_map(|held| Some((parse_name(&held.name?).ok()?, held.version)));
        Ok((Session::new(workload, held), entry))
    }

    /// The roots that the proxy's certificate leads to, of those that count now: a rotation waits until it is the new one.
    fn roots(&self) -> Vec<Arc<[u8]>> {
        let trust = Arc::clone(self.hub.state().trust());
        let Ok(roots) = Roots::from_der(trust.trust_domain.clone(), &trust.roots) else { return Vec::new() };
        roots.led_to(&self.chain, SystemTime::now()).into_iter().map(|root| root.as_ref().into()).collect()
    }

    async fn serve(&mut self, session: &mut Session, entry: &Entry) -> Status {
        // From before the first look at the state, so that no change falls between.
        let mut changes = self.hub.changes();
        let ends = Instant::now() + self.not_after.duration_since(SystemTime::now()).unwrap_or_default();
        loop {
            if let Some(status) = self.respond(session, entry) {
                return status;
            }
            let happened = tokio::select! {
                request = self.requests.message() => Happened::Request(request),
                change = changes.recv() => Happened::Change(change),
                () = tokio::time::sleep_until(ends) => Happened::CertificateEnded,
                () = self.hub.stop().cancelled() => Happened::Stopping,
                () = self.sender.closed() => Happened::Gone,
            };
            if let Some(status) = self.handle(happened, session) {
                return status;
            }
        }
    }

    /// Sends the next response if there is one. The channel has room for it: the last one was answered.
    fn respond(&self, session: &mut Session, entry: &Entry) -> Option<Status> {
        let response = session.respond(&mut self.hub.state());
        if let Some(response) = response {
            tracing::debug!(
                workload = %self.identity,
                sequence = response.sequence,
                updated = response.updated.len(),
                removed = response.removed.len(),
                forgotten = response.forgotten.len(),
                "sending"
            );
            self.hub.metrics().pushes.inc();
            if self.sender.try_send(Ok(response)).is_err() {
                return Some(Status::cancelled("the proxy has gone"));
            }
        }
        entry.update(|status| {
            status.subscriptions = session.subscribed().len();
            status.sent = session.sequence();
            status.awaiting = session.awaiting();
            status.trust = session.acknowledged(&ResourceName::Trust).cloned();
            status.refused = session.standing_refusal().map(|refusal| RefusedResponse {
                sequence: refusal.sequence,
                resource: refusal.name.as_ref().map(describe),
                reason: refusal.reason.clone(),
            });
        });
        None
    }

    /// Changes the session. A status ends the stream.
    fn handle(&self, happened: Happened, session: &mut Session) -> Option<Status> {
        match happened {
            Happened::Request(Ok(Some(request))) => self.request(request, session).err(),
            Happened::Request(Ok(None)) => Some(Status::ok("")),
            Happened::Request(Err(status)) => Some(status),
            Happened::Change(Ok(dirty)) => {
                session.mark(&dirty);
                None
            }
            // It was too slow to hear of each change; so it looks at everything, which is no more than what it holds.
            Happened::Change(Err(broadcast::error::RecvError::Lagged(_))) => {
                session.mark_all();
                None
            }
            Happened::Change(Err(broadcast::error::RecvError::Closed)) | Happened::Stopping => {
                Some(Status::unavailable("the control plane is stopping: connect again"))
            }
            Happened::CertificateEnded => Some(Status::unauthenticated(format!(
                "the client certificate ended at {}: connect again with a new one",
                Utc(self.not_after)
            ))),
            Happened::Gone => Some(Status::cancelled("the proxy has gone")),
        }
    }

    fn request(&self, request: DiscoveryRequest, session: &mut Session) -> Result<(), Status> {
        match request.kind {
            Some(Kind::Subscribe(it)) => session.subscribe(names(&it.names)?).map_err(misbehaved),
            Some(Kind::Unsubscribe(it)) => {
                session.unsubscribe(names(&it.names)?);
                Ok(())
            }
            Some(Kind::Ack(it)) => session.ack(it.sequence).map_err(misbehaved),
            Some(Kind::Nack(it)) => {
                let name = it.name.as_ref().and_then(|name| parse_name(name).ok());
                let refusal = Refusal { sequence: it.sequence, reason: excerpt_reason(&it.reason), name };
                tracing::warn!(
                    workload = %self.identity, peer = %self.address, sequence = refusal.sequence, resource = refusal.name.as_ref().map(describe),
                    reason = %refusal.reason, "a proxy refused its configuration and serves on with what it had"
                );
                self.hub.metrics().nacks.inc();
                session.nack(refusal).map_err(misbehaved)
            }
            Some(Kind::Hello(_)) => Err(Status::invalid_argument("only the first request may be a Hello")),
            // An addition that this control plane does not know. It did not offer it, so nobody may count on an answer.
            None => Ok(()),
        }
    }

    /// Tells the proxy why its stream ends, as far as it still listens.
    async fn finish(&self, status: Status) {
        match status.code() {
            tonic::Code::Ok => {}
            tonic::Code::Cancelled | tonic::Code::Unknown => {
                tracing::info!(workload = %self.identity, peer = %self.address, "a proxy left")
            }
            code => tracing::info!(
                workload = %self.identity, peer = %self.address, %code, reason = status.message(), "a stream ends"
            ),
        }
        if status.code() != tonic::Code::Ok {
            let _ = tokio::time::timeout(HELLO_TIMEOUT, self.sender.send(Err(status))).await;
        }
    }
}

/// Who a proxy says it is, as far as its certificate bears it out.
fn workload(hello: &Hello, identity: &Identity) -> Result<Workload, Status> {
    let wrong = |message: String| Status::invalid_argument(format!("the Hello cannot be used: {message}"));
    let namespace: Label = hello.namespace.parse().map_err(|error| wrong(format!("namespace: {error}")))?;
    let service_account: ObjectName =
        hello.service_account.parse().map_err(|error| wrong(format!("service account: {error}")))?;
    if namespace != identity.namespace || service_account != identity.service_account {
        return Err(Status::permission_denied(format!(
            "the Hello is of {namespace}/{service_account}, and the client certificate of {identity}"
        )));
    }
    let pod = if hello.pod.is_empty() { None } else { Some(hello.pod.parse().map_err(|error| wrong(format!("pod: {error}")))?) };
    if hello.pod_ips.len() > MAX_POD_IPS {
        return Err(wrong(format!("more than {MAX_POD_IPS} pod IPs")));
    }
    let ips: Result<Vec<IpAddr>, _> = hello.pod_ips.iter().map(|ip| ip.parse()).collect();
    let ips = ips.map_err(|_| wrong("a pod IP is not an IP address".to_owned()))?;
    Ok(Workload { namespace, pod, service_account, ips })
}

fn names(names: &[weir_proto::v1::ResourceName]) -> Result<Vec<ResourceName>, Status> {
    names.iter().map(parse_name).collect::<Result<_, _>>().map_err(Status::invalid_argument)
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn misbehaved(error: Misbehaviour) -> Status {
    match error {
        Misbehaviour::TooManySubscriptions => Status::resource_exhausted(error.to_string()),
        Misbehaviour::EndpointsAlone(_) | Misbehaviour::WrongSequence(_) => Status::invalid_argument(error.to_string()),
    }
}

/// A proxy's sentence, as long as a sentence may be.
fn excerpt_reason(reason: &str) -> String {
    reason.chars().take(500).flat_map(char::escape_debug).collect()
}
