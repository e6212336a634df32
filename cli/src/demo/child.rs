//! `weir demo-child`: runs a program that must not outlive the demo.
//!
//! The kernel is asked to kill this process when its parent ends, however the parent ends: by Ctrl-C, a panic, `kill -9`. That
//! wish survives `exec`, so the program then simply takes this process's place, pid and all.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Args;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The command line of `weir demo-child`.
#[derive(Args)]
pub(crate) struct ChildArgs {
    /// Pid of the demo
    #[arg(long)]
    parent: i32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program. Returns only if that fails.
pub(crate) fn run_child(args: &ChildArgs) -> ExitCode {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("weir: the kernel does not promise to end this process with the demo: {error}");
        return ExitCode::FAILURE;
    }
    // The parent may have ended before the wish was made; then this process has been given to another one.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != args.parent) {
        return ExitCode::FAILURE;
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return ExitCode::from(2);
    };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("weir: {} could not be started: {error}", program.to_string_lossy());
    ExitCode::FAILURE
}
