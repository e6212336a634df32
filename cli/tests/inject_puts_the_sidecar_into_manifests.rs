//! `weir inject` puts the sidecar into manifests, leaves the rest alone, and says what it did.
#![expect(clippy::unwrap_used, reason = "a test ends by panicking; that is how it fails")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs `weir inject` among the manifests of these tests, without any setting of the environment.
fn inject(arguments: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WEIR_")) {
        command.env_remove(name);
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject");
    command.current_dir(directory).arg("inject").args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that stops before it reads is no failure of this test.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What is written, once it is known to be YAML.
fn yaml(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let documents: Vec<Value> = serde_saphyr::from_multiple(&stdout).unwrap();
    assert!(!documents.is_empty());
    stdout
}

/// Both streams, as a golden file keeps them.
fn both(output: &Output) -> String {
    format!("{}\n# stderr\n{}", yaml(output), text(&output.stderr))
}

fn manifest(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/inject").join(name)).unwrap()
}

#[test]
fn every_kind_of_workload_gets_a_native_sidecar() {
    insta::assert_snapshot!(both(&inject(&["workloads.yaml"], "")));
}

#[test]
fn clusters_without_native_sidecars_get_an_ordinary_container() {
    insta::assert_snapshot!(both(&inject(&["--kubernetes-version=1.28", "workloads.yaml"], "")));
}

#[test]
fn json_stays_json_and_items_of_a_list_are_objects() {
    let output = inject(&["list.json"], "");
    assert!(serde_json::from_str::<Value>(&yaml(&output)).is_ok());
    insta::assert_snapshot!(both(&output));
}

#[test]
fn anchors_and_aliases_go_on_meaning_what_they_meant() {
    insta::assert_snapshot!(both(&inject(&["shared.yaml"], "")));
}

#[test]
fn the_installation_is_said_by_flags() {
    let flags = [
        "--proxy-image=registry.example/proxy:7",
        "--image-pull-policy=Always",
        "--mesh-namespace=mesh",
        "--trust-domain=example.org",
        "--cluster-domain=k8s.example",
        "--trust-bundle-configmap=roots",
        "-",
    ];
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: web\n";
    insta::assert_snapshot!(both(&inject(&flags, pod)));
}

#[test]
fn injecting_again_changes_no_byte() {
    let files = ["--quiet", "workloads.yaml", "list.json", "shared.yaml"];
    let once = yaml(&inject(&files, ""));
    let again = inject(&["-"], &once);
    assert_eq!(yaml(&again), once);
    assert!(!text(&again.stderr).contains("injected"), "{}", text(&again.stderr));
}

#[test]
fn lines_are_added_and_nothing_else_happens() {
    let (before, after) = (manifest("workloads.yaml"), yaml(&inject(&["workloads.yaml"], "")));
    let mut kept = after.lines();
    for line in before.lines() {
        // The one line in braces grows, and the one that says that there are no annotations gives way to some.
        let line = line.split("}, spec: {").next().unwrap().replace("annotations: {}   #", "annotations:   #");
        assert!(kept.any(|it| it.starts_with(&line)), "{line:?} is lost or moved:\n{after}");
    }
}

#[test]
fn what_has_nothing_to_inject_comes_out_as_it_went_in() {
    let text_in = "%YAML 1.2\n--- # first\na:   [1,2 ]\n...\n# between\n---\nkind: ConfigMap\r\napiVersion: v1";
    let output = inject(&["-"], text_in);
    assert_eq!((text(&output.stdout).as_str(), text(&output.stderr).as_str()), (text_in, ""));
    assert!(output.status.success());
}

#[test]
fn quiet_is_quiet() {
    assert_eq!(text(&inject(&["-q", "workloads.yaml"], "").stderr), "");
}

#[test]
fn errors_leave_stdout_empty_and_name_file_line_and_object() {
    let pod = |name: &str, annotation: &str| {
        format!("---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  annotations:\n    {annotation}\n")
    };
    let bad = pod("a", "weir.dev/mtls: loose") + &pod("b", "weir.dev/proxy-cpu-limit: lots") + &pod("c", "weir.dev/mtls: strict");
    let output = inject(&["workloads.yaml", "-"], &bad);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    insta::assert_snapshot!(text(&output.stderr));
}

#[test]
fn what_is_no_yaml_and_what_cannot_be_read_ends_with_1() {
    for (arguments, stdin, said) in [
        (["-"].as_slice(), "a: 1\nb: [\n", "stdin:"),
        (&["nowhere.yaml"], "", "nowhere.yaml: it cannot be read: "),
        (&["workloads.yaml", "."], "", ".: it cannot be read: "),
    ] {
        let output = inject(arguments, stdin);
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.starts_with(said) && stderr.contains("nothing was written"), "{stderr}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2() {
    for (arguments, said) in [
        (["--no-such-flag"].as_slice(), "--no-such-flag"),
        (&[], "<FILE>"),
        (&["-", "--kubernetes-version=new", "--namespace=Shop"], "--kubernetes-version (WEIR_KUBERNETES_VERSION)"),
    ] {
        let output = inject(arguments, "");
        let stderr = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
    }
}
