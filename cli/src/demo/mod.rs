//! `weir demo`: a whole mesh on one machine, watched while it is changed and broken.
//!
//! Real processes throughout: a control plane on a directory of manifests, and for each Pod in it an app and a sidecar. Read
//! [`stage`] for how they are put together, [`story`] for what is done to them, [`claims`] for what must come out. The view is
//! drawn here, from the facts of [`scene`], which the [`load`] and the sidecars' [`counters`] feed.

mod app;
mod block;
mod child;
mod claims;
mod client;
mod counters;
mod fleet;
mod load;
mod manifest;
mod scene;
mod screen;
mod stage;
mod story;
mod tally;
mod view;
mod weights;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

pub(crate) use app::{AppArgs, run_app};
pub(crate) use child::{ChildArgs, run_child};

use claims::Findings;
use client::Client;
use fleet::{Fleet, FleetError, Programs};
use load::Load;
use manifest::Workload;
use scene::{Health, Mark, Scene};
use screen::Screen;
use stage::{Stage, StageError};
use story::{STEPS, Story, StoryError};
use view::{Hint, Row, View};

/// The whole story takes about twenty seconds; a run of `--once` ends within forty.
const STORY_LIMIT: Duration = Duration::from_secs(28);
/// How long outstanding requests are waited for at the end. A little more than the load's own patience.
const OUTSTANDING_LIMIT: Duration = Duration::from_secs(11);
/// How often the sidecars' metrics are read.
const SCRAPE_EVERY: Duration = Duration::from_millis(500);
/// What rates and percentiles on the screen are made of.
const SHOWN_SPAN: Duration = Duration::from_secs(2);
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// The command line of `weir demo`.
#[derive(Args)]
#[command(
    after_help = "The demo needs weir-proxy and weir-control-plane, beside weir or in WEIR_BIN_DIR, and Linux. It listens \
                        on addresses of 127.0.0.0/8 only, and its processes end when it does."
)]
pub(crate) struct DemoArgs {
    /// Tell the story once, print a line about it, and exit with 0 only if every claim held
    #[arg(long, env = "WEIR_DEMO_ONCE")]
    once: bool,
    /// Run the workloads of a directory of manifests instead, without the story, until Ctrl-C
    #[arg(long, value_name = "DIR", env = "WEIR_DEMO_MANIFESTS", conflicts_with_all = ["once", "rate"])]
    manifests: Option<PathBuf>,
    /// Requests a second
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(100..=5_000), env = "WEIR_DEMO_RATE")]
    rate: u32,
    /// Use the addresses 127.N.0.0/16 instead of the first block that is free
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=254), env = "WEIR_DEMO_BLOCK")]
    block: Option<u8>,
    /// Where weir-proxy and weir-control-plane are
    #[arg(long, value_name = "DIR", env = "WEIR_BIN_DIR")]
    bin_dir: Option<PathBuf>,
}

/// Why there was no demo.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("the demo's own runtime or signals could not be set up: {0}")]
    System(#[from] io::Error),
}

/// Runs the demo.
pub(crate) fn run(args: DemoArgs) -> ExitCode {
    // One thread: the kernel ties the processes to the one that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DemoError::from);
    match runtime.and_then(|runtime| runtime.block_on(prepare_and_play(args))) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("weir demo: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn prepare_and_play(args: DemoArgs) -> Result<ExitCode, DemoError> {
    let mut stop = Stop::new()?;
    let programs = Programs::find(args.bin_dir.as_deref())?;
    let (origin, files) = match &args.manifests {
        Some(directory) => (directory.as_path(), manifest::read_files(directory).map_err(StageError::from)?),
        None => (Path::new("examples/canary"), stage::canary()),
    };
    let weir = programs.weir.clone();
    let stage = Stage::prepare(origin, &files, args.block, programs)?;
    let mut fleet = Fleet::new(weir, stage.path("logs"));
    let ending = match args.manifests {
        Some(_) => play_workloads(&stage, &mut fleet, &mut stop).await,
        None => play_story(&args, &stage, &mut fleet, &mut stop).await,
    };
    fleet.kill_all().await;
    if ending.keep_logs {
        eprintln!("weir demo: the logs of every process are in {}", stage.keep().display());
    }
    Ok(ending.code)
}

struct Ending {
    code: ExitCode,
    keep_logs: bool,
}

/// Runs workloads until somebody has seen enough.
async fn play_workloads(stage: &Stage, fleet: &mut Fleet, stop: &mut Stop) -> Ending {
    let scene = Scene::new();
    let mut screen = Screen::plain();
    let lived = async {
        stage.start(fleet, &scene).await?;
        screen.print(&format!("weir demo: {} workloads run, each behind its own sidecar", stage.workloads().len()));
        for line in directory_of_addresses(stage) {
            screen.print(&line);
        }
        screen.print("Ctrl-C ends everything.");
        loop {
            if let Some(error) = fleet.ended_error() {
                screen.print(&format!("{error}"));
            }
            tokio::time::sleep(SCRAPE_EVERY).await;
        }
    };
    tokio::select! {
        result = lived => {
            let result: Result<(), FleetError> = result;
            if let Err(error) = result {
                eprintln!("weir demo: {error}");
            }
            Ending { code: ExitCode::FAILURE, keep_logs: true }
        }
        () = stop.asked() => Ending { code: ExitCode::SUCCESS, keep_logs: false },
    }
}

fn directory_of_addresses(stage: &Stage) -> Vec<String> {
    let width = stage.workloads().iter().map(|workload| workload.name.len()).max().unwrap_or_default().max("workload".len());
    let mut lines = vec![
        format!("  manifests      {}", stage.manifests().display()),
        format!("  control plane  http://{}/metrics", stage.control_plane_http()),
        String::new(),
        format!("  {:<width$}  {:<24}  {:<26}  {}", "workload", "reached at", "calls others through", "its sidecar's pages"),
    ];
    for workload in stage.workloads() {
        let reached = format!("http://{}/", workload.inbound());
        let calls = format!("-x http://{}", workload.outbound());
        lines.push(format!("  {:<width$}  {reached:<24}  {calls:<26}  http://{}/metrics", workload.name, workload.admin()));
    }
    lines.push(String::new());
    lines
}

/// Tells the story; without `--once` the mesh and the load then go on.
async fn play_story(args: &DemoArgs, stage: &Stage, fleet: &mut Fleet, stop: &mut Stop) -> Ending {
    let scene = Scene::new();
    let mut screen = Screen::new();
    let mut findings = Findings::default();
    let mut load = None;
    let mut scrapes = JoinSet::new();
    for workload in stage.workloads() {
        scrapes.spawn(scrape_on(workload.clone(), scene.clone()));
    }
    let interrupted = {
        let performance = perform(args, stage, fleet, &scene, &mut findings, &mut load);
        tokio::pin!(performance);
        let mut redraw = tokio::time::interval(screen.period());
        loop {
            tokio::select! {
                biased;
                () = stop.asked() => break true,
                () = &mut performance => break false,
                _ = redraw.tick() => screen.show(&look(stage, &scene)),
            }
        }
    };
    if let Some(load) = load {
        tokio::select! {
            () = stop.asked() => {}
            _ = tokio::time::timeout(OUTSTANDING_LIMIT, load.stop()) => {}
        }
    }
    if args.once {
        scrapes.shutdown().await;
        for workload in stage.workloads() {
            scrape(&admin_client(workload), workload, &scene).await;
        }
        close(&mut findings, &scene);
    }
    screen.show(&look(stage, &scene));
    conclude(&findings, interrupted, &scene, &mut screen)
}

/// Says how it went.
fn conclude(findings: &Findings, interrupted: bool, scene: &Scene, screen: &mut Screen) -> Ending {
    let told = findings.broke_off.is_some() || findings.restart.is_some();
    if interrupted && !told {
        screen.print("weir demo: ended before the story was over");
        return Ending { code: ExitCode::from(INTERRUPTED), keep_logs: false };
    }
    let broken: Vec<_> = findings.claims(&STEPS).into_iter().filter(|claim| !claim.held).collect();
    screen.print(&findings.summary());
    let mut all = findings.clone();
    close(&mut all, scene);
    if all.requests > findings.requests {
        let [more, failed] = [all.requests - findings.requests, all.failures - findings.failures];
        screen.print(&format!("and after the story: {more} requests, {failed} failed"));
    }
    if broken.is_empty() {
        return Ending { code: ExitCode::SUCCESS, keep_logs: false };
    }
    eprintln!("weir demo: what did not hold:");
    for claim in broken {
        eprintln!("  {}", claim.text);
    }
    for (at, reason) in &scene.facts().tally.first_failures {
        eprintln!("  failed request, {:.3} s after the start: {reason}", at.since_start().as_secs_f64());
    }
    Ending { code: ExitCode::FAILURE, keep_logs: true }
}

/// The performance itself: it ends after the story with `--once`, or if the story breaks off then; never otherwise.
async fn perform(
    args: &DemoArgs,
    stage: &Stage,
    fleet: &mut Fleet,
    scene: &Scene,
    findings: &mut Findings,
    load: &mut Option<Load>,
) {
    let told = tokio::time::timeout(STORY_LIMIT, tell(args, stage, fleet, scene, findings, load)).await;
    findings.broke_off = match told {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("it was not over after {STORY_LIMIT:?}")),
    };
    close(findings, scene);
    match &findings.broke_off {
        None => scene.tell(Mark::Held, format!("the end: {} requests, {} failed", findings.requests, findings.failures)),
        Some(reason) => scene.tell(Mark::Broken, reason.lines().next().unwrap_or_default()),
    }
    if args.once || load.is_none() {
        return;
    }
    scene.facts().hints = hints(stage);
    loop {
        if let Some((process, status)) = fleet.ended() {
            scene.facts().set_health(stage::owner(&process), Health::Down);
            scene.tell(Mark::Act, format!("{process} ended ({status})"));
        }
        tokio::time::sleep(SCRAPE_EVERY).await;
    }
}

async fn tell(
    args: &DemoArgs,
    stage: &Stage,
    fleet: &mut Fleet,
    scene: &Scene,
    findings: &mut Findings,
    load: &mut Option<Load>,
) -> Result<(), StoryError> {
    scene.tell(Mark::Act, "starting the control plane, and a sidecar and an app for each workload");
    stage.start(fleet, scene).await?;
    let frontend = stage.workload("frontend").ok_or(StoryError::NoPod("frontend"))?;
    scene.tell(Mark::Held, format!("all ready; {} requests a second go to http://{}/", args.rate, frontend.inbound()));
    *load = Some(Load::start(frontend.inbound(), args.rate, scene.clone()));
    Story { stage, fleet, scene, findings, rate: args.rate }.tell().await
}

/// Takes the numbers of now into the findings.
fn close(findings: &mut Findings, scene: &Scene) {
    let facts = scene.facts();
    findings.requests = facts.tally.requests;
    findings.failures = facts.tally.failures;
    findings.traffic = facts.traffic();
}

/// What there is to see right now.
fn look(stage: &Stage, scene: &Scene) -> View {
    // An editor may be half-way through writing it: then the last weights that made sense stay.
    let wanted = fs::read_to_string(stage.route()).map(|text| manifest::split(&text)).unwrap_or_default();
    let now = scene.now();
    let mut facts = scene.facts();
    if !wanted.is_empty() {
        facts.wanted = wanted;
    }
    let window = facts.tally.window(now, SHOWN_SPAN);
    let row = |(version, backend): (&str, &str)| Row {
        version: version.to_owned(),
        wanted: facts.wanted_percent(backend),
        seen: window.versions.get(version).copied().unwrap_or_default(),
    };
    let rows = [(story::STABLE_VERSION, story::STABLE), (story::CANARY_VERSION, story::CANARY)].map(row).to_vec();
    View {
        rows,
        clock: now.since_start(),
        network: stage.network(),
        workloads: stage.workloads().len(),
        requests: facts.tally.requests,
        failures: facts.tally.failures,
        traffic: facts.traffic(),
        processes: facts.processes.clone(),
        events: facts.events.clone(),
        hints: facts.hints.clone(),
        window,
    }
}

/// Commands that work as long as the demo runs.
fn hints(stage: &Stage) -> Vec<Hint> {
    let Some(frontend) = stage.workload("frontend") else {
        return Vec::new();
    };
    let hint = |meaning, command| Hint { meaning, command };
    vec![
        hint("a call", format!("curl -x http://{} http://catalog.shop/", frontend.outbound())),
        hint("the split", format!("${{EDITOR:-vi}} {}", stage.route().display())),
        hint("metrics", format!("curl http://{}/metrics", frontend.admin())),
        hint("endpoints", format!("curl http://{}/clusters", frontend.admin())),
        hint("control plane", format!("curl http://{}/metrics", stage.control_plane_http())),
        hint("all logs", format!("ls {}", stage.path("logs").display())),
    ]
}

/// Reads a sidecar's counters until it is cancelled.
async fn scrape_on(workload: Workload, scene: Scene) {
    let client = admin_client(&workload);
    loop {
        tokio::time::sleep(SCRAPE_EVERY).await;
        scrape(&client, &workload, &scene).await;
    }
}

fn admin_client(workload: &Workload) -> Client {
    Client::new(workload.admin(), Duration::from_secs(2))
}

/// Reads a sidecar's counters. One that is gone keeps those it had.
async fn scrape(client: &Client, workload: &Workload, scene: &Scene) {
    let Ok(request) = client::origin(workload.admin(), "/metrics") else { return };
    if let Ok(response) = client.send(request).await {
        let counters = counters::read(&String::from_utf8_lossy(response.body()), workload.service == "frontend");
        scene.facts().counters.insert(workload.name.clone(), counters);
    }
}

/// Somebody asks for the end: Ctrl-C, SIGTERM, or the terminal has gone.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_core::clock::Moment;

    use super::*;
    use tally::Sample;

    fn concluded(findings: &Findings, interrupted: bool, scene: &Scene) -> (String, bool) {
        let ending = conclude(findings, interrupted, scene, &mut Screen::plain());
        (format!("{:?}", ending.code), ending.keep_logs)
    }

    #[test]
    fn a_demo_that_is_stopped_early_is_neither_good_nor_bad() {
        let expected = (format!("{:?}", ExitCode::from(INTERRUPTED)), false);
        assert_eq!(concluded(&Findings::default(), true, &Scene::new()), expected);
    }

    #[test]
    fn a_story_that_broke_off_fails_and_keeps_its_logs_even_if_more_was_seen_later() {
        let scene = Scene::new();
        scene.facts().tally.record(Sample { sent: Moment::START, ended: Moment::START, end: Err("status 503".to_owned()) });
        let findings = Findings { broke_off: Some("a sidecar ended".to_owned()), ..Findings::default() };
        for interrupted in [true, false] {
            assert_eq!(concluded(&findings, interrupted, &scene), (format!("{:?}", ExitCode::FAILURE), true));
        }
    }
}
