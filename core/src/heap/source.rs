//! What a heap stands on: below it the image's memory, beside it the log that takes its transactions.
//!
//! Both are traits with one real implementation (the pool's image file, the log's appender) and one for tests and
//! simulation, so that everything in this module runs without a file system.

use std::fmt;
use std::io;

use super::range::Range;
use super::view::View;
use crate::lsn::Lsn;
use crate::pmem::mem::Mem;
use crate::pool::hex;

/// The image a heap works on, as the heap sees it: private memory that reads through to the image.
pub trait ImageSource: Send + Sync + fmt::Debug {
    /// A handle on the working view: address space reserved for [`ImageSource::max_len`] bytes. Called once per heap.
    fn memory(&self) -> Mem;

    /// The longest the image may become, in bytes; a multiple of the page length.
    fn max_len(&self) -> u64;

    /// Makes sure that the first `len` bytes of the image have space allocated to them, so that storing there can
    /// not fault. New bytes are zero. Never shrinks; asking for what is there already is cheap and succeeds, so a
    /// background thread may allocate ahead of need. On an error nothing has changed for the heap.
    fn grow_to(&self, len: u64) -> io::Result<()>;

    /// Drops the working view's private copies of these whole pages, so that reads see the image again. The caller
    /// guarantees that the image already holds the same bytes.
    fn drop_private(&self, at: u64, len: u64) -> io::Result<()>;
}

/// Where a transaction goes when it commits.
pub trait RedoSink {
    /// Appends one transaction made of these ranges, whose bytes are to be read from `view` (with
    /// [`View::peek_bytes`]), and returns the LSN of its end. The ranges come in the order in which they must be
    /// replayed: growth first, then fills, then bytes. Fills and bytes are each in ascending order, and no two of one
    /// kind overlap; bytes may well lie in what a fill has cleared.
    /// On an error nothing has been appended.
    fn append(&mut self, view: &View, ranges: &[Range]) -> Result<Lsn, CommitError>;

    /// The end of the last transaction appended.
    fn appended(&self) -> Lsn;
}

/// Why the heap could not do what it was asked for. The transaction is as it was before the call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeapError {
    /// The image may not become long enough for this block.
    #[error("out of memory: {wanted} bytes wanted, the image may hold {limit} bytes")]
    OutOfMemory {
        /// The length of the block asked for, in bytes.
        wanted: u64,
        /// The limit of the image, in bytes.
        limit: u64,
    },
    /// The file system has no space for the image to grow.
    #[error("no space: the image could not grow to {wanted_len} bytes")]
    NoSpace {
        /// The length that the image should have got, in bytes.
        wanted_len: u64,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The image does not begin with a superblock this version understands.
    #[error("not a farkeep image: {what} is {found:#x}, expected {expected:#x}")]
    Foreign {
        /// The field that does not fit.
        what: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        expected: u64,
    },
    /// The image is one, but another pool's.
    #[error("the image belongs to dataset {}, its log to dataset {}", hex(found), hex(expected))]
    OtherDataset {
        /// The dataset that the image names.
        found: [u8; 16],
        /// The dataset that it should be.
        expected: [u8; 16],
    },
}

/// Why a transaction did not commit. It has been rolled back.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The ring is full because the replayer or a follower is behind; the same transaction may succeed later.
    #[error("log full: {wanted} bytes wanted, {free} bytes free")]
    LogFull {
        /// Bytes of log the transaction needs.
        wanted: u64,
        /// Bytes of log that may be overwritten now.
        free: u64,
    },
    /// The transaction would not fit into an empty ring.
    #[error("transaction too large: {wanted} bytes of log wanted, at most {limit} bytes possible")]
    TooLarge {
        /// Bytes of log the transaction needs.
        wanted: u64,
        /// Bytes of log a transaction may take.
        limit: u64,
    },
    /// The log takes no more records, for instance because a persist failed; only recovery helps.
    #[error("the log is stopped: {reason}")]
    Stopped {
        /// Why it stopped.
        reason: String,
    },
}
