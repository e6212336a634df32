//! What there is to know when a scenario has failed.

use std::fmt::Write as _;

use serde_json::Value;

use super::SYSTEM;
use super::kubectl::{kubectl, run_now};

/// Lines of a log that are shown.
const TAIL: &str = "--tail=40";

/// Prints the pods, the events, the routes and the logs of a namespace, and what Weir's own pods say.
pub(super) fn print(namespace: &str) {
    let mut report = format!("\n---- the namespace {namespace} ----\n");
    let mut say = |title: &str, arguments: &[&str]| {
        let said = run_now(kubectl(arguments), None).unwrap_or_else(|error| error);
        let _ = writeln!(report, "-- {title}\n{}", said.trim_end());
    };
    say("pods", &["-n", namespace, "get", "pods", "-o", "wide"]);
    say("events", &["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]);
    say("routes", &["-n", namespace, "get", "httproutes", "-o", "yaml"]);
    for (pod, containers, ready) in pods(namespace) {
        if !ready {
            say(&format!("{pod} is not ready"), &["-n", namespace, "describe", "pod", &pod]);
        }
        for container in containers {
            say(&format!("{pod} {container}"), &["-n", namespace, "logs", &pod, "-c", &container, TAIL]);
        }
    }
    say("Weir's pods", &["-n", SYSTEM, "get", "pods", "-o", "wide"]);
    for part in ["weir-control-plane", "weir-injector"] {
        let selector = format!("app.kubernetes.io/name={part}");
        say(part, &["-n", SYSTEM, "logs", "--selector", &selector, "--prefix", TAIL]);
    }
    eprintln!("{report}----");
}

fn pods(namespace: &str) -> Vec<(String, Vec<String>, bool)> {
    let said = run_now(kubectl(&["-n", namespace, "get", "pods", "-o", "json"]), None);
    let list: Value = said.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    let read = |object: Value| {
        let pod = super::Pod::from(object);
        (pod.name().to_owned(), pod.container_names(), pod.is_ready())
    };
    items.into_iter().map(read).collect()
}
