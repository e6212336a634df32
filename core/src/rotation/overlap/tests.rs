use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn published(pace: Pace) -> Succession<u32> {
    let mut succession = Succession::new(1, at(0));
    succession.publish(2, pace, at(10)).unwrap();
    succession
}

fn seen(evidence: &[(u64, Evidence)]) -> Observed {
    let mut observed = Observed::default();
    for (when, evidence) in evidence {
        observed.note(*evidence, at(10), at(*when));
    }
    observed
}

const COMPLETE: Evidence = Evidence { replicas_behind: 0, proxies_behind: 0, bundles_behind: 0 };
const REPLICA: Evidence = Evidence { replicas_behind: 1, ..COMPLETE };
const PROXIES: Evidence = Evidence { proxies_behind: 3, ..COMPLETE };
const BUNDLES: Evidence = Evidence { bundles_behind: 2, ..COMPLETE };

#[test]
fn a_root_is_published_then_signs_and_then_the_old_one_goes() {
    let mut it = Succession::new(1, at(0));
    assert_eq!((it.name(), it.epoch, it.trusted().copied().collect::<Vec<_>>()), (PhaseName::Stable, 1_000_000, vec![1]));
    it.publish(2, Pace::Prompt, at(5)).unwrap();
    assert_eq!((it.name(), it.epoch, it.trusted().copied().collect::<Vec<_>>()), (PhaseName::Published, 1_000_001, vec![1, 2]));
    let it = it.advanced(at(6));
    assert_eq!((it.name(), it.epoch, it.trusted().copied().collect::<Vec<_>>()), (PhaseName::Signing, 1_000_002, vec![2, 1]));
    let it = it.advanced(at(7));
    assert_eq!((it.name(), it.epoch, it.trusted().copied().collect::<Vec<_>>()), (PhaseName::Stable, 1_000_003, vec![2]));
    assert_eq!(it.clone().advanced(at(8)), it);
}

#[test]
fn another_new_root_replaces_one_that_is_only_published_and_waits_for_one_that_signs() {
    let mut it = published(Pace::Careful);
    it.publish(3, Pace::Prompt, at(20)).unwrap();
    assert_eq!(it.phase, Phase::Published { signs: 1, next: 3, pace: Pace::Prompt });
    assert_eq!((it.since, it.epoch), (at(20), 1_000_002));
    let mut it = it.advanced(at(30));
    assert_eq!(it.publish(4, Pace::Prompt, at(40)), Err(4));
    assert_eq!(it.signs(), &3);
}

#[test]
fn a_step_waits_for_what_it_must_wait_for() {
    let waits = Waits::new(DAY);
    let day = 86_400 + 60;
    let wait = |evidence| Verdict::WaitForMesh { evidence, until: at(10 + day) };
    let advance = |left_behind| Verdict::Advance { left_behind };
    let table = [
        ("nothing seen yet", Pace::Prompt, vec![], 20, Verdict::WaitForReplicas(0)),
        ("a replica", Pace::Prompt, vec![(20, REPLICA)], 20, Verdict::WaitForReplicas(1)),
        ("a replica, for ever", Pace::Prompt, vec![(20, REPLICA)], 10 * day, Verdict::WaitForReplicas(1)),
        ("proxies", Pace::Prompt, vec![(20, PROXIES)], 60, wait(PROXIES)),
        ("proxies that never answer", Pace::Prompt, vec![(20, PROXIES)], 10 + day, advance(PROXIES)),
        ("bundles", Pace::Prompt, vec![(20, BUNDLES)], 60, wait(BUNDLES)),
        ("it has just become complete", Pace::Prompt, vec![(20, PROXIES), (40, COMPLETE)], 60, Verdict::WaitUntil(at(70))),
        ("it has been complete for long", Pace::Prompt, vec![(40, COMPLETE), (41, COMPLETE)], 70, advance(COMPLETE)),
        ("it was complete, and is not", Pace::Prompt, vec![(40, COMPLETE), (60, PROXIES)], 80, wait(PROXIES)),
        ("careful", Pace::Careful, vec![(40, COMPLETE)], day, Verdict::WaitUntil(at(10 + day))),
        ("careful, a leaf's life later", Pace::Careful, vec![(40, COMPLETE)], 10 + day, advance(COMPLETE)),
        ("careful, and somebody never answers", Pace::Careful, vec![(40, PROXIES)], 10 + day, advance(PROXIES)),
    ];
    for (what, pace, evidence, now, expected) in table {
        assert_eq!(published(pace).verdict(&seen(&evidence), waits, at(now)), expected, "{what}");
        assert_eq!(published(pace).advanced(at(10)).verdict(&seen(&evidence), waits, at(now)), expected, "{what}, signing");
    }
    assert_eq!(Succession::new(1, at(0)).verdict(&seen(&[(5, COMPLETE)]), waits, at(10 * day)), Verdict::Idle);
}

#[test]
fn whoever_asks_hurries_what_is_under_way() {
    let mut it = published(Pace::Careful);
    it.hurry();
    assert_eq!(it, published(Pace::Prompt));
    let mut stable = Succession::new(1, at(0));
    stable.hurry();
    assert_eq!(stable, Succession::new(1, at(0)));
}

#[test]
fn a_replica_that_falls_behind_starts_the_wait_anew() {
    let mut observed = seen(&[(20, COMPLETE), (30, REPLICA)]);
    observed.note(COMPLETE, at(50), at(60));
    let expected = Verdict::WaitUntil(at(60) + Waits::new(DAY).leaf);
    assert_eq!(published(Pace::Careful).verdict(&observed, Waits::new(DAY), at(60)), expected);
}

#[test]
fn a_clock_that_goes_back_makes_no_wait_endless() {
    let mut observed = Observed::default();
    observed.note(COMPLETE, at(1 << 40), at(1 << 40));
    observed.note(COMPLETE, at(1 << 40), at(100));
    let waits = Waits::new(DAY);
    assert_eq!(published(Pace::Prompt).verdict(&observed, waits, at(130)), Verdict::Advance { left_behind: COMPLETE });
}

#[test]
fn short_lives_make_short_waits() {
    let second = Duration::from_secs(1);
    assert_eq!(Waits::new(DAY), Waits { settle: 30 * second, leaf: DAY + 60 * second });
    assert_eq!(Waits::new(10 * second), Waits { settle: second, leaf: 11 * second });
}
