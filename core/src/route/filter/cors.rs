//! Cross-origin resource sharing: the Fetch standard's protocol, with the fields of the Gateway API's CORS filter (GEP-1767).
//!
//! A preflight is answered here and reaches no backend. Any other request goes on, and its answer is told which origin may read
//! it. An origin that is not allowed gets no such header: its browser refuses, nobody else is concerned.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Who may read a rule's answers from another origin, and how they may ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Origins that may; an empty list allows none.
    pub origins: Vec<OriginPattern>,
    /// Whether cookies and the like may be sent along.
    pub credentials: bool,
    /// Methods beyond those that need no preflight.
    pub methods: Names,
    /// Request headers beyond those that need no preflight.
    pub headers: Names,
    /// Headers of the answer that a script may read.
    pub expose: Names,
    /// Seconds for which a browser may remember the answer to a preflight.
    pub max_age: u32,
}

/// Names, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// `*`.
    Any,
    /// These, joined by `, ` as a header carries them. Empty: none.
    Listed(Arc<str>),
}

/// An origin, or many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`.
    Any,
    /// This one: `https://example.com:8443`.
    Exact(Arc<str>),
    /// `https://*.example.com`: every name with one label more, or several.
    Subdomains {
        /// `https://`.
        scheme: Arc<str>,
        /// `.example.com`, with the port where there is one.
        suffix: Arc<str>,
    },
}

/// Text that is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an origin: write SCHEME://HOST or SCHEME://HOST:PORT, `*.` in front of the host for its subdomains, or `*`"
)]
pub struct InvalidOrigin(String);

impl std::str::FromStr for OriginPattern {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let wrong = || InvalidOrigin(text.chars().take(80).collect());
        let (scheme, host) = text.split_once("://").ok_or_else(wrong)?;
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let scheme_ok = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (name, subdomains) = host.strip_prefix('*').map_or((host, false), |rest| (rest, true));
        if !plain(scheme) || !scheme_ok || !plain(name) || name.contains(['*', '/', '?', '#', '@', ',']) {
            return Err(wrong());
        }
        if !subdomains {
            return Ok(Self::Exact(text.into()));
        }
        if !name.starts_with('.') || name.len() < 2 {
            return Err(wrong());
        }
        Ok(Self::Subdomains { scheme: format!("{scheme}://").into(), suffix: name.into() })
    }
}

impl std::fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(origin) => f.write_str(origin),
            Self::Subdomains { scheme, suffix } => write!(f, "{scheme}*{suffix}"),
        }
    }
}

impl OriginPattern {
    /// Whether a browser's `Origin` is meant. Schemes and hosts have no case (RFC 6454, section 4).
    fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(one) => one.eq_ignore_ascii_case(origin),
            Self::Subdomains { scheme, suffix } => {
                let Some(end) = origin.len().checked_sub(suffix.len()) else { return false };
                let (Some(begin), Some(tail)) = (origin.get(..end), origin.get(end..)) else { return false };
                let label = begin.get(scheme.len()..).unwrap_or_default();
                let same_scheme = begin.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme));
                same_scheme && tail.eq_ignore_ascii_case(suffix) && !label.is_empty() && !label.starts_with('.')
            }
        }
    }
}

/// What the answer to a request is given. Empty for a request that crosses no origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant(Vec<(HeaderName, HeaderValue)>);

impl Grant {
    /// Writes it over what the application says of the same: the filter has the last word, and browsers refuse a header that is
    /// there twice. `Vary` is added to.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            if *name == VARY {
                headers.append(name, value.clone());
            } else {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// What cross-origin sharing makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// A preflight: it is answered with 204 and these headers.
    Preflight(Grant),
    /// It goes on; its answer gets these headers.
    Actual(Grant),
}

impl Cors {
    /// Decides about one request.
    #[must_use]
    pub fn decide(&self, parts: &Parts) -> Sharing {
        let asked = parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD).filter(|_| parts.method == Method::OPTIONS);
        let Some(origin) = parts.headers.get(ORIGIN) else { return Sharing::Actual(Grant::default()) };
        let mut headers = Vec::with_capacity(6);
        // Where the answer depends on the origin, no cache may give one origin's to another.
        if self.credentials || !self.origins.contains(&OriginPattern::Any) {
            headers.push((VARY, HeaderValue::from_static("Origin")));
        }
        let allowed = origin.to_str().is_ok_and(|origin| self.origins.iter().any(|pattern| pattern.allows(origin)));
        if allowed {
            self.allow(origin, &mut headers);
        }
        let Some(method) = asked else {
            if allowed {
                // With credentials `*` would be taken for a header of that name, so nothing is exposed by it.
                headers.extend(self.named(&self.expose, None).map(|value| (ACCESS_CONTROL_EXPOSE_HEADERS, value)));
            }
            return Sharing::Actual(Grant(headers));
        };
        if allowed {
            let wanted = parts.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
            headers.extend(self.named(&self.methods, Some(method)).map(|value| (ACCESS_CONTROL_ALLOW_METHODS, value)));
            headers.extend(self.named(&self.headers, wanted).map(|value| (ACCESS_CONTROL_ALLOW_HEADERS, value)));
            headers.push((ACCESS_CONTROL_MAX_AGE, HeaderValue::from(self.max_age)));
        }
        Sharing::Preflight(Grant(headers))
    }

    fn allow(&self, origin: &HeaderValue, headers: &mut Vec<(HeaderName, HeaderValue)>) {
        if self.credentials {
            // `*` is not accepted with credentials: the origin itself has to be named.
            headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
            headers.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
        } else if self.origins.contains(&OriginPattern::Any) {
            headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")));
        } else {
            headers.push((ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
        }
    }

    /// The names as a header carries them. With credentials `*` has no meaning, and what was asked for stands in its place.
    fn named(&self, names: &Names, asked: Option<&HeaderValue>) -> Option<HeaderValue> {
        match names {
            Names::Any if self.credentials => asked.cloned(),
            Names::Any => Some(HeaderValue::from_static("*")),
            Names::Listed(list) if list.is_empty() => None,
            Names::Listed(list) => HeaderValue::from_str(list).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        Cors {
            origins: origins.iter().map(|it| it.parse().unwrap()).collect(),
            credentials,
            methods: Names::Listed("PUT, DELETE".into()),
            headers: Names::Any,
            expose: Names::Listed("x-total".into()),
            max_age: 600,
        }
    }

    fn request(method: Method, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn text(sharing: &Sharing) -> (bool, Vec<String>) {
        let (preflight, Grant(headers)) = match sharing {
            Sharing::Preflight(grant) => (true, grant),
            Sharing::Actual(grant) => (false, grant),
        };
        (preflight, headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect())
    }

    #[test]
    fn origins_are_compared_as_browsers_write_them() {
        for (pattern, origin, allowed) in [
            ("*", "https://a.example", true),
            ("*", "null", true),
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "HTTPS://A.example", true),
            ("https://a.example", "http://a.example", false),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "https://a.example.evil", false),
            ("https://*.example", "https://a.example", true),
            ("https://*.example", "https://b.a.example", true),
            ("https://*.example", "https://example", false),
            ("https://*.example", "https://.example", false),
            ("https://*.example", "https://evilexample", false),
            ("https://*.example", "http://a.example", false),
            ("https://*.example:8443", "https://a.example:8443", true),
            ("https://*.example:8443", "https://a.example", false),
            ("https://*.example", "\u{fc}", false),
        ] {
            let parsed: OriginPattern = pattern.parse().unwrap();
            assert_eq!(parsed.allows(origin), allowed, "{pattern} {origin}");
            assert_eq!(parsed.to_string(), pattern);
        }
        for bad in
            ["", "example.com", "https://", "https://*", "https://a/b", "https://a.*.b", "ht tp://a", "https://*example", "://a"]
        {
            assert!(bad.parse::<OriginPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_preflight_is_answered_and_names_what_is_allowed() {
        let preflight = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one"),
        ];
        let sharing = cors(&["https://a.example"], false).decide(&request(Method::OPTIONS, &preflight));
        let expected = [
            "vary: Origin",
            "access-control-allow-origin: https://a.example",
            "access-control-allow-methods: PUT, DELETE",
            "access-control-allow-headers: *",
            "access-control-max-age: 600",
        ];
        assert_eq!(text(&sharing), (true, expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn with_credentials_nothing_is_a_wildcard() {
        let preflight = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-one"),
        ];
        let sharing = cors(&["*"], true).decide(&request(Method::OPTIONS, &preflight));
        let expected = [
            "vary: Origin",
            "access-control-allow-origin: https://a.example",
            "access-control-allow-credentials: true",
            "access-control-allow-methods: PUT, DELETE",
            "access-control-allow-headers: x-one",
            "access-control-max-age: 600",
        ];
        assert_eq!(text(&sharing), (true, expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn a_stranger_is_answered_without_permission_and_other_requests_go_on() {
        let any = cors(&["https://a.example"], false);
        let stranger = [("origin", "https://evil.example"), ("access-control-request-method", "PUT")];
        assert_eq!(text(&any.decide(&request(Method::OPTIONS, &stranger))), (true, vec!["vary: Origin".into()]));
        assert_eq!(text(&any.decide(&request(Method::GET, &stranger))), (false, vec!["vary: Origin".into()]));
        assert_eq!(text(&any.decide(&request(Method::GET, &[]))), (false, vec![]));
        // OPTIONS by itself is a request like others.
        let options = any.decide(&request(Method::OPTIONS, &[("origin", "https://a.example")]));
        let expected =
            ["vary: Origin", "access-control-allow-origin: https://a.example", "access-control-expose-headers: x-total"];
        assert_eq!(text(&options), (false, expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn the_filter_has_the_last_word_over_the_application() {
        let sharing = cors(&["*"], false).decide(&request(Method::GET, &[("origin", "https://a.example")]));
        let Sharing::Actual(grant) = sharing else { unreachable!("not a preflight") };
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://other.example"));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        grant.apply(&mut headers);
        assert_eq!(headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect::<Vec<_>>(), ["*"]);
        assert_eq!(headers.get_all(VARY).iter().count(), 1);
    }
}
