//! Bytes in and out: streams that give back what was sniffed, writes that are gathered, and the copying of opaque connections.

pub(crate) mod coalesce;
pub(crate) mod copy;
pub(crate) mod kept;
pub(crate) mod local;
pub(crate) mod prefixed;
pub(crate) mod upgraded;
