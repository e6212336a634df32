use std::sync::OnceLock;

use weir_core::rotation::overlap::Succession;

use super::*;
use crate::testing::trust_domain;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// Made once; each with a root of its own.
fn lines() -> &'static [Line; 3] {
    static LINES: OnceLock<[Line; 3]> = OnceLock::new();
    LINES.get_or_init(|| [(); 3].map(|()| Line::make(&trust_domain(), now()).unwrap()))
}

fn own() -> Line {
    lines()[0].clone()
}

fn given(number: usize) -> Line {
    Line { given: true, anchor_key: None, ..lines()[number].clone() }
}

fn document(phase: Phase<Line>) -> Document {
    Document { generation: 5, succession: Succession { epoch: 3, phase, since: now() }, asked: "before".to_owned() }
}

fn decided(phase: Phase<Line>, given: Option<&Line>, asked: Option<&str>) -> Option<Action> {
    let observed = Observed::default();
    let situation = Situation { given, asked, observed: &observed, leaf_lifetime: DAY, now: now() };
    decide(&document(phase), situation).unwrap()
}

fn stable(signs: Line) -> Phase<Line> {
    Phase::Stable { signs }
}

fn published(signs: Line, next: Line) -> Phase<Line> {
    Phase::Published { signs, next, pace: Pace::Prompt }
}

fn signing(signs: Line, old: Line) -> Phase<Line> {
    Phase::Signing { signs, old, pace: Pace::Prompt }
}

#[test]
fn what_the_user_gives_is_followed() {
    let publish = |number| Some(Action::Publish { line: Some(given(number)), why: Why::Given });
    let exchanged = Line { key: "another key".to_owned(), ..given(1) };
    let table = [
        ("nothing is given", stable(own()), None, None),
        ("one appears", stable(own()), Some(given(1)), publish(1)),
        ("it is being published", published(own(), given(1)), Some(given(1)), None),
        ("it changes while it is published", published(own(), given(1)), Some(given(2)), publish(2)),
        ("it signs", signing(given(1), own()), Some(given(1)), None),
        ("it changes while it begins to sign", signing(given(1), own()), Some(given(2)), None),
        ("it is the only one", stable(given(1)), Some(given(1)), None),
        ("another root comes", stable(given(1)), Some(given(2)), publish(2)),
        ("another intermediate of the same root", stable(given(1)), Some(exchanged.clone()), Some(Action::Exchange(exchanged))),
        ("it is taken away", stable(given(1)), None, None),
    ];
    for (what, phase, given, expected) in table {
        assert_eq!(decided(phase, given.as_ref(), None), expected, "{what}");
    }
}

#[test]
fn whoever_asks_for_another_root_gets_one() {
    let made = Some(Action::Publish { line: None, why: Why::Asked });
    let table = [
        ("nobody asks", stable(own()), None, None, None),
        ("somebody asked before", stable(own()), None, Some("before"), None),
        ("somebody says nothing", stable(own()), None, Some(""), None),
        ("somebody asks", stable(own()), None, Some("now"), made.clone()),
        ("somebody asks again", published(own(), given(1)), None, Some("now"), Some(Action::Hurry)),
        ("and again", signing(given(1), own()), None, Some("now"), Some(Action::Hurry)),
        ("the root is the user's", stable(given(1)), Some(given(1)), Some("now"), Some(Action::CannotRotate)),
        ("it was, and has been taken away", stable(given(1)), None, Some("now"), made),
    ];
    for (what, phase, given, asked, expected) in table {
        assert_eq!(decided(phase, given.as_ref(), asked), expected, "{what}");
    }
}

#[test]
fn a_request_is_taken_up_once() {
    for action in [Action::Publish { line: None, why: Why::Asked }, Action::Hurry, Action::CannotRotate] {
        let next = carry_out(&document(stable(own())), &action, Some("now"), &trust_domain(), now()).unwrap();
        assert_eq!((next.asked.as_str(), next.generation), ("now", 6), "{action:?}");
    }
    let exchange = Action::Exchange(given(1));
    let next = carry_out(&document(stable(given(1))), &exchange, Some("now"), &trust_domain(), now()).unwrap();
    assert_eq!((next.asked.as_str(), next.succession.epoch), ("before", 3));
}

#[test]
fn only_what_comes_to_its_end_by_itself_is_replaced_carefully() {
    for (why, pace) in [(Why::End, Pace::Careful), (Why::Asked, Pace::Prompt), (Why::Given, Pace::Prompt)] {
        let action = Action::Publish { line: Some(given(1)), why };
        let next = carry_out(&document(stable(own())), &action, None, &trust_domain(), now()).unwrap();
        assert_eq!(next.succession.pace(), Some(pace));
    }
}
