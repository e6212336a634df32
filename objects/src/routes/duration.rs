//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `10s`, `250ms`.

use std::time::Duration;

/// Reads a duration: one to four times a number of one to five digits with `h`, `m`, `s` or `ms`, and nothing else.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration like 10s, 250ms or 1h30m (GEP-2257)".to_owned();
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = if (1..=5).contains(&digits) { number.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        let (unit, tail) = if let Some(tail) = tail.strip_prefix("ms") {
            (Duration::from_millis(1), tail)
        } else if let Some(tail) = tail.strip_prefix('h') {
            (Duration::from_secs(3600), tail)
        } else if let Some(tail) = tail.strip_prefix('m') {
            (Duration::from_secs(60), tail)
        } else if let Some(tail) = tail.strip_prefix('s') {
            (Duration::from_secs(1), tail)
        } else {
            return Err(wrong());
        };
        // 99,999 hours four times over fit easily.
        total += unit * u32::try_from(number).map_err(|_| wrong())?;
        parts += 1;
        rest = tail;
    }
    if (1..=4).contains(&parts) { Ok(total) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_the_gep_says() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("10s500ms", 10_500),
            ("99999h", 359_996_400_000),
            ("1h2h20m10ms", 12_000_010),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "10", "s", "1.5s", "-1s", "+1s", "100000s", "1d", "1us", "1s ", "1h1h1h1h1h", "1S", "१s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
