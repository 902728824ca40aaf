//! An entry: one key, its value or the way to it, and its expiry.
//!
//! ```text
//! kind u8 | flags u8 | capacity u16 | key length u32 | value u64 | expiry u64 | key | payload
//! ```
//!
//! `kind` is the type and its encoding. `capacity` is the length of the entry's block in units of 16 bytes
//! (0xFFFF: ask the allocator), so that an overwriting `SET` knows without visiting the allocator whether the
//! new value fits. `expiry` is in milliseconds since 1970, 0 for never.
//!
//! What `value` means is up to the encoding's [`Storage`]:
//! - a number: the number, and there is no payload;
//! - inline: the payload's [`Extent`], length and item count in one word; the payload follows the key;
//! - a block: the offset of a block `Extent | bytes`, so that a large value grows without moving the entry,
//!   and the entry stays on the page where its neighbours are;
//! - an index: the number of times it was rebuilt (unused, 0); the payload is an
//!   [`index::Root`](crate::index::Root).
//!
//! A value of type T never looks inside `value` itself: [`crate::payload`] does that for all of them.
//!
//! Only the transaction that allocates an entry writes its key. A crash shows an entry wholly or not at all.

use farkeep_core::heap::{Offset, View};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::index::{self, Kind};

/// The types a key can have. The numbers are on the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Type {
    /// A string of bytes, a number included.
    String = 1,
    /// A map from fields to values.
    Hash = 2,
}

impl Type {
    /// Redis's name for the type, as `TYPE` says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
        }
    }
}

/// How a value is stored. The numbers are on the media; the upper four bits are the [`Type`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Encoding {
    /// A string that is a 64-bit integer in its shortest form; `value` is the integer.
    Int = 0x10,
    /// A string in the entry.
    Inline = 0x11,
    /// A string in its own block.
    Block = 0x12,
    /// A hash as a list of fields and values, in the entry.
    ListInline = 0x20,
    /// A hash as a list of fields and values, in its own block.
    ListBlock = 0x21,
    /// A hash with an index of its fields; the root of the index is the payload.
    Indexed = 0x22,
}

/// Where an encoding has its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In the `value` word.
    Number,
    /// Behind the key.
    Inline,
    /// In a block that `value` points to.
    Block,
    /// An index root behind the key.
    Index,
}

impl Encoding {
    const ALL: [Self; 6] =
        [Self::Int, Self::Inline, Self::Block, Self::ListInline, Self::ListBlock, Self::Indexed];

    /// The encoding with this number.
    #[inline]
    pub fn from_kind(kind: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&encoding| encoding as u8 == kind)
    }

    /// The type it is an encoding of.
    #[inline]
    pub fn ty(self) -> Type {
        match self {
            Self::Int | Self::Inline | Self::Block => Type::String,
            Self::ListInline | Self::ListBlock | Self::Indexed => Type::Hash,
        }
    }

    /// Where it has its bytes.
    #[inline]
    pub fn storage(self) -> Storage {
        match self {
            Self::Int => Storage::Number,
            Self::Inline | Self::ListInline => Storage::Inline,
            Self::Block | Self::ListBlock => Storage::Block,
            Self::Indexed => Storage::Index,
        }
    }

    /// The encoding of the same content kept in the entry, or in a block.
    pub fn stored(self, storage: Storage) -> Self {
        match (self.ty(), storage) {
            (_, Storage::Number) => Self::Int,
            (Type::String, Storage::Block) => Self::Block,
            (Type::String, _) => Self::Inline,
            (Type::Hash, Storage::Block) => Self::ListBlock,
            (Type::Hash, Storage::Inline) => Self::ListInline,
            (Type::Hash, Storage::Index) => Self::Indexed,
        }
    }
}

/// Set on a string that Redis would report as `raw` although it is short: one that was changed in place.
pub const FLAG_RAW: u8 = 1;

/// An entry's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// An [`Encoding`].
    pub kind: u8,
    /// [`FLAG_RAW`].
    pub flags: u8,
    /// Length of the block in units of 16 bytes, or [`CAPACITY_UNKNOWN`].
    pub capacity: u16,
    /// Length of the key in bytes.
    pub key_len: u32,
    /// See the module's documentation.
    pub value: u64,
    /// Milliseconds since 1970, or 0.
    pub expire_ms: u64,
}

/// Length of a header in bytes.
pub const HEADER_LEN: u64 = size_of::<Header>() as u64;
const _: () = assert!(size_of::<Header>() == 24);
/// Length of a cache line in bytes.
const LINE_LEN: u64 = 64;
/// The block is longer than the header can say.
pub const CAPACITY_UNKNOWN: u16 = u16::MAX;
/// Where in an entry the expiry is.
pub(crate) const EXPIRE_AT: u64 = 16;

impl Header {
    /// The encoding.
    ///
    /// # Panics
    /// If the header is not one: the image is damaged, and going on would spread it.
    #[inline]
    pub fn encoding(&self) -> Encoding {
        match Encoding::from_kind(self.kind) {
            Some(encoding) => encoding,
            None => panic!("an entry of kind {:#04x}: the image is damaged", self.kind),
        }
    }

    /// Whether the key's time has come.
    #[inline]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expire_ms != 0 && self.expire_ms <= now_ms
    }
}

/// Length of a payload in bytes, and how many items it has, in one word, so that both change with one write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Items: fields of a hash, 0 for a string.
    pub items: u32,
}

const LEN_BITS: u32 = 40;

impl Extent {
    /// A payload of `len` bytes without items.
    pub const fn bytes(len: u64) -> Self {
        Self { len, items: 0 }
    }

    /// As it is stored.
    #[inline]
    pub fn word(self) -> u64 {
        debug_assert!(self.len >> LEN_BITS == 0 && self.items >> (64 - LEN_BITS) == 0);
        self.len | u64::from(self.items) << LEN_BITS
    }

    /// From how it is stored.
    #[inline]
    pub fn from_word(word: u64) -> Self {
        Self { len: word & ((1 << LEN_BITS) - 1), items: (word >> LEN_BITS) as u32 }
    }
}

/// An entry and a copy of its header. Stale as soon as the entry is written.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where it is.
    pub at: Offset,
    /// Its header.
    pub header: Header,
}

impl Entry {
    /// Reads the header of the entry at `at`.
    #[inline]
    pub fn load(view: &View, at: Offset) -> Self {
        Self { at, header: view.get(at) }
    }

    /// The key.
    #[inline]
    pub fn key(self, view: &View) -> &[u8] {
        view.bytes(self.at.add(HEADER_LEN), self.header.key_len as usize)
    }

    /// Where an inline payload begins.
    #[inline]
    pub fn payload_at(self) -> Offset {
        self.at.add(HEADER_LEN + u64::from(self.header.key_len))
    }

    /// The type.
    #[inline]
    pub fn ty(self) -> Type {
        self.header.encoding().ty()
    }
}

/// Entries, as an index holds them.
#[derive(Clone, Copy, Debug)]
pub enum Keys {}

impl Kind for Keys {
    fn hash_of(view: &View, seed: u64, at: Offset) -> u64 {
        index::hash(seed, Entry::load(view, at).key(view))
    }

    #[inline]
    fn is(view: &View, at: Offset, key: &[u8]) -> bool {
        // The value is most likely on the next line; it comes while the key is compared.
        view.prefetch(at.add(LINE_LEN));
        Entry::load(view, at).key(view) == key
    }

    #[inline]
    fn prefetch(view: &View, at: Offset) {
        view.prefetch(at);
        view.prefetch(at.add(LINE_LEN));
    }

    fn same(view: &View, first: Offset, second: Offset) -> bool {
        Entry::load(view, first).key(view) == Entry::load(view, second).key(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_names_its_encoding_and_its_type() {
        for encoding in Encoding::ALL {
            assert_eq!(Encoding::from_kind(encoding as u8), Some(encoding));
            assert_eq!(encoding as u8 >> 4, encoding.ty() as u8);
        }
        assert_eq!(Encoding::from_kind(0), None);
    }

    #[test]
    fn an_extent_survives_its_word() {
        let extent = Extent { len: 512 << 20, items: 128 };
        assert_eq!(Extent::from_word(extent.word()), extent);
    }
}
