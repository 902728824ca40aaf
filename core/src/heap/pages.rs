//! What the working view knows about each 4 KiB page of the image: how new it is, and whether it is private.
//!
//! For every page the table holds the end LSN of the last transaction that stored to it. A reader that touched the
//! page depends on that LSN: its reply is held until the LSN is committed (I7). And once everything up to that LSN
//! has been replayed into the image, the page's private copy holds nothing the image lacks and may be dropped.
//!
//! The table is volatile: after a restart nothing is private, and everything the image holds is committed, which is
//! what an all-zero table says. It lies in anonymous memory reserved for the longest image, which costs nothing
//! until it is touched; so neither opening a large image nor growing one has to fill or move it.

use std::collections::VecDeque;
use std::io;

use super::PAGE_LEN;
use super::range::{Range, RangeKind};
use crate::lsn::Lsn;
use crate::pmem::mem::Mem;

/// Set in a page's entry while the page is private; the other bits are the LSN.
const PRIVATE: u64 = 1 << 63;

#[derive(Debug)]
pub(super) struct PageTable {
    entries: Mem,
    /// Every private page, in the order in which they became private or were last found too new to be dropped.
    private: VecDeque<u64>,
}

impl PageTable {
    /// A table for an image of up to `max_len` bytes, all of it old and none of it private.
    pub(super) fn new(max_len: u64) -> io::Result<PageTable> {
        let len = max_len.div_ceil(PAGE_LEN) as usize * size_of::<u64>();
        let mut entries = Mem::anonymous(len)?;
        entries.set_limit(len);
        Ok(PageTable { entries, private: VecDeque::new() })
    }

    #[inline]
    fn entry(&self, page: u64) -> u64 {
        let bytes = self.entries.bytes(page * 8, 8);
        u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
    }

    #[inline]
    fn set_entry(&mut self, page: u64, entry: u64) {
        self.entries.bytes_mut(page * 8, 8).copy_from_slice(&entry.to_ne_bytes());
    }

    /// The newest LSN on which the bytes `at .. at + len` depend. `len` must not be 0.
    #[inline]
    pub(super) fn newest(&self, at: u64, len: usize) -> Lsn {
        let last = (at + len as u64 - 1) / PAGE_LEN;
        let mut newest = 0;
        for page in at / PAGE_LEN..=last {
            newest = newest.max(self.entry(page) & !PRIVATE);
        }
        Lsn::new(newest)
    }

    /// Tells the CPU that [`PageTable::stored`] will come to the page of `at` soon.
    #[inline]
    pub(super) fn prefetch(&self, at: u64) {
        self.entries.prefetch(at / PAGE_LEN * 8);
    }

    /// Notes that a transaction ending at `end` (or one that was rolled back, if `None`) stored to these ranges.
    #[inline]
    pub(super) fn stored(&mut self, ranges: &[Range], end: Option<Lsn>) {
        for range in ranges {
            if range.kind == RangeKind::Grow {
                continue;
            }
            for page in range.at.get() / PAGE_LEN..=(range.end() - 1) / PAGE_LEN {
                let old = self.entry(page);
                if old & PRIVATE == 0 {
                    self.private.push_back(page);
                }
                let lsn = end.map_or(old, Lsn::get);
                self.set_entry(page, lsn | PRIVATE);
            }
        }
    }

    /// How many pages are private.
    pub(super) fn private_count(&self) -> usize {
        self.private.len()
    }

    /// Takes up to `max` private pages that are no newer than `applied` off the table, looking at no more than
    /// `4 * max` pages, and returns them in ascending order. The others wait for a later turn.
    pub(super) fn take_droppable(&mut self, applied: Lsn, max: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        for _ in 0..self.private.len().min(max.saturating_mul(4)) {
            if taken.len() == max {
                break;
            }
            let Some(page) = self.private.pop_front() else { break };
            let lsn = self.entry(page) & !PRIVATE;
            if lsn <= applied.get() {
                self.set_entry(page, lsn);
                taken.push(page);
            } else {
                self.private.push_back(page);
            }
        }
        taken.sort_unstable();
        taken
    }

    /// Puts pages back that [`PageTable::take_droppable`] took but that could not be dropped.
    pub(super) fn keep_private(&mut self, pages: &[u64]) {
        for &page in pages {
            let entry = self.entry(page) | PRIVATE;
            self.set_entry(page, entry);
            self.private.push_back(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Offset;

    fn stored_at(table: &mut PageTable, page: u64, end: u64) {
        let range = Range { at: Offset::new(page * PAGE_LEN + 100), len: 8, kind: RangeKind::Bytes };
        table.stored(&[range], Some(Lsn::new(end)));
    }

    #[test]
    fn a_range_over_two_pages_makes_both_newer() {
        let mut table = PageTable::new(1 << 20).unwrap();
        let range = Range { at: Offset::new(2 * PAGE_LEN - 4), len: 8, kind: RangeKind::Bytes };
        table.stored(&[range], Some(Lsn::new(77)));
        assert_eq!(table.newest(PAGE_LEN, 1), Lsn::new(77));
        assert_eq!(table.newest(2 * PAGE_LEN, 1), Lsn::new(77));
        assert_eq!(table.newest(0, PAGE_LEN as usize), Lsn::ZERO);
        assert_eq!(table.newest(0, PAGE_LEN as usize + 1), Lsn::new(77));
        assert_eq!(table.private_count(), 2);
    }

    #[test]
    fn only_pages_no_newer_than_applied_are_droppable() {
        let mut table = PageTable::new(1 << 20).unwrap();
        stored_at(&mut table, 9, 100);
        stored_at(&mut table, 3, 300);
        stored_at(&mut table, 5, 200);
        assert_eq!(table.take_droppable(Lsn::new(200), 10), [5, 9]);
        assert_eq!(table.private_count(), 1);
        assert_eq!(table.newest(9 * PAGE_LEN, 1), Lsn::new(100));
        assert_eq!(table.take_droppable(Lsn::new(300), 10), [3]);
    }

    #[test]
    fn a_turn_of_dropping_looks_at_a_bounded_number_of_pages() {
        let mut table = PageTable::new(1 << 20).unwrap();
        for page in 0..200 {
            stored_at(&mut table, page, if page < 190 { 500 } else { 10 });
        }
        assert_eq!(table.take_droppable(Lsn::new(10), 8), [], "the first 32 pages are too new");
        let turns = (0..20).map(|_| table.take_droppable(Lsn::new(10), 8).len()).sum::<usize>();
        assert_eq!(turns, 10);
    }
}
