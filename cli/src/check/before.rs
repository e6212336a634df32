//! Verdicts before installing: permissions, and what is left of earlier installations.

use super::facts::{Answer, Before, Existing, Ground, Permission};
use super::finding::{Finding, count, names};

const PERMISSIONS: &str = "permissions";
const LEFTOVERS: &str = "earlier installations";

/// All of them.
pub(super) fn findings(ground: &Ground, before: &Before) -> Vec<Finding> {
    [permissions(&before.permissions), leftovers(&ground.namespace, &before.existing)].concat()
}

fn permissions(permissions: &Answer<Vec<Permission>>) -> Vec<Finding> {
    let permissions = match permissions {
        Ok(permissions) => permissions,
        Err(failure) => {
            let what = "what you may do cannot be seen";
            return vec![Finding::warning(PERMISSIONS, what, failure.to_string(), "kubectl auth can-i --list")];
        }
    };
    let escalates = |permission: &&Permission| matches!(permission.verb, "escalate" | "bind");
    let denied = |of_roles: bool| -> Vec<String> {
        let all = permissions.iter().filter(|permission| !permission.is_allowed && escalates(permission) == of_roles);
        all.map(words).collect()
    };
    let (denied, roles) = (denied(false), denied(true));
    let fix = "install as somebody with the ClusterRole cluster-admin; see `kubectl auth whoami`";
    if !denied.is_empty() {
        let what = format!("you may not {}", names(&denied));
        return vec![Finding::failure(PERMISSIONS, what, "`kubectl apply` of the installation would be refused", fix)];
    }
    if !roles.is_empty() {
        let what = format!("you may not {}", names(&roles));
        let cause = "the API server lets you make roles only out of permissions that you have yourself";
        return vec![Finding::warning(PERMISSIONS, what, cause, fix)];
    }
    vec![Finding::good(
        PERMISSIONS,
        format!("you may create all that an installation consists of ({} questions)", permissions.len()),
    )]
}

fn words(permission: &Permission) -> String {
    let dot = if permission.group.is_empty() { "" } else { "." };
    let place = if permission.namespace.is_empty() { String::new() } else { format!(" in {}", permission.namespace) };
    format!("{} {}{dot}{}{place}", permission.verb, permission.resource, permission.group)
}

fn leftovers(namespace: &str, existing: &Answer<Vec<Existing>>) -> Vec<Finding> {
    let existing = match existing {
        Ok(existing) => existing,
        Err(failure) => {
            let what = "whether there is an earlier installation cannot be seen";
            return vec![Finding::warning(LEFTOVERS, what, failure.to_string(), "")];
        }
    };
    let other = existing.iter().filter_map(|object| object.mesh_namespace.as_deref()).find(|other| *other != namespace);
    if let Some(other) = other {
        return vec![Finding::failure(
            LEFTOVERS,
            format!("there is an installation in namespace {other}"),
            "a cluster has one: webhooks and roles have the same names",
            format!(
                "upgrade that one with --namespace {other}, or take it away: weir uninstall --namespace {other} | kubectl delete -f -"
            ),
        )];
    }
    if let Some(deployment) = existing.iter().find(|object| object.kind == "Deployment") {
        return vec![Finding::warning(
            LEFTOVERS,
            format!("Weir {} is installed already", deployment.version),
            "applying the installation upgrades it",
            format!("weir check --namespace {namespace}"),
        )];
    }
    // A namespace that was made for the installation, an authority that is kept on purpose, or a Lease harms nobody.
    let objects: Vec<String> = existing
        .iter()
        .filter(|object| !matches!(object.kind.as_str(), "Namespace" | "Secret" | "Lease"))
        .map(|object| format!("{} {}", object.kind, object.name))
        .collect();
    if objects.is_empty() {
        return vec![Finding::good(LEFTOVERS, "there is none, and nothing has its names")];
    }
    vec![Finding::warning(
        LEFTOVERS,
        format!("{} left: {}", count(objects.len(), "object"), names(&objects)),
        "an installation was not taken away completely; applying a new one takes them over",
        format!("weir uninstall --namespace {namespace} | kubectl delete --ignore-not-found -f -"),
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permission(verb: &'static str, resource: &str, is_allowed: bool) -> Permission {
        Permission { verb, group: "apps".into(), resource: resource.into(), namespace: "weir-system".into(), is_allowed }
    }

    fn existing(kind: &str, mesh_namespace: Option<&str>) -> Existing {
        let mesh_namespace = mesh_namespace.map(str::to_owned);
        Existing { kind: kind.into(), name: "weir-x".into(), mesh_namespace, version: "0.1.0".into() }
    }

    fn whats(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(|finding| format!("{:?} {}", finding.level, finding.what)).collect()
    }

    #[test]
    fn permissions_that_are_missing_are_named() {
        for (given, expected) in [
            (
                vec![permission("create", "deployments", true)],
                "Good you may create all that an installation consists of (1 questions)",
            ),
            (vec![permission("create", "deployments", false)], "Failure you may not create deployments.apps in weir-system"),
            (vec![permission("escalate", "roles", false)], "Warning you may not escalate roles.apps in weir-system"),
        ] {
            assert_eq!(whats(&permissions(&Ok(given))), [expected]);
        }
    }

    #[test]
    fn earlier_installations() {
        for (given, expected) in [
            (vec![], "Good there is none, and nothing has its names"),
            (
                vec![existing("Namespace", None), existing("Secret", None), existing("Lease", None)],
                "Good there is none, and nothing has its names",
            ),
            (vec![existing("Deployment", None)], "Warning Weir 0.1.0 is installed already"),
            (vec![existing("ClusterRole", None)], "Warning 1 object left: ClusterRole weir-x"),
            (vec![existing("MutatingWebhookConfiguration", Some("mesh"))], "Failure there is an installation in namespace mesh"),
        ] {
            assert_eq!(whats(&leftovers("weir-system", &Ok(given))), [expected]);
        }
    }
}
