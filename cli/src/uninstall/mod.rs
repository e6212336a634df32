//! `weir uninstall`: what is to be deleted, as YAML for `kubectl delete`.
//!
//! The objects of the chart, and what the mesh made while it ran: Secrets, Leases, and the trust bundle in every namespace,
//! which only the cluster can list. As long as pods have sidecars it refuses, since their certificates end within a day of the
//! control plane and new pods of their namespaces cannot be created without the injector. The definition of TrafficPolicies stays,
//! and so do the policies.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use weir_core::names::Label;

use crate::cluster::kinds::Kind;
use crate::cluster::{Cluster, ClusterArgs, block_on};
use crate::inject::yaml;
use crate::install::{USAGE, chart, print};

/// Kinds in the order in which they go: first what would keep pods from being created, the namespace last.
const FIRST: [&str; 2] = ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"];
/// Workloads that are named one by one.
const NAMED: usize = 50;

/// The command line of `weir uninstall`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  weir uninstall | kubectl delete --ignore-not-found -f -\n  \
                        weir uninstall --keep-authority | kubectl delete --ignore-not-found -f -")]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Go on although pods still have sidecars
    #[arg(long)]
    force: bool,
    /// Leave the namespace, and the Secrets weir-ca and weir-root in it, so that a later installation has the same root
    #[arg(long)]
    keep_authority: bool,
}

/// What the cluster says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    /// Namespaces with a trust bundle.
    bundles: BTreeSet<String>,
    /// Namespaces that ask for sidecars.
    labelled: BTreeSet<String>,
    /// Pods with a sidecar by namespace and what starts them anew.
    sidecars: BTreeMap<(String, String), usize>,
    /// Leases of the control plane's replicas.
    leases: BTreeSet<String>,
}

/// Runs the command.
pub(crate) fn run(args: &UninstallArgs) -> ExitCode {
    let namespace = &args.cluster.namespace;
    if namespace.parse::<Label>().is_err() {
        eprintln!(
            "weir uninstall: --namespace (WEIR_MESH_NAMESPACE) is {namespace:?}: write the name of a namespace, for example weir-system"
        );
        return ExitCode::from(USAGE);
    }
    let found = match block_on(look(&args.cluster)) {
        Ok(Ok(found)) => found,
        Ok(Err(error)) | Err(error) => {
            eprintln!("weir uninstall: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(advice) = advice(&found) {
        eprintln!("{advice}");
        if !args.force {
            eprintln!("weir uninstall: nothing was printed; --force does it all the same");
            return ExitCode::FAILURE;
        }
    }
    match objects(namespace, &found, args.keep_authority) {
        Ok(objects) => print(objects.iter().map(|object| format!("---\n{}", yaml::block(object))).collect::<String>().as_bytes()),
        Err(error) => {
            eprintln!("weir uninstall: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What to do first, while there are sidecars.
fn advice(found: &Found) -> Option<String> {
    if found.sidecars.is_empty() {
        return None;
    }
    let pods: usize = found.sidecars.values().sum();
    let mut text = format!(
        "{pods} pods still have sidecars. Without a control plane they get no new certificates within a day and stop talking to each other. \
         Take the label away and start them anew:\n"
    );
    for namespace in &found.labelled {
        text.push_str(&format!("  kubectl label namespace {namespace} weir.dev/inject-\n"));
    }
    for ((namespace, workload), number) in found.sidecars.iter().take(NAMED) {
        let pods = if *number == 1 { "1 pod".to_owned() } else { format!("{number} pods") };
        if workload.starts_with("pod/") || workload.starts_with("job/") {
            text.push_str(&format!(
                "  kubectl delete {workload} --namespace {namespace}    # {pods}; create it again without a sidecar\n"
            ));
        } else {
            text.push_str(&format!("  kubectl rollout restart {workload} --namespace {namespace}    # {pods}\n"));
        }
    }
    if let Some(more) = found.sidecars.len().checked_sub(NAMED).filter(|more| *more > 0) {
        text.push_str(&format!("  … and {more} more workloads\n"));
    }
    Some(text)
}

/// What is to be deleted, of each object only what names it.
fn objects(namespace: &str, found: &Found, keeps_authority: bool) -> Result<Vec<Value>, String> {
    let mut objects: Vec<Value> = Vec::new();
    let mut add = |kind: &str, namespace: &str, name: &str| {
        let Some(known) = Kind::named(kind) else { return };
        let mut metadata = json!({"name": name});
        if known.is_namespaced {
            metadata = json!({"name": name, "namespace": namespace});
        }
        objects.push(json!({"apiVersion": known.api_version(), "kind": kind, "metadata": metadata}));
    };
    let installed = chart::defaults(namespace)?;
    let (mut first, rest): (Vec<_>, Vec<_>) = installed.iter().partition(|object| FIRST.contains(&object.at("/kind")));
    // With the definition of policies all policies would go, which are not the installation's.
    let stays = ["Namespace", "CustomResourceDefinition"];
    first.extend(rest.into_iter().rev().filter(|object| !stays.contains(&object.at("/kind"))));
    for object in first {
        add(object.at("/kind"), namespace, object.at("/metadata/name"));
    }
    add("Secret", namespace, "weir-injector-tls");
    found.leases.iter().for_each(|lease| add("Lease", namespace, lease));
    found.bundles.iter().for_each(|bundle| add("ConfigMap", bundle, "weir-trust-bundle"));
    if !keeps_authority {
        add("Secret", namespace, "weir-ca");
        add("Namespace", namespace, namespace);
    }
    Ok(objects)
}

async fn look(args: &ClusterArgs) -> Result<Found, String> {
    let cluster = Cluster::connect(&args.context).await?;
    let namespace = &args.namespace;
    let wrong = |what: &'static str| move |failure| format!("{what} cannot be listed: {failure}");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let bundles = cluster.list("/api/v1/configmaps?fieldSelector=metadata.name%3Dweir-trust-bundle").await;
    let leases = cluster.list(&leases).await.map_err(wrong("the leases in the mesh's namespace"))?;
    let namespaces = cluster.list("/api/v1/namespaces").await.map_err(wrong("namespaces"))?;
    let pods = crate::check::pods_with_sidecars(&cluster).await.map_err(wrong("pods"))?;
    let text = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let asks = |object: &&Value| text(object, "/metadata/labels/weir.dev~1inject") == "enabled";
    let mut found = Found {
        bundles: bundles.map_err(wrong("ConfigMaps"))?.iter().map(|bundle| text(bundle, "/metadata/namespace")).collect(),
        labelled: namespaces.iter().filter(asks).map(|namespace| text(namespace, "/metadata/name")).collect(),
        leases: leases.iter().map(|lease| text(lease, "/metadata/name")).collect(),
        ..Found::default()
    };
    found.leases.retain(|lease| lease.starts_with("weir-control-plane"));
    for workload in pods {
        *found.sidecars.entry(workload).or_default() += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        Found {
            bundles: ["shop".to_owned(), "weir-system".to_owned()].into(),
            leases: ["weir-control-plane".to_owned()].into(),
            ..Found::default()
        }
    }

    fn lines(keeps_authority: bool) -> Vec<String> {
        let objects = objects("weir-system", &found(), keeps_authority).unwrap();
        let line =
            |object: &Value| format!("{} {}", object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        objects.iter().map(line).collect()
    }

    #[test]
    fn webhooks_go_first_and_the_namespace_last() {
        let all = lines(false);
        assert_eq!(all[..2], ["MutatingWebhookConfiguration weir-injector", "ValidatingWebhookConfiguration weir-injector"]);
        assert_eq!(all[all.len() - 2..], ["Secret weir-ca", "Namespace weir-system"]);
        for expected in
            ["Deployment weir-control-plane", "ClusterRole weir-injector", "Secret weir-injector-tls", "Lease weir-control-plane"]
        {
            assert!(all.iter().any(|line| line == expected), "{all:#?}");
        }
        assert_eq!(all.iter().filter(|line| *line == "ConfigMap weir-trust-bundle").count(), 2);
    }

    #[test]
    fn the_authority_can_be_kept() {
        let all = lines(true);
        assert!(!all.iter().any(|line| line.starts_with("Namespace") || line == "Secret weir-ca"), "{all:#?}");
    }

    #[test]
    fn sidecars_are_named_with_what_takes_them_away() {
        assert_eq!(advice(&found()), None);
        let mut meshed = found();
        meshed.labelled.insert("shop".into());
        meshed.sidecars.insert(("shop".into(), "deployment/web".into()), 2);
        meshed.sidecars.insert(("shop".into(), "pod/once".into()), 1);
        insta::assert_snapshot!(advice(&meshed).unwrap(), @r"
        3 pods still have sidecars. Without a control plane they get no new certificates within a day and stop talking to each other. Take the label away and start them anew:
          kubectl label namespace shop weir.dev/inject-
          kubectl rollout restart deployment/web --namespace shop    # 2 pods
          kubectl delete pod/once --namespace shop    # 1 pod; create it again without a sidecar
        ");
    }
}
