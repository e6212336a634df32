//! Headers that belong to one hop, and what becomes of them on the way to the next.

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of one hop that go whether or not `Connection` lists them (RFC 9110, section 7.6.1). `Transfer-Encoding` and `TE` are
/// hyper's and ours to write anew.
const HOP_BY_HOP: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Headers that a client cannot have removed by listing them in `Connection`: what the application's decisions rest on.
const PROTECTED: [&str; 16] = [
    "authorization",
    "cookie",
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "weir-client-id",
    "weir-error",
    "traceparent",
    "tracestate",
    "date",
];

/// Removes what belongs to the hop that the message came over.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        remove_listed(headers);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // It says how long the body is; a length beside it is a lie, or meant for somebody else (RFC 9112, section 6.3).
        headers.remove(CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(te) = headers.get(TE) {
        // Nothing but `trailers` may go on (RFC 9113, section 8.2.2).
        let trailers = te.as_bytes().split(|b| *b == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

fn remove_listed(headers: &mut HeaderMap) {
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    let names = lines.iter().flat_map(|line| line.to_str().unwrap_or_default().split(',')).map(str::trim);
    for name in names.filter(|name| !PROTECTED.iter().any(|it| it.eq_ignore_ascii_case(name))) {
        // `TE: trailers` is asked of every hop, and `Trailer` announces what the body carries on.
        if !name.eq_ignore_ascii_case(TE.as_str()) && !name.eq_ignore_ascii_case(TRAILER.as_str()) {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_belongs_to_one_hop_stays_on_it() {
        let mut map = headers(&[
            ("connection", "keep-alive, x-mine, Authorization"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("authorization", "Bearer t"),
            ("te", "gzip, trailers"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("authorization", "Bearer t"), ("te", "trailers"), ("accept", "*/*")]));
    }

    #[test]
    fn every_line_of_connection_counts_and_a_length_beside_chunks_does_not() {
        let mut map = headers(&[
            ("connection", "x-a"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "64"),
        ]);
        map.append("connection", HeaderValue::from_static("x-b"));
        strip_hop_by_hop(&mut map);
        assert_eq!(map, HeaderMap::new());
    }
}
