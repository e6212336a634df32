//! The kernel's side: sends a batch over netlink and reads what became of it.

use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::{Batch, Step, replies};

/// `AF_NETLINK`.
const NETLINK: i32 = 16;
/// `NETLINK_NETFILTER`.
const NETFILTER: i32 = 12;
/// The kernel answers before the call that sends has returned, unless it has to load modules.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// More than the longest answer, which quotes one message.
const MAX_ANSWER: usize = 64 << 10;

/// Why the rules are not as they should be. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "not permitted to write redirect rules: CAP_NET_ADMIN is missing. Run as root, and put into the container's spec: \
         securityContext: {{runAsUser: 0, capabilities: {{add: [NET_ADMIN]}}}}; a namespace that enforces the Pod Security \
         level baseline or restricted has to be relabelled to allow it"
    )]
    NotPermitted,
    #[error(
        "the kernel has no nf_tables: load the module nf_tables on the node (modprobe nf_tables; CONFIG_NF_TABLES and \
         CONFIG_NF_TABLES_INET), or use a node whose kernel has it ({0})"
    )]
    NoNfTables(io::Error),
    #[error(
        "the kernel's nf_tables cannot do NAT for IPv4 and IPv6 in one table: load the module nft_chain_nat on the node \
         (modprobe nft_chain_nat; CONFIG_NFT_NAT); kernels before 5.2 cannot do it at all ({0})"
    )]
    NoNat(io::Error),
    #[error(
        "the kernel's nf_tables cannot redirect: load the module nft_redir on the node (modprobe nft_redir; CONFIG_NFT_REDIR) ({0})"
    )]
    NoRedirect(io::Error),
    #[error("the kernel refused {what} and left everything as it was: {source}")]
    Other { what: &'static str, source: io::Error },
    #[error("netlink does not work here: cannot {what}: {source}")]
    Netlink { what: &'static str, source: io::Error },
}

/// Makes the change, all of it.
///
/// # Errors
///
/// Why nothing was changed.
pub(super) fn commit(batch: &Batch) -> Result<(), Refused> {
    let mut socket = open(batch.bytes().len())?;
    let sent = socket.write(batch.bytes()).map_err(|source| Refused::Netlink { what: "send the rules", source })?;
    if sent != batch.bytes().len() {
        let source = io::Error::from(io::ErrorKind::WriteZero);
        return Err(Refused::Netlink { what: "send all rules at once", source });
    }
    let mut answer = vec![0; MAX_ANSWER];
    loop {
        let count = match socket.read(&mut answer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(|source| Refused::Netlink { what: "read the kernel's answer", source })?,
        };
        // Errors come before the acknowledgement, and the first one is the cause of the others.
        for reply in replies(answer.get(..count).unwrap_or_default()) {
            if reply.error != 0 {
                return Err(refused(batch.step(reply.sequence), io::Error::from_raw_os_error(reply.error)));
            }
            if reply.sequence == batch.acknowledged() {
                return Ok(());
            }
        }
    }
}

fn open(batch_length: usize) -> Result<Socket, Refused> {
    let socket = Socket::new(Domain::from(NETLINK), Type::RAW, Some(Protocol::from(NETFILTER)));
    let socket = socket.map_err(|error| refused(None, error))?;
    let configured = socket.set_send_buffer_size(batch_length).and_then(|()| socket.set_read_timeout(Some(ANSWER_TIMEOUT)));
    configured.map_err(|source| Refused::Netlink { what: "configure the socket", source })?;
    Ok(socket)
}

/// What an error means at this step; `None` is before the first one.
fn refused(step: Option<Step>, source: io::Error) -> Refused {
    /// `EAFNOSUPPORT`, `EPROTONOSUPPORT` and `EOPNOTSUPP`: nobody is there who understands.
    const NOT_SUPPORTED: [i32; 3] = [97, 93, 95];
    let not_supported = source.raw_os_error().is_some_and(|code| NOT_SUPPORTED.contains(&code));
    // That is how nf_tables says that it does not know a type or an expression.
    let not_found = source.kind() == io::ErrorKind::NotFound;
    match step {
        _ if source.kind() == io::ErrorKind::PermissionDenied => Refused::NotPermitted,
        None | Some(Step::Begin | Step::Table) if not_supported => Refused::NoNfTables(source),
        Some(Step::Chain) if not_supported || not_found => Refused::NoNat(source),
        Some(Step::Redirect) if not_supported || not_found => Refused::NoRedirect(source),
        None => Refused::Netlink { what: "open a socket", source },
        Some(step) => Refused::Other { what: step.name(), source },
    }
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Begin => "the change as a whole",
            Self::Table => "to make the table",
            Self::Clear => "to delete the old table",
            Self::Chain => "a chain",
            Self::Leave => "a rule that leaves connections alone",
            Self::Redirect => "a rule that redirects connections",
            Self::End => "the end of the change",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(step: Option<Step>, code: i32) -> String {
        refused(step, io::Error::from_raw_os_error(code)).to_string()
    }

    #[test]
    fn a_missing_capability_is_named_with_what_to_write() {
        for (step, code) in [(None, 1), (Some(Step::Begin), 1), (Some(Step::Chain), 13)] {
            let said = said(step, code);
            assert!(said.contains("CAP_NET_ADMIN"), "{said}");
            assert!(said.contains("securityContext: {runAsUser: 0, capabilities: {add: [NET_ADMIN]}}"), "{said}");
        }
    }

    #[test]
    fn a_missing_module_is_named() {
        const ENOENT: i32 = 2;
        const EOPNOTSUPP: i32 = 95;
        const EPROTONOSUPPORT: i32 = 93;
        for (step, code, module) in [
            (None, EPROTONOSUPPORT, "modprobe nf_tables;"),
            (Some(Step::Begin), EOPNOTSUPP, "modprobe nf_tables;"),
            (Some(Step::Table), EOPNOTSUPP, "modprobe nf_tables;"),
            (Some(Step::Chain), ENOENT, "modprobe nft_chain_nat;"),
            (Some(Step::Chain), EOPNOTSUPP, "modprobe nft_chain_nat;"),
            (Some(Step::Redirect), ENOENT, "modprobe nft_redir;"),
        ] {
            let said = said(step, code);
            assert!(said.contains(module), "{said}");
        }
    }

    #[test]
    fn any_other_refusal_says_what_was_asked_for() {
        let said = said(Some(Step::Leave), 22);
        assert!(said.contains("refused a rule that leaves connections alone") && said.contains("Invalid argument"), "{said}");
    }
}
