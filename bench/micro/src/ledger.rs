//! The counts that were accepted, as a file, and whether others are worse.

use std::fmt;

/// A case that takes more than this many hundredths of what was accepted has become dearer.
const TOLERATED_PERCENT: u64 = 110;

/// Counts, and what they depend on beside the code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// What `rustc --version` says.
    pub compiler: String,
    /// Architecture, instructions that libraries choose by, and the C library.
    pub machine: String,
    /// Instructions of each case, in their order.
    pub counts: Vec<(String, u64)>,
}

/// What has changed since the counts were accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can be said: other compilers and machines have other counts. Says what differs.
    Incomparable(String),
    /// The cases that changed, each as a line to read.
    Compared {
        /// What has to be mended or accepted.
        wrong: Vec<String>,
        /// What has become cheaper by as much.
        cheaper: Vec<String>,
    },
}

impl Ledger {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A line that is none of a ledger, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ledger = Self::default();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let wrong = || format!("line {}: `{line}` is not NAME COUNT", number + 1);
            let (name, value) = line.split_once(' ').ok_or_else(wrong)?;
            match name {
                "compiler" => value.trim().clone_into(&mut ledger.compiler),
                "machine" => value.trim().clone_into(&mut ledger.machine),
                case => ledger.counts.push((case.to_owned(), value.trim().parse().map_err(|_| wrong())?)),
            }
        }
        Ok(ledger)
    }

    /// Why these counts say nothing about those of `other`; `None` where they do.
    #[must_use]
    pub fn differs(&self, other: &Self) -> Option<String> {
        let named = [("compiler", &self.compiler, &other.compiler), ("machine", &self.machine, &other.machine)];
        let differing = named.into_iter().find(|(_, accepted, now)| accepted != now);
        differing.map(|(what, accepted, now)| format!("the {what} is `{now}`, and the counts were accepted with `{accepted}`"))
    }

    /// Compares what was accepted with what is now.
    #[must_use]
    pub fn compare(&self, now: &Self) -> Verdict {
        if let Some(why) = self.differs(now) {
            return Verdict::Incomparable(why);
        }
        let (mut wrong, mut cheaper) = (Vec::new(), Vec::new());
        for (name, after) in &now.counts {
            match self.count(name) {
                None => wrong.push(format!("{name}: {after} instructions; the case is new and was never accepted")),
                Some(before) if after * 100 > before * TOLERATED_PERCENT => wrong.push(change(name, before, *after)),
                Some(before) if before * 100 > after * TOLERATED_PERCENT => cheaper.push(change(name, before, *after)),
                Some(_) => {}
            }
        }
        let gone = self.counts.iter().filter(|(name, _)| now.count(name).is_none());
        wrong.extend(gone.map(|(name, before)| format!("{name}: {before} instructions were accepted, and the case is gone")));
        Verdict::Compared { wrong, cheaper }
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.counts.iter().find(|(it, _)| it == name).map(|(_, count)| *count)
    }
}

fn change(name: &str, before: u64, after: u64) -> String {
    let percent = (after as f64 / before as f64 - 1.0) * 100.0;
    format!("{name}: {before} instructions before, {after} now ({percent:+.1} %)")
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions of single decisions: `make instructions` compares, `make instructions-accept` writes this file."
        )?;
        writeln!(f, "compiler {}\nmachine {}", self.compiler, self.machine)?;
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{name} {count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(counts: &[(&str, u64)]) -> Ledger {
        let counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Ledger { compiler: "rustc 1.90.0 (x)".into(), machine: "x86_64".into(), counts }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = ledger(&[("route/exact/10/last", 120), ("sniff/tls", 7)]);
        assert_eq!(Ledger::parse(&written.to_string()), Ok(written));
        assert!(Ledger::parse("sniff/tls many").is_err_and(|error| error.contains("line 1")));
    }

    #[test]
    fn more_than_a_tenth_is_wrong_and_a_tenth_is_not() {
        let accepted = ledger(&[("a", 100), ("b", 100), ("c", 100), ("gone", 5)]);
        let now = ledger(&[("a", 110), ("b", 111), ("c", 50), ("new", 3)]);
        let Verdict::Compared { wrong, cheaper } = accepted.compare(&now) else { panic!("they are comparable") };
        assert_eq!(wrong.len(), 3, "{wrong:?}");
        assert_eq!(wrong[0], "b: 100 instructions before, 111 now (+11.0 %)");
        assert!(wrong[1].starts_with("new:") && wrong[2].starts_with("gone:"), "{wrong:?}");
        assert_eq!(cheaper, ["c: 100 instructions before, 50 now (-50.0 %)"]);
    }

    #[test]
    fn another_compiler_or_machine_is_not_compared() {
        let accepted = ledger(&[("a", 100)]);
        for now in [
            Ledger { compiler: "rustc 1.91.0".into(), ..ledger(&[("a", 900)]) },
            Ledger { machine: "aarch64".into(), ..accepted.clone() },
        ] {
            assert!(matches!(accepted.compare(&now), Verdict::Incomparable(_)), "{now:?}");
        }
    }
}
