//! The ClientHello, read from TLS records (RFC 8446, sections 4.1.2 and 5.1; RFC 6066 for the server name, RFC 7301 for ALPN).

use std::borrow::Cow;

use super::{MAX_SNIFF, Sniffed};

/// Content type of a handshake record: the first byte of every TLS connection.
pub(super) const HANDSHAKE: u8 = 22;
const RECORD_HEADER: usize = 5;
/// Longest fragment of an unprotected record.
const MAX_FRAGMENT: usize = 1 << 14;
const MESSAGE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
/// Longest DNS name.
const MAX_NAME: usize = 253;

/// What a TLS client asks for.
///
/// It borrows from the bytes it was read from, and owns its few bytes where the message was split over records and does not
/// stand in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The server's name in the case that the client wrote, if it gave one that can be a name.
    pub sni: Option<Cow<'a, str>>,
    /// The protocols that the client offers.
    pub alpn: Alpn<'a>,
}

impl ClientHello<'_> {
    fn into_owned(self) -> ClientHello<'static> {
        ClientHello {
            sni: self.sni.map(|name| Cow::Owned(name.into_owned())),
            alpn: Alpn { list: Cow::Owned(self.alpn.list.into_owned()) },
        }
    }
}

/// The protocols that a ClientHello offers, the preferred one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alpn<'a> {
    /// Each with its length in front, checked when it was read.
    list: Cow<'a, [u8]>,
}

impl Alpn<'_> {
    /// The protocols in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = Reader(&self.list);
        std::iter::from_fn(move || rest.with_u8_length())
    }

    /// Whether the client offers this one.
    #[must_use]
    pub fn contains(&self, protocol: &[u8]) -> bool {
        self.iter().any(|it| it == protocol)
    }
}

/// What bytes are that begin with [`HANDSHAKE`].
pub(super) fn sniff(bytes: &[u8]) -> Sniffed<'_> {
    match hello_message(bytes) {
        Message::Incomplete => Sniffed::NeedMore,
        Message::Broken => Sniffed::Opaque,
        Message::Complete(Cow::Borrowed(body)) => parse(body).map_or(Sniffed::Opaque, Sniffed::Tls),
        Message::Complete(Cow::Owned(body)) => parse(&body).map_or(Sniffed::Opaque, |it| Sniffed::Tls(it.into_owned())),
    }
}

enum Message<'a> {
    Incomplete,
    Broken,
    /// The body of the ClientHello, put together if it stood in several records.
    Complete(Cow<'a, [u8]>),
}

/// Takes the first handshake message out of the records. What follows the message is not looked at.
fn hello_message(bytes: &[u8]) -> Message<'_> {
    let mut records = Records(bytes);
    let mut message = Cow::Borrowed(&[][..]);
    loop {
        match records.next_fragment() {
            Fragment::Incomplete => return Message::Incomplete,
            Fragment::Broken => return Message::Broken,
            Fragment::Part(fragment) if message.is_empty() => message = Cow::Borrowed(fragment),
            Fragment::Part(fragment) => message.to_mut().extend_from_slice(fragment),
        }
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Message::Broken;
        }
        let Some(&[_, high, middle, low]) = message.first_chunk::<MESSAGE_HEADER>() else { continue };
        let end = MESSAGE_HEADER + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low));
        if end > MAX_SNIFF {
            return Message::Broken;
        }
        if message.len() >= end {
            return match message {
                Cow::Borrowed(message) => {
                    message.get(MESSAGE_HEADER..end).map_or(Message::Broken, |it| Message::Complete(it.into()))
                }
                Cow::Owned(mut message) => {
                    message.truncate(end);
                    Message::Complete(message.split_off(MESSAGE_HEADER).into())
                }
            };
        }
    }
}

/// The bytes that have not been taken apart into records yet.
struct Records<'a>(&'a [u8]);

enum Fragment<'a> {
    /// All that has come of this record has been seen.
    Incomplete,
    Broken,
    /// The record's content, as far as it has come.
    Part(&'a [u8]),
}

impl<'a> Records<'a> {
    fn next_fragment(&mut self) -> Fragment<'a> {
        // Each byte is judged as soon as it is there, so that a verdict never depends on how bytes are cut.
        let plausible = [self.0.first().is_none_or(|kind| *kind == HANDSHAKE), self.0.get(1).is_none_or(|major| *major == 3)];
        if plausible.contains(&false) {
            return Fragment::Broken;
        }
        let Some((&[_, _, minor, high, low], rest)) = self.0.split_first_chunk::<RECORD_HEADER>() else {
            return if self.0.get(2).is_none_or(|minor| *minor <= 4) { Fragment::Incomplete } else { Fragment::Broken };
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if minor > 4 || length == 0 || length > MAX_FRAGMENT {
            return Fragment::Broken;
        }
        let (fragment, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        self.0 = after;
        if fragment.is_empty() { Fragment::Incomplete } else { Fragment::Part(fragment) }
    }
}

/// Reads the body of a ClientHello. `None`: it is not well formed.
fn parse(body: &[u8]) -> Option<ClientHello<'_>> {
    let mut body = Reader(body);
    let _version_and_random = body.take(2 + 32)?;
    let _session_id = body.with_u8_length()?;
    let _cipher_suites = body.with_u16_length()?;
    let _compression_methods = body.with_u8_length()?;
    let mut hello = ClientHello { sni: None, alpn: Alpn::default() };
    if body.0.is_empty() {
        // TLS 1.2 and before may do without extensions.
        return Some(hello);
    }
    let mut extensions = Reader(body.with_u16_length()?);
    if !body.0.is_empty() {
        return None;
    }
    let (mut names, mut protocols) = (None, None);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.with_u16_length()?;
        let seen_before = match kind {
            SERVER_NAME => names.replace(content).is_some(),
            ALPN => protocols.replace(content).is_some(),
            _ => false,
        };
        if seen_before {
            return None;
        }
    }
    if let Some(content) = names {
        hello.sni = server_name(content)?.map(Cow::Borrowed);
    }
    if let Some(content) = protocols {
        hello.alpn = Alpn { list: Cow::Borrowed(protocol_list(content)?) };
    }
    Some(hello)
}

/// The first host name of the list, if it can be one. `None`: the list is not well formed.
fn server_name(content: &[u8]) -> Option<Option<&str>> {
    let mut names = Reader(whole(content)?);
    let mut first = None;
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.with_u16_length()?;
        if kind == HOST_NAME && first.is_none() {
            first = Some(name);
        }
    }
    Some(first.and_then(host_name))
}

fn host_name(name: &[u8]) -> Option<&str> {
    let plausible = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let ok = !name.is_empty() && name.len() <= MAX_NAME && name.iter().all(plausible);
    std::str::from_utf8(name).ok().filter(|_| ok)
}

/// The list of protocols, checked: at least one, none of them empty. `None`: it is not well formed.
fn protocol_list(content: &[u8]) -> Option<&[u8]> {
    let list = whole(content)?;
    let mut rest = Reader(list);
    while !rest.0.is_empty() {
        rest.with_u8_length().filter(|protocol| !protocol.is_empty())?;
    }
    Some(list).filter(|list| !list.is_empty())
}

/// What stands after a 16-bit length that has to cover everything.
fn whole(content: &[u8]) -> Option<&[u8]> {
    let mut content = Reader(content);
    content.with_u16_length().filter(|_| content.0.is_empty())
}

/// Bytes that have not been read yet. Reading past the end is `None`.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn u16(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    fn with_u8_length(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn with_u16_length(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_u16_length(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&length, content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_u16_length(content)].concat()
    }

    fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
        let list: Vec<u8> = entries.iter().flat_map(|(kind, name)| [vec![*kind], with_u16_length(name)].concat()).collect();
        extension(SERVER_NAME, &with_u16_length(&list))
    }

    fn protocols(list: &[u8]) -> Vec<u8> {
        extension(ALPN, &with_u16_length(list))
    }

    /// The body of a ClientHello with one cipher suite and these extensions.
    fn body(extensions: &[Vec<u8>]) -> Vec<u8> {
        let fixed = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        [fixed, with_u16_length(&extensions.concat())].concat()
    }

    fn message(body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], body].concat()
    }

    fn record(fragment: &[u8]) -> Vec<u8> {
        [&[HANDSHAKE, 3, 1][..], &with_u16_length(fragment)].concat()
    }

    fn read(extensions: &[Vec<u8>]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
        match sniff(&record(&message(&body(extensions)))) {
            Sniffed::Tls(it) => Some((it.sni.map(Cow::into_owned), it.alpn.iter().map(<[u8]>::to_vec).collect())),
            Sniffed::Opaque => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_and_protocols_are_read_exactly() {
        let unknown = extension(0x0a0a, b"anything");
        for (extensions, sni, alpn) in [
            (vec![], None, vec![]),
            (vec![names(&[(0, b"a.b")])], Some("a.b"), vec![]),
            (vec![unknown.clone(), names(&[(0, b"A_1.b")]), protocols(b"\x02h2")], Some("A_1.b"), vec![&b"h2"[..]]),
            (vec![protocols(b"\x07weir/h2\x01\xff"), unknown], None, vec![b"weir/h2", b"\xff"]),
            (vec![names(&[(1, b"other"), (0, b"a"), (0, b"b")])], Some("a"), vec![]),
            // What cannot be a name is none.
            (vec![names(&[(0, b"")])], None, vec![]),
            (vec![names(&[(0, b"a b")])], None, vec![]),
            (vec![names(&[(0, b"::1")])], None, vec![]),
            (vec![names(&[(0, b"\xc3\xa4")])], None, vec![]),
            (vec![names(&[(0, &[b'a'; 254])])], None, vec![]),
        ] {
            let alpn = alpn.into_iter().map(<[u8]>::to_vec).collect();
            assert_eq!(read(&extensions), Some((sni.map(str::to_owned), alpn)), "{extensions:?}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_opaque() {
        for extensions in [
            vec![names(&[(0, b"a")]), names(&[(0, b"b")])],
            vec![protocols(b"\x01a"), protocols(b"\x01b")],
            vec![protocols(b"")],
            vec![protocols(b"\x00")],
            vec![protocols(b"\x02a")],
            vec![extension(ALPN, b"")],
            vec![extension(ALPN, &[&with_u16_length(b"\x01a")[..], b"x"].concat())],
            vec![extension(SERVER_NAME, &with_u16_length(b"\0\0\x09a"))],
            vec![b"\0\0\0".to_vec()],
            vec![b"\0\x2b\0\x09abc".to_vec()],
        ] {
            assert_eq!(read(&extensions), None, "{extensions:?}");
        }
        let good = body(&[names(&[(0, b"a")])]);
        for broken in [&good[..good.len() - 1], &good[..40], &good[..1], &[]] {
            assert_eq!(sniff(&record(&message(broken))), Sniffed::Opaque, "{broken:?}");
        }
        assert_eq!(sniff(&record(&message(&[&good[..], b"x"].concat()))), Sniffed::Opaque);
    }

    #[test]
    fn extensions_may_be_missing() {
        let Some((fixed, _)) = body(&[]).split_last_chunk::<2>().map(|(fixed, length)| (fixed.to_vec(), *length)) else {
            panic!()
        };
        assert!(matches!(sniff(&record(&message(&fixed))), Sniffed::Tls(ClientHello { sni: None, .. })));
    }

    #[test]
    fn records_that_no_client_sends_are_opaque() {
        let hello = message(&body(&[]));
        let (first, second) = hello.split_at(9);
        let split = |between: &[u8]| [&record(first)[..], between, &record(second)].concat();
        assert!(matches!(sniff(&split(b"")), Sniffed::Tls(_)));
        for between in
            [&[HANDSHAKE, 3, 1, 0, 0][..], &[21, 3, 1, 0, 2, 1, 0], &[HANDSHAKE, 2, 0, 0, 1, 0], &[HANDSHAKE, 3, 5, 0, 1, 0]]
        {
            assert_eq!(sniff(&split(between)), Sniffed::Opaque, "{between:?}");
        }
        assert_eq!(sniff(&[HANDSHAKE, 3, 1, 0x40, 1]), Sniffed::Opaque);
        assert_eq!(sniff(&record(&[2, 0, 0, 0])), Sniffed::Opaque);
        assert_eq!(sniff(&record(&[CLIENT_HELLO, 1, 0, 0])), Sniffed::Opaque);
    }

    #[test]
    fn bytes_are_borrowed_unless_the_message_is_split() {
        let hello = message(&body(&[names(&[(0, b"reviews")]), protocols(b"\x02h2")]));
        let whole = [record(&[&hello[..], b"more"].concat()), b"\0\0".to_vec()].concat();
        let Sniffed::Tls(borrowed) = sniff(&whole) else { panic!() };
        assert!(matches!((&borrowed.sni, &borrowed.alpn.list), (Some(Cow::Borrowed("reviews")), Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn how_a_message_is_cut_into_records_means_nothing(
            name in "[a-z.]{1,40}",
            alpn in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..5),
            cuts in prop::collection::vec(1..60usize, 0..30),
        ) {
            let list: Vec<u8> = alpn.iter().flat_map(|it| [vec![u8::try_from(it.len()).unwrap()], it.clone()].concat()).collect();
            let hello = message(&body(&[names(&[(0, name.as_bytes())]), protocols(&list)]));
            let (mut rest, mut records) = (&hello[..], Vec::new());
            for cut in cuts {
                let (fragment, after) = rest.split_at(cut.min(rest.len().saturating_sub(1)));
                rest = after;
                if !fragment.is_empty() {
                    records.extend(record(fragment));
                }
            }
            records.extend(record(rest));
            let whole = record(&hello);
            prop_assert_eq!(sniff(&records), sniff(&whole));
            let Sniffed::Tls(read) = sniff(&records) else { panic!() };
            prop_assert_eq!(read.sni.as_deref(), Some(&*name));
            prop_assert!(read.alpn.iter().eq(alpn.iter().map(Vec::as_slice)));
        }

        #[test]
        fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = sniff(&record(&message(&body)));
            let _ = parse(&[&[3; 34][..], &[0, 0, 0, 0], &with_u16_length(&body)].concat());
        }
    }
}
