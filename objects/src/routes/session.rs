//! Session persistence (GEP-1619).

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use weir_core::policy::hash;
use weir_core::route::RouteRef;
use weir_core::session::{Carrier, Session};

use super::{Problems, duration};
use crate::field::{FieldPath, excerpt};
use crate::gateway::SessionPersistenceSpec;
use crate::reader::Reader;

/// As the Gateway API bounds it.
const MAX_NAME: usize = 128;

/// Reads how a rule keeps sessions; `None` where it does not, or cannot as it is written.
pub(super) fn session(
    spec: Option<&SessionPersistenceSpec>,
    route: &RouteRef,
    rule: usize,
    field: &FieldPath,
    problems: &mut Problems,
) -> Option<Session> {
    // Rules whose tokens had one name would overwrite each other's at the client.
    let own_name = || format!("weir-session-{:x}", hash::bytes(format!("{} {route} {rule}", route.kind.as_str()).as_bytes()));
    read(spec?, own_name, field, problems)
}

/// Reads how a Service keeps sessions, whichever rule leads there; what is wrong refuses the object that says so.
pub(crate) fn shared_session(spec: &SessionPersistenceSpec, field: &FieldPath, reader: &mut Reader) -> Option<Session> {
    let mut problems = Problems::default();
    let session = read(spec, || "weir-session".to_owned(), field, &mut problems);
    problems.malformed.into_iter().for_each(|it| reader.refuse(it.field, it.message));
    problems.partial.into_iter().for_each(|it| reader.refuse(it.field, it.message));
    session
}

fn read(
    spec: &SessionPersistenceSpec,
    own_name: impl FnOnce() -> String,
    field: &FieldPath,
    problems: &mut Problems,
) -> Option<Session> {
    let mark = problems.mark();
    let absolute = time(spec.absolute_timeout.as_deref(), &field.key("absoluteTimeout"), problems);
    let idle = time(spec.idle_timeout.as_deref(), &field.key("idleTimeout"), problems);
    let name = spec.session_name.clone().unwrap_or_else(own_name);
    let carrier = carrier(spec, &name, absolute, field, problems);
    if problems.mark() > mark { None } else { Some(Session { carrier: carrier?, absolute, idle }) }
}

fn carrier(
    spec: &SessionPersistenceSpec,
    name: &str,
    absolute: Option<Duration>,
    field: &FieldPath,
    problems: &mut Problems,
) -> Option<Carrier> {
    // A cookie's name is a token, as a header's is (RFC 6265, section 4.1.1).
    let Some(header) = HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| name.len() <= MAX_NAME) else {
        let message = format!("expected letters, digits and `-`, {MAX_NAME} at most, found `{}`", excerpt(name));
        problems.malformed(field.key("sessionName"), message);
        return None;
    };
    match spec.kind.as_deref().unwrap_or("Cookie") {
        "Cookie" => {
            let lifetime = spec.cookie_config.as_ref().and_then(|it| it.lifetime_type.as_deref());
            let permanent = match lifetime.unwrap_or("Session") {
                "Session" => false,
                "Permanent" => true,
                other => {
                    let field = field.key("cookieConfig").key("lifetimeType");
                    problems.unsupported(field, format!("expected Session or Permanent, found `{}`", excerpt(other)));
                    return None;
                }
            };
            if permanent && absolute.is_none() {
                problems.malformed(field.key("absoluteTimeout"), "is missing: a cookie with lifetimeType Permanent needs it");
            }
            Some(Carrier::Cookie { name: Arc::from(name), permanent })
        }
        "Header" => {
            if spec.cookie_config.is_some() {
                problems.malformed(field.key("cookieConfig"), "has a meaning with type Cookie only");
            }
            Some(Carrier::Header(header))
        }
        other => {
            problems.unsupported(field.key("type"), format!("expected Cookie or Header, found `{}`", excerpt(other)));
            None
        }
    }
}

/// `0s` means no limit, as for other times of a rule.
fn time(text: Option<&str>, field: &FieldPath, problems: &mut Problems) -> Option<Duration> {
    match duration::parse(text?) {
        Ok(time) => Some(time).filter(|time| !time.is_zero()),
        Err(message) => {
            problems.malformed(field.clone(), message);
            None
        }
    }
}
