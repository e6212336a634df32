//! A proxy as the control plane sees it: a connection with mutual TLS, a stream, an answer to each response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use weir_proto::v1::discovery_client::DiscoveryClient;
use weir_proto::v1::discovery_request::Kind;
use weir_proto::v1::resource::Body;
use weir_proto::v1::{Ack, DiscoveryRequest, DiscoveryResponse, Held, Hello, ResourceKind, ResourceName, Subscribe};
use weir_tls::{Accept, Credentials, Roots, client_config, control_plane_identity, server_name};

use crate::plane::{ACCOUNT, NAMESPACE, trust_domain};
use crate::tally::Tally;

/// The largest response, as for a real proxy.
const MAX_RESPONSE: usize = 64 << 20;

/// How to open connections, with these credentials or without.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn tls(credentials: Option<&Credentials>, roots: &Roots) -> Result<TlsConnector, String> {
    let accept = Accept::Identity(control_plane_identity(&trust_domain()?));
    let config = client_config(credentials, roots, accept, &[b"h2"]).map_err(|error| error.to_string())?;
    Ok(TlsConnector::from(config))
}

/// One connection.
///
/// # Errors
///
/// In a sentence.
pub(crate) async fn channel(address: SocketAddr, tls: &TlsConnector) -> Result<Channel, String> {
    let tls = tls.clone();
    let connect = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let tcp = tokio::net::TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(server_name(address.ip()), tcp).await?))
        }
    });
    let channel = Endpoint::from_static("http://control-plane").connect_with_connector(connect).await;
    channel.map_err(|error| format!("no connection to the control plane: {error:?}"))
}

/// A proxy, and what it follows.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Its number.
    pub(crate) index: usize,
    /// The Services that it follows.
    pub(crate) services: Vec<usize>,
    /// Whether it reads what it is sent.
    pub(crate) reads: Arc<AtomicBool>,
}

impl Proxy {
    /// Follows the control plane until the stream ends, and says in the tally what came. `held` is what it has already, and
    /// afterwards what it has then; `is_open` is called when the stream is.
    ///
    /// # Errors
    ///
    /// Why the stream could not be opened, or how it broke.
    pub(crate) async fn follow(
        &self,
        address: SocketAddr,
        tls: &TlsConnector,
        tally: &Tally,
        held: &mut Vec<Held>,
        is_open: impl FnOnce(),
    ) -> Result<(), String> {
        let channel = channel(address, tls).await?;
        let (requests, receiver) = mpsc::channel(4);
        let ended = || "the stream has ended".to_owned();
        let say = async |kind| requests.send(DiscoveryRequest { kind: Some(kind) }).await.map_err(|_| ended());
        say(Kind::Hello(self.hello(held))).await?;
        let names = self
            .services
            .iter()
            .map(|service| ResourceName { kind: ResourceKind::Service.into(), name: format!("{NAMESPACE}/s{service}") });
        say(Kind::Subscribe(Subscribe { names: names.collect() })).await?;
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let opened = client.stream(ReceiverStream::new(receiver)).await.map_err(|error| error.to_string())?;
        let mut responses = opened.into_inner();
        tally.opened(self.index);
        is_open();
        loop {
            while !self.reads.load(Ordering::Relaxed) {
                tally.reads_again().await;
            }
            let response = tokio::select! {
                response = responses.message() => response.map_err(|error| error.to_string())?.ok_or_else(ended)?,
                () = tally.streams_end() => return Ok(()),
            };
            tally.received(self.index, response.encoded_len(), &seen(&response));
            keep(held, &response);
            say(Kind::Ack(Ack { sequence: response.sequence })).await?;
        }
    }

    fn hello(&self, held: &[Held]) -> Hello {
        let (high, low) = (self.index / 250, self.index % 250 + 1);
        Hello {
            namespace: NAMESPACE.into(),
            service_account: ACCOUNT.into(),
            pod: format!("sim-{}", self.index),
            pod_ips: vec![format!("100.64.{high}.{low}")],
            proxy_version: "simulated".into(),
            held: held.to_vec(),
            ..Hello::default()
        }
    }
}

/// The Services whose endpoints came, with what their versions add up to.
fn seen(response: &DiscoveryResponse) -> Vec<(usize, u64)> {
    let endpoints = response.updated.iter().filter_map(|resource| match &resource.body {
        Some(Body::Endpoints(endpoints)) => Some(endpoints),
        _ => None,
    });
    let seen = endpoints.filter_map(|it| {
        let name = &it.name.as_ref()?.service.as_ref()?.name;
        let version = |pod: &str| pod.rsplit_once("-v")?.1.parse::<u64>().ok();
        let sum = it.endpoints.iter().filter_map(|endpoint| version(&endpoint.pod)).sum();
        Some((name.strip_prefix('s')?.parse().ok()?, sum))
    });
    seen.collect()
}

fn keep(held: &mut Vec<Held>, response: &DiscoveryResponse) {
    for resource in &response.updated {
        let new = Held { name: resource.name.clone(), version: resource.version.clone() };
        match held.iter_mut().find(|it| it.name == new.name) {
            Some(known) => *known = new,
            None => held.push(new),
        }
    }
}
