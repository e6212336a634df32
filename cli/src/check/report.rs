//! Findings as text.

use serde_json::json;

use super::finding::{Finding, Level, count};
use crate::cluster::Output;
use crate::inject::yaml;

/// All findings in the form that was asked for.
pub(super) fn text(findings: &[Finding], output: Output) -> String {
    match output {
        Output::Table => table(findings),
        Output::Json => format!("{:#}\n", value(findings)),
        Output::Yaml => yaml::block(&value(findings)),
    }
}

fn value(findings: &[Finding]) -> serde_json::Value {
    json!({"result": worst(findings), "findings": findings})
}

/// The worst of all.
pub(super) fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Good)
}

fn table(findings: &[Finding]) -> String {
    let mut out = String::new();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            out.push_str(&format!("{}{area}\n", if out.is_empty() { "" } else { "\n" }));
        }
        let sign = match finding.level {
            Level::Good => '✓',
            Level::Warning => '!',
            Level::Failure => '✗',
        };
        out.push_str(&format!("  {sign} {}\n", finding.what));
        let details = [("why", &finding.cause), ("fix", &finding.fix)];
        for (name, text) in details.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            out.push_str(&format!("      {name}: {text}\n"));
        }
    }
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (failures, warnings) = (number(Level::Failure), number(Level::Warning));
    let verdict = match (failures, warnings) {
        (0, 0) => "everything is as it should be".to_owned(),
        (0, warnings) => format!("it works; {}", count(warnings, "warning")),
        (failures, 0) => count(failures, "failure"),
        (failures, warnings) => format!("{}, {}", count(failures, "failure"), count(warnings, "warning")),
    };
    format!("{out}\n{verdict}\n")
}
