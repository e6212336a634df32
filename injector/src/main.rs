//! The injector's program. Everything is in the library, so that tests can reach it.

use std::process::ExitCode;

use clap::Parser;
use weir_injector::flags::Flags;
use weir_injector::{logging, run};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit codes: 0 after a stop that was asked for, 1 for a failure, 2 for settings that cannot be used.
fn main() -> ExitCode {
    let checked = match Flags::parse().check() {
        Ok(checked) => checked,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    logging::start(&checked);
    match run::run(checked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
