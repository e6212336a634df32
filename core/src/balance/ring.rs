//! A ring for consistent hashing (Karger et al., 1997; as in ketama): each endpoint stands at many points, and a key belongs to the
//! first point from it on. An endpoint that leaves gives its keys to the others, about equally, and nobody else's keys move.

use std::net::SocketAddr;

use crate::policy::hash;
use crate::session::endpoint_number;

/// Points of a ring with few endpoints. The shares of endpoints differ by about one part in the square root of the points that
/// each has.
const POINTS: usize = 4096;
/// Points of each endpoint, at least and at most.
const POINTS_EACH: std::ops::RangeInclusive<usize> = 32..=512;

/// Points in their order, each with a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    points: Vec<(u64, usize)>,
}

impl Ring {
    pub(super) const fn new() -> Self {
        Self { points: Vec::new() }
    }

    /// A ring of these endpoints. Where one stands depends on its address alone, so that all workers of all sidecars agree.
    pub(super) fn of(members: Vec<(usize, SocketAddr)>) -> Self {
        // In steps: with each other number of points more keys move than those of the endpoint that came or went.
        let each = (POINTS / members.len().next_power_of_two()).clamp(*POINTS_EACH.start(), *POINTS_EACH.end());
        let mut points: Vec<(u64, usize)> = Vec::with_capacity(members.len() * each);
        for (slot, address) in members {
            let place = endpoint_number(address);
            points.extend((0..each as u64).map(|number| (hash::mix(place.wrapping_add(hash::mix(number + 1))), slot)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// The slots from a key on, once around; most come up many times.
    pub(super) fn from(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.points.partition_point(|(point, _)| *point < key);
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|(_, slot)| *slot)
    }
}
