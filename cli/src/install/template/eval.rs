//! A tree and values as text.

use serde_json::Value;

use super::functions::{self, is_set, kind, plain};
use super::parse::{Command, Node, Pipeline, Term};
use super::{TemplateError, Templates, Wrong};

/// How deep templates may include each other. The chart's do two deep.
const MAX_INCLUDES: usize = 32;
/// No file of a chart renders to more.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Renders the body of a file.
pub(super) fn render(templates: &Templates, file: &str, body: &[Node], root: &Value) -> Result<String, TemplateError> {
    run(templates, file, body, root, 0)
}

fn run(templates: &Templates, file: &str, body: &[Node], root: &Value, depth: usize) -> Result<String, TemplateError> {
    let mut state = State { templates, depth, variables: vec![(String::new(), root.clone())], out: String::new() };
    match state.nodes(body, root) {
        Ok(()) => Ok(state.out),
        Err(Failure::Here(wrong)) => Err(wrong.of(file)),
        Err(Failure::Elsewhere(error)) => Err(error),
    }
}

/// What goes wrong in this file, or in one that it includes from.
enum Failure {
    Here(Wrong),
    Elsewhere(TemplateError),
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Self::Here(wrong)
    }
}

struct State<'a> {
    templates: &'a Templates,
    depth: usize,
    /// The innermost last. The first is `$`.
    variables: Vec<(String, Value)>,
    out: String,
}

impl State<'_> {
    /// Writes nodes. What they declare ends with them.
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), Failure> {
        let outer = self.variables.len();
        nodes.iter().try_for_each(|node| self.node(node, dot))?;
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), Failure> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Output(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                let text = plain(&value).map_err(|what| Wrong::new(pipeline.line, what))?;
                self.out.push_str(&text);
                if self.out.len() > MAX_BYTES {
                    return Err(Wrong::new(pipeline.line, format!("this renders to more than {MAX_BYTES} bytes")).into());
                }
            }
            Node::Let { variable, is_new, pipeline } => self.declare(variable, *is_new, pipeline, dot)?,
            Node::If { condition, then, otherwise } => {
                let holds = is_set(&self.pipeline(condition, dot)?);
                self.nodes(if holds { then } else { otherwise }, dot)?;
            }
            Node::With { value, then, otherwise } => {
                let value = self.pipeline(value, dot)?;
                if is_set(&value) { self.nodes(then, &value)? } else { self.nodes(otherwise, dot)? }
            }
            Node::Range { key, value, over, then, otherwise } => {
                let items = items(self.pipeline(over, dot)?).map_err(|what| Wrong::new(over.line, what))?;
                if items.is_empty() {
                    self.nodes(otherwise, dot)?;
                }
                for (item_key, item) in items {
                    let outer = self.variables.len();
                    key.iter().for_each(|name| self.variables.push((name.clone(), item_key.clone())));
                    value.iter().for_each(|name| self.variables.push((name.clone(), item.clone())));
                    self.nodes(then, &item)?;
                    self.variables.truncate(outer);
                }
            }
        }
        Ok(())
    }

    fn declare(&mut self, variable: &str, is_new: bool, pipeline: &Pipeline, dot: &Value) -> Result<(), Failure> {
        let value = self.pipeline(pipeline, dot)?;
        if is_new {
            self.variables.push((variable.to_owned(), value));
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|(name, _)| name == variable);
        let (_, slot) = known.ok_or_else(|| Wrong::new(pipeline.line, format!("the variable `${variable}` is not declared")))?;
        *slot = value;
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, Failure> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(match command {
                Command::Value(_) if last.is_some() => {
                    return Err(Wrong::new(pipeline.line, "behind `|` there must be a function").into());
                }
                Command::Value(term) => self.term(term, pipeline.line, dot)?,
                Command::Call { function, arguments } => {
                    let mut values = Vec::with_capacity(arguments.len() + 1);
                    for argument in arguments {
                        values.push(self.term(argument, pipeline.line, dot)?);
                    }
                    values.extend(last);
                    self.call(function, values, pipeline.line)?
                }
            });
        }
        Ok(last.unwrap_or_default())
    }

    fn call(&self, function: &str, arguments: Vec<Value>, line: usize) -> Result<Value, Failure> {
        if function != "include" {
            return functions::call(function, arguments).map_err(|what| Wrong::new(line, what).into());
        }
        let [Value::String(name), root] = arguments.as_slice() else {
            return Err(Wrong::new(line, "include takes a name and a value").into());
        };
        let Some((file, body)) = self.templates.named.get(name) else {
            return Err(Wrong::new(line, format!("include: no template is called `{name}`")).into());
        };
        if self.depth >= MAX_INCLUDES {
            return Err(Wrong::new(line, format!("include: templates include each other more than {MAX_INCLUDES} deep")).into());
        }
        run(self.templates, file, body, root, self.depth + 1).map(Value::String).map_err(Failure::Elsewhere)
    }

    fn term(&mut self, term: &Term, line: usize, dot: &Value) -> Result<Value, Failure> {
        match term {
            Term::Literal(value) => Ok(value.clone()),
            Term::Field(names) => field(dot, "", names).map_err(|what| Wrong::new(line, what).into()),
            Term::Variable(name, names) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let (_, value) = known.ok_or_else(|| Wrong::new(line, format!("the variable `${name}` is not declared")))?;
                field(value, &format!("${name}"), names).map_err(|what| Wrong::new(line, what).into())
            }
            Term::Pipeline(pipeline) => self.pipeline(pipeline, dot),
        }
    }
}

/// A member of a member, null if the last one is missing.
fn field(value: &Value, start: &str, names: &[String]) -> Result<Value, String> {
    let (mut here, mut path) = (value, start.to_owned());
    for name in names {
        here = match here {
            Value::Object(members) => members.get(name).unwrap_or(&Value::Null),
            Value::Null => return Err(format!("`{path}` is not set, so it has no `{name}`")),
            other => return Err(format!("`{path}` is {}, so it has no `{name}`", kind(other))),
        };
        path = format!("{path}.{name}");
    }
    Ok(here.clone())
}

/// What `range` goes over: keys or numbers, and values. Keys are sorted, as in Go.
fn items(value: Value) -> Result<Vec<(Value, Value)>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items.into_iter().enumerate().map(|(i, item)| (i.into(), item)).collect()),
        Value::Object(members) => {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(members.into_iter().map(|(key, value)| (Value::String(key), value)).collect())
        }
        other => Err(format!("`range` goes over lists and mappings, and this is {}", kind(&other))),
    }
}
