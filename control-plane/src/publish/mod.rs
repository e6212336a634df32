//! From the objects to the proxies.
//!
//! ```text
//! events -> State (index + encoded resources) --broadcast(dirty)--> one Session per stream -> responses
//! ```
//!
//! [`state`] holds the only copy of everything and is changed in one place. Each proxy's stream has a [`session`] of its own: pure,
//! it knows what its proxy subscribed to, holds and refused, and makes the next response when it is asked. A session that is
//! waiting for its proxy collects names, not data, so a slow proxy costs a few bytes and receives the newest state when it is
//! ready. [`encode`] is the only place where the types of the mesh become messages.

pub mod encode;
pub mod hub;
pub mod proxies;
pub mod resources;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod state;
pub mod stream;
pub mod wire;

pub use hub::Hub;
