//! Weir's sidecar proxy: it stands beside one workload and carries everything that the workload sends and receives.
//!
//! A process has one thread per core that carries traffic (`worker`), and one for everything else (`control`). They share
//! one value (`shared`): the control thread writes configuration and certificates, the workers read them without waiting.
//!
//! Read `process` first, which starts and ends the threads. Then a request's way: `listen`, `outbound`, `pool`,
//! `inbound`; and a configuration's way: `control`.

mod admin;
mod body;
mod cluster;
mod control;
mod exchange;
mod fault;
mod guarded;
mod http;
mod inbound;
mod init;
mod io;
mod listen;
mod logging;
mod metrics;
mod outbound;
mod pool;
mod probe;
mod process;
mod settings;
mod shared;
mod slots;
mod tee;
mod worker;

pub use control::decode;
pub use process::main;
