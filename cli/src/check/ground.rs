//! Verdicts that count before and after installing: the API server, the Gateway API, clocks.

use super::facts::{Ground, Server};
use super::finding::{Finding, count, names};
use super::moment;

const CLUSTER: &str = "cluster";
const GATEWAY_API: &str = "Gateway API";
const CLOCKS: &str = "clocks";

/// Pod Security admission and `matchConditions`-free webhooks; older clusters are not tested.
const OLDEST: (u32, u32) = (1, 27);
/// Native sidecars are on by default from here.
const NATIVE_SIDECARS: (u32, u32) = (1, 29);
/// What is installed where there is nothing.
const BUNDLE: &str = "https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/standard-install.yaml";
/// What the mesh reads, and the versions of which one must be served.
const KINDS: [(&str, &[&str]); 2] = [("httproutes", &["v1"]), ("grpcroutes", &["v1"])];

/// Seconds. Certificates are valid from a minute before they were asked for; half of it leaves room.
const CLOCK_WARNING: i64 = 10;
const CLOCK_FAILURE: i64 = 60;
/// A node that has said nothing for longer is gone rather than late.
const NODE_IS_GONE: i64 = 3600;

/// All of them. The second part says whether the API server answers at all.
pub(super) fn findings(ground: &Ground) -> (Vec<Finding>, bool) {
    let server = match &ground.server {
        Ok(server) => server,
        Err(failure) => {
            let what = "the API server does not answer";
            let fix = "see `kubectl cluster-info`: the same kubeconfig is used";
            return (vec![Finding::failure(CLUSTER, what, failure.to_string(), fix)], false);
        }
    };
    let mut findings = vec![Finding::good(CLUSTER, format!("the API server at {} answers", server.address)), version(server)];
    findings.extend(gateway_api(ground));
    findings.extend(clocks(ground, server));
    (findings, true)
}

/// `v1.34.4-eks` as numbers.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version(server: &Server) -> Finding {
    let said = format!("Kubernetes {}", server.version);
    match numbers(&server.version) {
        None => Finding::warning(CLUSTER, format!("{said} cannot be judged"), "this is no version of Kubernetes", ""),
        Some(version) if version < OLDEST => {
            Finding::failure(CLUSTER, format!("{said} is too old"), "Weir needs 1.27 or later", "upgrade the cluster")
        }
        Some(version) if version < NATIVE_SIDECARS => Finding::warning(
            CLUSTER,
            format!("{said} has no native sidecars"),
            "before 1.29 sidecars are ordinary containers: they may start after the application, and keep Jobs from ending",
            "upgrade the cluster to 1.29 or later",
        ),
        Some(_) => Finding::good(CLUSTER, format!("{said}, with native sidecars")),
    }
}

fn gateway_api(ground: &Ground) -> Vec<Finding> {
    let crds = match &ground.crds {
        Ok(crds) => crds,
        Err(failure) => {
            let what = "the Gateway API's CRDs cannot be listed";
            return vec![Finding::warning(
                GATEWAY_API,
                what,
                failure.to_string(),
                "kubectl get crd | grep gateway.networking.k8s.io",
            )];
        }
    };
    let (mut missing, mut old) = (Vec::new(), Vec::new());
    for (resource, versions) in KINDS {
        let name = format!("{resource}.gateway.networking.k8s.io");
        match crds.iter().find(|crd| crd.metadata.name == name) {
            None => missing.push(resource),
            Some(crd) => {
                let serves = |version: &&str| crd.spec.versions.iter().any(|known| known.served && known.name == **version);
                if !versions.iter().any(serves) {
                    old.push(resource);
                }
            }
        }
    }
    let fix = format!("kubectl apply --server-side -f {BUNDLE}");
    if !missing.is_empty() {
        let what = format!("{} missing: {}", if missing.len() == 1 { "a CRD is" } else { "CRDs are" }, names(&missing));
        return vec![Finding::failure(
            GATEWAY_API,
            what,
            "routes of these kinds cannot be applied, and nothing is routed by them",
            fix,
        )];
    }
    let annotation = |name: &str| {
        let mut all = crds.iter().filter_map(|crd| crd.metadata.annotations.get(&format!("gateway.networking.k8s.io/{name}")));
        all.next().cloned().unwrap_or_else(|| "of unknown version".to_owned())
    };
    let bundle = format!("{} ({})", annotation("bundle-version"), annotation("channel"));
    if !old.is_empty() {
        let what = format!("the CRDs {bundle} are too old: {} without version v1", names(&old));
        return vec![Finding::failure(GATEWAY_API, what, "Weir reads gateway.networking.k8s.io/v1", fix)];
    }
    vec![Finding::good(GATEWAY_API, format!("the CRDs are there: {bundle}"))]
}

fn clocks(ground: &Ground, server: &Server) -> Vec<Finding> {
    let Some(date) = server.date else {
        return vec![Finding::warning(CLOCKS, "the API server does not say what time it is", "its answers have no Date", "")];
    };
    let mut findings = Vec::new();
    let here = ground.now - date;
    if here.abs() > CLOCK_WARNING {
        let what = format!("this machine's clock is {} {} the API server's", seconds(here), side(here));
        findings.push(Finding::warning(
            CLOCKS,
            what,
            "",
            "what follows about times is judged by the API server's; set this machine's with NTP",
        ));
    }
    let leases = match &ground.node_leases {
        Ok(leases) => leases,
        Err(failure) => {
            findings.push(Finding::warning(CLOCKS, "the nodes' clocks cannot be seen", failure.to_string(), ""));
            return findings;
        }
    };
    let mut bad = false;
    for lease in leases {
        let Some(renewed) = moment::parse(&lease.spec.renew_time) else { continue };
        let off = renewed - date;
        let node = &lease.metadata.name;
        let cause = "certificates are valid from a minute before they are made; beyond that, handshakes fail";
        let fix = format!("set the clock of {node} with NTP: chronyc tracking, timedatectl");
        if off > CLOCK_FAILURE {
            findings.push(Finding::failure(CLOCKS, format!("the clock of node {node} is {} ahead", seconds(off)), cause, fix));
        } else if off > CLOCK_WARNING {
            findings.push(Finding::warning(CLOCKS, format!("the clock of node {node} is {} ahead", seconds(off)), cause, fix));
        } else if off < -CLOCK_FAILURE && off > -NODE_IS_GONE {
            let what = format!("node {node} last said {} ago that it is there", seconds(off));
            findings.push(Finding::warning(CLOCKS, what, "its clock is behind, or its kubelet does not run", fix));
        } else {
            continue;
        }
        bad = true;
    }
    if !bad {
        findings
            .push(Finding::good(CLOCKS, format!("the clocks of {} agree with the API server's", count(leases.len(), "node"))));
    }
    findings
}

fn seconds(off: i64) -> String {
    format!("{} s", off.abs())
}

fn side(off: i64) -> &'static str {
    if off > 0 { "ahead of" } else { "behind" }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::objects::{Crd, CrdSpec, CrdVersion, Lease, LeaseSpec, Meta};
    use super::super::testing::ground;
    use super::*;
    use crate::cluster::Failure;

    fn crd(resource: &str, version: &str) -> Crd {
        let name = format!("{resource}.gateway.networking.k8s.io");
        let annotations = [("bundle-version", "v1.6.3"), ("channel", "standard")];
        let annotations = annotations.map(|(key, value)| (format!("gateway.networking.k8s.io/{key}"), value.to_owned()));
        Crd {
            metadata: Meta { name, annotations: annotations.into(), ..Meta::default() },
            spec: CrdSpec { group: String::new(), versions: vec![CrdVersion { name: version.into(), served: true }] },
        }
    }

    fn lease(node: &str, renew_time: &str) -> Lease {
        Lease {
            metadata: Meta { name: node.into(), ..Meta::default() },
            spec: LeaseSpec { renew_time: renew_time.into(), ..LeaseSpec::default() },
        }
    }

    /// The findings that are not good, each as one line.
    fn bad(ground: &Ground) -> Vec<String> {
        let (findings, _) = findings(ground);
        let bad = findings.into_iter().filter(|finding| finding.level != Level::Good);
        bad.map(|finding| format!("{:?} {}", finding.level, finding.what)).collect()
    }

    #[test]
    fn a_good_cluster_is_good() {
        assert_eq!(bad(&ground()), Vec::<String>::new());
    }

    #[test]
    fn versions() {
        for (version, expected) in [
            ("v1.29.0", None),
            ("v1.30.1-eks-123", None),
            ("v2.0.0", None),
            ("v1.28.9+k3s1", Some("Warning Kubernetes v1.28.9+k3s1 has no native sidecars")),
            ("v1.26.0", Some("Failure Kubernetes v1.26.0 is too old")),
            ("unknown", Some("Warning Kubernetes unknown cannot be judged")),
        ] {
            let mut ground = ground();
            ground.server = ground.server.map(|server| Server { version: version.into(), ..server });
            assert_eq!(bad(&ground), Vec::from_iter(expected.map(str::to_owned)), "{version}");
        }
    }

    #[test]
    fn an_api_server_that_does_not_answer_ends_it() {
        let mut ground = ground();
        ground.server = Err(Failure { code: None, text: "connection refused".into() });
        assert_eq!(bad(&ground), ["Failure the API server does not answer"]);
        assert!(!findings(&ground).1);
    }

    #[test]
    fn crds() {
        let mut without = ground();
        without.crds = Ok(vec![crd("httproutes", "v1")]);
        assert_eq!(bad(&without), ["Failure a CRD is missing: grpcroutes"]);
        let mut old = ground();
        old.crds = Ok(vec![crd("httproutes", "v1"), crd("grpcroutes", "v1alpha2")]);
        assert_eq!(bad(&old), ["Failure the CRDs v1.6.3 (standard) are too old: grpcroutes without version v1"]);
    }

    #[test]
    fn clocks_of_nodes_and_of_this_machine() {
        for (renewed, expected) in [
            ("2023-11-14T22:13:50.000000Z", "Warning the clock of node n is 30 s ahead"),
            ("2023-11-14T22:15:20.000000Z", "Failure the clock of node n is 120 s ahead"),
            ("2023-11-14T22:11:20.000000Z", "Warning node n last said 120 s ago that it is there"),
        ] {
            let mut ground = ground();
            ground.node_leases = Ok(vec![lease("n", renewed)]);
            assert_eq!(bad(&ground), [expected]);
        }
        let mut here = ground();
        here.now -= 60;
        assert_eq!(bad(&here), ["Warning this machine's clock is 60 s behind the API server's"]);
    }
}
