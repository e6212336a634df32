//! The demo in text: a screen of 80 columns and 24 rows, or a line a second. Pure: facts in, text out.

use std::fmt::Write;
use std::time::Duration;

use super::claims::shown_percent;
use super::counters::Counters;
use super::scene::{Event, Health, Mark};
use super::tally::{VersionWindow, Window};

/// Everything fits this many columns.
const COLUMNS: usize = 80;
/// Width of the bar that shows a share.
const BAR: usize = 30;
/// Fewer events are never shown, however small the screen.
const MIN_EVENTS: usize = 3;

/// What is shown.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Since the start.
    pub(crate) clock: Duration,
    /// `127.N.0.0/16`.
    pub(crate) network: String,
    pub(crate) workloads: usize,
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    pub(crate) window: Window,
    pub(crate) traffic: Counters,
    pub(crate) rows: Vec<Row>,
    pub(crate) processes: Vec<(String, Health)>,
    pub(crate) events: Vec<Event>,
    pub(crate) hints: Vec<Hint>,
}

/// One version of the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) version: String,
    /// Percent that the route's file gives it.
    pub(crate) wanted: Option<f64>,
    pub(crate) seen: VersionWindow,
}

/// A command to try.
#[derive(Clone, Debug)]
pub(crate) struct Hint {
    /// What it is about, in a word or two.
    pub(crate) meaning: &'static str,
    pub(crate) command: String,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint {
    pub(crate) colours: bool,
}

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn verdict(self, good: bool, text: &str) -> String {
        if good { self.good(text) } else { self.bad(text) }
    }
}

/// The screen, as lines; at most `height` of them as long as the fixed part and a few events fit.
pub(crate) fn screen(view: &View, height: usize, paint: Paint) -> Vec<String> {
    let mut lines = vec![title(view, paint), String::new()];
    lines.extend(traffic(view, paint));
    lines.push(String::new());
    lines.push(paint.dim(&format!(" {:<8}{:>9}{:>10}  {:<BAR$}{:>9}{:>10}", "catalog", "wanted", "seen", "", "p50", "p99")));
    lines.extend(view.rows.iter().map(|row| version(row, paint)));
    lines.push(String::new());
    lines.extend(processes(&view.processes, paint));
    lines.push(String::new());
    let hints = hints(&view.hints, paint);
    let room = height.saturating_sub(lines.len() + hints.len()).max(MIN_EVENTS);
    let hidden = view.events.len().saturating_sub(room);
    lines.extend(view.events.iter().skip(hidden).map(|told| event(told, paint)));
    lines.extend(hints);
    lines
}

fn title(view: &View, paint: Paint) -> String {
    let what = format!("{} workloads, each behind its own sidecar, on {}", view.workloads, view.network);
    let clock = clock(view.clock);
    let gap = COLUMNS.saturating_sub(" weir demo   ".len() + what.chars().count() + clock.len() + 1);
    format!(" {}   {what}{:gap$}{clock}", paint.bold("weir demo"), "")
}

fn traffic(view: &View, paint: Paint) -> [String; 2] {
    let Counters { calls, retries, ejections, .. } = view.traffic;
    let share = view.traffic.mutual_share();
    let success = format!("success {:>6} %", shown_percent(view.window.success));
    let failed = format!("{} failed", grouped(view.failures));
    let mutual = format!("mTLS    {:>6} %", shown_percent(share));
    [
        format!(
            " {:<10}{:>5.0} per second   {}   {:>9} sent    {}",
            "requests",
            view.window.per_second,
            paint.verdict(view.window.success >= 100.0, &success),
            grouped(view.requests),
            paint.verdict(view.failures == 0, &failed),
        ),
        format!(
            " {:<10}{:>5} retries      {}   {:>9} calls   {ejections} {}",
            "mesh",
            grouped(retries),
            if calls == 0 { mutual } else { paint.verdict(share >= 100.0, &mutual) },
            grouped(calls),
            if ejections == 1 { "ejection" } else { "ejections" },
        ),
    ]
}

fn version(row: &Row, paint: Paint) -> String {
    let VersionWindow { share, p50, p99 } = row.seen;
    let wanted = row.wanted.map_or("?".to_owned(), |wanted| format!("{wanted:.0} %"));
    format!(
        "   {:<6}{wanted:>9}{:>10}  {}{:>9}{:>10}",
        row.version,
        format!("{share:.1} %"),
        bar(share, paint),
        milliseconds(p50),
        milliseconds(p99)
    )
}

fn bar(percent: f64, paint: Paint) -> String {
    let filled = (1..=BAR).take_while(|cell| *cell as f64 <= percent * BAR as f64 / 100.0 + 0.5).count();
    format!("{}{}", paint.with("36", &"█".repeat(filled)), paint.dim(&"░".repeat(BAR - filled)))
}

/// Every process with a sign, over as many lines as it takes.
fn processes(processes: &[(String, Health)], paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut width = 0;
    for (name, health) in processes {
        let needed = name.chars().count() + 4;
        if width + needed > COLUMNS && width > 0 {
            lines.push(std::mem::take(&mut line));
            width = 0;
        }
        width += needed;
        let sign = if *health == Health::Up { paint.good("●") } else { paint.bad("✗") };
        let name = if *health == Health::Up { name.clone() } else { paint.dim(name) };
        // Writing to a String does not fail.
        let _ = write!(line, " {sign} {name} ");
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// One event in one line, for either kind of output.
pub(crate) fn event(event: &Event, paint: Paint) -> String {
    let sign = match event.mark {
        Mark::Act => paint.bold("→"),
        Mark::Held => paint.good("✓"),
        Mark::Broken => paint.bad("✗"),
    };
    format!(" {} {sign} {}", paint.dim(&clock(event.at.since_start())), event.text)
}

/// Commands to try, for either kind of output.
pub(crate) fn hints(hints: &[Hint], paint: Paint) -> Vec<String> {
    if hints.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![String::new(), paint.bold(" To try in another terminal (Ctrl-C here ends everything):")];
    let width = hints.iter().map(|hint| hint.meaning.len()).max().unwrap_or_default();
    for Hint { meaning, command } in hints {
        lines.push(format!("   {}  {command}", paint.dim(&format!("{meaning:<width$}"))));
    }
    lines
}

/// The same facts in one line, for pipes and files.
pub(crate) fn line(view: &View) -> String {
    let mut line = format!(
        " {}   {:.0} req/s, {} % good, {} failed, mTLS {} %",
        clock(view.clock),
        view.window.per_second,
        shown_percent(view.window.success),
        view.failures,
        shown_percent(view.traffic.mutual_share()),
    );
    for Row { version, wanted, seen } in &view.rows {
        let wanted = wanted.map_or("?".to_owned(), |wanted| format!("{wanted:.0}"));
        let times = format!("p50 {}, p99 {}", milliseconds(seen.p50), milliseconds(seen.p99));
        // Writing to a String does not fail.
        let _ = write!(line, " | {version}: {:.1} % of {wanted} %, {times}", seen.share);
    }
    line
}

fn clock(time: Duration) -> String {
    format!("{:02}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if time.is_zero() {
        "-".to_owned()
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weir_core::clock::Moment;

    use super::*;

    fn view() -> View {
        let seen = |share, p50, p99| VersionWindow { share, p50: Duration::from_micros(p50), p99: Duration::from_micros(p99) };
        let row = |version: &str, wanted, seen| Row { version: version.to_owned(), wanted: Some(wanted), seen };
        let event = |s, mark, text: &str| Event { at: Moment::after_start(Duration::from_secs(s)), mark, text: text.to_owned() };
        let up = ["control-plane", "frontend", "catalog-v1-a", "catalog-v1-b", "catalog-v2", "prices"];
        View {
            clock: Duration::from_secs(77),
            network: "127.10.0.0/16".to_owned(),
            workloads: 5,
            requests: 22_914,
            failures: 0,
            window: Window { per_second: 299.7, success: 100.0, versions: BTreeMap::new() },
            traffic: Counters { calls: 45_828, mutual_calls: 45_828, plain_arrivals: 0, retries: 4, ejections: 1 },
            rows: vec![row("v1", 90.0, seen(90.6, 1_930, 4_270)), row("v2", 10.0, seen(9.4, 2_110, 12_800))],
            processes: up.iter().map(|name| ((*name).to_owned(), up_unless(name, "catalog-v1-a"))).collect(),
            events: vec![
                event(3, Mark::Act, "all on v1"),
                event(6, Mark::Held, "v2 gets 0 %, as asked"),
                event(8, Mark::Broken, "v2 gets 12.5 % instead of 10 %"),
            ],
            hints: Vec::new(),
        }
    }

    fn up_unless(name: &str, down: &str) -> Health {
        if name == down { Health::Down } else { Health::Up }
    }

    const PLAIN: Paint = Paint { colours: false };

    #[test]
    fn the_screen_is_aligned_and_fits_80_by_24() {
        let expected = " weir demo   5 workloads, each behind its own sidecar, on 127.10.0.0/16   01:17

 requests    300 per second   success    100 %      22,914 sent    0 failed
 mesh          4 retries      mTLS       100 %      45,828 calls   1 ejection

 catalog    wanted      seen                                      p50       p99
   v1         90 %    90.6 %  ███████████████████████████░░░   1.9 ms    4.3 ms
   v2         10 %     9.4 %  ███░░░░░░░░░░░░░░░░░░░░░░░░░░░   2.1 ms   12.8 ms

 ● control-plane  ● frontend  ✗ catalog-v1-a  ● catalog-v1-b  ● catalog-v2
 ● prices

 00:03 → all on v1
 00:06 ✓ v2 gets 0 %, as asked
 00:08 ✗ v2 gets 12.5 % instead of 10 %";
        let lines = screen(&view(), 24, PLAIN);
        assert_eq!(lines.join("\n"), expected);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS));
    }

    #[test]
    fn old_events_make_room_for_hints() {
        let mut view = view();
        let told = view.events.first().unwrap().clone();
        view.events = (0..40).map(|n| Event { text: format!("event {n}"), ..told.clone() }).collect();
        view.hints = vec![
            Hint { meaning: "one", command: "curl http://a/".to_owned() },
            Hint { meaning: "three", command: "curl http://abc/".to_owned() },
        ];
        let lines = screen(&view, 24, PLAIN);
        assert_eq!(lines.len(), 24);
        assert!(lines.iter().any(|line| line == " 00:03 → event 39"));
        assert_eq!(lines.last().unwrap(), "   three  curl http://abc/");
        assert!(screen(&view, 5, PLAIN).iter().filter(|line| line.contains("event")).count() == MIN_EVENTS);
    }

    #[test]
    fn colours_change_no_width() {
        let coloured = screen(&view(), 24, Paint { colours: true });
        let mut text = coloured.join("\n");
        assert!(text.contains("\x1b[32m✓\x1b[0m"));
        while let Some(start) = text.find('\x1b') {
            let end = start + text[start..].find('m').unwrap();
            text.replace_range(start..=end, "");
        }
        assert_eq!(text, screen(&view(), 24, PLAIN).join("\n"));
    }

    #[test]
    fn a_line_says_the_same() {
        assert_eq!(
            line(&view()),
            " 01:17   300 req/s, 100 % good, 0 failed, mTLS 100 % | v1: 90.6 % of 90 %, p50 1.9 ms, p99 4.3 ms \
             | v2: 9.4 % of 10 %, p50 2.1 ms, p99 12.8 ms"
        );
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1_000, 1_234_567].map(grouped).each_ref().map(String::as_str));
        assert_eq!(milliseconds(Duration::ZERO), "-");
        assert_eq!(milliseconds(Duration::from_millis(250)), "250 ms");
    }

    #[test]
    fn a_bar_is_full_only_at_the_end() {
        assert_eq!(bar(0.0, PLAIN), "░".repeat(BAR));
        assert_eq!(bar(100.0, PLAIN), "█".repeat(BAR));
        assert_eq!(bar(50.0, PLAIN), format!("{}{}", "█".repeat(15), "░".repeat(15)));
    }
}
