//! What is to be done about the Secret.

use std::time::{Duration, SystemTime};

use fastrand::Rng;
use weir_core::rotation::Purpose;

use super::BACKDATED;
use super::make::LEAF_LIFETIME;
use super::stored::{Authority, Keeper, Stored};

/// What is to be done. The texts say why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Keep,
    /// A new certificate, signed by the authority that is there.
    NewLeaf(String),
    /// A new authority and a certificate of it.
    NewAuthority(String),
    /// Old authorities are no longer to be trusted.
    Retire,
    /// The Secret is somebody else's: nothing is written. What is wrong with it, if anything is.
    NotOurs(Option<String>),
}

/// How long an authority stays trusted after another has begun to sign: replicas change over within seconds.
pub const OVERLAP: Duration = Duration::from_secs(3600);
/// When somebody else's certificate that nobody renews becomes worth a word.
const NEAR_END: Duration = Duration::from_secs(7 * 86_400);

/// Decides what is to be done about the Secret; `stored` is `None` where there is none. `names` are those that the certificate
/// has to have. `rng` spreads renewals of replicas; seeded the same, it gives the same time.
#[must_use]
pub fn plan(stored: Option<&Stored>, names: &[String], now: SystemTime, rng: &mut Rng) -> Plan {
    let Some(stored) = stored else { return Plan::NewAuthority("there is none yet".to_owned()) };
    if stored.keeper == Keeper::SomebodyElse {
        return Plan::NotOurs(wrong_with(stored, names, now));
    }
    let first = match (&stored.signer, stored.authorities.first()) {
        (Ok(_), Some(first)) => first,
        (Err(why), _) => return Plan::NewAuthority(why.clone()),
        (Ok(_), None) => return Plan::NewAuthority("it has no authority".to_owned()),
    };
    if now >= renewal_of_authority(first) {
        return Plan::NewAuthority("its authority comes to its end".to_owned());
    }
    let leaf = match &stored.leaf {
        Ok(leaf) => leaf,
        Err(why) => return Plan::NewLeaf(why.clone()),
    };
    if !leaf.signed_by_first {
        return Plan::NewLeaf("its certificate was not signed by its authority".to_owned());
    }
    if let Some(missing) = missing(&leaf.names, names) {
        return Plan::NewLeaf(format!("its certificate does not name {missing}"));
    }
    let made = leaf.validity.not_before + BACKDATED;
    if now >= leaf.validity.renew_at(Purpose::Leaf, made, rng) {
        return Plan::NewLeaf("its certificate comes to its end".to_owned());
    }
    if retained(stored, now).len() < stored.authorities.len() { Plan::Retire } else { Plan::Keep }
}

/// The authorities that stay trusted: the first, and others for a while after it has begun.
#[must_use]
pub fn retained(stored: &Stored, now: SystemTime) -> Vec<Authority> {
    let Some((first, others)) = stored.authorities.split_first() else { return Vec::new() };
    let overlaps = now < first.validity.not_before + BACKDATED + OVERLAP;
    let others = others.iter().filter(|it| overlaps && now < it.validity.not_after);
    std::iter::once(first).chain(others).cloned().collect()
}

fn renewal_of_authority(authority: &Authority) -> SystemTime {
    let purpose = Purpose::Authority { signs_for: LEAF_LIFETIME };
    let made = authority.validity.not_before + BACKDATED;
    // An authority's renewal is not spread, so the dice do not matter.
    authority.validity.renew_at(purpose, made, &mut Rng::with_seed(0))
}

fn missing<'a>(named: &[String], wanted: &'a [String]) -> Option<&'a String> {
    wanted.iter().find(|name| !named.contains(name))
}

/// What somebody else has to mend.
fn wrong_with(stored: &Stored, names: &[String], now: SystemTime) -> Option<String> {
    let leaf = match &stored.leaf {
        Ok(leaf) => leaf,
        Err(why) => return Some(why.clone()),
    };
    // Only the first name is what API servers verify.
    let name = names.get(..1).unwrap_or_default();
    if let Some(missing) = missing(&leaf.names, name) {
        return Some(format!("its certificate does not name {missing}, by which API servers call"));
    }
    let left = leaf.validity.remaining(now);
    if left.is_zero() {
        return Some("its certificate has ended".to_owned());
    }
    (left < NEAR_END).then(|| format!("its certificate ends in {} hours and was not renewed", left.as_secs() / 3600))
}
