use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::*;
use crate::certificate::PROPAGATION;
use crate::testing::Server;

const SECRET: &str = "/api/v1/namespaces/weir-system/secrets/weir-injector-tls";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weir-injector";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/weir-injector";
const DAY: Duration = Duration::from_secs(86_400);

/// A replica, which sees what is in the cluster when it is told to.
struct Replica {
    upkeep: Upkeep,
    server: Server,
    shown: Arc<Shown>,
    readiness: Arc<Readiness>,
}

impl Replica {
    fn new(server: &Server, name: &str) -> Self {
        let (shown, readiness) = (Arc::new(Shown::default()), Arc::new(Readiness::default()));
        readiness.namespaces_are_read();
        readiness.version_is_known();
        let names = Names {
            namespace: "weir-system".into(),
            secret: "weir-injector-tls".into(),
            configuration: "weir-injector".into(),
            certificate: vec!["weir-injector.weir-system.svc".into()],
            spread: name.into(),
        };
        let metrics = Metrics::new().unwrap();
        let upkeep = Upkeep::new(&server.client(), names, Arc::clone(&shown), Arc::clone(&readiness), metrics);
        Self { upkeep, server: server.clone(), shown, readiness }
    }

    /// The watches bring what there is.
    fn look(&mut self) {
        let secret = self.server.object(SECRET).map(|it| serde_json::from_value(it).unwrap());
        self.upkeep.view.secret = Some(secret);
        let mutating = self.server.object(MUTATING).map(|it| serde_json::from_value(it).unwrap());
        self.upkeep.view.mutating = Some(mutating.as_ref().map(mutating_hooks));
        let validating = self.server.object(VALIDATING).map(|it| serde_json::from_value(it).unwrap());
        self.upkeep.view.validating = Some(validating.as_ref().map(validating_hooks));
    }

    async fn step(&mut self, now: SystemTime) -> Result<Duration, ClusterError> {
        self.upkeep.step(now, Instant::now()).await
    }

    fn shown(&self) -> Vec<u8> {
        self.shown.current().unwrap().key.cert[0].to_vec()
    }

    fn is_ready(&self) -> bool {
        self.readiness.missing().is_empty()
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn configuration(kind: &str) -> Value {
    let hook = |name: &str| {
        let client = json!({"service": {"name": "weir-injector", "namespace": "weir-system", "path": "/x"}});
        json!({"name": name, "clientConfig": client, "admissionReviewVersions": ["v1"], "sideEffects": "None"})
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "weir-injector"},
        "webhooks": [hook("a.weir.dev"), hook("b.weir.dev")],
    })
}

/// A cluster in which the chart has just been installed.
fn installed() -> Server {
    let server = Server::default();
    server.put(MUTATING, configuration("MutatingWebhookConfiguration"));
    server.put(VALIDATING, configuration("ValidatingWebhookConfiguration"));
    server
}

fn part(server: &Server, name: &str) -> String {
    let secret = server.object(SECRET).unwrap();
    let encoded = secret.pointer(&format!("/data/{name}")).and_then(Value::as_str).unwrap().to_owned();
    String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap()
}

fn bundles(server: &Server) -> Vec<String> {
    let configurations = [MUTATING, VALIDATING].into_iter().filter_map(|path| server.object(path));
    let hooks = configurations.flat_map(|it| it.pointer("/webhooks").and_then(Value::as_array).cloned().unwrap());
    let bundle = |hook: Value| hook.pointer("/clientConfig/caBundle").and_then(Value::as_str).map(str::to_owned);
    hooks.map(|hook| String::from_utf8(STANDARD.decode(bundle(hook).unwrap_or_default()).unwrap()).unwrap()).collect()
}

/// Whether every webhook trusts exactly what the Secret says.
fn bundles_are_right(server: &Server) -> bool {
    let wanted = part(server, "ca.crt");
    bundles(server).iter().all(|bundle| *bundle == wanted)
}

#[tokio::test]
async fn a_new_cluster_gets_a_certificate_and_bundles_and_is_ready() {
    let server = installed();
    let mut replica = Replica::new(&server, "one");
    replica.look();
    assert!(!replica.is_ready());
    replica.step(now()).await.unwrap();
    assert!(replica.is_ready(), "{:?}", replica.readiness.missing());
    assert!(bundles_are_right(&server));
    let secret = server.object(SECRET).unwrap();
    assert_eq!(secret.pointer("/type"), Some(&json!("kubernetes.io/tls")));
    assert_eq!(secret.pointer("/metadata/labels/app.kubernetes.io~1managed-by"), Some(&json!("weir-injector")));
    server.calls();
    replica.look();
    replica.step(now() + DAY).await.unwrap();
    assert_eq!(server.calls(), [""; 0], "nothing is to be done");
}

#[tokio::test]
async fn who_loses_the_race_takes_what_the_winner_wrote() {
    let server = installed();
    let (mut one, mut two) = (Replica::new(&server, "one"), Replica::new(&server, "two"));
    one.look();
    two.look();
    one.step(now()).await.unwrap();
    two.step(now()).await.unwrap();
    assert_eq!(one.shown(), two.shown());
    assert!(one.is_ready() && two.is_ready() && bundles_are_right(&server));

    // And again when both renew at one time.
    let later = now() + DAY * 61;
    one.look();
    two.look();
    one.step(later).await.unwrap();
    two.step(later).await.unwrap();
    assert_eq!(one.shown(), two.shown());
    assert!(two.is_ready() && bundles_are_right(&server));
}

#[tokio::test]
async fn a_stale_replica_does_not_undo_what_another_has_renewed() {
    let server = installed();
    let (mut one, mut two) = (Replica::new(&server, "one"), Replica::new(&server, "two"));
    one.look();
    one.step(now()).await.unwrap();
    two.look();
    two.step(now()).await.unwrap();
    let old = part(&server, "ca.crt");
    let later = now() + DAY * 2500;
    one.look();
    one.step(later).await.unwrap();
    let both = part(&server, "ca.crt");
    assert!(both.ends_with(&old) && both.len() > old.len(), "the old authority stays trusted");
    // Its watch of the configuration is ahead of that of the Secret, which it has in the old version.
    let stale = two.upkeep.view.secret.clone();
    two.look();
    two.upkeep.view.secret = stale;
    two.step(now() + DAY).await.unwrap();
    assert!(bundles_are_right(&server));
    assert_eq!(part(&server, "ca.crt"), both);
}

#[tokio::test]
async fn a_new_authority_is_shown_when_it_has_been_trusted_for_a_while() {
    let server = installed();
    let mut replica = Replica::new(&server, "one");
    replica.look();
    replica.step(now()).await.unwrap();
    let first = replica.shown();
    server.remove(SECRET);
    replica.look();
    let start = Instant::now();
    let again = replica.upkeep.step(now() + DAY, start).await.unwrap();
    assert!(bundles_are_right(&server));
    assert_eq!(part(&server, "ca.crt").matches("BEGIN").count(), 2, "what is still shown stays trusted");
    assert_eq!(replica.shown(), first);
    assert!(replica.is_ready() && again <= PROPAGATION);
    replica.look();
    replica.upkeep.step(now() + DAY, start + Duration::from_secs(1)).await.unwrap();
    assert_eq!(replica.shown(), first);
    replica.upkeep.step(now() + DAY, start + PROPAGATION * 2).await.unwrap();
    assert_ne!(replica.shown(), first);
    assert!(replica.is_ready());

    let later = now() + DAY * 2;
    replica.look();
    replica.step(later).await.unwrap();
    assert_eq!(part(&server, "ca.crt").matches("BEGIN").count(), 1, "the old one is retired");
    assert!(bundles_are_right(&server) && replica.is_ready());
}

#[tokio::test]
async fn bundles_that_somebody_resets_are_repaired() {
    let server = installed();
    let mut replica = Replica::new(&server, "one");
    replica.look();
    replica.step(now()).await.unwrap();
    let mut reset = configuration("MutatingWebhookConfiguration");
    reset["webhooks"][1]["clientConfig"]["caBundle"] = json!(STANDARD.encode("nonsense"));
    server.put(MUTATING, reset);
    server.calls();
    replica.look();
    replica.step(now()).await.unwrap();
    assert!(bundles_are_right(&server) && replica.is_ready());
    assert_eq!(server.calls(), [format!("GET {SECRET}"), format!("PATCH {MUTATING}")]);
}

#[tokio::test]
async fn without_a_configuration_nobody_is_sent_here() {
    let server = Server::default();
    let mut replica = Replica::new(&server, "one");
    replica.look();
    replica.step(now()).await.unwrap();
    let missing = replica.readiness.missing();
    assert!(missing.len() == 1 && missing[0].contains("MutatingWebhookConfiguration"), "{missing:?}");
    // One without validation is complete.
    server.put(MUTATING, configuration("MutatingWebhookConfiguration"));
    replica.look();
    replica.step(now()).await.unwrap();
    assert!(replica.is_ready());
}

#[tokio::test]
async fn a_damaged_secret_is_mended_and_keeps_what_else_is_in_it() {
    let server = installed();
    let mut replica = Replica::new(&server, "one");
    replica.look();
    replica.step(now()).await.unwrap();
    let authority = part(&server, "ca.crt");
    let mut secret = server.object(SECRET).unwrap();
    secret["data"]["tls.crt"] = json!(STANDARD.encode("garbage"));
    secret["data"]["note"] = json!(STANDARD.encode("kept"));
    server.put(SECRET, secret);
    replica.look();
    replica.step(now()).await.unwrap();
    assert_eq!(part(&server, "ca.crt"), authority);
    assert_eq!(part(&server, "note"), "kept");
    assert!(part(&server, "tls.crt").contains("BEGIN CERTIFICATE") && replica.is_ready());
}

#[tokio::test]
async fn somebody_elses_secret_is_never_written() {
    let server = installed();
    let made = make::authority(&[], &["weir-injector.weir-system.svc".to_owned()], now()).unwrap();
    let data: BTreeMap<_, _> =
        made.iter().filter(|(name, _)| *name != "ca.key").map(|(name, value)| (name, STANDARD.encode(value))).collect();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "weir-injector-tls"}, "data": data});
    server.put(SECRET, secret.clone());
    let mut replica = Replica::new(&server, "one");
    replica.look();
    replica.step(now() + DAY * 100).await.unwrap();
    assert!(bundles_are_right(&server) && replica.is_ready());
    assert_eq!(server.object(SECRET).unwrap()["data"], secret["data"]);
    assert!(server.calls().iter().all(|call| call.starts_with("PATCH ") || call.starts_with("GET ")));
    assert!(replica.upkeep.complaint.is_some());
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let server = installed();
    server.fail("/api/v1/namespaces/weir-system/secrets", 403);
    let mut replica = Replica::new(&server, "one");
    replica.look();
    let error = replica.step(now()).await.unwrap_err().to_string();
    assert!(error.contains("cannot write Secret weir-system/weir-injector-tls") && error.contains("ClusterRole"), "{error}");
    assert!(!replica.is_ready());
    let server = installed();
    server.fail(MUTATING, 500);
    let mut replica = Replica::new(&server, "one");
    replica.look();
    let error = replica.step(now()).await;
    assert!(error.is_err_and(|error| error.to_string().contains("caBundle of MutatingWebhookConfiguration")));
    assert!(!replica.is_ready());
}
