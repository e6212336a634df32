//! `POST /drain`: the one request that changes something.
//!
//! Only a process on this machine may send it. A web page that a browser on the machine has open could send it too, so requests
//! that a browser would send are refused: those with an `Origin`, and those for a name that is not this machine's (a name of a
//! stranger's may resolve to 127.0.0.1).

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};

use super::{Answer, text};
use crate::shared::Shared;

pub(super) fn answer(shared: &Shared, headers: &HeaderMap, uri: &Uri, peer: SocketAddr) -> Answer {
    match permitted(headers, uri, peer) {
        Ok(()) => {
            tracing::info!(%peer, "asked to drain");
            shared.lifecycle.drain();
            text(StatusCode::ACCEPTED, "draining\n")
        }
        Err(reason) => {
            tracing::warn!(%peer, "a request to drain was refused: {reason}");
            text(StatusCode::FORBIDDEN, format!("{reason}\n"))
        }
    }
}

fn permitted(headers: &HeaderMap, uri: &Uri, peer: SocketAddr) -> Result<(), &'static str> {
    if !peer.ip().to_canonical().is_loopback() {
        return Err("A drain is taken from this machine's loopback address only.");
    }
    if headers.contains_key(ORIGIN) {
        return Err("A drain is not taken from web pages (the request has an Origin header).");
    }
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let absolute_elsewhere = uri.authority().is_some_and(|authority| !is_local(authority.as_str()));
    if absolute_elsewhere || hosts.next().is_some() || !host.is_some_and(is_local) {
        return Err("A drain is taken for localhost, 127.0.0.1 or [::1] only (look at the Host header).");
    }
    Ok(())
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let ip = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn ask(peer: &str, host: Option<&'static str>, origin: Option<&'static str>, uri: &str) -> Result<(), &'static str> {
        let mut headers = HeaderMap::new();
        host.map(|host| headers.insert(HOST, HeaderValue::from_static(host)));
        origin.map(|origin| headers.insert(ORIGIN, HeaderValue::from_static(origin)));
        permitted(&headers, &uri.parse().unwrap(), peer.parse().unwrap())
    }

    #[test]
    fn a_process_of_this_machine_may_drain() {
        for host in ["localhost:15420", "127.0.0.1", "127.10.0.1:1", "[::1]:15420", "LOCALHOST"] {
            assert_eq!(ask("127.0.0.1:40000", Some(host), None, "/drain"), Ok(()), "{host}");
        }
        assert_eq!(ask("[::1]:40000", Some("localhost"), None, "/drain"), Ok(()));
        assert_eq!(ask("[::ffff:127.0.0.1]:40000", Some("localhost"), None, "/drain"), Ok(()));
    }

    #[test]
    fn nobody_else_may() {
        assert!(ask("10.0.0.1:40000", Some("localhost"), None, "/drain").is_err());
        assert!(ask("127.0.0.1:40000", None, None, "/drain").is_err());
        assert!(ask("127.0.0.1:40000", Some("evil.example:15420"), None, "/drain").is_err());
        assert!(ask("127.0.0.1:40000", Some("localhost.evil.example"), None, "/drain").is_err());
        assert!(ask("127.0.0.1:40000", Some("localhost"), Some("http://evil.example"), "/drain").is_err());
        assert!(ask("127.0.0.1:40000", Some("localhost"), Some("null"), "/drain").is_err());
        assert!(ask("127.0.0.1:40000", Some("localhost"), None, "http://evil.example/drain").is_err());
    }
}
