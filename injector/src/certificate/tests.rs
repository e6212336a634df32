use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fastrand::Rng;
use proptest::prelude::*;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::bundle::{Hook, lacking, repair};
use super::make;
use super::plan::{OVERLAP, Plan, plan};
use super::stored::{AUTHORITIES, AUTHORITY_KEY, CHAIN, KEY, Keeper, Stored};
use super::*;

type Data = BTreeMap<String, Vec<u8>>;

const DAY: Duration = Duration::from_secs(86_400);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn names() -> Vec<String> {
    vec!["weir-injector.weir-system.svc".to_owned(), "127.0.0.1".to_owned(), "fd00::1".to_owned()]
}

fn made(now: SystemTime) -> Data {
    make::authority(&[], &names(), now).unwrap()
}

fn ours(data: &Data) -> Stored {
    Stored::read(data, true)
}

fn planned(data: &Data, now: SystemTime) -> Plan {
    plan(Some(&ours(data)), &names(), now, &mut Rng::with_seed(1))
}

fn without(data: &Data, part: &str) -> Data {
    let mut data = data.clone();
    data.remove(part);
    data
}

fn with(data: &Data, part: &str, value: &[u8]) -> Data {
    let mut data = data.clone();
    data.insert(part.to_owned(), value.to_vec());
    data
}

fn why(plan: Plan) -> String {
    match plan {
        Plan::NewLeaf(why) => format!("leaf: {why}"),
        Plan::NewAuthority(why) => format!("authority: {why}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn what_is_made_is_kept() {
    let data = made(start());
    let stored = ours(&data);
    assert_eq!(stored.keeper, Keeper::Injector);
    assert_eq!(stored.authorities.len(), 1);
    let leaf = stored.leaf.as_ref().unwrap();
    assert!(leaf.signed_by_first);
    assert_eq!(leaf.names, names());
    assert_eq!(leaf.validity, Validity { not_before: start() - BACKDATED, not_after: start() + DAY * 90 });
    assert_eq!(stored.authorities[0].validity.not_after, start() + DAY * 3652);
    assert_eq!(planned(&data, start()), Plan::Keep);
    assert_eq!(stored.bundle(), data[AUTHORITIES]);
    assert_eq!(stored.served().unwrap().anchors, [stored.authorities[0].certificate.clone()]);
}

#[test]
fn every_case_has_its_plan() {
    let data = made(start());
    let other = made(start());
    let cases: Vec<(&str, Option<Data>, Duration, &str)> = vec![
        ("none", None, Duration::ZERO, "authority: there is none yet"),
        ("empty", Some(Data::new()), Duration::ZERO, "authority: its ca.crt has no certificate that can be read"),
        ("fresh", Some(data.clone()), DAY, "Keep"),
        ("before the renewal", Some(data.clone()), DAY * 52, "Keep"),
        ("after the renewal", Some(data.clone()), DAY * 61, "leaf: its certificate comes to its end"),
        ("the leaf has ended", Some(data.clone()), DAY * 91, "leaf: its certificate comes to its end"),
        ("the authority ends", Some(data.clone()), DAY * 2500, "authority: its authority comes to its end"),
        ("the authority has ended", Some(data.clone()), DAY * 4000, "authority: its authority comes to its end"),
        ("no leaf", Some(without(&data, CHAIN)), DAY, "leaf: it has no tls.crt"),
        ("no key", Some(without(&data, KEY)), DAY, "leaf: it has no tls.key"),
        ("no authority", Some(without(&data, AUTHORITIES)), DAY, "authority: its ca.crt has no certificate that can be read"),
        ("no authority's key", Some(without(&data, AUTHORITY_KEY)), DAY, "authority: it has no ca.key"),
        (
            "another authority's key",
            Some(with(&data, AUTHORITY_KEY, &other[AUTHORITY_KEY])),
            DAY,
            "authority: its ca.key is not the key of its ca.crt",
        ),
        (
            "a leaf as authority",
            Some(with(&data, AUTHORITIES, &data[CHAIN])),
            DAY,
            "authority: its ca.crt is no certificate of an authority",
        ),
        (
            "another's leaf",
            Some(with(&with(&data, CHAIN, &other[CHAIN]), KEY, &other[KEY])),
            DAY,
            "leaf: its certificate was not signed by its authority",
        ),
    ];
    for (name, data, after, expected) in cases {
        let stored = data.as_ref().map(ours);
        let plan = plan(stored.as_ref(), &names(), start() + after, &mut Rng::with_seed(1));
        assert_eq!(why(plan), expected, "{name}");
    }
    let mismatched = why(planned(&with(&data, KEY, &other[KEY]), start()));
    assert!(mismatched.starts_with("leaf: its tls.crt and tls.key do not fit together"), "{mismatched}");
    let garbage = why(planned(&with(&data, AUTHORITIES, b"garbage"), start()));
    assert!(garbage.starts_with("authority: "), "{garbage}");
}

#[test]
fn a_name_that_is_new_needs_a_new_leaf() {
    let stored = ours(&made(start()));
    let wanted = [names(), vec!["injector.example".to_owned()]].concat();
    let plan = plan(Some(&stored), &wanted, start(), &mut Rng::with_seed(1));
    assert_eq!(why(plan), "leaf: its certificate does not name injector.example");
}

#[test]
fn replicas_renew_at_different_times() {
    let stored = ours(&made(start()));
    let first_day = |seed| {
        (0..100_u32)
            .find(|day| plan(Some(&stored), &names(), start() + DAY * *day, &mut Rng::with_seed(seed)) != Plan::Keep)
            .unwrap()
    };
    let days: std::collections::BTreeSet<u32> = (0..20).map(first_day).collect();
    assert!(days.len() > 3 && days.iter().all(|day| (52..=61).contains(day)), "{days:?}");
}

#[test]
fn a_new_leaf_is_of_the_same_authority() {
    let data = made(start());
    let stored = ours(&data);
    let later = start() + DAY * 60;
    let issuer = stored.signer.as_ref().unwrap();
    let mut renewed = data.clone();
    renewed.extend(make::leaf(issuer, &stored.authorities[0].certificate, &names(), later).unwrap());
    assert_ne!(renewed[CHAIN], data[CHAIN]);
    assert_eq!(planned(&renewed, later), Plan::Keep);
    let (before, after) = (stored.served().unwrap(), ours(&renewed).served().unwrap());
    assert!(!before.is(&after));
    assert_eq!(swap(Some(&before), &after, None, later), Swap::Now, "the authority is trusted already");
    let ended = make::leaf(issuer, &stored.authorities[0].certificate, &names(), start() + DAY * 4000);
    assert!(ended.is_err_and(|error| error.to_string().contains("has ended")));
}

#[test]
fn an_old_authority_stays_trusted_for_a_while() {
    let old = ours(&made(start()));
    let later = start() + DAY * 2500;
    let data = make::authority(&old.authorities, &names(), later).unwrap();
    let stored = ours(&data);
    assert_eq!(stored.authorities.len(), 2);
    assert_eq!(stored.authorities[1].certificate, old.authorities[0].certificate);
    assert_eq!(planned(&data, later), Plan::Keep);
    assert_eq!(planned(&data, later + OVERLAP), Plan::Retire);
    assert_eq!(super::plan::retained(&stored, later).len(), 2);
    assert_eq!(super::plan::retained(&stored, later + OVERLAP).len(), 1);

    let (shown, offered) = (old.served().unwrap(), stored.served().unwrap());
    let table = [
        (None, Some(&shown), Swap::Later(PROPAGATION)),
        (Some(Duration::from_secs(4)), Some(&shown), Swap::Later(Duration::from_secs(6))),
        (Some(PROPAGATION), Some(&shown), Swap::Now),
        (None, None, Swap::Now),
        (None, Some(&offered), Swap::Same),
    ];
    for (carried, shown, expected) in table {
        assert_eq!(swap(shown, &offered, carried, start()), expected, "{carried:?}");
    }
    assert_eq!(swap(Some(&shown), &offered, None, later), Swap::Now, "what has ended is no use to anybody");
}

#[test]
fn somebody_elses_secret_is_served_and_left_alone() {
    let data = without(&made(start()), AUTHORITY_KEY);
    let stored = Stored::read(&data, false);
    assert_eq!(stored.keeper, Keeper::SomebodyElse);
    let planned = |names: &[String], after| plan(Some(&stored), names, start() + after, &mut Rng::with_seed(1));
    assert_eq!(planned(&names(), DAY), Plan::NotOurs(None));
    let near = planned(&names(), DAY * 84);
    assert_eq!(near, Plan::NotOurs(Some("its certificate ends in 144 hours and was not renewed".to_owned())));
    assert_eq!(planned(&names(), DAY * 91), Plan::NotOurs(Some("its certificate has ended".to_owned())));
    let unnamed = planned(&["other.svc".to_owned()], DAY);
    assert!(matches!(&unnamed, Plan::NotOurs(Some(why)) if why.contains("other.svc")), "{unnamed:?}");
    assert_eq!(stored.served().unwrap().anchors.len(), 1);
    assert!(Stored::read(&without(&data, AUTHORITIES), false).bundle().is_empty());
    assert_eq!(Stored::read(&data, true).keeper, Keeper::Injector, "the label says whose it is");
    assert_eq!(Stored::read(&Data::new(), false).keeper, Keeper::Injector, "an empty Secret is to be filled");
}

fn hook(name: &str, bundle: &[u8]) -> Hook {
    Hook { name: name.to_owned(), bundle: bundle.to_vec() }
}

#[test]
fn only_bundles_that_differ_are_written() {
    let hooks = [hook("a", b"right"), hook("b", b""), hook("c", b"wrong")];
    let right = STANDARD.encode("right");
    let patch: Value = json!({"webhooks": [
        {"name": "b", "clientConfig": {"caBundle": right}},
        {"name": "c", "clientConfig": {"caBundle": right}},
    ]});
    assert_eq!(repair(&hooks, b"right"), Some(patch));
    assert_eq!(repair(&hooks[..1], b"right"), None);
    assert_eq!(repair(&hooks, b""), None);
}

#[test]
fn a_bundle_may_hold_more_than_is_needed() {
    let (one, two) = (ours(&made(start())), ours(&made(start())));
    let both = [one.bundle(), two.bundle()].concat();
    let anchors = one.served().unwrap().anchors;
    assert_eq!(lacking(&[hook("a", &both), hook("b", &one.bundle())], &anchors), None);
    assert_eq!(lacking(&[hook("a", &both), hook("b", &two.bundle())], &anchors), Some("b"));
    assert_eq!(lacking(&[hook("a", b"")], &anchors), Some("a"));
    assert_eq!(lacking(&[hook("a", b"garbage")], &anchors), Some("a"));
    assert_eq!(lacking(&[hook("a", b"")], &[]), None);
}

#[test]
fn keys_do_not_show_in_debug_output() {
    let data = made(start());
    let key = PrivateKeyDer::from_pem_slice(&data[KEY]).unwrap();
    let shown = format!("{:?}", ours(&data).served());
    let hex = key.secret_der().iter().take(8).map(|byte| format!("{byte}, ")).collect::<String>();
    assert!(!shown.contains(&hex), "{shown}");
}

proptest! {
    #[test]
    fn no_secret_panics(parts in proptest::collection::btree_map("(tls|ca)\\.(crt|key)", proptest::collection::vec(any::<u8>(), 0..80), 0..4),
                        labelled in any::<bool>()) {
        let stored = Stored::read(&parts, labelled);
        let _ = plan(Some(&stored), &names(), start(), &mut Rng::with_seed(1));
        let _ = (stored.served(), stored.bundle());
    }

    #[test]
    fn no_damaged_secret_panics(part in "(tls|ca)\\.(crt|key)", at in 0..400_usize, byte in any::<u8>()) {
        let mut data = made(start());
        if let Some(value) = data.get_mut(&part).and_then(|value| value.get_mut(at)) {
            *value = byte;
        }
        let stored = ours(&data);
        let _ = plan(Some(&stored), &names(), start(), &mut Rng::with_seed(1));
        let _ = (stored.served(), stored.bundle());
    }
}
