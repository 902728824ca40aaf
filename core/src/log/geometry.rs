//! Where in the ring an LSN lies, and where records may begin.
//!
//! A record never crosses a segment's end, and where fewer than [`MIN_ROOM`] bytes are left in a segment none
//! begins. So every segment begins with a record, and both rules follow from the LSN alone: the scanner needs no
//! marks in the ring to skip what the appender skipped.

use farkeep_proto::redo::MIN_ROOM;

use crate::lsn::Lsn;

/// The shortest segment, in bytes.
pub const SEGMENT_LEN_MIN: u64 = 4096;
/// The longest segment, in bytes: a record's length must fit 32 bits.
pub const SEGMENT_LEN_MAX: u64 = 1 << 30;
/// The fewest segments that make a ring.
pub const SEGMENTS_MIN: u64 = 4;

/// Length of the ring and of its segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    ring_len: u64,
    segment_len: u64,
}

impl Geometry {
    /// A ring of `ring_len` bytes in segments of `segment_len`; `None` if that is no possible ring: segments are a
    /// power of two long, and the ring is a whole number of at least [`SEGMENTS_MIN`] of them.
    pub const fn new(ring_len: u64, segment_len: u64) -> Option<Geometry> {
        let segment_fits =
            segment_len.is_power_of_two() && segment_len >= SEGMENT_LEN_MIN && segment_len <= SEGMENT_LEN_MAX;
        if segment_fits && ring_len.is_multiple_of(segment_len) && ring_len / segment_len >= SEGMENTS_MIN {
            Some(Geometry { ring_len, segment_len })
        } else {
            None
        }
    }

    /// Length of the ring in bytes.
    #[inline]
    pub const fn ring_len(&self) -> u64 {
        self.ring_len
    }

    /// Length of a segment in bytes.
    #[inline]
    pub const fn segment_len(&self) -> u64 {
        self.segment_len
    }

    /// Where in the ring the byte at `lsn` lies.
    #[inline]
    pub const fn ring_offset(&self, lsn: Lsn) -> u64 {
        lsn.get() % self.ring_len
    }

    /// Bytes from `lsn` to the end of its segment; at least one.
    #[inline]
    pub const fn room(&self, lsn: Lsn) -> u64 {
        self.segment_len - (lsn.get() & (self.segment_len - 1))
    }

    /// Where the record that follows a record ending at `lsn` begins.
    #[inline]
    pub fn record_start(&self, lsn: Lsn) -> Lsn {
        let room = self.room(lsn);
        if room < MIN_ROOM { lsn + room } else { lsn }
    }

    /// The start of the first segment that begins at or behind `lsn`.
    #[inline]
    pub fn segment_start_from(&self, lsn: Lsn) -> Lsn {
        Lsn::new(lsn.get().next_multiple_of(self.segment_len))
    }

    /// How many bytes of log may be in use at once. The last segment is kept back for the start of a new reign,
    /// which must be possible when nothing else is.
    #[inline]
    pub const fn capacity(&self) -> u64 {
        self.ring_len - self.segment_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_record_begins_where_a_header_and_a_range_would_not_fit() {
        let geometry = Geometry::new(16384, 4096).unwrap();
        assert_eq!(geometry.record_start(Lsn::new(4032)), Lsn::new(4032));
        assert_eq!(geometry.record_start(Lsn::new(4040)), Lsn::new(4096));
        assert_eq!(geometry.record_start(Lsn::new(4096)), Lsn::new(4096));
        assert_eq!(geometry.room(Lsn::new(4096)), 4096);
        assert_eq!(geometry.ring_offset(Lsn::new(16384 + 8)), 8);
    }

    #[test]
    fn impossible_rings_are_refused() {
        for (ring, segment) in
            [(0, 4096), (16384, 0), (16384, 5000), (12288, 4096), (20000, 4096), (8192, 2048)]
        {
            assert_eq!(Geometry::new(ring, segment), None, "{ring}/{segment}");
        }
    }
}
