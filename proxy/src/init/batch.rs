//! The rules as the kernel reads them: one batch of nfnetlink messages, which takes effect whole or not at all.
//!
//! Numbers are those of the kernel's `linux/netlink.h`, `linux/netfilter/nfnetlink.h` and `linux/netfilter/nf_tables.h`.
//! Headers, registers' contents of `meta` and lengths are in the machine's byte order, attributes of nf_tables and what is
//! compared with packets are big-endian.

use std::net::IpAddr;

use ipnet::IpNet;

use super::lists::PortRange;
use super::ruleset::{Chain, Hook, Match, Rule, Ruleset, Verdict};

/// The name of the table; [`ruleset::TABLE`](super::ruleset::TABLE) has its family as well.
const TABLE_NAME: &str = "weir";
/// `nfgen_family` of the `inet` tables.
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// `NFNL_SUBSYS_NFTABLES`.
const NF_TABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = NF_TABLES << 8;
const DELETE_TABLE: u16 = NF_TABLES << 8 | 2;
const NEW_CHAIN: u16 = NF_TABLES << 8 | 3;
const NEW_RULE: u16 = NF_TABLES << 8 | 6;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Lengths of a netlink header, and of it with the header of netfilter.
const HEADER: usize = 16;
const HEADERS: usize = HEADER + 4;
/// Where the flags stand in a netlink header.
const FLAGS_AT: usize = 6;

/// The register of verdicts, and the one for everything else.
const VERDICT: u32 = 0;
const REGISTER: u32 = 1;

/// Messages that belong together, ready to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    /// Where the last message starts.
    last: usize,
}

/// What one message asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To be heard at all. A refusal of the whole is about this message.
    Begin,
    /// A table, if it is not there.
    Table,
    /// The table to be gone.
    Clear,
    /// A chain that can change where connections go.
    Chain,
    /// A rule that leaves connections alone.
    Leave,
    /// A rule that redirects.
    Redirect,
    /// To be done.
    End,
}

impl Batch {
    /// The table with these rules, in place of the one that may be there.
    pub(super) fn replace(ruleset: &Ruleset) -> Self {
        let mut batch = Self::cleared();
        batch.push(Step::Table, NEW_TABLE, CREATE, &table());
        for chain in &ruleset.chains {
            batch.push(Step::Chain, NEW_CHAIN, CREATE, &base_chain(chain.hook));
            for Rule { matched, verdict } in &chain.rules {
                let step = match verdict {
                    Verdict::Leave => Step::Leave,
                    Verdict::Redirect(_) => Step::Redirect,
                };
                batch.push(step, NEW_RULE, CREATE | APPEND, &rule(chain, *matched, *verdict));
            }
        }
        batch.ended()
    }

    /// No table.
    pub(super) fn remove() -> Self {
        Self::cleared().ended()
    }

    /// Everything, as one datagram.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What the message with this sequence number asked for.
    pub(super) fn step(&self, sequence: u32) -> Option<Step> {
        self.steps.get(usize::try_from(sequence).ok()?).copied()
    }

    /// The sequence number of the message that is acknowledged when everything has been done: the last one before the end,
    /// since only new kernels (6.10) acknowledge the end itself.
    pub(super) fn acknowledged(&self) -> u32 {
        sequence(self.steps.len().saturating_sub(2))
    }

    /// The table made, so that it can be deleted, and deleted.
    fn cleared() -> Self {
        let mut batch = Self::default();
        batch.control(Step::Begin, BATCH_BEGIN);
        batch.push(Step::Table, NEW_TABLE, CREATE, &table());
        batch.push(Step::Clear, DELETE_TABLE, 0, &table());
        batch
    }

    fn ended(mut self) -> Self {
        let flags = self.last + FLAGS_AT;
        let acknowledged = pair(0, ACKNOWLEDGE);
        for (byte, flag) in self.bytes.iter_mut().skip(flags).zip(acknowledged.into_iter().skip(2)) {
            *byte |= flag;
        }
        self.control(Step::End, BATCH_END);
        self
    }

    fn control(&mut self, step: Step, kind: u16) {
        let header = [0, 0, NF_TABLES.to_be_bytes()[0], NF_TABLES.to_be_bytes()[1]];
        self.message(step, kind, REQUEST, header, &[]);
    }

    fn push(&mut self, step: Step, kind: u16, flags: u16, attributes: &[u8]) {
        self.message(step, kind, REQUEST | flags, [NFPROTO_INET, 0, 0, 0], attributes);
    }

    fn message(&mut self, step: Step, kind: u16, flags: u16, netfilter: [u8; 4], attributes: &[u8]) {
        let length = sequence(HEADERS + attributes.len());
        let header = [length.to_ne_bytes(), pair(kind, flags), sequence(self.steps.len()).to_ne_bytes(), [0; 4], netfilter];
        self.last = self.bytes.len();
        self.bytes.extend(header.iter().flatten());
        self.bytes.extend(attributes);
        self.steps.push(step);
    }
}

/// What the kernel says about one message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Which message.
    pub(super) sequence: u32,
    /// The error's number, positive; 0 if all is well.
    pub(super) error: i32,
}

/// The replies in one datagram from the kernel. What is no reply is passed over.
pub(super) fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    const NLMSG_ERROR: u16 = 2;
    let mut replies = Vec::new();
    while let Some((length, kind)) = header(bytes) {
        let number = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
        if kind == NLMSG_ERROR
            && let (Some(sequence), Some(error)) = (number(8), number(HEADER))
        {
            let error = i32::from_ne_bytes(error).saturating_neg();
            replies.push(Reply { sequence: u32::from_ne_bytes(sequence), error });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

/// Length and kind of the message at the start of `bytes`.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (HEADER..=bytes.len()).contains(&length).then_some((length, kind))
}

fn table() -> Vec<u8> {
    const NAME: u16 = 1;
    text(NAME, TABLE_NAME)
}

/// A chain of type `nat` at its hook, at the priority of destination NAT.
fn base_chain(hook: Hook) -> Vec<u8> {
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const HOOK_NUMBER: u16 = 1;
    const HOOK_PRIORITY: u16 = 2;
    const POLICY: u16 = 5;
    const TYPE: u16 = 7;
    const ACCEPT: u32 = 1;
    const DESTINATION_NAT: i32 = -100;
    let number = match hook {
        Hook::Prerouting => 0,
        Hook::Output => 3,
    };
    let priority = attribute(HOOK_PRIORITY, &DESTINATION_NAT.to_be_bytes());
    [
        text(TABLE, TABLE_NAME),
        text(NAME, hook.name()),
        nested(HOOK, &[be32(HOOK_NUMBER, number), priority]),
        be32(POLICY, ACCEPT),
        text(TYPE, "nat"),
    ]
    .concat()
}

fn rule(chain: &Chain, matched: Match, verdict: Verdict) -> Vec<u8> {
    const TABLE: u16 = 1;
    const CHAIN: u16 = 2;
    const EXPRESSIONS: u16 = 4;
    let expressions = [matching(matched), deciding(verdict)].concat();
    [text(TABLE, TABLE_NAME), text(CHAIN, chain.hook.name()), nested(EXPRESSIONS, &expressions)].concat()
}

/// Expressions that go on to the next one only for what is matched.
fn matching(matched: Match) -> Vec<Vec<u8>> {
    const INPUT_NAME: u32 = 6;
    const OUTPUT_NAME: u32 = 7;
    const SOCKET_USER: u32 = 10;
    /// Interface names are compared with their padding.
    const LOOPBACK: [u8; 16] = *b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    match matched {
        Match::User(uid) => vec![meta(SOCKET_USER), compare(Compare::Equal, &uid.to_ne_bytes())],
        Match::FromLoopback => vec![meta(INPUT_NAME), compare(Compare::Equal, &LOOPBACK)],
        Match::ToLoopback => vec![meta(OUTPUT_NAME), compare(Compare::Equal, &LOOPBACK)],
        Match::Destination(network) => destination(network),
        Match::Ports(ports) => [tcp(), destination_ports(ports)].concat(),
        Match::Loopback(port) => {
            let address = destination(IpNet::from(IpAddr::from([127, 0, 0, 1])));
            [address, tcp(), destination_ports(PortRange::one(port))].concat()
        }
        Match::Tcp => tcp(),
    }
}

fn tcp() -> Vec<Vec<u8>> {
    const L4_PROTOCOL: u32 = 16;
    vec![meta(L4_PROTOCOL), compare(Compare::Equal, &[IPPROTO_TCP])]
}

fn destination_ports(ports: PortRange) -> Vec<Vec<u8>> {
    const TRANSPORT_HEADER: u32 = 2;
    let port = payload(TRANSPORT_HEADER, 2, 2);
    let (first, last) = (ports.first.to_be_bytes(), ports.last.to_be_bytes());
    if ports.first == ports.last {
        vec![port, compare(Compare::Equal, &first)]
    } else {
        vec![port, compare(Compare::AtLeast, &first), compare(Compare::AtMost, &last)]
    }
}

fn destination(network: IpNet) -> Vec<Vec<u8>> {
    const PROTOCOL_FAMILY: u32 = 15;
    const NETWORK_HEADER: u32 = 1;
    // Where the address stands in the header (RFC 791 3.1, RFC 8200 3).
    let (family, offset) = match network {
        IpNet::V4(_) => (NFPROTO_IPV4, 16),
        IpNet::V6(_) => (NFPROTO_IPV6, 24),
    };
    let (address, mask) = (octets(network.network()), octets(network.netmask()));
    let mut expressions =
        vec![meta(PROTOCOL_FAMILY), compare(Compare::Equal, &[family]), payload(NETWORK_HEADER, offset, sequence(address.len()))];
    if network.prefix_len() != network.max_prefix_len() {
        expressions.push(masked(&mask));
    }
    expressions.push(compare(Compare::Equal, &address));
    expressions
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn deciding(verdict: Verdict) -> Vec<Vec<u8>> {
    const DESTINATION: u16 = 1;
    const DATA: u16 = 2;
    const DATA_VERDICT: u16 = 2;
    const VERDICT_CODE: u16 = 1;
    /// `NFT_RETURN`: the chain's policy, which accepts.
    const RETURN: i32 = -5;
    const FIRST_PORT: u16 = 1;
    const LAST_PORT: u16 = 2;
    const FLAGS: u16 = 3;
    /// `NF_NAT_RANGE_PROTO_SPECIFIED`: the port is given.
    const PORT_GIVEN: u32 = 2;
    match verdict {
        Verdict::Leave => {
            let code = attribute(VERDICT_CODE, &RETURN.to_be_bytes());
            let data = nested(DATA, &[nested(DATA_VERDICT, &[code])]);
            vec![expression("immediate", &[be32(DESTINATION, VERDICT), data])]
        }
        Verdict::Redirect(port) => {
            let loaded = [be32(DESTINATION, REGISTER), value(DATA, &port.to_be_bytes())];
            let redirected = [be32(FIRST_PORT, REGISTER), be32(LAST_PORT, REGISTER), be32(FLAGS, PORT_GIVEN)];
            vec![expression("immediate", &loaded), expression("redir", &redirected)]
        }
    }
}

/// Loads something that the kernel knows about the packet.
fn meta(key: u32) -> Vec<u8> {
    const DESTINATION: u16 = 1;
    const KEY: u16 = 2;
    expression("meta", &[be32(DESTINATION, REGISTER), be32(KEY, key)])
}

/// Loads bytes of a header.
fn payload(base: u32, offset: u32, length: u32) -> Vec<u8> {
    const DESTINATION: u16 = 1;
    const BASE: u16 = 2;
    const OFFSET: u16 = 3;
    const LENGTH: u16 = 4;
    let attributes = [be32(DESTINATION, REGISTER), be32(BASE, base), be32(OFFSET, offset), be32(LENGTH, length)];
    expression("payload", &attributes)
}

/// Keeps the bits of the mask.
fn masked(mask: &[u8]) -> Vec<u8> {
    const SOURCE: u16 = 1;
    const DESTINATION: u16 = 2;
    const LENGTH: u16 = 3;
    const MASK: u16 = 4;
    const FLIP: u16 = 5;
    let attributes = [
        be32(SOURCE, REGISTER),
        be32(DESTINATION, REGISTER),
        be32(LENGTH, sequence(mask.len())),
        value(MASK, mask),
        value(FLIP, &vec![0; mask.len()]),
    ];
    expression("bitwise", &attributes)
}

/// How a register is compared.
#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    AtMost = 3,
    AtLeast = 5,
}

fn compare(how: Compare, with: &[u8]) -> Vec<u8> {
    const SOURCE: u16 = 1;
    const OPERATION: u16 = 2;
    const DATA: u16 = 3;
    expression("cmp", &[be32(SOURCE, REGISTER), be32(OPERATION, how as u32), value(DATA, with)])
}

fn expression(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    const ELEMENT: u16 = 1;
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    nested(ELEMENT, &[text(NAME, name), nested(DATA, attributes)])
}

fn value(kind: u16, bytes: &[u8]) -> Vec<u8> {
    const VALUE: u16 = 1;
    nested(kind, &[attribute(VALUE, bytes)])
}

fn be32(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), b"\0"].concat())
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(NESTED | kind, &attributes.concat())
}

/// Length, kind, value, and padding to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "what is encoded here is a rule at most, a few hundred bytes")]
    let length = u16::try_from(4 + value.len()).expect("an attribute is short");
    let mut bytes = pair(length, kind).to_vec();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn pair(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}

fn sequence(count: usize) -> u32 {
    #[expect(clippy::expect_used, reason = "lists are bounded, so a batch has about a thousand messages of a few hundred bytes")]
    u32::try_from(count).expect("a batch is small")
}

#[cfg(test)]
mod tests;
