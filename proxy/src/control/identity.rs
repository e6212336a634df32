//! The workload's certificate: got with its token, renewed well before its end.

use std::time::{Duration, SystemTime};

use tokio::time::{sleep, timeout};
use tonic::Code;
use weir_core::backoff::Backoff;
use weir_core::names::Identity;
use weir_core::rotation::Purpose;
use weir_proto::v1;
use weir_proto::v1::identity_client::IdentityClient;
use weir_tls::{Credentials, KeyRequest, Roots, TlsError, Utc};

use super::connect::{self, CannotConnect};
use super::{Control, Never, valid_now};
use crate::logging::LastSaid;
use crate::settings::Settings;
use crate::shared::Shared;

/// Waits while there is no certificate at all. The workload cannot talk to anybody, so they are short.
const FIRST: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(3) };
/// Time for an answer. The control plane may have to ask the API server about the token.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The clock is looked at this often while waiting for the day of renewal: clocks jump, and machines sleep.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// A new root makes every proxy of the mesh renew within this time, or a twentieth of a certificate's life.
const RENEWAL_SPREAD: Duration = Duration::from_secs(60);
/// The least wait of that kind.
const LEAST_WAIT: Duration = Duration::from_millis(200);
/// A token is a few kilobytes at most; another file behind the setting is not read into memory.
const MAX_TOKEN: u64 = 64 * 1024;

/// Gets a certificate and renews it, for ever.
pub(super) async fn run(control: &Control) -> Never {
    let mut rng = fastrand::Rng::new();
    let said = LastSaid::default();
    let mut failures: u32 = 0;
    // The start of a saved certificate is when it was obtained, near enough.
    let saved = control.shared.tls.load().as_ref().map(|tls| tls.credentials.validity);
    if let Some(validity) = saved {
        until(control, validity.renew_at(Purpose::Leaf, validity.not_before, &mut rng), &mut rng).await;
    }
    loop {
        match obtain(&control.shared).await.and_then(|(credentials, roots, of)| Ok(control.adopt(credentials, roots, of)?)) {
            Ok(()) => {
                failures = 0;
                succeeded(&control.shared, &said);
                let obtained = SystemTime::now();
                let validity = control.shared.tls.load().as_ref().map(|tls| tls.credentials.validity);
                if let Some(validity) = validity {
                    until(control, validity.renew_at(Purpose::Leaf, obtained, &mut rng), &mut rng).await;
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                failed(&control.shared, &said, &error);
                let validity = control.shared.tls.load().as_ref().map(|tls| tls.credentials.validity);
                let wait = match validity {
                    Some(validity) => validity.retry_in(SystemTime::now(), failures, &mut rng),
                    None => FIRST.delay(failures, &mut rng),
                };
                sleep(wait).await;
            }
        }
    }
}

fn succeeded(shared: &Shared, said: &LastSaid) {
    shared.metrics.certificate_renewals.with_label_values(&["success"]).inc();
    said.is_over();
    if let Some(tls) = shared.tls.load().as_ref() {
        let credentials = &tls.credentials;
        tracing::info!(
            identity = %credentials.identity,
            serial = %credentials.serial,
            until = %Utc(credentials.validity.not_after),
            "the certificate is in force"
        );
    }
}

fn failed(shared: &Shared, said: &LastSaid, error: &NoCertificate) {
    shared.metrics.certificate_renewals.with_label_values(&["failure"]).inc();
    if !said.is_news(&error.key()) {
        tracing::debug!("no certificate still: {error}");
        return;
    }
    match shared.tls.load().as_ref() {
        Some(tls) => {
            let until = Utc(tls.credentials.validity.not_after);
            tracing::warn!(%until, "the certificate could not be renewed, the old one serves on: {error}");
        }
        None => tracing::warn!("no certificate yet, trying again: {error}"),
    }
}

/// Waits for a moment of the wall clock, or for somebody to say that the certificate must be renewed now, or for a root that it
/// does not lead to and new ones do: then it is renewed soon, not by all proxies at once.
async fn until(control: &Control, moment: SystemTime, rng: &mut fastrand::Rng) {
    let mut changed = control.tls_changed.subscribe();
    let mut soon = None;
    loop {
        changed.mark_unchanged();
        let tls = control.shared.tls.load_full();
        match tls.filter(|tls| control.is_outdated(&tls.credentials)) {
            None => soon = None,
            Some(tls) if soon.is_none() => {
                let wait = (tls.credentials.validity.lifetime() / 20).min(RENEWAL_SPREAD).mul_f64(rng.f64());
                tracing::info!(?wait, "the mesh has a new root that signs, so the certificate is renewed");
                // Not at once again, should a replica that lags behind have signed it.
                soon = SystemTime::now().checked_add(wait.max(LEAST_WAIT));
            }
            Some(_) => {}
        }
        let moment = soon.map_or(moment, |soon| soon.min(moment));
        tokio::select! {
            () = reached(moment) => return,
            () = control.renew_now.notified() => return,
            _ = changed.changed() => {}
        }
    }
}

async fn reached(moment: SystemTime) {
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        if left.is_zero() {
            break;
        }
        sleep(left.min(CLOCK_CHECK)).await;
    }
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCertificate {
    #[error("the token {path} cannot be read: {reason}; check WEIR_TOKEN")]
    Token { path: String, reason: String },
    #[error("{0}")]
    Connect(#[from] CannotConnect),
    #[error("the control plane refused: {reason}{hint}")]
    Refused { reason: String, hint: &'static str },
    #[error("the control plane did not answer within {ANSWER_TIMEOUT:?}")]
    NoAnswer,
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("the control plane answered with roots of the trust domain {theirs}, and WEIR_TRUST_DOMAIN is {ours}")]
    TrustDomain { theirs: String, ours: String },
    #[error("the control plane signed a certificate for {found}, and this workload is {expected}; whose token is in WEIR_TOKEN?")]
    SomebodyElse { found: Identity, expected: Identity },
    #[error("the certificate that the control plane signed is not valid now: {0}")]
    NotNow(String),
}

impl NoCertificate {
    /// The failure without what differs each time, to tell whether it is news.
    fn key(&self) -> String {
        match self {
            Self::Connect(error) => error.key(),
            Self::NotNow(_) => "not now".into(),
            other => other.to_string(),
        }
    }
}

/// Makes a key, has it certified, and checks what comes back.
pub(super) async fn obtain(shared: &Shared) -> Result<(Credentials, Roots, u64), NoCertificate> {
    let settings = &shared.settings;
    let token = token(settings)?;
    let KeyRequest { key, csr_der } = KeyRequest::generate()?;
    let mut client = IdentityClient::new(connect::channel(shared, None).await?);
    let request = v1::CertifyRequest {
        token,
        csr: csr_der.into(),
        namespace: settings.workload.namespace.to_string(),
        service_account: settings.workload.service_account.to_string(),
        pod: settings.workload.pod.to_string(),
    };
    let answer = timeout(ANSWER_TIMEOUT, client.certify(request)).await.map_err(|_| NoCertificate::NoAnswer)?;
    let answer = answer.map_err(|status| refused(&status))?.into_inner();
    let chain = answer.chain.iter().map(|der| der.to_vec().into()).collect();
    let credentials = Credentials::new(chain, key)?;
    let roots = answer.roots.unwrap_or_default();
    let generation = roots.generation;
    let (credentials, roots) = check(settings, credentials, &roots)?;
    let (roots, generation) = newer(shared, &credentials, (roots, generation));
    Ok((credentials, roots, generation))
}

/// The bundle that the stream announced, unless what came along is younger, or the announced one does not know who signed the new
/// certificate: then it must be the older one. What comes with a certificate may be from a replica that lags behind.
fn newer(shared: &Shared, credentials: &Credentials, came_along: (Roots, u64)) -> (Roots, u64) {
    let announced = super::announced_roots(&shared.snapshot.load()).ok().flatten();
    let counts =
        |(roots, generation): &(Roots, u64)| *generation >= came_along.1 && roots.verify(credentials, SystemTime::now()).is_ok();
    announced.filter(counts).unwrap_or(came_along)
}

fn check(settings: &Settings, credentials: Credentials, roots: &v1::TrustRoots) -> Result<(Credentials, Roots), NoCertificate> {
    let ours = &settings.trust_domain;
    if roots.trust_domain != ours.as_str() {
        let theirs = roots.trust_domain.chars().take(80).flat_map(char::escape_default).collect();
        return Err(NoCertificate::TrustDomain { theirs, ours: ours.to_string() });
    }
    let expected = own_identity(settings);
    if credentials.identity != expected {
        return Err(NoCertificate::SomebodyElse { found: credentials.identity, expected });
    }
    let now = SystemTime::now();
    valid_now(&credentials, now).map_err(NoCertificate::NotNow)?;
    let roots = Roots::from_der(ours.clone(), &roots.roots)?;
    roots.verify(&credentials, now)?;
    Ok((credentials, roots))
}

/// Who this workload must be.
pub(super) fn own_identity(settings: &Settings) -> Identity {
    Identity {
        trust_domain: settings.trust_domain.clone(),
        namespace: settings.workload.namespace.clone(),
        service_account: settings.workload.service_account.clone(),
    }
}

/// The token, read each time: the kubelet replaces it long before it expires.
fn token(settings: &Settings) -> Result<String, NoCertificate> {
    let path = &settings.token;
    let wrong = |reason: String| NoCertificate::Token { path: path.display().to_string(), reason };
    let length = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if length > MAX_TOKEN {
        return Err(wrong(format!("it has {length} bytes, and a token has at most {MAX_TOKEN}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    match text.trim() {
        "" => Err(wrong("it is empty".into())),
        token => Ok(token.to_owned()),
    }
}

fn refused(status: &tonic::Status) -> NoCertificate {
    let hint = match status.code() {
        Code::Unauthenticated => "; the token is that of the file WEIR_TOKEN",
        Code::PermissionDenied => "; compare WEIR_TOKEN with WEIR_POD_NAMESPACE, WEIR_SERVICE_ACCOUNT and WEIR_POD_NAME",
        Code::InvalidArgument => "; are control plane and proxy of versions that go together?",
        Code::Unimplemented => "; what answers there is not Weir's control plane",
        Code::Unavailable | Code::DeadlineExceeded => "; it will be tried again",
        _ => "",
    };
    NoCertificate::Refused { reason: format!("{} ({:?})", status.message(), status.code()), hint }
}
