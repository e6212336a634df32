//! The cryptography that Weir uses.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};

/// The one provider of the process: aws-lc-rs, TLS 1.3 cipher suites only.
///
/// Key exchange is X25519MLKEM768 first: what is recorded today stays secret when somebody has a quantum computer. X25519
/// and P-256 stand behind it for control planes and proxies that do not know it. AES-128-GCM is first because every server
/// processor has AES instructions; ChaCha20 serves the ones that do not.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        })
    }))
}
