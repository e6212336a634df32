//! Every decision of the mesh as pure code.
//!
//! No sockets, no runtime, no clock and no dice live here: time comes in as a [`clock::Moment`] or a `SystemTime`, randomness
//! as a seeded [`fastrand::Rng`]. The servers of Weir are thin shells that read bytes, ask this crate what to do, and do it.
//!
//! A request's way through the crate, in the order to read it:
//!
//! 1. [`sniff`] looks at a connection's first bytes and says what they are.
//! 2. [`names`] turns what the client wrote into a service, a port, an identity.
//! 3. [`snapshot`] holds the configuration; it is immutable and replaced whole.
//! 4. [`route`] finds the rule and the backend for a request.
//! 5. [`balance`] picks the endpoint; [`outlier`] keeps it away from sick ones.
//! 6. [`retry`], [`budget`], [`backoff`] and [`deadline`] say whether and when to try again.
//! 7. [`backend_tls`] says how an endpoint outside the mesh is reached by TLS.
//! 8. [`authz`] decides on the other side whether the request may enter.
//!
//! [`hop`] removes the headers that a message does not carry on. [`reason`] is the closed list of what the mesh answers by
//! itself. [`rotation`] decides when certificates are renewed.

pub mod authz;
pub mod backend_tls;
pub mod backoff;
pub mod balance;
pub mod budget;
pub mod clock;
pub mod deadline;
pub mod hop;
pub mod names;
pub mod outlier;
pub mod policy;
pub mod reason;
pub mod retry;
pub mod rotation;
pub mod route;
pub mod session;
pub mod snapshot;
pub mod sniff;
