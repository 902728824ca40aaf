//! Storing committed records into the image: one piece of code with three jobs.
//!
//! A leader's background checkpoint, a follower's apply and recovery all do this: walk the log from where the image
//! is, believe each record (I4), store its ranges, and now and then make the stores persistent and move the
//! checkpoint behind them (I3). Only committed transactions are stored, and only whole ones (I2).
//!
//! While the image is on its way from one checkpoint to the next, a crash leaves any part of it ahead of the
//! checkpoint, and it makes sense again only when replaying has come as far as it was before. How far that was the
//! log's *replay limit* says: it is persistent before the first byte of a step is stored. On a disk that would take a
//! system call per step, so it may be behind there, and the end of the log has to serve instead.
//!
//! Replaying is idempotent, so a crash, or an error in the middle of a transaction, costs nothing but doing it again
//! from the checkpoint. Stores are not written back one by one: hot lines are stored to by nearly every transaction,
//! so the lines are remembered and written back once, when the checkpoint is taken.
//!
//! Between two steps the image is exactly what the stream says at [`Replayer::applied`]. That is when a walk over it
//! ([`crate::chunk`]) reads a chunk on one node and compares or replaces the same chunk on another that stands at the same
//! LSN. While a delta sync goes on, the image as a whole makes no sense; the log's state says so, and how much of it is settled.

use std::io;
use std::sync::Arc;

use farkeep_proto::redo::{Malformed, Range, Record};

use crate::heap::{ImageSource, PAGE_LEN};
use crate::log::scan::ends_transaction;
use crate::log::{LogMap, LogState, Position, Scanner, Stop};
use crate::lsn::Lsn;
use crate::pmem::image::Image;
use crate::pmem::mem::Mem;
use crate::pmem::persist::LINE_LEN;

/// Why replaying stopped. The image is as good as before: what was stored will be stored again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// A part of the log that was committed does not validate: the log is damaged.
    #[error("the log is damaged at LSN {lsn}, committed up to {committed}: {stop}")]
    Missing {
        /// Where validation stops.
        lsn: Lsn,
        /// Up to where the log should be whole.
        committed: Lsn,
        /// Why it stops.
        stop: Stop,
    },
    /// A record stores beyond the image's end.
    #[error("the record before LSN {lsn} stores {len} bytes at {offset:#x}, the image has {image_len}")]
    OutsideImage {
        /// The record's end.
        lsn: Lsn,
        /// Where it stores.
        offset: u64,
        /// How much it stores.
        len: u64,
        /// The image's length.
        image_len: u64,
    },
    /// A record cannot be understood.
    #[error("the record before LSN {lsn}: {source}")]
    Malformed {
        /// The record's end.
        lsn: Lsn,
        /// What is wrong with it.
        source: Malformed,
    },
    /// There is no space for the image to grow. Try again when there is.
    #[error("the image cannot grow to {image_len} bytes: {source}")]
    Grow {
        /// The length it has to get.
        image_len: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The image could not be made persistent, or the checkpoint not be noted. The node must stop writing.
    #[error("the checkpoint failed: {0}")]
    Persist(#[source] io::Error),
}

/// Carries the image along with the log.
#[derive(Debug)]
pub struct Replayer {
    log: Arc<LogMap>,
    image: Arc<Image>,
    /// The end of the last transaction stored.
    at: Position,
    checkpoint: Lsn,
    image_len: u64,
    limit: Lsn,
    dirty: DirtyLines,
    /// Bytes of chunks stored since the last checkpoint.
    chunk_bytes: u64,
    /// What the log says of bytes behind this is passed over.
    frontier: u64,
}

impl Replayer {
    /// A replayer that starts from the log's checkpoint. Fails if the image has no space where it had some.
    pub fn new(log: Arc<LogMap>, image: Arc<Image>) -> Result<Replayer, ReplayError> {
        let state = log.state();
        image
            .grow_to(state.image_len)
            .map_err(|source| ReplayError::Grow { image_len: state.image_len, source })?;
        let dirty = DirtyLines::new(&image).map_err(ReplayError::Persist)?;
        let (at, image_len) = (state.checkpoint, state.image_len);
        let limit = log.replay_limit();
        Ok(Replayer {
            log,
            image,
            at,
            checkpoint: at.lsn,
            image_len,
            limit,
            dirty,
            chunk_bytes: 0,
            frontier: u64::MAX,
        })
    }

    /// Everything before it is visible in the image.
    pub fn applied(&self) -> Lsn {
        self.at.lsn
    }

    /// Everything before it is persistent in the image.
    pub fn checkpoint_lsn(&self) -> Lsn {
        self.checkpoint
    }

    /// The image's length as of [`Replayer::applied`], in bytes.
    pub fn image_len(&self) -> u64 {
        self.image_len
    }

    /// The end of the last transaction stored, and what the next one continues.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Stores transactions that end at or before `committed`, until about `max_bytes` of log have been replayed.
    /// Returns whether there may be more to do. Readers of the image may look between two calls.
    pub fn step(&mut self, committed: Lsn, max_bytes: u64) -> Result<bool, ReplayError> {
        let log = Arc::clone(&self.log);
        let from = self.at.lsn;
        if committed > self.limit && committed > from {
            log.set_replay_limit(committed);
            self.limit = committed;
        }
        let mut scanner = Scanner::new(&log, self.at);
        while self.at.lsn < committed {
            if self.at.lsn.distance_from(from) >= max_bytes {
                return Ok(true);
            }
            let record =
                scanner.next().map_err(|stop| self.missing(scanner.position().lsn, committed, stop))?;
            if !ends_transaction(&record) {
                if !self.apply_cut(committed)? {
                    return Ok(false);
                }
                scanner = Scanner::new(&log, self.at);
                continue;
            }
            if scanner.position().lsn > committed {
                return Ok(false);
            }
            self.apply(&record)?;
            self.at = scanner.position();
        }
        Ok(false)
    }

    /// Replays everything up to `committed`.
    pub fn run(&mut self, committed: Lsn) -> Result<(), ReplayError> {
        self.step(committed, u64::MAX).map(|_| ())
    }

    /// Makes everything applied persistent in the image, notes the checkpoint, and returns it. After an error the log
    /// is stopped.
    pub fn checkpoint(&mut self) -> Result<Lsn, ReplayError> {
        if self.at.lsn == self.checkpoint && self.chunk_bytes == 0 {
            return Ok(self.checkpoint);
        }
        self.take_checkpoint(|_| {})
    }

    /// As [`Replayer::checkpoint`], in the middle of a delta sync: what lies before `cursor` is settled, persistently.
    pub fn checkpoint_in_sync(&mut self, cursor: u64) -> Result<Lsn, ReplayError> {
        if self.at.lsn == self.checkpoint && self.chunk_bytes == 0 && self.log.state().sync_cursor == cursor {
            return Ok(self.checkpoint);
        }
        self.take_checkpoint(|state| state.sync_cursor = cursor)
    }

    /// Ends a delta sync: from here on the image makes sense by itself, whatever happens. A crash before this returns leaves
    /// a sync that has to go on.
    pub fn end_sync(&mut self) -> Result<Lsn, ReplayError> {
        self.take_checkpoint(|state| (state.mid_sync, state.sync_cursor) = (false, 0))
    }

    fn take_checkpoint(&mut self, change: impl FnOnce(&mut LogState)) -> Result<Lsn, ReplayError> {
        self.dirty.write_back(&self.image);
        self.image.region().fence();
        if let Err(error) = self.image.region().sync() {
            self.log.stop(format!("the image could not be persisted: {error}"));
            return Err(ReplayError::Persist(error));
        }
        let (at, image_len) = (self.at, self.image_len);
        self.log
            .update_state(|state| {
                assert!(state.checkpoint.lsn <= at.lsn, "a checkpoint never goes back");
                (state.checkpoint, state.image_len) = (at, image_len);
                change(state);
            })
            .map_err(ReplayError::Persist)?;
        (self.checkpoint, self.chunk_bytes) = (at.lsn, 0);
        Ok(at.lsn)
    }

    /// The `len` bytes at `offset` of the image as of [`Replayer::applied`]; `None` beyond its end.
    pub fn chunk(&self, offset: u64, len: u64) -> Option<&[u8]> {
        self.holds(offset, len).then(|| self.image.region().bytes(offset, len as usize))
    }

    /// Puts the leader's bytes as of [`Replayer::applied`] in the place of what is at `offset`. Nobody may read the image
    /// meanwhile. A crash before the next checkpoint leaves any part of them; replaying to where this node has been
    /// makes that right, unless a sync is under way, which then has not settled the chunk. Panics beyond the image.
    pub fn store_chunk(&mut self, offset: u64, bytes: &[u8]) {
        assert!(self.holds(offset, bytes.len() as u64), "a chunk at {offset:#x} beyond the image's end");
        if offset.is_multiple_of(PAGE_LEN)
            && let Err(error) = self.image.region().populate(offset, bytes.len())
        {
            // Then each page takes a fault.
            tracing::trace!(%error, offset, "pages could not be brought in ahead of need");
        }
        self.image.region().store_through(offset, bytes);
        self.chunk_bytes += bytes.len() as u64;
    }

    /// As [`Replayer::store_chunk`], of zeroes.
    pub fn zero_chunk(&mut self, offset: u64, len: u64) {
        assert!(self.holds(offset, len), "a chunk at {offset:#x} beyond the image's end");
        self.image.region().with_mut(offset, len as usize, |bytes| bytes.fill(0));
        self.dirty.mark(offset, len);
        self.chunk_bytes += len;
    }

    /// A sync leaves the bytes at `offset` as they are, because they are the leader's. They may have been stored before the sync began and
    /// never been written back; the next checkpoint does that. Panics beyond the image.
    pub fn keep_chunk(&mut self, offset: u64, len: u64) {
        assert!(self.holds(offset, len), "a chunk at {offset:#x} beyond the image's end");
        self.dirty.mark(offset, len);
    }

    /// From here on, what the log says of bytes at or behind `frontier` is passed over: in a delta sync that sends every chunk, those
    /// behind the walk will be replaced, and storing to them would cost a page of a new image each. `None`: everything is stored.
    pub fn store_up_to(&mut self, frontier: Option<u64>) {
        self.frontier = frontier.unwrap_or(u64::MAX);
    }

    /// Bytes of chunks that were stored since the last checkpoint.
    pub fn chunk_bytes_behind(&self) -> u64 {
        self.chunk_bytes
    }

    fn holds(&self, offset: u64, len: u64) -> bool {
        len > 0 && offset.checked_add(len).is_some_and(|end| end <= self.image_len)
    }

    fn missing(&self, lsn: Lsn, committed: Lsn, stop: Stop) -> ReplayError {
        ReplayError::Missing { lsn, committed, stop }
    }

    /// Applies a transaction of several records, which is believed as a whole before its first byte is stored.
    /// Returns whether it was committed.
    fn apply_cut(&mut self, committed: Lsn) -> Result<bool, ReplayError> {
        let log = Arc::clone(&self.log);
        let mut scanner = Scanner::new(&log, self.at);
        loop {
            let record =
                scanner.next().map_err(|stop| self.missing(scanner.position().lsn, committed, stop))?;
            if scanner.position().lsn > committed {
                return Ok(false);
            }
            if ends_transaction(&record) {
                break;
            }
        }
        let end = scanner.position();
        let mut scanner = Scanner::new(&log, self.at);
        while scanner.position() != end {
            let record =
                scanner.next().map_err(|stop| self.missing(scanner.position().lsn, committed, stop))?;
            self.apply(&record)?;
        }
        self.at = end;
        Ok(true)
    }

    fn apply(&mut self, record: &Record<'_>) -> Result<(), ReplayError> {
        let lsn = Lsn::new(record.end_lsn());
        for range in record.ranges() {
            match range.map_err(|source| ReplayError::Malformed { lsn, source })? {
                Range::Bytes { offset, bytes } => {
                    self.check_extent(lsn, offset, bytes.len() as u64)?;
                    let bytes = &bytes[..self.len_to_store(offset, bytes.len() as u64) as usize];
                    if bytes.is_empty() {
                        continue;
                    }
                    self.image.region().store(offset, bytes);
                    self.dirty.mark(offset, bytes.len() as u64);
                }
                Range::Fill { offset, len } => {
                    self.check_extent(lsn, offset, u64::from(len))?;
                    let len = self.len_to_store(offset, u64::from(len));
                    if len == 0 {
                        continue;
                    }
                    self.image.region().with_mut(offset, len as usize, |bytes| bytes.fill(0));
                    self.dirty.mark(offset, len);
                }
                Range::Grow { image_len } => {
                    self.image
                        .grow_to(image_len)
                        .map_err(|source| ReplayError::Grow { image_len, source })?;
                    self.image_len = self.image_len.max(image_len);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn len_to_store(&self, offset: u64, len: u64) -> u64 {
        len.min(self.frontier.saturating_sub(offset))
    }

    #[inline]
    fn check_extent(&self, lsn: Lsn, offset: u64, len: u64) -> Result<(), ReplayError> {
        let image_len = self.image_len;
        if offset + len > image_len {
            return Err(ReplayError::OutsideImage { lsn, offset, len, image_len });
        }
        Ok(())
    }
}

/// Which cache lines of the image have been stored to since the last checkpoint: one bit each, 64 to a page. The
/// table lies in memory that is reserved for the longest image and takes space only where it is touched.
#[derive(Debug)]
struct DirtyLines {
    /// `None` on a disk, where the kernel keeps this book.
    masks: Option<Mem>,
    pages: Vec<u64>,
}

const _: () = assert!(PAGE_LEN as usize == LINE_LEN * 64);

impl DirtyLines {
    fn new(image: &Image) -> io::Result<DirtyLines> {
        let masks = if image.persistence().by_instructions() {
            let len = (image.max_len().div_ceil(PAGE_LEN) * 8) as usize;
            let mut masks = Mem::anonymous(len)?;
            masks.set_limit(len);
            Some(masks)
        } else {
            None
        };
        Ok(DirtyLines { masks, pages: Vec::new() })
    }

    #[inline]
    fn mark(&mut self, at: u64, len: u64) {
        let Some(masks) = &mut self.masks else { return };
        let (first, last) = (at / LINE_LEN as u64, (at + len - 1) / LINE_LEN as u64);
        for page in first / 64..=last / 64 {
            let from = if page == first / 64 { first % 64 } else { 0 };
            let to = if page == last / 64 { last % 64 } else { 63 };
            let lines = (u64::MAX << from) & (u64::MAX >> (63 - to));
            let mask = masks.bytes_mut(page * 8, 8);
            let old =
                u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[4], mask[5], mask[6], mask[7]]);
            if old == 0 {
                self.pages.push(page);
            }
            mask.copy_from_slice(&(old | lines).to_ne_bytes());
        }
    }

    /// Writes back all lines that are marked, and forgets them.
    fn write_back(&mut self, image: &Image) {
        let Some(masks) = &mut self.masks else { return };
        for page in self.pages.drain(..) {
            let mask = masks.bytes_mut(page * 8, 8);
            let mut lines =
                u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[4], mask[5], mask[6], mask[7]]);
            mask.fill(0);
            while lines != 0 {
                let first = lines.trailing_zeros();
                let run = (lines >> first).trailing_ones();
                let at = page * PAGE_LEN + u64::from(first) * LINE_LEN as u64;
                image.region().flush(at, run as usize * LINE_LEN);
                lines &= u64::MAX.checked_shl(first + run).unwrap_or(0);
            }
        }
    }
}
