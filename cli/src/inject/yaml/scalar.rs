//! What plain text in YAML means to Kubernetes, whose tools read YAML 1.1 where it differs from 1.2: `yes` is true, and the
//! file mode `0644` is octal.

use serde_json::{Number, Value};

/// What a plain scalar means.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    // Only what begins like a number is one: Rust also reads `inf` and `nan`.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    let digits = text.replace('_', "");
    integer(&digits).or_else(|| digits.parse::<f64>().ok().and_then(Number::from_f64))
}

fn integer(digits: &str) -> Option<Number> {
    let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
    let (base, magnitude) = match unsigned.get(..2) {
        Some("0x" | "0X") => (16, unsigned.get(2..)?),
        Some("0o" | "0O") => (8, unsigned.get(2..)?),
        Some("0b" | "0B") => (2, unsigned.get(2..)?),
        _ if unsigned.len() > 1 && unsigned.starts_with('0') => (8, unsigned.get(1..)?),
        _ => (10, unsigned),
    };
    let magnitude = magnitude.bytes().all(|b| b.is_ascii_alphanumeric()).then(|| u64::from_str_radix(magnitude, base).ok())??;
    if digits.starts_with('-') { 0_i64.checked_sub_unsigned(magnitude).map(Number::from) } else { Some(magnitude.into()) }
}

/// Whether text written plain is read as that same text, by YAML 1.1 and by 1.2. Errs on the side of quotes.
pub(super) fn is_plain(text: &str) -> bool {
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    // Without spaces and commas there is neither `a: b` nor an item of a flow sequence in it; `host:` would be a mapping.
    let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':' | '+' | '@' | '=');
    begins && !text.ends_with(':') && text.chars().all(ordinary) && resolve(text).is_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_text_means_what_kubernetes_reads() {
        for (text, value) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("y", json!(true)),
            ("Off", json!(false)),
            ("0644", json!(420)),
            ("0o644", json!(420)),
            ("0x1F", json!(31)),
            ("1_000", json!(1000)),
            ("-7", json!(-7)),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("0", json!(0)),
            ("10.0.0.1", json!("10.0.0.1")),
            ("100m", json!("100m")),
            (".inf", json!(".inf")),
            ("-", json!("-")),
            ("+", json!("+")),
            ("inf", json!("inf")),
            ("0x", json!("0x")),
            ("2024-01-01", json!("2024-01-01")),
        ] {
            assert_eq!(resolve(text), value, "{text:?}");
        }
    }

    #[test]
    fn what_would_be_read_as_something_else_is_quoted() {
        for plain in ["web", "/var/run", "status.podIPs", "weir-proxy:0.1.0", "a.b:15410", "weir.dev/status"] {
            assert!(is_plain(plain), "{plain}");
        }
        for other in
            ["", "yes", "n", "null", "15400", "0x1", "a: b", "a:", "- a", "#a", "a #b", "*a", "{}", "a,b", "1.5", "é", " a"]
        {
            assert!(!is_plain(other), "{other}");
        }
    }
}
