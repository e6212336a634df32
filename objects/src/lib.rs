//! The Kubernetes objects that Weir reads, parsed once into types that cannot be wrong.
//!
//! What comes in is one object as JSON, from a file or from an API server; [`decode`] says what it is. An object whose structure is
//! wrong is refused whole, as an API server would refuse it. A value that is only unknown (a filter type, a kind of backend)
//! spoils the rule that it stands in and nothing else: such fields are text in [`raw`] and judged later.

mod annotations;
pub mod backend_tls;
pub mod backend_traffic;
mod field;
mod gateway;
pub mod policy;
mod port_set;
mod raw;
mod reader;
pub mod routes;
mod service;
mod slice;
mod workload;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use weir_core::names::{Label, ObjectName};
use weir_core::route::RouteKind;

pub use annotations::{MESHED, MTLS, OPAQUE_PORTS, PolicyAnnotations};
pub use field::{FieldPath, Problem, Segment, excerpt};
pub use gateway::{
    BackendRefSpec, CookieSpec, CorsSpec, FractionSpec, GatewayFilter, GrpcMatchSpec, GrpcMethodSpec, GrpcRouteSpec,
    GrpcRuleSpec, HeaderFilterSpec, HeaderSpec, HttpMatchSpec, HttpRouteSpec, HttpRuleSpec, KeyValueMatchSpec, MirrorSpec,
    ParentRefSpec, PathModifierSpec, RedirectSpec, RetrySpec, RewriteSpec, RouteMetadata, SessionPersistenceSpec,
    StreamRouteSpec, StreamRuleSpec, TimeoutsSpec, TypedValueSpec,
};
pub use port_set::PortSet;
pub use service::{Service, ServiceForm, ServicePort};
pub use slice::{EndpointSlice, SliceEndpoint, SlicePort};
pub use workload::{Namespace, Pod};

use backend_tls::{BackendTlsPolicy, ConfigMap};
use backend_traffic::BackendTrafficPolicy;
use policy::TrafficPolicy;
use routes::Route;

/// The kinds of objects that mean something to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute,
    /// `gateway.networking.k8s.io` GRPCRoute.
    GrpcRoute,
    /// `gateway.networking.k8s.io` TLSRoute.
    TlsRoute,
    /// `gateway.networking.k8s.io` TCPRoute.
    TcpRoute,
    /// `weir.dev/v1alpha1` TrafficPolicy.
    TrafficPolicy,
    /// `gateway.networking.k8s.io/v1` BackendTLSPolicy.
    BackendTlsPolicy,
    /// `gateway.networking.x-k8s.io/v1alpha1` XBackendTrafficPolicy.
    BackendTrafficPolicy,
    /// `v1` ConfigMap.
    ConfigMap,
}

impl Kind {
    /// The kind as Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TlsRoute => "TLSRoute",
            Self::TcpRoute => "TCPRoute",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
            Self::BackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// The kind of route that it is, if it is one.
    #[must_use]
    pub const fn route(self) -> Option<RouteKind> {
        match self {
            Self::HttpRoute => Some(RouteKind::Http),
            Self::GrpcRoute => Some(RouteKind::Grpc),
            Self::TlsRoute => Some(RouteKind::Tls),
            Self::TcpRoute => Some(RouteKind::Tcp),
            Self::Namespace
            | Self::Pod
            | Self::Service
            | Self::EndpointSlice
            | Self::TrafficPolicy
            | Self::BackendTlsPolicy
            | Self::BackendTrafficPolicy
            | Self::ConfigMap => None,
        }
    }

    fn of(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Namespace") => Some(Self::Namespace),
            ("v1", "Pod") => Some(Self::Pod),
            ("v1", "Service") => Some(Self::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Self::EndpointSlice),
            ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", "HTTPRoute") => Some(Self::HttpRoute),
            ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1alpha2", "GRPCRoute") => Some(Self::GrpcRoute),
            (
                "gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1alpha3" | "gateway.networking.k8s.io/v1alpha2",
                "TLSRoute",
            ) => Some(Self::TlsRoute),
            ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1alpha2", "TCPRoute") => Some(Self::TcpRoute),
            ("gateway.networking.k8s.io/v1", "BackendTLSPolicy") => Some(Self::BackendTlsPolicy),
            ("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy") => Some(Self::BackendTrafficPolicy),
            ("v1", "ConfigMap") => Some(Self::ConfigMap),
            ("weir.dev/v1alpha1", "TrafficPolicy") => Some(Self::TrafficPolicy),
            _ => None,
        }
    }
}

/// Names an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for a Namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        f.write_str(" ")?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A namespaced object whose name may have dots: a Pod, an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedName {
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub name: ObjectName,
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An object that was understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// See [`Namespace`].
    Namespace(Arc<Namespace>),
    /// See [`Pod`].
    Pod(Arc<Pod>),
    /// See [`Service`].
    Service(Arc<Service>),
    /// See [`EndpointSlice`].
    EndpointSlice(Arc<EndpointSlice>),
    /// A route of any kind. See [`Route`].
    Route(Arc<Route>),
    /// See [`TrafficPolicy`].
    TrafficPolicy(Arc<TrafficPolicy>),
    /// See [`BackendTlsPolicy`].
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    /// See [`BackendTrafficPolicy`].
    BackendTrafficPolicy(Arc<BackendTrafficPolicy>),
    /// See [`ConfigMap`].
    ConfigMap(Arc<ConfigMap>),
}

impl Object {
    /// Its name.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        let key = |kind, namespace: &str, name: &str| ObjectKey { kind, namespace: namespace.into(), name: name.into() };
        match self {
            Self::Namespace(it) => key(Kind::Namespace, "", it.name.as_str()),
            Self::Pod(it) => key(Kind::Pod, it.key.namespace.as_str(), it.key.name.as_str()),
            Self::Service(it) => key(Kind::Service, it.name.namespace.as_str(), it.name.name.as_str()),
            Self::EndpointSlice(it) => key(Kind::EndpointSlice, it.key.namespace.as_str(), it.key.name.as_str()),
            Self::Route(it) => routes::object_key(&it.key),
            Self::TrafficPolicy(it) => policy::object_key(&it.key),
            Self::BackendTlsPolicy(it) => backend_tls::object_key(&it.key),
            Self::BackendTrafficPolicy(it) => backend_traffic::object_key(&it.key),
            Self::ConfigMap(it) => key(Kind::ConfigMap, it.key.namespace.as_str(), it.key.name.as_str()),
        }
    }
}

/// What a document turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An object. The problems are values in it that are not honoured; the rest of it is.
    Object(Object, Vec<Problem>),
    /// A kind that means nothing to the mesh.
    Unknown {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// An object of a known kind that cannot be taken. Its key, where that much can be read.
    Refused(Option<ObjectKey>, Vec<Problem>),
}

/// Namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Reads one object.
#[must_use]
pub fn decode(value: &Value) -> Decoded {
    let Some(fields) = value.as_object() else {
        return Decoded::Refused(None, vec![Problem::new(FieldPath::root(), "expected a Kubernetes object, which is a mapping")]);
    };
    let text = |field: &str| match fields.get(field) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.as_str()),
        Some(other) => Err(Problem::new(FieldPath::of(&[field]), format!("expected text, found {other}"))),
        None => Err(Problem::new(FieldPath::of(&[field]), "is missing: every Kubernetes object has `apiVersion` and `kind`")),
    };
    let (api_version, kind) = match (text("apiVersion"), text("kind")) {
        (Ok(api_version), Ok(kind)) => (api_version, kind),
        (first, second) => return Decoded::Refused(None, first.err().into_iter().chain(second.err()).collect()),
    };
    let Some(known) = Kind::of(api_version, kind) else {
        return Decoded::Unknown { api_version: excerpt(api_version), kind: excerpt(kind) };
    };
    let decoded = match known {
        Kind::Namespace => workload::namespace(value),
        Kind::Pod => workload::pod(value),
        Kind::Service => service::service(value),
        Kind::EndpointSlice => slice::slice(value),
        Kind::HttpRoute => gateway::http_route(value),
        Kind::GrpcRoute => gateway::grpc_route(value),
        Kind::TlsRoute => gateway::tls_route(value),
        Kind::TcpRoute => gateway::tcp_route(value),
        Kind::TrafficPolicy => policy::policy(value),
        Kind::BackendTlsPolicy => backend_tls::policy(value),
        Kind::BackendTrafficPolicy => backend_traffic::policy(value),
        Kind::ConfigMap => backend_tls::config_map(value),
    };
    match decoded {
        Ok((object, problems)) => Decoded::Object(object, problems),
        Err(problems) => Decoded::Refused(key_of(known, value), problems),
    }
}

/// The key of an object that could not be read, so that its last good version can go on serving.
fn key_of(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let name = metadata.get("name")?.as_str()?;
    let namespace = match (kind, metadata.get("namespace")) {
        (Kind::Namespace, _) => "",
        (_, Some(namespace)) => namespace.as_str()?,
        (_, None) => DEFAULT_NAMESPACE,
    };
    Some(ObjectKey { kind, namespace: namespace.into(), name: name.into() })
}

/// What reading an object gives: it, with the problems that spoil parts of it, or all reasons why it is refused.
type Read = Result<(Object, Vec<Problem>), Vec<Problem>>;
