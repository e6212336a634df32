//! Quantities as Kubernetes writes them: `100m`, `0.5`, `64Mi`, `1e9`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// An amount of a resource. Compares by amount and prints as it was written: `0.5` equals `500m`.
#[derive(Clone, Debug)]
pub struct Quantity {
    text: Arc<str>,
    /// The amount in billionths of the unit.
    nanos: u128,
}

/// Text that is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a Kubernetes quantity")]
pub struct InvalidQuantity;

/// Kubernetes' own limit is 2^63 - 1 units.
const MAX_NANOS: u128 = 9_223_372_036_854_775_807 * NANOS;
const NANOS: u128 = 1_000_000_000;
/// Longer texts are no quantity that anybody means, and this bounds the arithmetic.
const MAX_TEXT: usize = 32;

impl Quantity {
    /// Whether it is a whole number of units: bytes come in no parts.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.nanos.is_multiple_of(NANOS)
    }

    /// Whether it is a whole number of thousandths, the smallest share of a processor.
    #[must_use]
    pub const fn is_whole_millis(&self) -> bool {
        self.nanos.is_multiple_of(NANOS / 1000)
    }

    /// Whether it is nothing.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.nanos == 0
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        if text.len() > MAX_TEXT {
            return Err(InvalidQuantity);
        }
        let nanos = parse_nanos(text).filter(|nanos| *nanos <= MAX_NANOS).ok_or(InvalidQuantity)?;
        Ok(Self { text: text.into(), nanos })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

/// Digits with at most one dot, then a suffix. A leading `+` is legal; a `-` is not for resources.
fn parse_nanos(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    // A scale of `a * 10^b` keeps everything in whole numbers: the digits of the fraction lower b.
    let (factor, mut exponent) = scale(suffix)?;
    exponent = exponent.checked_add(9)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let digits = [whole, fraction].concat().parse::<u128>().ok()?.checked_mul(factor)?;
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    match (exponent >= 0, power) {
        (true, Some(power)) => digits.checked_mul(power),
        // Kubernetes rounds amounts below a billionth up.
        (false, Some(power)) => Some(digits.div_ceil(power)),
        (_, None) => (digits == 0).then_some(0),
    }
}

/// What a suffix multiplies by: a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => (1, suffix.strip_prefix(['e', 'E'])?.parse::<i16>().ok()?.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantity(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|_| panic!("{text} is a quantity"))
    }

    #[test]
    fn equal_amounts_are_equal_however_they_are_written() {
        assert_eq!(quantity("0.5"), quantity("500m"));
        assert_eq!(quantity(".5"), quantity("5e-1"));
        assert_eq!(quantity("1Gi"), quantity("1073741824"));
        assert_eq!(quantity("1.5Ki"), quantity("1536"));
        assert_eq!(quantity("1E"), quantity("1e18"));
        assert_eq!(quantity("1."), quantity("+1"));
        assert!(quantity("64Mi") < quantity("64.1Mi"));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for bad in
            ["", ".", "-1", "1.2.3", "1 Gi", "Mi", "1mi", "1KB", "0x10", "1e", "1e99999", "ten", "9Ei9", "9223372036854775808"]
        {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_of_bytes_and_of_millis_are_seen() {
        assert!(!quantity("100m").is_whole() && quantity("2000m").is_whole());
        assert!(quantity("1m").is_whole_millis() && !quantity("100u").is_whole_millis());
        assert!(quantity("0").is_zero());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn nothing_that_looks_like_one_panics(text in "[+]?[0-9]{0,12}[.]?[0-9]{0,12}([numkMGTPE]i?|[eE][+-]?[0-9]{0,5})?") {
            let _ = text.parse::<Quantity>();
        }
    }
}
