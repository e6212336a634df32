use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weir_core::rotation::overlap::PhaseName;
use weir_core::snapshot::TrustBundle;

use super::*;
use crate::ca::Authority;
use crate::kube::testing::{Answer, Script, script};
use crate::kube::{Cluster, Leadership};
use crate::metrics::Metrics;
use crate::publish::Hub;
use crate::testing::trust_domain;

const DAY: Duration = Duration::from_secs(86_400);

fn place(answers: Vec<Answer>) -> (Place, Script) {
    let script = script(answers);
    let cluster =
        Cluster { client: script.client.clone(), namespace: "weir-system".to_owned(), leadership: Leadership::always() };
    (Place { cluster, pod_name: "replica-1".to_owned(), trust_domain: trust_domain() }, script)
}

/// The Secret as the API server has it.
fn secret(document: &Document, version: u64, asked: &str) -> Value {
    let place = place(Vec::new()).0;
    let metadata = ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() };
    let mut secret = place.filled(Secret { metadata, ..Secret::default() }, document).unwrap();
    secret.metadata.resource_version = Some(version.to_string());
    secret.annotations_mut().insert(ASK.to_owned(), asked.to_owned());
    serde_json::to_value(secret).unwrap()
}

fn keeper(place: &Place, document: &Document) -> Keeper {
    let metrics = Metrics::new().unwrap();
    let nobody = TrustBundle { trust_domain: trust_domain(), roots: Vec::new(), generation: 0 };
    let hub = Hub::new(nobody, metrics, CancellationToken::new());
    let force = Force::new(Authority::new(trust_domain(), DAY, document).unwrap(), hub).unwrap();
    let (_, secret) = watch::channel(None);
    let (_, root) = watch::channel(None);
    Keeper::new(place.clone(), force, Bundles::default(), secret, root)
}

fn stored(place: &Place, value: &Value) -> Stored {
    place.read(&serde_json::from_value(value.clone()).unwrap()).unwrap()
}

#[tokio::test]
async fn the_replica_that_leads_makes_the_authority_and_others_take_it() {
    let (place, mut script) = place(vec![Answer::Status(404), Answer::Status(404), Answer::Json(json!({"metadata": {}}))]);
    let made = open(&place).await;
    let asked: Vec<_> = std::iter::from_fn(|| script.asked.try_recv().ok()).collect();
    assert_eq!(asked.iter().map(|it| it.method.as_str()).collect::<Vec<_>>(), ["GET", "GET", "POST"]);
    assert!(asked[1].path.contains("/secrets/weir-root"), "the user's root comes first: {}", asked[1].path);
    let created: Secret = serde_json::from_value(asked[2].body.clone()).unwrap();
    assert_eq!(place.read(&created).unwrap().document, made);
    assert_eq!(created.annotations()[PHASE], "stable");

    let (place, _script) = self::place(vec![Answer::Json(secret(&made, 1, ""))]);
    assert_eq!(open(&place).await, made);
}

#[tokio::test]
async fn of_two_that_make_it_at_once_one_takes_that_of_the_other() {
    let theirs = Document::make(&trust_domain(), SystemTime::now()).unwrap();
    let answers = vec![Answer::Status(404), Answer::Status(404), Answer::Status(409), Answer::Json(secret(&theirs, 1, ""))];
    let (place, _script) = place(answers);
    assert_eq!(open(&place).await, theirs);
}

#[tokio::test]
async fn a_step_is_written_with_the_version_that_was_read() {
    let document = Document::make(&trust_domain(), SystemTime::now()).unwrap();
    let read = secret(&document, 41, "please");
    let (place, mut script) = place(vec![Answer::Json(secret(&document, 42, "please"))]);
    let mut keeper = keeper(&place, &document);
    keeper.stored = Some(stored(&place, &read));
    keeper.lead().await.unwrap();
    let put = script.asked.try_recv().unwrap();
    assert_eq!(put.method, "PUT");
    assert_eq!(put.body["metadata"]["resourceVersion"], "41");
    let written = stored(&place, &put.body).document;
    assert_eq!((written.succession.name(), written.asked.as_str()), (PhaseName::Published, "please"));
    assert_eq!(put.body["metadata"]["annotations"][ASK], "please", "what others wrote stays");
    assert_eq!(keeper.force.authority.generation(), written.generation, "it is in force at once");
    assert_eq!(keeper.force.authority.roots().unwrap().ders().len(), 2);
}

#[tokio::test]
async fn a_conflict_changes_nothing_and_what_is_stored_counts() {
    let document = Document::make(&trust_domain(), SystemTime::now()).unwrap();
    let theirs = crate::ca::plan::carry_out(
        &document,
        &crate::ca::plan::Action::Publish { line: None, why: crate::ca::plan::Why::Asked },
        Some("please"),
        &trust_domain(),
        SystemTime::now(),
    )
    .unwrap();
    let (place, mut script) = place(vec![Answer::Status(409), Answer::Json(secret(&theirs, 50, "please"))]);
    let mut keeper = keeper(&place, &document);
    keeper.stored = Some(stored(&place, &secret(&document, 41, "please")));
    keeper.lead().await.unwrap();
    assert_eq!(script.asked.try_recv().unwrap().method, "PUT");
    assert_eq!(script.asked.try_recv().unwrap().method, "GET");
    assert_eq!(keeper.force.authority.document(), theirs);
    assert_eq!(keeper.stored.unwrap().document, theirs);
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_changes_nothing() {
    let document = Document::make(&trust_domain(), SystemTime::now()).unwrap();
    let (place, _script) = place(vec![Answer::Json(json!({"metadata": {"name": SECRET}}))]);
    let mut keeper = keeper(&place, &document);
    let error = keeper.look().await.unwrap_err().to_string();
    assert!(error.contains("has no entry authority.json"), "{error}");
    assert_eq!(keeper.force.authority.document(), document);
}

#[tokio::test]
async fn an_older_secret_counts_only_when_it_was_fetched() {
    let old = Document::make(&trust_domain(), SystemTime::now()).unwrap();
    let mut new = old.clone();
    new.generation += 1;
    let (place, _script) = place(Vec::new());
    let mut keeper = keeper(&place, &new);
    let read = stored(&place, &secret(&old, 1, ""));
    keeper.put_in_force(Some(read.clone()), Source::Watch).unwrap();
    assert_eq!(keeper.force.authority.document(), new);
    keeper.put_in_force(Some(read), Source::Fetched).unwrap();
    assert_eq!(keeper.force.authority.document(), old);
}

#[tokio::test]
async fn the_users_root_is_picked_up_and_a_bad_one_is_refused() {
    let own = Line::make(&trust_domain(), SystemTime::now()).unwrap();
    let entries = |certificate: &str| {
        let data = [("tls.crt", certificate.to_owned()), ("tls.key", own.anchor_key.clone().unwrap())];
        let data = data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes()))).collect();
        Some(Some(Secret { data: Some(data), ..Secret::default() }))
    };
    let (place, _script) = place(Vec::new());
    let mut keeper = keeper(&place, &Document::make(&trust_domain(), SystemTime::now()).unwrap());
    let (tell, root) = watch::channel(None);
    keeper.root = root;
    tell.send_replace(entries(&own.anchor));
    keeper.check_given();
    assert_eq!(keeper.given.line.as_ref().map(|line| line.anchor.replace('\r', "")), Some(own.anchor.replace('\r', "")));
    tell.send_replace(entries("nothing"));
    keeper.check_given();
    assert_eq!((&keeper.given.line, keeper.given.refused.as_deref()), (&None, Some("tls.crt has no certificate")));
    assert_eq!(keeper.force.hub.metrics().given_refused.get(), 1);
    tell.send_replace(Some(None));
    keeper.check_given();
    assert_eq!((keeper.given.refused.as_deref(), keeper.force.hub.metrics().given_refused.get()), (None, 0));
}
