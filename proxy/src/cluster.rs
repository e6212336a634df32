//! One worker's view of one backend port: its endpoints, the balancer over them, the retry budget, the counters.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use weir_core::balance::{Algorithm, BalanceConfig, Balancer, FailureCause, Outcome, Preference, Ticket};
use weir_core::budget::{BudgetConfig, RetryBudget};
use weir_core::names::BackendRef;
use weir_core::policy::{BackendPolicy, Hedging, hash};
use weir_core::snapshot::{Endpoint, Endpoints, Protocol};

use crate::exchange::SeriesCache;
use crate::fault::{Fault, Reason};
use crate::metrics::MirrorSeries;
use crate::pool::{Keeping, Upstream};
use crate::settings::Workload;
use crate::shared::{ClusterEndpoint, ClusterView, Shared};
use crate::slots::Slots;

/// A backend port.
pub(crate) struct Cluster {
    /// Its name.
    pub(crate) backend: BackendRef,
    /// Where its requests are counted.
    pub(crate) series: SeriesCache,
    shared: Arc<Shared>,
    balancer: RefCell<Balancer<Rc<Upstream>>>,
    /// What the balancer was last reconciled with.
    endpoints: RefCell<Option<Arc<Endpoints>>>,
    /// How endpoints are chosen among, as of the same.
    policy: RefCell<Arc<BackendPolicy>>,
    /// Where all requests of this workload stand on a ring.
    source: u64,
    budget: RefCell<RetryBudget>,
    /// What is under way, where that is limited.
    slots: RefCell<Option<Arc<Slots>>>,
    rng: RefCell<fastrand::Rng>,
    /// Where requests that are mirrored to it are counted; looked up with the first.
    mirrored: OnceCell<MirrorSeries>,
    last_used: Cell<Instant>,
}

impl Cluster {
    /// A backend whose endpoints are not known yet.
    pub(crate) fn new(shared: &Arc<Shared>, backend: BackendRef) -> Rc<Self> {
        Rc::new(Self {
            backend,
            series: SeriesCache::default(),
            shared: Arc::clone(shared),
            balancer: RefCell::new(Balancer::new(BalanceConfig::default())),
            endpoints: RefCell::default(),
            policy: RefCell::default(),
            source: source(&shared.settings.workload),
            budget: RefCell::new(RetryBudget::new(BudgetConfig::default())),
            slots: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            mirrored: OnceCell::new(),
            last_used: Cell::new(Instant::now()),
        })
    }

    /// Takes over the endpoints of the current configuration. A comparison of two pointers when nothing has changed.
    ///
    /// `None`: nothing refers to this backend any more, so nobody says what its endpoints are. What was decided before that is
    /// still served by those that were known.
    pub(crate) fn reconcile(&self, endpoints: Option<&Arc<Endpoints>>) {
        self.last_used.set(Instant::now());
        let Some(endpoints) = endpoints else { return };
        let mut known = self.endpoints.borrow_mut();
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, endpoints)) {
            return;
        }
        *known = Some(Arc::clone(endpoints));
        self.adopt(&endpoints.policy);
        let list = &endpoints.endpoints;
        let keeping = Keeping::of(&endpoints.policy);
        let make = |endpoint: &Endpoint| {
            let upstream = Upstream::new(&self.shared, endpoint.address, endpoint.identity.clone(), endpoint.tls.as_ref());
            upstream.keep(keeping);
            upstream
        };
        self.balancer.borrow_mut().reconcile(list, self.shared.now(), make);
        self.find_zone();
    }

    /// Takes over which zone this workload is in.
    fn find_zone(&self) {
        let zone = Arc::clone(&self.shared.snapshot.load().inbound().zone);
        self.balancer.borrow_mut().in_zone(Some(zone));
    }

    fn adopt(&self, policy: &Arc<BackendPolicy>) {
        let old = self.policy.replace(Arc::clone(policy));
        if old.balance != policy.balance {
            self.balancer.borrow_mut().reconfigure(policy.balance, self.shared.now());
        }
        if old.budget != policy.budget {
            self.budget.replace(RetryBudget::new(policy.budget));
        }
        if old.limits != policy.limits {
            self.slots.replace(self.shared.slots.of(&self.backend, policy.limits));
        }
        let keeping = Keeping::of(policy);
        if Keeping::of(&old) != keeping {
            self.balancer.borrow().clients().for_each(|upstream| upstream.keep(keeping));
        }
    }

    /// Where requests and connections are counted that are under way. `None`: any number may be.
    pub(crate) fn slots(&self) -> Option<Arc<Slots>> {
        self.slots.borrow().clone()
    }

    /// Whether and when a second attempt joins one that takes long.
    pub(crate) fn hedging(&self) -> Option<Hedging> {
        self.policy.borrow().hedging
    }

    /// Which endpoint a request would like by the policy: the one that the ring names, if there is a ring.
    pub(crate) fn preference(&self, headers: &HeaderMap) -> Preference {
        let policy = self.policy.borrow();
        if policy.balance.algorithm != Algorithm::RingHash {
            return Preference::Any;
        }
        policy.hash_on.key(headers, self.source).map_or(Preference::Any, Preference::Key)
    }

    /// Picks an endpoint, one that is not among `tried` if there is another.
    ///
    /// # Errors
    ///
    /// There is no ready endpoint.
    pub(crate) fn pick(self: &Rc<Self>, tried: &[SocketAddr], preference: Preference) -> Result<Pick, Fault> {
        let mut balancer = self.balancer.borrow_mut();
        let ticket = balancer
            .pick(self.shared.now(), &mut self.rng.borrow_mut(), tried, preference)
            .map_err(|_| Fault::new(Reason::NoEndpoint, format!("{} has no ready endpoint", self.backend)))?;
        match (balancer.client(&ticket), balancer.endpoint(&ticket)) {
            (Some(upstream), Some(endpoint)) => Ok(Pick {
                upstream: Rc::clone(upstream),
                protocol: endpoint.protocol,
                ticket: Some(ticket),
                cluster: Rc::clone(self),
            }),
            _ => Err(Fault::new(Reason::NoEndpoint, format!("{} has no ready endpoint", self.backend))),
        }
    }

    /// A request that is not a retry pays into the retry budget.
    pub(crate) fn deposit(&self) {
        self.budget.borrow_mut().deposit(self.shared.now());
    }

    /// Whether the budget admits one more retry; counted when it does not.
    pub(crate) fn withdraw(&self) -> bool {
        let granted = self.budget.borrow_mut().withdraw(self.shared.now());
        if !granted {
            self.shared.metrics.over_budget(&self.backend);
        }
        granted
    }

    /// Whether a request that the budget grants no further retry is answered with 503.
    pub(crate) fn answers_unavailable(&self) -> bool {
        self.policy.borrow().budget.answers_unavailable
    }

    /// Where requests that are mirrored to it are counted.
    pub(crate) fn mirrored(&self) -> &MirrorSeries {
        self.mirrored.get_or_init(|| self.shared.metrics.mirrored(&self.backend))
    }

    fn finish(&self, ticket: Ticket, outcome: Outcome) {
        let (now, mut balancer, mut rng) = (self.shared.now(), self.balancer.borrow_mut(), self.rng.borrow_mut());
        let ejected = balancer.finish(ticket, outcome, now, &mut rng);
        for ejected in ejected.into_iter().chain(balancer.judge(now, &mut rng)) {
            let cause = ejected.cause.as_str();
            self.shared.metrics.ejection(&self.backend, cause);
            tracing::warn!(
                backend = %self.backend, endpoint = %ejected.address, cause, seconds = ejected.length.as_secs_f64(),
                "endpoint ejected: {}; it is tried again after this time", why(ejected.cause)
            );
        }
    }

    /// When it was last asked for.
    pub(crate) fn last_used(&self) -> Instant {
        self.last_used.get()
    }

    /// Whether nothing is under way to any endpoint.
    pub(crate) fn is_idle(&self) -> bool {
        self.balancer.borrow().view().all(|it| it.outstanding == 0)
    }

    /// Closes connections that nothing has used for a while.
    pub(crate) fn sweep(&self, now: Instant) {
        self.find_zone();
        for client in self.balancer.borrow().clients() {
            client.sweep(now);
        }
    }

    /// For the admin page.
    pub(crate) fn view(&self, worker: usize) -> ClusterView {
        let balancer = self.balancer.borrow();
        let mut endpoints: Vec<_> = balancer
            .view()
            .map(|it| ClusterEndpoint {
                address: it.endpoint.address.to_string(),
                pod: it.endpoint.pod.to_string(),
                identity: it.endpoint.identity.as_ref().map(ToString::to_string),
                outstanding: it.outstanding,
                rtt_ms: it.rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
                ejected_seconds: it.ejected_for.map(|length| length.as_secs_f64()),
            })
            .collect();
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        ClusterView { backend: self.backend.to_string(), worker, endpoints }
    }
}

/// What an endpoint did that it is ejected for.
const fn why(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::SuccessRate => "too few of its requests ended well",
        FailureCause::Latency => "it took much longer to answer than the others",
        FailureCause::Connect | FailureCause::Reset | FailureCause::Timeout | FailureCause::ServerError => {
            "it failed several times in a row"
        }
    }
}

fn source(workload: &Workload) -> u64 {
    hash::bytes(format!("{}/{}", workload.namespace, workload.pod).as_bytes())
}

/// An endpoint that was picked. Dropped without an outcome it counts as abandoned: neither for nor against the endpoint.
pub(crate) struct Pick {
    /// The endpoint's connections.
    pub(crate) upstream: Rc<Upstream>,
    /// What it speaks.
    pub(crate) protocol: Protocol,
    ticket: Option<Ticket>,
    cluster: Rc<Cluster>,
}

impl Pick {
    /// The answer has begun: this is the round trip that balancing compares.
    pub(crate) fn answered(&mut self) {
        if let Some(ticket) = &mut self.ticket {
            self.cluster.balancer.borrow_mut().answered(ticket, self.cluster.shared.now());
        }
    }

    /// The attempt is over.
    pub(crate) fn finish(mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            self.cluster.finish(ticket, outcome);
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.cluster.finish(ticket, Outcome::Abandoned);
        }
    }
}
