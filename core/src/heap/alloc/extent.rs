//! Extents: runs of whole pages.
//!
//! Free runs are kept in bins by length, up to 31 pages one bin for each length, then four bins per doubling. Taking
//! a run looks through the first few of the fitting bin and then takes the first of any longer bin, so the cost is
//! bounded; what is left of the run goes back. Freeing merges a run with free neighbours, which the descriptors of the
//! adjacent pages tell, so no two free runs ever touch, and none touches `top`: a run that would is given back to the
//! part of the image never used, from which runs are taken when no bin has one.

use super::super::PAGE_LEN;
use super::super::offset::Offset;
use super::super::source::HeapError;
use super::super::superblock::{BINS_AT, BINS_MAX, IMAGE_LEN_AT, TABLES, TOP_AT, bin_at, table_at};
use super::super::txn::Txn;
use super::super::view::View;
use super::Block;
use super::desc::{Desc, Kind, next_at, prev_at, table_of, table_pages};

/// How many bins there are.
pub(in crate::heap) const BINS: usize = bin_of(u32::MAX) + 1;
/// Runs shorter than this have a bin of their own length.
const EXACT_BELOW: u32 = 32;
/// How many runs of the bin whose lengths differ are looked at.
const SEARCH_MAX: usize = 16;
/// The image grows by 1/16 of its length, but at least by this many bytes …
const GROWTH_MIN: u64 = 4 << 20;
/// … and at most by this many, or by what one block needs.
const GROWTH_MAX: u64 = 256 << 20;

const _: () = assert!(BINS <= BINS_MAX);

/// The bin of free runs of this many pages (at least one).
pub(in crate::heap) const fn bin_of(pages: u32) -> usize {
    if pages < EXACT_BELOW {
        return pages as usize;
    }
    let log = pages.ilog2() as usize;
    EXACT_BELOW as usize + (log - 5) * 4 + ((pages >> (log - 2)) & 3) as usize
}

/// The number of pages that are in use or on a free list.
#[inline]
pub(in crate::heap) fn top(view: &View) -> u32 {
    view.peek(TOP_AT)
}

/// The length to which an image of `image_len` bytes grows when `needed` bytes are needed; at most `limit`, which
/// must be at least `needed`.
pub(in crate::heap) fn grown_len(image_len: u64, needed: u64, limit: u64) -> u64 {
    let step = (image_len / 16).clamp(GROWTH_MIN, GROWTH_MAX);
    let stepped = (image_len + step).next_multiple_of(1 << 20);
    stepped.max(needed.next_multiple_of(PAGE_LEN)).min(limit)
}

/// The longest the image may become.
fn limit(txn: &Txn<'_>) -> u64 {
    let limit = txn.heap.source.max_len();
    (limit - limit % PAGE_LEN).min(u64::from(u32::MAX) * PAGE_LEN)
}

/// Lays out superblock and first descriptor table in an empty image.
pub(super) fn format(txn: &mut Txn<'_>) -> Result<(), HeapError> {
    let pages = 1 + table_pages(0);
    grow(txn, pages, u64::from(pages) * PAGE_LEN)?;
    txn.put(table_at(0), &1u32);
    txn.put_desc(0, &Desc::new(Kind::Meta, pages));
    txn.put(TOP_AT, &pages);
    Ok(())
}

/// Allocates whole pages for `len` bytes.
pub(super) fn alloc(txn: &mut Txn<'_>, len: usize) -> Result<Block, HeapError> {
    let pages = (len as u64).div_ceil(PAGE_LEN);
    let out_of_memory = || HeapError::OutOfMemory { wanted: len as u64, limit: limit(txn) };
    let pages = u32::try_from(pages).map_err(|_| out_of_memory())?;
    let page = take(txn, pages, len as u64)?;
    txn.put_desc(page, &Desc::new(Kind::Extent, pages));
    if pages > 1 {
        txn.put_desc(page + pages - 1, &Desc::new(Kind::ExtentTail, pages - 1));
    }
    Ok(block(page, pages))
}

/// Frees an extent.
pub(super) fn free(txn: &mut Txn<'_>, page: u32, pages: u32) -> Block {
    txn.clear_descs(page, 1);
    txn.clear_descs(page + pages - 1, 1);
    give_back(txn, page, pages);
    block(page, pages)
}

fn block(page: u32, pages: u32) -> Block {
    Block { at: offset_of(page), len: (u64::from(pages) * PAGE_LEN) as usize, run: page }
}

/// The offset of a page.
#[inline]
pub(in crate::heap) fn offset_of(page: u32) -> Offset {
    Offset::new(u64::from(page) * PAGE_LEN)
}

/// Takes a run of pages for an allocation of `wanted` bytes. The caller must write the descriptors of its first and
/// last page, whose old content is undefined. On an error nothing has been stored.
pub(super) fn take(txn: &mut Txn<'_>, pages: u32, wanted: u64) -> Result<u32, HeapError> {
    let Some((page, run)) = find(txn, pages) else { return take_from_top(txn, pages, wanted) };
    unlink(txn, &run);
    if run.len > pages {
        insert(txn, page + pages, run.len - pages);
    }
    Ok(page)
}

/// Returns a run of pages whose descriptors are all zero.
pub(super) fn give_back(txn: &mut Txn<'_>, page: u32, pages: u32) {
    let (mut start, mut end) = (page, page + pages);
    let before = txn.desc(start - 1);
    match before.kind() {
        Some(Kind::Free) => start -= 1,
        Some(Kind::FreeTail) => start -= 1 + before.len,
        _ => {}
    }
    if start < page {
        let run = txn.desc(start);
        unlink(txn, &run);
        txn.clear_descs(start, 1);
        txn.clear_descs(page - 1, 1);
    }
    if end < top(txn) {
        let run = txn.desc(end);
        if run.kind() == Some(Kind::Free) {
            unlink(txn, &run);
            txn.clear_descs(end, 1);
            end += run.len;
            txn.clear_descs(end - 1, 1);
        }
    }
    if end == top(txn) {
        txn.put(TOP_AT, &start);
    } else {
        insert(txn, start, end - start);
    }
}

/// The first fitting free run, if the bins have one.
fn find(view: &View, pages: u32) -> Option<(u32, Desc)> {
    let bin = bin_of(pages);
    let mut page: u32 = view.peek(bin_at(bin));
    let mut looked_at = 0;
    while page != 0 && looked_at < SEARCH_MAX {
        let run = view.desc(page);
        if run.len >= pages {
            return Some((page, run));
        }
        page = run.next;
        looked_at += 1;
    }
    let heads = view.peek_bytes(BINS_AT, 4 * BINS);
    for head in heads[4 * (bin + 1)..].chunks_exact(4) {
        let page = u32::from_le_bytes(head.try_into().expect("four bytes"));
        if page != 0 {
            return Some((page, view.desc(page)));
        }
    }
    None
}

/// Puts a free run into its bin.
fn insert(txn: &mut Txn<'_>, page: u32, pages: u32) {
    let bin = bin_at(bin_of(pages));
    let next: u32 = txn.peek(bin);
    txn.put_desc(page, &Desc::new(Kind::Free, pages).linked_to(next));
    if pages > 1 {
        txn.put_desc(page + pages - 1, &Desc::new(Kind::FreeTail, pages - 1));
    }
    if next != 0 {
        let at = prev_at(txn.desc_at(next));
        txn.put(at, &page);
    }
    txn.put(bin, &page);
}

/// Takes a free run out of its bin.
fn unlink(txn: &mut Txn<'_>, run: &Desc) {
    assert_eq!(run.kind(), Some(Kind::Free), "a free list leads to a page that is not free: corrupt image");
    let from = if run.prev == 0 { bin_at(bin_of(run.len)) } else { next_at(txn.desc_at(run.prev)) };
    txn.put(from, &run.next);
    if run.next != 0 {
        let at = prev_at(txn.desc_at(run.next));
        txn.put(at, &run.prev);
    }
}

/// Takes pages never used before, growing the image and its descriptor tables as far as needed.
fn take_from_top(txn: &mut Txn<'_>, pages: u32, wanted: u64) -> Result<u32, HeapError> {
    let out_of_memory = |txn: &Txn<'_>| HeapError::OutOfMemory { wanted, limit: limit(txn) };
    let old_top = top(txn);
    // A table is placed in front of the pages that are the first to need it.
    let mut page = old_top;
    let first_missing = (0..TABLES).find(|&table| txn.peek::<u32>(table_at(table)) == 0).unwrap_or(TABLES);
    let mut missing = first_missing;
    let new_top = loop {
        let Some(new_top) = page.checked_add(pages) else { return Err(out_of_memory(txn)) };
        if table_of(new_top - 1) < missing {
            break new_top;
        }
        let Some(behind) = page.checked_add(table_pages(missing)) else { return Err(out_of_memory(txn)) };
        page = behind;
        missing += 1;
    };
    grow(txn, new_top, wanted)?;
    let mut at = old_top;
    for table in first_missing..missing {
        txn.put(table_at(table), &at);
        at += table_pages(table);
    }
    let mut at = old_top;
    for table in first_missing..missing {
        txn.put_desc(at, &Desc::new(Kind::Meta, table_pages(table)));
        at += table_pages(table);
    }
    txn.put(TOP_AT, &new_top);
    Ok(page)
}

/// Makes the image at least `pages` pages long. On an error nothing has changed.
fn grow(txn: &mut Txn<'_>, pages: u32, wanted: u64) -> Result<(), HeapError> {
    let needed = u64::from(pages) * PAGE_LEN;
    let image_len = txn.image_len();
    if needed <= image_len {
        return Ok(());
    }
    let limit = limit(txn);
    if needed > limit {
        return Err(HeapError::OutOfMemory { wanted, limit });
    }
    let stepped = grown_len(image_len, needed, limit);
    let grown = match txn.grow_to(stepped) {
        Ok(()) => stepped,
        // There is no room for a whole step; perhaps there is for what is needed now.
        Err(_) if needed < stepped => {
            txn.grow_to(needed)?;
            needed
        }
        Err(error) => return Err(error),
    };
    txn.put(IMAGE_LEN_AT, &grown);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_runs_never_lie_in_lower_bins_and_all_of_a_higher_bin_are_longer() {
        let mut previous = 0;
        for pages in (1..100_000).chain([1 << 20, 1 << 31, u32::MAX]) {
            assert!(bin_of(pages) >= previous);
            previous = bin_of(pages);
        }
        assert_eq!(bin_of(31), 31);
        assert_eq!(bin_of(32), 32);
        assert_eq!(bin_of(u32::MAX), BINS - 1);
    }

    #[test]
    fn growth_is_a_step_or_what_is_needed_but_never_beyond_the_limit() {
        assert_eq!(grown_len(0, 4096, 1 << 40), 4 << 20);
        assert_eq!(grown_len(1 << 30, (1 << 30) + 1, 1 << 40), (1 << 30) + (64 << 20));
        assert_eq!(grown_len(1 << 30, 2 << 30, 1 << 40), 2 << 30);
        assert_eq!(grown_len(1 << 30, (1 << 30) + 1, (1 << 30) + 8192), (1 << 30) + 8192);
    }
}
