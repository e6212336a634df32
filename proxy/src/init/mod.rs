//! `weir-proxy init`: writes the rules that redirect a workload's traffic into its sidecar, and exits.
//!
//! It runs in the workload's network namespace before anything else does, once per pod, as the only part of the mesh with a
//! capability (`CAP_NET_ADMIN`). Settings become a [`ruleset`] as data; that is printed as an nft script (`--dry-run`) or
//! encoded as one [`batch`] of netlink messages, which the [`kernel`] takes whole or not at all. No `nft` program is needed.
//!
//! The rules live in a table of their own, `inet weir`. What others wrote is neither read nor changed, and running again
//! replaces the table in one step, so that no connection ever sees half of it.
//!
//! Exit codes: 0 when the rules are in place, 1 when the kernel refuses them, 2 for settings that are wrong.

mod batch;
mod kernel;
mod lists;
mod ruleset;
mod settings;

use std::io::Write as _;
use std::process::ExitCode;

pub(crate) use ruleset::CHECK_PORT;
pub(crate) use settings::{Flags, Settings};

use batch::Batch;
use ruleset::{Ruleset, TABLE};
use settings::Action;

/// Does what the settings ask for.
pub(crate) fn run(settings: &Settings) -> ExitCode {
    let change = match settings.action {
        Action::Redirect => Change::Replace(Ruleset::new(settings)),
        Action::Remove => Change::Remove,
    };
    let done = if settings.dry_run { print(&change) } else { write(&change) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("weir-proxy init: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// What happens to the table.
enum Change {
    /// It is made anew with these rules, in place of the one that may be there.
    Replace(Ruleset),
    /// It is taken away, if it is there.
    Remove,
}

impl Change {
    /// As an input of `nft -f`.
    fn script(&self) -> String {
        // A table can only be deleted if it is there, and adding one that is there changes nothing.
        let removed = format!("add table {TABLE}\ndelete table {TABLE}\n");
        match self {
            Self::Replace(ruleset) => format!("{removed}{ruleset}"),
            Self::Remove => removed,
        }
    }
}

fn print(change: &Change) -> Result<(), String> {
    let written = std::io::stdout().lock().write_all(change.script().as_bytes());
    written.map_err(|error| format!("the rules cannot be printed: {error}"))
}

fn write(change: &Change) -> Result<(), String> {
    let (batch, done) = match change {
        Change::Replace(ruleset) => (Batch::replace(ruleset), ruleset.summary()),
        Change::Remove => (Batch::remove(), format!("table {TABLE} is gone; nothing is redirected")),
    };
    kernel::commit(&batch).map_err(|refused| refused.to_string())?;
    eprintln!("weir-proxy init: {done}");
    Ok(())
}
