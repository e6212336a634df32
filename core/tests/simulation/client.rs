//! The callers of the simulation. A client is one worker of one proxy: it makes every decision through the crate, and checks
//! after each that it was a right one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use http::{Method, StatusCode};
use weir_core::backoff::Backoff;
use weir_core::balance::{BalanceConfig, Balancer, FailureCause, Outcome, Preference, Ticket};
use weir_core::budget::{BudgetConfig, RetryBudget};
use weir_core::clock::Moment;
use weir_core::deadline::{Deadline, Expiry};
use weir_core::retry::{ALWAYS_RETRIES, AttemptEnd, RequestFacts, Stop, Verdict, wants_retry};
use weir_core::route::{RetryPolicy, Timeouts};

use crate::world::{Reply, World, number};

pub(crate) struct Client {
    balancer: Balancer<()>,
    balance: BalanceConfig,
    budget: RetryBudget,
    budget_config: BudgetConfig,
    policy: Option<RetryPolicy>,
    timeouts: Timeouts,
    rng: Rng,
    /// The endpoints that it knows, and since when.
    known: BTreeMap<usize, Moment>,
    /// What the balancer should say is outstanding.
    in_flight: BTreeMap<usize, u32>,
    requests: BTreeMap<u64, Request>,
    /// When requests arrived and when retries were granted, within the budget's window.
    arrivals: VecDeque<Moment>,
    grants: VecDeque<Moment>,
    pub(crate) tally: Tally,
}

/// What has happened so far.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) retries: u64,
    pub(crate) over_budget: u64,
    pub(crate) lost: u64,
    /// Attempts by server since it was last cleared.
    pub(crate) attempts: BTreeMap<usize, u64>,
}

struct Request {
    arrived: Moment,
    facts: RequestFacts,
    deadline: Deadline,
    tried: Vec<SocketAddr>,
    retries: u32,
    /// How often a server has taken it and may have acted on it.
    processed: u32,
    attempt: Option<Attempt>,
}

struct Attempt {
    ticket: Ticket,
    server: usize,
    /// When the client had come to know the server: it may leave and come back meanwhile.
    known_since: Moment,
    reply: Reply,
    /// Set when a timeout ends it.
    expiry: Option<Expiry>,
}

/// What a client waits for next on behalf of a request.
pub(crate) enum Next {
    /// The attempt ends after this.
    End(Duration),
    /// Another attempt begins after this.
    Retry(Duration),
    /// Nothing, the request is over.
    Over,
}

impl Client {
    pub(crate) fn new(balance: BalanceConfig, budget: BudgetConfig, policy: bool, request: Duration, seed: u64) -> Self {
        let policy = policy.then(|| RetryPolicy {
            codes: vec![StatusCode::SERVICE_UNAVAILABLE],
            attempts: ALWAYS_RETRIES,
            backoff: Duration::from_millis(5),
        });
        Self {
            balancer: Balancer::new(balance),
            balance,
            budget: RetryBudget::new(budget),
            budget_config: budget,
            policy,
            timeouts: Timeouts { request: Some(request), backend_request: Some(Duration::from_secs(1)) },
            rng: Rng::with_seed(seed),
            known: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            requests: BTreeMap::new(),
            arrivals: VecDeque::new(),
            grants: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// Hears of the present set of endpoints.
    pub(crate) fn reconcile(&mut self, world: &World, now: Moment) {
        let listed = world.listed();
        self.known.retain(|server, _| listed.contains(server));
        self.in_flight.retain(|server, _| listed.contains(server));
        for server in listed {
            self.known.entry(server).or_insert(now);
        }
        self.balancer.reconcile(&world.endpoints(), now, |_| ());
        self.check(now);
    }

    /// A request arrives: a GET, or sometimes a POST.
    pub(crate) fn arrive(&mut self, id: u64, world: &mut World, now: Moment) -> Next {
        let method = if self.rng.u8(..4) == 0 { Method::POST } else { Method::GET };
        let request = Request {
            arrived: now,
            facts: RequestFacts::new(&method, true),
            deadline: Deadline::new(now, self.timeouts),
            tried: Vec::new(),
            retries: 0,
            processed: 0,
            attempt: None,
        };
        self.requests.insert(id, request);
        self.tally.requests += 1;
        self.budget.deposit(now);
        self.arrivals.push_back(now);
        self.attempt(id, world, now)
    }

    /// Begins an attempt.
    pub(crate) fn attempt(&mut self, id: u64, world: &mut World, now: Moment) -> Next {
        let request = self.requests.get_mut(&id).expect("a request under way");
        let ticket = self
            .balancer
            .pick(now, &mut self.rng, &request.tried, Preference::Key(weir_core::policy::hash::mix(id)))
            .expect("the set is never empty");
        let address = self.balancer.endpoint(&ticket).expect("just picked").address;
        let server = number(address);
        let known_since = *self.known.get(&server).expect("picked an endpoint outside of the current set");
        let all_tried = self.known.keys().all(|known| request.tried.iter().any(|it| number(*it) == *known));
        assert!(all_tried || !request.tried.contains(&address), "{address} again, though there are others");
        request.tried.push(address);
        let (takes, reply) = world.serve(server, &mut self.rng);
        request.processed += u32::from(reply != Reply::Refused);
        let cut = request.deadline.attempt(now).filter(|(left, _)| *left <= takes);
        let expiry = cut.map(|(_, expiry)| expiry);
        request.attempt = Some(Attempt { ticket, server, known_since, reply, expiry });
        *self.in_flight.entry(server).or_default() += 1;
        *self.tally.attempts.entry(server).or_default() += 1;
        self.check(now);
        Next::End(cut.map_or(takes, |(left, _)| left))
    }

    /// An attempt ends: the endpoint is judged by it, and the request ends or goes on.
    pub(crate) fn end(&mut self, id: u64, world: &mut World, now: Moment) -> Next {
        let request = self.requests.get_mut(&id).expect("a request under way");
        let Attempt { ticket, server, known_since, reply, expiry } = request.attempt.take().expect("an attempt under way");
        let reply = world.leave(server, ticket.started(), reply);
        if self.known.get(&server) == Some(&known_since) {
            *self.in_flight.entry(server).or_default() -= 1;
        }
        let gone = self.rng.u8(..100) == 0;
        let outcome = match (gone, expiry, reply) {
            (true, ..) => Outcome::Abandoned,
            (_, Some(_), _) | (_, None, Reply::Nothing) => Outcome::Failure(FailureCause::Timeout),
            (_, None, Reply::Refused) => Outcome::Failure(FailureCause::Connect),
            (_, None, Reply::Broke) => Outcome::Failure(FailureCause::Reset),
            (_, None, Reply::Answer(500..)) => Outcome::Failure(FailureCause::ServerError),
            (_, None, Reply::Answer(_)) => Outcome::Success,
        };
        let ejected = self.balancer.finish(ticket, outcome, now, &mut self.rng);
        assert!(ejected.is_none() || matches!(outcome, Outcome::Failure(_)), "ejected for a {outcome:?}");
        let next = match (outcome, expiry, reply) {
            (Outcome::Success | Outcome::Abandoned, ..) | (_, Some(Expiry::Request), _) => Next::Over,
            (_, Some(Expiry::BackendRequest), _) | (_, None, Reply::Nothing) => {
                self.retry(id, AttemptEnd::AttemptTimeout, world, now)
            }
            (_, None, Reply::Refused) => self.retry(id, AttemptEnd::NotProcessed, world, now),
            (_, None, Reply::Broke) => self.retry(id, AttemptEnd::Broke, world, now),
            (_, None, Reply::Answer(status)) => {
                let status = StatusCode::from_u16(status).expect("a status");
                self.retry(id, AttemptEnd::Status(status), world, now)
            }
        };
        if matches!(next, Next::Over) {
            self.over(id);
        }
        self.check(now);
        next
    }

    pub(crate) fn idle(&self) -> bool {
        self.requests.is_empty() && self.balancer.view().all(|it| it.outstanding == 0)
    }

    pub(crate) fn ejected(&self) -> usize {
        self.balancer.view().filter(|it| it.ejected_for.is_some()).count()
    }

    fn retry(&mut self, id: u64, end: AttemptEnd, world: &World, now: Moment) -> Next {
        let request = self.requests.get_mut(&id).expect("a request under way");
        match wants_retry(end, request.facts, self.policy.as_ref(), request.retries) {
            Verdict::Stop(stop) => {
                self.lost(id, stop, world);
                return Next::Over;
            }
            Verdict::Retry => request.retries += 1,
        }
        let least = self.policy.as_ref().map_or(Backoff::default().base, |policy| policy.backoff);
        let delay = Backoff { base: least, ..Backoff::default() }.delay(request.retries, &mut self.rng);
        assert!(delay >= least, "a retry sooner than the policy allows");
        if !request.deadline.allows(now, delay) {
            return Next::Over;
        }
        if !self.budget.withdraw(now) {
            self.tally.over_budget += 1;
            self.check_refusal(now);
            return Next::Over;
        }
        self.tally.retries += 1;
        self.grants.push_back(now);
        Next::Retry(delay)
    }

    /// A request ends without an answer that its caller could use. With as many attempts as there may be, each to another
    /// endpoint, that takes more sick endpoints than attempts, or no healthy one.
    fn lost(&mut self, id: u64, stop: Stop, world: &World) {
        self.tally.lost += 1;
        let request = self.requests.get(&id).expect("a request under way");
        if stop == Stop::Attempts {
            let healthy = self
                .known
                .iter()
                .any(|(server, since)| *since <= request.arrived && world.well_throughout(*server, request.arrived));
            let tried: BTreeSet<usize> = request.tried.iter().copied().map(number).collect();
            let sick = tried.iter().filter(|server| world.unwell_since(**server, request.arrived)).count();
            assert!(!healthy || sick > ALWAYS_RETRIES as usize, "lost beside a healthy endpoint: tried {tried:?}, {sick} sick");
        }
        assert!(stop != Stop::NotSafe || !request.facts.safe, "a safe request was given up as unsafe");
        assert!(stop != Stop::NotReplayable, "every body here can be sent again");
    }

    /// The budget refused a retry: it really was spent. It counts in tenths of its window, so requests of the oldest tenth may
    /// have left it already.
    fn check_refusal(&mut self, now: Moment) {
        let window = self.budget_config.window;
        let within = |times: &mut VecDeque<Moment>, length: Duration| {
            while times.front().is_some_and(|time| now.since(*time) > length) {
                times.pop_front();
            }
            times.len() as u64
        };
        let requests = within(&mut self.arrivals, window * 9 / 10);
        let retries = within(&mut self.grants, window);
        let reserve = u64::from(self.budget_config.min_per_second) * window.as_secs();
        let allowed = requests * u64::from(self.budget_config.percent) / 100 + reserve;
        assert!(retries >= allowed, "refused after {retries} retries of {requests} requests, {allowed} are allowed");
    }

    fn over(&mut self, id: u64) {
        let request = self.requests.remove(&id).expect("a request under way");
        assert!(
            request.facts.safe || self.policy.is_some() || request.processed <= 1,
            "a POST was processed {} times though nobody asked for it",
            request.processed
        );
    }

    /// What always holds.
    fn check(&self, now: Moment) {
        let mut ejected = 0;
        let mut seen = 0;
        for view in self.balancer.view() {
            let server = number(view.endpoint.address);
            let in_flight = self.in_flight.get(&server).copied().unwrap_or_default();
            assert_eq!(view.outstanding, in_flight, "outstanding at server {server}");
            assert!(self.known.contains_key(&server), "server {server} is not in the set");
            ejected += usize::from(view.ejected_for.is_some());
            seen += 1;
        }
        assert_eq!(seen, self.known.len());
        let cap = (seen * self.balance.ejection.max_ejected_percent as usize / 100).min(seen - 1);
        assert!(ejected <= cap, "{ejected} of {seen} endpoints are ejected");
        let window = self.budget_config.window.as_secs();
        let windows = now.since_start().as_secs() / window + 1;
        let reserve = u64::from(self.budget_config.min_per_second) * window * windows;
        let bound = self.tally.requests * u64::from(self.budget_config.percent) / 100 + reserve;
        assert!(self.tally.retries <= bound, "{} retries of {} requests", self.tally.retries, self.tally.requests);
    }
}
