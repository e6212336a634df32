//! What a hop does to the head of a request. Each case works on a fresh copy, and `headers/copy` says what that costs.

use std::hint::black_box;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use weir_core::hop::strip_hop_by_hop;
use weir_core::route::filter::{RequestContext, apply_request};
use weir_core::route::{Filter, HeaderChanges, PathChange, Rewrite};

use super::Case;

/// As browsers and their proxies send them.
const HEAD: [(&str, &str); 12] = [
    ("host", "web.shop.svc.cluster.local"),
    ("connection", "keep-alive, x-mine"),
    ("keep-alive", "timeout=5"),
    ("x-mine", "1"),
    ("te", "trailers"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("cookie", "sid=0123456789abcdef; theme=dark"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-forwarded-for", "192.0.2.7"),
];

const CONTEXT: RequestContext<'static> = RequestContext { prefix_len: 4, scheme: "http", dialled_port: 80 };

pub(super) fn cases() -> Vec<Case> {
    // The head is made of constants that are valid.
    let Some(head) = head() else { return Vec::new() };
    let changes = HeaderChanges {
        set: vec![(HeaderName::from_static("x-team"), HeaderValue::from_static("shop"))],
        add: vec![(HeaderName::from_static("accept-language"), HeaderValue::from_static("de"))],
        remove: vec![HeaderName::from_static("x-forwarded-for")],
    };
    let rewrite = |path| Filter::Rewrite(Rewrite { hostname: None, path: Some(path) });
    vec![
        on_a_copy("headers/copy", head.clone(), |_| ()),
        on_a_copy("headers/hop-by-hop", head.clone(), |parts| strip_hop_by_hop(&mut parts.headers)),
        filtered("headers/set-add-remove", head.clone(), Filter::RequestHeaders(changes)),
        filtered("path/replace-prefix", head.clone(), rewrite(PathChange::Prefix("/v2".into()))),
        filtered("path/replace-all", head, rewrite(PathChange::Full("/v2/orders".into()))),
    ]
}

fn head() -> Option<Parts> {
    let head = HEAD.iter().fold(Request::get("/api/orders/17?page=2"), |head, (name, value)| head.header(*name, *value));
    Some(head.body(()).ok()?.into_parts().0)
}

fn filtered(name: &str, head: Parts, filter: Filter) -> Case {
    let filters = [filter];
    on_a_copy(name, head, move |parts| {
        let _ = black_box(apply_request(&filters, parts, CONTEXT));
    })
}

fn on_a_copy(name: &str, head: Parts, change: impl Fn(&mut Parts) + 'static) -> Case {
    Case::new(name, move || {
        let mut parts = black_box(&head).clone();
        change(&mut parts);
        black_box(&parts);
    })
}
