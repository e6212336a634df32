//! The protocols between Weir's control plane and its proxies, generated from `proto/weir/v1/*.proto`.
//!
//! `proto/README.md` has the rules that keep old proxies and new control planes talking to each other. Only two files turn
//! these messages into the types of `weir-core` and back: `control-plane/src/publish/encode.rs` and `proxy/src/control/decode.rs`.

/// Version 1 of the protocols.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; the documentation is in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("weir.v1");
}
