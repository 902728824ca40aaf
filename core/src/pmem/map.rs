//! Mappings of pool files.
//!
//! A [`Mapping`] is address space that goes away when the last user does. A [`Region`] is a shared mapping whose
//! bytes are meant to survive: it knows its durability domain and how to get bytes into it. Regions are shared by
//! threads, and a follower's is also written to by another node, so a `Region` hands out bytes through `&self` and
//! leaves it to the protocol above who may touch which bytes when:
//!
//! - log bytes are written once, by the appender or by the leader's fabric, and looked at by others only after a
//!   checksum has borne them out; they are overwritten only when every reader is past them (I8);
//! - image bytes are stored by the replayer alone, between the reads of a follower's clients.
//!
//! A crash takes everything that was not persisted: on `pmem` what was not flushed and fenced, on `disk` what was
//! stored after the last [`Region::sync`] began.

use std::any::Any;
use std::ffi::c_void;
use std::fmt;
use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::crash::{CrashDouble, Medium};
use super::domain::Persistence;
use super::mem::Mem;
use super::persist;
use super::sigbus::Registration;

/// The next larger page after the common one, on the processors that have 4 KiB for that: one entry in a page table for 512.
pub(super) const HUGE_PAGE_LEN: usize = 2 << 20;

/// What a mapping is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Stores go to the file; with the kernel's promise that they need no metadata to be written, if it gives it.
    Shared {
        /// Whether to ask for `MAP_SYNC`.
        sync: bool,
    },
    /// Stores copy the page; the file stays as it is.
    Private,
    /// No stores.
    ReadOnly,
}

/// A piece of address space over a file, unmapped when dropped. It may be longer than the file: bytes beyond the
/// file's end must not be touched until the file has grown over them.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    private: bool,
    _registration: Registration,
}

// SAFETY: a mapping is plain memory; which thread unmaps it does not matter.
unsafe impl Send for Mapping {}
// SAFETY: the handle itself is never changed; access to the bytes is the business of Region and Mem.
unsafe impl Sync for Mapping {}

/// Maps the file where huge pages can be mapped whole, on tmpfs as on a DAX file system. (A device's driver sees to that itself.)
fn map_aligned(
    file: &File,
    len: usize,
    protection: ProtFlags,
    flags: MapFlags,
) -> rustix::io::Result<*mut c_void> {
    let len = len.next_multiple_of(rustix::param::page_size());
    let claim = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
    let claimed = unsafe { mmap_anonymous(ptr::null_mut(), len + HUGE_PAGE_LEN, ProtFlags::empty(), claim) }?;
    let before = claimed.addr().next_multiple_of(HUGE_PAGE_LEN) - claimed.addr();
    // SAFETY: `before` is less than a huge page, and the claim is that much longer than `len`.
    let base = unsafe { claimed.byte_add(before) };
    // SAFETY: what is replaced is a part of the claim made above, in which nobody has anything.
    let mapped = unsafe { mmap(base, len, protection, flags | MapFlags::FIXED, file, 0) };
    let unused = match mapped {
        Ok(_) => [(claimed, before), (base.wrapping_byte_add(len), HUGE_PAGE_LEN - before)],
        Err(_) => [(claimed, len + HUGE_PAGE_LEN), (claimed, 0)],
    };
    for (start, len) in unused.into_iter().filter(|&(_, len)| len > 0) {
        // SAFETY: that part of the claim has nothing in it.
        unsafe { munmap(start, len) }?;
    }
    mapped
}

impl Mapping {
    pub(super) fn new(file: &File, len: usize, kind: Kind, name: &str) -> io::Result<Mapping> {
        let (protection, flags) = match kind {
            Kind::Shared { sync: true } => {
                (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED_VALIDATE | MapFlags::SYNC)
            }
            Kind::Shared { sync: false } => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED),
            Kind::Private => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE),
            Kind::ReadOnly => (ProtFlags::READ, MapFlags::SHARED),
        };
        let base = if len >= HUGE_PAGE_LEN && file.metadata()?.is_file() {
            map_aligned(file, len, protection, flags)?
        } else {
            // SAFETY: a new mapping at an address of the kernel's choice disturbs no other memory.
            unsafe { mmap(ptr::null_mut(), len, protection, flags, file, 0) }?
        };
        let base = NonNull::new(base.cast::<u8>()).expect("mmap never returns the null page unasked");
        Ok(Mapping {
            base,
            len,
            private: kind == Kind::Private,
            _registration: Registration::new(base.as_ptr() as usize, len, name),
        })
    }

    /// Drops the private copies of these pages, so that reads see the file again. They must lie within the mapping.
    pub(super) fn drop_copies(&self, at: u64, len: u64) -> io::Result<()> {
        assert!(at + len <= self.len as u64, "pages beyond the mapping");
        // SAFETY: the pages lie within this mapping; forgetting private copies is what the caller asks for, and the
        // bytes that are read there from now on are the file's, which the caller says are the same.
        unsafe { madvise(self.base.as_ptr().add(at as usize).cast(), len as usize, Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// A handle on the whole mapping; the mapping lives as long as the handle.
    ///
    /// # Safety
    /// As for [`Mem::new`].
    pub(super) unsafe fn mem(self: &Arc<Self>) -> Mem {
        let owner: Arc<dyn Any + Send + Sync> = Arc::<Mapping>::clone(self);
        // SAFETY: the mapping is one piece, stays where it is while the owner lives, and the caller vouches for the
        // rest.
        unsafe { Mem::new(self.base, self.len, owner) }
    }
}

/// Bytes of private pages that are given back in one go.
const DROPPED_AT_ONCE: u64 = 32 << 20;

impl Drop for Mapping {
    fn drop(&mut self) {
        // To give back a gigabyte of private pages takes some 90 ms, in which nobody else could map anything: so the pages go first.
        let copies = if self.private { self.len as u64 } else { 0 };
        for at in (0..copies).step_by(DROPPED_AT_ONCE as usize) {
            // What cannot be given back so goes with the mapping.
            drop(self.drop_copies(at, DROPPED_AT_ONCE.min(copies - at)));
        }
        // SAFETY: this is the mapping made in `new`, and whoever looked at its bytes borrowed from it or owned a
        // share of it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap: {unmapped:?}");
    }
}

/// Persistent memory shared by threads.
pub struct Region {
    mapping: Arc<Mapping>,
    file: Arc<File>,
    persistence: Persistence,
    double: Option<(Arc<CrashDouble>, Medium)>,
}

impl Region {
    /// Maps the first `len` bytes of `file` (more than it has is allowed, see [`Region::bytes`]).
    pub fn map(file: Arc<File>, len: u64, persistence: Persistence, name: &str) -> io::Result<Region> {
        let kind = Kind::Shared { sync: persistence.map_sync };
        let mapping = Arc::new(Mapping::new(&file, to_usize(len)?, kind, name)?);
        Ok(Region { mapping, file, persistence, double: None })
    }

    /// As [`Region::map`], for looking only: any store is a fault.
    pub fn map_read_only(
        file: Arc<File>,
        len: u64,
        persistence: Persistence,
        name: &str,
    ) -> io::Result<Region> {
        let mapping = Arc::new(Mapping::new(&file, to_usize(len)?, Kind::ReadOnly, name)?);
        Ok(Region { mapping, file, persistence, double: None })
    }

    /// Has a crash double keep the books on what is persisted here.
    #[must_use]
    pub fn with_double(mut self, double: Arc<CrashDouble>, medium: Medium) -> Region {
        self.double = Some((double, medium));
        self
    }

    /// The mapping's length in bytes.
    #[inline]
    pub fn len(&self) -> u64 {
        self.mapping.len as u64
    }

    /// Whether the mapping has no bytes; it never has none.
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// How bytes get persistent here.
    pub fn persistence(&self) -> &Persistence {
        &self.persistence
    }

    /// The mapped file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Where the mapping begins in this process, for registration with a device.
    pub fn base_address(&self) -> NonNull<u8> {
        self.mapping.base
    }

    #[inline]
    fn check(&self, at: u64, len: usize) -> *mut u8 {
        assert!(
            at.checked_add(len as u64).is_some_and(|end| end <= self.mapping.len as u64),
            "{len} bytes at {at:#x} are beyond a mapping of {:#x} bytes",
            self.mapping.len
        );
        // SAFETY: the assertion has just bounded `at` by the mapping's length.
        unsafe { self.mapping.base.as_ptr().add(at as usize) }
    }

    /// The `len` bytes at `at`. Panics beyond the mapping. The protocol above sees to it that nobody stores there
    /// meanwhile, and that the file reaches that far.
    #[inline]
    pub fn bytes(&self, at: u64, len: usize) -> &[u8] {
        let start = self.check(at, len);
        // SAFETY: `check` has bounded the range, and the mapping lives as long as `self`. That nobody changes bytes
        // while they are looked at is the protocol of the module's essay; bytes that another node may be writing
        // just now are only ever compared against a checksum before they mean anything.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    /// Lets `store` change the `len` bytes at `at`. Panics beyond the mapping. Nobody else may look at them
    /// meanwhile.
    #[inline]
    pub fn with_mut<R>(&self, at: u64, len: usize, store: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.check(at, len);
        // SAFETY: `check` has bounded the range. That these bytes belong to the caller alone is the protocol of the
        // module's essay: log bytes have one writer and no reader before they are complete, image bytes one writer.
        store(unsafe { std::slice::from_raw_parts_mut(start, len) })
    }

    /// Stores `bytes` at `at`. Panics beyond the mapping.
    #[inline]
    pub fn store(&self, at: u64, bytes: &[u8]) {
        self.with_mut(at, bytes.len(), |to| to.copy_from_slice(bytes));
    }

    /// Stores `bytes` at `at`, persistently when it returns, but on a disk. Panics beyond the mapping.
    pub fn store_through(&self, at: u64, bytes: &[u8]) {
        if self.double.is_none() && self.persistence.by_instructions() {
            let writeback = self.persistence.writeback;
            return self.with_mut(at, bytes.len(), |to| persist::store_through(to, bytes, writeback));
        }
        self.store(at, bytes);
        self.flush(at, bytes.len());
        self.fence();
    }

    /// Brings these whole pages into memory and the page tables, so that the first store to each takes no fault.
    /// Changes no byte. Panics beyond the mapping.
    pub fn populate(&self, at: u64, len: usize) -> io::Result<()> {
        let start = self.check(at, len);
        // SAFETY: the range lies within the mapping, and populating it for writing changes no byte.
        unsafe { madvise(start.cast(), len, Advice::LinuxPopulateWrite) }?;
        Ok(())
    }

    /// Has the kernel put a huge page in the place of the pages from `at`, a multiple of [`HUGE_PAGE_LEN`], and map it. Those that are missing
    /// become zero bytes, but one must be there, and the file must reach beyond. Changes no byte. Panics beyond the mapping.
    ///
    /// # Errors
    /// `EINVAL` where kernel or file system cannot do that at all (Linux can since 6.1, on tmpfs), others where it cannot just now.
    pub(super) fn collapse(&self, at: u64) -> io::Result<()> {
        let start = self.check(at, HUGE_PAGE_LEN);
        // SAFETY: the range lies within the mapping, and its bytes stay what they are.
        match unsafe { libc::madvise(start.cast(), HUGE_PAGE_LEN, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Starts to make these bytes persistent; they are when [`Region::fence`] returns. Does nothing on a disk.
    #[inline]
    pub fn flush(&self, at: u64, len: usize) {
        if let Some((double, medium)) = &self.double {
            return double.flush(*medium, at, self.bytes(at, len));
        }
        if self.persistence.by_instructions() {
            self.persistence.writeback.write_back(self.bytes(at, len));
        }
    }

    /// Makes all bytes flushed before by this thread persistent. Does nothing on a disk.
    #[inline]
    pub fn fence(&self) {
        if let Some((double, _)) = &self.double {
            return double.fence();
        }
        if self.persistence.by_instructions() {
            persist::fence();
        }
    }

    /// On a disk, makes everything stored before the call persistent. Does nothing elsewhere.
    pub fn sync(&self) -> io::Result<()> {
        if self.persistence.by_instructions() {
            return Ok(());
        }
        match &self.double {
            Some((double, medium)) => double.sync(*medium),
            None => Ok(rustix::fs::fdatasync(&*self.file)?),
        }
    }

    /// Makes the file itself persistent, its length above all, after it was cut.
    pub(super) fn sync_file(&self) -> io::Result<()> {
        match &self.double {
            Some((double, medium)) => double.sync(*medium),
            None => self.file.sync_all(),
        }
    }

    /// Makes these bytes persistent, whatever it takes.
    pub fn persist(&self, at: u64, len: usize) -> io::Result<()> {
        self.flush(at, len);
        self.fence();
        self.sync()
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("len", &self.len())
            .field("persistence", &self.persistence)
            .finish_non_exhaustive()
    }
}

fn to_usize(len: u64) -> io::Result<usize> {
    usize::try_from(len)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "longer than the address space"))
}
