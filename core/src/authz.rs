//! Who may enter a workload.
//!
//! [`authorize`] is the only maker of a [`Permit`], and what dispatches to the application takes one: a path around the policy
//! does not compile.

use crate::names::{Identity, TrustDomain};
use crate::snapshot::Inbound;

/// Whether plaintext may enter (`weir.dev/mtls`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Peers without an identity may enter: clients outside the mesh, and the kubelet's probes.
    #[default]
    Permissive,
    /// Only peers that have proved an identity of the mesh.
    Strict,
}

/// The policy said yes, once. It cannot be copied: each connection or request asks for its own.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit that is not used means that nothing was dispatched"]
pub struct Permit(());

/// The policy said no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No mutual TLS where the policy demands it.
    #[error(
        "port {port} takes mutual TLS only and the peer has no identity of the mesh; put the caller into the mesh, or set \
         weir.dev/mtls: permissive on this workload or its namespace"
    )]
    PlaintextRefused {
        /// The port that was called.
        port: u16,
    },
    /// The peer's certificate is from another mesh.
    #[error("the peer is {peer}, and this mesh's trust domain is {ours}; workloads of two trust domains cannot call each other")]
    ForeignTrustDomain {
        /// Who called.
        peer: Identity,
        /// This mesh's trust domain.
        ours: TrustDomain,
    },
    /// The peer showed an identity before this proxy knew which mesh it is in, so there is nothing to judge it by.
    #[error("the peer is {peer}, and this proxy does not know its own trust domain yet; is the control plane reachable?")]
    TrustDomainUnknown {
        /// Who called.
        peer: Identity,
    },
}

impl Denied {
    /// The reason as a label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::PlaintextRefused { .. } => "plaintext-refused",
            Self::ForeignTrustDomain { .. } => "foreign-trust-domain",
            Self::TrustDomainUnknown { .. } => "trust-domain-unknown",
        }
    }

    /// The policy that refused, by the name that its author knows it by.
    #[must_use]
    pub const fn policy(&self) -> &str {
        match self {
            Self::PlaintextRefused { .. } => "weir.dev/mtls=strict",
            Self::ForeignTrustDomain { .. } | Self::TrustDomainUnknown { .. } => "trust-domain",
        }
    }
}

/// Decides whether `peer` may enter at `port`. `peer` is the identity that mutual TLS has proved, `None` for everybody else,
/// whatever they claim.
///
/// # Errors
///
/// [`Denied`] with the policy that refused.
pub fn authorize(
    inbound: &Inbound,
    trust_domain: Option<&TrustDomain>,
    peer: Option<&Identity>,
    port: u16,
) -> Result<Permit, Denied> {
    match (peer, trust_domain, inbound.mtls) {
        (None, _, MtlsMode::Permissive) => Ok(Permit(())),
        (None, _, MtlsMode::Strict) => Err(Denied::PlaintextRefused { port }),
        (Some(peer), None, _) => Err(Denied::TrustDomainUnknown { peer: peer.clone() }),
        (Some(peer), Some(ours), _) if peer.trust_domain == *ours => Ok(Permit(())),
        (Some(peer), Some(ours), _) => Err(Denied::ForeignTrustDomain { peer: peer.clone(), ours: ours.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbound(mtls: MtlsMode) -> Inbound {
        Inbound { mtls, ..Inbound::default() }
    }

    fn identity(trust_domain: &str) -> Identity {
        format!("spiffe://{trust_domain}/ns/shop/sa/web").parse().unwrap()
    }

    #[test]
    fn every_combination_of_mode_and_peer_has_one_answer() {
        let ours: TrustDomain = "cluster.local".parse().unwrap();
        let (friend, stranger) = (identity("cluster.local"), identity("example.org"));
        // A trust domain is compared whole: neither a suffix nor a name with a dot taken for any character gets in.
        let (longer, lookalike) = (identity("a.cluster.local"), identity("clusterxlocal"));
        let table = [
            (MtlsMode::Permissive, Some(&ours), None, Ok(())),
            (MtlsMode::Permissive, None, None, Ok(())),
            (MtlsMode::Strict, Some(&ours), None, Err("plaintext-refused")),
            (MtlsMode::Strict, None, None, Err("plaintext-refused")),
            (MtlsMode::Permissive, Some(&ours), Some(&friend), Ok(())),
            (MtlsMode::Strict, Some(&ours), Some(&friend), Ok(())),
            (MtlsMode::Permissive, Some(&ours), Some(&stranger), Err("foreign-trust-domain")),
            (MtlsMode::Strict, Some(&ours), Some(&longer), Err("foreign-trust-domain")),
            (MtlsMode::Strict, Some(&ours), Some(&lookalike), Err("foreign-trust-domain")),
            (MtlsMode::Permissive, None, Some(&friend), Err("trust-domain-unknown")),
        ];
        for (mode, domain, peer, expected) in table {
            let answer = authorize(&inbound(mode), domain, peer, 80);
            let said = answer.as_ref().map(|_| ()).map_err(Denied::reason);
            assert_eq!(said, expected, "{mode:?} {domain:?} {peer:?}");
        }
    }

    #[test]
    fn plaintext_may_enter_unless_a_policy_says_otherwise() {
        assert_eq!(authorize(&Inbound::default(), None, None, 80), Ok(Permit(())));
    }

    #[test]
    fn a_refusal_names_the_policy_and_the_way_out() {
        let denied = Denied::PlaintextRefused { port: 8080 };
        assert_eq!(denied.policy(), "weir.dev/mtls=strict");
        assert!(denied.to_string().contains("port 8080"), "{denied}");
        assert!(denied.to_string().contains("weir.dev/mtls: permissive"), "{denied}");
        let denied = Denied::ForeignTrustDomain { peer: identity("example.org"), ours: "cluster.local".parse().unwrap() };
        assert_eq!(denied.policy(), "trust-domain");
        assert!(denied.to_string().contains("spiffe://example.org/ns/shop/sa/web"), "{denied}");
    }
}
