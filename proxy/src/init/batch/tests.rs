use super::super::settings::tests::read;
use super::*;
use proptest::prelude::*;

fn batch(flags: &[&str]) -> Batch {
    Batch::replace(&Ruleset::new(&read(flags).unwrap()))
}

/// The messages of a batch: kind, flags, sequence number, attributes.
fn messages(batch: &Batch) -> Vec<(u16, u16, u32, &[u8])> {
    let (mut rest, mut all) = (batch.bytes(), Vec::new());
    while !rest.is_empty() {
        let (length, kind) = header(rest).unwrap();
        let flags = u16::from_ne_bytes(rest[6..8].try_into().unwrap());
        let sequence = u32::from_ne_bytes(rest[8..12].try_into().unwrap());
        all.push((kind, flags, sequence, &rest[HEADERS..length]));
        rest = &rest[length..];
    }
    all
}

#[test]
fn a_batch_clears_the_table_and_fills_it_again() {
    let batch = batch(&[]);
    let messages = messages(&batch);
    let kinds: Vec<u16> = messages.iter().map(|(kind, ..)| *kind).collect();
    let expected = [
        vec![BATCH_BEGIN, NEW_TABLE, DELETE_TABLE, NEW_TABLE],
        [vec![NEW_CHAIN], vec![NEW_RULE; 6], vec![NEW_CHAIN], vec![NEW_RULE; 5]].concat(),
        vec![BATCH_END],
    ];
    assert_eq!(kinds, expected.concat());
    for (index, (kind, flags, sequence, _)) in messages.iter().enumerate() {
        assert_eq!(usize::try_from(*sequence).unwrap(), index);
        assert_eq!(flags & REQUEST, REQUEST);
        assert_eq!(flags & ACKNOWLEDGE != 0, *sequence == batch.acknowledged(), "{kind:#x}");
    }
    assert_eq!(batch.step(batch.acknowledged()), Some(Step::Redirect));
    assert_eq!((batch.step(0), batch.step(9_999)), (Some(Step::Begin), None));
}

#[test]
fn a_removal_makes_the_table_so_that_it_can_be_deleted() {
    let batch = Batch::remove();
    let kinds: Vec<u16> = messages(&batch).iter().map(|(kind, ..)| *kind).collect();
    assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, DELETE_TABLE, BATCH_END]);
    assert_eq!(batch.step(batch.acknowledged()), Some(Step::Clear));
}

#[test]
#[cfg(target_endian = "little")]
fn a_redirecting_rule_byte_for_byte() {
    let chain = Chain { hook: Hook::Output, rules: Vec::new() };
    let bytes = rule(&chain, Match::Tcp, Verdict::Redirect(15401));
    let expected: Vec<u8> = [
        b"\x09\0\x01\0weir\0\0\0\0".as_slice(),
        b"\x0d\0\x02\0outbound\0\0\0\0",
        b"\xac\0\x04\x80",
        // meta l4proto
        b"\x24\0\x01\x80\x09\0\x01\0meta\0\0\0\0\x14\0\x02\x80\x08\0\x01\0\0\0\0\x01\x08\0\x02\0\0\0\0\x10",
        // is 6
        b"\x2c\0\x01\x80\x08\0\x01\0cmp\0\x20\0\x02\x80\x08\0\x01\0\0\0\0\x01\x08\0\x02\0\0\0\0\0",
        b"\x0c\0\x03\x80\x05\0\x01\0\x06\0\0\0",
        // 15401
        b"\x2c\0\x01\x80\x0e\0\x01\0immediate\0\0\0\x18\0\x02\x80\x08\0\x01\0\0\0\0\x01\x0c\0\x02\x80\x06\0\x01\0\x3c\x29\0\0",
        // is where it goes
        b"\x2c\0\x01\x80\x0a\0\x01\0redir\0\0\0\x1c\0\x02\x80\x08\0\x01\0\0\0\0\x01\x08\0\x02\0\0\0\0\x01\x08\0\x03\0\0\0\0\x02",
    ]
    .concat();
    assert_eq!(bytes, expected);
}

#[test]
fn the_longest_lists_fit_into_what_one_datagram_may_hold() {
    let ports: Vec<String> = (1..=256).map(|port| format!("{}-{}", port * 10, port * 10 + 5)).collect();
    let networks: Vec<String> = (0..256).map(|number| format!("fd00:{:x}::/33", number * 2)).collect();
    let lists = [
        format!("--skip-inbound-ports={}", ports.join(",")),
        format!("--skip-outbound-ports={}", ports.join(",")),
        format!("--skip-outbound-cidrs={}", networks.join(",")),
    ];
    let batch = batch(&lists.each_ref().map(String::as_str));
    // A socket's buffer may always have this size: the kernel doubles what `net.core.wmem_max` (212,992) allows.
    assert!(batch.bytes().len() < 2 * 212_992 - 32, "{}", batch.bytes().len());
    assert!(messages(&batch).len() > 3 * 256);
}

#[test]
fn replies_are_read() {
    let reply = |sequence: u32, error: i32| {
        let header = [36u32.to_ne_bytes(), pair(2, 0), sequence.to_ne_bytes(), [0; 4], error.to_ne_bytes(), [0; 4]];
        [header.concat(), vec![0; 12]].concat()
    };
    let datagram = [reply(4, -2), reply(7, 0)].concat();
    assert_eq!(replies(&datagram), [Reply { sequence: 4, error: 2 }, Reply { sequence: 7, error: 0 }]);
    assert_eq!(replies(&datagram[..40]), [Reply { sequence: 4, error: 2 }]);
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..80), length in 0..80u32) {
        let _ = replies(&bytes);
        let mut plausible = bytes;
        if plausible.len() >= 6 {
            plausible[..4].copy_from_slice(&length.to_ne_bytes());
            plausible[4..6].copy_from_slice(&2u16.to_ne_bytes());
        }
        let _ = replies(&plausible);
    }
}
