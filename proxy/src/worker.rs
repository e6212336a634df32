//! A worker: one thread, one event loop, its own listeners, connections, balancers and caches. Workers share nothing that one of
//! them could wait for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use weir_core::budget::{BudgetConfig, RetryBudget};
use weir_core::names::{BackendRef, Identity, ServiceRef};
use weir_core::snapshot::{AddressTarget, Known, ResourceName, Service, Snapshot};

use crate::cluster::Cluster;
use crate::exchange::{ConnectionCache, InFlight, SeriesCache};
use crate::fault::{Fault, Reason};
use crate::inbound::Inbound;
use crate::listen::{self, ListenError, Place};
use crate::outbound;
use crate::pool::Upstream;
use crate::settings::Settings;
use crate::shared::{Shared, WorkerQuestion};
use crate::tee::Held;

/// How long a request waits for the control plane to say what its destination is. Answers take milliseconds; while the control
/// plane is away this is what a call to a new destination costs before it fails.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// How often idle connections and unused state are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// State of a backend that nothing has called for this long is given up.
const CLUSTER_IDLE: Duration = Duration::from_secs(600);

/// Requests and connections under way in one worker. Above it new ones are refused: each holds up to a few hundred kilobytes of
/// buffers, and a proxy that swaps or is killed serves nobody.
pub(crate) const MAX_IN_FLIGHT: usize = 20_000;

/// What a worker can fail with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// An address is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system gives no thread or event loop.
    #[error("a worker cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// One worker's state. Lives on its thread.
pub(crate) struct Worker {
    /// What all workers share.
    pub(crate) shared: Arc<Shared>,
    /// Its number, from 0.
    pub(crate) index: usize,
    /// Requests under way, both directions.
    pub(crate) in_flight: InFlight,
    /// Copies of requests under way to mirrors.
    pub(crate) copies: InFlight,
    /// What their bodies hold.
    pub(crate) copied: Held,
    /// Where requests without a known destination are counted.
    pub(crate) unknown: SeriesCache,
    /// Where opaque connections are counted.
    pub(crate) connections: ConnectionCache,
    /// Dice.
    pub(crate) rng: RefCell<fastrand::Rng>,
    /// For requests to endpoints by their own address, which have no backend to keep one.
    budget: RefCell<RetryBudget>,
    clusters: RefCell<HashMap<BackendRef, Rc<Cluster>>>,
    /// Endpoints called by their own address.
    direct: RefCell<HashMap<DirectKey, Direct>>,
}

/// An endpoint called by its own address.
struct Direct {
    upstream: Rc<Upstream>,
    last_used: Cell<Instant>,
}

/// An endpoint's address, and who must answer there.
type DirectKey = (SocketAddr, Option<Arc<Identity>>);

impl Worker {
    /// The backend's state, up to date with `snapshot`.
    pub(crate) fn cluster(&self, backend: &BackendRef, snapshot: &Snapshot) -> Rc<Cluster> {
        let known = self.clusters.borrow().get(backend).cloned();
        let cluster = known.unwrap_or_else(|| {
            let cluster = Cluster::new(&self.shared, backend.clone());
            self.clusters.borrow_mut().insert(backend.clone(), Rc::clone(&cluster));
            cluster
        });
        cluster.reconcile(snapshot.endpoints(backend));
        cluster
    }

    /// Connections to an endpoint that was called by its own address.
    pub(crate) fn direct(&self, address: SocketAddr, identity: Option<&Arc<Identity>>) -> Rc<Upstream> {
        let key = (address, identity.cloned());
        let mut direct = self.direct.borrow_mut();
        let entry = direct.entry(key).or_insert_with(|| Direct {
            upstream: Upstream::new(&self.shared, address, identity.cloned(), None),
            last_used: Cell::new(Instant::now()),
        });
        entry.last_used.set(Instant::now());
        Rc::clone(&entry.upstream)
    }

    /// A request to an endpoint by its own address pays into the budget.
    pub(crate) fn deposit(&self) {
        self.budget.borrow_mut().deposit(self.shared.now());
    }

    /// Whether the budget admits one more retry of such a request.
    pub(crate) fn withdraw(&self) -> bool {
        self.budget.borrow_mut().withdraw(self.shared.now())
    }

    /// What the control plane knows of a service; asks it if that is not here yet.
    ///
    /// # Errors
    ///
    /// The control plane does not answer in time.
    pub(crate) async fn service(&self, name: &ServiceRef) -> Result<Known<Arc<Service>>, Fault> {
        self.lookup(ResourceName::Service(name.clone()), |snapshot| snapshot.service(name).cloned()).await
    }

    /// What stands behind an address; asks the control plane if that is not here yet.
    ///
    /// # Errors
    ///
    /// The control plane does not answer in time.
    pub(crate) async fn address(&self, ip: std::net::IpAddr) -> Result<Known<AddressTarget>, Fault> {
        self.lookup(ResourceName::Address(ip), |snapshot| snapshot.address(ip).cloned()).await
    }

    async fn lookup<T>(&self, name: ResourceName, find: impl Fn(&Snapshot) -> Option<T>) -> Result<T, Fault> {
        if let Some(found) = find(&self.shared.snapshot.load()) {
            return Ok(found);
        }
        let mut changed = self.shared.changed.subscribe();
        if !self.shared.demand.ask(&name) {
            let detail = format!("this proxy follows {} destinations already", crate::shared::Demand::MAX);
            return Err(Fault::new(Reason::Overloaded, detail));
        }
        let wait = async {
            loop {
                if let Some(found) = find(&self.shared.snapshot.load()) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        let answer = tokio::time::timeout(LOOKUP_TIMEOUT, wait).await.ok().flatten();
        answer.ok_or_else(|| {
            let state = if self.shared.control.connected() { "has not answered yet" } else { "cannot be reached" };
            Fault::new(Reason::NoConfiguration, format!("nothing is known of {name:?}: the control plane {state}"))
        })
    }

    fn sweep(&self, now: Instant) {
        self.clusters.borrow_mut().retain(|_, cluster| {
            cluster.sweep(now);
            now.saturating_duration_since(cluster.last_used()) < CLUSTER_IDLE || !cluster.is_idle()
        });
        self.direct.borrow_mut().retain(|_, it| {
            it.upstream.sweep(now);
            now.saturating_duration_since(it.last_used.get()) < CLUSTER_IDLE || Rc::strong_count(&it.upstream) > 1
        });
    }

    fn answer(&self, question: WorkerQuestion) {
        match question {
            WorkerQuestion::Clusters(reply) => {
                let mut views: Vec<_> = self.clusters.borrow().values().map(|it| it.view(self.index)).collect();
                views.sort_by(|a, b| a.backend.cmp(&b.backend));
                // Nobody waits any more: fine.
                let _ = reply.send(views);
            }
        }
    }
}

/// Binds the worker's listeners and serves on a thread of its own until the process ends.
///
/// # Errors
///
/// An address that cannot be had, with the setting that asked for it.
pub(crate) fn start(shared: Arc<Shared>, index: usize) -> Result<thread::JoinHandle<()>, WorkerError> {
    let places = Places::of(&shared.settings);
    if index == 0 {
        for place in places.all() {
            listen::is_free(place)?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listeners = {
        let _context = runtime.enter();
        Listeners::bind(&places)?
    };
    let (ask, questions) = mpsc::channel(8);
    shared.workers.lock().unwrap_or_else(PoisonError::into_inner).push(ask);
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let worker = Rc::new(Worker {
            index,
            in_flight: InFlight::default(),
            copies: InFlight::default(),
            copied: Held::default(),
            unknown: SeriesCache::default(),
            connections: ConnectionCache::new(Arc::clone(&shared)),
            rng: RefCell::new(fastrand::Rng::new()),
            budget: RefCell::new(RetryBudget::new(BudgetConfig::default())),
            clusters: RefCell::default(),
            direct: RefCell::default(),
            shared,
        });
        LocalSet::new().block_on(&runtime, serve(worker, listeners, questions));
    })?;
    Ok(thread)
}

/// Where a worker listens.
struct Places {
    outbound: Vec<Place>,
    /// For redirected connections.
    inbound: Vec<Place>,
    /// On the workload's own ports, each with the application's address.
    mapped: Vec<(Place, SocketAddr)>,
}

impl Places {
    fn of(settings: &Settings) -> Self {
        let beside = |address: Option<SocketAddr>, setting| address.map(|address| Place::beside(address, setting));
        let mut outbound = vec![Place::of(settings.outbound_listen, "WEIR_OUTBOUND_LISTEN")];
        outbound.extend(beside(settings.ipv6.outbound, "WEIR_OUTBOUND_LISTEN"));
        let inbound = settings.inbound_listen.map(|address| Place::of(address, "WEIR_INBOUND_LISTEN"));
        let inbound = inbound.into_iter().chain(beside(settings.ipv6.inbound, "WEIR_INBOUND_LISTEN"));
        let mapped = settings.inbound.iter().map(|mapping| (Place::of(mapping.listen, "WEIR_INBOUND"), mapping.app));
        Self { outbound, inbound: inbound.collect(), mapped: mapped.collect() }
    }

    fn all(&self) -> impl Iterator<Item = &Place> {
        self.outbound.iter().chain(&self.inbound).chain(self.mapped.iter().map(|(place, _)| place))
    }
}

struct Listeners {
    outbound: Vec<TcpListener>,
    inbound: Vec<TcpListener>,
    /// With the address that is dialled, and the application's.
    mapped: Vec<(TcpListener, SocketAddr, SocketAddr)>,
}

impl Listeners {
    fn bind(places: &Places) -> Result<Self, ListenError> {
        let bind = |places: &[Place]| -> Result<Vec<_>, _> {
            places.iter().filter_map(|place| listen::bind(place).transpose()).collect()
        };
        let mapped = places.mapped.iter().filter_map(|(place, app)| {
            let listener = listen::bind(place).transpose()?;
            Some(listener.map(|listener| (listener, place.address, *app)))
        });
        Ok(Self { outbound: bind(&places.outbound)?, inbound: bind(&places.inbound)?, mapped: mapped.collect::<Result<_, _>>()? })
    }
}

async fn serve(worker: Rc<Worker>, listeners: Listeners, mut questions: mpsc::Receiver<WorkerQuestion>) {
    let inbound = Inbound::new(&worker);
    for listener in listeners.outbound {
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(accept_forever(Rc::clone(&worker), listener, move |stream| {
            outbound::accept(&worker, stream);
        }));
    }
    for (listener, listen, app) in listeners.mapped {
        let inbound = Rc::clone(&inbound);
        tokio::task::spawn_local(accept_until_drain(Rc::clone(&worker), listener, move |stream| {
            inbound.accept(stream, listen, app);
        }));
    }
    for listener in listeners.inbound {
        let inbound = Rc::clone(&inbound);
        tokio::task::spawn_local(accept_until_drain(Rc::clone(&worker), listener, move |stream| {
            inbound.accept_redirected(stream);
        }));
    }
    tokio::task::spawn_local(hold_while_busy(Rc::clone(&worker)));
    worker.shared.lifecycle.worker_listens();

    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    let mut ending = worker.shared.lifecycle.ending();
    loop {
        tokio::select! {
            _ = ending.wait_for(|ending| *ending) => return,
            _ = sweep.tick() => {
                worker.sweep(Instant::now());
                inbound.sweep(Instant::now());
            }
            Some(question) = questions.recv() => worker.answer(question),
        }
    }
}

/// New connections from peers stop with the drain: a refused connection is provably unprocessed, and its caller goes elsewhere.
async fn accept_until_drain(worker: Rc<Worker>, listener: TcpListener, serve: impl Fn(TcpStream)) {
    let mut draining = worker.shared.lifecycle.draining();
    tokio::select! {
        () = accept_forever(Rc::clone(&worker), listener, serve) => {}
        _ = draining.wait_for(|draining| *draining) => {}
    }
}

async fn accept_forever(worker: Rc<Worker>, listener: TcpListener, serve: impl Fn(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "a connection was gone before it was served");
                    continue;
                }
                serve(stream);
            }
            Err(error) => {
                // Out of file descriptors, mostly. Connections that end free some; accepting in a loop would only burn the core.
                tracing::warn!(%error, worker = worker.index, "cannot accept connections; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// During the drain the process stays until this worker's requests have ended, also those that its own application makes.
async fn hold_while_busy(worker: Rc<Worker>) {
    let hold = worker.shared.lifecycle.connection();
    let mut draining = worker.shared.lifecycle.draining();
    let _ = draining.wait_for(|draining| *draining).await;
    while worker.in_flight.count() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(hold);
}
