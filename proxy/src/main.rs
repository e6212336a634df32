//! Weir's sidecar proxy. Everything is in the library; see its documentation.

use std::process::ExitCode;

/// A proxy makes and drops many small buffers on few threads for weeks; jemalloc keeps that from fragmenting.
/// Its background thread gives freed memory back to the system within seconds, also where nothing happens any more: by itself
/// jemalloc does so only as a by-product of further work, and a sidecar that was busy once would keep what it had then.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    weir_proxy::main()
}
