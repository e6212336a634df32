//! From what is written to a [`BackendTlsPolicy`] and a [`ConfigMap`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use weir_core::backend_tls::SubjectName;
use weir_core::names::{Label, ObjectName, ServiceRef};

use super::{Authorities, BackendTlsPolicy, CA_KEY, CaBundle, CaRef, ConfigMap, MAX_CA};
use crate::field::{FieldPath, Problem, excerpt};
use crate::gateway::created;
use crate::policy::PolicyTarget;
use crate::reader::{Reader, structure};
use crate::{Object, Read, raw};

/// As the Gateway API bounds the lists.
const MAX_TARGETS: usize = 16;
const MAX_REFS: usize = 8;
const MAX_NAMES: usize = 5;

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a BackendTLSPolicy)")]
struct PolicyObject {
    metadata: raw::Metadata,
    spec: Spec,
}

/// What is not needed to know which Service it is about is read later: if it is wrong, the policy still is one.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a BackendTLSPolicy's spec)")]
struct Spec {
    target_refs: Vec<TargetRef>,
    validation: Value,
    options: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a mapping (a targetRef)")]
struct TargetRef {
    group: String,
    kind: String,
    name: String,
    section_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping (validation)")]
struct Validation {
    #[serde(rename = "caCertificateRefs")]
    ca_certificate_refs: Vec<ObjectRef>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<String>,
    hostname: String,
    #[serde(rename = "subjectAltNames")]
    subject_alt_names: Vec<AltName>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping (a reference)")]
struct ObjectRef {
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a mapping (a subject alternative name)")]
struct AltName {
    #[serde(rename = "type")]
    kind: String,
    hostname: String,
    uri: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a mapping (a ConfigMap)")]
struct ConfigMapObject {
    metadata: raw::Metadata,
    data: BTreeMap<String, Value>,
}

pub(crate) fn config_map(value: &Value) -> Read {
    let raw: ConfigMapObject = structure(value)?;
    let mut reader = Reader::default();
    let Some(key) = reader.key(&raw.metadata) else { return reader.finish(None) };
    let ca = match raw.data.get(CA_KEY).and_then(Value::as_str) {
        None => CaBundle::None,
        Some(text) if text.len() > MAX_CA => CaBundle::TooLarge(text.len()),
        Some(text) => CaBundle::Text(text.into()),
    };
    reader.finish(Some(Object::ConfigMap(Arc::new(ConfigMap { key, ca }))))
}

pub(crate) fn policy(value: &Value) -> Read {
    let raw: PolicyObject = structure(value)?;
    let mut reader = Reader::default();
    let created_seconds = created(&raw.metadata, &mut reader);
    let Some(key) = reader.key(&raw.metadata) else { return reader.finish(None) };
    let spec = FieldPath::of(&["spec"]);
    let targets = targets(&raw.spec.target_refs, &key.namespace, &spec.key("targetRefs"), &mut reader);
    let mut wrong = Wrong::default();
    let field = spec.key("validation");
    let validation = structure::<Validation>(&raw.spec.validation).unwrap_or_else(|problems| {
        let inside = problems.into_iter().map(|it| {
            let field = it.field.segments().iter().fold(field.clone(), |field, segment| field.with(segment.clone()));
            Problem::new(field, it.message)
        });
        wrong.0.extend(inside);
        Validation::default()
    });
    let is_legible = wrong.0.is_empty();
    let mut rest = Wrong::default();
    let hostname = hostname(&validation.hostname, &field.key("hostname"), &mut rest);
    let names = names(&validation.subject_alt_names, &hostname, &field.key("subjectAltNames"), &mut rest);
    let authorities = authorities(&validation, &field, &mut rest);
    if is_legible {
        wrong.0.append(&mut rest.0);
    }
    for option in raw.spec.options.keys() {
        wrong.note(spec.key("options").key(option), "is no option that Weir knows: what it asks for would not be done");
    }
    for problem in &wrong.0 {
        reader.note(problem.field.clone(), problem.message.clone());
    }
    let generation = raw.metadata.generation.unwrap_or(0);
    let invalid = wrong.0;
    let policy = BackendTlsPolicy { key, created_seconds, generation, targets, hostname, names, authorities, invalid };
    reader.finish(Some(Object::BackendTlsPolicy(Arc::new(policy))))
}

/// What is wrong with a policy that is one all the same.
#[derive(Default)]
struct Wrong(Vec<Problem>);

impl Wrong {
    fn note(&mut self, field: FieldPath, message: impl Into<String>) {
        self.0.push(Problem::new(field, message));
    }
}

fn targets(raw: &[TargetRef], namespace: &Label, field: &FieldPath, reader: &mut Reader) -> Vec<PolicyTarget> {
    if raw.is_empty() {
        let message = "is missing: expected the Services that the policy is for, as {group: \"\", kind: Service, name: …}";
        reader.refuse(field.clone(), message);
    }
    if raw.len() > MAX_TARGETS {
        reader.refuse(field.clone(), format!("has {} items, and {MAX_TARGETS} are the most", raw.len()));
    }
    let mut targets: Vec<PolicyTarget> = Vec::with_capacity(raw.len());
    for (index, it) in raw.iter().enumerate() {
        let field = field.index(index);
        if !matches!(it.group.as_str(), "" | "core") || it.kind != "Service" {
            let found = format!("{} of `{}`", excerpt(&it.kind), excerpt(&it.group));
            reader.note(field, format!("means nothing to the mesh: expected kind Service of the group \"\", found {found}"));
            continue;
        }
        let name = match it.name.parse() {
            Ok(name) => name,
            Err(error) => {
                reader.note(field.key("name"), format!("{error}"));
                continue;
            }
        };
        let service = ServiceRef { namespace: namespace.clone(), name };
        let section = it.section_name.as_deref().filter(|name| !name.is_empty()).map(Arc::from);
        if targets.iter().any(|other| other.service == service && other.section == section) {
            reader.note(field, "is there twice");
            continue;
        }
        targets.push(PolicyTarget { index, service, section });
    }
    targets
}

fn is_dns_name(text: &str) -> bool {
    text.parse::<ObjectName>().is_ok() && text.parse::<IpAddr>().is_err()
}

fn hostname(text: &str, field: &FieldPath, wrong: &mut Wrong) -> Arc<str> {
    if text.is_empty() {
        wrong.note(field.clone(), "is missing: expected the DNS name of the server");
    } else if !is_dns_name(text) {
        wrong.note(field.clone(), format!("expected a DNS name without a wildcard, and no address, found `{}`", excerpt(text)));
    }
    text.into()
}

fn names(raw: &[AltName], hostname: &Arc<str>, field: &FieldPath, wrong: &mut Wrong) -> Vec<SubjectName> {
    if raw.len() > MAX_NAMES {
        wrong.note(field.clone(), format!("has {} items, and {MAX_NAMES} are the most", raw.len()));
    }
    if raw.is_empty() {
        return vec![SubjectName::Dns(Arc::clone(hostname))];
    }
    let mut names = Vec::with_capacity(raw.len());
    for (index, it) in raw.iter().enumerate() {
        let field = field.index(index);
        match it.kind.as_str() {
            "Hostname" if !it.uri.is_empty() => wrong.note(field.key("uri"), "has no meaning with type Hostname"),
            "Hostname" if !is_dns_name(it.hostname.strip_prefix("*.").unwrap_or(&it.hostname)) => {
                let message = format!("expected a DNS name, maybe with `*.` before it, found `{}`", excerpt(&it.hostname));
                wrong.note(field.key("hostname"), message);
            }
            "Hostname" => names.push(SubjectName::Dns(it.hostname.as_str().into())),
            "URI" if !it.hostname.is_empty() => wrong.note(field.key("hostname"), "has no meaning with type URI"),
            "URI" if !is_absolute_uri(&it.uri) => {
                let message = format!("expected a URI with its scheme, as `spiffe://…`, found `{}`", excerpt(&it.uri));
                wrong.note(field.key("uri"), message);
            }
            "URI" => names.push(SubjectName::Uri(it.uri.as_str().into())),
            other => wrong.note(field.key("type"), format!("expected Hostname or URI, found `{}`", excerpt(other))),
        }
    }
    names
}

/// A scheme and something behind it (RFC 3986, section 3).
fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let is_scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    scheme.starts_with(|it: char| it.is_ascii_alphabetic())
        && scheme.bytes().all(is_scheme_byte)
        && !rest.trim_start_matches('/').is_empty()
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn authorities(raw: &Validation, field: &FieldPath, wrong: &mut Wrong) -> Authorities {
    let refs_field = field.key("caCertificateRefs");
    let well_known = raw.well_known.as_deref().filter(|text| !text.is_empty());
    match (well_known, raw.ca_certificate_refs.as_slice()) {
        (Some("System"), []) => return Authorities::System,
        (Some(other), []) => {
            let message = format!("expected System, found `{}`", excerpt(other));
            wrong.note(field.key("wellKnownCACertificates"), message);
        }
        (Some(_), [_, ..]) => {
            wrong.note(field.key("wellKnownCACertificates"), "stands beside caCertificateRefs; only one of them may be there");
        }
        (None, []) => wrong.note(refs_field.clone(), "is missing, and so is wellKnownCACertificates: nobody could be believed"),
        (None, refs) if refs.len() > MAX_REFS => {
            wrong.note(refs_field.clone(), format!("has {} items, and {MAX_REFS} are the most", refs.len()));
        }
        (None, _) => {}
    }
    let refs = raw.ca_certificate_refs.iter().enumerate().map(|(index, it)| {
        let is_config_map = matches!(it.group.as_str(), "" | "core") && it.kind == "ConfigMap";
        let group = if it.group.is_empty() { String::new() } else { format!(" of `{}`", excerpt(&it.group)) };
        let text = format!("{} {}{group}", excerpt(&it.kind), excerpt(&it.name)).into();
        let config_map = if is_config_map { it.name.parse().ok() } else { None };
        if is_config_map && config_map.is_none() {
            wrong.note(refs_field.index(index).key("name"), format!("`{}` cannot be a ConfigMap's name", excerpt(&it.name)));
        }
        CaRef { index, config_map, text }
    });
    Authorities::Refs(refs.collect())
}
