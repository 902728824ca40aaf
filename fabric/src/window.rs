//! The contract between the two ends of a fabric.
//!
//! A follower exports a [`Window`]: the remotely writable part of its log. A leader holds a [`RemoteWindow`] for each
//! follower. Writes are posted in order; a flush covers every write posted before it; completions come back in
//! order and are cumulative, so that one [`Completion`] stands for all tickets up to its own. Once a link is broken
//! it stays broken: every open ticket has failed, and only a new session, which starts again from what the follower
//! proves to hold, can go on.
//!
//! A completed ticket means that the bytes survive a power cut of the follower, on the basis that the session
//! negotiated. Nothing may be concluded from a write that has been posted but not flushed.
//!
//! Log bytes are never copied on their way: a [`LogBytes`] keeps the ring's memory alive and names a part of it
//! that stays unchanged until the follower holds it, because the leader's ring does not take back what a follower
//! in its registry has yet to checkpoint. Other memory may be written as well, between batches of the log: chunks of the image
//! into staging slots. A fabric that wants memory to be registered copies it through some that is.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use farkeep_core::lsn::Lsn;
use farkeep_proto::window::TailCell;

/// Memory that writes come from: the ring of a log, at offsets from its start, or any other that nobody changes.
pub trait LogMemory: Send + Sync {
    /// The `len` bytes at offset `at`. Panics if they do not lie within the memory.
    ///
    /// The caller asks only for bytes that nobody changes while it looks at them: they are appended and not yet
    /// released.
    fn slice(&self, at: u64, len: usize) -> &[u8];
}

impl LogMemory for Vec<u8> {
    fn slice(&self, at: u64, len: usize) -> &[u8] {
        &self[at as usize..][..len]
    }
}

/// A part of the leader's log, or of other memory, on its way to a follower.
#[derive(Clone)]
pub struct LogBytes {
    memory: Arc<dyn LogMemory>,
    at: u64,
    len: u32,
}

impl LogBytes {
    /// The `len` bytes at offset `at` of `memory`. Panics if they do not lie within it.
    pub fn new(memory: Arc<dyn LogMemory>, at: u64, len: u32) -> Self {
        assert_eq!(memory.slice(at, len as usize).len(), len as usize);
        Self { memory, at, len }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.memory.slice(self.at, self.len as usize)
    }

    /// The `len` of these bytes that begin at `from`. Panics if they are not so many.
    #[must_use]
    pub fn part(&self, from: u32, len: u32) -> Self {
        assert!(
            from.checked_add(len).is_some_and(|end| end <= self.len),
            "{len} bytes at {from} of {}",
            self.len
        );
        Self { memory: Arc::clone(&self.memory), at: self.at + u64::from(from), len }
    }

    /// How many bytes.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for LogBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogBytes({}..{})", self.at, self.at + u64::from(self.len))
    }
}

/// The number of a flush, rising by one within a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The ticket's number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The ticket of the next flush.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What a follower says along with an acknowledgement, where the fabric has the follower's processor take part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// End of the last transaction that the follower has validated in its persistent log.
    pub durable: Lsn,
    /// Its `applied_lsn`.
    pub applied: Lsn,
    /// Its `checkpoint_lsn`: the leader's credit.
    pub checkpoint: Lsn,
}

/// All flushes up to a ticket have completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// This flush and all before it.
    pub ticket: Ticket,
    /// What the follower said with it; `None` on one-sided fabrics, where it speaks on the control channel only.
    pub reported: Option<Reported>,
}

/// Whether a link has taken all that was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Everything is on its way.
    Done,
    /// The link took a part; call [`RemoteWindow::kick`] again when [`RemoteWindow::readiness`] is writable.
    Blocked,
    /// Nothing, because an [`Outgoing`] of this link is still there; call [`RemoteWindow::kick`] again when it is gone.
    Lent,
}

/// Sends what was posted to a link up to when it was lent, as far as the link takes it without waiting. To be called again when it
/// was `Blocked`, or dropped: then the link itself sends what is left.
///
/// # Errors
/// [`FabricError`] when the link is broken; all open tickets have then failed.
pub type Outgoing = Box<dyn FnMut() -> Result<Sending, FabricError> + Send>;

/// The implementations of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FabricKind {
    /// One-sided writes by the network card.
    Rdma,
    /// One-sided stores into a window on the same host.
    Shm,
    /// Frames over TCP, persisted and acknowledged by the follower's agent.
    Tcp,
    /// A simulated link.
    Sim,
}

impl FabricKind {
    /// The name that the handshake, `INFO` and the logs use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::Shm => "shm",
            Self::Tcp => "tcp",
            Self::Sim => "sim",
        }
    }

    /// The fabric of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Rdma, Self::Shm, Self::Tcp, Self::Sim].into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for FabricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can go wrong on a fabric. After any of these the link is of no more use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// The peer closed the connection.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// The peer wants to write outside the window.
    #[error("a frame for {offset}..+{len} does not fit into the window of {window_len} bytes")]
    OutsideWindow {
        /// Where it wants to write.
        offset: u64,
        /// How much.
        len: u64,
        /// How long the window is.
        window_len: u64,
    },
    /// A frame has flags that this build does not know.
    #[error("a frame has unknown flags {flags:#x}")]
    UnknownFlags {
        /// The flags.
        flags: u32,
    },
    /// Flush numbers do not rise one by one.
    #[error("flush {found} came where flush {expected} was due")]
    OutOfOrder {
        /// The number that was due.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The peer acknowledged a flush that was never asked for.
    #[error("flush {acknowledged} was acknowledged, but only {posted} were posted")]
    AcknowledgedTooMuch {
        /// The number in the acknowledgement.
        acknowledged: u64,
        /// The last ticket given out.
        posted: u64,
    },
    /// A message of the peer makes no sense, or something was asked for that cannot be.
    #[error("{what}")]
    Malformed {
        /// What makes no sense.
        what: &'static str,
    },
    /// The network card could not do what it was asked to.
    #[error("the network card says: {status}")]
    Failed {
        /// Its reason, such as `remote access error`.
        status: String,
    },
    /// The window could not be made persistent.
    #[error("the window could not be made persistent")]
    Window(#[from] WindowError),
}

/// A window could not be made persistent. After this, the node that owns it must stop acknowledging until recovery.
#[derive(Debug, thiserror::Error)]
#[error("writing back the log window failed")]
pub struct WindowError(#[from] pub std::io::Error);

/// What a follower exports: the remotely writable part of its log.
///
/// A crash keeps what was flushed before a [`Window::fence`] that returned; of the rest, any subset of cache lines.
pub trait Window {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether the window has no bytes at all; it never has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets `store` put bytes into a range, which are visible at once. Panics if it does not lie within the window: whoever takes
    /// offsets from a peer has checked them.
    fn fill(&mut self, offset: u64, len: usize, store: &mut dyn FnMut(&mut [u8]));

    /// Stores bytes, as [`Window::fill`] does.
    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.fill(offset, bytes.len(), &mut |to| to.copy_from_slice(bytes));
    }

    /// Begins to make a range persistent.
    ///
    /// # Errors
    /// [`WindowError`] where the medium refuses.
    fn flush(&mut self, offset: u64, len: u64) -> Result<(), WindowError>;

    /// Returns when every flushed range is persistent.
    ///
    /// # Errors
    /// [`WindowError`] where the medium refuses; what was flushed then counts as lost.
    fn fence(&mut self) -> Result<(), WindowError>;

    /// Copies visible bytes out. Panics if they do not lie within the window.
    fn read(&self, offset: u64, into: &mut [u8]);
}

/// A leader's hold on a follower's window. The caller batches: writes, one flush, a tail cell, one kick.
pub trait RemoteWindow {
    /// Which fabric this is.
    fn kind(&self) -> FabricKind;

    /// How many bytes may be written before earlier ones have completed. A write may exceed it by nothing: the
    /// named limits of the fabrics rest on it.
    fn room(&self) -> u64;

    /// Posts a write of `source` at window offset `offset`. Panics if it is longer than [`RemoteWindow::room`].
    fn write(&mut self, offset: u64, source: LogBytes);

    /// Asks that all writes posted so far become persistent; the ticket completes when they are.
    fn flush(&mut self) -> Ticket;

    /// Posts a tail cell behind all writes. It is a hint: never flushed, and only the latest is sent.
    fn write_tail(&mut self, cell: TailCell);

    /// Sends what was posted, as far as the link takes it without waiting.
    ///
    /// # Errors
    /// [`FabricError`] when the link is broken; all open tickets have then failed.
    fn kick(&mut self) -> Result<Sending, FabricError>;

    /// In place of [`RemoteWindow::kick`], where that takes a processor's time: what was posted, to be sent by somebody who does not hold
    /// the window meanwhile. `None` where sending costs nothing, or if there already is one.
    fn lend(&mut self) -> Option<Outgoing> {
        None
    }

    /// Adds what has completed since the last call to `done`, in order.
    ///
    /// # Errors
    /// [`FabricError`] when the link is broken; all open tickets have then failed. Completions that arrived before
    /// are in `done` all the same.
    fn poll(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError>;

    /// The descriptor that becomes readable when [`RemoteWindow::poll`] has something and writable when a blocked
    /// [`RemoteWindow::kick`] can go on; `None` where there is nothing to wait for. Whoever sleeps on it calls
    /// [`RemoteWindow::rest`] first.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// To be called before sleeping on [`RemoteWindow::readiness`]: from here on, what completes makes it readable. Announcing
    /// every completion to somebody who is awake would cost more than the completion. Says whether to sleep: if not,
    /// [`RemoteWindow::poll`] has something already.
    ///
    /// # Errors
    /// [`FabricError`] when the link is broken; all open tickets have then failed.
    fn rest(&mut self) -> Result<bool, FabricError> {
        Ok(true)
    }
}
