//! The ranges a transaction has stored to, and how they become few.
//!
//! A range in the log costs a header of 8 bytes, so two stores fewer bytes apart than that are cheaper as one range
//! that also carries the bytes between them. Those bytes are the same in the image, so carrying them is harmless.

use super::offset::Offset;

/// The longest range, in bytes. Longer stores are recorded as several ranges.
pub const MAX_RANGE_LEN: u32 = 1 << 30;

/// Bytes between two ranges that are carried along rather than paid for with a second header. The header is 8
/// bytes; the few more are the price of handling a range at all, here and in the replayer.
const MAX_GAP: u64 = 10;

/// What replaying a range does. Declared in the order of replay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RangeKind {
    /// Makes the image `at` bytes long; the new bytes are zero. `len` is 0.
    Grow,
    /// Stores zeros. No bytes travel.
    Fill,
    /// Stores the bytes that the working view holds there when the transaction commits.
    Bytes,
}

/// A part of the image that a transaction changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Where the range begins, or the new image length for [`RangeKind::Grow`].
    pub at: Offset,
    /// Its length in bytes, at most [`MAX_RANGE_LEN`].
    pub len: u32,
    /// What to do there.
    pub kind: RangeKind,
}

impl Range {
    /// The offset behind the range's last byte.
    #[inline]
    pub fn end(&self) -> u64 {
        self.at.get() + u64::from(self.len)
    }

    /// Bytes the range takes in a record: header and payload.
    #[inline]
    pub fn redo_len(&self) -> usize {
        match self.kind {
            RangeKind::Bytes if self.len < 1 << 16 => 8 + self.len as usize,
            RangeKind::Bytes => 16 + self.len as usize,
            RangeKind::Fill | RangeKind::Grow => 16,
        }
    }

    /// Whether `next`, which does not begin before `self`, can be carried by `self` for less than a header.
    #[inline]
    fn absorbs(&self, next: &Range) -> bool {
        let gap = match self.kind {
            RangeKind::Bytes => MAX_GAP,
            RangeKind::Fill => 0,
            RangeKind::Grow => return false,
        };
        self.kind == next.kind
            && next.at.get() <= self.end() + gap
            && next.end() - self.at.get() <= u64::from(MAX_RANGE_LEN)
    }

    #[inline]
    fn absorb(&mut self, next: &Range) {
        self.len = (self.end().max(next.end()) - self.at.get()) as u32;
    }
}

/// Adds a store to the ranges of a transaction. Most stores continue or repeat the one before, so only that is
/// looked at; [`coalesce`] finds the rest.
#[inline]
pub(super) fn record(ranges: &mut Vec<Range>, kind: RangeKind, at: u64, len: usize) {
    if len <= MAX_RANGE_LEN as usize {
        let new = Range { at: Offset::new(at), len: len as u32, kind };
        match ranges.last_mut() {
            Some(last) if last.at.get() <= at && last.absorbs(&new) => last.absorb(&new),
            _ => ranges.push(new),
        }
    } else {
        record_long(ranges, kind, at, len);
    }
}

#[cold]
fn record_long(ranges: &mut Vec<Range>, kind: RangeKind, mut at: u64, mut len: usize) {
    while len > 0 {
        let part = len.min(MAX_RANGE_LEN as usize);
        ranges.push(Range { at: Offset::new(at), len: part as u32, kind });
        at += part as u64;
        len -= part;
    }
}

/// Puts the ranges into the order of replay and merges those that are cheaper as one. Fills go before bytes: what a
/// transaction stored after filling is bytes anyway, and what it stored before reads as zeros by now.
pub(super) fn coalesce(ranges: &mut Vec<Range>) {
    if ranges.len() < 2 {
        return;
    }
    ranges.sort_unstable_by_key(|range| (range.kind as u64) << 62 | range.at.get());
    let mut kept = 0;
    for next in 1..ranges.len() {
        let range = ranges[next];
        if ranges[kept].absorbs(&range) {
            ranges[kept].absorb(&range);
        } else {
            kept += 1;
            ranges[kept] = range;
        }
    }
    ranges.truncate(kept + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(at: u64, len: u32) -> Range {
        Range { at: Offset::new(at), len, kind: RangeKind::Bytes }
    }

    fn fill(at: u64, len: u32) -> Range {
        Range { at: Offset::new(at), len, kind: RangeKind::Fill }
    }

    #[test]
    fn near_ranges_become_one_and_far_ones_stay() {
        let mut ranges = vec![bytes(100, 8), bytes(40, 4), bytes(118, 2), bytes(131, 1)];
        coalesce(&mut ranges);
        assert_eq!(ranges, [bytes(40, 4), bytes(100, 20), bytes(131, 1)]);
    }

    #[test]
    fn a_range_inside_another_vanishes() {
        let mut ranges = vec![bytes(110, 8), bytes(100, 50), bytes(149, 2)];
        coalesce(&mut ranges);
        assert_eq!(ranges, [bytes(100, 51)]);
    }

    #[test]
    fn fills_are_replayed_first_and_never_swallow_a_gap() {
        let mut ranges = vec![bytes(0, 8), fill(72, 64), fill(0, 64), fill(64, 2)];
        coalesce(&mut ranges);
        assert_eq!(ranges, [fill(0, 66), fill(72, 64), bytes(0, 8)]);
    }

    #[test]
    fn a_store_continuing_the_last_one_takes_no_new_range() {
        let mut ranges = Vec::new();
        record(&mut ranges, RangeKind::Bytes, 64, 24);
        record(&mut ranges, RangeKind::Bytes, 88, 16);
        record(&mut ranges, RangeKind::Bytes, 70, 4);
        assert_eq!(ranges, [bytes(64, 40)]);
        record(&mut ranges, RangeKind::Bytes, 60, 4);
        assert_eq!(ranges.len(), 2);
    }

    #[test]
    fn a_store_longer_than_a_range_is_split() {
        let mut ranges = Vec::new();
        let len = MAX_RANGE_LEN as usize + 5;
        record(&mut ranges, RangeKind::Fill, 4096, len);
        assert_eq!(ranges, [fill(4096, MAX_RANGE_LEN), fill(4096 + u64::from(MAX_RANGE_LEN), 5)]);
        coalesce(&mut ranges);
        assert_eq!(ranges.len(), 2);
    }
}
