//! Waiting for conditions. Nothing here or in a scenario sleeps for an effect: it asks until the effect is there.

use std::time::{Duration, Instant};

/// Longest wait for anything. Far above what is ever needed, because the machine may be busy with other things: it bounds a
/// failure, it is not a measurement.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(15);

/// Asks `condition` until it says yes, and answers with what it found.
///
/// # Panics
///
/// When the deadline has passed, with the reason that `condition` gave last.
pub async fn until<T>(what: &str, condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(DEADLINE, what, condition).await
}

/// As [`until`], with a deadline of its own.
///
/// # Panics
///
/// When the deadline has passed.
pub async fn until_within<T>(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match condition().await {
            Ok(found) => return found,
            Err(reason) => assert!(start.elapsed() < deadline, "waited {deadline:?} in vain until {what}; in the end: {reason}"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// A condition's answer: yes, or why not.
///
/// # Errors
///
/// The reason, when `holds` is false.
pub fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}
