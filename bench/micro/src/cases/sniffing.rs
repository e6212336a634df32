//! Saying what a connection speaks.

use std::hint::black_box;

use weir_core::sniff::sniff;

use super::Case;

const FIRST_BYTES: [(&str, &[u8]); 5] = [
    ("http1", include_bytes!("../../../../core/corpus/sniff/get")),
    ("http2", include_bytes!("../../../../core/corpus/sniff/http2")),
    ("tls", include_bytes!("../../../../core/corpus/sniff/hello-mesh")),
    ("tls-in-pieces", include_bytes!("../../../../core/corpus/sniff/hello-in-pieces")),
    ("opaque", include_bytes!("../../../../core/corpus/sniff/redis")),
];

pub(super) fn cases() -> Vec<Case> {
    let cases = FIRST_BYTES.map(|(name, bytes)| {
        Case::new(format!("sniff/{name}"), move || {
            black_box(sniff(black_box(bytes)));
        })
    });
    cases.into()
}
