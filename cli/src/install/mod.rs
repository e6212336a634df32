//! `weir install`: the objects of an installation, as YAML for `kubectl apply`.
//!
//! Values come in, text goes out; no cluster is asked. The objects are those of the Helm chart, whose own templates are part of
//! this program: [`chart`] has them and puts them in order, [`values`] says what they are filled with, [`set`] reads `--set`,
//! [`schema`] checks against the chart's schema, and [`template`] renders.

pub(crate) mod chart;
mod schema;
mod set;
mod template;
mod values;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use weir_core::names::Label;

use values::Source;

/// What a command line that makes no sense ends with.
pub(crate) const USAGE: u8 = 2;
/// Values are a page of text.
const MAX_VALUES_BYTES: u64 = 1024 * 1024;

/// The command line of `weir install`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The objects are those of the Helm chart (charts/weir), with the same values; docs/INSTALL.md lists them.\n\n\
                        Examples:\n  weir check --pre && weir install | kubectl apply -f -\n  \
                        weir install --set controlPlane.replicas=3 --set logFormat=json | kubectl diff -f -\n  \
                        weir install --values mesh.yaml > weir.yaml"
)]
pub(crate) struct InstallArgs {
    /// Sets a value of the chart; several with commas between them, text as it stands with --set-string
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Sets a value of the chart to text, also if it looks like a number
    #[arg(long, value_name = "KEY=VALUE")]
    set_string: Vec<String>,
    /// File with values, YAML or JSON; later ones win over earlier ones, and --set over all of them; `-` is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Namespace of the mesh itself
    #[arg(short, long, env = "WEIR_MESH_NAMESPACE", value_name = "NAME", default_value = "weir-system")]
    namespace: String,
}

/// Runs the command.
pub(crate) fn run(args: &InstallArgs) -> ExitCode {
    match sources(args).and_then(|sources| manifest(&args.namespace, &sources)) {
        Ok(text) => print(text.as_bytes()),
        Err(errors) => {
            eprintln!("weir install cannot work with these settings:\n  {}", errors.join("\n  "));
            ExitCode::from(USAGE)
        }
    }
}

/// The objects as one text.
fn manifest(namespace: &str, sources: &[Source]) -> Result<String, Vec<String>> {
    let mut errors = Vec::new();
    if namespace.parse::<Label>().is_err() {
        errors.push(format!(
            "--namespace (WEIR_MESH_NAMESPACE) is {namespace:?}: write the name of a namespace, lower-case letters, digits and `-`, 63 at most"
        ));
    }
    let values = values::merge(chart::VALUES, sources).and_then(|values| schema::check(chart::SCHEMA, &values).map(|()| values));
    match (values, errors.is_empty()) {
        (Ok(values), true) => Ok(chart::text(&chart::render(namespace, &values).map_err(|error| vec![error])?)),
        (values, _) => {
            errors.extend(values.err().into_iter().flatten());
            Err(errors)
        }
    }
}

fn sources(args: &InstallArgs) -> Result<Vec<Source>, Vec<String>> {
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    // The namespace that `kubectl apply` needs before anything else; a value given by the user wins.
    sources.push(Source::Set("namespace.create=true".to_owned()));
    for file in &args.values {
        match read(file) {
            Ok(text) => sources.push(Source::File { name: file.display().to_string(), text }),
            Err(error) => errors.push(error),
        }
    }
    sources.extend(args.set.iter().cloned().map(Source::Set));
    sources.extend(args.set_string.iter().cloned().map(Source::SetString));
    if errors.is_empty() { Ok(sources) } else { Err(errors) }
}

fn read(file: &std::path::Path) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("--values: {}: it cannot be read: {error}", file.display());
    let mut text = String::new();
    let read = if file.as_os_str() == "-" {
        io::Read::read_to_string(&mut io::Read::take(io::stdin().lock(), MAX_VALUES_BYTES + 1), &mut text)
    } else {
        let opened = std::fs::File::open(file).map_err(|error| wrong(&error))?;
        io::Read::read_to_string(&mut io::Read::take(opened, MAX_VALUES_BYTES + 1), &mut text)
    };
    read.map_err(|error| wrong(&error))?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_VALUES_BYTES) {
        return Err(wrong(&format!("it has more than {MAX_VALUES_BYTES} bytes, which values never have")));
    }
    Ok(text)
}

/// Writes to stdout.
pub(crate) fn print(bytes: &[u8]) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader had enough (`weir install | head`): its right.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: the output could not be written to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(sets: &[&str]) -> Result<String, Vec<String>> {
        let sources: Vec<Source> = sets.iter().map(|set| Source::Set((*set).to_owned())).collect();
        manifest("weir-system", &sources)
    }

    #[test]
    fn every_error_is_said_at_once() {
        let errors = manifest("Weir", &[Source::Set("injector.replica=3,trustDomain=A_b".to_owned())]).unwrap_err();
        insta::assert_snapshot!(errors.join("\n"), @r#"
        --namespace (WEIR_MESH_NAMESPACE) is "Weir": write the name of a namespace, lower-case letters, digits and `-`, 63 at most
        injector.replica: there is no such value; `injector.replicas` is the nearest
        trustDomain is "A_b": First part of every identity; it must match ^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$
        "#);
    }

    #[test]
    fn no_key_material_and_no_ca_bundle_is_written() {
        let text = text(&["podMonitor.enabled=true"]).unwrap();
        assert!(!text.contains("kind: Secret") && !text.contains("caBundle:"), "{text}");
    }

    #[test]
    fn the_namespace_is_everywhere() {
        let text = manifest("mesh", &[Source::Set("namespace.create=true".to_owned())]).unwrap();
        assert!(!text.contains("weir-system"), "{text}");
        assert!(text.contains("weir-control-plane.mesh.svc.cluster.local:15410"), "{text}");
    }
}
