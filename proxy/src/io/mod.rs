//! Bytes in and out: streams that give back what was sniffed, writes that are gathered, ends that lose nothing, and the copying
//! of opaque connections.

pub(crate) mod coalesce;
pub(crate) mod copy;
pub(crate) mod farewell;
pub(crate) mod kept;
pub(crate) mod local;
pub(crate) mod prefixed;
pub(crate) mod upgraded;
