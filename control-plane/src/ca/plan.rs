//! What has to change about the authority: decided here, without keys being made or anything being written.
//!
//! Everything is level-triggered: what is wanted is compared with what is, each time, so that whoever takes over the lead in the
//! middle goes on as if it had led all along.

use std::fmt;
use std::time::{Duration, SystemTime};

use weir_core::names::TrustDomain;
use weir_core::rotation::overlap::{Evidence, Observed, Pace, Phase, PhaseName, Verdict, Waits};
use weir_core::rotation::{Purpose, Validity};

use super::document::{Document, Line, whole_seconds};
use super::{AuthorityError, given, sign, validity};

/// What is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The user's own, checked, if there is one.
    pub given: Option<&'a Line>,
    /// What whoever asks for a rotation wrote last.
    pub asked: Option<&'a str>,
    /// What was seen of the mesh.
    pub observed: &'a Observed,
    /// How long leaves live.
    pub leaf_lifetime: Duration,
    /// The time.
    pub now: SystemTime,
}

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A new issuer under the same root. Nobody has to be told.
    NewIssuer,
    /// The user gave another certificate or key that leads to the same root. Nobody has to be told.
    Exchange(Line),
    /// Publish a new root.
    Publish {
        /// `None`: one is made.
        line: Option<Line>,
        /// Why.
        why: Why,
    },
    /// Go on without waiting for the last one.
    Hurry,
    /// Take the next step.
    Advance {
        /// Who is left behind.
        left_behind: Evidence,
    },
    /// Somebody asked for what cannot be done: the root is the user's own.
    CannotRotate,
}

/// Why a root is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It comes to its end.
    End,
    /// Somebody asked.
    Asked,
    /// The user gave one.
    Given,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::End => "it comes to its end",
            Self::Asked => "somebody asked for it",
            Self::Given => "the user gave another",
        })
    }
}

/// What to change now, if anything.
///
/// # Errors
///
/// When what is written down cannot be read.
pub fn decide(document: &Document, situation: Situation<'_>) -> Result<Option<Action>, AuthorityError> {
    let succession = &document.succession;
    let Situation { given, asked, observed, leaf_lifetime, now } = situation;
    if asked.is_some_and(|asked| !asked.is_empty() && asked != document.asked) {
        return Ok(Some(match succession.name() {
            PhaseName::Stable if given.is_some() => Action::CannotRotate,
            PhaseName::Stable => Action::Publish { line: None, why: Why::Asked },
            PhaseName::Published | PhaseName::Signing => Action::Hurry,
        }));
    }
    if let Some(action) = given.and_then(|line| follow(document, line)) {
        return Ok(Some(action));
    }
    let signs = succession.signs();
    if let Some(root) = signs.anchor_key.as_ref().map(|_| signs.anchor_der()) {
        if given.is_none() && succession.name() == PhaseName::Stable && now >= root_due(validity(&root?)?) {
            return Ok(Some(Action::Publish { line: None, why: Why::End }));
        }
        if now >= issuer_due(signs, leaf_lifetime)? {
            return Ok(Some(Action::NewIssuer));
        }
    }
    Ok(match succession.verdict(observed, Waits::new(leaf_lifetime), now) {
        Verdict::Advance { left_behind } => Some(Action::Advance { left_behind }),
        Verdict::Idle | Verdict::WaitForReplicas(_) | Verdict::WaitForMesh { .. } | Verdict::WaitUntil(_) => None,
    })
}

/// Makes what the user gave the authority, as far as that is the next thing to do.
fn follow(document: &Document, line: &Line) -> Option<Action> {
    let succession = &document.succession;
    let signs = succession.signs();
    if signs == line {
        return None;
    }
    if signs.given && signs.same_root(line) {
        return Some(Action::Exchange(line.clone()));
    }
    let publish = || Some(Action::Publish { line: Some(line.clone()), why: Why::Given });
    match &succession.phase {
        Phase::Stable { .. } => publish(),
        Phase::Published { next, .. } if next == line => None,
        Phase::Published { .. } => publish(),
        // One after the other.
        Phase::Signing { .. } => None,
    }
}

/// When a root that the authority made is replaced: so early that the issuers below it need not be cut short.
fn root_due(root: Validity) -> SystemTime {
    due(root, sign::ISSUER_LIFETIME)
}

fn issuer_due(line: &Line, leaf_lifetime: Duration) -> Result<SystemTime, AuthorityError> {
    match line.chain_ders()?.first() {
        Some(issuer) => Ok(due(validity(issuer)?, leaf_lifetime)),
        None => Err(AuthorityError::Document("a root that was made here has no issuer".to_owned())),
    }
}

fn due(validity: Validity, signs_for: Duration) -> SystemTime {
    // An authority's renewal is not spread: there is only one.
    validity.renew_at(Purpose::Authority { signs_for }, validity.not_before, &mut fastrand::Rng::with_seed(0))
}

/// The document after an action.
///
/// # Errors
///
/// When a certificate cannot be made.
pub fn carry_out(
    document: &Document,
    action: &Action,
    asked: Option<&str>,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<Document, AuthorityError> {
    let mut next = document.clone();
    let begins = whole_seconds(now);
    next.generation = next.generation.saturating_add(1);
    match action {
        Action::NewIssuer => {
            let line = next.succession.signs_mut();
            *line = new_issuer(line, trust_domain, now)?;
        }
        Action::Exchange(line) => *next.succession.signs_mut() = line.clone(),
        Action::Publish { line, why } => {
            let line = match line {
                Some(line) => line.clone(),
                None => Line::make(trust_domain, now)?,
            };
            let pace = if *why == Why::End { Pace::Careful } else { Pace::Prompt };
            if next.succession.publish(line, pace, begins).is_err() {
                return Ok(document.clone());
            }
        }
        Action::Hurry => next.succession.hurry(),
        Action::Advance { .. } => next.succession = next.succession.advanced(begins),
        Action::CannotRotate => {}
    }
    if matches!(action, Action::Publish { why: Why::Asked, .. } | Action::Hurry | Action::CannotRotate) {
        asked.unwrap_or_default().clone_into(&mut next.asked);
    }
    Ok(next)
}

fn new_issuer(line: &Line, trust_domain: &TrustDomain, now: SystemTime) -> Result<Line, AuthorityError> {
    let key = line.anchor_key.as_deref().unwrap_or_default();
    let key = given::key(key.as_bytes()).map_err(AuthorityError::Document)?;
    let root = sign::Signer::new(line.anchor_der()?, key).map_err(AuthorityError::Document)?;
    let issuer = root.issuer(trust_domain, now)?;
    Ok(Line { chain: issuer.certificate_pem, key: issuer.key_pem, ..line.clone() })
}

#[cfg(test)]
mod tests;
