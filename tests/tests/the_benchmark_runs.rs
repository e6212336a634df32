//! The benchmark runs: every line of work is answered through the mesh, whole and encrypted. How fast is nobody's business here.

use std::process::Command;

use weir_tests::binaries::{bench_scale, workspace};
use weir_tests::tools::{require, run, stdout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_benchmark_answers_every_line_through_the_mesh_and_leaves_nothing_behind() {
    let out = tempfile::tempdir().unwrap();
    let temporary = out.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = Command::new(require("python3"));
    command.current_dir(workspace()).arg("bench/compare.py");
    // Other peers may be installed in any version: what they do is not Weir's test.
    command.args(["--smoke", "--profile", "quick", "--peer", "weir", "--peer", "none", "--out"]).arg(out.path());
    if let Some(directory) = std::env::var_os("WEIR_BIN_DIR") {
        command.arg("--bin-dir").arg(directory);
    }
    command.env("TMPDIR", &temporary);
    stdout(&run(command).await);

    let results = std::fs::read_to_string(out.path().join("results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    for line in ["h1", "html", "h2", "open", "large", "close"] {
        for peer in ["weir", "none"] {
            let round = &results["lines"][line][peer][0];
            assert!(round["requests"].as_u64().is_some_and(|requests| requests > 0), "{line} {peer}: {round}");
            assert_eq!((&round["errors"], &round["invalid"]), (&0.into(), &serde_json::Value::Null), "{line} {peer}: {round}");
        }
    }
    let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("<svg"), "{page}");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "the directory of the run is removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_simulated_proxies_hear_of_everything_that_they_follow_and_of_nothing_else() {
    let mut command = Command::new(bench_scale());
    command.args(["--services", "20", "--endpoints", "3", "--proxies", "20", "--follows", "4"]);
    let report: serde_json::Value = serde_json::from_str(&stdout(&run(command).await)).unwrap();
    let phases = report["phases"].as_array().unwrap();
    // It ends with an error when somebody does not hear of a change, or hears of one that is not theirs. Each Service is followed
    // by four.
    let heard: Vec<u64> = phases.iter().map(|phase| phase["proxies"].as_u64().unwrap()).collect();
    assert_eq!(heard, [20, 4, 20, 4, 19, 1, 20, 20], "{report:#}");
    let messages = |index: usize| phases[index]["messages"].as_u64().unwrap();
    assert_eq!((messages(1), messages(3)), (4, 4), "one message for each who follows: {report:#}");
    assert_eq!(messages(7), 0, "who has everything is sent nothing: {report:#}");
}
