//! Whether a request is tried again.
//!
//! Two questions decide. Could the first attempt have had an effect? A request that provably was not processed, or a safe one,
//! may always be tried again. And did the route's author ask for more? Then what the policy names is retried too. Money is paid
//! twice only by those who asked for it.
//!
//! The verdict is about one request. Whether the mesh can afford the retry is for [`budget`](crate::budget), and whether there
//! is time for it for [`deadline`](crate::deadline); callers ask both afterwards, the budget last.

use http::{Method, StatusCode};

use crate::route::RetryPolicy;

/// Retries that need no policy. Four attempts find a living endpoint beside three dead ones.
pub const ALWAYS_RETRIES: u32 = 3;

/// What of a request matters for trying it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// Its method is safe (RFC 9110, section 9.2.1): it only reads.
    pub safe: bool,
    /// Its method is idempotent (RFC 9110, section 9.2.2): twice is as good as once. That alone does not make a request safe to
    /// repeat without a policy: a DELETE that did its work answers 404 the second time.
    pub idempotent: bool,
    /// Its body is still at hand from its start.
    pub replayable: bool,
}

impl RequestFacts {
    /// For a request with this method.
    #[must_use]
    pub fn new(method: &Method, replayable: bool) -> Self {
        Self { safe: method.is_safe(), idempotent: method.is_idempotent(), replayable }
    }
}

/// How an attempt ended, other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The endpoint provably did not process it: the connection failed, the stream was refused, or its id is above the last one
    /// of a GOAWAY (RFC 9113, section 8.7).
    NotProcessed,
    /// The connection broke after bytes were sent and before an answer began.
    Broke,
    /// The attempt's own timeout (`backendRequest`) is over.
    AttemptTimeout,
    /// There is an answer, with this status.
    Status(StatusCode),
}

/// What to do after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again, if budget and deadline allow it.
    Retry,
    /// The request ends with what it has.
    Stop(Stop),
}

/// Why a request is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// All attempts are used up.
    Attempts,
    /// The start of the body is gone.
    NotReplayable,
    /// It may have had its effect, and its method is not safe.
    NotSafe,
    /// Nobody asked for a retry of this.
    NotAsked,
}

impl Stop {
    /// The reason as a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::NotReplayable => "not-replayable",
            Self::NotSafe => "not-safe",
            Self::NotAsked => "not-asked",
        }
    }
}

/// Whether the request is worth another attempt after `retries_made` retries.
#[must_use]
pub fn wants_retry(end: AttemptEnd, facts: RequestFacts, policy: Option<&RetryPolicy>, retries_made: u32) -> Verdict {
    let asked = policy.map(|policy| policy.attempts);
    let always = asked.map_or(ALWAYS_RETRIES, |attempts| attempts.max(ALWAYS_RETRIES));
    let limit = match end {
        AttemptEnd::NotProcessed => Ok(always),
        AttemptEnd::Broke if facts.safe => Ok(always),
        AttemptEnd::Broke => asked.ok_or(Stop::NotSafe),
        AttemptEnd::AttemptTimeout => asked.ok_or(Stop::NotAsked),
        AttemptEnd::Status(status) => {
            policy.filter(|policy| policy.codes.contains(&status)).map(|policy| policy.attempts).ok_or(Stop::NotAsked)
        }
    };
    match limit {
        Err(stop) => Verdict::Stop(stop),
        Ok(_) if !facts.replayable => Verdict::Stop(Stop::NotReplayable),
        Ok(limit) if retries_made >= limit => Verdict::Stop(Stop::Attempts),
        Ok(_) => Verdict::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AttemptEnd::{AttemptTimeout, Broke, NotProcessed};
    use proptest::prelude::*;
    use std::time::Duration;

    const UNAVAILABLE: AttemptEnd = AttemptEnd::Status(StatusCode::SERVICE_UNAVAILABLE);
    const TEAPOT: AttemptEnd = AttemptEnd::Status(StatusCode::IM_A_TEAPOT);

    fn policy(attempts: u32) -> RetryPolicy {
        RetryPolicy { codes: vec![StatusCode::SERVICE_UNAVAILABLE], attempts, backoff: Duration::ZERO }
    }

    /// The first number of retries at which the answer is no, and that answer.
    fn retries(end: AttemptEnd, facts: RequestFacts, policy: Option<&RetryPolicy>) -> (u32, Stop) {
        for made in 0..100 {
            if let Verdict::Stop(stop) = wants_retry(end, facts, policy, made) {
                return (made, stop);
            }
        }
        panic!("no end of retries")
    }

    #[test]
    fn each_end_of_an_attempt_is_retried_as_often_as_its_table_says() {
        let (get, post) = (RequestFacts::new(&Method::GET, true), RequestFacts::new(&Method::POST, true));
        let (one, five) = (policy(1), policy(5));
        let table = [
            // end, method, policy -> retries, why no more
            (NotProcessed, get, None, 3, Stop::Attempts),
            (NotProcessed, post, None, 3, Stop::Attempts),
            (NotProcessed, post, Some(&one), 3, Stop::Attempts),
            (NotProcessed, post, Some(&five), 5, Stop::Attempts),
            (Broke, get, None, 3, Stop::Attempts),
            (Broke, get, Some(&one), 3, Stop::Attempts),
            (Broke, get, Some(&five), 5, Stop::Attempts),
            (Broke, post, None, 0, Stop::NotSafe),
            (Broke, post, Some(&one), 1, Stop::Attempts),
            (Broke, post, Some(&five), 5, Stop::Attempts),
            (AttemptTimeout, get, None, 0, Stop::NotAsked),
            (AttemptTimeout, post, None, 0, Stop::NotAsked),
            (AttemptTimeout, get, Some(&one), 1, Stop::Attempts),
            (AttemptTimeout, post, Some(&five), 5, Stop::Attempts),
            (UNAVAILABLE, get, None, 0, Stop::NotAsked),
            (UNAVAILABLE, get, Some(&one), 1, Stop::Attempts),
            (UNAVAILABLE, post, Some(&five), 5, Stop::Attempts),
            (TEAPOT, get, Some(&five), 0, Stop::NotAsked),
        ];
        for (end, facts, policy, most, stop) in table {
            assert_eq!(retries(end, facts, policy), (most, stop), "{end:?} {facts:?} {policy:?}");
        }
    }

    #[test]
    fn methods_are_what_rfc_9110_says() {
        let facts = |method| (RequestFacts::new(&method, true).safe, RequestFacts::new(&method, true).idempotent);
        assert_eq!(facts(Method::HEAD), (true, true));
        assert_eq!(facts(Method::PUT), (false, true));
        assert_eq!(facts(Method::DELETE), (false, true));
        assert_eq!(facts(Method::PATCH), (false, false));
    }

    fn any_end() -> impl Strategy<Value = AttemptEnd> {
        prop_oneof![Just(NotProcessed), Just(Broke), Just(AttemptTimeout), Just(UNAVAILABLE), Just(TEAPOT)]
    }

    fn any_facts() -> impl Strategy<Value = RequestFacts> {
        any::<(bool, bool, bool)>().prop_map(|(safe, idempotent, replayable)| RequestFacts { safe, idempotent, replayable })
    }

    proptest! {
        #[test]
        fn a_body_that_is_gone_is_never_sent_again(end in any_end(), facts in any_facts(), attempts in 0_u32..10, made: u32) {
            let facts = RequestFacts { replayable: false, ..facts };
            prop_assert_ne!(wants_retry(end, facts, Some(&policy(attempts)), made), Verdict::Retry);
        }

        #[test]
        fn what_may_have_had_an_effect_is_not_repeated_unasked(end in any_end(), facts in any_facts(), made: u32) {
            let facts = RequestFacts { safe: false, ..facts };
            let verdict = wants_retry(end, facts, None, made);
            prop_assert!(end == NotProcessed || verdict != Verdict::Retry);
        }

        #[test]
        fn retries_end(end in any_end(), facts in any_facts(), attempts in 0_u32..10, made in 10_u32..) {
            prop_assert_ne!(wants_retry(end, facts, Some(&policy(attempts)), made), Verdict::Retry);
        }
    }
}
