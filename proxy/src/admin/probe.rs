//! `/probe/CONTAINER/KIND`: the application's own probe or hook, asked in the kubelet's place.

use http::header::USER_AGENT;
use http::{HeaderMap, StatusCode};

use super::{Answer, BreakOff, text};
use crate::probe::Outcome;
use crate::shared::Shared;

/// `name` is what follows `/probe/`. The answer has the status that the application gave, or one that says why it gave none.
///
/// # Errors
///
/// The application could not be reached for a hook. The kubelet takes any answer for success there, so it is given none.
pub(super) async fn answer(shared: &Shared, name: &str, headers: &HeaderMap) -> Result<Answer, BreakOff> {
    let Some(probe) = shared.prober.find(name) else {
        let what = "There is no such probe here: WEIR_PROBES of this proxy does not have it.\n";
        return Ok(text(StatusCode::NOT_FOUND, what));
    };
    // A hook is what the application does before it ends: the drain waits for it.
    let _open = probe.is_hook.then(|| shared.lifecycle.connection());
    match shared.prober.ask(name, probe, headers.get(USER_AGENT)).await {
        Outcome::Passed(said) => Ok(text(StatusCode::OK, format!("{said}\n"))),
        Outcome::Failed(status, said) => Ok(text(status, format!("{said}\n"))),
        Outcome::NoAnswer(..) if probe.is_hook => Err(BreakOff),
        Outcome::NoAnswer(status, said) => Ok(text(status, format!("{said}\n"))),
    }
}
