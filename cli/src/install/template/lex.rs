//! A template's text as tokens.

use super::Wrong;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text that is written as it is.
    Text(String),
    /// What stands between `{{` and `}}`, which is never empty.
    Action(Vec<Token>),
}

/// A token, and the line it stands on, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or a function.
    Word(String),
    /// `.a.b`; `.` alone has no names.
    Field(Vec<String>),
    /// `$x.a`; the name comes without `$` and is empty for `$` alone.
    Variable(String, Vec<String>),
    Text(String),
    Number(i64),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

/// Takes a template apart.
pub(super) fn lex(template: &str) -> Result<Vec<Piece>, Wrong> {
    let mut pieces = Vec::new();
    let (mut rest, mut line, mut trims) = (template, 1, false);
    loop {
        let (text, action) = match rest.split_once("{{") {
            Some((text, action)) => (text, Some(action)),
            None => (rest, None),
        };
        let begins = action.is_some_and(|action| action.starts_with("- ") || action.starts_with("-\n"));
        let shown = if trims { text.trim_start() } else { text };
        let shown = if begins { shown.trim_end() } else { shown };
        if !shown.is_empty() {
            pieces.push(Piece::Text(shown.to_owned()));
        }
        line += newlines(text);
        let Some(action) = action else { return Ok(pieces) };
        let inside = if begins { action.get(1..).unwrap_or_default() } else { action };
        let (tokens, behind) = tokens(inside, line)?;
        line += newlines(inside) - newlines(behind.rest);
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens));
        }
        (rest, trims) = (behind.rest, behind.trims);
    }
}

/// What follows an action.
struct Behind<'a> {
    rest: &'a str,
    /// Whether white space that follows belongs to the action.
    trims: bool,
}

/// The tokens of an action up to its end. A comment has none.
fn tokens(action: &str, mut line: usize) -> Result<(Option<Vec<Token>>, Behind<'_>), Wrong> {
    let begin = line;
    let never_closed = || Wrong::new(begin, "`{{` is never closed");
    if let Some(comment) = action.trim_start().strip_prefix("/*") {
        let (_, rest) = comment.split_once("*/").ok_or_else(never_closed)?;
        return Ok((None, end(rest).ok_or_else(|| Wrong::new(begin, "`}}` must follow a comment"))?));
    }
    let (mut tokens, mut rest) = (Vec::new(), action);
    loop {
        if let Some(behind) = end(rest) {
            if tokens.is_empty() {
                return Err(Wrong::new(begin, "there is nothing between `{{` and `}}`"));
            }
            return Ok((Some(tokens), behind));
        }
        let first = rest.chars().next().ok_or_else(never_closed)?;
        if first.is_whitespace() {
            line += usize::from(first == '\n');
            rest = rest.get(first.len_utf8()..).unwrap_or_default();
        } else {
            let (kind, length) = token(rest, first, line)?;
            tokens.push(Token { line, kind });
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

/// `}}`, or `-}}` with white space before it.
fn end(text: &str) -> Option<Behind<'_>> {
    if let Some(rest) = text.strip_prefix("}}") {
        return Some(Behind { rest, trims: false });
    }
    let inner = text.trim_start();
    (inner.len() < text.len()).then_some(())?;
    inner.strip_prefix("-}}").map(|rest| Behind { rest, trims: true })
}

/// The token at the start of `text`, and how many bytes it has.
fn token(text: &str, first: char, line: usize) -> Result<(Kind, usize), Wrong> {
    let one = |kind| Ok((kind, 1));
    match first {
        '|' => one(Kind::Pipe),
        '(' => one(Kind::Open),
        ')' => one(Kind::Close),
        ',' => one(Kind::Comma),
        '=' => one(Kind::Assign),
        ':' if text.starts_with(":=") => Ok((Kind::Declare, 2)),
        '"' => string(text, line),
        '.' => {
            let length = run(text, |c| c == '.' || is_name(c));
            Ok((Kind::Field(names(text.get(1..length).unwrap_or_default(), line)?), length))
        }
        '$' => {
            let length = 1 + run(text.get(1..).unwrap_or_default(), |c| c == '.' || is_name(c));
            let whole = text.get(1..length).unwrap_or_default();
            let (name, fields) = whole.split_once('.').unwrap_or((whole, ""));
            Ok((Kind::Variable(name.to_owned(), names(fields, line)?), length))
        }
        c if c.is_ascii_digit() => {
            let length = run(text, |c| c.is_ascii_alphanumeric() || c == '.');
            let number = text.get(..length).unwrap_or_default();
            let value = number.parse().map_err(|_| Wrong::new(line, format!("`{number}` is no whole number")))?;
            Ok((Kind::Number(value), length))
        }
        c if is_name(c) => {
            let length = run(text, is_name);
            Ok((Kind::Word(text.get(..length).unwrap_or_default().to_owned()), length))
        }
        other => Err(Wrong::new(line, format!("{other:?} is not supported here"))),
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn names(text: &str, line: usize) -> Result<Vec<String>, Wrong> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = text.split('.').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        return Err(Wrong::new(line, format!("`.{text}` has a dot too many")));
    }
    Ok(names)
}

fn string(text: &str, line: usize) -> Result<(Kind, usize), Wrong> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Ok((Kind::Text(value), at + 1)),
            '\\' => match characters.next() {
                Some((_, '\\')) => value.push('\\'),
                Some((_, '"')) => value.push('"'),
                Some((_, 'n')) => value.push('\n'),
                other => {
                    let other = other.map(|(_, c)| c).unwrap_or_default();
                    return Err(Wrong::new(line, format!("`\\{other}` is not supported in a string")));
                }
            },
            '\n' => break,
            c => value.push(c),
        }
    }
    Err(Wrong::new(line, "a string is never closed"))
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}
