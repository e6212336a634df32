//! One line of the text format.

use super::{Kind, Labels};

/// A line, taken apart.
pub(super) enum Line {
    /// Empty, or a comment that means nothing.
    Blank,
    /// What a metric is.
    Help {
        /// The metric.
        name: String,
    },
    /// Its kind.
    Type {
        /// The metric.
        name: String,
        /// The kind.
        kind: Kind,
    },
    /// A value.
    Sample(Sample),
}

/// One value of one series.
#[derive(Debug)]
pub(super) struct Sample {
    /// Name, with a histogram's suffix.
    pub(super) name: String,
    /// Labels.
    pub(super) labels: Labels,
    /// Value.
    pub(super) value: f64,
}

impl Line {
    /// Takes a line apart.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("HELP without a text")?;
            unescape(help, false)?;
            return Ok(Self::Help { name: metric_name(name)? });
        }
        if let Some(rest) = text.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("TYPE without a type")?;
            return Ok(Self::Type { name: metric_name(name)?, kind: parse_kind(kind)? });
        }
        if text.is_empty() || text.starts_with('#') {
            return Ok(Self::Blank);
        }
        Sample::parse(text).map(Self::Sample)
    }
}

impl Sample {
    fn parse(text: &str) -> Result<Self, String> {
        let end = text.find(['{', ' ']).ok_or("a sample without a value")?;
        let (name, rest) = text.split_at(end);
        let name = metric_name(name)?;
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (Labels::new(), rest),
        };
        let mut words = rest.strip_prefix(' ').ok_or("no space before the value")?.split(' ');
        let value = number(words.next().unwrap_or_default())?;
        if let Some(timestamp) = words.next() {
            timestamp.parse::<i64>().map_err(|_| "the timestamp is not a whole number")?;
        }
        if words.next().is_some() {
            return Err("something stands behind the timestamp".to_owned());
        }
        Ok(Self { name, labels, value })
    }
}

/// Labels up to and without the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (name, tail) = rest.split_once('=').ok_or("a label without a value")?;
        if !is_name(name, false) {
            return Err(format!("`{name}` is not the name of a label"));
        }
        let tail = tail.strip_prefix('"').ok_or("a label's value without a quote")?;
        let end = closing_quote(tail).ok_or("a label's value without its closing quote")?;
        let (value, tail) = (&tail[..end], &tail[end + 1..]);
        if labels.insert(name.to_owned(), unescape(value, true)?).is_some() {
            return Err("one label twice".to_owned());
        }
        rest = match tail.strip_prefix(',') {
            Some(rest) => rest,
            None if tail.starts_with('}') => tail,
            None => return Err("no comma between labels".to_owned()),
        };
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

/// What `text` means: `\\`, `\n` and, inside quotes, `\"` are all the escapes there are.
fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                other => return Err(format!("an escape that the format does not know: \\{}", other.unwrap_or(' '))),
            },
            other => other,
        });
    }
    Ok(plain)
}

/// A number as Prometheus writes it.
pub(super) fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        _ => {
            let plain = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            text.parse().ok().filter(|_| plain).ok_or_else(|| format!("`{text}` is not a number"))
        }
    }
}

fn parse_kind(text: &str) -> Result<Kind, String> {
    Ok(match text {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        "summary" => Kind::Summary,
        "untyped" => Kind::Untyped,
        other => return Err(format!("`{other}` is not a type")),
    })
}

fn metric_name(text: &str) -> Result<String, String> {
    if is_name(text, true) { Ok(text.to_owned()) } else { Err(format!("`{text}` is not the name of a metric")) }
}

fn is_name(text: &str, colons: bool) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_' || (colons && b == b':');
    let mut bytes = text.bytes();
    bytes.next().is_some_and(first) && bytes.all(|b| first(b) || b.is_ascii_digit())
}
