//! What a client of HTTP/2 may expect, and what it may do wrong: h2spec asks both of a sidecar's sides, with prior knowledge.

use std::net::SocketAddr;
use std::process::Command;

use weir_tests::prelude::*;
use weir_tests::relay::Relay;
use weir_tests::tools;

/// Cases that do not pass, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[(
    "http2/3.5: Sends invalid connection preface",
    "what is no preface is no HTTP/2 either: it is answered as HTTP/1.1, which h2spec cannot read, and closed",
)];

/// Fewer cases than h2spec has would mean that it has not run.
const CASES: usize = 140;

/// One case of h2spec: its section and sentence, and what was wrong.
struct Case {
    name: String,
    failure: Option<String>,
}

/// Where a close is what the RFC wants, a reset is one: a connection that is closed while its client's frame is still on its way is
/// reset by the kernel, and h2spec takes that for something else.
fn is_a_close(failure: &str) -> bool {
    failure.contains("Connection closed") && failure.contains("connection reset by peer")
}

/// Reads h2spec's report, which has a `testcase` for each.
fn cases(report: &str) -> Vec<Case> {
    let attribute = |text: &str, name: &str| {
        let value = text.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        value.map_or_else(String::new, |(value, _)| value.replace("&#34;", "\"").replace("&amp;", "&"))
    };
    let case = |text: &str| Case {
        name: format!("{}: {}", attribute(text, "package"), attribute(text, "classname")),
        failure: text
            .split_once("<error>")
            .or_else(|| text.split_once("<failure>"))
            .map(|(_, rest)| rest.to_owned())
            .filter(|failure| !is_a_close(failure)),
    };
    report.split("<testcase").skip(1).map(case).collect()
}

/// Runs all of h2spec against a server that calls itself `host`.
async fn passes(mesh: &Mesh, host: &str, port: u16) {
    let (h2spec, report) = (tools::h2spec().await, mesh.path("h2spec.xml"));
    let mut command = Command::new(h2spec);
    command.args(["--host", host, "--port", &port.to_string(), "--timeout", "10", "--strict", "--junit-report"]).arg(&report);
    let output = tools::run(command).await;
    let cases = cases(&std::fs::read_to_string(&report).unwrap_or_default());
    assert!(cases.len() >= CASES, "h2spec has run {} cases only: {}", cases.len(), String::from_utf8_lossy(&output.stderr));
    let failed: Vec<&Case> = cases.iter().filter(|case| case.failure.is_some()).collect();
    let excepted = |case: &Case| EXCEPTIONS.iter().any(|(name, _)| *name == case.name);
    let unexpected: Vec<String> = failed
        .iter()
        .filter(|case| !excepted(case))
        .map(|case| format!("{} {}", case.name, case.failure.as_deref().unwrap_or_default()))
        .collect();
    assert!(unexpected.is_empty(), "{} of {} cases fail:\n{}", unexpected.len(), cases.len(), unexpected.join("\n"));
    for (name, reason) in EXCEPTIONS {
        assert!(failed.iter().any(|case| case.name == *name), "{name} passes now, and is excepted because: {reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_callers_sidecar() {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    // h2spec calls what it connects to by name. The name is one of a Service for the sidecar.
    let relay = Relay::start(SocketAddr::from(([127, 0, 0, 1], 0)), caller.client().address()).await;
    let port = relay.address().port();
    mesh.service("localhost").port(port, "http").backed_by([&reviews]).apply();
    mesh.reaches(&caller, &format!("http://localhost:{port}/")).await;
    passes(&mesh, "localhost", port).await;
    let reached = reviews.app().requests("/");
    // How many is a matter of chance: most cases end their streams before they are answered.
    assert!(reached > 0, "none of h2spec's requests has reached the application");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_callees_sidecar() {
    let mesh = Mesh::start().await;
    let reviews = mesh.backend("reviews").await;
    let inbound = reviews.inbound();
    passes(&mesh, &inbound.ip().to_string(), inbound.port()).await;
    let reached = reviews.app().requests("/");
    // How many is a matter of chance: most cases end their streams before they are answered.
    assert!(reached > 0, "none of h2spec's requests has reached the application");
}
