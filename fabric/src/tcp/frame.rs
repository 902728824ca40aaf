//! What travels on a data channel: frame headers one way, acknowledgements the other. All numbers little-endian.

use farkeep_core::lsn::Lsn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::window::{FabricError, Reported};

/// Length of a frame's header.
pub const HEADER_LEN: usize = 24;
/// Length of an acknowledgement.
pub const ACK_LEN: usize = 32;
/// Flag: everything up to the end of this frame is to be persisted and acknowledged with this frame's number.
pub const FLUSH: u32 = 1;
const KNOWN_FLAGS: u32 = FLUSH;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    offset: U64,
    len: U32,
    flags: U32,
    seq: U64,
}

const _: () = assert!(size_of::<RawHeader>() == HEADER_LEN);

/// A frame's header: store the `len` bytes that follow at `offset` of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the bytes go in the window.
    pub offset: u64,
    /// How many bytes follow; may be none.
    pub len: u32,
    /// Whether the frame ends a batch.
    pub flush: bool,
    /// The number of the flush that covers this frame.
    pub seq: u64,
}

impl Header {
    /// The header as it travels.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let raw = RawHeader {
            offset: self.offset.into(),
            len: self.len.into(),
            flags: if self.flush { FLUSH } else { 0 }.into(),
            seq: self.seq.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// Reads a header and checks that its frame fits into a window of `window_len` bytes.
    ///
    /// # Errors
    /// [`FabricError::UnknownFlags`], [`FabricError::OutsideWindow`].
    pub fn from_bytes(bytes: &[u8; HEADER_LEN], window_len: u64) -> Result<Self, FabricError> {
        let raw: RawHeader = zerocopy::transmute!(*bytes);
        let (offset, len, flags) = (raw.offset.get(), raw.len.get(), raw.flags.get());
        if flags & !KNOWN_FLAGS != 0 {
            return Err(FabricError::UnknownFlags { flags });
        }
        if offset.checked_add(u64::from(len)).is_none_or(|end| end > window_len) {
            return Err(FabricError::OutsideWindow { offset, len: u64::from(len), window_len });
        }
        Ok(Self { offset, len, flush: flags & FLUSH != 0, seq: raw.seq.get() })
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawAck {
    seq: U64,
    durable: U64,
    applied: U64,
    checkpoint: U64,
}

const _: () = assert!(size_of::<RawAck>() == ACK_LEN);

/// A cumulative acknowledgement: every flush up to `seq` is persistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The number of the last flush that is persistent.
    pub seq: u64,
    /// How far the follower is.
    pub reported: Reported,
}

impl Ack {
    /// The acknowledgement as it travels.
    pub fn to_bytes(self) -> [u8; ACK_LEN] {
        let raw = RawAck {
            seq: self.seq.into(),
            durable: self.reported.durable.get().into(),
            applied: self.reported.applied.get().into(),
            checkpoint: self.reported.checkpoint.get().into(),
        };
        zerocopy::transmute!(raw)
    }

    /// Reads an acknowledgement.
    pub fn from_bytes(bytes: &[u8; ACK_LEN]) -> Self {
        let raw: RawAck = zerocopy::transmute!(*bytes);
        Self {
            seq: raw.seq.get(),
            reported: Reported {
                durable: Lsn::new(raw.durable.get()),
                applied: Lsn::new(raw.applied.get()),
                checkpoint: Lsn::new(raw.checkpoint.get()),
            },
        }
    }
}
