//! Whatever configuration the control plane encodes, the proxy decodes to the same; and bytes that nobody encoded are refused,
//! never worse.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a scenario ends by panicking; that is how it fails")]

mod generate;
#[path = "../../../core/tests/corpus/mutate.rs"]
mod mutate;

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;
use weir_control_plane::publish::encode;
use weir_core::snapshot::{Resource, Update};
use weir_proto::v1;
use weir_proxy::decode;

/// Through the bytes of the wire, not only through the message's type.
fn over_the_wire<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_resource_is_decoded_to_what_was_encoded(resource in generate::resource(), version in "[a-z0-9]{1,12}") {
        let wire = over_the_wire(&encode::resource(&resource, &version));
        let (decoded, decoded_version) = decode::resource(&wire).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(&decoded, &resource);
        prop_assert_eq!(&*decoded_version, version.as_str());
        // What is equal has equal bytes, on which the versions rely.
        prop_assert_eq!(encode::resource(&decoded, &version).encode_to_vec(), wire.encode_to_vec());
    }

    #[test]
    fn whole_updates_survive(
        set in prop::collection::vec((generate::resource(), "[a-z0-9]{1,12}"), 0..4),
        removed in prop::collection::vec(generate::name(), 0..4),
        forgotten in prop::collection::vec(generate::name(), 0..4),
        sequence: u64,
    ) {
        let set: Vec<(Resource, Arc<str>)> = set.into_iter().map(|(resource, version)| (resource, version.into())).collect();
        let update = Update { set, removed, forgotten };
        let wire = over_the_wire(&encode::update(&update, sequence));
        prop_assert_eq!(wire.sequence, sequence);
        prop_assert_eq!(decode::update(&wire).map_err(|error| TestCaseError::fail(error.to_string()))?, update);
    }

    #[test]
    fn names_survive_in_both_directions(name in generate::name()) {
        let wire = over_the_wire(&encode::name(&name));
        prop_assert_eq!(decode::resource_name(&wire).unwrap(), name.clone());
        prop_assert_eq!(encode::parse_name(&over_the_wire(&decode::wire_name(&name))).unwrap(), name);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(response) = v1::DiscoveryResponse::decode(bytes.as_slice()) {
            let _ = decode::update(&response);
        }
        if let Ok(resource) = v1::Resource::decode(bytes.as_slice()) {
            let _ = decode::resource(&resource);
        }
        if let Ok(name) = v1::ResourceName::decode(bytes.as_slice()) {
            let _ = encode::parse_name(&name);
        }
    }

    /// One byte of a real message changed: nearer to what decodes than noise is.
    #[test]
    fn damaged_messages_are_refused_or_read_and_never_panic(resource in generate::resource(), at: prop::sample::Index, byte: u8) {
        let mut bytes = encode::resource(&resource, "1").encode_to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(damaged) = v1::Resource::decode(bytes.as_slice()) {
            let _ = decode::resource(&damaged);
        }
    }
}

/// Encoded updates that are kept, and thousands of broken ones made of them. What is still read means one thing only.
#[test]
fn what_is_left_of_a_broken_update_is_refused_or_means_one_thing() {
    let mut understood = 0;
    mutate::each("decode", 20_000, |bytes| {
        let Ok(response) = v1::DiscoveryResponse::decode(bytes) else { return };
        let Ok(update) = decode::update(&response) else { return };
        understood += 1;
        let again = decode::update(&over_the_wire(&encode::update(&update, response.sequence)));
        assert_eq!(again.unwrap(), update);
    });
    assert!(understood > 200, "only {understood} inputs were updates at all");
}
