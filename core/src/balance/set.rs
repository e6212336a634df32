//! The endpoints of a balancer: slots that keep their index, and an order in which the serving ones come first.

use std::collections::HashMap;

use crate::balance::ewma::PeakEwma;
use crate::clock::Moment;
use crate::outlier::{Health, Judged};
use crate::session::endpoint_number;
use crate::snapshot::Endpoint;

/// One endpoint and what is known of it.
#[derive(Debug)]
pub(super) struct Entry<C> {
    pub(super) endpoint: Endpoint,
    pub(super) client: C,
    pub(super) outstanding: u32,
    pub(super) rtt: PeakEwma,
    pub(super) health: Health,
    /// What it did since it was judged last.
    pub(super) judged: Judged,
    /// Whether it is to be preferred to those that are not.
    near: bool,
    /// When it joined others that were there before; `None`: it was there from the start.
    pub(super) joined: Option<Moment>,
    /// Its index in the order.
    position: usize,
}

#[derive(Debug)]
struct Slot<C> {
    /// Goes up with each endpoint that leaves the slot.
    generation: u32,
    entry: Option<Entry<C>>,
}

/// Where an endpoint is: a slot may be given to another one later, and the generation tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: usize,
    generation: u32,
}

/// Endpoints in slots. A slot's index never changes while its endpoint stays.
#[derive(Debug)]
pub(super) struct EndpointSet<C> {
    slots: Vec<Slot<C>>,
    free: Vec<usize>,
    /// Slots in use: first those of serving endpoints, the near ones before the others, then those of ejected ones.
    order: Vec<usize>,
    near: usize,
    serving: usize,
    /// How many are near, serving or not.
    near_total: usize,
    /// Slots by the number of their endpoint. Of two with one number, which nobody will ever see, the later counts.
    by_number: HashMap<u64, usize>,
}

impl<C> EndpointSet<C> {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            order: Vec::new(),
            near: 0,
            serving: 0,
            near_total: 0,
            by_number: HashMap::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.order.len()
    }

    /// Slots of the endpoints that get requests.
    pub(super) fn serving(&self) -> &[usize] {
        self.order.get(..self.serving).unwrap_or_default()
    }

    /// Slots of the near ones among them.
    pub(super) fn near(&self) -> &[usize] {
        self.order.get(..self.near).unwrap_or_default()
    }

    /// Slots of the others among them.
    pub(super) fn far(&self) -> &[usize] {
        self.order.get(self.near..self.serving).unwrap_or_default()
    }

    /// How many endpoints are near, serving or not.
    pub(super) const fn near_total(&self) -> usize {
        self.near_total
    }

    /// Says whether an endpoint is to be preferred to others.
    pub(super) fn set_near(&mut self, slot: usize, near: bool) {
        let Some(entry) = self.in_slot(slot).filter(|it| it.near != near) else { return };
        let serves = entry.position < self.serving;
        // Out of the serving ones with the old word, and back with the new one.
        self.eject(slot);
        if let Some(entry) = self.in_slot_mut(slot) {
            entry.near = near;
        }
        self.near_total = if near { self.near_total + 1 } else { self.near_total.saturating_sub(1) };
        if serves {
            self.readmit(slot);
        }
    }

    /// Slots of the endpoints that do not.
    pub(super) fn ejected(&self) -> &[usize] {
        self.order.get(self.serving..).unwrap_or_default()
    }

    /// Everything, in the order of the slots.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, &Entry<C>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.entry.as_ref()?)))
    }

    /// A new interval begins for all.
    pub(super) fn forget_judged(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.entry.as_mut()).for_each(|entry| entry.judged = Judged::default());
    }

    pub(super) fn in_slot(&self, slot: usize) -> Option<&Entry<C>> {
        self.slots.get(slot)?.entry.as_ref()
    }

    pub(super) fn in_slot_mut(&mut self, slot: usize) -> Option<&mut Entry<C>> {
        self.slots.get_mut(slot)?.entry.as_mut()
    }

    pub(super) fn key(&self, slot: usize) -> Option<Key> {
        self.slots.get(slot).map(|it| Key { slot, generation: it.generation })
    }

    /// The slot of the endpoint with this number.
    pub(super) fn numbered(&self, number: u64) -> Option<usize> {
        self.by_number.get(&number).copied()
    }

    /// The endpoint, unless it has gone.
    pub(super) fn get(&self, key: Key) -> Option<&Entry<C>> {
        self.slots.get(key.slot).filter(|slot| slot.generation == key.generation)?.entry.as_ref()
    }

    /// The endpoint, unless it has gone.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Entry<C>> {
        self.slots.get_mut(key.slot).filter(|slot| slot.generation == key.generation)?.entry.as_mut()
    }

    /// Adds a serving endpoint.
    pub(super) fn insert(&mut self, endpoint: Endpoint, client: C, rtt: PeakEwma, joined: Option<Moment>) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            self.slots.len() - 1
        });
        let position = self.order.len();
        self.order.push(slot);
        self.by_number.insert(endpoint_number(endpoint.address), slot);
        let (health, judged) = (Health::default(), Judged::default());
        let entry = Entry { endpoint, client, outstanding: 0, rtt, health, judged, near: false, joined, position };
        self.slots[slot].entry = Some(entry);
        self.swap(position, self.serving);
        self.serving += 1;
    }

    /// Takes an endpoint out; keys to it lead nowhere from now on.
    pub(super) fn remove(&mut self, slot: usize) {
        if self.in_slot(slot).is_none() {
            return;
        }
        self.set_near(slot, false);
        // An ejected endpoint leaves from the end, and a serving one becomes the first of the ejected on its way there.
        self.eject(slot);
        if let Some(entry) = self.in_slot(slot) {
            let number = endpoint_number(entry.endpoint.address);
            let last = self.order.len() - 1;
            self.swap(entry.position, last);
            self.order.pop();
            if self.by_number.get(&number) == Some(&slot) {
                self.by_number.remove(&number);
            }
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.entry = None;
            slot.generation = slot.generation.wrapping_add(1);
        }
        self.free.push(slot);
    }

    /// Moves an endpoint behind the serving ones.
    pub(super) fn eject(&mut self, slot: usize) {
        let Some(mut position) = self.in_slot(slot).map(|entry| entry.position) else { return };
        if position < self.near {
            self.near -= 1;
            self.swap(position, self.near);
            position = self.near;
        }
        if position < self.serving {
            self.serving -= 1;
            self.swap(position, self.serving);
        }
    }

    /// Moves an endpoint back to the serving ones.
    pub(super) fn readmit(&mut self, slot: usize) {
        let Some((position, near)) = self.in_slot(slot).map(|entry| (entry.position, entry.near)) else { return };
        if position >= self.serving {
            self.swap(position, self.serving);
            self.serving += 1;
            if near {
                self.swap(self.serving - 1, self.near);
                self.near += 1;
            }
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.order.swap(one, other);
        for position in [one, other] {
            let slot = self.order[position];
            if let Some(entry) = self.in_slot_mut(slot) {
                entry.position = position;
            }
        }
    }
}
