//! An ordinary server. On SIGTERM it closes its ports, finishes what it is doing and ends, as frameworks do by themselves.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::App;
use super::health::Health;
use super::load::plain_call;
use super::{CONTROL_PORT, control, signal, tls};
use crate::app::tcp;

/// Longest that requests under way are waited for: less than the 30 s after which Kubernetes kills.
const GRACE: Duration = Duration::from_secs(25);

/// What to serve, and where.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Name that it answers with
    #[arg(long, default_value = "app")]
    name: String,
    /// Version that it answers with
    #[arg(long, default_value = "v1")]
    version: String,
    /// Address to listen on: an IP address, or `pod` for that in the environment variable POD_IP
    #[arg(long, default_value = "::")]
    bind: String,
    /// Port for HTTP/1.1, and HTTP/2 with prior knowledge, gRPC included
    #[arg(long, aliases = ["http-port", "port"])]
    http: Vec<u16>,
    /// Port for HTTPS with a self-signed certificate
    #[arg(long)]
    https: Vec<u16>,
    /// Port for TCP that sends back what it gets
    #[arg(long)]
    tcp: Vec<u16>,
    /// Port for TCP where the server greets first
    #[arg(long)]
    banner: Vec<u16>,
    /// URLs to call before answering; a failed call is a 502
    #[arg(long, env = "WEIR_DEMO_CALLS", value_delimiter = ',')]
    calls: Vec<String>,
    /// End at once on SIGTERM, whatever is under way
    #[arg(long)]
    abrupt: bool,
    /// Port of the control page on loopback; 0 for none
    #[arg(long, default_value_t = CONTROL_PORT)]
    control: u16,
}

/// What a connection to a port gets.
#[derive(Clone)]
enum Protocol {
    Http,
    Https(TlsAcceptor),
    Tcp,
    Banner,
}

/// Serves until SIGTERM.
///
/// # Errors
///
/// When a port cannot be bound or a setting makes no sense.
pub async fn run(settings: Settings) -> Result<(), String> {
    let stop = signal::told_to_end()?;
    let health = Health::new();
    let app = Arc::new(app(&settings, health.clone())?);
    let mut ports = JoinSet::new();
    for (listener, protocol) in listeners(&settings).await? {
        ports.spawn(accept(listener, protocol, Arc::clone(&app), stop.clone()));
    }
    control::serve(settings.control, move |word| {
        let told = health.tell(&word);
        async move { told.then(|| format!("{word}\n")) }
    })
    .await?;
    eprintln!("{} {} serves", settings.name, settings.version);
    let ended = async { while ports.join_next().await.is_some() {} };
    let mut told = stop.clone();
    let grace = async {
        let _ = told.wait_for(|stop| *stop).await;
        if !settings.abrupt {
            tokio::time::sleep(GRACE).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = grace => {}
    }
    eprintln!("{} {} ends", settings.name, settings.version);
    Ok(())
}

fn app(settings: &Settings, health: Health) -> Result<App, String> {
    let calls = settings.calls.iter().map(|url| Ok((url.clone(), plain_call(url)?)));
    Ok(App {
        name: settings.name.clone(),
        version: settings.version.clone(),
        hostname: std::env::var("HOSTNAME").unwrap_or_default(),
        health,
        calls: calls.collect::<Result<_, String>>()?,
    })
}

async fn listeners(settings: &Settings) -> Result<Vec<(TcpListener, Protocol)>, String> {
    let given = match settings.bind.as_str() {
        "pod" => {
            std::env::var("POD_IP").map_err(|_| "--bind pod needs the environment variable POD_IP (status.podIP)".to_owned())?
        }
        given => given.to_owned(),
    };
    let address: IpAddr = given.parse().map_err(|_| format!("--bind {given}: this is no IP address"))?;
    let mut wanted: Vec<(u16, Protocol)> = settings.http.iter().map(|port| (*port, Protocol::Http)).collect();
    if !settings.https.is_empty() {
        let acceptor = tls::acceptor()?;
        wanted.extend(settings.https.iter().map(|port| (*port, Protocol::Https(acceptor.clone()))));
    }
    wanted.extend(settings.tcp.iter().map(|port| (*port, Protocol::Tcp)));
    wanted.extend(settings.banner.iter().map(|port| (*port, Protocol::Banner)));
    if wanted.is_empty() {
        return Err("nothing to serve: say --http, --https, --tcp or --banner with a port".to_owned());
    }
    let mut listeners = Vec::new();
    for (port, protocol) in wanted {
        let address = SocketAddr::new(address, port);
        let bound = TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        listeners.push((bound, protocol));
    }
    Ok(listeners)
}

/// Serves a port until the end, or until it is told to be deaf, and then the connections that are open.
async fn accept(listener: TcpListener, protocol: Protocol, app: Arc<App>, stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let mut told = stop.clone();
    let closed = async {
        tokio::select! {
            _ = told.wait_for(|stop| *stop) => {}
            () = app.health.deaf() => {}
        }
    };
    let mut closed = std::pin::pin!(closed);
    loop {
        tokio::select! {
            () = closed.as_mut() => break,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                connections.spawn(connection(stream, protocol.clone(), Arc::clone(&app), stop.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    // A deaf server runs on.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

async fn connection(stream: TcpStream, protocol: Protocol, app: Arc<App>, stop: watch::Receiver<bool>) {
    match protocol {
        Protocol::Http => http(stream, app, stop).await,
        Protocol::Https(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                http(stream, app, stop).await;
            }
        }
        Protocol::Tcp => tcp::echo(stream).await,
        Protocol::Banner => tcp::server_first(stream, &format!("220 {} {} at your service\r\n", app.name, app.version)).await,
    }
}

async fn http<S>(stream: S, app: Arc<App>, mut stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, std::convert::Infallible>(app.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
