//! `weir inject FILE…`: manifests in, the same manifests with sidecars out.
//!
//! The decision and the patch are those of the admission webhook (`weir-injector`). Here is only what a file needs beyond a
//! pod that is being created: [`flags`] (how the mesh is installed), [`workload`] (which objects have pods in them), [`plan`]
//! (what happens to each) and [`yaml`] (changing a text so that everything else in it stays as it is).
//!
//! Nothing is written to stdout unless all of it can be.

mod flags;
mod plan;
mod workload;
pub(crate) mod yaml;

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

pub(crate) use flags::InjectArgs;

use plan::Input;

/// All manifests of a large cluster in one file stay below; what does not is no manifest.
const MAX_INPUT_BYTES: u64 = 256 * 1024 * 1024;
/// What a command line that makes no sense ends with.
const USAGE: u8 = 2;

/// Runs the command.
pub(crate) fn run(args: InjectArgs) -> ExitCode {
    let settings = match args.check() {
        Ok(settings) => settings,
        Err(errors) => {
            eprintln!("weir inject cannot work with these settings:\n  {}", errors.join("\n  "));
            return ExitCode::from(USAGE);
        }
    };
    match read_all(&args.files).and_then(|inputs| plan::inject(&inputs, &settings)) {
        Ok(injected) => {
            let code = write(injected.text.as_bytes());
            if !args.quiet {
                injected.notes.iter().for_each(|note| eprintln!("{note}"));
            }
            code
        }
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            eprintln!("weir inject: nothing was written, because of the {}", if errors.len() == 1 { "error" } else { "errors" });
            ExitCode::FAILURE
        }
    }
}

fn write(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader had enough (`weir inject web.yaml | head`): its right.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir inject: the manifests could not be written to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read_all(files: &[String]) -> Result<Vec<Input>, Vec<String>> {
    let (mut inputs, mut errors) = (Vec::new(), Vec::new());
    for file in files {
        match read(file) {
            Ok(input) => inputs.push(input),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(inputs) } else { Err(errors) }
}

fn read(file: &str) -> Result<Input, String> {
    let (name, bytes) =
        if file == "-" { ("stdin", read_bounded(io::stdin().lock())) } else { (file, File::open(file).and_then(read_bounded)) };
    let name = workload::shown(name);
    let bytes = bytes.map_err(|error| format!("{name}: it cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_INPUT_BYTES) {
        return Err(format!("{name}: it has more than {MAX_INPUT_BYTES} bytes; give it in parts"));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Input { name, text }),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count();
            Err(format!("{name}:{line}: this is not UTF-8 text, which manifests are"))
        }
    }
}

fn read_bounded(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
