//! A timer that fires when it is told to. Tokio's own counts in whole milliseconds, which is more than a sidecar takes.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;

/// A `timerfd` of the kernel, with its resolution.
pub(crate) struct Timer {
    timer: AsyncFd<OwnedFd>,
}

impl Timer {
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe; an `OwnedFd` keeps its descriptor open, which is what that asks for"
    )]
    pub(crate) fn new() -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer: AsyncFd::new(timer)? })
    }

    /// Waits until `due`; not at all if that is past.
    pub(crate) async fn until(&mut self, due: Instant) -> io::Result<()> {
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let once = Itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(wait) };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        let mut count = [0; 8];
        loop {
            let mut ready = self.timer.readable().await?;
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?)) {
                return read.map(|_| ());
            }
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // Seconds of a benchmark fit into any integer.
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_never_early_and_can_be_used_again() {
        let mut timer = Timer::new().unwrap();
        for _ in 0..3 {
            let due = Instant::now() + Duration::from_micros(300);
            timer.until(due).await.unwrap();
            assert!(Instant::now() >= due);
        }
        timer.until(Instant::now()).await.unwrap();
    }
}
