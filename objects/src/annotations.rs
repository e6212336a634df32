//! The annotations of the group `weir.dev` that the control plane reads.

use weir_core::authz::MtlsMode;

use super::field::{FieldPath, excerpt};
use super::port_set::PortSet;
use super::raw::Metadata;
use super::reader::Reader;

/// Whether plaintext from outside the mesh may enter: `permissive` or `strict`.
pub const MTLS: &str = "weir.dev/mtls";
/// Ports whose bytes are not looked at.
pub const OPAQUE_PORTS: &str = "weir.dev/opaque-ports";
/// A Pod that has it has a sidecar.
pub const MESHED: &str = "weir.dev/status";

/// What a Namespace says for its Pods, and a Pod for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyAnnotations {
    /// See [`MTLS`].
    pub mtls: Option<MtlsMode>,
    /// See [`OPAQUE_PORTS`].
    pub opaque_ports: Option<PortSet>,
}

impl PolicyAnnotations {
    pub(super) fn read(metadata: &Metadata, reader: &mut Reader) -> Self {
        Self { mtls: mtls(metadata, reader), opaque_ports: opaque_ports(metadata, reader) }
    }
}

/// A mode that cannot be read counts as the strict one: whoever wrote it meant to say something about security, and a slip of the
/// pen must not open a door.
fn mtls(metadata: &Metadata, reader: &mut Reader) -> Option<MtlsMode> {
    match metadata.annotations.get(MTLS)?.as_str() {
        "permissive" => Some(MtlsMode::Permissive),
        "strict" => Some(MtlsMode::Strict),
        other => {
            let message = "expected `permissive` or `strict`, and until it says so it means `strict`; found";
            reader.note(annotation(MTLS), format!("{message} `{}`", excerpt(other)));
            Some(MtlsMode::Strict)
        }
    }
}

pub(super) fn opaque_ports(metadata: &Metadata, reader: &mut Reader) -> Option<PortSet> {
    match metadata.annotations.get(OPAQUE_PORTS)?.parse() {
        Ok(set) => Some(set),
        Err(message) => {
            reader.note(annotation(OPAQUE_PORTS), message);
            None
        }
    }
}

fn annotation(name: &str) -> FieldPath {
    FieldPath::of(&["metadata", "annotations", name])
}
