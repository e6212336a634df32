//! What the proxies of every replica are ready for.
//!
//! Each replica has a Lease `weir-control-plane-POD` that it renews, with a [`Report`] in an annotation. A rotation of the root
//! goes on when no living replica is behind and none of its proxies is. A replica that has not renewed for [`LEASE`], by the
//! clock of whoever looks, is dead: its proxies have gone to another one, or cannot be told anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use weir_core::rotation::overlap::Evidence;

use super::{Cluster, FIELD_MANAGER, Failure};
use crate::publish::proxies::Behind;

/// Without a renewal for this long a replica counts as dead.
pub const LEASE: Duration = Duration::from_secs(40);
/// How often it renews: three may be lost.
pub const RENEW: Duration = Duration::from_secs(10);
/// On the Leases of replicas, so that they can be listed without others.
const LABEL: &str = "weir.dev/replica";
const ANNOTATION: &str = "weir.dev/report";
/// Replicas that are looked at. A mesh with more of them has another problem.
const MAX_REPLICAS: u32 = 500;

/// What a replica says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Which document of the authority is in force there.
    pub generation: u64,
    /// Since when, in seconds since 1970.
    pub taken_seconds: u64,
    /// Proxies that are connected to it.
    pub connected: usize,
    /// Those of them that are not ready for the next step.
    pub behind: usize,
    /// Some of their names.
    pub names: Vec<String>,
}

impl Report {
    /// What is said of proxies goes into the report.
    #[must_use]
    pub fn of(generation: u64, taken: SystemTime, behind: Behind) -> Self {
        let Behind { connected, count, names } = behind;
        Self { generation, taken_seconds: seconds(taken), connected, behind: count, names }
    }

    /// Since when the document is in force there.
    #[must_use]
    pub fn taken(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.taken_seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn report(lease: &Lease) -> Option<Report> {
    serde_json::from_str(lease.annotations().get(ANNOTATION)?).ok()
}

/// This replica's own Lease.
pub struct Reporter {
    leases: Api<Lease>,
    pods: Api<Pod>,
    pod: String,
    owner: Option<serde_json::Value>,
}

impl Reporter {
    /// For the replica `pod`.
    #[must_use]
    pub fn new(cluster: &Cluster, pod: &str) -> Self {
        let leases = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let pods = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        Self { leases, pods, pod: pod.to_owned(), owner: None }
    }

    /// The Lease's name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("weir-control-plane-{}", self.pod)
    }

    /// What this replica said in its last life.
    ///
    /// # Errors
    ///
    /// When the API server does not say.
    pub async fn last(&self) -> Result<Option<Report>, Failure> {
        let lease = self.leases.get_opt(&self.name()).await.map_err(|error| Failure::of(&error))?;
        Ok(lease.as_ref().and_then(report))
    }

    /// Says it, and that the replica lives.
    ///
    /// # Errors
    ///
    /// When the API server does not take it.
    pub async fn say(&mut self, report: &Report) -> Result<(), Failure> {
        if self.owner.is_none() {
            self.owner = self.owner().await;
        }
        let text = serde_json::to_string(report).map_err(|error| Failure::Refused(error.to_string()))?;
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {
                "name": self.name(),
                "labels": {LABEL: "true", "app.kubernetes.io/part-of": "weir"},
                "annotations": {ANNOTATION: text},
                "ownerReferences": self.owner.iter().collect::<Vec<_>>(),
            },
            "spec": {
                "holderIdentity": self.pod,
                "leaseDurationSeconds": LEASE.as_secs(),
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.leases.patch(&self.name(), &parameters, &Patch::Apply(&lease)).await.map_err(|error| Failure::of(&error))?;
        Ok(())
    }

    /// With its pod as the owner, the Lease goes when the pod goes. Outside a pod it stays.
    async fn owner(&self) -> Option<serde_json::Value> {
        let pod = self.pods.get_opt(&self.pod).await.ok().flatten()?;
        Some(json!({"apiVersion": "v1", "kind": "Pod", "name": self.pod, "uid": pod.metadata.uid?}))
    }
}

/// All replicas, as whoever leads sees them.
pub struct Replicas {
    leases: Api<Lease>,
    own: String,
    seen: BTreeMap<String, Seen>,
}

/// A Lease's version, and since when it has been that.
#[derive(Clone, Debug)]
struct Seen {
    version: String,
    since: Instant,
}

/// What is seen of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// In numbers; without the bundles, which are not told here.
    pub evidence: Evidence,
    /// Who is behind.
    pub names: Vec<String>,
    /// When the last of them put the document into force, or died without it.
    pub taken: Option<SystemTime>,
}

/// The time by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Goes only forward.
    pub instant: Instant,
    /// On the wall.
    pub wall: SystemTime,
}

impl Replicas {
    /// As the replica with the Lease `own` sees them.
    #[must_use]
    pub fn new(cluster: &Cluster, own: String) -> Self {
        Self { leases: Api::namespaced(cluster.client.clone(), &cluster.namespace), own, seen: BTreeMap::new() }
    }

    /// Looks at all of them.
    ///
    /// # Errors
    ///
    /// When the API server does not say.
    pub async fn look(&mut self, generation: u64) -> Result<Mesh, Failure> {
        let parameters = ListParams::default().labels(&format!("{LABEL}=true")).limit(MAX_REPLICAS);
        let listed = self.leases.list(&parameters).await.map_err(|error| Failure::of(&error))?;
        let now = Now { instant: Instant::now(), wall: SystemTime::now() };
        Ok(see(&mut self.seen, &listed.items, &self.own, generation, now))
    }
}

/// Pure. A Lease that is seen for the first time counts as just renewed: a dead one then holds up the rotation for a moment, which
/// is better than going on without a living one.
fn see(seen: &mut BTreeMap<String, Seen>, leases: &[Lease], own: &str, generation: u64, now: Now) -> Mesh {
    let mut mesh = Mesh::default();
    let mut found_own = false;
    for lease in leases {
        let (name, version) = (lease.name_any(), lease.resource_version().unwrap_or_default());
        let entry = seen.entry(name.clone()).or_insert_with(|| Seen { version: version.clone(), since: now.instant });
        if entry.version != version {
            *entry = Seen { version, since: now.instant };
        }
        let silent = now.instant.saturating_duration_since(entry.since);
        let report = report(lease);
        let behind = report.as_ref().is_none_or(|report| report.generation < generation);
        match (report, silent < LEASE) {
            (Some(report), true) if !behind => {
                found_own |= name == own;
                mesh.evidence.proxies_behind += report.behind;
                mesh.names.extend(report.names.iter().take(5).cloned());
                mesh.taken = mesh.taken.max(Some(report.taken()));
            }
            (_, true) => {
                found_own |= name == own;
                mesh.evidence.replicas_behind += 1;
                mesh.names.push(name);
            }
            // It may have signed as before until then.
            (_, false) if behind => mesh.taken = mesh.taken.max(now.wall.checked_sub(silent.saturating_sub(LEASE))),
            (_, false) => {}
        }
    }
    if !found_own {
        mesh.evidence.replicas_behind += 1;
        mesh.names.push(own.to_owned());
    }
    seen.retain(|name, _| leases.iter().any(|lease| lease.name_any() == *name));
    mesh
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(name: &str, version: &str, report: &Report) -> Lease {
        let report = serde_json::to_string(report).unwrap();
        serde_json::from_value(json!({
            "metadata": {"name": name, "resourceVersion": version, "annotations": {ANNOTATION: report}},
        }))
        .unwrap()
    }

    fn said(generation: u64, taken_seconds: u64, behind: usize) -> Report {
        Report { generation, taken_seconds, connected: 9, behind, names: vec!["shop/a".to_owned(); behind] }
    }

    fn later(now: Now, by: Duration) -> Now {
        Now { instant: now.instant + by, wall: now.wall + by }
    }

    #[test]
    fn the_living_are_waited_for_and_the_dead_are_not() {
        let start = Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) };
        let mut seen = BTreeMap::new();
        let mut look = |leases: &[Lease], now| see(&mut seen, leases, "own", 7, now);
        let (own, other) = (lease("own", "1", &said(7, 500, 0)), lease("other", "1", &said(6, 400, 0)));

        let mesh = look(&[own.clone(), other.clone()], start);
        assert_eq!(mesh.evidence, Evidence { replicas_behind: 1, ..Evidence::default() });
        assert_eq!(mesh.names, ["other"]);

        let taken = lease("other", "2", &said(7, 600, 2));
        let mesh = look(&[own.clone(), taken], later(start, Duration::from_secs(5)));
        assert_eq!(mesh.evidence, Evidence { proxies_behind: 2, ..Evidence::default() });
        assert_eq!(mesh.names, ["shop/a", "shop/a"]);
        assert_eq!(mesh.taken, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(600)));

        // The other one falls silent without having taken what came after.
        let now = later(start, Duration::from_secs(60));
        let renewed = lease("own", "2", &said(7, 500, 0));
        let mesh = look(&[renewed, lease("other", "2", &said(6, 400, 1))], now);
        assert_eq!(mesh.evidence, Evidence::default());
        let died = start.wall + Duration::from_secs(5) + LEASE;
        assert_eq!(mesh.taken, Some(died));
    }

    #[test]
    fn a_replica_that_does_not_see_itself_waits() {
        let now = Now { instant: Instant::now(), wall: SystemTime::now() };
        let mesh = see(&mut BTreeMap::new(), &[], "own", 7, now);
        assert_eq!(mesh.evidence, Evidence { replicas_behind: 1, ..Evidence::default() });
    }

    #[test]
    fn a_report_that_says_nothing_legible_counts_as_behind() {
        let now = Now { instant: Instant::now(), wall: SystemTime::now() };
        let mut strange = lease("other", "1", &said(7, 1, 0));
        strange.annotations_mut().insert(ANNOTATION.to_owned(), "?".to_owned());
        let mesh = see(&mut BTreeMap::new(), &[lease("own", "1", &said(8, 1, 0)), strange], "own", 7, now);
        assert_eq!(mesh.evidence, Evidence { replicas_behind: 1, ..Evidence::default() });
    }
}
