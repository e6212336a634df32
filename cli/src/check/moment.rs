//! Points in time, as seconds since 1970.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What RFC 3339 text says.
pub(super) fn parse(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// As RFC 3339 text.
pub(super) fn text(seconds: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|moment| moment.format(&Rfc3339).ok());
    moment.unwrap_or_else(|| format!("{seconds} s after 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_seconds() {
        assert_eq!(parse("2023-11-14T22:13:20.5Z"), Some(1_700_000_000));
        assert_eq!(text(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse("yesterday"), None);
    }
}
