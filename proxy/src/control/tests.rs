use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use time::Duration;
use tonic::Status;
use weir_core::snapshot::{Known, ResourceName};
use weir_proto::v1;
use weir_proto::v1::discovery_request::Kind;
use weir_tls::control_plane_identity;

use super::testing::{Ca, Certify, Fake, Place, Stream, WORKLOAD, beside, until};
use super::{Control, Saved, decode, identity};

fn name(kind: v1::ResourceKind, name: &str) -> v1::ResourceName {
    v1::ResourceName { kind: kind.into(), name: name.into() }
}

fn service(version: &str) -> v1::Resource {
    let own = v1::ServiceName { namespace: "shop".into(), name: "reviews".into() };
    let port = v1::ServicePort { port: 80, ..v1::ServicePort::default() };
    let service = v1::Service { name: Some(own), addresses: vec![], ports: vec![port] };
    v1::Resource {
        name: Some(name(v1::ResourceKind::Service, "shop/reviews")),
        version: version.into(),
        body: Some(v1::resource::Body::Service(service)),
    }
}

fn trust(version: &str, roots: &[Vec<u8>]) -> v1::Resource {
    let roots = roots.iter().map(|root| root.clone().into()).collect();
    let bundle = v1::TrustBundle { trust_domain: "cluster.local".into(), roots, generation: 0 };
    v1::Resource {
        name: Some(name(v1::ResourceKind::Trust, "")),
        version: version.into(),
        body: Some(v1::resource::Body::Trust(bundle)),
    }
}

fn response(sequence: u64, updated: Vec<v1::Resource>) -> v1::DiscoveryResponse {
    v1::DiscoveryResponse { sequence, updated, ..v1::DiscoveryResponse::default() }
}

/// The next stream, after its Hello.
async fn stream(fake: &mut Fake) -> (Stream, v1::Hello) {
    let mut stream = fake.streams.recv().await.unwrap();
    let Kind::Hello(hello) = stream.next().await else { panic!("no Hello first") };
    (stream, hello)
}

fn reviews() -> ResourceName {
    ResourceName::Service("shop/reviews".parse().unwrap())
}

fn knows_reviews(control: &Control) -> bool {
    let snapshot = control.shared.snapshot.load();
    snapshot.service(&"shop/reviews".parse().unwrap()).is_some_and(|known| known.present().is_some())
}

#[tokio::test]
async fn a_proxy_gets_its_certificate_and_then_its_configuration() {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    control.shared.demand.ask(&reviews());
    beside(&control, async {
        let asked = fake.asked.recv().await.unwrap();
        assert_eq!((asked.token.as_str(), asked.service_account.as_str()), ("let-me-in", "web"));
        let (mut stream, hello) = stream(&mut fake).await;
        assert_eq!(
            (hello.namespace.as_str(), hello.pod.as_str(), &hello.pod_ips[..]),
            ("shop", "web-1", &["10.0.0.9".to_owned()][..])
        );
        assert!(hello.held.is_empty());
        let wanted = v1::Subscribe { names: vec![name(v1::ResourceKind::Service, "shop/reviews")] };
        assert_eq!(stream.next().await, Kind::Subscribe(wanted));
        stream.send(response(1, vec![service("a")])).await;
        assert_eq!(stream.next().await, Kind::Ack(v1::Ack { sequence: 1 }));
        assert!(knows_reviews(&control) && control.shared.control.connected());
        assert!(control.shared.control.age(control.shared.now()).is_some());
        assert_eq!(control.shared.metrics.config_version.get(), 1);
    })
    .await;
    let tls = control.shared.tls.load_full().unwrap();
    assert_eq!((tls.generation, tls.credentials.identity.to_string().as_str()), (1, WORKLOAD));
}

#[tokio::test]
async fn what_is_asked_for_later_is_subscribed_to_once() {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    beside(&control, async {
        let (mut stream, _) = stream(&mut fake).await;
        control.shared.demand.ask(&reviews());
        let names = |kind| match kind {
            Kind::Subscribe(it) => it.names,
            other => panic!("{other:?}"),
        };
        assert_eq!(names(stream.next().await), [name(v1::ResourceKind::Service, "shop/reviews")]);
        control.shared.demand.ask(&reviews());
        control.shared.demand.ask(&ResourceName::Address("10.0.0.1".parse().unwrap()));
        assert_eq!(names(stream.next().await), [name(v1::ResourceKind::Address, "10.0.0.1")]);
    })
    .await;
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_its_reason_and_the_old_one_stays() {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    beside(&control, async {
        let (mut stream, _) = stream(&mut fake).await;
        stream.send(response(1, vec![service("a")])).await;
        assert_eq!(stream.next().await, Kind::Ack(v1::Ack { sequence: 1 }));

        let mut bad = service("b");
        let Some(v1::resource::Body::Service(body)) = &mut bad.body else { panic!() };
        body.ports[0].port = 0;
        stream.send(response(2, vec![trust("1", &[fake.ca.der()]), bad])).await;
        let Kind::Nack(nack) = stream.next().await else { panic!("accepted") };
        assert_eq!((nack.sequence, nack.name), (2, Some(name(v1::ResourceKind::Service, "shop/reviews"))));
        assert!(nack.reason.contains("updated[1].ports[0].port"), "{}", nack.reason);

        stream.send(response(3, vec![trust("2", &[b"no certificate".to_vec()])])).await;
        let Kind::Nack(nack) = stream.next().await else { panic!("accepted") };
        assert_eq!(nack.name, Some(name(v1::ResourceKind::Trust, "")));

        assert!(knows_reviews(&control) && control.shared.snapshot.load().trust().is_none());
        assert_eq!(control.shared.metrics.config_rejected.get(), 2);
        stream.send(response(4, vec![trust("3", &[fake.ca.der()])])).await;
        assert_eq!(stream.next().await, Kind::Ack(v1::Ack { sequence: 4 }));
    })
    .await;
}

#[tokio::test]
async fn a_broken_stream_is_opened_again_with_what_is_held() {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    control.shared.demand.ask(&reviews());
    beside(&control, async {
        let (mut first, _) = stream(&mut fake).await;
        let _ = first.next().await;
        first.send(response(1, vec![service("a"), trust("9", &[fake.ca.der()])])).await;
        let _ = first.next().await;
        drop(first);
        let (mut second, hello) = stream(&mut fake).await;
        let held: Vec<_> = hello.held.iter().map(|it| it.version.as_str()).collect();
        assert_eq!(held, ["a", "9"]);
        assert!(matches!(second.next().await, Kind::Subscribe(_)));
        until("connected again", || control.shared.control.connected()).await;
    })
    .await;
}

#[tokio::test]
async fn new_roots_take_effect_with_the_certificate_that_there_is() {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    let next = Ca::new("next");
    beside(&control, async {
        let (mut stream, _) = stream(&mut fake).await;
        let before = control.shared.tls.load_full().unwrap();
        stream.send(response(1, vec![trust("1", &[fake.ca.der()])])).await;
        let _ = stream.next().await;
        assert_eq!(control.shared.tls.load().as_ref().unwrap().generation, 1, "nothing changed");
        stream.send(response(2, vec![trust("2", &[fake.ca.der(), next.der()])])).await;
        let _ = stream.next().await;
        let after = control.shared.tls.load_full().unwrap();
        assert_eq!((after.generation, after.roots.ders().len()), (2, 2));
        assert_eq!(after.credentials.serial, before.credentials.serial);
        // A replica that lags behind signs the next certificate and sends the old bundle along.
        control.renew_now.notify_one();
        until("renewed", || control.shared.tls.load().as_ref().is_some_and(|tls| tls.generation == 3)).await;
        assert_eq!(control.shared.tls.load().as_ref().unwrap().roots.ders().len(), 2);
        // Roots that the certificate does not lead to: it is renewed at once.
        for _ in 0..2 {
            let _ = fake.asked.recv().await.unwrap();
        }
        stream.send(response(3, vec![trust("3", &[next.der()])])).await;
        let _ = fake.asked.recv().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_new_certificate_leaves_the_stream_alone() {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    beside(&control, async {
        let (mut stream, _) = stream(&mut fake).await;
        let before = control.shared.tls.load_full().unwrap();
        control.renew_now.notify_one();
        until("renewed", || control.shared.tls.load().as_ref().is_some_and(|tls| tls.generation == 2)).await;
        let after = control.shared.tls.load_full().unwrap();
        assert_ne!(after.credentials.serial, before.credentials.serial);
        stream.send(response(1, vec![service("a")])).await;
        assert_eq!(stream.next().await, Kind::Ack(v1::Ack { sequence: 1 }));
        assert_eq!(control.shared.metrics.certificate_renewals.with_label_values(&["success"]).get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_renewed_before_its_end_and_the_stream_follows() {
    let mut fake = Fake::start().await;
    *fake.certify.lock().unwrap() = Certify::Sign { identity: WORKLOAD.into(), life: Duration::seconds(6) };
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    beside(&control, async {
        let (first, _) = stream(&mut fake).await;
        let before = control.shared.tls.load_full().unwrap();
        until("renewed", || control.shared.tls.load().as_ref().is_some_and(|tls| tls.generation > 1)).await;
        assert!(before.credentials.validity.not_after > std::time::SystemTime::now(), "the old one is still good");
        // The proxy opens another stream by its own choice: this one is not ended by the control plane.
        let (mut second, _) = stream(&mut fake).await;
        second.send(response(1, vec![service("a")])).await;
        assert_eq!(second.next().await, Kind::Ack(v1::Ack { sequence: 1 }));
        drop(first);
    })
    .await;
}

async fn refusal(control: &Control) -> String {
    identity::obtain(&control.shared).await.unwrap_err().to_string()
}

#[tokio::test]
async fn every_reason_for_no_certificate_says_what_to_look_at() {
    let fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);

    *fake.certify.lock().unwrap() = Certify::Refuse(Status::unauthenticated("unknown token"));
    let said = refusal(&control).await;
    assert!(said.contains("unknown token") && said.contains("WEIR_TOKEN"), "{said}");

    let other = "spiffe://cluster.local/ns/shop/sa/other";
    *fake.certify.lock().unwrap() = Certify::Sign { identity: other.into(), life: Duration::hours(1) };
    let said = refusal(&control).await;
    assert!(said.contains(other) && said.contains(WORKLOAD), "{said}");

    *fake.certify.lock().unwrap() = Certify::Sign { identity: WORKLOAD.into(), life: Duration::minutes(-1) };
    let said = refusal(&control).await;
    assert!(said.contains("not valid now"), "{said}");

    fs::write(place.path("token"), "\n").unwrap();
    assert!(refusal(&control).await.contains("is empty"));
    fs::remove_file(place.path("token")).unwrap();
    assert!(refusal(&control).await.contains("check WEIR_TOKEN"));
    fs::write(place.path("token"), "let-me-in").unwrap();

    fs::write(place.path("bundle.pem"), "").unwrap();
    assert!(refusal(&control).await.contains("no root certificate"));
    fs::remove_file(place.path("bundle.pem")).unwrap();
    assert!(refusal(&control).await.contains("check WEIR_TRUST_BUNDLE"));
}

#[tokio::test]
async fn only_the_control_plane_of_the_bundle_is_talked_to() {
    let fake = Fake::start().await;
    let elsewhere = Place::new(&Ca::new("elsewhere"));
    let said = refusal(&elsewhere.control(fake.address)).await;
    assert!(said.contains("does not lead to a root"), "{said}");

    // A workload of the same mesh that answers at the control plane's address.
    let ca = Arc::new(Ca::new("mesh"));
    let impostor = Fake::start_as(Arc::clone(&ca), WORKLOAD).await;
    let said = refusal(&Place::new(&ca).control(impostor.address)).await;
    let expected = control_plane_identity(&"cluster.local".parse().unwrap()).to_string();
    assert!(said.contains(WORKLOAD) && said.contains(&expected), "{said}");

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let said = refusal(&Place::new(&ca).control(address)).await;
    assert!(said.contains(&address.to_string()) && said.contains("is the control plane running"), "{said}");
}

/// A place where a proxy ran and saved everything.
async fn lived() -> (Place, Arc<Ca>) {
    let mut fake = Fake::start().await;
    let place = Place::new(&fake.ca);
    let control = place.control(fake.address);
    control.shared.demand.ask(&reviews());
    beside(&control, async {
        let (mut stream, _) = stream(&mut fake).await;
        let _ = stream.next().await;
        let absent = vec![name(v1::ResourceKind::Service, "shop/gone")];
        let all = response(1, vec![service("a"), trust("9", &[fake.ca.der()])]);
        stream.send(v1::DiscoveryResponse { removed: absent, ..all }).await;
        let _ = stream.next().await;
        until("saved", || place.saved("snapshot").exists() && place.saved("certificate.pem").exists()).await;
    })
    .await;
    (place, fake.ca)
}

fn nowhere() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

#[tokio::test]
async fn a_proxy_starts_from_what_it_saved() {
    let (place, _) = lived().await;
    let again = place.control(nowhere());
    assert!(knows_reviews(&again));
    let snapshot = again.shared.snapshot.load();
    assert_eq!(snapshot.service(&"shop/gone".parse().unwrap()), Some(&Known::Absent));
    let held: Vec<_> = snapshot.versions().into_values().map(|version| version.to_string()).collect();
    assert_eq!(held, ["a", "9"]);
    assert!(again.shared.demand.names().contains(&reviews()), "it is followed again");
    assert_eq!(again.shared.tls.load().as_ref().unwrap().credentials.identity.to_string(), WORKLOAD);
    for file in ["snapshot", "certificate.pem", "roots.pem"] {
        let mode = fs::metadata(place.saved(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(fs::metadata(place.saved("")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn any_damage_to_the_saved_configuration_is_noticed() {
    let (place, _) = lived().await;
    let good = fs::read(place.saved("snapshot")).unwrap();
    let settings = place.settings(nowhere(), "web-1");
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        fs::write(place.saved("snapshot"), &bytes).unwrap();
        assert!(Saved::load(&settings).snapshot.is_none(), "byte {at}");
    }
    for length in [0, 1, 16, 40, good.len() - 1] {
        fs::write(place.saved("snapshot"), &good[..length]).unwrap();
        assert!(Saved::load(&settings).snapshot.is_none(), "{length} bytes");
    }
    fs::write(place.saved("snapshot"), &good).unwrap();
    assert!(Saved::load(&settings).snapshot.is_some());
}

#[tokio::test]
async fn what_another_workload_saved_is_not_used() {
    let (place, _) = lived().await;
    let other = place.path("state").join("shop.web-2");
    fs::create_dir(&other).unwrap();
    fs::copy(place.saved("snapshot"), other.join("snapshot")).unwrap();
    assert!(Saved::load(&place.settings(nowhere(), "web-2")).snapshot.is_none());
}

#[tokio::test]
async fn a_saved_certificate_is_used_only_while_it_is_good() {
    let (place, ca) = lived().await;
    let settings = place.settings(nowhere(), "web-1");
    let good = fs::read_to_string(place.saved("certificate.pem")).unwrap();
    let (hour, day) = (Duration::hours(1), Duration::hours(24));
    let bad = [
        ("expired", ca.credentials(WORKLOAD, -day, -hour)),
        ("not valid yet", ca.credentials(WORKLOAD, hour, day)),
        ("somebody else's", ca.credentials("spiffe://cluster.local/ns/shop/sa/other", -hour, day)),
        ("of another mesh", Ca::new("other").credentials(WORKLOAD, -hour, day)),
    ];
    for (what, credentials) in bad {
        fs::write(place.saved("certificate.pem"), credentials.key_pem() + &credentials.chain_pem()).unwrap();
        assert!(Saved::load(&settings).identity.is_none(), "{what}");
    }
    for text in ["", "-----BEGIN", &good[..good.len() / 2]] {
        fs::write(place.saved("certificate.pem"), text).unwrap();
        assert!(Saved::load(&settings).identity.is_none(), "{text}");
    }
    fs::write(place.saved("certificate.pem"), good).unwrap();
    assert!(Saved::load(&settings).identity.is_some());
    fs::remove_file(place.saved("roots.pem")).unwrap();
    assert!(Saved::load(&settings).identity.is_none());
}

#[test]
fn names_of_a_response_are_described_for_people() {
    assert_eq!(decode::describe(&reviews()), "service shop/reviews");
}
