//! `weir`, the command of the Weir service mesh.
//!
//! What comes in: the command line. What goes out: text on stdout for people and pipes, errors on stderr, an exit code (0 for
//! done, 1 for a failure, 2 for a command line that makes no sense). Each subcommand has a module of its own; read [`demo`]
//! to see the whole mesh being put together by hand.

mod check;
mod cluster;
mod completion;
mod demo;
mod explain;
mod inject;
mod install;
mod uninstall;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Weir, a service mesh: mutual TLS, routing, retries and metrics for services that know nothing about it
#[derive(Parser)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole mesh on this machine and watch a canary being rolled out
    Demo(demo::DemoArgs),
    /// Put the sidecar into the pods and workloads of Kubernetes manifests: YAML in, YAML out
    Inject(inject::InjectArgs),
    /// Print the objects of an installation, as YAML for `kubectl apply -f -`
    Install(install::InstallArgs),
    /// Print what an installation consists of, as YAML for `kubectl delete -f -`
    Uninstall(uninstall::UninstallArgs),
    /// Say whether a cluster can take the mesh (--pre), or whether the mesh in it works, and what mends it
    Check(check::CheckArgs),
    /// Say what would become of a request, and why
    Explain(explain::ExplainArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// One app of the demo
    #[command(hide = true)]
    DemoApp(demo::AppArgs),
    /// One process of the demo that ends when the demo does
    #[command(hide = true)]
    DemoChild(demo::ChildArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Demo(args) => demo::run(args),
        Command::Inject(args) => inject::run(args),
        Command::Install(args) => install::run(&args),
        Command::Uninstall(args) => uninstall::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Completion(args) => completion::run(&args),
        Command::DemoApp(args) => demo::run_app(args),
        Command::DemoChild(args) => demo::run_child(&args),
    }
}
