//! `weir-bench-scale`: thousands of proxies' streams against the real control plane, on a directory of manifests.
//!
//! Each proxy has a connection of its own with mutual TLS, a stream, and an answer to each response, as a sidecar has; what it
//! does not have is traffic. One phase after the other changes something and measures how long it takes until everybody who
//! follows it has heard: `manifests.rs` writes, `plane.rs` runs the control plane and reads what it used, `proxy.rs` follows, and
//! `tally.rs` keeps count.

mod manifests;
mod plane;
mod proxy;
mod tally;

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weir_proto::v1::Held;

use manifests::Manifests;
use plane::{Plane, Used};
use proxy::Proxy;
use tally::Tally;

/// A phase that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// Steps of a rolling update, and the time between two of them: about what a Deployment does.
const STEPS: usize = 7;
const PACE: Duration = Duration::from_millis(200);

/// Handshakes that are under way at a time while proxies begin or come back: more would only wait for the same two cores.
const OPENING: usize = 64;

/// Measure the control plane with many Services and many proxies
#[derive(Parser)]
#[command(name = "weir-bench-scale", version, max_term_width = 100)]
struct Args {
    /// Services
    #[arg(long, default_value_t = 1000, value_parser = number)]
    services: usize,
    /// Endpoints of each
    #[arg(long, default_value_t = 10, value_parser = number)]
    endpoints: usize,
    /// Proxies
    #[arg(long, default_value_t = 2000, value_parser = number)]
    proxies: usize,
    /// Services that each proxy follows
    #[arg(long, default_value_t = 10, value_parser = number)]
    follows: usize,
    /// The control plane; the one beside this program by default
    #[arg(long)]
    control_plane: Option<PathBuf>,
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=50_000).contains(&number) => Ok(number),
        _ => Err("expected a number from 1 to 50000".to_owned()),
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let run = runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(run(&args)));
    match run {
        Ok(report) => match writeln!(std::io::stdout(), "{report:#}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("weir-bench-scale: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<Value, String> {
    admit_files();
    let binary = match &args.control_plane {
        Some(path) => path.clone(),
        None => std::env::current_exe().map_err(|error| error.to_string())?.with_file_name("weir-control-plane"),
    };
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let manifests = directory.path().join("manifests");
    std::fs::create_dir(&manifests).map_err(|error| error.to_string())?;
    // One more than anybody follows: what happens to it is nobody's business.
    let manifests = Manifests::write(manifests, args.services + 1, args.endpoints).map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let plane = Plane::start(&binary, directory.path()).await?;
    let started = begun.elapsed();
    let tls = proxy::tls(Some(&plane.credentials().await?), &plane.roots()?)?;
    let proxies = (0..args.proxies).map(|index| {
        let step = (args.services / args.follows).max(1);
        let mut services: Vec<usize> = (0..args.follows).map(|it| (index + it * step) % args.services).collect();
        services.sort_unstable();
        services.dedup();
        Proxy { index, services, reads: Arc::new(AtomicBool::new(true)) }
    });
    let mut simulation = Simulation {
        used: plane.used(),
        resident: plane.used().resident,
        plane,
        tls,
        proxies: proxies.collect(),
        manifests,
        tally: Arc::new(Tally::default()),
        streams: JoinSet::new(),
        version: 0,
        phases: Vec::new(),
    };
    let idle = simulation.resident;
    simulation.all_phases().await?;
    let per_proxy = (simulation.resident - idle) * 1024.0 / args.proxies as f64;
    Ok(json!({
        "services": args.services, "endpoints": args.endpoints, "proxies": args.proxies, "follows": args.follows,
        "startSeconds": started.as_secs_f64(), "idleMib": idle, "connectedMib": simulation.resident, "kibPerProxy": per_proxy,
        "phases": simulation.phases,
    }))
}

/// As many files as the system lets this process open: each proxy has a connection.
fn admit_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

struct Simulation {
    plane: Plane,
    tls: tokio_rustls::TlsConnector,
    proxies: Vec<Proxy>,
    manifests: Manifests,
    tally: Arc<Tally>,
    /// One for each proxy, until its stream ends; it answers with what the proxy has then.
    streams: JoinSet<(usize, Vec<Held>, Result<(), String>)>,
    version: u64,
    /// As the last phase ended.
    used: Used,
    /// With everybody connected.
    resident: f64,
    phases: Vec<Value>,
}

impl Simulation {
    async fn all_phases(&mut self) -> Result<(), String> {
        self.tally.begin_anew(self.everything());
        self.connect(HashMap::new()).await;
        self.end("cold start: everybody connects and hears of all it follows").await?;
        self.resident = self.used.resident;

        let changed = self.renew(&[(0, 0)]);
        self.tally.begin(self.followers(|service| changed.contains(service)));
        self.save(changed)?;
        self.end("one endpoint changes").await?;

        let changes = self.rolling();
        self.roll(&changes).await?;
        self.end(&format!("a rolling update of {} endpoints, from its last step on", changes.len())).await?;

        self.unrelated().await?;
        self.slow_reader().await?;
        self.reconnect().await
    }

    /// What each proxy is to hear: the present state of all it follows.
    fn everything(&self) -> HashMap<usize, HashMap<usize, u64>> {
        self.followers(|_| true)
    }

    /// What is to be heard of the present state of some Services, by those who follow them.
    fn followers(&self, meant: impl Fn(&usize) -> bool) -> HashMap<usize, HashMap<usize, u64>> {
        let of = |proxy: &Proxy| -> HashMap<usize, u64> {
            let followed = proxy.services.iter().filter(|service| meant(service));
            followed.map(|service| (*service, self.manifests.sum(*service))).collect()
        };
        let all = self.proxies.iter().map(|proxy| (proxy.index, of(proxy)));
        all.filter(|(_, missing)| !missing.is_empty()).collect()
    }

    /// Gives these endpoints a new version, and says which Services that changes. Nothing is written yet.
    fn renew(&mut self, endpoints: &[(usize, usize)]) -> BTreeSet<usize> {
        self.version += 1;
        for (service, endpoint) in endpoints {
            self.manifests.set(*service, *endpoint, self.version);
        }
        endpoints.iter().map(|(service, _)| *service).collect()
    }

    fn save(&self, services: impl IntoIterator<Item = usize>) -> Result<(), String> {
        services.into_iter().try_for_each(|service| self.manifests.save(service)).map_err(|error| error.to_string())
    }

    async fn connect(&mut self, mut held: HashMap<usize, Vec<Held>>) {
        let opening = Arc::new(tokio::sync::Semaphore::new(OPENING));
        for proxy in &self.proxies {
            let (proxy, tally, tls) = (proxy.clone(), Arc::clone(&self.tally), self.tls.clone());
            let (address, opening) = (self.plane.grpc, Arc::clone(&opening));
            let mut held = held.remove(&proxy.index).unwrap_or_default();
            self.streams.spawn(async move {
                // As many as there are: nobody waits for ever, and the semaphore is never closed.
                let turn = opening.acquire().await.ok();
                let index = proxy.index;
                let ended = proxy.follow(address, &tls, &tally, &mut held, || drop(turn)).await;
                (index, held, ended)
            });
        }
        tokio::task::yield_now().await;
    }

    /// Up to 700 endpoints, each of another Service as far as there are as many.
    fn rolling(&self) -> Vec<(usize, usize)> {
        let services = self.manifests.services() - 1;
        let all = (0..self.manifests.endpoints()).flat_map(|endpoint| (0..services).map(move |service| (service, endpoint)));
        all.take(700).collect()
    }

    async fn roll(&mut self, changes: &[(usize, usize)]) -> Result<(), String> {
        for (index, step) in changes.chunks(changes.len().div_ceil(STEPS)).enumerate() {
            tokio::time::sleep(PACE).await;
            let changed = self.renew(step);
            let all: BTreeSet<usize> = changes.iter().map(|(service, _)| *service).collect();
            if index == 0 {
                self.tally.begin(HashMap::new());
            }
            self.tally.still_missing(self.followers(|service| all.contains(service)));
            self.save(changed)?;
        }
        Ok(())
    }

    /// A change that nobody follows, and then one that somebody does: when that has been heard of, the first would have been.
    async fn unrelated(&mut self) -> Result<(), String> {
        let (nobodys, somebodys) = (self.manifests.services() - 1, 0);
        self.renew(&[(nobodys, 0), (somebodys, 0)]);
        let followers = self.followers(|service| *service == somebodys);
        let wanted = followers.len() as u64;
        self.tally.begin(followers);
        self.save([nobodys, somebodys])?;
        self.end("an unrelated edit, and one that some follow").await?;
        let messages = self.tally.outcome().messages;
        if messages != wanted {
            return Err(format!("{messages} messages were sent for an edit that {wanted} proxies follow and one that none does"));
        }
        Ok(())
    }

    /// One proxy does not read while much changes; then it hears of the newest state of all.
    async fn slow_reader(&mut self) -> Result<(), String> {
        let changes = self.rolling();
        let Some(slow) = self.proxies.first().cloned() else { return Ok(()) };
        slow.reads.store(false, Ordering::Relaxed);
        let mut changed = BTreeSet::new();
        self.tally.begin(HashMap::new());
        for _ in 0..3 {
            changed = self.renew(&changes);
            let mut missing = self.followers(|service| changed.contains(service));
            missing.remove(&slow.index);
            self.tally.still_missing(missing);
            self.save(changed.iter().copied())?;
            self.tally.end(PATIENCE).await?;
        }
        self.end("much changes three times while one proxy does not read: the others").await?;
        let mut missing = self.followers(|service| changed.contains(service));
        missing.retain(|index, _| *index == slow.index);
        self.tally.begin(missing);
        slow.reads.store(true, Ordering::Relaxed);
        self.tally.let_read();
        self.end("it reads again, and hears of the newest state").await
    }

    /// Everybody comes back at once: knowing nothing, and with all it had.
    async fn reconnect(&mut self) -> Result<(), String> {
        let held = self.disconnect().await;
        self.tally.begin_anew(self.everything());
        self.connect(HashMap::new()).await;
        self.end("everybody comes back at once and knows nothing").await?;
        self.disconnect().await;
        self.tally.begin_opening(self.proxies.len());
        self.connect(held).await;
        self.end("everybody comes back at once with what it had").await
    }

    async fn disconnect(&mut self) -> HashMap<usize, Vec<Held>> {
        self.tally.end_streams();
        let mut held = HashMap::new();
        while let Some(ended) = self.streams.join_next().await {
            if let Ok((index, had, _)) = ended {
                held.insert(index, had);
            }
        }
        self.tally.streams_may_begin();
        held
    }

    /// Waits for the phase's end, and writes down what it took.
    async fn end(&mut self, name: &str) -> Result<(), String> {
        if let Err(error) = self.tally.end(PATIENCE).await {
            let why = self.streams.try_join_next().and_then(Result::ok).and_then(|(index, _, ended)| Some((index, ended.err()?)));
            let why = why.map(|(index, why)| format!("; proxy {index}: {why}")).unwrap_or_default();
            return Err(format!("{name}: {error}{why}"));
        }
        let (outcome, used) = (self.tally.outcome(), self.plane.used());
        let at = |share: f64| {
            let last = outcome.took.len().saturating_sub(1);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a list")]
            let index = (last as f64 * share).round() as usize;
            outcome.took.get(index).map(|it| (it.as_secs_f64() * 1e3 * 10.0).round() / 10.0)
        };
        let (user, system) = (used.user - self.used.user, used.system - self.used.system);
        eprintln!(
            "{name}\n  {} proxies; p50 {} ms, p99 {} ms, max {} ms; {} messages, {} KiB; CPU {user:.2} s user, {system:.2} s system; {:.1} MiB",
            outcome.took.len(),
            at(0.5).unwrap_or_default(),
            at(0.99).unwrap_or_default(),
            at(1.0).unwrap_or_default(),
            outcome.messages,
            outcome.bytes / 1024,
            used.resident
        );
        self.phases.push(json!({
            "phase": name, "proxies": outcome.took.len(),
            "p50Ms": at(0.5), "p99Ms": at(0.99), "maxMs": at(1.0),
            "messages": outcome.messages, "bytes": outcome.bytes,
            "userSeconds": user, "systemSeconds": system, "residentMib": used.resident,
        }));
        self.used = used;
        Ok(())
    }
}
