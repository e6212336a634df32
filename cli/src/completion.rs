//! `weir completion SHELL`: a script that teaches a shell to complete `weir`'s command line.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

/// The command line of `weir completion`.
#[derive(Args)]
#[command(after_help = "Examples:\n  source <(weir completion bash)\n  weir completion zsh > \"${fpath[1]}/_weir\"\n  \
                        weir completion fish > ~/.config/fish/completions/weir.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionArgs) -> ExitCode {
    match io::stdout().write_all(&script(args.shell)) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader had enough (`weir completion bash | head`): its right.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: the completion script could not be written to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut public(&crate::Cli::command()), "weir", &mut script);
    script
}

/// The command without its hidden subcommands, which the generators would offer.
fn public(full: &Command) -> Command {
    let mut command = Command::new("weir").version(env!("CARGO_PKG_VERSION")).args(full.get_arguments().cloned());
    for subcommand in full.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        command = command.subcommand(subcommand.clone());
    }
    command
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_the_public_commands_and_no_hidden_one() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            for command in ["demo", "inject", "install", "uninstall", "check", "completion"] {
                assert!(script.contains(command), "{shell}: {command}: {script}");
            }
            assert!(!script.contains("demo-app") && !script.contains("demo-child"), "{shell}: {script}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        crate::Cli::command().debug_assert();
    }
}
