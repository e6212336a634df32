use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use prost::Message;
use weir_core::names::BackendRef;
use weir_core::snapshot::{ResourceName, TrustBundle};
use weir_proto::v1;

use super::encode::parse_name;
use super::session::{Misbehaviour, Refusal, Session};
use super::state::State;
use super::wire::SharedResponse;
use crate::index::Event;
use crate::objects::Object;
use crate::testing::{all_names, all_workloads, events, random_event, trust_domain};
use crate::translate::Workload;

fn state() -> State {
    State::new(TrustBundle { trust_domain: trust_domain(), roots: vec![Arc::from([1, 2, 3].as_slice())], generation: 0 })
}

fn workload(namespace: &str) -> Workload {
    let (pod, service_account) = (Some("client".parse().unwrap()), "client".parse().unwrap());
    Workload { namespace: namespace.parse().unwrap(), pod, service_account, ips: Vec::new() }
}

fn service(text: &str) -> ResourceName {
    ResourceName::Service(text.parse().unwrap())
}

fn endpoints(text: &str) -> ResourceName {
    ResourceName::Endpoints(text.parse().unwrap())
}

/// A proxy that does what it is told: what it holds, by name, with the version.
#[derive(Debug, Default)]
struct Proxy {
    held: BTreeMap<ResourceName, Option<String>>,
}

impl Proxy {
    fn take(&mut self, response: &SharedResponse) -> BTreeSet<ResourceName> {
        let mut names = BTreeSet::new();
        for bytes in &response.updated {
            let resource = v1::Resource::decode(bytes.clone()).unwrap();
            assert!(resource.body.is_some());
            let name = parse_name(&resource.name.unwrap()).unwrap();
            assert!(names.insert(name.clone()), "{name:?} twice");
            self.held.insert(name, Some(resource.version));
        }
        for name in response.removed.iter().map(|it| parse_name(it).unwrap()) {
            assert!(names.insert(name.clone()), "{name:?} twice");
            self.held.insert(name, None);
        }
        for name in response.forgotten.iter().map(|it| parse_name(it).unwrap()) {
            assert!(names.insert(name.clone()), "{name:?} twice");
            assert!(self.held.remove(&name).is_some(), "{name:?} was not held");
        }
        names
    }
}

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: canary, namespace: shop}
spec: {clusterIP: 10.0.0.2, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {clusterIP: 10.0.0.3, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews}]
  rules: [{backendRefs: [{name: reviews, port: 80}, {name: canary, port: 80}]}]
";

/// Another weight of the route in [`SHOP`].
fn shifted(weight: u32) -> Vec<Event> {
    events(&format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: shop}}
spec:
  parentRefs: [{{group: '', kind: Service, name: reviews}}]
  rules: [{{backendRefs: [{{name: reviews, port: 80}}, {{name: canary, port: 80, weight: {weight}}}]}}]
"
    ))
}

fn delete(events: Vec<Event>) -> Vec<Event> {
    let deleted = events.into_iter().map(|event| match event {
        Event::Apply(object) => Event::Delete(object.key()),
        Event::Delete(key) => Event::Delete(key),
    });
    deleted.collect()
}

/// A session that has everything of [`SHOP`] that it asked for.
fn settled(names: &[ResourceName]) -> (State, Session, Proxy) {
    let mut state = state();
    state.apply(events(SHOP));
    let mut session = Session::new(workload("shop"), []);
    let mut proxy = Proxy::default();
    session.subscribe(names.iter().cloned()).unwrap();
    let response = session.respond(&mut state).unwrap();
    proxy.take(&response);
    session.ack(response.sequence).unwrap();
    assert_eq!(session.respond(&mut state), None);
    (state, session, proxy)
}

fn apply(state: &mut State, session: &mut Session, events: Vec<Event>) -> bool {
    let applied = state.apply(events);
    session.mark(&applied.dirty)
}

#[test]
fn a_service_comes_with_the_endpoints_of_its_ports_and_backends_in_one_response() {
    let (_, _, proxy) = settled(&[service("shop/reviews"), service("shop/nothing")]);
    let held: Vec<&ResourceName> = proxy.held.keys().collect();
    let expected = [
        service("shop/nothing"),
        service("shop/reviews"),
        endpoints("shop/canary:80"),
        endpoints("shop/reviews:80"),
        ResourceName::Inbound,
        ResourceName::Trust,
    ];
    assert_eq!(held, expected.iter().collect::<Vec<_>>());
    assert_eq!(proxy.held[&service("shop/nothing")], None, "a name that is nothing is said to be nothing");
}

#[test]
fn only_what_changed_is_sent() {
    let (mut state, mut session, mut proxy) = settled(&[service("shop/reviews"), service("shop/other")]);
    assert!(apply(&mut state, &mut session, shifted(5)));
    let response = session.respond(&mut state).unwrap();
    assert_eq!(proxy.take(&response), BTreeSet::from([service("shop/reviews")]));
    assert_eq!(response.sequence, 2);
}

#[test]
fn a_change_that_alters_nothing_sends_nothing() {
    let (mut state, mut session, _) = settled(&[service("shop/reviews")]);
    apply(&mut state, &mut session, events(SHOP));
    assert_eq!(session.respond(&mut state), None);
    // Of a Pod that is nobody's endpoint, and of a Service that nobody asked for.
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: lonely, namespace: shop}
status: {podIP: 10.9.9.9}
---
apiVersion: v1
kind: Service
metadata: {name: new, namespace: shop}
spec: {clusterIP: 10.0.0.9, ports: [{name: http, port: 80}]}
";
    assert!(!apply(&mut state, &mut session, events(text)));
    assert_eq!(session.respond(&mut state), None);
}

#[test]
fn nothing_is_sent_before_the_last_response_is_answered_and_then_only_the_newest() {
    let (mut state, mut session, mut proxy) = settled(&[service("shop/reviews")]);
    apply(&mut state, &mut session, shifted(2));
    let second = session.respond(&mut state).unwrap();
    for weight in 3..100 {
        apply(&mut state, &mut session, shifted(weight));
        assert_eq!(session.respond(&mut state), None);
    }
    assert_eq!(session.ack(1), Err(Misbehaviour::WrongSequence(1)));
    session.ack(second.sequence).unwrap();
    proxy.take(&second);
    let third = session.respond(&mut state).unwrap();
    assert_eq!(third.sequence, 3);
    assert_eq!(third.updated.len(), 1);
    proxy.take(&third);
    let now = state.find(&service("shop/reviews"), session.workload()).unwrap();
    assert_eq!(proxy.held[&service("shop/reviews")].as_deref(), Some(&*now.version));
}

#[test]
fn a_change_that_is_taken_back_before_it_was_sent_is_not_sent() {
    let (mut state, mut session, _) = settled(&[service("shop/reviews")]);
    apply(&mut state, &mut session, shifted(2));
    apply(&mut state, &mut session, events(SHOP));
    assert_eq!(session.respond(&mut state), None);
}

#[test]
fn a_refused_response_is_not_sent_again_until_something_changes() {
    let (mut state, mut session, mut proxy) = settled(&[service("shop/reviews")]);
    apply(&mut state, &mut session, shifted(2));
    let refused = session.respond(&mut state).unwrap();
    let refusal = Refusal { sequence: refused.sequence, reason: "no".into(), name: None };
    session.nack(refusal.clone()).unwrap();
    assert_eq!(session.standing_refusal(), Some(&refusal));
    assert_eq!(session.respond(&mut state), None);
    session.mark_all();
    assert_eq!(session.respond(&mut state), None, "looking again is not a change");
    apply(&mut state, &mut session, shifted(3));
    let response = session.respond(&mut state).unwrap();
    proxy.take(&response);
    session.ack(response.sequence).unwrap();
    assert_eq!(session.standing_refusal(), None);
    assert_eq!(session.respond(&mut state), None);
}

#[test]
fn the_rest_of_a_refused_response_comes_without_the_resource_at_fault() {
    let (mut state, mut session, mut proxy) = settled(&[service("shop/reviews"), service("shop/other")]);
    apply(&mut state, &mut session, shifted(2));
    apply(&mut state, &mut session, delete(events(SHOP)).split_off(2)[..1].to_vec());
    let both = session.respond(&mut state).unwrap();
    assert_eq!((both.updated.len(), both.removed.len()), (1, 1));
    let refusal = Refusal { sequence: both.sequence, reason: "no".into(), name: Some(service("shop/reviews")) };
    session.nack(refusal).unwrap();
    let rest = session.respond(&mut state).unwrap();
    let told = proxy.take(&rest);
    assert_eq!(told, BTreeSet::from([service("shop/other"), endpoints("shop/other:80")]));
    session.ack(rest.sequence).unwrap();
    assert!(session.standing_refusal().is_some());
    assert_eq!(session.respond(&mut state), None);
}

#[test]
fn a_proxy_that_comes_back_is_sent_only_what_it_lacks() {
    let (mut state, _, before) = settled(&[service("shop/reviews"), service("shop/other")]);
    state.apply(shifted(9));
    let held = before.held.iter().filter_map(|(name, version)| Some((name.clone(), version.clone()?)));
    let mut session = Session::new(workload("shop"), held);
    session.subscribe([service("shop/reviews")]).unwrap();
    let response = session.respond(&mut state).unwrap();
    assert_eq!((response.updated.len(), response.removed.len(), response.forgotten.len()), (1, 0, 0), "{response:?}");
    session.ack(response.sequence).unwrap();
    // It has not yet asked for the other Service again, so what belongs to that one is not taken away.
    assert_eq!(session.respond(&mut state), None);
    session.unsubscribe([service("shop/other")]);
    let response = session.respond(&mut state).unwrap();
    let forgotten: Vec<ResourceName> = response.forgotten.iter().map(|it| parse_name(it).unwrap()).collect();
    assert_eq!(forgotten, [service("shop/other"), endpoints("shop/other:80")]);
}

#[test]
fn what_nothing_refers_to_any_more_is_forgotten() {
    let (mut state, mut session, mut proxy) = settled(&[service("shop/reviews"), service("shop/canary")]);
    session.unsubscribe([service("shop/canary")]);
    let response = session.respond(&mut state).unwrap();
    assert_eq!(proxy.take(&response), BTreeSet::from([service("shop/canary")]), "its endpoints are another's backend");
    session.ack(response.sequence).unwrap();
    apply(&mut state, &mut session, delete(shifted(1)));
    let response = session.respond(&mut state).unwrap();
    let told = proxy.take(&response);
    assert_eq!(told, BTreeSet::from([service("shop/reviews"), endpoints("shop/canary:80")]));
    assert!(!proxy.held.contains_key(&endpoints("shop/canary:80")));
}

#[test]
fn a_service_that_goes_is_removed_and_comes_again() {
    let (mut state, mut session, mut proxy) = settled(&[service("shop/reviews")]);
    apply(&mut state, &mut session, delete(events(SHOP)));
    let response = session.respond(&mut state).unwrap();
    proxy.take(&response);
    assert_eq!(proxy.held[&service("shop/reviews")], None);
    assert!(!proxy.held.contains_key(&endpoints("shop/reviews:80")));
    session.ack(response.sequence).unwrap();
    apply(&mut state, &mut session, events(SHOP));
    let response = session.respond(&mut state).unwrap();
    proxy.take(&response);
    assert!(proxy.held[&service("shop/reviews")].is_some());
    assert!(proxy.held[&endpoints("shop/canary:80")].is_some());
}

#[test]
fn consumer_routes_are_for_their_own_namespace() {
    let mut state = state();
    state.apply(events(SHOP));
    let text = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: mine, namespace: desk}
spec:
  parentRefs: [{group: '', kind: Service, name: reviews, namespace: shop}]
  rules: [{timeouts: {request: 1s}, backendRefs: [{name: other, namespace: shop, port: 80}]}]
";
    state.apply(events(text));
    let version = |state: &mut State, namespace: &str| {
        let found = state.find(&service("shop/reviews"), &workload(namespace)).unwrap();
        (found.version.clone(), found.refers.to_vec())
    };
    let (shop, desk, elsewhere) = (version(&mut state, "shop"), version(&mut state, "desk"), version(&mut state, "elsewhere"));
    assert_eq!(shop, elsewhere);
    assert_ne!(shop.0, desk.0);
    let backend = |text: &str| text.parse::<BackendRef>().unwrap();
    assert_eq!(shop.1, [backend("shop/canary:80"), backend("shop/reviews:80")]);
    assert_eq!(desk.1, [backend("shop/other:80"), backend("shop/reviews:80")]);
}

#[test]
fn the_bounds_hold() {
    let mut session = Session::new(workload("shop"), []);
    let many = (0..super::session::MAX_SUBSCRIPTIONS).map(|i| service(&format!("shop/s{i}")));
    session.subscribe(many).unwrap();
    assert_eq!(session.subscribe([service("shop/s0")]), Ok(()), "one that it has costs nothing");
    assert_eq!(session.subscribe([service("shop/one-more")]), Err(Misbehaviour::TooManySubscriptions));
    let alone = session.subscribe([endpoints("shop/reviews:80")]);
    assert_eq!(alone, Err(Misbehaviour::EndpointsAlone("shop/reviews".parse().unwrap())));
    // So much does not go into one response, but all of it comes.
    let mut state = state();
    let (mut removed, mut responses) = (0, 0);
    while let Some(response) = session.respond(&mut state) {
        removed += response.removed.len();
        responses += 1;
        session.ack(response.sequence).unwrap();
    }
    assert_eq!(removed, super::session::MAX_SUBSCRIPTIONS);
    assert!(responses < 10, "{responses}");
}

/// Whatever happens and whatever is refused on the way: once everything is answered, a proxy holds exactly what it should.
#[test]
fn every_proxy_ends_up_with_the_newest_state() {
    for seed in 0..150 {
        let mut rng = Rng::with_seed(seed);
        let mut state = state();
        let workloads = all_workloads();
        let workload = workloads[rng.usize(..workloads.len())].clone();
        let mut session = Session::new(workload, []);
        let mut proxy = Proxy::default();
        let names: Vec<ResourceName> =
            all_names().into_iter().filter(|it| matches!(it, ResourceName::Service(_) | ResourceName::Address(_))).collect();
        for _ in 0..120 {
            match rng.u8(..8) {
                0 => session.subscribe([names[rng.usize(..names.len())].clone()]).unwrap(),
                1 => session.unsubscribe([names[rng.usize(..names.len())].clone()]),
                2 if rng.u8(..4) == 0 => reconnect(&mut session, &mut proxy),
                2..=4 => answer(&mut session, &mut state, &mut proxy, &mut rng),
                _ => {
                    apply(&mut state, &mut session, vec![random_event(&mut rng)]);
                }
            }
        }
        // Whatever it refused is offered again when it changes; here a new trust bundle and a new look are the change.
        let dirty =
            state.set_trust(TrustBundle { trust_domain: trust_domain(), roots: vec![Arc::from([9].as_slice())], generation: 0 });
        session.mark(&dirty);
        session.mark_all();
        while let Some(response) = session.respond(&mut state) {
            proxy.take(&response);
            session.ack(response.sequence).unwrap();
        }
        assert_eq!(proxy.held, expected(&session, &mut state), "seed {seed}");
    }
}

fn answer(session: &mut Session, state: &mut State, proxy: &mut Proxy, rng: &mut Rng) {
    let Some(response) = session.respond(state) else { return };
    if rng.u8(..4) == 0 {
        session.nack(Refusal { sequence: response.sequence, reason: "dice".into(), name: None }).unwrap();
    } else {
        proxy.take(&response);
        session.ack(response.sequence).unwrap();
    }
}

/// Asks again for everything, as a proxy does. A Hello has no way to say what the proxy knows not to exist.
fn reconnect(session: &mut Session, proxy: &mut Proxy) {
    let subscribed = session.subscribed().clone();
    proxy.held.retain(|_, version| version.is_some());
    let held = proxy.held.iter().filter_map(|(name, version)| Some((name.clone(), version.clone()?)));
    let old: Vec<ResourceName> = proxy.held.keys().filter(|name| !subscribed.contains(name)).cloned().collect();
    *session = Session::new(session.workload().clone(), held);
    session.subscribe(subscribed).unwrap();
    session.unsubscribe(old);
}

fn expected(session: &Session, state: &mut State) -> BTreeMap<ResourceName, Option<String>> {
    let mut wanted: BTreeSet<ResourceName> = session.subscribed().clone();
    wanted.extend([ResourceName::Inbound, ResourceName::Trust]);
    for name in session.subscribed() {
        if let (ResourceName::Service(_), Some(found)) = (name, state.find(name, session.workload())) {
            wanted.extend(found.refers.iter().cloned().map(ResourceName::Endpoints));
        }
    }
    let version =
        |name: &ResourceName, state: &mut State| state.find(name, session.workload()).map(|found| found.version.to_string());
    wanted.into_iter().map(|name| (name.clone(), version(&name, state))).collect()
}

#[test]
fn what_is_cached_is_never_stale() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let mut state = state();
        for _ in 0..60 {
            state.apply([random_event(&mut rng)]);
            let mut fresh = State::new(state.trust().as_ref().clone());
            fresh.apply(all_objects(&state));
            for workload in &all_workloads() {
                for name in all_names() {
                    assert_eq!(state.find(&name, workload), fresh.find(&name, workload), "{name:?} seed {seed}");
                }
            }
        }
    }
}

fn all_objects(state: &State) -> Vec<Event> {
    let index = state.index();
    let services = index.services().map(|it| Event::Apply(Object::Service(it.clone())));
    let routes = index.routes().map(|it| Event::Apply(Object::Route(it.clone())));
    services.chain(routes).chain(index.others_for_tests()).collect()
}
