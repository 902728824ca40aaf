//! The first page of the image.
//!
//! It says what the image is and where everything else is found. It is written by the first transaction of a
//! dataset, at LSN 0, and holds nothing but what that transaction's bytes say, so it is the same on every node (I5).

use super::offset::Offset;
use super::source::HeapError;
use super::view::View;

/// How many roots the user of a heap has.
pub const ROOTS: usize = 16;

/// The superblock's first eight bytes.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"farkeep\0");
/// Raised whenever an older program could not read the image.
pub(super) const VERSION: u32 = 1;

pub(super) const MAGIC_AT: Offset = Offset::new(0);
pub(super) const VERSION_AT: Offset = Offset::new(8);
const ROOTS_AT: u64 = 64;

#[inline]
pub(super) const fn root_at(slot: usize) -> Offset {
    Offset::new(ROOTS_AT + 8 * slot as u64)
}

/// Whether the image is one this program can work on.
pub(super) fn check(view: &View) -> Result<(), HeapError> {
    let magic = view.peek::<u64>(MAGIC_AT);
    if magic != MAGIC {
        return Err(HeapError::Foreign { what: "magic", found: magic, expected: MAGIC });
    }
    let version = view.peek::<u32>(VERSION_AT);
    if version != VERSION {
        let (found, expected) = (version.into(), VERSION.into());
        return Err(HeapError::Foreign { what: "format version", found, expected });
    }
    Ok(())
}
