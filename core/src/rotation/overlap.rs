//! Replacing a mesh's root without anybody noticing.
//!
//! A new root is *published* beside the old one while the old one signs; then it *signs* while both are trusted; then the old one
//! is retired. What may happen next is a pure function of what was written down ([`Succession`]), what is seen of the mesh
//! ([`Evidence`], remembered in [`Observed`]) and the time. Whoever leads may die at any point: everything that counts is in the
//! succession, and what is only remembered begins anew, which costs time and nothing else.
//!
//! Two things make a step safe. Either everybody who is connected has shown to be ready for it, or one life of a leaf has passed:
//! whoever has a valid certificate then got it after the step before, and with it the roots of that time.

use std::time::{Duration, SystemTime};

/// How long everybody must have been ready before a step: proxies that are between two streams come back within it.
const SETTLE: Duration = Duration::from_secs(30);
/// What clocks may differ by.
const CLOCKS: Duration = Duration::from_secs(60);

/// The line of roots of a mesh. `L` is a root with whatever signs under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession<L> {
    /// Grows with every step, so that of two bundles the younger one can be told. It begins as the seconds since 1970, so that
    /// what is begun anew after everything was lost counts as younger, too.
    pub epoch: u64,
    /// Where it stands.
    pub phase: Phase<L>,
    /// Since when.
    pub since: SystemTime,
}

/// Where the change from one root to the next stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase<L> {
    /// One root, nothing under way.
    Stable {
        /// The root.
        signs: L,
    },
    /// Both are trusted, the old one signs.
    Published {
        /// The old one.
        signs: L,
        /// The new one.
        next: L,
        /// How fast it may go on.
        pace: Pace,
    },
    /// Both are trusted, the new one signs.
    Signing {
        /// The new one.
        signs: L,
        /// The old one.
        old: L,
        /// How fast it may go on.
        pace: Pace,
    },
}

/// How fast a root is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nobody waits for it: each step takes a life of a leaf, so that also a proxy that is cut off from the control plane, but not
    /// from its peers, has the roots that it needs.
    Careful,
    /// Somebody asked for it: a step is taken as soon as everybody who is connected is ready.
    Prompt,
}

/// The name of a phase, without what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseName {
    /// See [`Phase::Stable`].
    Stable,
    /// See [`Phase::Published`].
    Published,
    /// See [`Phase::Signing`].
    Signing,
}

impl PhaseName {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Stable, Self::Published, Self::Signing];

    /// For labels, logs and what is stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Published => "published",
            Self::Signing => "signing",
        }
    }
}

/// What is seen of the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Control planes that live and have not put the present step into force.
    pub replicas_behind: usize,
    /// Connected proxies that are not ready for the next step: without the bundle, or without a certificate of the root that signs.
    pub proxies_behind: usize,
    /// Places where the bundle is to stand and does not yet.
    pub bundles_behind: usize,
}

/// What whoever leads remembers between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Since when no control plane has been behind.
    taken_since: Option<SystemTime>,
    /// Since when nobody has been behind.
    complete_since: Option<SystemTime>,
    evidence: Evidence,
    /// Whether anything was noted at all.
    looked: bool,
}

/// How long a step waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// Everybody has been ready for this long.
    pub settle: Duration,
    /// After this every certificate from before the step has ended.
    pub leaf: Duration,
}

impl Waits {
    /// For leaves that live this long. Short lives make short waits: clocks and reconnects then have to be better.
    #[must_use]
    pub fn new(leaf_lifetime: Duration) -> Self {
        let tenth = leaf_lifetime / 10;
        Self { settle: SETTLE.min(tenth), leaf: leaf_lifetime.saturating_add(CLOCKS.min(tenth)) }
    }
}

/// Whether the next step may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is under way.
    Idle,
    /// Control planes have not put the present step into force; nothing goes on without them.
    WaitForReplicas(usize),
    /// Somebody is not ready. After the time it goes on without them: they have no valid certificate left, or got one, with the
    /// roots, since.
    WaitForMesh {
        /// What was seen.
        evidence: Evidence,
        /// When it goes on in any case.
        until: SystemTime,
    },
    /// Nobody is behind; it goes on when that has been so for long enough.
    WaitUntil(SystemTime),
    /// Take it.
    Advance {
        /// Who is left behind.
        left_behind: Evidence,
    },
}

impl Observed {
    /// Notes what is seen now. `taken_at` is when the last of the control planes says that it put the present step into force, or
    /// ended without having done so: whoever takes over the lead was not there to see it.
    pub fn note(&mut self, evidence: Evidence, taken_at: SystemTime, now: SystemTime) {
        self.evidence = evidence;
        self.taken_since = match self.taken_since {
            _ if evidence.replicas_behind > 0 => None,
            // A clock that went back must not make the wait endless, nor shorter than it is.
            Some(since) => Some(since.min(now)),
            // Somebody was behind until now, and signed as before until now.
            None if self.looked => Some(now),
            None => Some(taken_at.min(now)),
        };
        self.looked = true;
        self.complete_since = match self.complete_since {
            _ if evidence != Evidence::default() => None,
            Some(since) => Some(since.min(now)),
            None => Some(now),
        };
    }

    /// A step was taken, or somebody else takes them.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// What was seen last.
    #[must_use]
    pub const fn evidence(&self) -> Evidence {
        self.evidence
    }
}

impl<L> Succession<L> {
    /// A mesh with one root.
    #[must_use]
    pub fn new(signs: L, now: SystemTime) -> Self {
        let epoch = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { epoch, phase: Phase::Stable { signs }, since: now }
    }

    /// What signs.
    #[must_use]
    pub const fn signs(&self) -> &L {
        match &self.phase {
            Phase::Stable { signs } | Phase::Published { signs, .. } | Phase::Signing { signs, .. } => signs,
        }
    }

    /// What signs, to be changed in place: a new issuer under the same root is no step.
    pub const fn signs_mut(&mut self) -> &mut L {
        match &mut self.phase {
            Phase::Stable { signs } | Phase::Published { signs, .. } | Phase::Signing { signs, .. } => signs,
        }
    }

    /// The other one that is trusted.
    #[must_use]
    pub const fn other(&self) -> Option<&L> {
        match &self.phase {
            Phase::Stable { .. } => None,
            Phase::Published { next: other, .. } | Phase::Signing { old: other, .. } => Some(other),
        }
    }

    /// Everything that is trusted, what signs first.
    pub fn trusted(&self) -> impl Iterator<Item = &L> {
        std::iter::once(self.signs()).chain(self.other())
    }

    /// Where it stands.
    #[must_use]
    pub const fn name(&self) -> PhaseName {
        match self.phase {
            Phase::Stable { .. } => PhaseName::Stable,
            Phase::Published { .. } => PhaseName::Published,
            Phase::Signing { .. } => PhaseName::Signing,
        }
    }

    /// How fast it goes on, if anything is under way.
    #[must_use]
    pub const fn pace(&self) -> Option<Pace> {
        match self.phase {
            Phase::Stable { .. } => None,
            Phase::Published { pace, .. } | Phase::Signing { pace, .. } => Some(pace),
        }
    }

    /// Publishes a new root. One that was only published gives way to it; once it signs, it must be seen through first, and the
    /// new one is given back.
    ///
    /// # Errors
    ///
    /// The new root, when another one is signing and the one before is not retired yet.
    pub fn publish(&mut self, next: L, pace: Pace, now: SystemTime) -> Result<(), L>
    where
        L: Clone,
    {
        let signs = match &self.phase {
            Phase::Stable { signs } | Phase::Published { signs, .. } => signs.clone(),
            Phase::Signing { .. } => return Err(next),
        };
        self.enter(Phase::Published { signs, next, pace }, now);
        Ok(())
    }

    /// Somebody asks for what is under way to go on without waiting for the last one.
    pub const fn hurry(&mut self) {
        match &mut self.phase {
            Phase::Stable { .. } => {}
            Phase::Published { pace, .. } | Phase::Signing { pace, .. } => *pace = Pace::Prompt,
        }
    }

    /// Whether the next step may be taken.
    #[must_use]
    pub fn verdict(&self, observed: &Observed, waits: Waits, now: SystemTime) -> Verdict {
        let Some(pace) = self.pace() else { return Verdict::Idle };
        let Observed { taken_since: Some(taken), complete_since, evidence, .. } = *observed else {
            return Verdict::WaitForReplicas(observed.evidence.replicas_behind);
        };
        let ended = later(taken, waits.leaf);
        if now >= ended {
            return Verdict::Advance { left_behind: evidence };
        }
        match complete_since {
            None => Verdict::WaitForMesh { evidence, until: ended },
            Some(_) if pace == Pace::Careful => Verdict::WaitUntil(ended),
            Some(complete) => match later(complete, waits.settle) {
                settled if now >= settled => Verdict::Advance { left_behind: evidence },
                settled => Verdict::WaitUntil(settled.min(ended)),
            },
        }
    }

    /// Takes the next step; nothing happens where there is none.
    #[must_use]
    pub fn advanced(self, now: SystemTime) -> Self {
        let phase = match self.phase {
            Phase::Stable { .. } => return self,
            Phase::Published { signs: old, next: signs, pace } => Phase::Signing { signs, old, pace },
            Phase::Signing { signs, .. } => Phase::Stable { signs },
        };
        Self { epoch: self.epoch.saturating_add(1), phase, since: now }
    }

    fn enter(&mut self, phase: Phase<L>, now: SystemTime) {
        self.epoch = self.epoch.saturating_add(1);
        self.phase = phase;
        self.since = now;
    }
}

/// A time that no calendar has counts as the moment itself: a wait that cannot be told is no reason to wait for ever.
fn later(from: SystemTime, wait: Duration) -> SystemTime {
    from.checked_add(wait).unwrap_or(from)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
