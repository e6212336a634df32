//! Mutual TLS by SPIFFE identity, for every part of Weir.
//!
//! What comes in: a certificate with its key ([`Credentials`]), the roots of the mesh ([`Roots`]) and whom to accept
//! ([`Accept`], [`ClientAuth`]). What goes out: configurations for rustls ([`server_config`], [`client_config`]) that speak
//! TLS 1.3 only, exchange keys with X25519MLKEM768, and know the other side by its SPIFFE id, never by a host name.
//!
//! Read [`config`] first: it puts the parts together. [`verify`] decides who is let in, [`peer`] reads identities out of
//! certificates, [`mod@refusal`] turns a failed handshake into a reason and a sentence for a log.

pub mod alpn;
pub mod backend;
pub mod config;
pub mod credentials;
mod error;
pub mod peer;
mod provider;
pub mod refusal;
mod request;
mod roots;
mod sessions;
mod utc;
pub mod verify;

pub use backend::{backend_config, backend_server_name, ca_certificates, explain_backend};
pub use config::{ClientAuth, client_config, server_config, server_name};
pub use credentials::Credentials;
pub use error::TlsError;
pub use peer::{control_plane_identity, peer_identity};
pub use provider::provider;
pub use refusal::{Refusal, explain, refusal};
pub use request::KeyRequest;
pub use roots::{RootSubject, Roots};
pub use utc::Utc;
pub use verify::Accept;
