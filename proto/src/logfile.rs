//! The layout of a log file in front of its window: who the log is, and the state that outlives the process.
//!
//! A log file (or devdax device) is `[identity | state slot A | state slot B | replay limit | unused | window]`. The identity is
//! written once, when the file is made, with the magic number last: a file without it was never finished. The state
//! is written alternately to the two slots; of those whose checksum is right the one with the higher sequence number
//! counts, so a crash in the middle of an update leaves the state before it.
//!
//! What is in the window is described in [`crate::window`] and [`crate::redo`].

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::redo::crc32c;

/// Where the identity lies.
pub const IDENTITY_AT: u64 = 0;
/// Where the two state slots lie.
pub const STATE_AT: [u64; 2] = [4096, 8192];
/// Where the replay limit lies: a little-endian 64-bit LSN, at or above every `applied_lsn` that the image may show
/// bytes of. It is persistent before the first of those bytes is stored (on a disk: as soon as the next sync).
pub const REPLAY_LIMIT_AT: u64 = 12288;
/// Where the window begins.
pub const WINDOW_AT: u64 = 64 << 10;
/// The first eight bytes of a log file.
pub const MAGIC: [u8; 8] = *b"FARKLOG\0";
/// The first eight bytes of a log file that is being made.
pub const MAGIC_UNFINISHED: [u8; 8] = *b"FARKMAKE";
/// How many reigns an epoch history remembers.
pub const MAX_REIGNS: usize = 64;

/// The identity of a log file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawIdentity {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`crate::redo::FORMAT_VERSION`].
    pub format_version: U32,
    /// Zero.
    pub reserved: U32,
    /// The node that the pool belongs to: random.
    pub node_id: [u8; 16],
    /// Length of the ring in bytes.
    pub ring_len: U64,
    /// Length of a segment in bytes.
    pub segment_len: U64,
    /// Zero.
    pub padding: [u8; 12],
    /// CRC32C of all bytes before it.
    pub crc: U32,
}

/// Length of [`RawIdentity`].
pub const IDENTITY_LEN: usize = 64;
const _: () = assert!(size_of::<RawIdentity>() == IDENTITY_LEN);

impl RawIdentity {
    /// The checksum that belongs into `crc`.
    pub fn checksum(&self) -> u32 {
        crc32c(&self.as_bytes()[..IDENTITY_LEN - 4])
    }
}

/// One reign in the epoch history.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct RawReign {
    /// The epoch's number.
    pub epoch: U32,
    /// The random bytes that tell two reigns of the same number apart; in hexadecimal, Redis's `master_replid`.
    pub replid: [u8; 20],
    /// Where the reign's first record begins.
    pub start_lsn: U64,
}

/// A state slot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct RawState {
    /// CRC32C of all bytes behind this field.
    pub crc: U32,
    /// How many entries of `history` count.
    pub history_len: U32,
    /// Rises with every update; the slot with the higher number counts.
    pub seq: U64,
    /// The dataset in the pool; zero as long as there is none.
    pub dataset_id: [u8; 16],
    /// Everything before it is persistent in the image.
    pub checkpoint_lsn: U64,
    /// The checksum of the record that ends at `checkpoint_lsn`.
    pub checkpoint_crc: U32,
    /// The epoch of that record.
    pub checkpoint_epoch: U32,
    /// The ring is known to hold nothing usable before this position.
    pub oldest_lsn: U64,
    /// The highest epoch that this node has promised to take part in; it takes part in none below.
    pub promised_epoch: U32,
    /// See [`STATE_MID_SYNC`].
    pub flags: U32,
    /// Length of the image at `checkpoint_lsn`, in bytes.
    pub image_len: U64,
    /// How many bytes of the image, from its beginning on, a delta sync has settled; 0 while none is under way.
    pub sync_cursor: U64,
    /// The epoch of the last reign that this node has followed and has not been promoted above since; 0: none.
    pub followed_epoch: U32,
    /// Which promotion of the number of `promised_epoch` the promise is to; zero: any.
    pub promised_claim: [u8; 8],
    /// Zero.
    pub padding: [u8; 36],
    /// The reigns that the log has seen, oldest first.
    pub history: [RawReign; MAX_REIGNS],
}

/// Length of [`RawState`].
pub const STATE_LEN: usize = 128 + MAX_REIGNS * 32;
const _: () = assert!(size_of::<RawReign>() == 32);
const _: () = assert!(size_of::<RawState>() == STATE_LEN);
const _: () = assert!(STATE_LEN <= 4096, "a state slot fits its page");

/// State flag: the image is in the middle of a delta sync and of no use by itself.
pub const STATE_MID_SYNC: u32 = 1;

impl RawState {
    /// The checksum that belongs into `crc`.
    pub fn checksum(&self) -> u32 {
        crc32c(&self.as_bytes()[4..])
    }
}
