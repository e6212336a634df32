//! What single decisions of `weir-core` cost.
//!
//! The cases are written once, in `cases/`. `benches/micro.rs` takes their time, and `main.rs` counts their instructions, which are
//! the same on a busy machine, so that a test can hold them. Read `cases/mod.rs` next.

mod cases;
pub mod ledger;

pub use cases::{Case, cases};

/// Runs a case some times, and nothing else: between entry and exit of this function instructions are counted, by its name.
#[inline(never)]
pub fn counted(case: &mut Case, times: u32) {
    for _ in 0..times {
        case.once();
    }
}
