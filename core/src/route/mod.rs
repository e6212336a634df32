//! Which rule a request falls under, and which backend gets it.
//!
//! [`RouteTable::new`] compiles the rules of all routes attached to one service port once, when the configuration arrives;
//! [`RouteTable::find`] is what each request pays. The order of rules is the Gateway API's ("most specific wins"), and it is a
//! derived comparison: see [`precedence`].

pub mod decide;
pub mod explain;
pub mod filter;
pub mod matching;
pub mod mirror;
pub mod model;
pub mod precedence;
pub mod split;
pub mod stream;
pub mod table;

pub use mirror::{Mirror, Share};
pub use model::*;
pub use stream::{HostPattern, StreamRule, StreamTable};
pub use table::{Found, RouteTable};
