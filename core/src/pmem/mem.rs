//! Bounds-checked access to the memory an image is mapped to.
//!
//! [`Mem`] is the only way from an image offset to a byte: loads, stores, copies and fills, each checked against
//! `limit`, the image's current length. The address space behind it is reserved for the longest image there may be,
//! so growing is moving the limit and never moves a byte. An offset beyond the limit can only come from a corrupt
//! image or a programming error, so it panics and says which offset it was.
//!
//! Whoever maps memory makes the `Mem` (and says with `unsafe` that it is theirs to hand out); the heap above it is
//! free of unsafe code.

use std::any::Any;
use std::fmt;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A piece of mapped memory of which the first `limit` bytes may be touched.
pub struct Mem {
    base: NonNull<u8>,
    reserved: usize,
    limit: usize,
    /// Keeps the mapping alive; never looked at.
    _owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: a Mem is a unique handle on plain bytes (see `Mem::new`); nothing in it belongs to a thread.
unsafe impl Send for Mem {}
// SAFETY: through `&Mem` bytes are only read, and stores need `&mut Mem`.
unsafe impl Sync for Mem {}

impl Mem {
    /// A handle on the `reserved` bytes from `base`, of which none may be touched before [`Mem::set_limit`].
    ///
    /// # Safety
    /// The caller guarantees that
    /// - `base .. base + reserved` is one mapping that stays where it is while `owner` lives;
    /// - bytes below the limit set later can be read and written without a fault (space is allocated before the
    ///   limit moves over it);
    /// - while this `Mem` is borrowed nobody else stores into the mapping. The replayer's stores into the image
    ///   never reach a page that a transaction or a reader of the working view is using: they go to pages that are
    ///   private in the working view, and on a follower they happen between reads.
    pub unsafe fn new(base: NonNull<u8>, reserved: usize, owner: Arc<dyn Any + Send + Sync>) -> Mem {
        Mem { base, reserved, limit: 0, _owner: owner }
    }

    /// Zeroed memory of its own, for tests and simulation. It occupies address space only until it is touched.
    pub fn anonymous(reserved: usize) -> io::Result<Mem> {
        let mut map = memmap2::MmapOptions::new().len(reserved.max(1)).no_reserve_swap().map_anon()?;
        let base = NonNull::new(map.as_mut_ptr()).expect("mmap returned the null page");
        // SAFETY: the mapping is ours alone, is moved nowhere (the Arc holds the handle, not the bytes), is readable
        // and writable all over, and is unmapped when the owner is dropped.
        Ok(unsafe { Mem::new(base, reserved, Arc::new(map)) })
    }

    /// How many bytes may be touched.
    #[inline]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How far the limit may be raised.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    /// Allows access to the first `limit` bytes. Panics beyond the reserved address space.
    pub fn set_limit(&mut self, limit: usize) {
        assert!(limit <= self.reserved, "image of {limit} bytes in {} reserved bytes", self.reserved);
        self.limit = limit;
    }

    #[inline(always)]
    fn check(&self, at: u64, len: usize) -> usize {
        let end = at.checked_add(len as u64);
        match end {
            Some(end) if end <= self.limit as u64 => at as usize,
            _ => out_of_bounds(at, len, self.limit),
        }
    }

    /// The `len` bytes at `at`.
    #[inline(always)]
    pub fn bytes(&self, at: u64, len: usize) -> &[u8] {
        let at = self.check(at, len);
        // SAFETY: `check` has bounded `at + len` by the limit, below which `new`'s contract lets us read; nobody
        // stores there while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at), len) }
    }

    /// The `len` bytes at `at`, to be changed.
    #[inline(always)]
    pub fn bytes_mut(&mut self, at: u64, len: usize) -> &mut [u8] {
        let at = self.check(at, len);
        // SAFETY: as in `bytes`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), len) }
    }

    /// Copies `len` bytes from `from` to `to`; the two may overlap.
    #[inline]
    pub fn copy_within(&mut self, from: u64, to: u64, len: usize) {
        let from = self.check(from, len);
        let to = self.check(to, len);
        // SAFETY: both ends are bounded by the limit; `copy` allows overlap; `&mut self` is exclusive.
        unsafe { ptr::copy(self.base.as_ptr().add(from), self.base.as_ptr().add(to), len) }
    }

    /// Tells the CPU that the cache line at `at` will be read soon. An offset beyond the limit is ignored.
    #[inline(always)]
    pub fn prefetch(&self, at: u64) {
        if at < self.limit as u64 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch has no effect on memory and does not fault; the address lies inside the mapping.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().add(at as usize).cast::<i8>());
            }
        }
    }
}

impl fmt::Debug for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mem")
            .field("limit", &self.limit)
            .field("reserved", &self.reserved)
            .finish_non_exhaustive()
    }
}

#[cold]
#[inline(never)]
fn out_of_bounds(at: u64, len: usize, limit: usize) -> ! {
    panic!(
        "image access of {len} bytes at offset {at:#x} is beyond the image's end at {limit:#x}: corrupt offset"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_below_the_limit_can_be_stored_and_read_back() {
        let mut mem = Mem::anonymous(1 << 20).unwrap();
        mem.set_limit(8192);
        mem.bytes_mut(8184, 8).copy_from_slice(b"farkeep!");
        mem.copy_within(8184, 8180, 8);
        assert_eq!(mem.bytes(8180, 12), b"farkeep!eep!");
    }

    #[test]
    #[should_panic(expected = "beyond the image's end at 0x1000")]
    fn an_access_across_the_limit_panics() {
        let mut mem = Mem::anonymous(1 << 20).unwrap();
        mem.set_limit(4096);
        mem.bytes(4090, 7);
    }

    #[test]
    #[should_panic(expected = "corrupt offset")]
    fn an_offset_that_overflows_panics() {
        let mut mem = Mem::anonymous(4096).unwrap();
        mem.set_limit(4096);
        mem.bytes(u64::MAX - 3, 8);
    }
}
