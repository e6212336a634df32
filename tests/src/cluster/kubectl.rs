//! `kubectl`, as a user runs it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::binaries;

/// The script that has the cluster in its hands.
#[must_use]
pub fn script() -> PathBuf {
    binaries::workspace().join("tests/cluster/cluster")
}

/// A command of the script.
#[must_use]
pub fn cluster(arguments: &[&str]) -> Command {
    let mut command = Command::new(script());
    command.args(arguments);
    command
}

/// kubectl with these arguments.
#[must_use]
pub fn kubectl(arguments: &[&str]) -> Command {
    cluster(&[&["kubectl"], arguments].concat())
}

/// Runs a command to its end, with `input` on its standard input, without blocking the test's runtime.
///
/// # Errors
///
/// When it fails: its arguments and what it wrote.
pub async fn run(command: Command, input: Option<String>) -> Result<String, String> {
    tokio::task::spawn_blocking(move || run_now(command, input)).await.map_err(|error| error.to_string())?
}

/// Runs a command to its end.
///
/// # Errors
///
/// When it fails: its arguments and what it wrote.
pub fn run_now(mut command: Command, input: Option<String>) -> Result<String, String> {
    let shown = shown(&command);
    let output = with_input(&mut command, input).map_err(|error| format!("{shown}: {error}"))?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    Err(format!("{shown} ({}): {}{out}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn with_input(command: &mut Command, input: Option<String>) -> std::io::Result<Output> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pipe = child.stdin.take();
    let writer = std::thread::spawn(move || {
        // A program that ends before it has read everything says so by its status.
        if let (Some(mut pipe), Some(input)) = (pipe, input) {
            let _ = pipe.write_all(input.as_bytes());
        }
    });
    let output = child.wait_with_output();
    let _ = writer.join();
    output
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// What kubectl says in JSON.
///
/// # Errors
///
/// When it fails or says something else.
pub async fn json(arguments: &[&str]) -> Result<Value, String> {
    let text = run(kubectl(&[arguments, &["-o", "json"]].concat()), None).await?;
    serde_json::from_str(&text).map_err(|error| format!("kubectl {} says no JSON: {error}", arguments.join(" ")))
}
