//! Weir's sidecar proxy. Everything is in the library; see its documentation.

use std::process::ExitCode;

/// A proxy makes and drops many small buffers on few threads for weeks; jemalloc keeps that from fragmenting.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    weir_proxy::main()
}
