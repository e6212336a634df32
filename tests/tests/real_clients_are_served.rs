//! Clients that others wrote: curl, wrk and h2load call through a sidecar and see nothing unusual.

use std::process::Command;

use weir_tests::body::{Digest, digest_of_stream};
use weir_tests::prelude::*;
use weir_tests::tools::{require, run, stdout};

async fn pair() -> (Mesh, Workload, Workload) {
    let mesh = Mesh::start().await;
    let (caller, reviews) = tokio::join!(mesh.caller(), mesh.backend("reviews"));
    mesh.reaches(&caller, "http://reviews/").await;
    (mesh, caller, reviews)
}

fn curl(caller: &Workload) -> Command {
    let mut command = Command::new(require("curl"));
    command.env_clear().args(["--silent", "--show-error", "--max-time", "30", "--proxy"]);
    command.arg(format!("http://{}", caller.client().address()));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_calls_through_a_sidecar_as_a_proxy() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut command = curl(&caller);
    command.args(["--fail", "http://reviews.shop/ratings?stars=5"]);
    let seen: serde_json::Value = serde_json::from_str(&stdout(&run(command).await)).unwrap();
    assert_eq!((&seen["path"], &seen["query"]), (&"/ratings".into(), &"stars=5".into()));
    assert_eq!(seen["headers"]["weir-client-id"][0], "spiffe://cluster.local/ns/shop/sa/caller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_uploads_and_downloads_whole_files() {
    let (mesh, caller, _reviews) = pair().await;
    let file = mesh.path("upload");
    let size = 3_000_001;
    let mut command = curl(&caller);
    command.args(["--fail", "--output"]).arg(&file).arg(format!("http://reviews/bytes/{size}"));
    stdout(&run(command).await);
    let downloaded = std::fs::read(&file).unwrap();
    let digest = Digest::of_body(http_body_util::Full::new(bytes::Bytes::from(downloaded))).await.unwrap();
    assert_eq!(digest, digest_of_stream(size));
    let mut command = curl(&caller);
    command.args(["--fail", "--upload-file"]).arg(&file).arg("http://reviews/sink");
    assert_eq!(stdout(&run(command).await), digest.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_reuses_a_connection_and_reads_the_meshs_errors() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut command = curl(&caller);
    command.args(["--output", "/dev/null", "--output", "/dev/null", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %{num_connects} %header{weir-error}\\n"]);
    command.args(["http://reviews/a", "http://reviews/b", "http://nobody.shop/"]);
    let out = stdout(&run(command).await);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0].trim(), "200 1");
    assert_eq!(lines[1].trim(), "200 0", "the connection is kept");
    assert!(lines[2].starts_with("503 "), "{}", lines[2]);
    assert!(lines[2].contains("unknown-destination"), "{}", lines[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_speaks_http2_with_prior_knowledge_and_through_a_tunnel() {
    let (_mesh, caller, _reviews) = pair().await;
    let outbound = caller.client().address();
    let mut command = Command::new(require("curl"));
    command.env_clear().args(["--silent", "--show-error", "--fail", "--max-time", "30", "--http2-prior-knowledge"]);
    command.args(["--write-out", "%{http_version}", "--output", "/dev/null", "--header", "Host: reviews"]);
    command.arg(format!("http://{outbound}/h2"));
    assert_eq!(stdout(&run(command).await), "2");
    let mut command = curl(&caller);
    command.args(["--fail", "--proxytunnel", "http://reviews:80/tunnelled"]);
    assert!(stdout(&run(command).await).contains("/tunnelled"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_wrk_has_no_failure() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut command = Command::new(require("wrk"));
    command.args(["--threads", "1", "--connections", "32", "--duration", "2s", "--header", "Host: reviews"]);
    command.arg(format!("http://{}/wrk", caller.client().address()));
    let out = stdout(&run(command).await);
    assert!(!out.contains("Non-2xx") && !out.contains("Socket errors"), "{out}");
    let count = out.lines().find_map(|line| line.trim().split_once(" requests in ")).expect("wrk says how many").0;
    assert!(count.parse::<u64>().unwrap() > 100, "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_h2load_has_no_failure() {
    let (_mesh, caller, _reviews) = pair().await;
    let mut command = Command::new(require("h2load"));
    command.args(["--requests", "4000", "--clients", "4", "--max-concurrent-streams", "16", "--no-tls-proto", "h2c"]);
    command.args(["--header", ":authority: reviews"]).arg(format!("http://{}/h2load", caller.client().address()));
    let out = stdout(&run(command).await);
    assert!(out.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{out}");
    assert!(out.contains("status codes: 4000 2xx"), "{out}");
}
