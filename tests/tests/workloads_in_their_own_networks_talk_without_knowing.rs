//! Two workloads in network namespaces of their own, with the redirection of a pod, talk through their sidecars and know
//! nothing of it. On the wire between them there is only mutual TLS.
#![expect(clippy::unwrap_used, reason = "a scenario ends by panicking; that is how it fails")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use weir_tests::app::RunningApp;
use weir_tests::binaries;
use weir_tests::client::{Connection, request};
use weir_tests::control_plane::ControlPlane;
use weir_tests::manifest::{self, Manifests, Pod, ServiceObjects};
use weir_tests::netns::{Fabric, Namespace, SIDECAR_USER};
use weir_tests::prelude::*;
use weir_tests::process::Process;
use weir_tests::raw::Raw;
use weir_tests::tools::{require, stdout};

const CONTROL_PLANE: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 1);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const TCP_CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 11);
const POSTGRES: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 12), 5432);
const REDIS: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 96, 0, 13), 6379);
const CALLER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const REVIEWS_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 2);
const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/caller";
const REVIEWS: &str = "spiffe://cluster.local/ns/shop/sa/reviews";

/// A pod: a namespace with redirection, and the sidecar in it as the sidecar's own user.
struct PodNetwork {
    namespace: Namespace,
    sidecar: Process,
}

/// Everything, in the order in which it has to end.
struct Cluster {
    caller: PodNetwork,
    reviews: PodNetwork,
    stranger: Namespace,
    app: RunningApp,
    echo: RunningApp,
    fabric: Fabric,
    control_plane: ControlPlane,
    _directory: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let fabric = Fabric::new(CONTROL_PLANE);
        let directory = tempfile::Builder::new().prefix("weir-netns-").tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let manifests = Manifests::below(directory.path());
        write_manifests(&manifests);
        let control_plane = ControlPlane::at(CONTROL_PLANE, directory.path(), manifests, Vec::new());
        std::fs::write(control_plane.token_file(), "token-caller shop caller\ntoken-reviews shop reviews\n").unwrap();
        control_plane.adopt(fabric.inside().spawn("control-plane", control_plane.command(), directory.path()));
        until("the control plane is ready", async || {
            control_plane.with(Process::still_runs)?;
            let answer = fabric.inside().get(control_plane.http(), "/ready").await?;
            ensure(answer.status == 200, || format!("/ready says {}", answer.status))
        })
        .await;
        let reviews = fabric.attach("reviews", REVIEWS_POD);
        let app = App::http("reviews").serve(reviews.listen((Ipv4Addr::UNSPECIFIED, 8080).into()));
        let echo = App::TcpEcho.serve(reviews.listen((REVIEWS_POD, 9000).into()));
        let bundle = control_plane.trust_bundle();
        let reviews = pod(reviews, "reviews", REVIEWS_POD, &bundle, directory.path()).await;
        let caller = pod(fabric.attach("caller", CALLER_POD), "caller", CALLER_POD, &bundle, directory.path()).await;
        let stranger = fabric.attach("stranger", STRANGER);
        Self { caller, reviews, stranger, app, echo, fabric, control_plane, _directory: directory }
    }

    /// curl in the caller's pod: an application that knows nothing of a mesh.
    fn curl(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(require("curl"));
        command.env_clear().args(["--silent", "--show-error", "--max-time", "20"]).args(arguments);
        tokio::task::block_in_place(|| self.caller.namespace.output(command))
    }

    /// Waits until the caller reaches the Service by its ClusterIP.
    async fn reaches(&self) {
        until("the caller reaches the Service", async || {
            self.caller.sidecar.still_runs()?;
            let answer = self.caller.namespace.get((CLUSTER_IP, 80).into(), "/").await?;
            ensure(answer.app() == "reviews", || format!("{answer:?}"))
        })
        .await;
    }
}

impl Cluster {
    /// A program in the caller's pod that knows nothing of a mesh, with what it reads; answers with what it said.
    fn calls(&self, program: &str, arguments: &[&str], input: Option<&Path>) -> Result<String, String> {
        let mut command = Command::new(require(program));
        command.env_clear().env("PGCONNECT_TIMEOUT", "20").args(arguments);
        if let Some(input) = input {
            command.stdin(std::fs::File::open(input).map_err(|error| error.to_string())?);
        }
        let output = tokio::task::block_in_place(|| self.caller.namespace.output(command));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout);
        ensure(output.status.success(), || format!("{program} {arguments:?}: {}\n{said}", text(&output.stderr))).map(|()| said)
    }

    fn sql(&self, tls: &str, statements: &[&str]) -> Result<String, String> {
        let (host, port) = POSTGRES;
        let target = format!("host={host} port={port} user=weir dbname=postgres sslmode={tls}");
        let statements = statements.iter().flat_map(|it| ["--command", it]);
        let options = ["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", &target];
        self.calls("psql", &options.into_iter().chain(statements).collect::<Vec<_>>(), None)
    }
}

/// A PostgreSQL in a pod, with a certificate of its own, as a user of its own: it refuses to run as root.
async fn postgres(pod: &PodNetwork, directory: &Path) -> Process {
    let data = directory.join("postgres");
    std::fs::create_dir(&data).unwrap();
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let made = rcgen::generate_simple_self_signed(["postgres".to_owned()]).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    for path in [&data, &key, &certificate] {
        chown(path, Some(DATABASE_USER), Some(DATABASE_USER)).unwrap();
    }
    let as_its_user = |program: &str| {
        let mut command = Command::new(require(program));
        command.env_clear().env("LC_ALL", "C").current_dir(&data).uid(DATABASE_USER).gid(DATABASE_USER);
        command
    };
    let files = data.join("files");
    let mut initdb = as_its_user("initdb");
    initdb.args(["--no-sync", "--auth=trust", "--username=weir", "--encoding=UTF8", "--pgdata"]).arg(&files);
    stdout(&weir_tests::tools::run(initdb).await);
    let anybody = "host all all all trust\n";
    let rules = std::fs::OpenOptions::new().append(true).open(files.join("pg_hba.conf"));
    std::io::Write::write_all(&mut rules.unwrap(), anybody.as_bytes()).unwrap();
    let mut server = as_its_user("postgres");
    server.arg("-D").arg(&files);
    for setting in ["listen_addresses=*", "unix_socket_directories=", "fsync=off", "ssl=on"] {
        server.args(["-c", setting]);
    }
    server.args(["-c", &format!("ssl_cert_file={}", certificate.display()), "-c", &format!("ssl_key_file={}", key.display())]);
    pod.namespace.spawn("postgres", server, directory)
}

/// The user of the database: `nobody`, because it wants one that has a name.
const DATABASE_USER: u32 = 65_534;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_postgresql_and_its_clients_know_nothing_of_the_mesh() {
    let cluster = Cluster::start().await;
    let directory = tempfile::Builder::new().prefix("weir-postgres-").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let server = postgres(&cluster.reviews, directory.path()).await;
    until("the database answers through both sidecars", async || {
        server.still_runs()?;
        cluster.sql("disable", &["select 1"])
    })
    .await;
    // The client asks for TLS with eight bytes, and waits for one before it says more.
    let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(cluster.sql("require", &[encrypted]).unwrap().trim(), "t");
    assert_eq!(cluster.sql("prefer", &[encrypted]).unwrap().trim(), "t");
    assert_eq!(cluster.sql("disable", &[encrypted]).unwrap().trim(), "f");

    // Some megabytes each way.
    let file = directory.path().join("rows");
    let (out, back) = (format!("\\copy one to '{}'", file.display()), format!("\\copy two from '{}'", file.display()));
    let make = "create table one as select n, repeat('x', 1000) as pad from generate_series(1, 5000) as n";
    let difference = "select count(*) from (table one except table two) as missing";
    let steps = [make, "create table two (like one)", &out, &back, "select count(*) from two", difference];
    let said = cluster.sql("disable", &steps).unwrap();
    assert!(said.trim_end().ends_with("5000\n0"), "{said}");

    let told = cluster.sql("disable", &["listen news", "notify news, 'hello'", "select 1"]).unwrap();
    assert!(told.contains("Asynchronous notification \"news\" with payload \"hello\""), "{told}");

    // Short connections, one for each transaction, several at a time.
    let (host, port) = (POSTGRES.0.to_string(), POSTGRES.1.to_string());
    let at = ["--host", &host, "--port", &port, "--username", "weir"];
    cluster.calls("pgbench", &[&at[..], &["--initialize", "--quiet", "postgres"]].concat(), None).unwrap();
    let run = ["--client", "4", "--connect", "--transactions", "25", "postgres"];
    let report = cluster.calls("pgbench", &[&at[..], &run].concat(), None).unwrap();
    assert!(report.contains("actually processed: 100/100") && report.contains("failed transactions: 0"), "{report}");
    server.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_and_its_clients_know_nothing_of_the_mesh() {
    let cluster = Cluster::start().await;
    let directory = tempfile::Builder::new().prefix("weir-redis-").tempdir().unwrap();
    let mut command = Command::new(require("redis-server"));
    command.env_clear().current_dir(directory.path());
    command.args(["--port", "6379", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"]);
    let server = cluster.reviews.namespace.spawn("redis", command, directory.path());
    let (host, port) = (REDIS.0.to_string(), REDIS.1.to_string());
    let redis = |arguments: &[&str], input: Option<&Path>| {
        cluster.calls("redis-cli", &[&["-h", &host, "-p", &port], arguments].concat(), input)
    };
    until("it answers through both sidecars", async || {
        server.still_runs()?;
        let said = redis(&["ping"], None)?;
        ensure(said.trim() == "PONG", || said)
    })
    .await;

    let commands = directory.path().join("commands");
    std::fs::write(&commands, (0..10_000).map(|n| format!("SET key:{n} {n}\r\n")).collect::<String>()).unwrap();
    let said = redis(&["--pipe"], Some(&commands)).unwrap();
    assert!(said.contains("errors: 0, replies: 10000"), "{said}");
    assert_eq!(redis(&["get", "key:9999"], None).unwrap().trim(), "9999");

    let large = directory.path().join("large");
    std::fs::write(&large, "x".repeat(10_000_000)).unwrap();
    redis(&["-x", "set", "large"], Some(&large)).unwrap();
    assert_eq!(redis(&["strlen", "large"], None).unwrap().trim(), "10000000");
    assert_eq!(redis(&["get", "large"], None).unwrap().trim().len(), 10_000_000);

    // One client waits for what another brings.
    let mut command = Command::new(require("redis-cli"));
    command.env_clear().args(["-h", &host, "-p", &port, "blpop", "queue", "60"]);
    let waiting = cluster.caller.namespace.spawn("blpop", command, directory.path());
    until("somebody waits", async || {
        waiting.still_runs()?;
        let clients = redis(&["client", "list"], None)?;
        ensure(clients.contains("cmd=blpop"), || clients)
    })
    .await;
    redis(&["rpush", "queue", "brought"], None).unwrap();
    waiting.logs(&["brought"]).await;
    server.terminate();
}

fn write_manifests(manifests: &Manifests) {
    let pod = |name: &str, address| {
        let pod = Pod { name, namespace: "shop", service_account: name, address, meshed: true, annotations: &[] };
        pod.yaml()
    };
    let endpoints = [("reviews".to_owned(), REVIEWS_POD, true)];
    let http = ServiceObjects {
        name: "reviews",
        namespace: "shop",
        cluster_ip: Some(CLUSTER_IP),
        port_name: "http",
        port: 80,
        target_port: 8080,
        app_protocol: None,
        endpoints: &endpoints,
    };
    let tcp = ServiceObjects {
        name: "echo",
        cluster_ip: Some(TCP_CLUSTER_IP),
        port_name: "tcp",
        port: 9000,
        target_port: 9000,
        ..http.clone()
    };
    // Nothing says what is spoken on these.
    let database = |name, cluster_ip, port| ServiceObjects {
        name,
        cluster_ip: Some(cluster_ip),
        port_name: "main",
        port,
        target_port: port,
        ..http.clone()
    };
    let postgres = database("postgres", POSTGRES.0, POSTGRES.1).yaml();
    let redis = database("cache", REDIS.0, REDIS.1).yaml();
    let pods = [manifest::namespace("shop"), pod("caller", CALLER_POD), pod("reviews", REVIEWS_POD)];
    let services = [http.yaml(), tcp.yaml(), postgres, redis];
    manifests.write("all", &[&pods[..], &services[..]].concat().join("---\n"));
}

/// Redirection, and a sidecar that runs as its own user without capabilities.
async fn pod(namespace: Namespace, name: &str, address: Ipv4Addr, bundle: &Path, directory: &Path) -> PodNetwork {
    namespace.redirect();
    // Somewhere that the sidecar's user can read, wherever the workspace is.
    let binary = directory.join(format!("weir-proxy-{name}"));
    binaries::copy_proxy(&binary);
    let readable = |path: PathBuf, text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        path.display().to_string()
    };
    let state = directory.join(format!("state-{name}"));
    std::fs::create_dir(&state).unwrap();
    chown(&state, Some(SIDECAR_USER), Some(SIDECAR_USER)).unwrap();
    let environment: BTreeMap<&str, String> = [
        ("WEIR_POD_NAME", name.to_owned()),
        ("WEIR_POD_NAMESPACE", "shop".to_owned()),
        ("WEIR_SERVICE_ACCOUNT", name.to_owned()),
        ("WEIR_POD_IP", address.to_string()),
        ("WEIR_CONTROL_PLANE", format!("{CONTROL_PLANE}:15410")),
        ("WEIR_TRUST_BUNDLE", readable(directory.join(format!("bundle-{name}")), &std::fs::read(bundle).unwrap())),
        ("WEIR_TOKEN", readable(directory.join(format!("token-{name}")), format!("token-{name}").as_bytes())),
        ("WEIR_STATE_DIR", state.display().to_string()),
        ("WEIR_WORKERS", "2".to_owned()),
    ]
    .into();
    let mut command = Command::new(binary);
    command.env_clear().envs(environment).uid(SIDECAR_USER).gid(SIDECAR_USER);
    let sidecar = namespace.spawn(&format!("sidecar-{name}"), command, directory);
    until("the sidecar is ready", async || {
        sidecar.still_runs()?;
        let answer = namespace.get((Ipv4Addr::LOCALHOST, 15420).into(), "/ready").await?;
        ensure(answer.status == 200, || format!("/ready says {}: {}", answer.status, answer.text()))
    })
    .await;
    PodNetwork { namespace, sidecar }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_to_a_cluster_ip_arrives_over_mutual_tls_with_the_callers_identity() {
    let cluster = Cluster::start().await;
    cluster.reaches().await;
    let wire = cluster.fabric.capture();

    let url = format!("http://{CLUSTER_IP}/marked?note=plaintext-marker-of-a-request");
    let body = "plaintext-marker-of-a-body";
    let output = cluster.curl(&["--fail", "--header", "Host: reviews.shop", "--data", body, &url]);
    let seen: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(seen["headers"]["weir-client-id"][0], CALLER, "{seen}");
    assert_eq!((&seen["path"], &seen["body"]), (&"/marked".into(), &body.into()));

    // A call without a mesh at the other end crosses the same wire readable: what is looked for would be found.
    let outside = App::http("outside").serve(cluster.stranger.listen((STRANGER, 80).into()));
    let note = "plaintext-marker-of-the-control";
    stdout(&cluster.curl(&["--fail", &format!("http://{STRANGER}/{note}")]));
    until("the control marker is captured", async || ensure(wire.has(note), || format!("{} bytes crossed", wire.len()))).await;
    assert!(!wire.has("plaintext-marker-of-a-request"), "the request crossed the wire readable");
    assert!(!wire.has("plaintext-marker-of-a-body"), "the body crossed the wire readable");
    drop(outside);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn redirected_workloads_are_routed_secured_and_reached_from_outside() {
    let cluster = Cluster::start().await;
    cluster.reaches().await;
    the_frontend_is_the_address_and_not_the_host(&cluster);
    a_pods_own_address_is_secured_too(&cluster).await;
    a_workload_that_is_an_endpoint_of_what_it_calls_reaches_itself(&cluster).await;
    raw_tcp_is_carried_with_its_half_close(&cluster).await;
    many_requests_pass_on_kept_connections(&cluster).await;
    edits_take_effect_on_connections_that_are_open(&cluster).await;
    who_has_no_sidecar_may_enter_in_plaintext(&cluster).await;
    an_unknown_address_is_refused_as_without_a_mesh(&cluster).await;
    the_control_planes_own_address_is_reached_as_before(&cluster).await;
    a_drain_is_not_taken_from_another_machine(&cluster).await;
}

fn the_frontend_is_the_address_and_not_the_host(cluster: &Cluster) {
    let url = format!("http://{CLUSTER_IP}/");
    let output = cluster.curl(&["--fail", "--header", "Host: anything.example", &url]);
    let seen: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(seen["headers"]["host"][0], "anything.example");
    assert_eq!(seen["headers"]["weir-client-id"][0], CALLER);
}

async fn a_pods_own_address_is_secured_too(cluster: &Cluster) {
    let answer = until("a call to the pod's address is secured", async || {
        let answer = cluster.caller.namespace.get((REVIEWS_POD, 8080).into(), "/").await?;
        ensure(answer.status == 200, || format!("{answer:?}")).map(|()| answer)
    })
    .await;
    assert_eq!(answer.seen_header("weir-client-id"), [CALLER]);
}

/// What a pod sends to its own address does not pass its inbound side.
async fn a_workload_that_is_an_endpoint_of_what_it_calls_reaches_itself(cluster: &Cluster) {
    let answer = until("the workload reaches itself by its Service", async || {
        let answer = cluster.reviews.namespace.get((CLUSTER_IP, 80).into(), "/self").await?;
        ensure(answer.status == 200, || format!("{answer:?}")).map(|()| answer)
    })
    .await;
    assert_eq!((answer.app(), answer.seen_header("weir-client-id")), ("reviews", vec![REVIEWS.to_owned()]));
    let mut raw = Raw::over(cluster.reviews.namespace.connect((TCP_CLUSTER_IP, 9000).into()).unwrap());
    raw.write("to itself").await;
    raw.until("to itself").await;
}

async fn raw_tcp_is_carried_with_its_half_close(cluster: &Cluster) {
    let before = cluster.echo.accepted();
    let mut raw = Raw::over(cluster.caller.namespace.connect((TCP_CLUSTER_IP, 9000).into()).unwrap());
    raw.write("through two sidecars").await;
    raw.until("through two sidecars").await;
    raw.finish().await;
    assert_eq!(raw.rest().await, b"bye 20");
    assert_eq!(cluster.echo.accepted(), before + 1);
}

async fn many_requests_pass_on_kept_connections(cluster: &Cluster) {
    let address: SocketAddr = (CLUSTER_IP, 80).into();
    let mut connection = Connection::over(cluster.caller.namespace.connect(address).unwrap(), false).await.unwrap();
    for _ in 0..200 {
        let answer = connection.send(request(Method::GET, &format!("http://{CLUSTER_IP}/kept"))).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(cluster.app.requests("/kept"), 200);
    let metrics = cluster.reviews.namespace.get((Ipv4Addr::LOCALHOST, 15420).into(), "/metrics").await.unwrap();
    let metrics = weir_tests::metrics::Metrics::parse(&metrics.text()).unwrap();
    assert!(metrics.sum("weir_http_requests_total", &[("direction", "inbound"), ("peer", CALLER), ("tls", "mutual")]) >= 200.0);
}

/// In HTTP/1.1 and in HTTP/2, whose connections live as long as the application.
async fn edits_take_effect_on_connections_that_are_open(cluster: &Cluster) {
    let url = format!("http://{CLUSTER_IP}/edited");
    for http2 in [false, true] {
        let stream = cluster.caller.namespace.connect((CLUSTER_IP, 80).into()).unwrap();
        let mut connection = Connection::over(stream, http2).await.unwrap();
        for edition in ["first", "second", "none"] {
            let filter = format!(
                "{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: edition, value: {edition}}}]}}}}"
            );
            let rules = format!("- filters: [{filter}]\n  backendRefs: [{{name: reviews, port: 80}}]");
            match edition {
                "none" => cluster.control_plane.manifests().remove("edited"),
                _ => cluster
                    .control_plane
                    .manifests()
                    .write("edited", &manifest::route("HTTPRoute", "edited", "shop", "reviews", &rules)),
            }
            until("the edit is seen on the open connection", async || {
                let answer = connection.send(request(Method::GET, &url)).await?;
                assert_eq!(answer.status, 200, "{answer:?}");
                let seen = answer.headers.get("edition").and_then(|it| it.to_str().ok()).unwrap_or("none");
                ensure(seen == edition, || format!("{seen} is in force, not {edition}"))
            })
            .await;
        }
    }
}

async fn who_has_no_sidecar_may_enter_in_plaintext(cluster: &Cluster) {
    let answer = cluster.stranger.get((REVIEWS_POD, 8080).into(), "/").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.app()), (200, "reviews"));
    assert!(answer.seen_header("weir-client-id").is_empty());
}

async fn an_unknown_address_is_refused_as_without_a_mesh(cluster: &Cluster) {
    let nobody: SocketAddr = (STRANGER, 81).into();
    match cluster.caller.namespace.get(nobody, "/").await {
        Ok(answer) => assert_eq!(answer.made_by_mesh(502, "outbound").reason, "connect-failed"),
        Err(reason) => assert!(!reason.is_empty()),
    }
}

async fn the_control_planes_own_address_is_reached_as_before(cluster: &Cluster) {
    let answer = cluster.caller.namespace.get((CONTROL_PLANE, 15411).into(), "/live").await.unwrap();
    assert_eq!(answer.status, 200, "the application's plain HTTP to a host outside the mesh passes");
}

async fn a_drain_is_not_taken_from_another_machine(cluster: &Cluster) {
    let admin: SocketAddr = (REVIEWS_POD, 15420).into();
    let stream = cluster.stranger.connect(admin).unwrap();
    let mut connection = Connection::over(stream, false).await.unwrap();
    let mut drain = request(Method::POST, &format!("http://{admin}/drain"));
    drain.headers_mut().insert("host", "localhost".parse().unwrap());
    assert_eq!(connection.send(drain).await.unwrap().status, 403);
    assert_eq!(cluster.stranger.get(admin, "/ready").await.unwrap().status, 200, "it serves on");
}
