//! The shared-memory fabric: the leader stores into the window of a follower on the same host and makes it
//! persistent itself.
//!
//! The follower's processor takes no part, as with RDMA, and as on memory that two hosts share over CXL: a flush has
//! completed when [`Remote::flush`] returns. What the follower applied and checkpointed comes over the control
//! channel. The follower finds new records by looking; [`Watch`] decides how often.
//!
//! The mapping of the follower's log is made by its user, through `core::pmem`, and handed in as a
//! [`Window`].

use std::os::fd::BorrowedFd;
use std::path::Path;

use farkeep_proto::window::{TAIL_CELL_AT, TailCell};

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
    issued: Ticket,
    completed: Ticket,
    tail: Option<TailCell>,
    failed: Option<WindowError>,
}

impl<W: Window> Remote<W> {
    /// Takes over a follower's window, mapped into this process.
    pub fn new(window: W) -> Self {
        Self { window, issued: Ticket::default(), completed: Ticket::default(), tail: None, failed: None }
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
                self.failed = Some(WindowError(std::io::Error::other("an earlier write-back failed")));
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

/// What tells two processes whether they run under the same kernel: the boot id. `None` where it cannot be read; such
/// a node offers no shm.
pub fn host_id() -> Option<String> {
    let id = std::fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).ok()?;
    Some(id.trim().to_owned())
}

/// How a follower looks for new bytes without burning a processor: at once again while there is something, then a
/// short while of spinning, then with sleeps that double up to a millisecond.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    idle_looks: u32,
}

/// Looks at the tail cell without a pause before the first sleep; some 10 us.
const SPINS: u32 = 200;
/// The first sleep.
const SHORTEST_SLEEP_US: u64 = 20;
/// The longest sleep, and so the longest time that a committed record stays unseen on an idle follower.
const LONGEST_SLEEP_US: u64 = 1000;

impl Watch {
    /// What to do after a look that found something or not: look again at once (`None`) or after so many
    /// microseconds.
    pub fn pause_us(&mut self, found: bool) -> Option<u64> {
        if found {
            self.idle_looks = 0;
            return None;
        }
        self.idle_looks = self.idle_looks.saturating_add(1);
        let sleeps = self.idle_looks.checked_sub(SPINS)?;
        Some((SHORTEST_SLEEP_US << sleeps.min(10)).min(LONGEST_SLEEP_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_follower_sleeps_a_millisecond_and_a_busy_one_never() {
        let mut watch = Watch::default();
        assert_eq!(watch.pause_us(true), None);
        let pauses: Vec<_> = (0..SPINS + 20).map(|_| watch.pause_us(false)).collect();
        assert!(pauses[..SPINS as usize - 1].iter().all(Option::is_none));
        assert_eq!(pauses[SPINS as usize - 1], Some(SHORTEST_SLEEP_US));
        assert_eq!(pauses.last(), Some(&Some(LONGEST_SLEEP_US)));
        assert_eq!(watch.pause_us(true), None);
        assert_eq!(watch.pause_us(false), None, "after a find it spins again first");
    }
}
