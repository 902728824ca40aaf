//! Size classes: which block lengths there are and how many of them make a slab.
//!
//! Sixteen bytes apart up to 128, then four per doubling, so a block wastes at most a fifth of its length. A slab
//! is the shortest run of pages that wastes little on its header and its tail: short slabs empty sooner, and only an
//! empty slab can serve another class.

use std::fmt;

use super::super::PAGE_LEN;
use super::super::superblock::CLASSES_MAX;
use super::slab::{BLOCKS_MAX, HEADER_LEN};

/// The longest block that comes from a slab; the next longer one is a whole number of pages anyway.
pub(in crate::heap) const SLAB_BLOCK_MAX: usize = 14 << 10;
/// How many classes there are.
pub(in crate::heap) const CLASSES: usize = index_of(SLAB_BLOCK_MAX) + 1;
/// The longest slab, in pages.
pub(in crate::heap) const SLAB_PAGES_MAX: u32 = 32;

/// A slab is long enough when header and tail take no more than this many thousandths of it …
const WASTE_PERMILLE_MAX: u64 = 25;
/// … and it has this many blocks, so that making it is shared by several allocations.
const BLOCKS_MIN: u64 = 16;

const _: () = assert!(CLASSES <= CLASSES_MAX);

/// A size class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::heap) struct Class(u8);

/// What is the same for all slabs of a class.
#[derive(Clone, Copy)]
struct Geometry {
    block_len: u32,
    pages: u32,
    blocks: u32,
}

static GEOMETRY: [Geometry; CLASSES] = geometry();

impl Class {
    /// The class of the shortest blocks that hold `len` bytes; none if that takes an extent.
    #[inline]
    pub(in crate::heap) fn of(len: usize) -> Option<Class> {
        (len <= SLAB_BLOCK_MAX).then(|| Class(index_of(len) as u8))
    }

    /// The class with this number. Panics if there is none: the descriptor or header it was read from is corrupt.
    #[inline]
    pub(in crate::heap) fn numbered(number: u8) -> Class {
        assert!((number as usize) < CLASSES, "size class {number} of {CLASSES}: corrupt descriptor");
        Class(number)
    }

    #[inline]
    pub(in crate::heap) fn number(self) -> u8 {
        self.0
    }

    #[inline]
    pub(in crate::heap) fn block_len(self) -> usize {
        GEOMETRY[self.0 as usize].block_len as usize
    }

    /// The length of a slab in pages.
    #[inline]
    pub(in crate::heap) fn pages(self) -> u32 {
        GEOMETRY[self.0 as usize].pages
    }

    /// How many blocks a slab has.
    #[inline]
    pub(in crate::heap) fn blocks(self) -> u32 {
        GEOMETRY[self.0 as usize].blocks
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Class({}: {} bytes)", self.0, self.block_len())
    }
}

const fn index_of(len: usize) -> usize {
    if len <= 128 {
        return if len == 0 { 0 } else { (len - 1) / 16 };
    }
    let last = len - 1;
    let log = last.ilog2() as usize;
    8 + (log - 7) * 4 + ((last >> (log - 2)) & 3)
}

const fn block_len(index: usize) -> u64 {
    if index < 8 {
        return 16 * (index as u64 + 1);
    }
    let log = 7 + (index - 8) / 4;
    let quarter = 1 << (log - 2);
    (1 << log) + quarter * ((index - 8) % 4 + 1) as u64
}

const fn geometry() -> [Geometry; CLASSES] {
    let mut table = [Geometry { block_len: 0, pages: 0, blocks: 0 }; CLASSES];
    let mut index = 0;
    while index < CLASSES {
        let block_len = block_len(index);
        let mut best = (0, 0, u64::MAX);
        let mut pages = 1;
        while pages <= SLAB_PAGES_MAX as u64 {
            let fitting = (pages * PAGE_LEN - HEADER_LEN) / block_len;
            let blocks = if fitting < BLOCKS_MAX as u64 { fitting } else { BLOCKS_MAX as u64 };
            let waste = (pages * PAGE_LEN - blocks * block_len) * 1000 / (pages * PAGE_LEN);
            if waste < best.2 {
                best = (pages, blocks, waste);
            }
            if waste <= WASTE_PERMILLE_MAX && blocks >= BLOCKS_MIN {
                break;
            }
            pages += 1;
        }
        table[index] = Geometry { block_len: block_len as u32, pages: best.0 as u32, blocks: best.1 as u32 };
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gets_the_shortest_block_that_holds_it() {
        for len in 0..=SLAB_BLOCK_MAX {
            let class = Class::of(len).unwrap();
            assert!(class.block_len() >= len);
            if class.number() > 0 {
                assert!(Class::numbered(class.number() - 1).block_len() < len.max(1), "{len}: {class:?}");
            }
        }
        assert_eq!(Class::of(SLAB_BLOCK_MAX + 1), None);
    }

    #[test]
    fn blocks_are_aligned_and_waste_at_most_a_fifth() {
        for number in 0..CLASSES as u8 {
            let class = Class::numbered(number);
            assert_eq!(class.block_len() % 16, 0);
            if class.block_len() > 128 {
                let shorter = Class::numbered(number - 1).block_len() + 1;
                assert!((class.block_len() - shorter) * 5 <= class.block_len(), "{class:?}");
            }
        }
    }

    #[test]
    fn slabs_waste_little_on_header_and_tail() {
        for number in 0..CLASSES as u8 {
            let class = Class::numbered(number);
            let len = u64::from(class.pages()) * PAGE_LEN;
            let waste = len - u64::from(class.blocks()) * class.block_len() as u64;
            assert!(waste >= HEADER_LEN);
            assert!(waste * 1000 <= len * 40, "{class:?} in {} pages wastes {waste} bytes", class.pages());
            assert!(class.blocks() as usize <= BLOCKS_MAX && class.blocks() >= 7);
        }
    }
}
