//! The story: a canary goes from nothing to everything while a backend dies and the control plane comes and goes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use weir_core::clock::Moment;

use super::claims::{Findings, Kill, Restart, Step};
use super::fleet::{Fleet, FleetError};
use super::scene::{Facts, Health, Mark, Scene};
use super::stage::{CONTROL_PLANE, Stage, app_process, owner, sidecar_process};
use super::weights::{self, EditError};

/// The steps of the canary, in percent for v2.
pub(crate) const STEPS: [u32; 4] = [0, 10, 50, 100];
/// The backends that the route splits between.
pub(crate) const STABLE: &str = "catalog-v1";
pub(crate) const CANARY: &str = "catalog-v2";
/// Their versions, as the answers name them.
pub(crate) const STABLE_VERSION: &str = "v1";
pub(crate) const CANARY_VERSION: &str = "v2";
/// The Pod that dies: one of two of the stable version.
const VICTIM: &str = "catalog-v1-a";
/// An edit is in effect within this time.
const SETTLE: Duration = Duration::from_secs(1);
/// A step is judged by the answers of this time at most, so that an edit that took longer is not held against the split.
const JUDGED: Duration = Duration::from_secs(4);
/// How long a step may take to show the split that was asked for. After a restart of the control plane it includes the
/// sidecars' finding it again.
const STEP_LIMIT: Duration = Duration::from_secs(9);
/// How long nothing is done after something was broken, so that the load can notice.
const BROKEN_FOR: Duration = Duration::from_millis(2_500);
/// How often conditions are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Why the story cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoryError {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("{} could not be edited: {source}", path.display())]
    Route { path: PathBuf, source: io::Error },
    #[error("{} could not be edited: {source}", path.display())]
    Weights { path: PathBuf, source: EditError },
    #[error("the manifests have no Pod `{0}`")]
    NoPod(&'static str),
}

/// The storyteller.
pub(crate) struct Story<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) fleet: &'a mut Fleet,
    pub(crate) scene: &'a Scene,
    pub(crate) findings: &'a mut Findings,
    /// Requests a second.
    pub(crate) rate: u32,
}

impl Story<'_> {
    /// Tells it. What was found out on the way stays in the findings, however far it got.
    ///
    /// # Errors
    /// A process ended by itself, or a file could not be edited.
    pub(crate) async fn tell(&mut self) -> Result<(), StoryError> {
        let [before, little, half, all] = STEPS;
        self.step(before).await?;
        self.step(little).await?;
        self.step(half).await?;
        self.kill_a_backend().await?;
        self.restart_the_control_plane(all).await
    }

    /// Gives v2 a share and waits until it has it.
    async fn step(&mut self, wanted: u32) -> Result<(), StoryError> {
        let first = self.findings.steps.is_empty();
        self.edit(wanted)?;
        let edited = self.scene.now();
        let settle = if first { Duration::ZERO } else { SETTLE };
        self.scene.tell(
            Mark::Act,
            match wanted {
                0 => "route.yaml: everything to v1".to_owned(),
                100 => "route.yaml edited: everything to v2".to_owned(),
                _ => format!("route.yaml edited: {wanted} % to v2"),
            },
        );
        let needed = self.answers_needed();
        let seen = move |facts: &Facts, now: Moment| {
            let judged = (edited + settle).max(now - JUDGED);
            Step { wanted, seen: facts.tally.share_since(judged, CANARY_VERSION) }
        };
        let held = |facts: &Facts, now: Moment| {
            let step = seen(facts, now);
            step.seen.total >= needed && step.held()
        };
        self.until(STEP_LIMIT, held).await?;
        let step = seen(&self.scene.facts(), self.scene.now());
        self.findings.steps.push(step);
        let mark = if step.held() { Mark::Held } else { Mark::Broken };
        let took = self
            .time_to_effect(wanted, edited)
            .map_or(String::new(), |took| format!(", in effect after {:.2} s", took.as_secs_f64()));
        self.scene.tell(mark, format!("v2 gives {:.1} % of {} answers{took}", step.seen.percent(), step.seen.total));
        Ok(())
    }

    /// How long after an edit the first answer of v2 or the last one of v1 was asked for: what shows that it is in effect.
    fn time_to_effect(&self, wanted: u32, edited: Moment) -> Option<Duration> {
        let facts = self.scene.facts();
        match wanted {
            10 => facts.tally.first_sent(CANARY_VERSION, edited).map(|first| first.since(edited)),
            100 => facts.tally.last_sent(STABLE_VERSION, edited).map(|last| last.since(edited)),
            _ => None,
        }
    }

    async fn kill_a_backend(&mut self) -> Result<(), StoryError> {
        let workload = self.stage.workload(VICTIM).ok_or(StoryError::NoPod(VICTIM))?;
        let recently = self.scene.now() - JUDGED;
        let before = self.scene.facts().tally.pod_share_since(recently, VICTIM);
        let failures = self.scene.facts().tally.failures;
        self.scene.tell(Mark::Act, format!("kill -9 {VICTIM}: its app and its sidecar, the manifests stay"));
        self.fleet.kill(&sidecar_process(workload)).await?;
        self.fleet.kill(&app_process(workload)).await?;
        self.scene.facts().set_health(VICTIM, Health::Down);
        let killed = self.scene.now();
        let needed = self.answers_needed();
        let lived_on = |facts: &Facts, now: Moment| {
            now.since(killed) >= BROKEN_FOR && facts.tally.pod_share_since(killed, VICTIM).total >= needed
        };
        self.until(STEP_LIMIT, lived_on).await?;
        let after = self.scene.facts().tally.pod_share_since(killed, VICTIM);
        let failures = self.scene.facts().tally.failures - failures;
        let mark = if failures == 0 { Mark::Held } else { Mark::Broken };
        self.scene.tell(mark, format!("{} answers without {VICTIM}, {failures} failed", after.total));
        self.findings.kill = Some(Kill { pod: VICTIM.to_owned(), before, after, failures });
        Ok(())
    }

    /// Kills the control plane, starts it again after a while, and sees that it is listened to.
    async fn restart_the_control_plane(&mut self, next_step: u32) -> Result<(), StoryError> {
        let failures = self.scene.facts().tally.failures;
        self.scene.tell(Mark::Act, "kill -9 control-plane; the sidecars work with what they know");
        self.fleet.kill(CONTROL_PLANE).await?;
        self.scene.facts().set_health(CONTROL_PLANE, Health::Down);
        let killed = self.scene.now();
        self.until(STEP_LIMIT, |_, now| now.since(killed) >= BROKEN_FOR).await?;
        let answers_without = self.scene.facts().tally.share_since(killed, CANARY_VERSION).total;
        let lost = self.scene.facts().tally.failures - failures;
        let mark = if lost == 0 { Mark::Held } else { Mark::Broken };
        self.scene.tell(mark, format!("{answers_without} answers without a control plane, {lost} failed; it is started again"));
        self.stage.start_control_plane(self.fleet, self.scene).await?;
        self.step(next_step).await?;
        let failures = self.scene.facts().tally.failures - failures;
        let edit_took_effect = self.findings.steps.last().is_some_and(|step| step.held());
        self.findings.restart = Some(Restart { answers_without, failures, edit_took_effect });
        Ok(())
    }

    /// Changes the weights in the file, as an editor that writes a new file in the place of the old one.
    fn edit(&self, canary: u32) -> Result<(), StoryError> {
        let path = self.stage.route();
        let failed = |source| StoryError::Route { path: path.clone(), source };
        let text = fs::read_to_string(&path).map_err(failed)?;
        let edited = weights::set_weights(&text, &[(STABLE, 100 - canary), (CANARY, canary)])
            .map_err(|source| StoryError::Weights { path: path.clone(), source })?;
        if edited != text {
            let beside = self.stage.path("route.yaml.new");
            fs::write(&beside, edited).and_then(|()| fs::rename(&beside, &path)).map_err(failed)?;
        }
        Ok(())
    }

    /// Two seconds of load: enough for shares to mean something.
    fn answers_needed(&self) -> usize {
        self.rate as usize * 2
    }

    /// Waits until `condition` holds or `limit` is over. Waiting ends early if a process ends.
    async fn until(&mut self, limit: Duration, condition: impl Fn(&Facts, Moment) -> bool) -> Result<(), StoryError> {
        let begun = self.scene.now();
        loop {
            if let Some(error) = self.fleet.ended_error() {
                if let FleetError::Ended { name, .. } = &error {
                    self.scene.facts().set_health(owner(name), Health::Down);
                }
                return Err(error.into());
            }
            let now = self.scene.now();
            if condition(&self.scene.facts(), now) || now.since(begun) >= limit {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
