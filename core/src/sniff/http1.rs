//! The beginning of an HTTP/1 request line (RFC 9112, section 3).

use super::Sniffed;

/// Methods may be this long. The longest registered one has 17 characters; text protocols without spaces are given up early.
const MAX_METHOD: usize = 32;
/// Schemes of an absolute target may be this long.
const MAX_SCHEME: usize = 16;
/// Hosts of a CONNECT may be this long: a DNS name.
const MAX_HOST: usize = 253;

/// Whether the bytes are a method, a space, and the beginning of one of the four forms of a target. A method and a space alone
/// would not do: `SSH-2.0-OpenSSH_9 Debian`, `EHLO client` and `set key 0` begin like that too.
pub(super) fn sniff(bytes: &[u8]) -> Sniffed<'static> {
    let method_len = bytes.iter().take_while(|byte| is_token(**byte)).count();
    if method_len > MAX_METHOD {
        return Sniffed::Opaque;
    }
    let Some((method, rest)) = bytes.split_at_checked(method_len) else { return Sniffed::Opaque };
    match rest {
        [] => Sniffed::NeedMore,
        [b' ', target @ ..] if !method.is_empty() => sniff_target(target, method == b"CONNECT"),
        _ => Sniffed::Opaque,
    }
}

fn sniff_target(target: &[u8], connect: bool) -> Sniffed<'static> {
    match target {
        [] | [b'*'] => Sniffed::NeedMore,
        // Origin form, asterisk form, and the authority form with an IPv6 address.
        [b'/', ..] | [b'*', b' ', ..] => Sniffed::Http1,
        [b'[', ..] if connect => Sniffed::Http1,
        _ if connect => before_colon(target, MAX_HOST, is_host, &[]),
        _ => before_colon(target, MAX_SCHEME, is_scheme, b"//"),
    }
}

/// Whether the bytes are at least one and at most `most` of a kind, then a colon and `then`.
fn before_colon(bytes: &[u8], most: usize, kind: fn(u8) -> bool, then: &[u8]) -> Sniffed<'static> {
    let len = bytes.iter().take_while(|byte| kind(**byte)).count();
    match bytes.get(len..) {
        _ if len > most => Sniffed::Opaque,
        Some([]) => Sniffed::NeedMore,
        Some([b':', rest @ ..]) if len > 0 && rest.starts_with(then) => Sniffed::Http1,
        Some([b':', rest @ ..]) if len > 0 && then.starts_with(rest) => Sniffed::NeedMore,
        _ => Sniffed::Opaque,
    }
}

/// RFC 9110, section 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

const fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

const fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_known_by_its_target() {
        for text in [
            "GET /",
            "GET / HTTP/1.1\r\n",
            "get /key",
            "M-SEARCH * HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET http://reviews.shop/ratings HTTP/1.1",
            "POST HTTPS://reviews",
            "CONNECT db.data:5432 HTTP/1.1",
            "CONNECT db:",
            "CONNECT [::1]:80 HTTP/1.1",
            "X!y~z /",
        ] {
            assert_eq!(sniff(text.as_bytes()), Sniffed::Http1, "{text}");
        }
    }

    #[test]
    fn what_may_still_become_one_waits() {
        for text in ["G", "GET", "GET ", "OPTIONS *", "GET h", "GET http", "GET http:", "GET http:/", "CONNECT ", "CONNECT db"] {
            assert_eq!(sniff(text.as_bytes()), Sniffed::NeedMore, "{text}");
        }
    }

    #[test]
    fn what_cannot_become_one_is_opaque() {
        for text in [
            " /",
            "\r\nGET / HTTP/1.1",
            "GET\t/",
            "GET  /",
            "GET \r\n",
            "GET *x",
            "GET http:x",
            "GET http /",
            "GET :",
            "GET reviews.shop/ratings",
            "GET [::1]/",
            "CONNECT :80",
            "CONNECT db /",
            "CONNECT {",
            "G\u{e9}T /",
        ] {
            assert_eq!(sniff(text.as_bytes()), Sniffed::Opaque, "{text}");
        }
        assert_eq!(sniff(&[b'A'; MAX_METHOD + 1]), Sniffed::Opaque);
        assert_eq!(sniff(&[b'A'; MAX_METHOD]), Sniffed::NeedMore);
        assert_eq!(sniff(format!("GET {}", "a".repeat(MAX_SCHEME + 1)).as_bytes()), Sniffed::Opaque);
        assert_eq!(sniff(format!("CONNECT {}", "a".repeat(MAX_HOST + 1)).as_bytes()), Sniffed::Opaque);
    }
}
