//! The allocator: blocks of bytes out of pages of the image.
//!
//! - Up to [`classes::SLAB_BLOCK_MAX`] bytes a block is rounded up to a size class and taken from a *slab*, a run of
//!   pages cut into blocks of one class, with a bitmap in its first cache line ([`slab`]).
//! - Longer blocks are *extents*: runs of whole pages, from segregated lists of free runs that are merged with their
//!   neighbours, else from the never used part of the image behind `top`, which grows when it is used up ([`extent`]).
//! - What a page is part of is said by its 16-byte *descriptor* ([`desc`]).
//!
//! All of it lies in the image and is changed through the transaction, so allocation is undone, logged, replayed and
//! recovered like everything else and there is nothing to rebuild at start. That makes redo bytes the currency:
//! allocating or freeing a small block changes one byte of one bitmap; lists and descriptors change only when a slab
//! fills up, empties or is made.

pub(super) mod classes;
pub(super) mod desc;
pub(super) mod extent;
pub(super) mod slab;

use super::PAGE_LEN;
use super::offset::Offset;
use super::source::HeapError;
use super::superblock::{self, USED_BYTES_AT};
use super::txn::Txn;
use super::view::View;
use classes::Class;
use desc::Kind;

/// By how much the count of used bytes in the image may lag. It bounds the error after a crash, at one small range
/// per this many bytes allocated or freed.
const USED_BYTES_LAG: u64 = 64 << 10;

/// Makes an empty image a heap.
pub(super) fn format(txn: &mut Txn<'_>, dataset_id: [u8; 16]) -> Result<(), HeapError> {
    assert_eq!(txn.image_len(), 0, "the image is formatted already");
    extent::format(txn)?;
    for (at, value) in superblock::IDENTITY {
        match at {
            superblock::MAGIC_AT => txn.put(at, &value),
            _ => txn.put(at, &(value as u32)),
        }
    }
    txn.put(superblock::DATASET_ID_AT, &dataset_id);
    Ok(())
}

/// The count of used bytes in the image.
pub(super) fn stored_used_bytes(view: &View) -> u64 {
    if view.image_len() == 0 { 0 } else { view.peek(USED_BYTES_AT) }
}

/// Brings the count of used bytes in the image up to date if it lags too much.
#[inline]
pub(super) fn store_used_bytes(txn: &mut Txn<'_>) {
    let used = txn.used_bytes();
    if !txn.is_empty() && used.abs_diff(txn.peek(USED_BYTES_AT)) >= USED_BYTES_LAG {
        txn.put(USED_BYTES_AT, &used);
    }
}

/// A block, its capacity, and the first page of the run it lies in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) at: Offset,
    pub(super) len: usize,
    pub(super) run: u32,
}

/// Allocates a block. On an error nothing has been stored.
#[inline]
pub(super) fn alloc(txn: &mut Txn<'_>, len: usize) -> Result<Block, HeapError> {
    match Class::of(len) {
        Some(class) => slab::alloc(txn, class),
        None => extent::alloc(txn, len),
    }
}

/// Frees the block at `at` and returns what it was. Panics if there is none.
#[inline]
pub(super) fn free(txn: &mut Txn<'_>, at: Offset) -> Block {
    let page = page_of(txn, at);
    let desc = txn.desc(page);
    match desc.kind() {
        Some(Kind::Slab) => slab::free(txn, page, desc.class(), at),
        Some(Kind::SlabBody) => slab::free(txn, page - desc.len, desc.class(), at),
        Some(Kind::Extent) if at.get().is_multiple_of(PAGE_LEN) => extent::free(txn, page, desc.len),
        _ => no_block(at),
    }
}

/// Tells the CPU what [`free`] will read: the page's descriptor and, where slabs are one page, the bitmap.
#[inline]
pub(super) fn prefetch_free(view: &View, at: Offset) {
    let page = at.get() / PAGE_LEN;
    if at.get() < view.image_len() {
        view.prefetch(view.desc_at(page as u32));
        view.prefetch(Offset::new(page * PAGE_LEN));
    }
}

/// Panics unless `at` is the start of an allocated block.
#[inline]
pub(super) fn assert_allocated(view: &View, at: Offset) {
    let page = page_of(view, at);
    let desc = view.desc(page);
    let allocated = match desc.kind() {
        Some(Kind::Slab) => slab::is_allocated(view, page, desc.class(), at),
        Some(Kind::SlabBody) => slab::is_allocated(view, page - desc.len, desc.class(), at),
        Some(Kind::Extent) => at.get().is_multiple_of(PAGE_LEN),
        _ => false,
    };
    if !allocated {
        no_block(at)
    }
}

#[inline]
fn page_of(view: &View, at: Offset) -> u32 {
    let page = at.get() / PAGE_LEN;
    if at.get() >= view.image_len() || page >= u64::from(extent::top(view)) {
        no_block(at)
    }
    page as u32
}

#[cold]
#[inline(never)]
fn no_block(at: Offset) -> ! {
    panic!("{at} is not an allocated block")
}

impl View {
    /// How many bytes the block at `at` can hold, which is at least what was asked for. Panics where no block can be.
    #[inline]
    pub fn usable_len(&self, at: Offset) -> usize {
        let desc = self.desc(page_of(self, at));
        match desc.kind() {
            Some(Kind::Slab | Kind::SlabBody) => desc.class().block_len(),
            Some(Kind::Extent) => desc.len as usize * PAGE_LEN as usize,
            _ => no_block(at),
        }
    }
}
