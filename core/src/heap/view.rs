//! Read access to the image.
//!
//! A [`View`] is the one way to read the heap, on a leader (the private working view, through [`super::Heap`] or a
//! transaction) and on a follower (the image itself). It owns no state that matters after a crash.
//!
//! Reads come in two kinds. `bytes` and `get` are dependencies: while tracking is on, the view folds the page's
//! last-writer LSN into a maximum that the caller takes for the reply it is about to hold (I7). `peek` and
//! `peek_bytes` are not: for geometry and hints whose staleness no client could ever see.

use std::cell::Cell;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::offset::Offset;
use super::pages::PageTable;
use super::superblock::{self, ROOTS};
use crate::lsn::Lsn;
use crate::pmem::mem::Mem;

/// The image as it can be read. Every access is checked against the image's length; an offset beyond it panics,
/// since only corruption or a programming error can produce one.
#[derive(Debug)]
pub struct View {
    pub(super) mem: Mem,
    /// `None` for an image that is read directly: all it holds is committed.
    pub(super) pages: Option<PageTable>,
    tracking: Cell<bool>,
    dependency: Cell<Lsn>,
}

impl View {
    pub(super) fn working(mem: Mem, pages: PageTable) -> View {
        View { mem, pages: Some(pages), tracking: Cell::new(false), dependency: Cell::new(Lsn::ZERO) }
    }

    /// A view of an image that only the replayer stores to: a follower's, or one that is being inspected. All it
    /// holds is committed, so reading it never creates a dependency.
    pub fn of_image(mut mem: Mem, image_len: u64) -> View {
        mem.set_limit(image_len as usize);
        View { mem, pages: None, tracking: Cell::new(false), dependency: Cell::new(Lsn::ZERO) }
    }

    /// Follows the image's growth.
    pub fn set_image_len(&mut self, image_len: u64) {
        self.mem.set_limit(image_len as usize);
    }

    /// The image's length in bytes.
    #[inline]
    pub fn image_len(&self) -> u64 {
        self.mem.limit() as u64
    }

    /// The `len` bytes at `at`.
    #[inline]
    pub fn bytes(&self, at: Offset, len: usize) -> &[u8] {
        if self.tracking.get() && len > 0 {
            self.depend_on(at, len);
        }
        self.mem.bytes(at.get(), len)
    }

    /// The value at `at`, which need not be aligned.
    #[inline]
    pub fn get<T: FromBytes + KnownLayout + Immutable + Copy>(&self, at: Offset) -> T {
        if self.tracking.get() && size_of::<T>() > 0 {
            self.depend_on(at, size_of::<T>());
        }
        self.peek(at)
    }

    /// As [`View::get`], but no dependency.
    #[inline]
    pub fn peek<T: FromBytes + KnownLayout + Immutable + Copy>(&self, at: Offset) -> T {
        match T::read_from_bytes(self.mem.bytes(at.get(), size_of::<T>())) {
            Ok(value) => value,
            Err(_) => unreachable!("a slice of the size of T holds a T"),
        }
    }

    /// As [`View::bytes`], but no dependency.
    #[inline]
    pub fn peek_bytes(&self, at: Offset, len: usize) -> &[u8] {
        self.mem.bytes(at.get(), len)
    }

    /// Tells the CPU that the cache line at `at` will be read soon. Any offset is allowed.
    #[inline]
    pub fn prefetch(&self, at: Offset) {
        self.mem.prefetch(at.get());
    }

    /// What the user of the heap has put into root `slot` (below [`ROOTS`]): the places from which all of its
    /// structures are found. [`Offset::NULL`] until set.
    #[inline]
    pub fn root(&self, slot: usize) -> Offset {
        assert!(slot < ROOTS, "root slot {slot} of {ROOTS}");
        self.get(superblock::root_at(slot))
    }

    /// Starts to collect what the reads to come depend on, from nothing.
    #[inline]
    pub fn start_tracking(&self) {
        self.tracking.set(self.pages.is_some());
        self.dependency.set(Lsn::ZERO);
    }

    /// Stops tracking and returns the end LSN of the newest transaction that stored to a page read since
    /// [`View::start_tracking`]: a reply built from those reads may go out once this LSN is committed.
    #[inline]
    pub fn take_dependency(&self) -> Lsn {
        self.tracking.set(false);
        self.dependency.replace(Lsn::ZERO)
    }

    #[inline(never)]
    fn depend_on(&self, at: Offset, len: usize) {
        let Some(pages) = &self.pages else { return };
        // Checks the bounds before the table is asked about a page it does not have.
        self.mem.bytes(at.get(), len);
        self.dependency.set(self.dependency.get().max(pages.newest(at.get(), len)));
    }
}
