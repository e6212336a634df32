//! Go templates, as far as the chart of Weir uses them, so that `weir install` prints what Helm would install.
//!
//! A subset on purpose: text, `{{ … }}` with `-` on either side, comments, `if`/`else if`/`else`, `with`, `range`, `define`,
//! variables, fields, strings, pipelines, parentheses, and the functions in [`functions`]. Anything else is an error that names
//! file and line, also where Go would do something: a chart that needs it shows in the chart's own tests.
//!
//! [`lex`] makes tokens, [`parse`] a tree, [`eval`] text.

mod eval;
mod functions;
mod lex;
mod parse;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use parse::Node;

/// Where a template is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TemplateError {
    file: String,
    line: usize,
    what: String,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.what)
    }
}

/// What is wrong on a line of the file that is being looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wrong {
    line: usize,
    what: String,
}

impl Wrong {
    fn new(line: usize, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }

    fn of(self, file: &str) -> TemplateError {
        TemplateError { file: file.to_owned(), line: self.line, what: self.what }
    }
}

/// The templates of a chart.
#[derive(Debug, Default)]
pub(super) struct Templates {
    files: BTreeMap<String, Vec<Node>>,
    /// What `define` gives a name, and the file in which it stands.
    named: BTreeMap<String, (String, Vec<Node>)>,
}

impl Templates {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The first thing that is not understood.
    pub(super) fn add(&mut self, file: &str, text: &str) -> Result<(), TemplateError> {
        let parsed = lex::lex(text).and_then(parse::parse).map_err(|wrong| wrong.of(file))?;
        for (name, body) in parsed.defined {
            self.named.insert(name, (file.to_owned(), body));
        }
        self.files.insert(file.to_owned(), parsed.body);
        Ok(())
    }

    /// The text of a file that was read, with `root` for the dot.
    ///
    /// # Errors
    ///
    /// What cannot be evaluated, and where.
    pub(super) fn render(&self, file: &str, root: &Value) -> Result<String, TemplateError> {
        let body = self.files.get(file).ok_or_else(|| Wrong::new(1, "there is no such template").of(file))?;
        eval::render(self, file, body, root)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(text: &str, root: &Value) -> Result<String, String> {
        let mut templates = Templates::default();
        templates.add("t", text).map_err(|error| error.to_string())?;
        templates.render("t", root).map_err(|error| error.to_string())
    }

    #[test]
    fn the_subset_means_what_it_means_in_go() {
        let root = json!({"a": {"b": "x", "n": 3, "f": 0.5, "yes": true, "no": false, "empty": {}, "list": ["p", "q"], "map": {"z": 1, "y": 2}}});
        for (text, expected) in [
            ("a {{ .a.b }} c", "a x c"),
            ("a \n{{- .a.b -}}\n c", "axc"),
            ("a{{/* b */}}c", "ac"),
            ("a\n{{- /* b */ -}}\nc", "ac"),
            ("{{ .a.n }} {{ .a.f }} {{ .a.yes }}", "3 0.5 true"),
            ("{{ .a.b | quote }}{{ quote .a.n }}", "\"x\"\"3\""),
            ("{{ \"a}}\\\"b\" }}", "a}}\"b"),
            ("{{ if .a.yes }}1{{ else }}2{{ end }}", "1"),
            ("{{ if .a.no }}1{{ else if .a.empty }}2{{ else }}3{{ end }}", "3"),
            ("{{ if .a.missing }}1{{ end }}", ""),
            ("{{ if not .a.no }}1{{ end }}", "1"),
            ("{{ with .a.b }}[{{ . }}{{ $.a.n }}]{{ end }}", "[x3]"),
            ("{{ with .a.empty }}1{{ else }}{{ .a.b }}{{ end }}", "x"),
            ("{{ range .a.list }}<{{ . }}>{{ end }}", "<p><q>"),
            ("{{ range $i, $v := .a.list }}{{ $i }}{{ $v }}{{ end }}", "0p1q"),
            ("{{ range $v := .a.list }}{{ $v }}{{ end }}", "pq"),
            ("{{ range $k, $v := .a.map }}{{ $k }}={{ $v }};{{ end }}", "y=2;z=1;"),
            ("{{ range .a.empty }}1{{ else }}none{{ end }}", "none"),
            ("{{ $x := .a.b }}{{ if true }}{{ $x }}{{ $x := \"in\" }}{{ $x }}{{ end }}{{ $x }}", "xinx"),
            ("{{ $x := \"a\" }}{{ if true }}{{ $x = \"b\" }}{{ end }}{{ $x }}", "b"),
            ("{{ $x := .a }}{{ $x.b }}", "x"),
            ("{{ define \"d\" }}<{{ .b }}>{{ end }}{{ include \"d\" .a }}", "<x>"),
            ("{{ define \"d\" -}}\n1\n2{{ end }}k:{{ include \"d\" . | nindent 2 }}", "k:\n  1\n  2"),
            ("{{ default \"d\" .a.missing }}{{ .a.b | default \"d\" }}", "dx"),
            ("{{ printf \"%s-%v:%s%%\" .a.b .a.n (quote .a.n) }}", "x-3:\"3\"%"),
            ("{{ (dict \"k\" .a.b) | toYaml }}", "k: x"),
            ("{{ toYaml .a.list }}", "- p\n- q"),
        ] {
            assert_eq!(rendered(text, &root).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        for (text, expected) in [
            ("\n{{ .a", "t:2: `{{` is never closed"),
            ("{{ \"a }}", "t:1: a string is never closed"),
            ("{{ if .a }}x", "t:1: `if` has no `end`"),
            ("x\n{{ end }}", "t:2: `end` has nothing to end"),
            ("{{ else }}", "t:1: `else` stands outside of `if`, `with` and `range`"),
            ("{{ lookup \"v1\" }}", "t:1: the function `lookup` is not supported"),
            ("{{ template \"x\" }}", "t:1: `template` is not supported"),
            ("{{ break }}", "t:1: `break` is not supported"),
            ("{{ 1 2 }}", "t:1: `1` is not a function, and something stands behind it"),
            ("{{ `raw` }}", "t:1: '`' is not supported here"),
            ("{{ .a | }}", "t:1: something is missing behind `|`"),
            ("{{ (.a }}", "t:1: `(` is never closed"),
            ("{{ }}", "t:1: there is nothing between `{{` and `}}`"),
            ("{{ .x.y }}", "t:1: `.x` is not set, so it has no `y`"),
            ("{{ .x }}", "t:1: this is not set"),
            ("{{ .s.y }}", "t:1: `.s` is text, so it has no `y`"),
            ("{{ .a }}", "t:1: a mapping cannot be written as it is; use toYaml"),
            ("{{ $x }}", "t:1: the variable `$x` is not declared"),
            ("{{ $x = 1 }}", "t:1: the variable `$x` is not declared"),
            ("{{ include \"none\" . }}", "t:1: include: no template is called `none`"),
            ("{{ range .s }}{{ end }}", "t:1: `range` goes over lists and mappings, and this is text"),
            ("{{ printf \"%d\" 1 }}", "t:1: printf: `%d` is not supported; use %s or %v"),
            ("{{ printf \"%s\" }}", "t:1: printf: there are fewer values than places for them"),
            ("{{ nindent \"a\" \"b\" }}", "t:1: nindent takes a number and a text"),
            (
                "{{ define \"r\" }}{{ include \"r\" . }}{{ end }}\n{{ include \"r\" . }}",
                "t:1: include: templates include each other more than 32 deep",
            ),
        ] {
            assert_eq!(rendered(text, &json!({"a": {}, "s": "text"})), Err(expected.to_owned()), "{text}");
        }
    }
}
