//! What a connection's first bytes say about it.
//!
//! [`sniff`] is called with everything that has come so far, whenever more has come, until it says something other than
//! [`Sniffed::NeedMore`]. What it says once stays true: more bytes never change the kind. It reads only what it needs, waits
//! for nothing that an honest client would not send by itself, and allocates only for a ClientHello that is split over records.

mod client_hello;
mod http1;

pub use client_hello::{Alpn, ClientHello};

/// How many bytes are looked at; whoever is not understood by then is [`Sniffed::Opaque`].
///
/// A ClientHello with a post-quantum key share is below 2 KiB, with a session ticket below 4. This holds one that fills a
/// whole record (16 KiB) even when it is split over several, and bounds what a connection can make a proxy keep for it.
pub const MAX_SNIFF: usize = 32 * 1024;

/// The client's connection preface (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniffed<'a> {
    /// Nothing can be said yet. Never for [`MAX_SNIFF`] bytes or more.
    NeedMore,
    /// TLS. The ClientHello is complete and well formed.
    Tls(ClientHello<'a>),
    /// A request line of HTTP/1 begins, with any method.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// None of these, or broken.
    Opaque,
}

/// Says what a connection's first bytes are.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Sniffed<'_> {
    let bounded = bytes.get(..MAX_SNIFF).unwrap_or(bytes);
    let verdict = match bounded.first() {
        None => Sniffed::NeedMore,
        Some(&client_hello::HANDSHAKE) => client_hello::sniff(bounded),
        Some(_) if bounded.starts_with(HTTP2_PREFACE) => Sniffed::Http2,
        Some(_) if HTTP2_PREFACE.starts_with(bounded) => Sniffed::NeedMore,
        Some(_) => http1::sniff(bounded),
    };
    match verdict {
        Sniffed::NeedMore if bytes.len() >= MAX_SNIFF => Sniffed::Opaque,
        decided => decided,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::discriminant;
    use std::sync::{Arc, LazyLock};

    /// What a rustls client with a post-quantum key exchange sends first.
    fn real_hello(sni: &str, alpn: &[&[u8]], max_fragment_size: Option<usize>) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|it| it.to_vec()).collect();
        config.max_fragment_size = max_fragment_size;
        let mut client = rustls::ClientConnection::new(Arc::new(config), sni.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The verdict on every prefix of `bytes`, checked to be one verdict that stays.
    fn verdict_over_time(bytes: &[u8]) -> Sniffed<'_> {
        let mut decided = Sniffed::NeedMore;
        for end in 0..=bytes.len() {
            let now = sniff(&bytes[..end]);
            if decided != Sniffed::NeedMore {
                assert_eq!(now, decided, "after {end} bytes");
            }
            decided = now;
        }
        decided
    }

    #[test]
    fn http2_is_known_by_its_whole_preface() {
        assert_eq!(verdict_over_time(HTTP2_PREFACE), Sniffed::Http2);
        assert_eq!(sniff(&HTTP2_PREFACE[..HTTP2_PREFACE.len() - 1]), Sniffed::NeedMore);
        assert_eq!(verdict_over_time(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"), Sniffed::Http2);
        assert_eq!(verdict_over_time(b"PRI /x HTTP/1.1\r\n"), Sniffed::Http1);
        assert_eq!(verdict_over_time(b"PRI * HTTP/1.1\r\n\r\n"), Sniffed::Http1);
    }

    #[test]
    fn a_real_post_quantum_hello_is_read_whole() {
        let bytes = real_hello("Reviews.shop.svc", &[b"weir/h2", b"weir/tcp"], None);
        assert!(bytes.len() > 1_200, "{} bytes are too few for an ML-KEM key share", bytes.len());
        let Sniffed::Tls(hello) = verdict_over_time(&bytes) else { panic!("{:?}", sniff(&bytes)) };
        assert_eq!(hello.sni.as_deref(), Some("Reviews.shop.svc"));
        assert!(hello.alpn.contains(b"weir/h2") && hello.alpn.contains(b"weir/tcp") && !hello.alpn.contains(b"weir"));
        assert_eq!(hello.alpn.iter().collect::<Vec<_>>(), [b"weir/h2".as_slice(), b"weir/tcp"]);
        assert_eq!(sniff(&bytes[..bytes.len() - 1]), Sniffed::NeedMore);
    }

    #[test]
    fn a_real_hello_split_over_records_says_the_same() {
        let bytes = real_hello("reviews.shop", &[b"weir/h2"], Some(64));
        let Sniffed::Tls(hello) = verdict_over_time(&bytes) else { panic!("{:?}", sniff(&bytes)) };
        assert_eq!(hello.sni.as_deref(), Some("reviews.shop"));
        assert!(hello.alpn.contains(b"weir/h2"));
    }

    #[test]
    fn an_address_as_server_name_and_no_alpn_are_no_names() {
        let bytes = real_hello("127.0.0.1", &[], None);
        let Sniffed::Tls(hello) = sniff(&bytes) else { panic!("{:?}", sniff(&bytes)) };
        assert_eq!(hello.sni, None);
        assert_eq!(hello.alpn.iter().count(), 0);
    }

    #[test]
    fn other_protocols_are_opaque_as_soon_as_they_can_be() {
        for bytes in [
            b"\0\0\0\x08\x04\xd2\x16\x2f".as_slice(), // PostgreSQL, SSLRequest
            b"\x10\x1b\0\x04MQTT",
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
            b"CONNECT {\"verbose\":false}\r\n",
            b"EHLO client.example\r\n",
            b"set key 0 0 5\r\n",
            b"\x15\x03\x01\0\x02\x02\x28", // a TLS alert
            b"\x80\x2e\x01\x03\x01",       // SSL 2
            b"\x16\x04\0",
            b"\xff",
        ] {
            assert_eq!(verdict_over_time(bytes), Sniffed::Opaque, "{bytes:?}");
        }
    }

    #[test]
    fn nobody_is_looked_at_without_end() {
        let mut records = Vec::new();
        while records.len() < MAX_SNIFF {
            let first = records.is_empty();
            records.extend_from_slice(if first { &[0x16, 3, 1, 0, 4, 1, 0, 0x3f, 0xff] } else { &[0x16, 3, 1, 0, 1, 0] });
        }
        assert_eq!(sniff(&records[..MAX_SNIFF - 1]), Sniffed::NeedMore);
        assert_eq!(sniff(&records[..MAX_SNIFF]), Sniffed::Opaque);
        assert_eq!(sniff(&records), Sniffed::Opaque);
    }

    fn plausible() -> impl Strategy<Value = Vec<u8>> {
        let http = "[A-Zpost!]{0,9} ?(/|\\*|http://|a:|\\[)?[a-z ]{0,9}(HTTP/1.1\r\n)?".prop_map(String::into_bytes);
        let record = (prop::sample::select(vec![0x16u8, 0x16, 0x16, 0x17]), 0..4u8, prop::collection::vec(0..3u8, 0..60));
        let records = prop::collection::vec(record, 1..5).prop_map(|records| {
            let framed = records.into_iter().flat_map(|(kind, minor, body)| {
                let length = u8::try_from(body.len()).unwrap();
                [kind, 3, minor, 0, length].into_iter().chain(body)
            });
            framed.collect()
        });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..80), http, records, Just(HTTP2_PREFACE.to_vec())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_verdict_stays_whatever_comes_after_it(bytes in plausible(), more in plausible()) {
            let decided = sniff(&bytes);
            let all = [bytes.clone(), more].concat();
            if decided != Sniffed::NeedMore {
                prop_assert_eq!(sniff(&all), decided);
            }
            verdict_over_time(&all);
        }

        #[test]
        fn a_damaged_hello_never_panics_and_its_verdict_stays(at in 0..1_500usize, byte: u8, cut in 0..1_500usize, split in any::<bool>()) {
            static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| real_hello("reviews.shop", &[b"weir/h2", b"h2"], None));
            static SPLIT: LazyLock<Vec<u8>> = LazyLock::new(|| real_hello("reviews.shop", &[b"weir/h2", b"h2"], Some(300)));
            let mut bytes = if split { SPLIT.clone() } else { WHOLE.clone() };
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            let early = discriminant(&sniff(&bytes[..cut.min(bytes.len())]));
            if early != discriminant(&Sniffed::NeedMore) {
                prop_assert_eq!(early, discriminant(&sniff(&bytes)));
            }
        }
    }
}
