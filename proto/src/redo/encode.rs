//! Building a record in place.

use zerocopy::IntoBytes;

use super::{
    COMMITTED_DELTA_UNIT, EXTENDED_RANGE_HEADER_LEN, ExtendedKind, Flags, HEADER_LEN, MAX_IMAGE_LEN,
    MAX_RANGES, MAX_SHORT_RANGE_LEN, RANGE_HEADER_LEN, RECORD_ALIGN, RawHeader, committed_delta, crc32c,
};

/// What a record's header says, apart from what follows from its ranges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordMeta {
    /// The record's position in the stream, in bytes.
    pub lsn: u64,
    /// The checksum of the record before it.
    pub prev_crc: u32,
    /// The epoch of the leader that appends it.
    pub epoch: u32,
    /// The `committed_lsn` known now; not above `lsn`.
    pub committed_lsn: u64,
    /// Whether the record ends a transaction, and the like.
    pub flags: Flags,
}

/// Builds one record in a buffer that is exactly as long as the record will be
/// (see [`record_len`](super::record_len)). Until [`RecordBuilder::finish`] has run the buffer holds nothing that
/// would validate.
#[derive(Debug)]
pub struct RecordBuilder<'a> {
    buf: &'a mut [u8],
    at: usize,
    count: usize,
}

impl<'a> RecordBuilder<'a> {
    /// Begins a record. Panics if the buffer is no possible record length.
    #[inline]
    pub fn new(buf: &'a mut [u8]) -> RecordBuilder<'a> {
        assert!(
            buf.len() >= HEADER_LEN
                && buf.len().is_multiple_of(RECORD_ALIGN)
                && buf.len() <= u32::MAX as usize,
            "no record is {} bytes long",
            buf.len()
        );
        RecordBuilder { buf, at: HEADER_LEN, count: 0 }
    }

    /// Adds bytes to be stored at `offset`. Panics if they are none or do not fit.
    #[inline]
    pub fn bytes(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert!(!bytes.is_empty(), "a range without bytes");
        debug_assert!(offset + bytes.len() as u64 <= MAX_IMAGE_LEN, "offset {offset:#x} is beyond any image");
        if bytes.len() <= MAX_SHORT_RANGE_LEN {
            let (header, rest) = self.buf[self.at..].split_at_mut(RANGE_HEADER_LEN);
            header.copy_from_slice(&(offset | (bytes.len() as u64) << 48).to_le_bytes());
            rest[..bytes.len()].copy_from_slice(bytes);
            self.at += RANGE_HEADER_LEN + bytes.len();
            self.count += 1;
        } else {
            self.extended(ExtendedKind::Bytes, offset, bytes.len() as u32);
            self.buf[self.at..][..bytes.len()].copy_from_slice(bytes);
            self.at += bytes.len();
        }
    }

    /// Adds `len` zeros to be stored at `offset`. Panics if they are none.
    pub fn fill(&mut self, offset: u64, len: u32) {
        assert!(len > 0, "a fill of nothing");
        self.extended(ExtendedKind::Fill, offset, len);
    }

    /// Adds that the image is to become `image_len` bytes long.
    pub fn grow(&mut self, image_len: u64) {
        self.extended(ExtendedKind::Grow, image_len, 0);
    }

    fn extended(&mut self, kind: ExtendedKind, offset: u64, len: u32) {
        assert!(offset < MAX_IMAGE_LEN, "offset {offset:#x} is beyond any image");
        let header = &mut self.buf[self.at..][..EXTENDED_RANGE_HEADER_LEN];
        header[..8].copy_from_slice(&offset.to_le_bytes());
        header[8..12].copy_from_slice(&len.to_le_bytes());
        header[12..].copy_from_slice(&(kind as u32).to_le_bytes());
        self.at += EXTENDED_RANGE_HEADER_LEN;
        self.count += 1;
    }

    /// Pads the record, writes its header and returns its checksum, which the next record bears as `prev_crc`.
    /// Panics if the ranges do not fill the buffer up to its padding, or are too many.
    #[inline]
    pub fn finish(self, meta: RecordMeta) -> u32 {
        let len = self.buf.len();
        assert!(
            self.at.next_multiple_of(RECORD_ALIGN) == len && self.count <= MAX_RANGES,
            "{} ranges of {} bytes in a record of {len}",
            self.count,
            self.at
        );
        debug_assert!(meta.committed_lsn <= meta.lsn, "committed beyond the record");
        debug_assert!(meta.committed_lsn.is_multiple_of(COMMITTED_DELTA_UNIT));
        self.buf[self.at..].fill(0);
        let mut header = RawHeader {
            crc: 0.into(),
            len: (len as u32).into(),
            lsn: meta.lsn.into(),
            prev_crc: meta.prev_crc.into(),
            epoch: meta.epoch.into(),
            committed_delta: committed_delta(meta.lsn, meta.committed_lsn).into(),
            flags: meta.flags.bits().into(),
            range_count: (self.count as u16).into(),
        };
        self.buf[4..HEADER_LEN].copy_from_slice(&header.as_bytes()[4..]);
        let crc = crc32c(&self.buf[4..]);
        header.crc = crc.into();
        self.buf[..4].copy_from_slice(header.crc.as_bytes());
        crc
    }
}
