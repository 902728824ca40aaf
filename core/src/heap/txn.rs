//! Transactions: every store into the working view, recorded, and taken back unless committed.
//!
//! A transaction stores at once, so that it reads its own writes for free, and keeps two lists in DRAM: the *ranges*
//! it stored to, which become redo when it commits, and the *undo* log of the bytes that were there before. Both are
//! buffers of the heap and reused, so a transaction allocates nothing once they have their size.
//!
//! Three rules keep redo and undo small without weakening them:
//!
//! - **A store of what is there already is no store.** A small store is compared first and cut down to the bytes that
//!   differ. This is sound because the bytes of the working view are always those which replaying the log up to here
//!   would give, in free blocks too.
//! - **A block allocated in this transaction needs no undo**: nobody will look at its content after a rollback. But
//!   by the first rule its bytes must not stay different from what replay gives, so a rollback zeroes what was stored
//!   there and leaves a *repair*: a fill that the next commit carries.
//! - **A free takes effect at commit.** So memory that was in use when the transaction began is never handed out again
//!   within it, and a rollback has nothing to resurrect.
//!
//! Savepoints are positions in these lists. They nest, and rolling back to one leaves it usable.

use std::cell::Cell;
use std::mem;
use std::ops::Deref;

use zerocopy::{Immutable, IntoBytes};

use super::alloc::{self, Block};
use super::offset::Offset;
use super::range::{self, Range, RangeKind};
use super::source::{CommitError, HeapError, RedoSink};
use super::superblock::{self, ROOTS};
use super::used::UsedBytes;
use super::view::View;
use super::{Heap, PAGE_LEN};
use crate::lsn::Lsn;

/// Stores up to this length are compared with what is there before they are recorded.
const COMPARE_LEN_MAX: usize = 4096;
/// A fill up to this length is stored and logged like bytes: that merges with its neighbours.
const FILL_LEN_MIN: usize = 32;
/// How many of the latest allocations `init` looks through before it falls back to a store with undo.
const FRESH_SEARCH_MAX: usize = 8;

/// Buffers are given back after a transaction whose undo log was longer than this.
const KEPT_UNDO_MAX: usize = 4 << 20;

static ZEROS: [u8; PAGE_LEN as usize] = [0; PAGE_LEN as usize];

/// The buffers of the one open transaction.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    ranges: Vec<Range>,
    undo: Vec<Undo>,
    undo_bytes: Vec<u8>,
    fresh: Vec<Fresh>,
    frees: Vec<Offset>,
    /// Blocks below this index in `fresh` were allocated before the latest savepoint.
    protected: Cell<usize>,
    /// Fills that must travel with the next commit, whatever becomes of this transaction.
    repairs: Vec<Range>,
    start: Savepoint,
}

impl Scratch {
    pub(super) fn has_repairs(&self) -> bool {
        !self.repairs.is_empty()
    }

    fn forget(&mut self) {
        self.ranges.clear();
        self.undo.clear();
        self.undo_bytes.clear();
        self.fresh.clear();
        self.frees.clear();
        self.protected.set(0);
        if self.undo_bytes.capacity() > KEPT_UNDO_MAX {
            *self = Scratch { repairs: mem::take(&mut self.repairs), ..Scratch::default() };
        }
    }
}

/// Bytes that were at `at` before; they are the last `len` of what the undo entries after this one left of
/// `undo_bytes`.
#[derive(Debug, Clone, Copy)]
struct Undo {
    at: u64,
    len: u64,
}

/// A block allocated in this transaction, and the part of it that was stored to without undo.
#[derive(Debug, Clone, Copy)]
struct Fresh {
    at: u64,
    end: u64,
    stored_from: u64,
    stored_to: u64,
}

impl Fresh {
    fn holds(&self, at: u64, len: usize) -> bool {
        self.at <= at && at + len as u64 <= self.end
    }
}

/// A state of a transaction to which it can be rolled back.
#[derive(Debug, Clone, Default)]
pub struct Savepoint {
    ranges: usize,
    last_range: Option<Range>,
    undo: usize,
    undo_bytes: usize,
    fresh: usize,
    frees: usize,
    image_len: u64,
    used: UsedBytes,
}

/// An open transaction. It reads as a [`View`]; dropping it without [`Txn::commit`] rolls it back.
#[derive(Debug)]
pub struct Txn<'h> {
    pub(super) heap: &'h mut Heap,
}

impl Deref for Txn<'_> {
    type Target = View;

    #[inline]
    fn deref(&self) -> &View {
        &self.heap.view
    }
}

impl Drop for Txn<'_> {
    #[inline]
    fn drop(&mut self) {
        self.roll_back();
    }
}

impl<'h> Txn<'h> {
    #[inline]
    pub(super) fn begin(heap: &'h mut Heap) -> Txn<'h> {
        let mut txn = Txn { heap };
        // What a leaked transaction left behind, if any.
        txn.roll_back();
        txn.heap.scratch.start = txn.position();
        txn
    }

    /// Allocates a block of at least `len` bytes, 16-byte aligned. Its content is undefined; fill it with
    /// [`Txn::init`]. On an error the transaction is as it was before.
    #[inline]
    pub fn alloc(&mut self, len: usize) -> Result<Offset, HeapError> {
        let Block { at, len, run } = alloc::alloc(self, len)?;
        self.heap.used.add(run, len as i64);
        let (from, to) = (at.get(), at.get() + len as u64);
        self.heap.scratch.fresh.push(Fresh { at: from, end: to, stored_from: to, stored_to: from });
        Ok(at)
    }

    /// Frees a block when the transaction commits. Its memory is not handed out again within the transaction.
    /// The commit panics if `at` is not the start of an allocated block; a debug build does so at once.
    #[inline]
    pub fn free(&mut self, at: Offset) {
        if cfg!(debug_assertions) {
            alloc::assert_allocated(self, at);
        }
        alloc::prefetch_free(self, at);
        self.heap.scratch.frees.push(at);
    }

    /// How many bytes the block at `at` can hold. Panics if `at` is not the start of an allocated block.
    #[inline]
    pub fn usable_len(&self, at: Offset) -> usize {
        self.heap.view.usable_len(at)
    }

    /// Stores `bytes` at `at`.
    #[inline]
    pub fn write(&mut self, at: Offset, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let fresh = self.fresh_index(at.get(), bytes.len(), 1);
        self.store(at.get(), bytes, fresh);
    }

    /// Stores a value at `at`, which need not be aligned.
    #[inline]
    pub fn put<T: IntoBytes + Immutable>(&mut self, at: Offset, value: &T) {
        self.write(at, value.as_bytes());
    }

    /// Stores into a block allocated in this transaction. Elsewhere it does what [`Txn::write`] does; here it saves
    /// the undo, which matters for long values.
    #[inline]
    pub fn init(&mut self, at: Offset, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let fresh = self.fresh_index(at.get(), bytes.len(), FRESH_SEARCH_MAX);
        self.store(at.get(), bytes, fresh);
    }

    /// Stores `len` zeros at `at`. Logged as a fill: no bytes travel.
    pub fn zero(&mut self, at: Offset, len: usize) {
        if len <= FILL_LEN_MIN {
            return self.init(at, &ZEROS[..len]);
        }
        let fresh = self.fresh_index(at.get(), len, FRESH_SEARCH_MAX);
        let mut changed = false;
        let mut done = 0;
        while done < len {
            let from = at.get() + done as u64;
            let part = ((PAGE_LEN - from % PAGE_LEN) as usize).min(len - done);
            // A page that is zero already is not made private.
            if self.heap.view.mem.bytes(from, part) != &ZEROS[..part] {
                changed = true;
                self.keep_undo(from, part, fresh);
                self.heap.view.mem.bytes_mut(from, part).fill(0);
            }
            done += part;
        }
        if changed {
            range::record(&mut self.heap.scratch.ranges, RangeKind::Fill, at.get(), len);
        }
    }

    /// Copies `len` bytes within the image; the two places may overlap.
    pub fn copy(&mut self, from: Offset, to: Offset, len: usize) {
        if len == 0 {
            return;
        }
        let fresh = self.fresh_index(to.get(), len, FRESH_SEARCH_MAX);
        self.keep_undo(to.get(), len, fresh);
        self.heap.view.mem.copy_within(from.get(), to.get(), len);
        range::record(&mut self.heap.scratch.ranges, RangeKind::Bytes, to.get(), len);
    }

    /// Sets root `slot` (below [`ROOTS`]).
    pub fn set_root(&mut self, slot: usize, at: Offset) {
        assert!(slot < ROOTS, "root slot {slot} of {ROOTS}");
        self.put(superblock::root_at(slot), &at);
    }

    /// Bytes in allocated blocks, as [`Heap::used_bytes`]; blocks freed in this transaction still count.
    #[inline]
    pub fn used_bytes(&self) -> u64 {
        self.heap.used.get()
    }

    /// The present state, for [`Txn::rollback_to`].
    #[inline]
    pub fn savepoint(&self) -> Savepoint {
        let position = self.position();
        self.heap.scratch.protected.set(position.fresh);
        position
    }

    /// Takes back everything done since `savepoint`, which stays usable; later savepoints do not. Panics if the
    /// savepoint is not one of this transaction's past states.
    pub fn rollback_to(&mut self, savepoint: &Savepoint) {
        let heap = &mut *self.heap;
        let scratch = &mut heap.scratch;
        assert!(
            savepoint.ranges <= scratch.ranges.len()
                && savepoint.undo <= scratch.undo.len()
                && savepoint.undo_bytes <= scratch.undo_bytes.len()
                && savepoint.fresh <= scratch.fresh.len()
                && savepoint.frees <= scratch.frees.len(),
            "a savepoint of another transaction, or one behind which the transaction was rolled back"
        );
        if let Some(pages) = heap.view.pages.as_mut() {
            pages.stored(&scratch.ranges[savepoint.ranges.saturating_sub(1)..], None);
        }
        while scratch.undo.len() > savepoint.undo {
            let Some(Undo { at, len }) = scratch.undo.pop() else { break };
            let kept = scratch.undo_bytes.len() - len as usize;
            heap.view.mem.bytes_mut(at, len as usize).copy_from_slice(&scratch.undo_bytes[kept..]);
            scratch.undo_bytes.truncate(kept);
        }
        for fresh in &scratch.fresh[savepoint.fresh..] {
            if fresh.stored_from >= fresh.stored_to {
                continue;
            }
            let len = (fresh.stored_to - fresh.stored_from) as usize;
            heap.view.mem.bytes_mut(fresh.stored_from, len).fill(0);
            // Beyond the length to which the image falls back, zero is what growing again will find.
            let to = fresh.stored_to.min(savepoint.image_len);
            if fresh.stored_from < to {
                let len = (to - fresh.stored_from) as usize;
                range::record(&mut scratch.repairs, RangeKind::Fill, fresh.stored_from, len);
            }
        }
        scratch.ranges.truncate(savepoint.ranges);
        if let (Some(last), Some(was)) = (scratch.ranges.last_mut(), savepoint.last_range) {
            *last = was;
        }
        scratch.fresh.truncate(savepoint.fresh);
        scratch.frees.truncate(savepoint.frees);
        scratch.protected.set(savepoint.fresh);
        heap.view.set_image_len(savepoint.image_len);
        heap.used = savepoint.used;
    }

    /// Whether the transaction has changed nothing so far.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.heap.scratch.ranges.is_empty() && self.heap.scratch.frees.is_empty()
    }

    /// About how many bytes of log a commit would take, the record's header not included.
    pub fn redo_len_estimate(&self) -> usize {
        let scratch = &self.heap.scratch;
        scratch.ranges.iter().chain(&scratch.repairs).map(Range::redo_len).sum::<usize>()
            + scratch.frees.len() * 16
    }

    /// Hands the transaction to the log and returns the LSN of its end. A transaction that changed nothing appends
    /// nothing and returns the log's end. On an error everything has been rolled back.
    pub fn commit(mut self, log: &mut impl RedoSink) -> Result<Lsn, CommitError> {
        self.apply_frees();
        alloc::store_used_bytes(&mut self);
        let heap = &mut *self.heap;
        let scratch = &mut heap.scratch;
        if scratch.ranges.is_empty() {
            return Ok(log.appended());
        }
        scratch.ranges.extend_from_slice(&scratch.repairs);
        range::coalesce(&mut scratch.ranges);
        let end = log.append(&heap.view, &scratch.ranges)?;
        if let Some(pages) = heap.view.pages.as_mut() {
            pages.stored(&scratch.ranges, Some(end));
        }
        scratch.repairs.clear();
        scratch.forget();
        Ok(end)
    }

    #[inline]
    fn apply_frees(&mut self) {
        for next in 0..self.heap.scratch.frees.len() {
            let at = self.heap.scratch.frees[next];
            let Block { len, run, .. } = alloc::free(self, at);
            self.heap.used.add(run, -(len as i64));
        }
        self.heap.scratch.frees.clear();
    }

    #[inline]
    fn position(&self) -> Savepoint {
        let heap = &*self.heap;
        let scratch = &heap.scratch;
        Savepoint {
            ranges: scratch.ranges.len(),
            last_range: scratch.ranges.last().copied(),
            undo: scratch.undo.len(),
            undo_bytes: scratch.undo_bytes.len(),
            fresh: scratch.fresh.len(),
            frees: scratch.frees.len(),
            image_len: heap.view.image_len(),
            used: heap.used,
        }
    }

    #[inline]
    fn roll_back(&mut self) {
        let scratch = &self.heap.scratch;
        if scratch.ranges.is_empty() && scratch.frees.is_empty() && scratch.fresh.is_empty() {
            return;
        }
        let start = mem::take(&mut self.heap.scratch.start);
        self.rollback_to(&start);
        self.heap.scratch.forget();
    }

    /// Which block allocated since the latest savepoint holds these bytes, if it is among the last `search` ones.
    #[inline]
    fn fresh_index(&self, at: u64, len: usize, search: usize) -> Option<usize> {
        let scratch = &self.heap.scratch;
        let first = scratch.fresh.len().saturating_sub(search).max(scratch.protected.get());
        (first..scratch.fresh.len()).rev().find(|&index| scratch.fresh[index].holds(at, len))
    }

    /// Makes it possible to take back a store to these bytes.
    #[inline]
    fn keep_undo(&mut self, at: u64, len: usize, fresh: Option<usize>) {
        let scratch = &mut self.heap.scratch;
        if let Some(index) = fresh {
            let fresh = &mut scratch.fresh[index];
            fresh.stored_from = fresh.stored_from.min(at);
            fresh.stored_to = fresh.stored_to.max(at + len as u64);
        } else {
            scratch.undo.push(Undo { at, len: len as u64 });
            scratch.undo_bytes.extend_from_slice(self.heap.view.mem.bytes(at, len));
        }
    }

    #[inline]
    fn store(&mut self, at: u64, bytes: &[u8], fresh: Option<usize>) {
        // In a fresh block equal bytes are rare, and comparing would wait for cache lines that storing need not wait for.
        let (skip, len) = if bytes.len() <= COMPARE_LEN_MAX && fresh.is_none() {
            differing(self.heap.view.mem.bytes(at, bytes.len()), bytes)
        } else {
            (0, bytes.len())
        };
        if len == 0 {
            return;
        }
        let (at, bytes) = (at + skip as u64, &bytes[skip..skip + len]);
        self.keep_undo(at, len, fresh);
        self.heap.view.mem.bytes_mut(at, len).copy_from_slice(bytes);
        if let Some(pages) = &self.heap.view.pages {
            pages.prefetch(at);
        }
        range::record(&mut self.heap.scratch.ranges, RangeKind::Bytes, at, len);
    }

    /// Makes the image `len` bytes long. On an error nothing has changed.
    pub(super) fn grow_to(&mut self, len: u64) -> Result<(), HeapError> {
        let no_space = |source| HeapError::NoSpace { wanted_len: len, source };
        self.heap.source.grow_to(len).map_err(no_space)?;
        self.heap.view.set_image_len(len);
        let grow = Range { at: Offset::new(len), len: 0, kind: RangeKind::Grow };
        self.heap.scratch.ranges.push(grow);
        Ok(())
    }
}

/// The part of `new` that differs from `old`, as its start and length; the length is 0 if nothing does.
#[inline]
fn differing(old: &[u8], new: &[u8]) -> (usize, usize) {
    if let (Ok(old), Ok(new)) = (<[u8; 8]>::try_from(old), <[u8; 8]>::try_from(new)) {
        let difference = u64::from_le_bytes(old) ^ u64::from_le_bytes(new);
        if difference == 0 {
            return (0, 0);
        }
        let first = difference.trailing_zeros() as usize / 8;
        return (first, 8 - difference.leading_zeros() as usize / 8 - first);
    }
    let word = |bytes: &[u8], at: usize| {
        let bytes: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(bytes)
    };
    let (mut from, mut to) = (0, new.len());
    while from + 8 <= to && word(old, from) == word(new, from) {
        from += 8;
    }
    while from < to && old[from] == new[from] {
        from += 1;
    }
    while to >= from + 8 && word(old, to - 8) == word(new, to - 8) {
        to -= 8;
    }
    while to > from && old[to - 1] == new[to - 1] {
        to -= 1;
    }
    (from, to - from)
}
