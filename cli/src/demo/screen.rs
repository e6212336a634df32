//! Where the view goes: redrawn in place on a terminal, a line a second anywhere else.

use std::io::{self, IsTerminal, Stdout, Write};
use std::time::Duration;

use super::view::{self, Paint, View};

/// A terminal that does not say how tall it is.
const USUAL_HEIGHT: usize = 24;

/// The output. Leaves the terminal as it found it.
pub(crate) struct Screen {
    out: Stdout,
    paint: Paint,
    kind: Kind,
}

enum Kind {
    /// How many lines were drawn last.
    Terminal { drawn: usize },
    /// How many events were printed, and whether the hints were.
    Lines { events: usize, hinted: bool },
}

impl Screen {
    /// Standard output. Colours only on a terminal, and not if `NO_COLOR` is set.
    pub(crate) fn new() -> Self {
        let out = io::stdout();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let terminal = out.is_terminal() && !dumb;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let kind = if terminal { Kind::Terminal { drawn: 0 } } else { Kind::Lines { events: 0, hinted: false } };
        let screen = Self { out, paint: Paint { colours: terminal && !no_colour }, kind };
        if terminal {
            screen.write("\x1b[?25l");
        }
        screen
    }

    /// Standard output for lines alone.
    pub(crate) fn plain() -> Self {
        Self { out: io::stdout(), paint: Paint { colours: false }, kind: Kind::Lines { events: 0, hinted: false } }
    }

    /// How long a picture stays.
    pub(crate) fn period(&self) -> Duration {
        match self.kind {
            Kind::Terminal { .. } => Duration::from_millis(250),
            Kind::Lines { .. } => Duration::from_secs(1),
        }
    }

    /// Shows the view.
    pub(crate) fn show(&mut self, view: &View) {
        let mut text = String::new();
        match &mut self.kind {
            Kind::Terminal { drawn } => {
                // One row stays free for the cursor.
                let room = height(&self.out) - 1;
                let mut lines = view::screen(view, room, self.paint);
                lines.truncate(room);
                // Long lines are cut instead of wrapped: a wrapped one would break the counting.
                text.push_str("\x1b[?7l");
                if *drawn > 0 {
                    text.push_str(&format!("\x1b[{drawn}A"));
                }
                *drawn = lines.len();
                for line in &lines {
                    text.push_str(&format!("\r{line}\x1b[K\n"));
                }
                text.push_str("\x1b[J");
            }
            Kind::Lines { events, hinted } => {
                for event in view.events.iter().skip(*events) {
                    text.push_str(&format!("{}\n", view::event(event, self.paint)));
                }
                *events = view.events.len();
                if !*hinted && !view.hints.is_empty() {
                    *hinted = true;
                    view::hints(&view.hints, self.paint).iter().for_each(|line| text.push_str(&format!("{line}\n")));
                }
                text.push_str(&format!("{}\n", view::line(view)));
            }
        }
        self.write(&text);
    }

    /// Prints a line of its own, below what was shown.
    pub(crate) fn print(&mut self, line: &str) {
        match &mut self.kind {
            Kind::Terminal { drawn } => {
                *drawn = 0;
                // Nothing is drawn over what comes now, so it may wrap.
                self.write(&format!("\x1b[?7h{line}\n"));
            }
            Kind::Lines { .. } => self.write(&format!("{line}\n")),
        }
    }

    fn write(&self, text: &str) {
        let mut out = self.out.lock();
        // A closed stdout (`weir demo | head -3`) does not end the demo; its verdict is the exit code.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Kind::Terminal { .. } = self.kind {
            self.write("\x1b[?7h\x1b[?25h");
        }
    }
}

fn height(out: &Stdout) -> usize {
    let rows = rustix::termios::tcgetwinsize(out).map_or(0, |size| usize::from(size.ws_row));
    if rows < 2 { USUAL_HEIGHT } else { rows }
}
