//! The layout of a log window, and its tail cell.
//!
//! The window is the part of the log file that another node may write to: `[tail cell | staging slots | ring]`.
//! Offsets below count from the window's start. The ring comes last, so that its end is the window's end, and the
//! window is padded by [`WINDOW_PAD`] bytes because a flush over RDMA reads eight bytes at the place it is for.
//!
//! The tail cell is a hint that the leader writes after the data and never flushes. It saves the follower from
//! waiting for the next record to learn that the last one is committed. Nothing is ever believed because of it that
//! the records do not bear out: a torn or stale one fails its checksum or names another epoch, and is ignored.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of the tail cell.
pub const TAIL_CELL_AT: u64 = 0;
/// Length of the tail cell: one cache line.
pub const TAIL_CELL_LEN: usize = 64;
/// Offset of the gate: the number of the session whose stores count, or 0; a little-endian word on a line of its own. Only
/// the window's owner writes it. A leader that stores into the window itself (shm) looks at it after every flush, because
/// nobody can take its mapping away.
pub const GATE_AT: u64 = 64;
/// Offset of the first staging slot; what is between the gate and here is unused.
pub const STAGING_AT: u64 = 4096;
/// Number of staging slots.
pub const STAGING_SLOTS: u64 = 4;
/// Distance of two staging slots: a chunk of 1 MiB and a page for its header.
pub const STAGING_SLOT_LEN: u64 = (1 << 20) + 4096;
/// The longest chunk of the image that a staging slot holds, in bytes.
pub const MAX_CHUNK_LEN: u64 = 1 << 20;

/// Offset of the bytes of the chunk in staging slot `slot`.
pub const fn staging_at(slot: u64) -> u64 {
    STAGING_AT + slot * STAGING_SLOT_LEN + (STAGING_SLOT_LEN - MAX_CHUNK_LEN)
}

/// Offset of the ring.
pub const RING_AT: u64 = STAGING_AT + STAGING_SLOTS * STAGING_SLOT_LEN;
/// Unused bytes behind the ring, a page so that the length of a window stays a multiple of one.
pub const WINDOW_PAD: u64 = 4096;

/// Length of the window around a ring of `ring_len` bytes.
pub const fn window_len(ring_len: u64) -> u64 {
    RING_AT + ring_len + WINDOW_PAD
}

/// The tail cell as it lies in the window.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawTailCell {
    epoch: U32,
    reserved: U32,
    appended_lsn: U64,
    committed_lsn: U64,
    padding: [u8; 36],
    /// CRC32C of all bytes before it.
    crc: U32,
}

const _: () = assert!(size_of::<RawTailCell>() == TAIL_CELL_LEN);

/// What the leader says about the end of its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailCell {
    /// The leader's epoch.
    pub epoch: u32,
    /// The leader's `appended_lsn` when it wrote the cell.
    pub appended_lsn: u64,
    /// The leader's `committed_lsn` when it wrote the cell.
    pub committed_lsn: u64,
}

impl TailCell {
    /// The cell as bytes for the window.
    pub fn to_bytes(&self) -> [u8; TAIL_CELL_LEN] {
        let mut raw = RawTailCell {
            epoch: self.epoch.into(),
            reserved: U32::ZERO,
            appended_lsn: self.appended_lsn.into(),
            committed_lsn: self.committed_lsn.into(),
            padding: [0; 36],
            crc: U32::ZERO,
        };
        raw.crc = crc32c(&raw.as_bytes()[..TAIL_CELL_LEN - 4]).into();
        let mut bytes = [0; TAIL_CELL_LEN];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// The cell in these bytes, or `None` if they are torn or were never written.
    pub fn from_bytes(bytes: &[u8; TAIL_CELL_LEN]) -> Option<Self> {
        let raw = RawTailCell::read_from_bytes(bytes).expect("the lengths are equal");
        (raw.crc.get() == crc32c(&bytes[..TAIL_CELL_LEN - 4])).then(|| Self {
            epoch: raw.epoch.get(),
            appended_lsn: raw.appended_lsn.get(),
            committed_lsn: raw.committed_lsn.get(),
        })
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_tail_cell_is_ignored() {
        let old = TailCell { epoch: 1, appended_lsn: 100, committed_lsn: 80 }.to_bytes();
        let new = TailCell { epoch: 1, appended_lsn: 200, committed_lsn: 190 }.to_bytes();
        assert_eq!(TailCell::from_bytes(&old).unwrap().committed_lsn, 80);
        for cut in (8..TAIL_CELL_LEN).step_by(8) {
            let mut torn = old;
            torn[..cut].copy_from_slice(&new[..cut]);
            assert!(torn == old || torn == new || TailCell::from_bytes(&torn).is_none(), "torn at {cut}");
        }
        assert_eq!(TailCell::from_bytes(&[0; TAIL_CELL_LEN]), None, "zeroes are not a cell");
    }
}
