//! `weir-bench-load`: requests at a fixed rate, whether or not the answers keep up.
//!
//! What comes in: a rate, a time, a number of connections and a URL. What goes out: one line of JSON with counts and
//! latencies in microseconds.
//!
//! A generator that waits for an answer before it sends the next request sends fewer of them just when the server is slow, and so
//! leaves out the latencies that matter (coordinated omission). Here every request has a time at which it is due, and its
//! latency counts from then on, also if no connection was free to send it. Read `timer.rs`, `client.rs` and `summary.rs` next.

mod client;
mod summary;
mod timer;

use std::cell::Cell;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Parser;
use http::{HeaderName, HeaderValue, Uri};
use tokio::task::LocalSet;

use client::{Client, Target};
use summary::Tally;
use timer::Timer;

/// More connections than this is a mistake, and each has a timer of its own: one file descriptor.
const MAX_CONNECTIONS: u64 = 4096;

/// Between the moment when the connections are open and the first request, so that no handshake is in its latency.
const LEAD: Duration = Duration::from_millis(20);

/// Send HTTP/1.1 requests at a fixed rate and measure each from the time it was due
#[derive(Parser)]
#[command(name = "weir-bench-load", version, max_term_width = 100)]
struct Args {
    /// Requests per second
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// For how many seconds requests are due
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Connections that are kept open; a request waits for a free one
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    connections: u64,
    /// A header of every request, as `name: value`; may be given several times
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What is asked for: http://HOST[:PORT]/PATH
    url: Uri,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `name: value`")?;
    let name = name.trim().parse().map_err(|error| format!("{name:?}: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{value:?}: {error}"))?;
    Ok((name, value))
}

/// When each request is due. The connections take turns at the requests: whichever is free takes the next one.
struct Schedule {
    start: Instant,
    rate: u64,
    total: u64,
    next: Cell<u64>,
}

impl Schedule {
    /// When the next request is due, or `None` after the last one.
    fn take(&self) -> Option<Instant> {
        let index = self.next.get();
        if index >= self.total {
            return None;
        }
        self.next.set(index + 1);
        let nanos = u128::from(index) * 1_000_000_000 / u128::from(self.rate);
        Some(self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let tasks = LocalSet::new();
        tasks.block_on(&runtime, run(args))
    });
    match result.and_then(|line| writeln!(std::io::stdout(), "{line}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "weir-bench-load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> std::io::Result<String> {
    let target = Rc::new(Target::new(&args.url, args.headers)?);
    let mut clients = Vec::new();
    for _ in 0..args.connections {
        clients.push((Client::connect(&target).await?, Timer::new()?));
    }
    let schedule =
        Rc::new(Schedule { start: Instant::now() + LEAD, rate: args.rate, total: args.rate * args.seconds, next: Cell::new(0) });
    let running: Vec<_> =
        clients.into_iter().map(|(client, timer)| tokio::task::spawn_local(drive(client, timer, schedule.clone()))).collect();
    let mut tally = Tally::default();
    for task in running {
        tally.add(task.await.map_err(std::io::Error::other)??);
    }
    Ok(tally.summary(schedule.total, schedule.start.elapsed()).to_string())
}

/// One connection: takes the next request that is due, waits for its time, sends it, and reads the answer to its end.
async fn drive(mut client: Client, mut timer: Timer, schedule: Rc<Schedule>) -> std::io::Result<Tally> {
    let mut tally = Tally::default();
    while let Some(due) = schedule.take() {
        timer.until(due).await?;
        match client.request().await {
            Ok(bytes) => tally.answer(due.elapsed(), bytes),
            Err(error) => tally.error(&error),
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_and_only_so_many() {
        let start = Instant::now();
        let schedule = Schedule { start, rate: 4, total: 3, next: Cell::new(0) };
        let due: Vec<_> = std::iter::from_fn(|| schedule.take()).map(|at| (at - start).as_millis()).collect();
        assert_eq!(due, [0, 250, 500]);
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(header("Host: web.bench").unwrap(), ("host".parse().unwrap(), "web.bench".parse().unwrap()));
        assert!(header("Host").is_err());
        assert!(header("a b: c").is_err());
    }
}
