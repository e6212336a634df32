//! Names, parsed once into types that cannot be wrong.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Longest DNS label (RFC 1123, section 2.1).
const MAX_LABEL: usize = 63;
/// Longest DNS name.
const MAX_DNS_NAME: usize = 253;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not a DNS label.
    #[error("`{0}` is not a DNS label: 1 to 63 of a-z, 0-9 and `-`, with a letter or digit at both ends")]
    Label(String),
    /// Not a DNS name.
    #[error("`{0}` is not a DNS name: labels of a-z, 0-9 and `-` joined by dots, 253 characters at most")]
    DnsName(String),
    /// Not a `SPIFFE` id of a workload.
    #[error("`{0}` is not a workload's SPIFFE id: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Identity(String),
    /// Not `namespace/name`.
    #[error("`{0}` is not a service: write NAMESPACE/NAME")]
    Service(String),
    /// Not `namespace/name:port`.
    #[error("`{0}` is not a service port: write NAMESPACE/NAME:PORT")]
    Backend(String),
    /// Not an authority.
    #[error("`{0}` is not HOST or HOST:PORT")]
    Authority(String),
}

/// Shortens what somebody else wrote so that it fits into a message.
fn excerpt(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    !bytes.is_empty()
        && bytes.len() <= MAX_LABEL
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

fn is_dns_name(text: &str) -> bool {
    text.len() <= MAX_DNS_NAME && text.split('.').all(is_label)
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:ident, $error:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $check(text) { Ok(Self(text.into())) } else { Err(InvalidName::$error(excerpt(text))) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_type!(
    /// A DNS label (RFC 1123): the name of a namespace or a Service.
    Label,
    is_label,
    Label
);
text_type!(
    /// A DNS subdomain: the name of a pod, a service account or a route.
    ObjectName,
    is_dns_name,
    DnsName
);
text_type!(
    /// A SPIFFE trust domain.
    TrustDomain,
    is_dns_name,
    DnsName
);

/// A Service by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub name: Label,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| InvalidName::Service(excerpt(text)))?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendRef {
    /// The service.
    pub service: ServiceRef,
    /// The service's port, not the workload's.
    pub port: u16,
}

impl fmt::Display for BackendRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

impl FromStr for BackendRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName::Backend(excerpt(text));
        let (service, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        Ok(Self { service: service.parse()?, port: parse_port(port).ok_or_else(wrong)? })
    }
}

/// A workload's SPIFFE id: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// Namespace of the workload.
    pub namespace: Label,
    /// Its service account.
    pub service_account: ObjectName,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName::Identity(excerpt(text));
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(wrong)?.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Ok(Self {
                trust_domain: domain.parse().map_err(|_| wrong())?,
                namespace: namespace.parse().map_err(|_| wrong())?,
                service_account: account.parse().map_err(|_| wrong())?,
            }),
            _ => Err(wrong()),
        }
    }
}

/// A decimal port from 1 to 65535 and nothing else: no sign, no space.
fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

/// Where a request or a tunnel wants to go, as its sender wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A Service of the cluster.
    Service(BackendRef),
    /// An address.
    Address(SocketAddr),
    /// A name outside the cluster.
    External {
        /// Lower case, without a trailing dot.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

/// Reads authorities the way a workload in one namespace means them.
#[derive(Clone, Debug)]
pub struct Resolver {
    namespace: Label,
    cluster_domain: Arc<str>,
}

impl Resolver {
    /// For a workload in `namespace` of a cluster whose DNS ends in `cluster_domain` (`cluster.local`).
    #[must_use]
    pub fn new(namespace: Label, cluster_domain: &str) -> Self {
        Self { namespace, cluster_domain: cluster_domain.to_ascii_lowercase().into() }
    }

    /// What `authority` (a Host header, an `:authority` or the target of a CONNECT) names. The forms of a Service are `svc`,
    /// `svc.ns`, `svc.ns.svc` and `svc.ns.svc.<cluster-domain>`, in any case, with or without a trailing dot and a port.
    /// A two-label name is always a Service: the cluster's own search path reads it so first.
    ///
    /// # Errors
    ///
    /// [`InvalidName::Authority`] when it is no authority at all.
    pub fn resolve(&self, authority: &str, default_port: u16) -> Result<Target, InvalidName> {
        let wrong = || InvalidName::Authority(excerpt(authority));
        let (host, port) = split_authority(authority, default_port).ok_or_else(wrong)?;
        // An address with a dot behind it is no name: DNS would make the address of it again, and nobody know whose it is.
        let host = host.strip_suffix('.').unwrap_or(host);
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = literal.parse::<IpAddr>() {
            return Ok(Target::Address(SocketAddr::new(ip, port)));
        }
        let host = host.to_ascii_lowercase();
        if host.len() > MAX_DNS_NAME || !host.split('.').all(is_host_label) {
            return Err(wrong());
        }
        Ok(match self.service(&host) {
            Some(service) => Target::Service(BackendRef { service, port }),
            None => Target::External { host: host.into(), port },
        })
    }

    fn service(&self, host: &str) -> Option<ServiceRef> {
        let suffix_cut = host.strip_suffix(&*self.cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
        let local = suffix_cut.or_else(|| host.strip_suffix(".svc")).unwrap_or(host);
        let mut labels = local.split('.');
        let name = labels.next()?.parse().ok()?;
        let namespace = match labels.next() {
            Some(namespace) => namespace.parse().ok()?,
            // `svc` alone is in the workload's own namespace; `svc.svc` is not a form.
            None if local.len() == host.len() => self.namespace.clone(),
            None => return None,
        };
        labels.next().is_none().then_some(ServiceRef { namespace, name })
    }
}

/// Host names outside the cluster may have underscores, which DNS labels of Kubernetes may not.
fn is_host_label(label: &str) -> bool {
    !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn split_authority(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    if authority.starts_with('[') {
        let end = authority.find(']')?;
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, parse_port(port)?)),
            None => rest.is_empty().then_some((host, default_port)),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, parse_port(port)?)),
        None => Some((authority, default_port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolver() -> Resolver {
        Resolver::new("shop".parse().unwrap(), "cluster.local")
    }

    fn service(namespace: &str, name: &str, port: u16) -> Target {
        let service = ServiceRef { namespace: namespace.parse().unwrap(), name: name.parse().unwrap() };
        Target::Service(BackendRef { service, port })
    }

    #[test]
    fn every_form_of_a_service_name_means_the_same() {
        for host in ["reviews", "reviews.shop", "reviews.shop.svc", "reviews.shop.svc.cluster.local", "REVIEWS.Shop.SVC."] {
            assert_eq!(resolver().resolve(host, 80), Ok(service("shop", "reviews", 80)), "{host}");
            let authority = format!("{host}:8080");
            assert_eq!(resolver().resolve(&authority, 80), Ok(service("shop", "reviews", 8080)), "{authority}");
        }
        assert_eq!(resolver().resolve("db.data", 5432), Ok(service("data", "db", 5432)));
    }

    #[test]
    fn names_and_addresses_outside_the_cluster_are_kept_apart() {
        let external = |host: &str, port| Target::External { host: host.into(), port };
        assert_eq!(resolver().resolve("api.example.com", 443), Ok(external("api.example.com", 443)));
        assert_eq!(resolver().resolve("a.b.c.svc.cluster.local", 80), Ok(external("a.b.c.svc.cluster.local", 80)));
        assert_eq!(resolver().resolve("10.0.0.1:81", 80), Ok(Target::Address("10.0.0.1:81".parse().unwrap())));
        assert_eq!(resolver().resolve("[::1]", 80), Ok(Target::Address("[::1]:80".parse().unwrap())));
        assert_eq!(resolver().resolve("[::1]:81", 80), Ok(Target::Address("[::1]:81".parse().unwrap())));
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for bad in ["", ":80", "a:", "a:0", "a:65536", "a:+1", "a b", "a/b", "user@a", "[::1", "[::1]x", "a..b", "a:1:2", "::1"] {
            assert!(resolver().resolve(bad, 80).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn identities_are_read_exactly() {
        let id: Identity = "spiffe://cluster.local/ns/shop/sa/reviews".parse().unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
        for bad in [
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns/shop/sa/a/b",
            "spiffe:///ns/shop/sa/a",
            "https://cluster.local/ns/shop/sa/a",
            "spiffe://cluster.local/ns/Shop/sa/a",
            "spiffe://cluster.local/sa/a/ns/shop",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_authority_panics(text in "\\PC{0,80}") {
            let _ = resolver().resolve(&text, 80);
            let _ = text.parse::<Identity>();
            let _ = text.parse::<BackendRef>();
        }

        #[test]
        fn references_survive_a_round_trip(text in "[a-z][a-z0-9]{0,20}/[a-z][a-z0-9-]{0,20}[a-z]:[1-9][0-9]{0,3}") {
            let parsed: BackendRef = text.parse().unwrap();
            prop_assert_eq!(parsed.to_string(), text);
        }
    }
}
