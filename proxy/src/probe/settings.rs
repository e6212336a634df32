//! What there is to ask, as `WEIR_PROBES` says it: an object of JSON with a member `CONTAINER/KIND` for each probe or hook, whose
//! value has one of Kubernetes' `httpGet`, `tcpSocket` and `grpc` with the number of the port, and `portName` and
//! `timeoutSeconds` where the pod had them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use serde::Deserialize;

/// More are a mistake: a pod has three to a container.
const MAX_PROBES: usize = 1000;

/// Kubernetes' own default.
const DEFAULT_TIMEOUT_SECONDS: u64 = 1;

/// Probes and hooks by `CONTAINER/KIND`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes(Arc<BTreeMap<String, Probe>>);

/// One probe or hook.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(super) action: Action,
    pub(super) port: Port,
    pub(super) timeout: Duration,
    /// A hook counts as done when it is answered; there is nothing to judge.
    pub(crate) is_hook: bool,
    /// Whether it failed the last time.
    pub(super) failing: AtomicBool,
}

/// What is done.
#[derive(Debug)]
pub(super) enum Action {
    /// GET.
    Http(HttpGet),
    /// A connection is opened.
    Tcp,
    /// `grpc.health.v1.Health/Check` of this service.
    Grpc(String),
}

/// What is asked for by HTTP.
#[derive(Clone, Debug)]
pub(super) struct HttpGet {
    /// TLS, with whatever certificate.
    pub(super) tls: bool,
    pub(super) path: PathAndQuery,
    pub(super) headers: HeaderMap,
}

/// A port of the application.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    /// As the pod calls it.
    pub(super) name: Option<String>,
}

impl Probes {
    /// The probe or hook by its name.
    pub(super) fn find(&self, name: &str) -> Option<&Probe> {
        self.0.get(name)
    }
}

/// Reads the setting.
///
/// # Errors
///
/// What is wrong, with the probe's name.
impl std::str::FromStr for Probes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written: BTreeMap<String, Written> =
            serde_json::from_str(text).map_err(|error| format!("this is not a JSON object of probes: {error}"))?;
        if written.len() > MAX_PROBES {
            return Err(format!("there are more than {MAX_PROBES} probes"));
        }
        let probe = |(name, written): (String, Written)| match probe(&name, written) {
            Ok(probe) => Ok((name, probe)),
            Err(problem) => Err(format!("probe `{}`: {problem}", name.escape_debug())),
        };
        Ok(Self(Arc::new(written.into_iter().map(probe).collect::<Result<_, _>>()?)))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    http_get: Option<WrittenHttp>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    port_name: Option<String>,
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenHttp {
    port: u16,
    path: Option<String>,
    scheme: Option<String>,
    http_headers: Option<Vec<WrittenHeader>>,
}

#[derive(Deserialize)]
struct WrittenHeader {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct WrittenTcp {
    port: u16,
}

#[derive(Deserialize)]
struct WrittenGrpc {
    port: u16,
    service: Option<String>,
}

fn probe(name: &str, written: Written) -> Result<Probe, String> {
    let kind = match name.split_once('/') {
        Some((container, kind)) if !container.is_empty() => kind,
        _ => return Err("its name is not CONTAINER/KIND".into()),
    };
    let is_hook = match kind {
        "startup" | "readiness" | "liveness" => false,
        "post-start" | "pre-stop" => true,
        other => return Err(format!("`{}` is no kind of probe", other.escape_debug())),
    };
    let (action, number) = match (written.http_get, written.tcp_socket, written.grpc) {
        (Some(get), None, None) => {
            let number = get.port;
            (Action::Http(http_get(get)?), number)
        }
        (None, Some(tcp), None) => (Action::Tcp, tcp.port),
        (None, None, Some(grpc)) => (Action::Grpc(grpc.service.unwrap_or_default()), grpc.port),
        _ => return Err("it has not one of httpGet, tcpSocket and grpc".into()),
    };
    if number == 0 {
        return Err("port 0 is none".into());
    }
    // Zero is what Kubernetes fills with its default.
    let seconds = written.timeout_seconds.filter(|seconds| *seconds != 0).unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    let port = Port { number, name: written.port_name };
    Ok(Probe { action, port, timeout: Duration::from_secs(seconds), is_hook, failing: AtomicBool::new(false) })
}

fn http_get(written: WrittenHttp) -> Result<HttpGet, String> {
    let tls = match written.scheme.as_deref().unwrap_or_default() {
        "" | "HTTP" | "http" => false,
        "HTTPS" | "https" => true,
        other => return Err(format!("`{}` is no scheme", other.escape_debug())),
    };
    let mut headers = HeaderMap::new();
    for header in written.http_headers.into_iter().flatten() {
        let wrong = || format!("`{}: {}` is no header", header.name.escape_debug(), header.value.escape_debug());
        let name = HeaderName::try_from(&header.name).map_err(|_| wrong())?;
        let value = HeaderValue::try_from(&header.value).map_err(|_| wrong())?;
        // There is one host, and the first that is named is it.
        if name != HOST || !headers.contains_key(HOST) {
            headers.try_append(name, value).map_err(|_| "it has too many headers".to_owned())?;
        }
    }
    Ok(HttpGet { tls, path: path(&written.path.unwrap_or_default())?, headers })
}

/// A path as it is sent. What may not stand in one is escaped, as the kubelet does.
fn path(text: &str) -> Result<PathAndQuery, String> {
    let text = text.split('#').next().unwrap_or_default();
    let slash = if text.starts_with('/') { "" } else { "/" };
    let mut escaped = String::from(slash);
    for byte in text.bytes() {
        match byte {
            b'!' | b'#'..=b';' | b'=' | b'?'..=b'[' | b']' | b'_' | b'a'..=b'z' | b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped.parse().map_err(|error| format!("`{}` is no path: {error}", text.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Probes, String> {
        text.parse()
    }

    #[test]
    fn what_the_injector_writes_is_read() {
        let probes = read(
            r#"{"app/readiness": {"httpGet": {"port": 8443, "path": "a b?x=1#y", "scheme": "HTTPS", "host": "",
                 "httpHeaders": [{"name": "Host", "value": "a.example"}, {"name": "X-A", "value": ""}]},
                 "portName": "web", "timeoutSeconds": 3},
                "app/liveness": {"tcpSocket": {"port": 1}},
                "app/startup": {"grpc": {"port": 2, "service": null}, "timeoutSeconds": 0},
                "app/pre-stop": {"httpGet": {"port": 8080, "unknown": {}}}}"#,
        )
        .unwrap();
        let readiness = probes.find("app/readiness").unwrap();
        let Action::Http(get) = &readiness.action else { panic!("{readiness:?}") };
        assert_eq!((get.tls, get.path.as_str(), get.headers.len()), (true, "/a%20b?x=1", 2));
        assert_eq!((readiness.port.number, readiness.port.name.as_deref()), (8443, Some("web")));
        assert_eq!((readiness.timeout, readiness.is_hook), (Duration::from_secs(3), false));
        assert!(matches!(probes.find("app/liveness").unwrap().action, Action::Tcp));
        let startup = probes.find("app/startup").unwrap();
        assert!(matches!(&startup.action, Action::Grpc(service) if service.is_empty()));
        assert_eq!(startup.timeout, Duration::from_secs(1));
        assert!(probes.find("app/pre-stop").unwrap().is_hook);
        assert!(probes.find("app").is_none() && read("{}").unwrap().0.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"app/readiness": 7}"#, "not a JSON object"),
            (r#"{"app/readiness": {}}"#, "probe `app/readiness`: it has not one of"),
            (r#"{"app/readiness": {"tcpSocket": {"port": 0}}}"#, "port 0"),
            (r#"{"app/readiness": {"tcpSocket": {"port": 70000}}}"#, "70000"),
            (r#"{"app/readiness": {"tcpSocket": {"port": 1}, "grpc": {"port": 1}}}"#, "not one of"),
            (r#"{"app/other": {"tcpSocket": {"port": 1}}}"#, "`other` is no kind"),
            (r#"{"app": {"tcpSocket": {"port": 1}}}"#, "not CONTAINER/KIND"),
            (r#"{"a/liveness": {"httpGet": {"port": 1, "scheme": "FTP"}}}"#, "`FTP` is no scheme"),
            (
                r#"{"a/liveness": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": "c"}]}}}"#,
                "`a b: c` is no header",
            ),
            (r#"{"a/liveness": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "\n"}]}}}"#, "is no header"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn paths_are_sent_as_the_kubelet_sends_them() {
        for (written, sent) in [
            ("", "/"),
            ("/", "/"),
            ("up", "/up"),
            ("/a%20b", "/a%20b"),
            ("/ä\"", "/%C3%A4%22"),
            ("?a=b", "/?a=b"),
            ("/a?b=<c>", "/a?b=%3Cc%3E"),
        ] {
            assert_eq!(path(written).unwrap().as_str(), sent, "{written}");
        }
    }
}
