//! What the demo says about the mesh, and whether it held.

use super::counters::Counters;
use super::tally::{Share, percent};

/// How far the seen share may be from the wanted one, in points of percent. A thousand answers at 50 % stray further by chance
/// once in six hundred times, and a step goes on looking until they do not.
const TOLERANCE: f64 = 5.0;

/// Everything that the story found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Findings {
    /// One for each step of the canary, in order.
    pub(crate) steps: Vec<Step>,
    /// `None`: the story did not get that far.
    pub(crate) kill: Option<Kill>,
    /// `None`: the story did not get that far.
    pub(crate) restart: Option<Restart>,
    /// Why the story ended early.
    pub(crate) broke_off: Option<String>,
    /// Requests and failures in all.
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// Traffic between services.
    pub(crate) traffic: Counters,
}

/// A change of the weights and what it did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// Percent for v2.
    pub(crate) wanted: u32,
    /// Answers by v2.
    pub(crate) seen: Share,
}

impl Step {
    /// Whether what was seen is what was asked for. Nobody at all is exact, and so is everybody.
    pub(crate) fn held(self) -> bool {
        match self.wanted {
            0 => self.seen.total > 0 && self.seen.of == 0,
            100 => self.seen.total > 0 && self.seen.of == self.seen.total,
            wanted => self.seen.total > 0 && (self.seen.percent() - f64::from(wanted)).abs() <= TOLERANCE,
        }
    }
}

/// A backend was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) pod: String,
    /// Its answers among all before.
    pub(crate) before: Share,
    /// Its answers among all after.
    pub(crate) after: Share,
    /// Failed requests meanwhile.
    pub(crate) failures: u64,
}

impl Kill {
    fn survived(&self) -> bool {
        self.before.of > 0 && self.after.of == 0 && self.after.total > 0 && self.failures == 0
    }
}

/// The control plane was killed and started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    /// Answers while there was none.
    pub(crate) answers_without: usize,
    /// Failed requests meanwhile.
    pub(crate) failures: u64,
    /// Whether an edit after its return took effect.
    pub(crate) edit_took_effect: bool,
}

impl Restart {
    fn survived(&self) -> bool {
        self.answers_without > 0 && self.failures == 0 && self.edit_took_effect
    }
}

/// A sentence about the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) text: String,
    pub(crate) held: bool,
}

impl Findings {
    /// What was claimed. `steps`: the percentages that the story goes through.
    pub(crate) fn claims(&self, steps: &[u32]) -> Vec<Claim> {
        let mut claims = Vec::new();
        let mut claim = |held: bool, text: String| claims.push(Claim { text, held });
        if let Some(reason) = &self.broke_off {
            claim(false, format!("the story is told to its end: {reason}"));
        }
        let success = percent(self.requests - self.failures, self.requests);
        let text = format!("no request fails: {} of {} failed ({success:.3} % good)", self.failures, self.requests);
        claim(self.requests > 0 && self.failures == 0, text);
        for (position, wanted) in steps.iter().enumerate() {
            let step = self.steps.get(position).filter(|step| step.wanted == *wanted);
            let seen = step.map_or("never got there".to_owned(), |step| {
                format!("{:.1} % of {} answers", step.seen.percent(), step.seen.total)
            });
            claim(step.is_some_and(|step| step.held()), format!("v2 gets {wanted} %: {seen}"));
        }
        let Counters { calls, mutual_calls, plain_arrivals, .. } = self.traffic;
        let text = format!("all calls use mutual TLS: {mutual_calls} of {calls} did, {plain_arrivals} arrived without it");
        claim(calls > 0 && mutual_calls == calls && plain_arrivals == 0, text);
        let text = match &self.kill {
            Some(Kill { pod, before, after, failures }) => format!(
                "a killed backend costs no request: {pod} gave {} answers before, {} of {} after, {failures} requests failed",
                before.of, after.of, after.total
            ),
            None => "a killed backend costs no request: never got there".to_owned(),
        };
        claim(self.kill.as_ref().is_some_and(Kill::survived), text);
        let text = match &self.restart {
            Some(Restart { answers_without, failures, edit_took_effect }) => format!(
                "traffic does not need the control plane: {answers_without} answers without it, {failures} requests failed, \
                 the next edit {}",
                if *edit_took_effect { "took effect" } else { "took no effect" }
            ),
            None => "traffic does not need the control plane: never got there".to_owned(),
        };
        claim(self.restart.as_ref().is_some_and(Restart::survived), text);
        claims
    }

    /// Everything in one line.
    pub(crate) fn summary(&self) -> String {
        let list = |number: &dyn Fn(&Step) -> String| self.steps.iter().map(number).collect::<Vec<_>>().join("/");
        let word = |survived: Option<bool>| match survived {
            Some(true) => "survived",
            Some(false) => "NOT survived",
            None => "not reached",
        };
        let split = if self.steps.is_empty() {
            "no step reached".to_owned()
        } else {
            let [wanted, seen] = [list(&|step| step.wanted.to_string()), list(&|step| format!("{:.1}", step.seen.percent()))];
            format!("v2 asked {wanted} % seen {seen} %")
        };
        format!(
            "weir demo: {} requests, {} failed; {split}; mTLS {} %; backend kill {}; control plane restart {}",
            self.requests,
            self.failures,
            shown_percent(self.traffic.mutual_share()),
            word(self.kill.as_ref().map(Kill::survived)),
            word(self.restart.as_ref().map(Restart::survived)),
        )
    }
}

/// Two digits, never rounded up to a whole that is not there.
pub(crate) fn shown_percent(percent: f64) -> String {
    if percent >= 100.0 { "100".to_owned() } else { format!("{:.2}", (percent * 100.0).floor() / 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [u32; 4] = [0, 10, 50, 100];

    fn good() -> Findings {
        let step = |wanted, of| Step { wanted, seen: Share { of, total: 1_000 } };
        Findings {
            steps: vec![step(0, 0), step(10, 98), step(50, 521), step(100, 1_000)],
            kill: Some(Kill {
                pod: "catalog-v1-a".to_owned(),
                before: Share { of: 200, total: 900 },
                after: Share { of: 0, total: 900 },
                failures: 0,
            }),
            restart: Some(Restart { answers_without: 600, failures: 0, edit_took_effect: true }),
            broke_off: None,
            requests: 6_000,
            failures: 0,
            traffic: Counters { calls: 12_000, mutual_calls: 12_000, plain_arrivals: 0, retries: 9, ejections: 1 },
        }
    }

    fn broken(findings: &Findings) -> Vec<String> {
        findings.claims(&STEPS).into_iter().filter(|claim| !claim.held).map(|claim| claim.text).collect()
    }

    #[test]
    fn a_good_run_holds_every_claim_and_fits_a_line() {
        assert_eq!(broken(&good()), Vec::<String>::new());
        assert_eq!(
            good().summary(),
            "weir demo: 6000 requests, 0 failed; v2 asked 0/10/50/100 % seen 0.0/9.8/52.1/100.0 %; mTLS 100 %; \
             backend kill survived; control plane restart survived"
        );
    }

    #[test]
    fn each_broken_promise_is_named() {
        let with = |change: &dyn Fn(&mut Findings)| {
            let mut findings = good();
            change(&mut findings);
            broken(&findings).join("|")
        };
        assert!(with(&|f| f.failures = 1).starts_with("no request fails: 1 of 6000"));
        assert!(with(&|f| f.requests = 0).starts_with("no request fails: 0 of 0"));
        assert!(with(&|f| f.steps[1].seen.of = 151).starts_with("v2 gets 10 %: 15.1 %"));
        assert!(with(&|f| f.steps[3].seen.of = 999).starts_with("v2 gets 100 %: 99.9 %"));
        assert!(with(&|f| f.steps[0].seen.of = 1).starts_with("v2 gets 0 %: 0.1 %"));
        assert!(with(&|f| f.steps.truncate(3)).starts_with("v2 gets 100 %: never got there"));
        assert!(with(&|f| f.traffic.mutual_calls -= 1).starts_with("all calls use mutual TLS: 11999 of 12000"));
        assert!(with(&|f| f.traffic.plain_arrivals = 1).contains("1 arrived without it"));
        assert!(with(&|f| f.kill = None).starts_with("a killed backend costs no request: never"));
        assert!(with(&|f| f.kill.as_mut().unwrap().after.of = 1).starts_with("a killed backend"));
        assert!(with(&|f| f.kill.as_mut().unwrap().before.of = 0).starts_with("a killed backend"));
        assert!(with(&|f| f.restart.as_mut().unwrap().edit_took_effect = false).ends_with("the next edit took no effect"));
        assert!(with(&|f| f.broke_off = Some("a sidecar ended".to_owned())).starts_with("the story is told to its end: a sid"));
    }

    #[test]
    fn a_run_without_answers_holds_nothing() {
        assert_eq!(broken(&Findings::default()).len(), 8);
        assert!(Findings::default().summary().starts_with("weir demo: 0 requests, 0 failed; no step reached; mTLS 0.00 %"));
    }

    #[test]
    fn almost_everything_is_not_everything() {
        assert_eq!(shown_percent(99.999_9), "99.99");
        assert_eq!(shown_percent(100.0), "100");
        assert_eq!(shown_percent(0.0), "0.00");
    }
}
