//! Session persistence (GEP-1619): requests of one session go to one endpoint, for as long as it is there.
//!
//! The endpoint that got a session's first request is written into a token, which the client brings with each further one. Nothing
//! is kept here. A token names its backend and its endpoint by their hashes, so that it tells nobody an address, and is no secret:
//! a client that makes one up chooses among endpoints that it may call anyway.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::names::BackendRef;
use crate::policy::cookie;
use crate::policy::hash;

/// How a rule keeps sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What carries the token.
    pub carrier: Carrier,
    /// A session ends this long after its first request.
    pub absolute: Option<Duration>,
    /// A session ends this long after its last request.
    pub idle: Option<Duration>,
}

/// What carries a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// The client keeps it until the session's absolute end; otherwise until the client itself ends.
        permanent: bool,
    },
    /// A header, in both directions.
    Header(HeaderName),
}

/// What a client brings along, or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The backend.
    pub backend: u64,
    /// The endpoint.
    pub endpoint: u64,
    /// When the session began, in seconds since 1970.
    pub begun: u64,
    /// When it was used last, in seconds since 1970.
    pub used: u64,
}

/// The number of a backend in tokens.
#[must_use]
pub fn backend_number(backend: &BackendRef) -> u64 {
    hash::displayed(backend)
}

/// The number of an endpoint in tokens, and its place on rings. It depends on its address alone, so that all sidecars agree.
#[must_use]
pub fn endpoint_number(address: SocketAddr) -> u64 {
    let mut bytes = [0; 18];
    let length = match address.ip() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            4
        }
        IpAddr::V6(ip) => {
            bytes[..16].copy_from_slice(&ip.octets());
            16
        }
    };
    bytes[length..length + 2].copy_from_slice(&address.port().to_be_bytes());
    hash::bytes(&bytes[..length + 2])
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1-{:x}-{:x}-{:x}-{:x}", self.backend, self.endpoint, self.begun, self.used)
    }
}

impl Token {
    /// Reads a token; `None` for anything that is none, or of a version to come.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(bytes).ok()?.strip_prefix("1-")?.split('-');
        let mut next = || {
            let text = parts.next()?;
            // What `from_str_radix` takes beyond digits is a sign.
            if text.starts_with('+') { None } else { u64::from_str_radix(text, 16).ok() }
        };
        let token = Self { backend: next()?, endpoint: next()?, begun: next()?, used: next()? };
        parts.next().is_none().then_some(token)
    }
}

impl Session {
    /// The session that a request belongs to, if it goes on at `now`, in seconds since 1970.
    #[must_use]
    pub fn of(&self, headers: &HeaderMap, now: u64) -> Option<Token> {
        let value = match &self.carrier {
            Carrier::Cookie { name, .. } => cookie(headers, name)?,
            Carrier::Header(name) => headers.get(name)?.as_bytes(),
        };
        let token = Token::parse(value)?;
        // Clocks of sidecars differ a little; what lies in the future is taken for now.
        let over =
            |since: u64, limit: Option<Duration>| limit.is_some_and(|limit| now.saturating_sub(since) >= limit.as_secs().max(1));
        (!over(token.begun, self.absolute) && !over(token.used, self.idle)).then_some(token)
    }

    /// Tells the client which session it is in now, where it does not know. `before` is what it brought along.
    pub fn tell(&self, headers: &mut HeaderMap, backend: u64, endpoint: u64, before: Option<Token>, now: u64) {
        let goes_on = before.filter(|it| it.backend == backend && it.endpoint == endpoint);
        if goes_on.is_some() && self.idle.is_none() && matches!(self.carrier, Carrier::Cookie { .. }) {
            return;
        }
        let token = Token { backend, endpoint, begun: goes_on.map_or(now, |it| it.begun), used: now };
        match &self.carrier {
            Carrier::Cookie { name, permanent } => {
                let age = self
                    .absolute
                    .filter(|_| *permanent)
                    .map(|limit| limit.as_secs().saturating_sub(now.saturating_sub(token.begun)));
                let age = age.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
                if let Ok(value) = HeaderValue::try_from(format!("{name}={token}; Path=/; HttpOnly; SameSite=Lax{age}")) {
                    headers.append(http::header::SET_COOKIE, value);
                }
            }
            Carrier::Header(name) => {
                if let Ok(value) = HeaderValue::try_from(token.to_string()) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn session(permanent: bool, absolute: Option<u64>, idle: Option<u64>) -> Session {
        Session {
            carrier: Carrier::Cookie { name: "sid".into(), permanent },
            absolute: absolute.map(Duration::from_secs),
            idle: idle.map(Duration::from_secs),
        }
    }

    fn brings(token: &str) -> HeaderMap {
        [(http::header::COOKIE, HeaderValue::try_from(format!("a=b; sid={token}")).unwrap())].into_iter().collect()
    }

    fn told(session: &Session, before: Option<Token>, now: u64) -> Option<String> {
        let mut headers = HeaderMap::new();
        session.tell(&mut headers, 1, 2, before, now);
        headers.get(http::header::SET_COOKIE).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_session_goes_on_until_one_of_its_times_is_over() {
        let session = session(false, Some(100), Some(10));
        let token = Token { backend: 1, endpoint: 2, begun: 1000, used: 1050 };
        for (now, goes_on) in [(1050, true), (1059, true), (1060, false), (900, true)] {
            assert_eq!(session.of(&brings(&token.to_string()), now), goes_on.then_some(token), "{now}");
        }
        let late = Token { used: 1099, ..token };
        assert_eq!(session.of(&brings(&late.to_string()), 1100), None, "it is old, however busy");
        for other in ["", "1-2-3", "1-1-2-3e8-41a-0", "2-1-2-3e8-41a", "1-+1-2-3e8-41a", "1-x-2-3e8-41a"] {
            assert_eq!(session.of(&brings(other), 1050), None, "{other}");
        }
    }

    #[test]
    fn a_client_is_told_what_it_does_not_know() {
        let plain = session(false, None, None);
        assert_eq!(told(&plain, None, 16), Some("sid=1-1-2-10-10; Path=/; HttpOnly; SameSite=Lax".into()));
        let known = Token { backend: 1, endpoint: 2, begun: 16, used: 16 };
        assert_eq!(told(&plain, Some(known), 20), None);
        assert_eq!(
            told(&plain, Some(Token { endpoint: 3, ..known }), 32),
            Some("sid=1-1-2-20-20; Path=/; HttpOnly; SameSite=Lax".into()),
            "it moved"
        );
        // What has to be renewed is told each time, and begins where it began.
        assert_eq!(
            told(&session(false, None, Some(60)), Some(known), 32),
            Some("sid=1-1-2-10-20; Path=/; HttpOnly; SameSite=Lax".into())
        );
        assert_eq!(
            told(&session(true, Some(100), Some(60)), Some(known), 32),
            Some("sid=1-1-2-10-20; Path=/; HttpOnly; SameSite=Lax; Max-Age=84".into())
        );
    }

    #[test]
    fn a_header_carries_the_token_each_time() {
        let session = Session { carrier: Carrier::Header("x-session".parse().unwrap()), absolute: None, idle: None };
        let mut headers = HeaderMap::new();
        session.tell(&mut headers, 1, 2, None, 16);
        let before = session.of(&headers, 20);
        assert_eq!(before, Some(Token { backend: 1, endpoint: 2, begun: 16, used: 16 }));
        session.tell(&mut headers, 1, 2, before, 20);
        assert_eq!(headers["x-session"], "1-1-2-10-14");
    }

    proptest! {
        #[test]
        fn a_token_is_read_as_it_was_written(backend: u64, endpoint: u64, begun: u64, used: u64) {
            let token = Token { backend, endpoint, begun, used };
            prop_assert_eq!(Token::parse(token.to_string().as_bytes()), Some(token));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Token::parse(&bytes);
        }
    }
}
