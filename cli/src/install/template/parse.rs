//! Tokens as a tree.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::Wrong;
use super::lex::{Kind, Piece, Token};

/// A file.
pub(super) struct Parsed {
    pub(super) body: Vec<Node>,
    /// What `define` gives names.
    pub(super) defined: BTreeMap<String, Vec<Node>>,
}

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    /// A value that is written.
    Output(Pipeline),
    /// `$x := …`, or `$x = …`.
    Let {
        variable: String,
        is_new: bool,
        pipeline: Pipeline,
    },
    If {
        condition: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        value: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        key: Option<String>,
        value: Option<String>,
        over: Pipeline,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Values that go from one function to the next.
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    pub(super) line: usize,
    pub(super) commands: Vec<Command>,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Command {
    Value(Term),
    Call { function: String, arguments: Vec<Term> },
}

/// Something that has a value.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Literal(Value),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Pipeline(Pipeline),
}

/// How deep blocks and parentheses may be nested. A chart's are a handful deep.
const MAX_DEPTH: usize = 64;

/// Puts a file together.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Parsed, Wrong> {
    let mut parser = Parser { pieces: pieces.into(), defined: BTreeMap::new() };
    let (body, end) = parser.block(0)?;
    match end {
        End::File => Ok(Parsed { body, defined: parser.defined }),
        End::Block(line) => Err(Wrong::new(line, "`end` has nothing to end")),
        End::Else(tokens) => Err(Wrong::new(tokens.line, "`else` stands outside of `if`, `with` and `range`")),
    }
}

/// What a block ends with.
enum End {
    File,
    Block(usize),
    /// With what follows `else`.
    Else(Tokens),
}

struct Parser {
    pieces: VecDeque<Piece>,
    defined: BTreeMap<String, Vec<Node>>,
}

impl Parser {
    fn block(&mut self, depth: usize) -> Result<(Vec<Node>, End), Wrong> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let mut tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => Tokens::new(tokens),
            };
            let line = tokens.line;
            if depth > MAX_DEPTH {
                return Err(Wrong::new(line, format!("blocks are nested more than {MAX_DEPTH} deep")));
            }
            match tokens.keyword().as_deref() {
                Some("end") => return tokens.finish().map(|()| (nodes, End::Block(line))),
                Some("else") => return Ok((nodes, End::Else(tokens))),
                Some("if") => nodes.push(self.condition(tokens, depth)?),
                Some("with") => {
                    let value = tokens.whole_pipeline()?;
                    let (then, otherwise) = self.branches("with", line, depth)?;
                    nodes.push(Node::With { value, then, otherwise });
                }
                Some("range") => {
                    let (key, value) = tokens.range_variables();
                    let over = tokens.whole_pipeline()?;
                    let (then, otherwise) = self.branches("range", line, depth)?;
                    nodes.push(Node::Range { key, value, over, then, otherwise });
                }
                Some("define") => self.definition(tokens, depth)?,
                Some(other) => return Err(Wrong::new(line, format!("`{other}` is not supported"))),
                None => nodes.push(tokens.statement()?),
            }
        }
        Ok((nodes, End::File))
    }

    fn condition(&mut self, mut tokens: Tokens, depth: usize) -> Result<Node, Wrong> {
        let line = tokens.line;
        let condition = tokens.whole_pipeline()?;
        let (then, end) = self.block(depth + 1)?;
        let otherwise = match end {
            End::Block(_) => Vec::new(),
            End::File => return Err(Wrong::new(line, "`if` has no `end`")),
            End::Else(mut tokens) => match tokens.keyword().as_deref() {
                // Like `else` with an `if` in it, whose `end` is that of both.
                Some("if") => vec![self.condition(tokens, depth + 1)?],
                Some(other) => return Err(Wrong::new(tokens.line, format!("`else {other}` is not supported"))),
                None => self.otherwise(tokens, "if", line, depth)?,
            },
        };
        Ok(Node::If { condition, then, otherwise })
    }

    fn branches(&mut self, word: &str, line: usize, depth: usize) -> Result<(Vec<Node>, Vec<Node>), Wrong> {
        let (then, end) = self.block(depth + 1)?;
        match end {
            End::Block(_) => Ok((then, Vec::new())),
            End::File => Err(Wrong::new(line, format!("`{word}` has no `end`"))),
            End::Else(tokens) => Ok((then, self.otherwise(tokens, word, line, depth)?)),
        }
    }

    fn otherwise(&mut self, mut tokens: Tokens, word: &str, line: usize, depth: usize) -> Result<Vec<Node>, Wrong> {
        tokens.finish()?;
        match self.block(depth + 1)? {
            (nodes, End::Block(_)) => Ok(nodes),
            (_, End::Else(tokens)) => Err(Wrong::new(tokens.line, format!("this is the second `else` of an `{word}`"))),
            (_, End::File) => Err(Wrong::new(line, format!("`{word}` has no `end`"))),
        }
    }

    fn definition(&mut self, mut tokens: Tokens, depth: usize) -> Result<(), Wrong> {
        let line = tokens.line;
        let Some(Kind::Text(name)) = tokens.next() else { return Err(Wrong::new(line, "`define` needs a name in quotes")) };
        tokens.finish()?;
        if depth > 0 {
            return Err(Wrong::new(line, "`define` must not stand in another block"));
        }
        let (body, end) = self.block(depth + 1)?;
        if !matches!(end, End::Block(_)) {
            return Err(Wrong::new(line, "`define` has no `end`"));
        }
        self.defined.insert(name, body);
        Ok(())
    }
}

/// The tokens of one action.
struct Tokens {
    line: usize,
    left: VecDeque<Token>,
}

/// Words that are no functions; those that are not supported too, so that the error says so.
const KEYWORDS: [&str; 10] = ["end", "else", "if", "with", "range", "define", "template", "block", "break", "continue"];

impl Tokens {
    fn new(tokens: Vec<Token>) -> Self {
        Self { line: tokens.first().map_or(1, |token| token.line), left: tokens.into() }
    }

    fn next(&mut self) -> Option<Kind> {
        let token = self.left.pop_front()?;
        self.line = token.line;
        Some(token.kind)
    }

    fn peek(&self, ahead: usize) -> Option<&Kind> {
        self.left.get(ahead).map(|token| &token.kind)
    }

    fn keyword(&mut self) -> Option<String> {
        match self.peek(0) {
            Some(Kind::Word(word)) if KEYWORDS.contains(&word.as_str()) => {
                let word = word.clone();
                self.next();
                Some(word)
            }
            _ => None,
        }
    }

    fn finish(&mut self) -> Result<(), Wrong> {
        match self.next() {
            None => Ok(()),
            Some(kind) => Err(Wrong::new(self.line, format!("{} is not expected here", shown(&kind)))),
        }
    }

    fn statement(mut self) -> Result<Node, Wrong> {
        let declared = match (self.peek(0), self.peek(1)) {
            (Some(Kind::Variable(name, fields)), Some(operator @ (Kind::Declare | Kind::Assign))) if fields.is_empty() => {
                Some((name.clone(), *operator == Kind::Declare))
            }
            _ => None,
        };
        let Some((variable, is_new)) = declared else { return Ok(Node::Output(self.whole_pipeline()?)) };
        self.next();
        self.next();
        Ok(Node::Let { variable, is_new, pipeline: self.whole_pipeline()? })
    }

    /// `$value :=` or `$key, $value :=`, if `range` has them.
    fn range_variables(&mut self) -> (Option<String>, Option<String>) {
        let (key, value) = match (self.peek(0), self.peek(1), self.peek(2), self.peek(3)) {
            (Some(Kind::Variable(value, _)), Some(Kind::Declare), ..) => (None, Some(value.clone())),
            (Some(Kind::Variable(key, _)), Some(Kind::Comma), Some(Kind::Variable(value, _)), Some(Kind::Declare)) => {
                (Some(key.clone()), Some(value.clone()))
            }
            _ => (None, None),
        };
        let taken = match (&key, &value) {
            (Some(_), _) => 4,
            (None, Some(_)) => 2,
            (None, None) => 0,
        };
        for _ in 0..taken {
            self.next();
        }
        (key, value)
    }

    fn whole_pipeline(&mut self) -> Result<Pipeline, Wrong> {
        let pipeline = self.pipeline(0)?;
        self.finish()?;
        Ok(pipeline)
    }

    fn pipeline(&mut self, depth: usize) -> Result<Pipeline, Wrong> {
        let line = self.line;
        if depth > MAX_DEPTH {
            return Err(Wrong::new(line, format!("parentheses are nested more than {MAX_DEPTH} deep")));
        }
        let mut commands = vec![self.command(depth)?];
        while self.peek(0) == Some(&Kind::Pipe) {
            self.next();
            if matches!(self.peek(0), None | Some(Kind::Pipe | Kind::Close)) {
                return Err(Wrong::new(self.line, "something is missing behind `|`"));
            }
            commands.push(self.command(depth)?);
        }
        Ok(Pipeline { line, commands })
    }

    fn command(&mut self, depth: usize) -> Result<Command, Wrong> {
        let function = match self.peek(0) {
            Some(Kind::Word(word)) if !matches!(word.as_str(), "true" | "false" | "nil") => Some(word.clone()),
            _ => None,
        };
        let Some(function) = function else {
            let name = self.peek(0).map(shown).unwrap_or_default();
            let term = self.term(depth)?;
            return match self.peek(0) {
                None | Some(Kind::Pipe | Kind::Close) => Ok(Command::Value(term)),
                Some(_) => Err(Wrong::new(self.line, format!("{name} is not a function, and something stands behind it"))),
            };
        };
        self.next();
        let mut arguments = Vec::new();
        while !matches!(self.peek(0), None | Some(Kind::Pipe | Kind::Close)) {
            arguments.push(self.term(depth)?);
        }
        Ok(Command::Call { function, arguments })
    }

    fn term(&mut self, depth: usize) -> Result<Term, Wrong> {
        let line = self.line;
        Ok(match self.next() {
            Some(Kind::Field(names)) => Term::Field(names),
            Some(Kind::Variable(name, names)) => Term::Variable(name, names),
            Some(Kind::Text(text)) => Term::Literal(Value::String(text)),
            Some(Kind::Number(number)) => Term::Literal(number.into()),
            Some(Kind::Word(word)) if word == "true" || word == "false" => Term::Literal(Value::Bool(word == "true")),
            Some(Kind::Word(word)) => {
                return Err(Wrong::new(self.line, format!("put `{word}` with what belongs to it in parentheses")));
            }
            Some(Kind::Open) => {
                let line = self.line;
                let inner = self.pipeline(depth + 1)?;
                if self.next() != Some(Kind::Close) {
                    return Err(Wrong::new(line, "`(` is never closed"));
                }
                Term::Pipeline(inner)
            }
            Some(kind) => return Err(Wrong::new(self.line, format!("{} is not expected here", shown(&kind)))),
            None => return Err(Wrong::new(line, "a value is missing")),
        })
    }
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Word(word) => format!("`{word}`"),
        Kind::Field(names) => format!("`.{}`", names.join(".")),
        Kind::Variable(name, names) => format!("`${}`", [std::slice::from_ref(name), names.as_slice()].concat().join(".")),
        Kind::Text(text) => format!("{text:?}"),
        Kind::Number(number) => format!("`{number}`"),
        Kind::Pipe => "`|`".to_owned(),
        Kind::Open => "`(`".to_owned(),
        Kind::Close => "`)`".to_owned(),
        Kind::Comma => "`,`".to_owned(),
        Kind::Declare => "`:=`".to_owned(),
        Kind::Assign => "`=`".to_owned(),
    }
}
