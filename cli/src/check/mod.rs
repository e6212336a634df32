//! `weir check`: whether a cluster can take the mesh, and whether the mesh in it works.
//!
//! [`gather`] asks the cluster and writes down what it sees ([`facts`]). What that means is decided by pure functions over
//! those facts: [`ground`] (the API server, CRDs, clocks), [`before`] (installing), then [`installation`], [`webhook`],
//! [`trust`], [`workloads`] and [`proxies`]. [`report`] prints it.

mod before;
mod certificates;
mod facts;
mod finding;
mod gather;
mod ground;
mod installation;
mod moment;
mod objects;
mod proxies;
mod report;
#[cfg(test)]
mod testing;
mod trust;
mod webhook;
mod workloads;

use std::process::ExitCode;

use clap::Args;
use weir_core::names::Label;

use crate::cluster::{Cluster, ClusterArgs, Failure, Output, block_on};
use crate::install::{USAGE, print};
use facts::{After, Before, Ground};
use finding::{Finding, Level};

/// The command line of `weir check`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Nothing is changed: to see what the webhook does, a pod is created with dry run on the server. The exit code is 0 \
                        if everything works (warnings do not count), 1 if something does not.\n\n\
                        Examples:\n  weir check --pre && weir install | kubectl apply -f -\n  weir check\n  \
                        weir check --output json | jq '.findings[] | select(.level != \"good\")'"
)]
pub(crate) struct CheckArgs {
    /// Before installing: versions, permissions, CRDs, what is left of earlier installations, clocks
    #[arg(long)]
    pre: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How findings are printed
    #[arg(short, long, env = "WEIR_OUTPUT", value_enum, default_value_t)]
    output: Output,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let namespace = &args.cluster.namespace;
    if namespace.parse::<Label>().is_err() {
        eprintln!(
            "weir check: --namespace (WEIR_MESH_NAMESPACE) is {namespace:?}: write the name of a namespace, for example weir-system"
        );
        return ExitCode::from(USAGE);
    }
    let findings = match block_on(findings(args)) {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) | Err(error) => {
            eprintln!("weir check: {error}");
            return ExitCode::FAILURE;
        }
    };
    let printed = print(report::text(&findings, args.output).as_bytes());
    if report::worst(&findings) == Level::Failure { ExitCode::FAILURE } else { printed }
}

/// Namespace and workload of every pod that has a sidecar.
///
/// # Errors
///
/// When pods cannot be listed.
pub(crate) async fn pods_with_sidecars(cluster: &Cluster) -> Result<Vec<(String, String)>, Failure> {
    let pods = gather::pods(cluster).await?;
    let meshed = pods.iter().filter(|pod| pod.is_alive() && pod.has_sidecar());
    Ok(meshed.map(|pod| (pod.metadata.namespace.clone(), pod.workload())).collect())
}

async fn findings(args: &CheckArgs) -> Result<Vec<Finding>, String> {
    let cluster = Cluster::connect(&args.cluster.context).await?;
    let ground = gather::ground(&cluster, &args.cluster.namespace).await;
    if ground.server.is_err() {
        return Ok(ground::findings(&ground).0);
    }
    Ok(if args.pre {
        judge_before(&ground, &gather::before(&cluster, &ground).await?)
    } else {
        judge_after(&ground, &gather::after(&cluster, &ground).await?)
    })
}

fn judge_before(ground: &Ground, before: &Before) -> Vec<Finding> {
    let (mut findings, _) = ground::findings(ground);
    findings.extend(before::findings(ground, before));
    findings
}

fn judge_after(ground: &Ground, after: &After) -> Vec<Finding> {
    let (mut findings, _) = ground::findings(ground);
    let (installation, is_installed) = installation::findings(ground, after);
    findings.extend(installation);
    if is_installed {
        findings.extend(webhook::findings(ground, after));
        findings.extend(trust::findings(ground, after));
        findings.extend(workloads::findings(ground, after));
        findings.extend(proxies::findings(ground, after));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::testing::{after, ground, not_found, probe};
    use super::*;

    #[test]
    fn a_good_mesh_is_green_and_says_what_was_seen() {
        insta::assert_snapshot!(report::text(&judge_after(&ground(), &after()), Output::Table));
    }

    #[test]
    fn a_broken_mesh_says_why_and_what_mends_it() {
        let (ground, mut after) = (ground(), after());
        after.injector = Ok(super::testing::deployment("weir-injector", 2, 0));
        after.probes = vec![probe("shop", Err("failed calling webhook \"namespace.inject.weir.dev\": no endpoints available"))];
        after.bundles = Err(not_found());
        after.replicas.clear();
        let findings = judge_after(&ground, &after);
        assert_eq!(report::worst(&findings), Level::Failure);
        insta::assert_snapshot!(report::text(&findings, Output::Table));
        let failures = findings.iter().filter(|finding| finding.level == Level::Failure);
        assert!(failures.into_iter().all(|finding| finding.fix.is_some()), "{findings:#?}");
        insta::assert_snapshot!(report::text(&findings[..4], Output::Json));
    }
}
