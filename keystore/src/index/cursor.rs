//! Walking an index that changes under the walker: the reverse-binary cursor, and random items.
//!
//! A `SCAN` keeps no state but the number it hands to the client. Positions are visited in the order of their
//! bits read backwards, so that when the table doubles or halves between two calls, the positions already
//! visited are exactly those whose low bits, read backwards, are below the cursor's, at the old size and at
//! the new one. Linear hashing fits in as a table of `2^level` positions, of which some are one bucket and
//! some (those already split) are two: a position is emitted whole. Hence Redis's guarantee: what is there
//! from the first call to the last is returned at least once.

use farkeep_core::heap::{Offset, View};

use super::bucket::Gathered;
use super::resize::bucket_at;
use super::{Index, Kind};

/// Where a walk stands. 0 begins one; 0 coming back ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(pub u64);

impl Cursor {
    /// The start of a walk, and its end.
    pub const START: Self = Self(0);
}

/// Most items of a chain among which [`Index::random`] is exactly fair.
const FAIR_CHAIN: u64 = 24;
/// Up to this many items, a random one is found by counting.
const FEW: u64 = 32;

impl<K: Kind> Index<K> {
    /// Calls `visit` with every item of the position `cursor` stands on, and returns the next position.
    pub fn scan(self, view: &View, cursor: Cursor, mut visit: impl FnMut(Offset)) -> Cursor {
        let root = self.root(view);
        if root.buckets == 0 {
            let _: u64 = view.get(self.root_at);
            return Cursor::START;
        }
        let half = 1 << root.buckets.ilog2();
        let mask = half - 1;
        let position = cursor.0 & mask;
        for bucket in [position, position + half] {
            if bucket < root.buckets {
                Gathered::chain(view, bucket_at(view, &root, bucket))
                    .iter()
                    .for_each(|slot| visit(slot.item()));
            }
        }
        Cursor(((cursor.0 | !mask).reverse_bits().wrapping_add(1)).reverse_bits())
    }

    /// Calls `visit` with every item. The index must not change meanwhile; `visit` returns whether to go on.
    pub fn for_each(self, view: &View, mut visit: impl FnMut(Offset) -> bool) {
        let root = self.root(view);
        let _: u64 = view.get(self.root_at);
        for number in 0..root.buckets {
            for slot in Gathered::chain(view, bucket_at(view, &root, number)).iter() {
                if !visit(slot.item()) {
                    return;
                }
            }
        }
    }

    /// A random item, each with the same chance. `random` yields uniformly distributed numbers.
    ///
    /// A bucket is drawn, then one of `FAIR_CHAIN` places in it: an empty place means drawing again, so a
    /// full bucket is not likelier per item than one with a single item. With at least 1.5 items per bucket
    /// that takes 16 draws at worst on average.
    pub fn random(self, view: &View, mut random: impl FnMut() -> u64) -> Option<Offset> {
        let root = self.root(view);
        let count = self.len(view);
        if count == 0 {
            return None;
        }
        if count <= FEW || count * 2 < root.buckets {
            let (mut left, mut picked) = (random() % count, None);
            self.for_each(view, |item| {
                picked = Some(item);
                left = left.wrapping_sub(1);
                left != u64::MAX
            });
            return picked;
        }
        loop {
            let draw = random();
            let chain = Gathered::chain(view, bucket_at(view, &root, (draw >> 32) % root.buckets));
            let place = (draw & 0xFFFF_FFFF) % FAIR_CHAIN.max(chain.len() as u64);
            if let Some(slot) = chain.iter().nth(place as usize) {
                return Some(slot.item());
            }
        }
    }
}
