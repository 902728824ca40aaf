//! The redo record: the one unit of change that is written to a log, sent to a follower and replayed into an image.
//!
//! A record is physical. It says which bytes to store where in the image, so replaying one is a copy, needs no
//! knowledge of what the bytes mean, and may be done twice. A transaction is one record, or several of which only
//! the last bears [`Flags::COMMIT`].
//!
//! A reader never trusts a pointer to the end of the log. It believes a record only if everything about it fits the
//! place it is read from: its checksum, its own LSN, the checksum of its predecessor and an epoch that is not lower
//! than the predecessor's. A torn write, an earlier lap of the ring and the suffix of a dead leader all fail one of
//! these, so the end of the log is where validation stops.
//!
//! This module is the layout and nothing else: it builds a record in memory that the caller owns ([`RecordBuilder`])
//! and reads one out of memory that the caller holds still ([`validate`]). Where records go, how a transaction is cut
//! at a segment's end and what a crash leaves of it is the business of the log. The same layout is described for
//! people in `docs/log-format.md`; a test holds the two against each other.

mod decode;
mod encode;

pub use decode::{Invalid, Malformed, Range, Ranges, Record, validate};
pub use encode::{RecordBuilder, RecordMeta};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of everything in this module. A log of another version is refused.
pub const FORMAT_VERSION: u32 = 1;
/// Length of a record's header in bytes.
pub const HEADER_LEN: usize = 32;
/// Records begin at multiples of this many bytes, and their length is one.
pub const RECORD_ALIGN: usize = 8;
/// Length of the header of a range whose bytes are fewer than 64 KiB.
pub const RANGE_HEADER_LEN: usize = 8;
/// Length of the header of any other range.
pub const EXTENDED_RANGE_HEADER_LEN: usize = 16;
/// Where fewer bytes than this are left in a segment no record begins: writer and reader go on at the next segment.
pub const MIN_ROOM: u64 = 64;
/// The longest run of bytes that a short range header can name.
pub const MAX_SHORT_RANGE_LEN: usize = u16::MAX as usize;
/// The highest offset that a range can name, plus one.
pub const MAX_IMAGE_LEN: u64 = 1 << 48;
/// The most ranges that one record can hold.
pub const MAX_RANGES: usize = u16::MAX as usize;
/// The unit of [`RawHeader::committed_delta`] in bytes.
pub const COMMITTED_DELTA_UNIT: u64 = 8;

/// A record's header as it lies in the log.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawHeader {
    /// CRC32C of all bytes of the record behind this field, padding included.
    pub crc: U32,
    /// Length of the whole record in bytes, with header and padding.
    pub len: U32,
    /// The record's own position in the stream.
    pub lsn: U64,
    /// The `crc` of the record before it.
    pub prev_crc: U32,
    /// The epoch of the leader that appended it.
    pub epoch: U32,
    /// How far `committed_lsn` lay behind `lsn` when the record was appended, in units of
    /// [`COMMITTED_DELTA_UNIT`]. The highest value means "at least so far".
    pub committed_delta: U32,
    /// See [`Flags`].
    pub flags: U16,
    /// How many ranges follow.
    pub range_count: U16,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

/// What a record is, beyond its ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(u16);

impl Flags {
    /// A record in the middle of a transaction.
    pub const NONE: Flags = Flags(0);
    /// The last record of a transaction.
    pub const COMMIT: Flags = Flags(1);
    /// The first record of a reign. It has no ranges and is a transaction of its own.
    pub const EPOCH_START: Flags = Flags(2);
    /// All flags that this version knows.
    const KNOWN: u16 = Self::COMMIT.0 | Self::EPOCH_START.0;

    /// The flags as they lie in the log.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The flags in these bits, or `None` if there are unknown ones among them.
    pub const fn from_bits(bits: u16) -> Option<Flags> {
        if bits & !Self::KNOWN == 0 { Some(Flags(bits)) } else { None }
    }

    /// Both sets of flags.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What an extended range header says is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ExtendedKind {
    /// Store the bytes that follow.
    Bytes = 0,
    /// Store zeros; no bytes follow.
    Fill = 1,
    /// Make the image as long as the header's offset says; no bytes follow.
    Grow = 2,
}

impl ExtendedKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Option<ExtendedKind> {
        match number {
            0 => Some(ExtendedKind::Bytes),
            1 => Some(ExtendedKind::Fill),
            2 => Some(ExtendedKind::Grow),
            _ => None,
        }
    }
}

/// The checksum of records, headers and state.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// What the first record of a dataset bears as the checksum of its predecessor. It depends on the dataset, so that
/// no record of another dataset continues this one.
pub fn chain_seed(dataset_id: &[u8; 16]) -> u32 {
    crc32c(dataset_id)
}

/// Length of a record whose ranges, headers included, take `payload_len` bytes.
#[inline]
pub const fn record_len(payload_len: usize) -> usize {
    (HEADER_LEN + payload_len).next_multiple_of(RECORD_ALIGN)
}

/// Length of the header of a range of `len` bytes that travel.
#[inline]
pub const fn bytes_header_len(len: usize) -> usize {
    if len <= MAX_SHORT_RANGE_LEN { RANGE_HEADER_LEN } else { EXTENDED_RANGE_HEADER_LEN }
}

/// `committed_lsn` as a record at `lsn` carries it.
#[inline]
pub const fn committed_delta(lsn: u64, committed_lsn: u64) -> u32 {
    let units = lsn.saturating_sub(committed_lsn).div_ceil(COMMITTED_DELTA_UNIT);
    if units > u32::MAX as u64 { u32::MAX } else { units as u32 }
}
