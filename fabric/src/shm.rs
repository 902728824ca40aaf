//! The shared-memory fabric: the leader stores into the window of a follower on the same host and makes it
//! persistent itself.
//!
//! The follower's processor takes no part, as with RDMA, and as on memory that two hosts share over CXL: a flush has
//! completed when [`Remote::flush`] returns. What the follower applied and checkpointed comes over the control
//! channel. The follower finds new records by looking; [`Watch`] decides how often.
//!
//! Nobody can take a mapping away from another process, so the follower cannot keep a leader that has been deposed from
//! storing. What it can do is to keep such a leader from concluding anything: the window has a *gate*, which the
//! follower sets to the session's number and clears when it fences itself, and a flush completes only if the gate still
//! has that number afterwards (I11). A leader that is stopped in the middle of a store and goes on much later can still
//! spoil bytes that belong to a later session; their checksums tell, and the follower has to get them again. That is why shm
//! has to be asked for.
//!
//! [`SharedWindow::map`] maps the follower's log, after it has made sure that it is the log which the follower spoke
//! of: a path can name another file here than there.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use farkeep_core::log::ring::LogIdentity;
use farkeep_core::log::{LogFileError, LogMap};
use farkeep_core::pmem::domain::{Durability, dax_device, detect};
use farkeep_core::pmem::map::Region;
use farkeep_proto::control::FabricOffer;
use farkeep_proto::logfile::IDENTITY_LEN;
use farkeep_proto::window::{GATE_AT, TAIL_CELL_AT, TailCell, window_len};

use crate::window::{
    Completion, FabricError, FabricKind, LogBytes, RemoteWindow, Sending, Ticket, Window, WindowError,
};

/// A named limit for symmetry with the other fabrics: nothing is ever in flight, but one batch should not hold the
/// caller for long.
pub const MAX_BATCH_BYTES: u64 = 16 << 20;

/// A window in memory that both nodes share.
#[derive(Debug)]
pub struct Remote<W> {
    window: W,
    session: u64,
    issued: Ticket,
    completed: Ticket,
    tail: Option<TailCell>,
    failed: Option<WindowError>,
}

impl<W: Window> Remote<W> {
    /// Takes over a follower's window, mapped into this process, for a session. The follower opens its gate to the session
    /// before it says that it is ready.
    pub fn new(window: W, session: u64) -> Self {
        Self {
            window,
            session,
            issued: Ticket::default(),
            completed: Ticket::default(),
            tail: None,
            failed: None,
        }
    }

    /// The window.
    pub fn window(&self) -> &W {
        &self.window
    }
}

impl<W: Window> RemoteWindow for Remote<W> {
    fn kind(&self) -> FabricKind {
        FabricKind::Shm
    }

    fn room(&self) -> u64 {
        MAX_BATCH_BYTES
    }

    fn write(&mut self, offset: u64, source: LogBytes) {
        self.window.write(offset, source.bytes());
        if let Err(error) = self.window.flush(offset, u64::from(source.len())) {
            self.failed.get_or_insert(error);
        }
    }

    fn flush(&mut self) -> Ticket {
        if let Err(error) = self.window.fence() {
            self.failed.get_or_insert(error);
        }
        // Either the follower's gate is still open, or it closes after our stores are there for its scan to see.
        fence(Ordering::SeqCst);
        let mut gate = [0; 8];
        self.window.read(GATE_AT, &mut gate);
        if u64::from_le_bytes(gate) != self.session {
            self.failed.get_or_insert(WindowError(io::Error::other("the follower has closed its window")));
        }
        self.issued = self.issued.next();
        self.issued
    }

    fn write_tail(&mut self, cell: TailCell) {
        self.tail = Some(cell);
    }

    fn kick(&mut self) -> Result<Sending, FabricError> {
        if let Some(cell) = self.tail.take() {
            self.window.write(TAIL_CELL_AT, &cell.to_bytes());
        }
        match self.failed.take() {
            None => Ok(Sending::Done),
            Some(error) => {
                // Stays broken: the tickets since the failure never complete.
                self.failed = Some(WindowError(io::Error::other("an earlier write-back failed")));
                Err(error.into())
            }
        }
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        if self.failed.is_some() {
            return self.kick().map(|_| ());
        }
        if self.completed < self.issued {
            self.completed = self.issued;
            done.push(Completion { ticket: self.issued, reported: None });
        }
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Why a follower's log cannot be mapped here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The two nodes run under different kernels.
    #[error("the follower is on another host")]
    AnotherHost,
    /// The file could not be opened or mapped.
    #[error("the follower's log could not be mapped")]
    Io(#[from] io::Error),
    /// The file is no log.
    #[error("the file at the follower's path is not a log that this build reads")]
    NotALog(#[from] LogFileError),
    /// The file is a log, but not the follower's.
    #[error("the log at the follower's path is another node's")]
    AnotherLog,
}

/// The window of another process's log, mapped into this one.
#[derive(Debug)]
pub struct SharedWindow {
    region: Region,
    window_at: u64,
    window_len: u64,
}

impl SharedWindow {
    /// Maps the window that a follower with this node id has offered.
    ///
    /// # Errors
    /// [`MapError`] when it is not there, or not the follower's. Nothing has been written then.
    pub fn map(offer: &FabricOffer, node_id: &[u8], durability: Durability) -> Result<Self, MapError> {
        if host_id().is_none_or(|id| id != offer.host) {
            return Err(MapError::AnotherHost);
        }
        let file = Arc::new(File::options().read(true).write(true).open(&offer.address)?);
        let len = match dax_device(&file)? {
            Some(device) => device.len,
            None => file.metadata()?.len(),
        };
        if offer.window_at.checked_add(offer.window_len).is_none_or(|end| end > len) {
            return Err(MapError::AnotherLog);
        }
        let persistence = detect(&file, durability)?;
        let region = Region::map(file, len, persistence, "follower's log")?;
        let identity = LogIdentity::parse(region.bytes(0, IDENTITY_LEN))?;
        let expected = (LogMap::window_file_offset(), window_len(identity.geometry.ring_len()));
        if identity.node_id != node_id || (offer.window_at, offer.window_len) != expected {
            return Err(MapError::AnotherLog);
        }
        Ok(Self { region, window_at: offer.window_at, window_len: offer.window_len })
    }

    fn at(&self, offset: u64, len: u64) -> u64 {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.window_len);
        assert!(fits, "{len} bytes at {offset:#x} are beyond the window");
        self.window_at + offset
    }
}

impl Window for SharedWindow {
    fn len(&self) -> u64 {
        self.window_len
    }

    fn fill(&mut self, offset: u64, len: usize, store: &mut dyn FnMut(&mut [u8])) {
        self.region.with_mut(self.at(offset, len as u64), len, store);
    }

    fn flush(&mut self, offset: u64, len: u64) -> Result<(), WindowError> {
        self.region.flush(self.at(offset, len), len as usize);
        Ok(())
    }

    fn fence(&mut self) -> Result<(), WindowError> {
        self.region.fence();
        Ok(self.region.sync()?)
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        into.copy_from_slice(self.region.bytes(self.at(offset, into.len() as u64), into.len()));
    }
}

/// What a follower whose log lies at `path` offers; `None` where it cannot be told which host this is.
pub fn offer(path: &Path, log: &LogMap) -> Option<FabricOffer> {
    Some(FabricOffer {
        name: FabricKind::Shm.name().into(),
        host: host_id()?,
        address: path.to_str()?.to_owned(),
        window_at: LogMap::window_file_offset(),
        window_len: log.window_len(),
        ..FabricOffer::default()
    })
}

/// What tells two processes whether they run under the same kernel: the boot id. `None` where it cannot be read; such
/// a node offers no shm.
pub fn host_id() -> Option<String> {
    let id = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).ok()?;
    Some(id.trim().to_owned())
}

/// How often a follower looks for new bytes. Nobody waits for what it finds, since the leader has made it durable already;
/// only its own readers see it later. So it looks seldom enough to take next to none of its processor, and seldomer while it
/// finds nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    idle_looks: u32,
}

/// The sleep after a look that found something.
const SHORTEST_SLEEP_US: u64 = 1000;
/// The longest sleep, and so the longest time that a committed record stays unseen on an idle follower.
const LONGEST_SLEEP_US: u64 = 2000;

impl Watch {
    /// The sleep after a look that found something or not, in microseconds.
    pub fn pause_us(&mut self, found: bool) -> u64 {
        self.idle_looks = if found { 0 } else { self.idle_looks.saturating_add(1) };
        (SHORTEST_SLEEP_US << self.idle_looks.min(10)).min(LONGEST_SLEEP_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_looks_seldomer_while_it_finds_nothing() {
        let mut watch = Watch::default();
        assert_eq!(watch.pause_us(true), SHORTEST_SLEEP_US);
        assert_eq!(watch.pause_us(false), 2 * SHORTEST_SLEEP_US);
        let pauses: Vec<_> = (0..100).map(|_| watch.pause_us(false)).collect();
        assert!(pauses.iter().all(|&pause| pause == LONGEST_SLEEP_US), "{pauses:?}");
        assert_eq!(watch.pause_us(true), SHORTEST_SLEEP_US);
    }
}
