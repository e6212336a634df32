//! What to do after a failure. Pure.

use crate::kube::Failure;

/// After so many failures that the API server answered, what was known of where to go on is in doubt: it may have been restored
/// from a backup and be behind that.
const DOUBT_AFTER: u32 = 3;

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on from where it was.
    Resume,
    /// List everything again.
    Relist,
    /// List everything in pages, since this API server cannot do otherwise.
    Pages,
    /// The kind is not installed.
    Absent,
}

pub(super) fn next(failure: &Failure, listing: bool, streaming: bool, optional: bool, failures: u32) -> Next {
    match failure {
        Failure::Expired => Next::Relist,
        Failure::NotFound(_) if optional => Next::Absent,
        Failure::Refused(_) if listing && streaming => Next::Pages,
        Failure::Unreachable(_) | Failure::Unauthenticated(_) | Failure::Forbidden(_) | Failure::Busy(_) => Next::Resume,
        _ if failures >= DOUBT_AFTER => Next::Relist,
        Failure::NotFound(_) | Failure::Conflict(_) | Failure::Refused(_) | Failure::Server(_) => Next::Resume,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_failure() {
        let text = String::new;
        let table = [
            // failure, listing, streaming, optional, failures in a row
            (Failure::Expired, false, true, false, 1, Next::Relist),
            (Failure::Expired, true, true, false, 9, Next::Relist),
            (Failure::NotFound(text()), true, true, true, 1, Next::Absent),
            (Failure::NotFound(text()), false, true, true, 1, Next::Absent),
            (Failure::NotFound(text()), true, true, false, 1, Next::Resume),
            (Failure::Refused(text()), true, true, false, 1, Next::Pages),
            (Failure::Refused(text()), true, false, false, 1, Next::Resume),
            (Failure::Refused(text()), false, true, false, 1, Next::Resume),
            (Failure::Unreachable(text()), false, true, false, 100, Next::Resume),
            (Failure::Unauthenticated(text()), false, true, false, 100, Next::Resume),
            (Failure::Forbidden(text()), true, true, true, 100, Next::Resume),
            (Failure::Busy(text()), false, true, false, 100, Next::Resume),
            (Failure::Server(text()), false, true, false, 2, Next::Resume),
            (Failure::Server(text()), false, true, false, 3, Next::Relist),
        ];
        for (failure, listing, streaming, optional, failures, expected) in table {
            let found = next(&failure, listing, streaming, optional, failures);
            assert_eq!(found, expected, "{failure:?} listing={listing} streaming={streaming} failures={failures}");
        }
    }
}
