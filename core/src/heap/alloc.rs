//! Blocks: a bump pointer and a free list per power of two.

use super::PAGE_LEN;
use super::offset::Offset;
use super::source::HeapError;
use super::superblock::{MAGIC, MAGIC_AT, VERSION, VERSION_AT};
use super::txn::Txn;
use super::view::View;

const USED_AT: Offset = Offset::new(24);
const TOP_AT: Offset = Offset::new(16);
const FREE_AT: u64 = 1024;
const GROWTH_STEP: u64 = 4 << 20;

pub(super) fn format(txn: &mut Txn<'_>) -> Result<(), HeapError> {
    txn.grow_to(GROWTH_STEP.min(txn.heap.source.max_len()))?;
    txn.put(MAGIC_AT, &MAGIC);
    txn.put(VERSION_AT, &VERSION);
    txn.put(TOP_AT, &PAGE_LEN);
    Ok(())
}

pub(super) fn stored_used_bytes(view: &View) -> u64 {
    if view.image_len() == 0 { 0 } else { view.peek(USED_AT) }
}

pub(super) fn store_used_bytes(txn: &mut Txn<'_>) {
    let used = txn.heap.used_bytes;
    if !txn.is_empty() && used.abs_diff(txn.peek(USED_AT)) >= 64 << 10 {
        txn.put(USED_AT, &used);
    }
}

fn list_of(len: usize) -> Offset {
    Offset::new(FREE_AT + 8 * u64::from(len.trailing_zeros()))
}

/// A block starts behind 16 bytes that hold its capacity, and the word 1 while it is allocated.
pub(super) fn alloc(txn: &mut Txn<'_>, len: usize) -> Result<(Offset, usize), HeapError> {
    let capacity = (len + 16).next_power_of_two() - 16;
    let list = list_of(capacity + 16);
    let head: Offset = txn.peek(list);
    let at = if head.is_null() {
        let top: u64 = txn.peek(TOP_AT);
        let end = top + capacity as u64 + 16;
        if end > txn.image_len() {
            let limit = txn.heap.source.max_len();
            if end > limit {
                return Err(HeapError::OutOfMemory { wanted: len as u64, limit });
            }
            txn.grow_to(end.next_multiple_of(GROWTH_STEP).min(limit))?;
        }
        txn.put(TOP_AT, &end);
        txn.put(Offset::new(top), &(capacity as u64));
        Offset::new(top + 16)
    } else {
        let next: Offset = txn.peek(head);
        txn.put(list, &next);
        head
    };
    txn.put(Offset::new(at.get() - 8), &1u64);
    Ok((at, capacity))
}

pub(super) fn assert_allocated(view: &View, at: Offset) {
    let state: u64 = view.peek(Offset::new(at.get() - 8));
    assert!(state == 1, "{at} is not an allocated block");
}

pub(super) fn free(txn: &mut Txn<'_>, at: Offset) -> usize {
    assert_allocated(txn, at);
    let capacity = txn.usable_len(at);
    let list = list_of(capacity + 16);
    let next: Offset = txn.peek(list);
    txn.put(at, &next);
    txn.put(list, &at);
    txn.put(Offset::new(at.get() - 8), &0u64);
    capacity
}

impl View {
    /// How many bytes the block at `at` can hold. Panics if `at` is not the start of an allocated block.
    pub fn usable_len(&self, at: Offset) -> usize {
        assert_allocated(self, at);
        self.peek::<u64>(Offset::new(at.get() - 16)) as usize
    }
}
