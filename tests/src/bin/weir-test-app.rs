//! The program in the pods of the cluster's scenarios: an ordinary server, a load, a call. See `weir_tests::test_app`.
#![expect(clippy::print_stdout, reason = "a summary is what the program is run for")]

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use weir_tests::test_app::{CONTROL_PORT, control, load, serve};

/// An application that knows nothing of a mesh
#[derive(Parser)]
#[command(name = "weir-test-app", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP, HTTPS, gRPC and TCP until SIGTERM
    #[command(aliases = ["netexec", "grpc-health-checking"])]
    Serve(serve::Settings),
    /// Send requests at a rate and say what became of them, as JSON
    Load(load::Settings),
    /// Make one call, at once and without a second try, and print its answer
    Call(load::Message),
    /// As an exec probe: succeed if the call does, and print nothing
    Probe(load::Message),
    /// Wait for SIGTERM, then send requests for this many seconds and say what became of them
    CallAfterSigterm {
        /// How long
        seconds: u64,
        #[command(flatten)]
        load: load::Settings,
    },
    /// Say a word to the program that runs in this pod: fail-ready, fail-live, deaf, mend; to a load: summary, stop
    Tell {
        /// The word
        word: String,
        /// Port of its control page
        #[arg(long, default_value_t = CONTROL_PORT)]
        control: u16,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Box::pin(run(Cli::parse().command)).await {
        Ok(text) => {
            if !text.is_empty() {
                println!("{}", text.trim_end());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What is to be printed, or why it failed. A load that lost something prints its summary and fails.
async fn run(command: Command) -> Result<String, String> {
    match command {
        Command::Serve(settings) => serve::run(settings).await.map(|()| String::new()),
        Command::Load(settings) => judged(&load::run(settings).await?),
        Command::Call(message) => message.call()?.once().await,
        Command::Probe(message) => message.call()?.once().await.map(|_| String::new()),
        Command::CallAfterSigterm { seconds, load } => {
            judged(&load::run_after_sigterm(load, Duration::from_secs(seconds)).await?)
        }
        Command::Tell { word, control } => control::tell(control, &word).await,
    }
}

fn judged(summary: &load::Summary) -> Result<String, String> {
    if summary.failed == 0 {
        return Ok(summary.json());
    }
    println!("{}", summary.json());
    Err(format!("{} of {} requests failed", summary.failed, summary.sent))
}
