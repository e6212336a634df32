//! The control plane's program. Everything is in the library, so that tests can reach it.

use std::process::ExitCode;

use clap::Parser;
use weir_control_plane::settings::Flags;
use weir_control_plane::{logging, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit codes: 0 after a stop that was asked for, 1 for a failure, 2 for settings that cannot be used.
fn main() -> ExitCode {
    let settings = match Flags::parse().check() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    logging::start(&settings);
    match run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
