//! The heap: the image as memory that a transaction may change.
//!
//! A [`Heap`] is the engine's exclusive handle on the working view. Its structures refer to each other by
//! [`Offset`], never by pointer. It is read through [`View`] and changed through [`Txn`] only, which records what it
//! stores (I6), takes it back when dropped, and on commit hands the changed ranges to a [`RedoSink`].
//!
//! Who owns what: all that must survive, the allocator's own state included, lies in the image and is changed by
//! transactions. Volatile are the undo log of the one open transaction, the page table ([`View::take_dependency`],
//! [`Heap::drop_private`]) and a byte count that may lag; none of them is needed after a crash.
//!
//! A crash loses the working view. What was committed is in the log, and replaying the log's ranges into the image
//! gives the same bytes that the view held after the last transaction replayed (I5).
//!
//! Elsewhere: how memory is mapped and persisted (`pmem`), how ranges become records (`log`), and who stores them
//! into the image (`replay`).

mod alloc;
pub mod double;
mod offset;
mod pages;
mod range;
mod source;
mod superblock;
mod txn;
mod used;
mod verify;
mod view;

#[cfg(test)]
mod alloc_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod txn_tests;

use std::io;
use std::sync::Arc;

pub use offset::Offset;
pub use range::{MAX_RANGE_LEN, Range, RangeKind};
pub use source::{CommitError, HeapError, ImageSource, RedoSink};
pub use superblock::ROOTS;
pub use txn::{Savepoint, Txn};
pub use verify::{Finding, verify};
pub use view::View;

use crate::lsn::Lsn;
use pages::PageTable;
use txn::Scratch;
use used::UsedBytes;

/// Length of a page, in bytes: the unit of extents, of private copies and of dependency tracking.
pub const PAGE_LEN: u64 = 4096;

/// The engine's exclusive handle on an image: its working view, its allocator, its one open transaction.
#[derive(Debug)]
pub struct Heap {
    view: View,
    source: Arc<dyn ImageSource>,
    scratch: Scratch,
    used: UsedBytes,
}

impl Heap {
    /// Opens the working view of an image of `image_len` bytes, which is 0 for an image not formatted yet.
    /// Nothing is read or checked but the superblock, so this takes the same time for any amount of data.
    pub fn open(source: Arc<dyn ImageSource>, image_len: u64) -> Result<Heap, HeapError> {
        let no_space = |source| HeapError::NoSpace { wanted_len: image_len, source };
        let pages = PageTable::new(source.max_len()).map_err(no_space)?;
        let mut view = View::working(source.memory(), pages);
        view.set_image_len(image_len);
        if image_len > 0 {
            // It may be later than the checkpoint whose length this is; once the log is redone, it is looked at again.
            superblock::check_format(&view, source.max_len())?;
        }
        let used = UsedBytes::stored(&view);
        Ok(Heap { view, source, scratch: Scratch::default(), used })
    }

    /// Whether `view` shows an image that this program can work on; it may be later than the checkpoint,
    /// whose length the view has, and as long as `longest`. And whether it is this dataset's.
    ///
    /// # Errors
    /// [`HeapError::Foreign`] or [`HeapError::OtherDataset`] when its superblock says otherwise.
    pub fn check_identity(view: &View, longest: u64, dataset_id: [u8; 16]) -> Result<(), HeapError> {
        superblock::check_format(view, longest)?;
        superblock::check_dataset(view, dataset_id)
    }

    /// Writes the superblock of an empty image: the first transaction of this dataset.
    pub fn format(txn: &mut Txn<'_>, dataset_id: [u8; 16]) -> Result<(), HeapError> {
        alloc::format(txn, dataset_id)
    }

    /// Whether the image has been formatted.
    pub fn is_formatted(&self) -> bool {
        self.view.image_len() > 0
    }

    /// Read access to the working view.
    #[inline]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Begins a transaction. Dropping it without a commit takes everything back that it did.
    #[inline]
    pub fn txn(&mut self) -> Txn<'_> {
        Txn::begin(self)
    }

    /// Bytes in allocated blocks. Until [`Heap::recount_used`] is done after a start, it may be off by what the
    /// last few hundred small allocations and frees before it made of it.
    #[inline]
    pub fn used_bytes(&self) -> u64 {
        self.used.get()
    }

    /// Goes on counting the bytes in allocated blocks, over up to `max_runs` runs of pages (some 100 ns each), and
    /// returns whether the count is exact by now. To be called after a start until it is.
    pub fn recount_used(&mut self, max_runs: usize) -> bool {
        self.used.recount(&self.view, max_runs);
        self.used.is_exact()
    }

    /// The length to which a background thread may grow the image ahead of need with [`ImageSource::grow_to`], if
    /// what is left of it is running out. The heap itself will grow to the same length when it gets there.
    pub fn growth_due(&self) -> Option<u64> {
        let image_len = self.view.image_len();
        let limit = self.source.max_len() - self.source.max_len() % PAGE_LEN;
        if image_len == 0 || image_len >= limit {
            return None;
        }
        let grown = alloc::extent::grown_len(image_len, image_len, limit);
        let left = image_len - u64::from(alloc::extent::top(&self.view)) * PAGE_LEN;
        (left < (grown - image_len) / 2).then_some(grown)
    }

    /// Bytes of the image that are or were in use: it could not be shorter without moving blocks.
    pub fn footprint_bytes(&self) -> u64 {
        if self.is_formatted() { u64::from(alloc::extent::top(&self.view)) * PAGE_LEN } else { 0 }
    }

    /// What the heap stands on.
    pub fn source(&self) -> &Arc<dyn ImageSource> {
        &self.source
    }

    /// Bytes of the image's private copies in DRAM.
    pub fn private_bytes(&self) -> u64 {
        self.view.pages.as_ref().map_or(0, |pages| pages.private_count() as u64 * PAGE_LEN)
    }

    /// Drops private copies of pages that hold nothing newer than `applied`, about `budget_bytes` of them, and
    /// returns how many bytes were dropped. The work is bounded by the budget, not by the number of private pages:
    /// call it again for more. What could not be dropped because of an error stays private.
    pub fn drop_private(&mut self, applied: Lsn, budget_bytes: u64) -> io::Result<u64> {
        if self.scratch.has_repairs() {
            // Pages that a rollback left different from the image wait for the commit that puts it right.
            return Ok(0);
        }
        let Some(table) = self.view.pages.as_mut() else { return Ok(0) };
        let pages = table.take_droppable(applied, budget_bytes.div_ceil(PAGE_LEN) as usize);
        let mut next = 0;
        while next < pages.len() {
            let first = next;
            while next < pages.len() && pages[next] == pages[first] + (next - first) as u64 {
                next += 1;
            }
            let len = (next - first) as u64 * PAGE_LEN;
            if let Err(error) = self.source.drop_private(pages[first] * PAGE_LEN, len) {
                table.keep_private(&pages[first..]);
                return Err(error);
            }
        }
        Ok(pages.len() as u64 * PAGE_LEN)
    }

    /// Stores the bytes of a record that is durable but not committed into the working view, as recovery does with
    /// what lies between the two; `end` is the end LSN of its transaction.
    pub fn redo_bytes(&mut self, at: Offset, bytes: &[u8], end: Lsn) {
        self.view.mem.bytes_mut(at.get(), bytes.len()).copy_from_slice(bytes);
        self.redone(RangeKind::Bytes, at, bytes.len(), end);
    }

    /// As [`Heap::redo_bytes`], for a range of zeros.
    pub fn redo_fill(&mut self, at: Offset, len: u64, end: Lsn) {
        self.view.mem.bytes_mut(at.get(), len as usize).fill(0);
        self.redone(RangeKind::Fill, at, len as usize, end);
    }

    /// As [`Heap::redo_bytes`], for growth.
    pub fn redo_grow(&mut self, image_len: u64) -> Result<(), HeapError> {
        let no_space = |source| HeapError::NoSpace { wanted_len: image_len, source };
        self.source.grow_to(image_len).map_err(no_space)?;
        self.view.set_image_len(image_len.max(self.view.image_len()));
        Ok(())
    }

    /// Ends a series of `redo_*` calls: checks the superblock and takes over the counts in it.
    pub fn redo_done(&mut self) -> Result<(), HeapError> {
        if self.is_formatted() {
            superblock::check(&self.view)?;
        }
        self.used = UsedBytes::stored(&self.view);
        Ok(())
    }

    fn redone(&mut self, kind: RangeKind, at: Offset, len: usize, end: Lsn) {
        let mut ranges = Vec::new();
        range::record(&mut ranges, kind, at.get(), len);
        if let Some(pages) = self.view.pages.as_mut() {
            pages.stored(&ranges, Some(end));
        }
    }
}
