//! The leader's end of the log: transactions become records, in place.
//!
//! The appender builds each record where it will stay, in the mapped ring, straight from the working view. It owns
//! the end of the chain (LSN, checksum, epoch) and knows two things that others tell it: how far the stream is
//! committed, which it writes into the records, and the *floor*, below which nobody needs the ring any more. It never
//! overwrites what lies behind the floor (I8), so a full ring is an error and not a loss.
//!
//! Building a record makes nothing durable: [`Appender::persist`] does, for everything appended since the last call,
//! with one fence. A crash before that leaves any part of the new records; a scan then ends before the first one that
//! is not whole.

use std::sync::Arc;

use farkeep_proto::redo::{
    EXTENDED_RANGE_HEADER_LEN, Flags, HEADER_LEN, MAX_RANGES, MAX_SHORT_RANGE_LEN, RANGE_HEADER_LEN,
    RecordBuilder, RecordMeta, record_len,
};

use super::geometry::Geometry;
use super::ring::LogMap;
use super::scan::Position;
use crate::heap::{CommitError, Offset, Range, RangeKind, RedoSink, View};
use crate::lsn::{Epoch, Lsn};

/// Writes to the end of a log. There is one per log and reign.
#[derive(Debug)]
pub struct Appender {
    log: Arc<LogMap>,
    geometry: Geometry,
    epoch: Epoch,
    /// The end of the last record.
    end: Position,
    committed: Lsn,
    floor: Lsn,
    persisted: Lsn,
    cut: Cut,
}

impl Appender {
    /// An appender that continues `log` behind `end` in `epoch`. Nothing below `floor` is needed any more.
    pub(crate) fn new(log: Arc<LogMap>, end: Position, epoch: Epoch, committed: Lsn, floor: Lsn) -> Appender {
        assert!(epoch >= end.epoch, "a reign of epoch {epoch} behind a record of {}", end.epoch);
        assert!(floor <= end.lsn && committed <= end.lsn);
        log.set_appended(end.lsn);
        let geometry = log.geometry();
        Appender { log, geometry, epoch, end, committed, floor, persisted: end.lsn, cut: Cut::default() }
    }

    /// The log appended to.
    pub fn log(&self) -> &Arc<LogMap> {
        &self.log
    }

    /// The reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The end of the last record appended, and what the next one will continue.
    pub fn position(&self) -> Position {
        self.end
    }

    /// The end of what is persistent.
    pub fn durable(&self) -> Lsn {
        self.log.durable()
    }

    /// Tells how far the stream is committed; later records say so. Going back is ignored.
    #[inline]
    pub fn set_committed_hint(&mut self, committed: Lsn) {
        debug_assert!(committed <= self.end.lsn, "committed beyond the end of the log");
        self.committed = self.committed.max(committed);
    }

    /// Tells that nobody needs the ring below `floor`: the lowest checkpoint of this node and its followers. It may
    /// go back when a follower joins, but not below what the ring still holds.
    #[inline]
    pub fn set_floor(&mut self, floor: Lsn) {
        assert!(
            floor <= self.end.lsn,
            "nobody can have replayed up to {floor}, the log ends at {}",
            self.end.lsn
        );
        self.floor = floor;
    }

    /// Bytes that may be appended before the ring is full.
    pub fn free_bytes(&self) -> u64 {
        self.geometry.capacity().saturating_sub(self.end.lsn.distance_from(self.floor))
    }

    /// Makes everything appended so far persistent and returns its end, which is then `durable_lsn`. On a disk this
    /// does nothing and returns how far the log is durable: [`LogMap::sync`] is for the log-writer thread.
    #[inline]
    pub fn persist(&mut self) -> Lsn {
        if !self.log.region().persistence().by_instructions() {
            return self.log.durable();
        }
        if self.persisted < self.end.lsn {
            self.log.flush_stream(self.persisted, self.end.lsn);
            self.log.fence();
            self.persisted = self.end.lsn;
            self.log.set_durable(self.end.lsn);
        }
        self.end.lsn
    }

    /// Appends the record that begins a reign. It is a transaction of its own and may use the segment that is kept
    /// back from all others.
    pub(crate) fn append_epoch_start(&mut self) -> Result<Lsn, CommitError> {
        self.append_mark(Flags::COMMIT.with(Flags::EPOCH_START))
    }

    /// Appends the record that makes a reign count to which nobody was promoted ([`Reign::is_idle`](super::Reign::is_idle)): a transaction that
    /// changes nothing, with the same right to the last segment.
    pub(crate) fn append_settled(&mut self) -> Result<Lsn, CommitError> {
        self.append_mark(Flags::COMMIT)
    }

    fn append_mark(&mut self, flags: Flags) -> Result<Lsn, CommitError> {
        self.check_running()?;
        let start = self.geometry.record_start(self.end.lsn);
        let end = start + HEADER_LEN as u64;
        let wanted = end.distance_from(self.floor);
        if wanted > self.geometry.ring_len() {
            return Err(CommitError::LogFull { wanted: HEADER_LEN as u64, free: 0 });
        }
        self.write_record(start, HEADER_LEN, flags, |_| {});
        self.log.set_appended(self.end.lsn);
        Ok(self.end.lsn)
    }

    fn check_running(&self) -> Result<(), CommitError> {
        match self.log.stopped() {
            Some(reason) => Err(CommitError::Stopped { reason: reason.to_owned() }),
            None => Ok(()),
        }
    }

    /// Builds one record and makes it the end of the chain.
    #[inline]
    fn write_record(
        &mut self,
        start: Lsn,
        len: usize,
        flags: Flags,
        fill: impl FnOnce(&mut RecordBuilder<'_>),
    ) {
        let meta = RecordMeta {
            lsn: start.get(),
            prev_crc: self.end.crc,
            epoch: self.epoch.get(),
            committed_lsn: self.committed.get(),
            flags,
        };
        let crc = self.log.region().with_mut(self.log.file_offset(start), len, |buf| {
            let mut builder = RecordBuilder::new(buf);
            fill(&mut builder);
            builder.finish(meta)
        });
        self.end = Position { lsn: start + len as u64, crc, epoch: self.epoch };
    }

    #[inline]
    fn check_space(&self, end: Lsn) -> Result<(), CommitError> {
        if end.distance_from(self.floor) <= self.geometry.capacity() {
            return Ok(());
        }
        let (wanted, limit) = (end.distance_from(self.end.lsn), self.geometry.capacity());
        Err(if wanted > limit {
            CommitError::TooLarge { wanted, limit }
        } else {
            CommitError::LogFull { wanted, free: self.free_bytes() }
        })
    }

    /// Appends a transaction that does not fit the rest of the segment as several records.
    #[cold]
    fn append_cut(&mut self, view: &View, ranges: &[Range]) -> Result<Lsn, CommitError> {
        let mut cut = std::mem::take(&mut self.cut);
        cut.plan(self.geometry, self.end.lsn, ranges);
        let checked = self.check_space(cut.end);
        if checked.is_ok() {
            for (index, record) in cut.records.iter().enumerate() {
                let last = index + 1 == cut.records.len();
                let flags = if last { Flags::COMMIT } else { Flags::NONE };
                let pieces = &cut.pieces[record.first_piece..][..record.piece_count];
                self.write_record(record.start, record.len, flags, |builder| {
                    for piece in pieces {
                        add(builder, view, piece);
                    }
                });
            }
            debug_assert_eq!(self.end.lsn, cut.end);
            self.log.set_appended(self.end.lsn);
        }
        self.cut = cut;
        checked.map(|()| self.end.lsn)
    }
}

#[inline]
fn add(builder: &mut RecordBuilder<'_>, view: &View, range: &Range) {
    match range.kind {
        RangeKind::Bytes => builder.bytes(range.at.get(), view.peek_bytes(range.at, range.len as usize)),
        RangeKind::Fill => builder.fill(range.at.get(), range.len),
        RangeKind::Grow => builder.grow(range.at.get()),
    }
}

impl RedoSink for Appender {
    #[inline]
    fn append(&mut self, view: &View, ranges: &[Range]) -> Result<Lsn, CommitError> {
        assert!(!ranges.is_empty(), "a transaction that does nothing is not appended");
        self.check_running()?;
        let len = record_len(ranges.iter().map(Range::redo_len).sum());
        let start = self.geometry.record_start(self.end.lsn);
        if len as u64 > self.geometry.room(start) || ranges.len() > MAX_RANGES {
            return self.append_cut(view, ranges);
        }
        self.check_space(start + len as u64)?;
        self.write_record(start, len, Flags::COMMIT, |builder| {
            for range in ranges {
                add(builder, view, range);
            }
        });
        self.log.set_appended(self.end.lsn);
        Ok(self.end.lsn)
    }

    #[inline]
    fn appended(&self) -> Lsn {
        self.end.lsn
    }
}

/// The fewest bytes of a range that are worth a header of their own at the end of a segment.
const MIN_PIECE_LEN: usize = 8;

#[derive(Debug)]
struct PlannedRecord {
    start: Lsn,
    len: usize,
    first_piece: usize,
    piece_count: usize,
}

/// How a transaction is cut into records. Planned as a whole before the first byte is written, because a transaction
/// that does not fit must leave no trace.
#[derive(Debug, Default)]
struct Cut {
    records: Vec<PlannedRecord>,
    pieces: Vec<Range>,
    end: Lsn,
}

impl Cut {
    fn plan(&mut self, geometry: Geometry, from: Lsn, ranges: &[Range]) {
        self.records.clear();
        self.pieces.clear();
        self.end = from;
        let mut rest = ranges.iter().copied();
        let mut current = rest.next();
        while current.is_some() {
            let start = geometry.record_start(self.end);
            let room = geometry.room(start) as usize;
            let first_piece = self.pieces.len();
            let mut used = HEADER_LEN;
            while let Some(range) = current
                && self.pieces.len() - first_piece < MAX_RANGES
            {
                let Some(piece) = fitting(&range, room - used) else { break };
                used += piece.redo_len();
                self.pieces.push(piece);
                current = if piece.len == range.len {
                    rest.next()
                } else {
                    let at = Offset::new(piece.end());
                    Some(Range { at, len: range.len - piece.len, kind: range.kind })
                };
            }
            let piece_count = self.pieces.len() - first_piece;
            assert!(piece_count > 0, "a record start always leaves room for a piece");
            let len = record_len(used - HEADER_LEN);
            self.records.push(PlannedRecord { start, len, first_piece, piece_count });
            self.end = start + len as u64;
        }
    }
}

/// As much of `range` as fits into `room` bytes, if any is worth it.
fn fitting(range: &Range, room: usize) -> Option<Range> {
    if range.redo_len() <= room {
        return Some(*range);
    }
    if range.kind != RangeKind::Bytes {
        return None;
    }
    let short = room.saturating_sub(RANGE_HEADER_LEN).min(MAX_SHORT_RANGE_LEN);
    let long = room.saturating_sub(EXTENDED_RANGE_HEADER_LEN);
    let len = short.max(long).min(range.len as usize);
    (len >= MIN_PIECE_LEN).then_some(Range { len: len as u32, ..*range })
}
