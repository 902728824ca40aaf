//! Slabs: runs of pages cut into blocks of one size class.
//!
//! A slab begins with one cache line that holds a bitmap of its blocks. Slabs with room are on a list per class, and
//! blocks are taken from the first of them. A slab leaves the list when it is full and comes back only when an eighth
//! of its blocks is free, so that a free followed by an allocation does not link and unlink a slab each time. A slab
//! that becomes empty returns its pages, unless it is the last on its list: that one is kept for the next allocation.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::PAGE_LEN;
use super::super::offset::Offset;
use super::super::source::HeapError;
use super::super::superblock::partial_at;
use super::super::txn::Txn;
use super::super::view::View;
use super::classes::{Class, SLAB_PAGES_MAX};
use super::desc::{Desc, Kind};
use super::extent::{self, offset_of as offset_of_page};
use super::{Block, no_block};

/// The length of a slab's header in bytes: one cache line.
pub(in crate::heap) const HEADER_LEN: u64 = 64;
/// The most blocks that a slab's bitmap has room for.
pub(in crate::heap) const BLOCKS_MAX: usize = 64 * WORDS;

const WORDS: usize = 6;
pub(in crate::heap) const SLAB_MAGIC: u32 = u32::from_le_bytes(*b"slab");
const _: () = assert!(size_of::<Header>() == HEADER_LEN as usize);

/// What a slab begins with.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::heap) struct Header {
    pub(in crate::heap) magic: u32,
    pub(in crate::heap) class: u8,
    /// 1 while the slab is on its class's list.
    pub(in crate::heap) listed: u8,
    reserved: u16,
    /// The first pages of the slabs after and before this one on the list.
    pub(in crate::heap) next: u32,
    pub(in crate::heap) prev: u32,
    /// A bit is 1 if its block is allocated, or if there is no such block.
    pub(in crate::heap) bitmap: [u64; WORDS],
}

impl Header {
    /// How many blocks are free.
    #[inline]
    pub(in crate::heap) fn free_blocks(&self) -> u32 {
        self.bitmap.iter().map(|word| word.count_zeros()).sum()
    }

    #[inline]
    fn first_free(&self) -> Option<usize> {
        let word = self.bitmap.iter().position(|&word| word != u64::MAX)?;
        Some(word * 64 + self.bitmap[word].trailing_ones() as usize)
    }

    /// Whether block `index` is allocated.
    #[inline]
    pub(in crate::heap) fn holds(&self, index: usize) -> bool {
        self.bitmap[index / 64] >> (index % 64) & 1 == 1
    }
}

/// The bitmap of a slab without allocated blocks.
fn empty_bitmap(class: Class) -> [u64; WORDS] {
    let blocks = class.blocks() as usize;
    std::array::from_fn(|word| match blocks.saturating_sub(word * 64) {
        0 => u64::MAX,
        bits @ 1..64 => u64::MAX << bits,
        _ => 0,
    })
}

/// From how many free blocks on a slab belongs on its class's list.
#[inline]
pub(in crate::heap) fn listed_from(class: Class) -> u32 {
    (class.blocks() / 8).max(1)
}

/// The header of the slab that begins at `page`.
#[inline]
pub(in crate::heap) fn header(view: &View, page: u32) -> Header {
    view.peek(offset_of_page(page))
}

/// Where block `index` of a slab is.
#[inline]
pub(in crate::heap) fn block_at(page: u32, class: Class, index: usize) -> Offset {
    Offset::new(u64::from(page) * PAGE_LEN + HEADER_LEN + (index * class.block_len()) as u64)
}

/// Which block of the slab at `page` begins at `at`.
#[inline]
pub(in crate::heap) fn index_of(page: u32, class: Class, at: Offset) -> Option<usize> {
    let within = at.get().checked_sub(u64::from(page) * PAGE_LEN + HEADER_LEN)? as u32;
    let (index, rest) = (within / class.block_len() as u32, within % class.block_len() as u32);
    (rest == 0 && index < class.blocks()).then_some(index as usize)
}

/// Whether a block that begins at `at` is allocated in the slab at `page`.
#[inline]
pub(super) fn is_allocated(view: &View, page: u32, class: Class, at: Offset) -> bool {
    index_of(page, class, at).is_some_and(|index| header(view, page).holds(index))
}

/// Allocates a block. On an error nothing has been stored.
#[inline]
pub(super) fn alloc(txn: &mut Txn<'_>, class: Class) -> Result<Block, HeapError> {
    let list = partial_at(class.number() as usize);
    let mut page: u32 = txn.peek(list);
    if page == 0 {
        page = make(txn, class)?;
    }
    let mut header = header(txn, page);
    let Some(index) = header.first_free() else { full_on_list(page) };
    let word = index / 64;
    header.bitmap[word] |= 1 << (index % 64);
    txn.put(word_at(page, word), &header.bitmap[word]);
    if header.first_free().is_none() {
        unlink(txn, page, &header, class);
    }
    Ok(Block { at: block_at(page, class, index), len: class.block_len(), run: page })
}

/// Frees the block at `at` of the slab at `page`.
#[inline]
pub(super) fn free(txn: &mut Txn<'_>, page: u32, class: Class, at: Offset) -> Block {
    let mut header = header(txn, page);
    let Some(index) = index_of(page, class, at).filter(|&index| header.holds(index)) else { no_block(at) };
    let word = index / 64;
    header.bitmap[word] &= !(1 << (index % 64));
    txn.put(word_at(page, word), &header.bitmap[word]);
    let free_blocks = header.free_blocks();
    if free_blocks == class.blocks() {
        emptied(txn, page, &header, class);
    } else if header.listed == 0 && free_blocks >= listed_from(class) {
        link(txn, page, class);
    }
    Block { at, len: class.block_len(), run: page }
}

/// Makes a slab and puts it on the list, which is empty.
#[cold]
fn make(txn: &mut Txn<'_>, class: Class) -> Result<u32, HeapError> {
    let pages = class.pages();
    let page = extent::take(txn, pages, class.block_len() as u64)?;
    let mut descs = [Desc::default(); SLAB_PAGES_MAX as usize];
    for (distance, desc) in descs[..pages as usize].iter_mut().enumerate() {
        *desc = match distance {
            0 => Desc::of_slab(Kind::Slab, class, pages),
            _ => Desc::of_slab(Kind::SlabBody, class, distance as u32),
        };
    }
    txn.put_descs(page, &descs[..pages as usize]);
    let header = Header {
        magic: SLAB_MAGIC,
        class: class.number(),
        listed: 1,
        reserved: 0,
        next: 0,
        prev: 0,
        bitmap: empty_bitmap(class),
    };
    txn.put(offset_of_page(page), &header);
    txn.put(partial_at(class.number() as usize), &page);
    Ok(page)
}

/// Decides what becomes of a slab without allocated blocks.
fn emptied(txn: &mut Txn<'_>, page: u32, header: &Header, class: Class) {
    let alone = header.listed == 1 && header.next == 0 && header.prev == 0;
    let list_is_empty = header.listed == 0 && txn.peek::<u32>(partial_at(class.number() as usize)) == 0;
    if alone {
        return;
    }
    if list_is_empty {
        return link(txn, page, class);
    }
    if header.listed == 1 {
        unlink(txn, page, header, class);
    }
    // So that a stale offset into it is found out.
    txn.put(offset_of_page(page), &0u32);
    txn.clear_descs(page, class.pages());
    extent::give_back(txn, page, class.pages());
}

#[cold]
fn link(txn: &mut Txn<'_>, page: u32, class: Class) {
    let list = partial_at(class.number() as usize);
    let next: u32 = txn.peek(list);
    txn.put(field_at(page, offset_of!(Header, listed)), &1u8);
    txn.put(field_at(page, offset_of!(Header, next)), &next);
    txn.put(field_at(page, offset_of!(Header, prev)), &0u32);
    if next != 0 {
        txn.put(field_at(next, offset_of!(Header, prev)), &page);
    }
    txn.put(list, &page);
}

#[cold]
fn unlink(txn: &mut Txn<'_>, page: u32, header: &Header, class: Class) {
    let from = match header.prev {
        0 => partial_at(class.number() as usize),
        prev => field_at(prev, offset_of!(Header, next)),
    };
    txn.put(from, &header.next);
    if header.next != 0 {
        txn.put(field_at(header.next, offset_of!(Header, prev)), &header.prev);
    }
    txn.put(field_at(page, offset_of!(Header, listed)), &0u8);
}

#[inline]
fn field_at(page: u32, field: usize) -> Offset {
    offset_of_page(page).add(field as u64)
}

#[inline]
fn word_at(page: u32, word: usize) -> Offset {
    field_at(page, offset_of!(Header, bitmap) + 8 * word)
}

#[cold]
#[inline(never)]
fn full_on_list(page: u32) -> ! {
    panic!("the list of slabs with room leads to the full slab at page {page}: corrupt image")
}
