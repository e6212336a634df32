//! `weir-bench-instructions`: counts the instructions of every case with valgrind and holds them to those that were accepted.
//!
//! What comes in: `compare FILE` or `accept FILE`. What goes out: the file, or what has become dearer and exit code 1. `count` is
//! what runs inside valgrind, and prints the cases' names. What is compared with what is decided in `ledger.rs`.

use std::ffi::OsString;
use std::io::{Error, Result, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use weir_bench_micro::ledger::{Ledger, Verdict};
use weir_bench_micro::{cases, counted};

/// Each case runs this often while it is counted: enough that dice and the growth of maps do not weigh.
const TIMES: u32 = 50;
/// And this often before, so that what is made once is there.
const BEFORE: u32 = 10;

/// The function between whose entry and exit valgrind counts, as valgrind calls it.
const COUNTED: &str = "weir_bench_micro::counted";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match &*arguments {
        [count] if count == "count" => count_cases().map(|()| true),
        [accept, file] if accept == "accept" => accept_counts(file.as_ref()).map(|()| true),
        [compare, file] if compare == "compare" => compare_counts(file.as_ref()),
        _ => Err(Error::other("write: compare FILE, or accept FILE")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "weir-bench-instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count_cases() -> Result<()> {
    for mut case in cases() {
        (0..BEFORE).for_each(|_| case.once());
        counted(&mut case, TIMES);
        writeln!(std::io::stdout(), "{}", case.name())?;
    }
    Ok(())
}

fn accept_counts(file: &Path) -> Result<()> {
    let now = Ledger { counts: smaller(counts()?, counts()?), ..surroundings()? };
    std::fs::write(file, now.to_string())
}

/// Whether everything is as it was accepted, or cannot be compared.
fn compare_counts(file: &Path) -> Result<bool> {
    let mut out = std::io::stderr();
    let accepted =
        Ledger::parse(&std::fs::read_to_string(file)?).map_err(|error| Error::other(format!("{}: {error}", file.display())))?;
    let mut now = surroundings()?;
    if let Some(why) = accepted.differs(&now) {
        writeln!(out, "instructions are NOT compared: {why}; `make instructions-accept` makes this the machine to compare with")?;
        return Ok(true);
    }
    now.counts = counts()?;
    if matches!(accepted.compare(&now), Verdict::Compared { wrong, .. } if !wrong.is_empty()) {
        now.counts = smaller(now.counts, counts()?);
    }
    let Verdict::Compared { wrong, cheaper } = accepted.compare(&now) else { return Ok(true) };
    for line in &cheaper {
        writeln!(out, "cheaper: {line}")?;
    }
    if !cheaper.is_empty() {
        writeln!(out, "so that this stays: make instructions-accept, and commit {}", file.display())?;
    }
    for line in &wrong {
        writeln!(out, "DEARER: {line}")?;
    }
    if wrong.is_empty() {
        writeln!(out, "{} cases take the instructions that were accepted, within 10 %", now.counts.len())?;
    } else {
        writeln!(
            out,
            "make it cheaper again, or, if that is what it has to cost: make instructions-accept, and commit {}",
            file.display()
        )?;
    }
    Ok(wrong.is_empty())
}

/// Of two countings the smaller of each case. Hash maps are seeded at random, and where two of their keys collide a look-up takes
/// some instructions more; twice in a row is hardly bad luck.
fn smaller(one: Vec<(String, u64)>, other: Vec<(String, u64)>) -> Vec<(String, u64)> {
    one.into_iter().zip(other).map(|((name, one), (_, other))| (name, one.min(other))).collect()
}

/// What counts depend on beside the code.
fn surroundings() -> Result<Ledger> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Ok(Ledger { compiler: said(Command::new(rustc).arg("--version"))?, machine: machine(), counts: Vec::new() })
}

fn machine() -> String {
    let mut machine = std::env::consts::ARCH.to_owned();
    #[cfg(target_arch = "x86_64")]
    {
        // memchr and the C library choose by it.
        machine += if std::arch::is_x86_feature_detected!("avx2") { " with avx2" } else { " without avx2" };
        if cfg!(target_feature = "sse4.2") {
            machine += " built for more than x86-64";
        }
    }
    // Allocating and copying is the C library's.
    machine + ", " + &said(Command::new("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_else(|_| "another C library".into())
}

/// Runs this program in valgrind, which writes one file for each time that it leaves the counted function.
fn counts() -> Result<Vec<(String, u64)>> {
    let directory = std::env::temp_dir().join(format!("weir-instructions-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let counted = counts_in(&directory);
    std::fs::remove_dir_all(&directory)?;
    counted
}

fn counts_in(directory: &Path) -> Result<Vec<(String, u64)>> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["-q", "--tool=callgrind"]);
    valgrind.args([format!("--toggle-collect={COUNTED}"), format!("--dump-after={COUNTED}")]);
    valgrind.arg(format!("--callgrind-out-file={}", directory.join("out").display()));
    let names = said(valgrind.arg(std::env::current_exe()?).arg("count"))?;
    let counted = names.lines().enumerate().map(|(index, name)| {
        // There is none where valgrind has not found the function.
        let text = std::fs::read_to_string(directory.join(format!("out.{}", index + 1))).unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("totals:")?.trim().parse::<u64>().ok());
        let total =
            total.filter(|total| *total > 0).ok_or_else(|| Error::other(format!("valgrind counted nothing for {name}")))?;
        Ok((name.to_owned(), total / u64::from(TIMES)))
    });
    counted.collect()
}

/// What a program prints, without the last line's end.
fn said(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Error::other(format!("{name}: {error}")))?;
    if !output.status.success() {
        return Err(Error::other(format!("{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
