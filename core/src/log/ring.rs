//! The mapped log, shared by all who touch it.
//!
//! A [`LogMap`] is the log file in memory: identity, state, and the window with the ring. It hands out bytes of the
//! ring for shipping and scanning, takes bytes that a fabric delivers into the window, keeps the two marks that
//! other threads want to know (`appended_lsn`, `durable_lsn`), and persists the state. It knows where bytes belong,
//! not what they mean.
//!
//! Order matters in one place only, the state: it is persistent before anybody relies on it, and who moves the
//! checkpoint has persisted the image before (I3). After a failed persist the log stops: nothing is known about what
//! the medium holds, so nothing more may be appended or acknowledged until recovery has looked.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use farkeep_proto::logfile::{
    IDENTITY_AT, IDENTITY_LEN, MAGIC, MAGIC_UNFINISHED, REPLAY_LIMIT_AT, RawIdentity, STATE_AT, STATE_LEN,
    WINDOW_AT,
};
use farkeep_proto::redo::{FORMAT_VERSION, MIN_ROOM};
use farkeep_proto::window::{GATE_AT, RING_AT, TAIL_CELL_AT, TAIL_CELL_LEN, TailCell, window_len};
use zerocopy::{FromBytes, IntoBytes};

use super::geometry::Geometry;
use super::history::EpochHistory;
use super::state::{self, LogState};
use crate::lsn::Lsn;
use crate::pmem::map::Region;

/// Where the ring begins in the log file.
const RING_FILE_AT: u64 = WINDOW_AT + RING_AT;

/// Why a file cannot be used as a log. It has not been touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogFileError {
    /// The file begins with something else.
    #[error("not a farkeep log: it begins with {found:02x?}")]
    Foreign {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The file was being made when the machine stopped; it holds nothing yet.
    #[error("a log whose creation was interrupted")]
    Unfinished,
    /// Another version wrote it.
    #[error("log format version {found}; this build reads version {expected}")]
    Version {
        /// The version found.
        found: u32,
        /// The version this build reads.
        expected: u32,
    },
    /// The identity or both states are damaged.
    #[error("damaged log: {what} at file offset {offset:#x}")]
    Damaged {
        /// What is damaged.
        what: &'static str,
        /// Where it lies.
        offset: u64,
    },
    /// The file is shorter than the ring it says it holds.
    #[error("truncated log: {found} bytes, a ring of {ring_len} bytes needs {expected}")]
    Truncated {
        /// The file's length.
        found: u64,
        /// The length it should have.
        expected: u64,
        /// The ring's length.
        ring_len: u64,
    },
    /// The file could not be read or written.
    #[error("log I/O")]
    Io(#[from] io::Error),
}

/// Who a log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// The node that the pool belongs to.
    pub node_id: [u8; 16],
    /// Lengths of ring and segments.
    pub geometry: Geometry,
}

impl LogIdentity {
    /// The identity in the first bytes of a log file.
    pub fn parse(head: &[u8]) -> Result<LogIdentity, LogFileError> {
        let damaged = LogFileError::Damaged { what: "identity", offset: IDENTITY_AT };
        let Ok((raw, _)) = RawIdentity::read_from_prefix(head) else { return Err(damaged) };
        match raw.magic {
            MAGIC => {}
            MAGIC_UNFINISHED => return Err(LogFileError::Unfinished),
            found => return Err(LogFileError::Foreign { found }),
        }
        let found = raw.format_version.get();
        if found != FORMAT_VERSION {
            return Err(LogFileError::Version { found, expected: FORMAT_VERSION });
        }
        if raw.crc.get() != raw.checksum() {
            return Err(damaged);
        }
        let ring_len = raw.ring_len.get();
        let geometry =
            Geometry::new(ring_len, raw.segment_len.get()).filter(|_| ring_len < 1 << 48).ok_or(damaged)?;
        Ok(LogIdentity { node_id: raw.node_id, geometry })
    }

    /// Length that the log file has to have.
    pub fn file_len(&self) -> u64 {
        file_len(self.geometry.ring_len())
    }
}

/// Length of a log file around a ring of `ring_len` bytes.
pub const fn file_len(ring_len: u64) -> u64 {
    WINDOW_AT + window_len(ring_len)
}

#[derive(Debug)]
struct StateStore {
    seq: u64,
    state: LogState,
}

/// A log in memory.
#[derive(Debug)]
pub struct LogMap {
    region: Region,
    identity: LogIdentity,
    state: Mutex<StateStore>,
    checkpoint: AtomicU64,
    appended: AtomicU64,
    durable: AtomicU64,
    oldest: AtomicU64,
    checked: AtomicU64,
    stopped: OnceLock<String>,
}

impl LogMap {
    /// Makes an empty log in `region`, which must be long enough for the ring. Until the very end the region says
    /// that it is unfinished.
    pub fn format(region: &Region, identity: LogIdentity) -> io::Result<()> {
        let LogIdentity { node_id, geometry } = identity;
        region.store(IDENTITY_AT, &MAGIC_UNFINISHED);
        region.persist(IDENTITY_AT, MAGIC_UNFINISHED.len())?;
        let blank = LogState::default().to_raw(1);
        region.store(STATE_AT[0], &[0; STATE_LEN]);
        region.store(STATE_AT[1], state::as_bytes(&blank));
        region.store(REPLAY_LIMIT_AT, &[0; 8]);
        // The first place to be scanned must not hold what an earlier log has left there, nor may the tail cell.
        region.store(WINDOW_AT + TAIL_CELL_AT, &[0; TAIL_CELL_LEN]);
        region.store(RING_FILE_AT, &[0; 64]);
        let mut raw = RawIdentity {
            magic: MAGIC,
            format_version: FORMAT_VERSION.into(),
            reserved: 0.into(),
            node_id,
            ring_len: geometry.ring_len().into(),
            segment_len: geometry.segment_len().into(),
            padding: [0; 12],
            crc: 0.into(),
        };
        raw.crc = raw.checksum().into();
        region.store(IDENTITY_AT + 8, &raw.as_bytes()[8..]);
        for (at, len) in [
            (IDENTITY_AT, IDENTITY_LEN),
            (STATE_AT[0], STATE_LEN),
            (STATE_AT[1], STATE_LEN),
            (REPLAY_LIMIT_AT, 8),
            (WINDOW_AT + TAIL_CELL_AT, TAIL_CELL_LEN),
            (RING_FILE_AT, 64),
        ] {
            region.flush(at, len);
        }
        region.fence();
        region.sync()?;
        region.store(IDENTITY_AT, &MAGIC);
        region.persist(IDENTITY_AT, MAGIC.len())
    }

    /// The log in `region`, whose identity has been read before. Nothing is written.
    pub fn open(region: Region, identity: LogIdentity) -> Result<LogMap, LogFileError> {
        if region.len() < identity.file_len() {
            return Err(LogFileError::Truncated {
                found: region.len(),
                expected: identity.file_len(),
                ring_len: identity.geometry.ring_len(),
            });
        }
        let slots = STATE_AT.map(|at| region.bytes(at, STATE_LEN));
        let (seq, state) = state::newest(slots)
            .ok_or(LogFileError::Damaged { what: "both state slots", offset: STATE_AT[0] })?;
        let (checkpoint, oldest) = (state.checkpoint.lsn.get(), state.oldest.get());
        Ok(LogMap {
            region,
            identity,
            state: Mutex::new(StateStore { seq, state }),
            checkpoint: AtomicU64::new(checkpoint),
            appended: AtomicU64::new(checkpoint),
            durable: AtomicU64::new(checkpoint),
            oldest: AtomicU64::new(oldest),
            checked: AtomicU64::new(checkpoint),
            stopped: OnceLock::new(),
        })
    }

    /// Lengths of ring and segments.
    #[inline]
    pub fn geometry(&self) -> Geometry {
        self.identity.geometry
    }

    /// The node that the log belongs to.
    pub fn node_id(&self) -> [u8; 16] {
        self.identity.node_id
    }

    /// The memory the log lies in.
    pub fn region(&self) -> &Region {
        &self.region
    }

    fn lock(&self) -> MutexGuard<'_, StateStore> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The persistent state, as it is now.
    pub fn state(&self) -> LogState {
        self.lock().state.clone()
    }

    /// The reigns that may have written to this log.
    pub fn history(&self) -> Arc<EpochHistory> {
        Arc::clone(&self.lock().state.history)
    }

    /// Changes the state and makes it persistent; when this returns, the new state is what a crash leaves. On an
    /// error of the medium the log stops, because either state may be what a crash leaves. A state that would not be believed when
    /// it is read is an error as well, and nothing has changed.
    pub fn update_state(&self, change: impl FnOnce(&mut LogState)) -> io::Result<()> {
        self.check_running()?;
        let mut store = self.lock();
        let mut changed = store.state.clone();
        change(&mut changed);
        assert!(changed.oldest <= changed.checkpoint.lsn, "oldest_lsn beyond checkpoint_lsn");
        if !changed.is_plausible() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no log can be in this state: {changed:?}"),
            ));
        }
        let seq = store.seq + 1;
        let at = STATE_AT[(seq % 2) as usize];
        self.region.store(at, state::as_bytes(&changed.to_raw(seq)));
        if let Err(error) = self.region.persist(at, STATE_LEN) {
            self.stop(format!("the log's state could not be persisted: {error}"));
            return Err(error);
        }
        self.oldest.fetch_max(changed.oldest.get(), Ordering::AcqRel);
        self.checkpoint.store(changed.checkpoint.lsn.get(), Ordering::Release);
        *store = StateStore { seq, state: changed };
        Ok(())
    }

    /// Up to where the image may hold bytes of records. Below the checkpoint it means nothing.
    pub(crate) fn replay_limit(&self) -> Lsn {
        let bytes = self.region.bytes(REPLAY_LIMIT_AT, 8);
        Lsn::new(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    /// Notes that the image is about to get bytes of committed records up to `limit`. An aligned word survives a
    /// crash whole or not at all, so it needs no checksum. On a disk it is on its way, but not waited for.
    pub(crate) fn set_replay_limit(&self, limit: Lsn) {
        self.region.store(REPLAY_LIMIT_AT, &limit.get().to_le_bytes());
        self.region.flush(REPLAY_LIMIT_AT, 8);
        self.region.fence();
    }

    /// Why nothing more may be appended, if so.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.get().map(String::as_str)
    }

    /// Stops the log for good; the first reason counts.
    pub fn stop(&self, reason: String) {
        tracing::error!(reason, "the log is stopped");
        // A later reason is a consequence of the first.
        let _ = self.stopped.set(reason);
    }

    fn check_running(&self) -> io::Result<()> {
        match self.stopped() {
            Some(reason) => Err(io::Error::other(format!("the log is stopped: {reason}"))),
            None => Ok(()),
        }
    }

    /// Everything before it is persistent in the image.
    #[inline]
    pub fn checkpoint(&self) -> Lsn {
        Lsn::new(self.checkpoint.load(Ordering::Acquire))
    }

    /// The end of what has been appended here.
    #[inline]
    pub fn appended(&self) -> Lsn {
        Lsn::new(self.appended.load(Ordering::Acquire))
    }

    /// The end of what is persistent here.
    #[inline]
    pub fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn set_appended(&self, lsn: Lsn) {
        self.appended.store(lsn.get(), Ordering::Release);
    }

    #[inline]
    pub(crate) fn set_durable(&self, lsn: Lsn) {
        self.durable.store(lsn.get(), Ordering::Release);
    }

    /// Sets both marks to the end that recovery has found, and forgets what lay behind it. Of what lies before the checkpoint,
    /// nothing has been read.
    pub(crate) fn reset_marks(&self, end: Lsn, oldest: Lsn) {
        self.set_appended(end);
        self.set_durable(end);
        self.oldest.store(oldest.get(), Ordering::Release);
        self.checked.store(self.checkpoint().get(), Ordering::Release);
    }

    /// From here on all records have been read and belong where they are; what lies between [`LogMap::oldest`] and here has
    /// to be read first ([`recover::check_kept`](crate::recover::check_kept)) if somebody wants it.
    pub fn checked(&self) -> Lsn {
        Lsn::new(self.checked.load(Ordering::Acquire)).max(self.oldest())
    }

    /// What lies behind `lsn` has been read, and is as it should be.
    pub(crate) fn set_checked(&self, lsn: Lsn) {
        self.checked.store(lsn.get(), Ordering::Release);
    }

    /// What lies before `lsn` is not usable, whatever the segments' first headers say.
    pub(crate) fn set_oldest(&self, lsn: Lsn) {
        self.oldest.fetch_max(lsn.get(), Ordering::AcqRel);
    }

    /// The first position that the ring may still hold. Bytes before it have been overwritten or never were here.
    pub fn oldest(&self) -> Lsn {
        // A truncation erases a header behind the end; what lay there one lap earlier is gone as well.
        let overwritten = (self.appended().get() + MIN_ROOM).saturating_sub(self.geometry().ring_len());
        let kept = self.geometry().segment_start_from(Lsn::new(overwritten));
        kept.max(Lsn::new(self.oldest.load(Ordering::Acquire))).min(self.checkpoint())
    }

    /// On a disk: makes everything appended before the call persistent and returns its end, which is the new
    /// `durable_lsn`. Elsewhere returns `durable_lsn`. May be called beside the appender, by one thread.
    /// On an error the log stops.
    pub fn sync(&self) -> io::Result<Lsn> {
        if self.region.persistence().by_instructions() {
            return Ok(self.durable());
        }
        self.check_running()?;
        let appended = self.appended();
        if let Err(error) = self.region.sync() {
            self.stop(format!("fdatasync of the log failed: {error}"));
            return Err(error);
        }
        // A second caller that began later may have been faster.
        self.durable.fetch_max(appended.get(), Ordering::AcqRel);
        Ok(self.durable())
    }

    /// Brings the whole ring into memory, so that appending takes no page faults on its first lap. A matter of speed
    /// only; a thread of its own may do it while the log is in use.
    pub fn populate(&self) -> io::Result<()> {
        const STEP: u64 = 4 << 20;
        let ring_len = self.geometry().ring_len();
        for at in (0..ring_len).step_by(STEP as usize) {
            self.region.populate(RING_FILE_AT + at, STEP.min(ring_len - at) as usize)?;
        }
        Ok(())
    }

    /// Where the byte at `lsn` lies in the file.
    #[inline]
    pub(crate) fn file_offset(&self, lsn: Lsn) -> u64 {
        RING_FILE_AT + self.geometry().ring_offset(lsn)
    }

    /// Where the byte at `lsn` lies in the window; the same on every node with this geometry.
    #[inline]
    pub fn window_offset(&self, lsn: Lsn) -> u64 {
        RING_AT + self.geometry().ring_offset(lsn)
    }

    /// The bytes from `lsn` to the end of its segment.
    #[inline]
    pub(crate) fn segment_rest(&self, lsn: Lsn) -> &[u8] {
        self.region.bytes(self.file_offset(lsn), self.geometry().room(lsn) as usize)
    }

    /// The bytes of the stream from `from` to `to`, in one slice, or in two where the ring wraps. Panics if they are
    /// not all in the ring.
    pub fn bytes(&self, from: Lsn, to: Lsn) -> (&[u8], &[u8]) {
        let ring_len = self.geometry().ring_len();
        let len = to.distance_from(from);
        assert!(len <= ring_len, "{len} bytes from a ring of {ring_len}");
        let at = self.geometry().ring_offset(from);
        let first = len.min(ring_len - at);
        let head = self.region.bytes(RING_FILE_AT + at, first as usize);
        (head, self.region.bytes(RING_FILE_AT, (len - first) as usize))
    }

    /// The `len` bytes at ring offset `at`. Panics beyond the ring.
    pub fn ring_bytes(&self, at: u64, len: usize) -> &[u8] {
        assert!(at + len as u64 <= self.geometry().ring_len(), "beyond the ring");
        self.region.bytes(RING_FILE_AT + at, len)
    }

    /// Starts to make the bytes from `from` to `to` persistent; they are after [`LogMap::fence`]. Not for disks.
    pub(crate) fn flush_stream(&self, from: Lsn, to: Lsn) {
        let ring_len = self.geometry().ring_len();
        let len = to.distance_from(from).min(ring_len);
        let at = self.geometry().ring_offset(from);
        let first = len.min(ring_len - at);
        self.region.flush(RING_FILE_AT + at, first as usize);
        if len > first {
            self.region.flush(RING_FILE_AT, (len - first) as usize);
        }
    }

    /// Makes the bytes from `from` to `to` persistent, whatever the medium, and whoever has stored them.
    ///
    /// # Errors
    /// As [`LogMap::sync_window`].
    pub fn persist_stream(&self, from: Lsn, to: Lsn) -> io::Result<()> {
        self.flush_stream(from, to);
        self.fence();
        self.sync_window()
    }

    /// Length of the window in bytes.
    pub fn window_len(&self) -> u64 {
        window_len(self.geometry().ring_len())
    }

    /// Where the window begins in the log file: what a leader on the same host has to know to map it.
    pub const fn window_file_offset() -> u64 {
        WINDOW_AT
    }

    fn window_at(&self, offset: u64, len: usize) -> u64 {
        let fits = offset.checked_add(len as u64).is_some_and(|end| end <= self.window_len());
        assert!(fits, "{len} bytes at {offset:#x} are beyond the window");
        WINDOW_AT + offset
    }

    /// Lets `receive` fill the `len` bytes at `offset` of the window, without a copy in between. Panics beyond the
    /// window.
    pub fn with_window_mut<R>(&self, offset: u64, len: usize, receive: impl FnOnce(&mut [u8]) -> R) -> R {
        self.region.with_mut(self.window_at(offset, len), len, receive)
    }

    /// The `len` bytes at `offset` of the window. Panics beyond it.
    pub fn window_bytes(&self, offset: u64, len: usize) -> &[u8] {
        self.region.bytes(self.window_at(offset, len), len)
    }

    /// Starts to make bytes of the window persistent; they are after [`LogMap::fence`]. Does nothing on a disk.
    pub fn flush_window(&self, offset: u64, len: usize) {
        self.region.flush(self.window_at(offset, len), len);
    }

    /// Makes everything persistent that this thread has flushed. Does nothing on a disk.
    pub fn fence(&self) {
        self.region.fence();
    }

    /// On a disk, makes everything in the window persistent; does nothing elsewhere. On an error the log stops.
    pub fn sync_window(&self) -> io::Result<()> {
        self.check_running()?;
        self.region.sync().inspect_err(|error| self.stop(format!("fdatasync of the log failed: {error}")))
    }

    /// Opens the window to this session's stores, or, with 0, to nobody's. Whoever stores into it and looks at the gate
    /// afterwards either sees that it is closed, or has stored what a scan that begins now will see.
    pub fn set_gate(&self, session: u64) {
        self.region.store(WINDOW_AT + GATE_AT, &session.to_le_bytes());
        fence(Ordering::SeqCst);
    }

    /// What the leader last said about the end of its log, if the cell is whole. A hint.
    pub fn tail_cell(&self) -> Option<TailCell> {
        let bytes = self.region.bytes(WINDOW_AT + TAIL_CELL_AT, TAIL_CELL_LEN);
        TailCell::from_bytes(bytes.try_into().ok()?)
    }
}
