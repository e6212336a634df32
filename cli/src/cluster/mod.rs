//! The cluster that commands speak to: the usual kubeconfig, the API server's objects as JSON, and HTTP pages of pods.
//!
//! Thin on purpose: what is asked is decided by the commands, and what the answers mean too.

pub(crate) mod kinds;
mod page;

use std::fmt;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use http::Request;
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use serde_json::Value;

/// How long the API server may take for an answer. Webhooks that do not answer take ten seconds of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Objects in one answer.
const PAGE: usize = 500;
/// Objects of one kind. Clusters have fewer pods.
const MAX_OBJECTS: usize = 300_000;
/// Longest text of a failure; an API server may answer with a page of HTML.
const MAX_TEXT: usize = 600;

/// Which cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct ContextArgs {
    /// Context of the kubeconfig; the current one if none is given
    #[arg(long, env = "WEIR_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// What all commands that speak to the mesh in a cluster are told.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    /// Namespace of the mesh itself
    #[arg(short, long, env = "WEIR_MESH_NAMESPACE", value_name = "NAME", default_value = "weir-system")]
    pub(crate) namespace: String,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs that prefer it.
    Yaml,
}

/// Why a request did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The API server's code; none if there was no answer.
    pub(crate) code: Option<u16>,
    /// The reason, on one line.
    pub(crate) text: String,
}

impl Failure {
    fn unanswered(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let inner = error.to_string();
            if !text.contains(&inner) {
                text = format!("{text}: {inner}");
            }
            source = error.source();
        }
        Self { code: None, text: one_line(&text) }
    }

    /// Whether there is no such object, or no such kind.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code == Some(404)
    }

    /// Whether whoever asks may not know.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.code == Some(403)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An API server that can be asked.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// Where it is.
    pub(crate) server: String,
}

impl Cluster {
    /// Reads the kubeconfig; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// What to do about a kubeconfig that is not there or cannot be used.
    pub(crate) async fn connect(args: &ContextArgs) -> Result<Self, String> {
        let mut config = match &args.context {
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_kubeconfig(&options).await.map_err(|error| {
                    format!(
                        "--context {context}: {}; `kubectl config get-contexts` lists what there is",
                        Failure::unanswered(&error)
                    )
                })?
            }
            None => Config::infer().await.map_err(|error| {
                let reason = Failure::unanswered(&error);
                format!("no cluster is named: {reason}; set KUBECONFIG, or check with `kubectl config current-context`")
            })?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(ANSWER_TIMEOUT);
        // What is asked is asked once: a check says what it sees.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config)
            .map_err(|error| format!("the kubeconfig for {server} cannot be used: {}", Failure::unanswered(&error)))?;
        Ok(Self { client, server })
    }

    /// An object, or whatever else stands at a path.
    ///
    /// # Errors
    ///
    /// Also when there is none, see [`Failure::is_not_found`].
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send("GET", path, Vec::new()).await.map(|(value, _)| value)
    }

    /// An object and the API server's clock (RFC 9110, `Date`).
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn get_with_date(&self, path: &str) -> Result<(Value, Option<SystemTime>), Failure> {
        self.send("GET", path, Vec::new()).await
    }

    /// Creates an object, or asks a question that is written like one.
    ///
    /// # Errors
    ///
    /// What the API server says against it.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, Failure> {
        self.send("POST", path, object.to_string().into_bytes()).await.map(|(value, _)| value)
    }

    /// The items of a list. `path` may have a query.
    ///
    /// # Errors
    ///
    /// As [`Self::get`].
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let (mut items, mut next) = (Vec::new(), String::new());
        let separator = if path.contains('?') { '&' } else { '?' };
        loop {
            let page = format!("{path}{separator}limit={PAGE}{next}");
            let mut answer = self.get(&page).await?;
            if let Some(Value::Array(page)) = answer.get_mut("items").map(Value::take) {
                items.extend(page);
            }
            let token = answer.pointer("/metadata/continue").and_then(Value::as_str).unwrap_or_default();
            if token.is_empty() {
                return Ok(items);
            }
            if items.len() > MAX_OBJECTS {
                return Err(Failure { code: None, text: format!("there are more than {MAX_OBJECTS} objects at {path}") });
            }
            // A token is base64 for URLs by now, but not by promise.
            next = format!("&continue={}", escaped(token));
        }
    }

    /// A page that a pod serves over HTTP: its status and its text.
    ///
    /// # Errors
    ///
    /// Why it could not be had, by forwarding a port and by the API server's proxy.
    pub(crate) async fn page(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<(u16, String), Failure> {
        let forwarded = match page::forwarded(&self.client, namespace, pod, port, path).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        // NetworkPolicies let forwarded ports through and may not the proxy; some clusters have only the latter.
        let proxied = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        match self.raw("GET", &proxied, Vec::new()).await {
            Ok((status, _, text)) if status != 404 && status != 403 && status < 500 => Ok((status, text)),
            Ok((503, _, text)) if !text.contains("\"kind\":\"Status\"") => Ok((503, text)),
            _ => Err(forwarded),
        }
    }

    async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(Value, Option<SystemTime>), Failure> {
        let (status, date, text) = self.raw(method, path, body).await?;
        let answer = serde_json::from_str::<Value>(&text);
        if (200..300).contains(&status) {
            let unreadable = |error| Failure { code: Some(status), text: format!("the answer for {path} is no JSON: {error}") };
            return answer.map(|answer| (answer, date)).map_err(unreadable);
        }
        let said = answer.ok().and_then(|answer| answer.get("message")?.as_str().map(str::to_owned)).unwrap_or(text);
        Err(Failure { code: Some(status), text: one_line(&said) })
    }

    async fn raw(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Option<SystemTime>, String), Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .map_err(|error| Failure::unanswered(&error))?;
        let answer = async {
            let response = self.client.send(request).await.map_err(|error| Failure::unanswered(&error))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| Failure::unanswered(&error))?.to_bytes();
            let date = parts.headers.get(http::header::DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            Ok((parts.status.as_u16(), date, String::from_utf8_lossy(&body).into_owned()))
        };
        let late = || Failure { code: None, text: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()) };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| late())?
    }
}

/// Text of a foreign program, for one line of a terminal.
pub(crate) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// Text as it may stand in a query (RFC 3986, 2.3).
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Runs a command's asynchronous part.
///
/// # Errors
///
/// When there are not even threads for it.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map(|runtime| runtime.block_on(work)).map_err(|error| format!("no event loop can be made: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_becomes_one_bounded_line() {
        assert_eq!(one_line(" a\n\tb\u{1b}[0m "), "a b [0m");
        assert!(one_line(&"x".repeat(5000)).chars().count() <= MAX_TEXT + 1);
        assert_eq!(escaped("a+b/c=="), "a%2Bb%2Fc%3D%3D");
    }
}
