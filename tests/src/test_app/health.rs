//! What probes are told, and whether anybody listens.

use tokio::sync::watch;

/// What a server says about itself. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(super) struct Health {
    failing: watch::Sender<Failing>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Failing {
    ready: bool,
    live: bool,
    deaf: bool,
}

impl Health {
    pub(super) fn new() -> Self {
        Self { failing: watch::Sender::new(Failing::default()) }
    }

    /// Takes a word of the control page: `fail-ready`, `fail-live`, `deaf` (the ports are closed, the process runs on) or
    /// `mend`, which takes back the failing but opens no port again. Answers whether it is one.
    pub(super) fn tell(&self, word: &str) -> bool {
        self.failing.send_if_modified(|failing| {
            let before = *failing;
            *failing = match word {
                "fail-ready" => Failing { ready: true, ..before },
                "fail-live" => Failing { live: true, ..before },
                "deaf" => Failing { deaf: true, ..before },
                "mend" => Failing { deaf: before.deaf, ..Failing::default() },
                _ => return false,
            };
            true
        })
    }

    /// Whether `/health/WHAT` is answered with a success. Startup is over as soon as anybody can ask.
    pub(super) fn is_good(&self, what: &str) -> bool {
        let failing = *self.failing.borrow();
        match what {
            "ready" => !failing.ready,
            "live" => !failing.live,
            _ => true,
        }
    }

    /// Waits until the ports are to be closed.
    pub(super) async fn deaf(&self) {
        let _ = self.failing.subscribe().wait_for(|failing| failing.deaf).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_spoils_one_thing_and_mending_takes_it_back() {
        let health = Health::new();
        assert!(health.tell("fail-ready"));
        assert!(!health.is_good("ready") && health.is_good("live") && health.is_good("startup"));
        assert!(health.tell("fail-live") && health.tell("mend"));
        assert!(health.is_good("ready") && health.is_good("live"));
        assert!(!health.tell("nonsense"));
    }
}
