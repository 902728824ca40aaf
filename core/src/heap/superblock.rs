//! The first page of the image.
//!
//! It says what the image is and where everything else is found: the roots of the heap's user, and the allocator's
//! heads. It is written by the first transaction of a dataset, at LSN 0, and holds nothing that is not in the bytes
//! of transactions, so it is the same on every node (I5). It names the dataset, as the log's state does, so that an
//! image and a log that do not belong together are told apart; whose node they are on, the log's header says.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::PAGE_LEN;
use super::offset::Offset;
use super::source::HeapError;
use super::view::View;

/// How many roots the user of a heap has.
pub const ROOTS: usize = 16;
/// How many tables of page descriptors there may be; see `alloc::desc`.
pub(super) const TABLES: usize = 24;
/// How many size classes the superblock has room for; see `alloc::classes`.
pub(super) const CLASSES_MAX: usize = 64;
/// How many bins of free runs the superblock has room for; see `alloc::extent`.
pub(super) const BINS_MAX: usize = 160;

const MAGIC: u64 = u64::from_le_bytes(*b"farkeep\0");
/// Raised whenever a program of this version could not read the image, or would damage it.
const VERSION: u32 = 2;

/// Page 0. Page numbers are 32 bits; page 0 stands for none.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Superblock {
    magic: u64,
    version: u32,
    page_len: u32,
    image_len: u64,
    used_bytes: u64,
    /// Pages in use or on a free list; behind them lies what was never used, or was given back.
    top: u32,
    reserved_pad: [u8; 4],
    dataset_id: [u8; 16],
    reserved: [u8; 8],
    roots: [Offset; ROOTS],
    tables: [u32; TABLES],
    partial: [u32; CLASSES_MAX],
    bins: [u32; BINS_MAX],
    reserved_tail: [u8; 2912],
}

const _: () = assert!(size_of::<Superblock>() == PAGE_LEN as usize);

macro_rules! field_at {
    ($field:ident) => {
        Offset::new(offset_of!(Superblock, $field) as u64)
    };
}

pub(super) const MAGIC_AT: Offset = field_at!(magic);
pub(super) const VERSION_AT: Offset = field_at!(version);
pub(super) const PAGE_LEN_AT: Offset = field_at!(page_len);
pub(super) const IMAGE_LEN_AT: Offset = field_at!(image_len);
pub(super) const USED_BYTES_AT: Offset = field_at!(used_bytes);
pub(super) const TOP_AT: Offset = field_at!(top);
pub(super) const DATASET_ID_AT: Offset = field_at!(dataset_id);
pub(super) const BINS_AT: Offset = field_at!(bins);

#[inline]
pub(super) const fn root_at(slot: usize) -> Offset {
    Offset::new(offset_of!(Superblock, roots) as u64 + 8 * slot as u64)
}

/// Where the first page of descriptor table `index` is said.
#[inline]
pub(super) const fn table_at(index: usize) -> Offset {
    Offset::new(offset_of!(Superblock, tables) as u64 + 4 * index as u64)
}

/// Where the list of slabs of a class with room begins.
#[inline]
pub(super) const fn partial_at(class: usize) -> Offset {
    Offset::new(offset_of!(Superblock, partial) as u64 + 4 * class as u64)
}

/// Where the list of the free runs in a bin begins.
#[inline]
pub(super) const fn bin_at(bin: usize) -> Offset {
    Offset::new(offset_of!(Superblock, bins) as u64 + 4 * bin as u64)
}

/// What the first transaction stores to make the image ours.
pub(super) const IDENTITY: [(Offset, u64); 3] =
    [(MAGIC_AT, MAGIC), (VERSION_AT, VERSION as u64), (PAGE_LEN_AT, PAGE_LEN)];

/// Whether the image is one this program can work on, at a moment when it may be ahead of what is known of it: a crash
/// leaves it with records that are later than the checkpoint, growth among them.
/// Its length lies between the checkpoint's, which is the view's, and `longest`.
pub(super) fn check_format(view: &View, longest: u64) -> Result<(), HeapError> {
    let foreign = |what, found, expected| Err(HeapError::Foreign { what, found, expected });
    if view.image_len() < PAGE_LEN {
        return foreign("image length", view.image_len(), PAGE_LEN);
    }
    let magic = view.peek::<u64>(MAGIC_AT);
    if magic != MAGIC {
        return foreign("magic", magic, MAGIC);
    }
    let version = view.peek::<u32>(VERSION_AT);
    if version != VERSION {
        return foreign("format version", version.into(), VERSION.into());
    }
    let page_len = view.peek::<u32>(PAGE_LEN_AT);
    if u64::from(page_len) != PAGE_LEN {
        return foreign("page length", page_len.into(), PAGE_LEN);
    }
    let image_len = view.peek::<u64>(IMAGE_LEN_AT);
    if image_len < view.image_len() || image_len > longest {
        return foreign("image length", image_len, view.image_len());
    }
    Ok(())
}

/// Whether the image is this dataset's: another pool's may have been put in its place.
pub(super) fn check_dataset(view: &View, dataset_id: [u8; 16]) -> Result<(), HeapError> {
    let found = view.peek::<[u8; 16]>(DATASET_ID_AT);
    if found == dataset_id { Ok(()) } else { Err(HeapError::OtherDataset { found, expected: dataset_id }) }
}

/// Whether the image is one this program can work on, and as long as it says.
pub(super) fn check(view: &View) -> Result<(), HeapError> {
    check_format(view, u64::MAX)?;
    let image_len = view.peek::<u64>(IMAGE_LEN_AT);
    if image_len != view.image_len() {
        let (what, found, expected) = ("image length", image_len, view.image_len());
        return Err(HeapError::Foreign { what, found, expected });
    }
    Ok(())
}
