//! `weir explain`: what would become of a request, and why.
//!
//! The objects come from a directory or from the API server, with the rights of whoever asks; the answer is made of them by the
//! control plane's own code (`weir_control_plane::explain`), so no mesh has to be running. [`render`] prints it.

mod load;
mod render;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use weir_control_plane::explain::{Question, explain};
use weir_control_plane::objects::NamespacedName;
use weir_core::names::TrustDomain;

use crate::cluster::{ContextArgs, Output, block_on};
use crate::install::{USAGE, print};

/// The command line of `weir explain`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExplainArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    /// Say which route, rule, backend and endpoints a request would get, and why not the others
    Request(Box<RequestArgs>),
}

/// The command line of `weir explain request`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Nothing is sent and nothing is changed. What is said follows from the objects alone: endpoints that are ejected or slow \
                  at the moment are not known here. The exit code is 0 if the request would be served, 1 if it or a share of its like \
                  would fail, 2 for a command line that makes no sense.\n\n\
                  Examples:\n  weir explain request --from shop/frontend-7d9 --to http://catalog/items\n  \
                  weir explain request --from shop/frontend --to http://catalog/ --header 'x-beta: true' --source dir:examples/canary"
)]
struct RequestArgs {
    /// The Pod that sends it
    #[arg(long, value_name = "NAMESPACE/POD")]
    from: String,
    /// Where to: http://NAME[:PORT]/PATH, with the name as the application writes it
    #[arg(long, value_name = "URL")]
    to: String,
    /// Its method
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A header of it; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Where the objects are: `kubernetes`, or `dir:PATH`
    #[arg(long, env = "WEIR_SOURCE", value_name = "SOURCE", default_value = "kubernetes")]
    source: String,
    /// What the names of the cluster's DNS end in
    #[arg(long, env = "WEIR_CLUSTER_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// First part of every identity
    #[arg(long, env = "WEIR_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    #[command(flatten)]
    cluster: ContextArgs,
    /// How it is printed
    #[arg(short, long, env = "WEIR_OUTPUT", value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &ExplainArgs) -> ExitCode {
    let What::Request(args) = &args.what;
    let (question, source) = match (question(args), load::Source::read(&args.source)) {
        (Ok(question), Ok(source)) => (question, source),
        (question, source) => {
            let mut errors = question.err().unwrap_or_default();
            errors.extend(source.err());
            eprintln!("weir explain request cannot work with these settings:\n  {}", errors.join("\n  "));
            return ExitCode::from(USAGE);
        }
    };
    let loaded = match source {
        load::Source::Directory(path) => load::directory(&path),
        load::Source::Cluster => block_on(load::cluster(&args.cluster)).and_then(|loaded| loaded),
    };
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("weir explain request: {error}");
            return ExitCode::FAILURE;
        }
    };
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    let explanation = explain(&loaded.index, &question);
    let printed = print(render::text(&explanation, args.output).as_bytes());
    if explanation.outcome.is_good() { printed } else { ExitCode::FAILURE }
}

/// All mistakes at once.
fn question(args: &RequestArgs) -> Result<Question, Vec<String>> {
    let mut errors = Vec::new();
    let from = args
        .from
        .split_once('/')
        .and_then(|(namespace, name)| Some(NamespacedName { namespace: namespace.parse().ok()?, name: name.parse().ok()? }));
    if from.is_none() {
        errors.push(format!("--from is {:?}: write NAMESPACE/POD, for example shop/frontend-7d9c", args.from));
    }
    let to = args.to.parse::<Uri>().ok().filter(|to| {
        matches!(to.scheme_str(), Some("http" | "https" | "tcp")) && to.authority().is_some_and(|it| !it.as_str().contains('@'))
    });
    if to.is_none() {
        errors.push(format!("--to is {:?}: write a URL with http://, for example http://catalog.shop/items?page=2", args.to));
    }
    let method = Method::from_bytes(args.method.as_bytes()).ok();
    if method.is_none() {
        errors.push(format!("--method is {:?}: write a method such as GET", args.method));
    }
    let trust_domain = args.trust_domain.parse::<TrustDomain>().ok();
    if trust_domain.is_none() {
        errors.push(format!("--trust-domain (WEIR_TRUST_DOMAIN) is {:?}: write a name such as cluster.local", args.trust_domain));
    }
    let mut headers = HeaderMap::new();
    for text in &args.headers {
        let header = text
            .split_once(':')
            .and_then(|(name, value)| Some((HeaderName::try_from(name.trim()).ok()?, HeaderValue::from_str(value.trim()).ok()?)));
        match header {
            Some((name, value)) => {
                headers.append(name, value);
            }
            None => errors.push(format!("--header is {text:?}: write NAME: VALUE, for example 'x-beta: true'")),
        }
    }
    match (from, to, method, trust_domain) {
        (Some(from), Some(to), Some(method), Some(trust_domain)) if errors.is_empty() => {
            Ok(Question { from, method, to, headers, cluster_domain: args.cluster_domain.clone(), trust_domain })
        }
        _ => Err(errors),
    }
}

#[cfg(test)]
mod tests;
