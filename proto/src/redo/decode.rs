//! Believing a record, and reading its ranges.

use zerocopy::FromBytes;

use super::{
    COMMITTED_DELTA_UNIT, EXTENDED_RANGE_HEADER_LEN, ExtendedKind, Flags, HEADER_LEN, MAX_IMAGE_LEN,
    RANGE_HEADER_LEN, RECORD_ALIGN, RawHeader, crc32c,
};

/// Why the bytes at a place are not the record that belongs there. At the end of a log this is the normal case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// The length is impossible, or longer than what is left of the segment.
    #[error("record length {found} in {room} bytes of room")]
    Length {
        /// The length the header names.
        found: u32,
        /// Bytes up to the segment's end.
        room: u64,
    },
    /// The record belongs somewhere else: an earlier lap of the ring.
    #[error("record of LSN {found} where LSN {expected} was expected")]
    Lsn {
        /// The LSN the header names.
        found: u64,
        /// The LSN of the place.
        expected: u64,
    },
    /// The record does not continue its predecessor.
    #[error("record continues checksum {found:#010x}, its predecessor's is {expected:#010x}")]
    Chain {
        /// The predecessor's checksum according to the header.
        found: u32,
        /// The predecessor's checksum.
        expected: u32,
    },
    /// The record's epoch is lower than its predecessor's.
    #[error("record of epoch {found} behind one of epoch {floor}")]
    Epoch {
        /// The epoch the header names.
        found: u32,
        /// The predecessor's epoch.
        floor: u32,
    },
    /// The bytes are not what they were when the record was built.
    #[error("record checksum {found:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The checksum in the header.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
}

/// A record whose checksum is right and that nevertheless makes no sense: a newer version's, or a programming error.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Flags that this version does not know.
    #[error("unknown record flags {bits:#06x}")]
    Flags {
        /// The flags.
        bits: u16,
    },
    /// A kind of range that this version does not know.
    #[error("unknown range kind {number}")]
    Kind {
        /// The kind's number.
        number: u32,
    },
    /// A range header or its bytes lie beyond the record's end.
    #[error("range {index} ends beyond its record")]
    Truncated {
        /// Which range it is, counted from 0.
        index: u16,
    },
    /// A range without length, or one beyond any image.
    #[error("range {index} of {len} bytes at offset {offset:#x} is impossible")]
    Extent {
        /// Which range it is, counted from 0.
        index: u16,
        /// Its offset.
        offset: u64,
        /// Its length.
        len: u64,
    },
}

/// A record that has been validated, in the memory it was read from.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    header: RawHeader,
}

/// The record at the start of `bytes`, which reach up to the end of the segment, if it is the one that belongs
/// there: position `lsn`, predecessor's checksum `prev_crc`, epoch not below `epoch_floor`. Never panics, whatever
/// the bytes.
#[inline]
pub fn validate(bytes: &[u8], lsn: u64, prev_crc: u32, epoch_floor: u32) -> Result<Record<'_>, Invalid> {
    let room = bytes.len() as u64;
    let Ok((header, _)) = RawHeader::read_from_prefix(bytes) else {
        return Err(Invalid::Length { found: 0, room });
    };
    let len = header.len.get();
    if len < HEADER_LEN as u32 || !(len as usize).is_multiple_of(RECORD_ALIGN) || u64::from(len) > room {
        return Err(Invalid::Length { found: len, room });
    }
    if header.lsn.get() != lsn {
        return Err(Invalid::Lsn { found: header.lsn.get(), expected: lsn });
    }
    if header.prev_crc.get() != prev_crc {
        return Err(Invalid::Chain { found: header.prev_crc.get(), expected: prev_crc });
    }
    if header.epoch.get() < epoch_floor {
        return Err(Invalid::Epoch { found: header.epoch.get(), floor: epoch_floor });
    }
    let bytes = &bytes[..len as usize];
    let computed = crc32c(&bytes[4..]);
    if computed != header.crc.get() {
        return Err(Invalid::Checksum { found: header.crc.get(), computed });
    }
    Ok(Record { bytes, header })
}

impl<'a> Record<'a> {
    /// The whole record as it lies in the log.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the record begins.
    pub fn lsn(&self) -> u64 {
        self.header.lsn.get()
    }

    /// Where the record ends.
    pub fn end_lsn(&self) -> u64 {
        self.lsn() + self.bytes.len() as u64
    }

    /// The record's checksum.
    pub fn crc(&self) -> u32 {
        self.header.crc.get()
    }

    /// The epoch of the leader that appended it.
    pub fn epoch(&self) -> u32 {
        self.header.epoch.get()
    }

    /// The `committed_lsn` that was known when the record was appended; `None` if it lay too far back to be told.
    pub fn committed_lsn(&self) -> Option<u64> {
        let delta = self.header.committed_delta.get();
        (delta != u32::MAX).then(|| self.lsn().saturating_sub(u64::from(delta) * COMMITTED_DELTA_UNIT))
    }

    /// How many ranges the record says it has.
    pub fn range_count(&self) -> u16 {
        self.header.range_count.get()
    }

    /// Whether the record ends a transaction, and the like. Fails on flags that this version does not know, since
    /// what they ask for cannot be done.
    pub fn flags(&self) -> Result<Flags, Malformed> {
        let bits = self.header.flags.get();
        Flags::from_bits(bits).ok_or(Malformed::Flags { bits })
    }

    /// What the record does, in the order in which it has to be done.
    pub fn ranges(&self) -> Ranges<'a> {
        Ranges { rest: &self.bytes[HEADER_LEN..], index: 0, count: self.range_count() }
    }
}

/// One thing that a record does to the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Range<'a> {
    /// Store `bytes` at `offset`.
    Bytes {
        /// Where.
        offset: u64,
        /// What; at least one byte.
        bytes: &'a [u8],
    },
    /// Store `len` zeros at `offset`.
    Fill {
        /// Where.
        offset: u64,
        /// How many; at least one.
        len: u32,
    },
    /// Make the image `image_len` bytes long.
    Grow {
        /// The new length in bytes.
        image_len: u64,
    },
}

/// The ranges of a record. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Ranges<'a> {
    rest: &'a [u8],
    index: u16,
    count: u16,
}

impl<'a> Ranges<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    #[inline]
    fn parse(&mut self) -> Result<Range<'a>, Malformed> {
        let index = self.index;
        let truncated = Malformed::Truncated { index };
        let (head, rest) = self.rest.split_first_chunk::<RANGE_HEADER_LEN>().ok_or(truncated)?;
        let head = u64::from_le_bytes(*head);
        let (offset, short_len) = (head & (MAX_IMAGE_LEN - 1), (head >> 48) as usize);
        if short_len > 0 {
            if offset + short_len as u64 > MAX_IMAGE_LEN {
                return Err(Malformed::Extent { index, offset, len: short_len as u64 });
            }
            self.rest = rest;
            let bytes = self.take(short_len).ok_or(truncated)?;
            return Ok(Range::Bytes { offset, bytes });
        }
        self.parse_extended(offset)
    }

    fn parse_extended(&mut self, offset: u64) -> Result<Range<'a>, Malformed> {
        let index = self.index;
        let truncated = Malformed::Truncated { index };
        let head = self.take(EXTENDED_RANGE_HEADER_LEN).ok_or(truncated)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (len, number) = (word(8), word(12));
        let kind = ExtendedKind::from_number(number).ok_or(Malformed::Kind { number })?;
        let impossible = match kind {
            ExtendedKind::Grow => len != 0,
            ExtendedKind::Bytes | ExtendedKind::Fill => len == 0 || offset + u64::from(len) > MAX_IMAGE_LEN,
        };
        if impossible {
            return Err(Malformed::Extent { index, offset, len: u64::from(len) });
        }
        Ok(match kind {
            ExtendedKind::Bytes => Range::Bytes { offset, bytes: self.take(len as usize).ok_or(truncated)? },
            ExtendedKind::Fill => Range::Fill { offset, len },
            ExtendedKind::Grow => Range::Grow { image_len: offset },
        })
    }
}

impl<'a> Iterator for Ranges<'a> {
    type Item = Result<Range<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.index == self.count {
            return None;
        }
        let range = self.parse();
        self.index = if range.is_ok() { self.index + 1 } else { self.count };
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RecordBuilder, RecordMeta, record_len};
    use super::*;

    fn meta(lsn: u64) -> RecordMeta {
        RecordMeta { lsn, prev_crc: 0xabcd, epoch: 3, committed_lsn: lsn - 16, flags: Flags::COMMIT }
    }

    fn sample() -> Vec<u8> {
        let long = vec![0x5a; 70_000];
        let mut buf = vec![0xff; record_len(8 + 5 + 16 + 70_000 + 16 + 16)];
        let mut builder = RecordBuilder::new(&mut buf);
        builder.grow(1 << 30);
        builder.fill(4096, 1 << 20);
        builder.bytes(0x1234_5678_9abc, b"hello");
        builder.bytes(77, &long);
        builder.finish(meta(1024));
        buf
    }

    #[test]
    fn every_kind_of_range_comes_back() {
        let mut buf = sample();
        buf.extend([0xee; 40]);
        let record = validate(&buf, 1024, 0xabcd, 3).unwrap();
        assert_eq!(record.end_lsn(), 1024 + buf.len() as u64 - 40);
        assert_eq!(record.committed_lsn(), Some(1008));
        assert_eq!(record.flags(), Ok(Flags::COMMIT));
        let ranges: Vec<_> = record.ranges().map(Result::unwrap).collect();
        assert_eq!(
            ranges,
            [
                Range::Grow { image_len: 1 << 30 },
                Range::Fill { offset: 4096, len: 1 << 20 },
                Range::Bytes { offset: 0x1234_5678_9abc, bytes: b"hello" },
                Range::Bytes { offset: 77, bytes: &[0x5a; 70_000] },
            ]
        );
    }

    #[test]
    fn a_record_is_only_valid_in_its_own_place() {
        let buf = sample();
        let place = |lsn, prev, epoch| validate(&buf, lsn, prev, epoch).unwrap_err();
        assert!(matches!(place(2048, 0xabcd, 3), Invalid::Lsn { .. }));
        assert!(matches!(place(1024, 0xabce, 3), Invalid::Chain { .. }));
        assert!(matches!(place(1024, 0xabcd, 4), Invalid::Epoch { .. }));
        assert!(validate(&buf, 1024, 0xabcd, 2).is_ok(), "an epoch may rise");
        assert!(matches!(validate(&buf[..buf.len() - 8], 1024, 0xabcd, 3), Err(Invalid::Length { .. })));
    }

    #[test]
    fn every_flipped_bit_of_a_small_record_is_found() {
        let mut buf = vec![0; record_len(8 + 5)];
        let mut builder = RecordBuilder::new(&mut buf);
        builder.bytes(40, b"hello");
        builder.finish(meta(64));
        for bit in 0..buf.len() * 8 {
            buf[bit / 8] ^= 1 << (bit % 8);
            assert!(validate(&buf, 64, 0xabcd, 3).is_err(), "bit {bit}");
            buf[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(validate(&buf, 64, 0xabcd, 3).is_ok());
    }

    #[test]
    fn a_record_too_far_from_the_commit_does_not_tell_it() {
        let mut buf = vec![0; record_len(0)];
        let lsn = 1 << 40;
        RecordBuilder::new(&mut buf).finish(RecordMeta { committed_lsn: 0, ..meta(lsn) });
        assert_eq!(validate(&buf, lsn, 0xabcd, 0).unwrap().committed_lsn(), None);
    }

    #[test]
    fn ranges_that_make_no_sense_are_errors_and_end_the_iteration() {
        let cases: [(&[u8], Malformed); 4] = [
            (&(5u64 << 48).to_le_bytes(), Malformed::Truncated { index: 0 }),
            (&[0; 16], Malformed::Extent { index: 0, offset: 0, len: 0 }),
            (&[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0], Malformed::Kind { number: 9 }),
            (
                &(0x0010_ffff_ffff_fffe_u64).to_le_bytes(),
                Malformed::Extent { index: 0, offset: 0xffff_ffff_fffe, len: 16 },
            ),
        ];
        for (payload, expected) in cases {
            let mut ranges = Ranges { rest: payload, index: 0, count: 3 };
            assert_eq!(ranges.next(), Some(Err(expected)));
            assert_eq!(ranges.next(), None);
        }
    }
}
