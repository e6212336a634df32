//! A pod whose traffic does not pass its sidecar is not secured, so it is not ready.

use std::process::Command;

use weir_tests::binaries;
use weir_tests::prelude::*;
use weir_tests::sandbox::{POD, Sandbox};

async fn says(sandbox: &Sandbox, status: u16, words: &str) {
    until(&format!("/ready says {status} with {words:?}"), async || {
        sandbox.sidecar().still_runs()?;
        let answer = sandbox.admin(POD[0], "/ready").await?;
        ensure(answer.status == status && answer.text().contains(words), || format!("{}: {}", answer.status, answer.text()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_are_missing_keep_a_pod_from_being_ready_and_rules_that_go_take_it_away() {
    let mut sandbox = Sandbox::new(&[]).await;
    sandbox.start_sidecar(&[]);
    sandbox.sidecar().logs(&["not redirected", "weir-init"]).await;
    // Everything else is there.
    says(&sandbox, 503, "not ready:\n- the workload's traffic is not redirected here").await;
    until("nothing else is missing", async || {
        let said = sandbox.admin(POD[0], "/ready").await?.text();
        ensure(said.matches("\n- ").count() == 1, || said)
    })
    .await;
    sandbox.pod.redirect();
    says(&sandbox, 200, "ready").await;
    let mut remove = Command::new(binaries::proxy());
    remove.env_clear().args(["init", "--remove"]);
    assert!(sandbox.pod.output(remove).status.success());
    says(&sandbox, 503, "not redirected").await;
    sandbox.pod.redirect();
    says(&sandbox, 200, "ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_at_the_port_that_is_looked_at_deceives_nobody() {
    let mut sandbox = Sandbox::new(&[]).await;
    let _app = App::http("app").serve(sandbox.pod.listen("127.0.0.1:15421".parse().unwrap()));
    sandbox.start_sidecar(&[]);
    sandbox.sidecar().logs(&["not redirected"]).await;
    says(&sandbox, 503, "not redirected").await;
    sandbox.pod.redirect();
    says(&sandbox, 200, "ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_expects_redirection_it_is_not_looked_for() {
    let mut sandbox = Sandbox::new(&[]).await;
    sandbox.start_sidecar(&[("WEIR_EXPECT_REDIRECTION", "false")]);
    sandbox.ready().await;
    assert!(!sandbox.sidecar().log().contains("redirected"));
}
