//! Configurations for rustls.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::sessions::Sessions;
use crate::verify::{VerifyClient, VerifyServer};
use crate::{Accept, Credentials, Roots, TlsError, provider};

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// No connection without one.
    Required,
    /// One that is presented must be good; none at all is let through without an identity.
    Optional,
}

/// The side that accepts connections. It shows `credentials`, and takes clients of the roots' trust domain.
///
/// Sessions can be resumed by tickets that only this configuration can read: one made for new roots or a new certificate starts
/// without them, so nobody resumes past a root that was withdrawn. The tickets' keys change every six hours.
///
/// # Errors
///
/// [`TlsError::Setup`] when rustls refuses.
pub fn server_config(
    credentials: &Credentials,
    roots: &Roots,
    auth: ClientAuth,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = Arc::new(VerifyClient::new(roots.clone(), auth)?);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(credentials.certified())));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer = Ticketer::new().map_err(setup)?;
    // Each resumed connection uses one ticket and brings one, so one keeps the store full; each costs both sides.
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// The side that opens connections. It shows `credentials` if it has any, sends no SNI, and takes whom `accept` names.
///
/// Sessions are kept by the server's name as given to rustls: see [`server_name`]. They belong to this configuration alone,
/// so what was verified for one `accept` never counts for another.
///
/// # Errors
///
/// [`TlsError::Setup`] when rustls refuses.
pub fn client_config(
    credentials: Option<&Credentials>,
    roots: &Roots,
    accept: Accept,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(VerifyServer::new(roots.clone(), accept)));
    let mut config = match credentials {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_sni = false;
    config.resumption = Resumption::store(Arc::new(Sessions::default()));
    Ok(Arc::new(config))
}

/// The name under which sessions with a server at this address are kept. It is neither sent nor verified.
#[must_use]
pub fn server_name(ip: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(ip.into())
}

#[expect(clippy::needless_pass_by_value, reason = "used as the argument of map_err")]
fn setup(error: rustls::Error) -> TlsError {
    TlsError::Setup(error.to_string())
}
