//! A place in the image.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A byte offset into the image; what a pointer is to ordinary memory. It means the same on every node and after
/// every restart. Offset 0 is the superblock, which no structure ever points to, so it serves as null.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Offset(u64);

impl Offset {
    /// No place.
    pub const NULL: Offset = Offset(0);

    /// The place `bytes` bytes from the start of the image.
    #[inline]
    pub const fn new(bytes: u64) -> Offset {
        Offset(bytes)
    }

    /// The distance from the start of the image in bytes.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is [`Offset::NULL`].
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The place `bytes` further on. Panics on overflow, which only a corrupt offset can bring about.
    #[inline]
    #[track_caller]
    pub const fn add(self, bytes: u64) -> Offset {
        match self.0.checked_add(bytes) {
            Some(sum) => Offset(sum),
            None => panic!("an image offset overflowed"),
        }
    }
}

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offset({:#x})", self.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
