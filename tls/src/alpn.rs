//! The application protocols (ALPN, RFC 7301) by which one side of the mesh knows the other.

/// HTTP in HTTP/2 frames, multiplexed.
pub const HTTP2: &[u8] = b"weir/h2";

/// Bytes of one connection as they are, without frames.
pub const TCP: &[u8] = b"weir/tcp";

/// Plain HTTP/2, for gRPC with the control plane (RFC 9113, section 3.2).
pub const GRPC: &[u8] = b"h2";
