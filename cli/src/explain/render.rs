//! An explanation as text: the answer first, then why.

use std::fmt::Write;

use serde_json::json;
use weir_control_plane::explain::{BackendLine, Explanation, Outcome};

use crate::cluster::Output;
use crate::inject::yaml;

/// An explanation in the form that was asked for.
pub(super) fn text(explanation: &Explanation, output: Output) -> String {
    match output {
        Output::Table => people(explanation),
        Output::Json => format!("{:#}\n", json!(explanation)),
        Output::Yaml => yaml::block(&json!(explanation)),
    }
}

fn people(explanation: &Explanation) -> String {
    let mut out = String::new();
    let sign = match explanation.outcome {
        Outcome::Forwarded | Outcome::Outside | Outcome::Answered { .. } => '✓',
        Outcome::ForwardedInPart => '!',
        Outcome::Fails { .. } => '✗',
    };
    let reason = match explanation.outcome {
        Outcome::Fails { reason, .. } => format!(" (weir-error: {reason})"),
        _ => String::new(),
    };
    let _ = writeln!(out, "{sign} The request {}{reason}", explanation.summary);
    let _ = writeln!(out, "\ndestination  {}", explanation.destination);
    if let Some(rule) = &explanation.rule {
        let _ = writeln!(out, "rule         {rule}");
    }
    for policy in &explanation.policies {
        let _ = writeln!(out, "             {policy}");
    }
    if !explanation.backends.is_empty() {
        out.push_str("\nbackends\n");
    }
    for backend in &explanation.backends {
        one_backend(&mut out, backend);
    }
    if !explanation.considered.is_empty() {
        out.push_str("\nrules, the most specific match first\n");
        let width = explanation.considered.iter().map(|line| line.rule.chars().count()).max().unwrap_or_default();
        for line in &explanation.considered {
            let sign = if line.verdict == "taken" { '→' } else { ' ' };
            let _ = writeln!(out, " {sign} {:width$}  {}: {}", line.rule, line.matches, line.verdict);
        }
    }
    if !explanation.without_effect.is_empty() {
        out.push_str("\nroutes without effect on this request\n");
        for line in &explanation.without_effect {
            let _ = writeln!(out, "   {}: {}", line.route, line.why);
        }
    }
    if !explanation.notes.is_empty() {
        out.push_str("\nnotes\n");
        for note in &explanation.notes {
            let _ = writeln!(out, "   {note}");
        }
    }
    out
}

fn one_backend(out: &mut String, backend: &BackendLine) {
    let _ = writeln!(out, "   {:>5} %  {}", backend.percent, backend.backend);
    if let Some(sent) = &backend.sent {
        let _ = writeln!(out, "            as {sent}");
    }
    for header in &backend.headers {
        let _ = writeln!(out, "            {header}");
    }
    if let Some(failure) = &backend.fails {
        let _ = writeln!(out, "            ✗ {} {}: {}", failure.status, failure.reason, failure.detail);
    }
    for endpoint in &backend.endpoints {
        let how = endpoint.identity.as_deref().or(endpoint.tls.as_deref()).unwrap_or("plaintext, it has no sidecar");
        let zone = if endpoint.zone.is_empty() { String::new() } else { format!("  zone {}", endpoint.zone) };
        let _ = writeln!(out, "            {}  {}  {how}{zone}", endpoint.address, endpoint.pod);
    }
}
