//! Doubles for tests and simulation, here and in the crates above: memory without a file below it, and a log that
//! replays every transaction at once, as a follower without delay would.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{CommitError, Heap, ImageSource, Range, RangeKind, RedoSink, View};
use crate::lsn::Lsn;
use crate::pmem::mem::Mem;

/// Anonymous memory whose file system has `space` bytes.
#[derive(Debug)]
pub struct MemSource {
    max_len: u64,
    image: Vec<u8>,
    /// How many bytes the image may grow to before the file system is full.
    pub space: AtomicU64,
    /// The calls of `drop_private`, which do nothing.
    pub dropped: Mutex<Vec<(u64, u64)>>,
}

impl MemSource {
    /// Address space for an image of up to `max_len` bytes.
    pub fn new(max_len: u64) -> Arc<MemSource> {
        MemSource::with_image(max_len, Vec::new())
    }

    /// As [`MemSource::new`], for an image that holds these bytes already.
    pub fn with_image(max_len: u64, image: Vec<u8>) -> Arc<MemSource> {
        Arc::new(MemSource { max_len, image, space: AtomicU64::new(u64::MAX), dropped: Mutex::default() })
    }
}

impl ImageSource for MemSource {
    fn memory(&self) -> Mem {
        let mut mem = Mem::anonymous(self.max_len as usize).expect("address space");
        mem.set_limit(self.image.len());
        mem.bytes_mut(0, self.image.len()).copy_from_slice(&self.image);
        mem
    }

    fn max_len(&self) -> u64 {
        self.max_len
    }

    fn grow_to(&self, len: u64) -> io::Result<()> {
        if len > self.space.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn drop_private(&self, at: u64, len: u64) -> io::Result<()> {
        self.dropped.lock().expect("no panic while it is held").push((at, len));
        Ok(())
    }
}

/// A log that replays every transaction into an image of its own, as a follower would.
#[derive(Debug, Default)]
pub struct Replica {
    /// What replaying all transactions gives.
    pub image: Vec<u8>,
    /// The end of the log, counting records as the real one would.
    pub appended: u64,
    /// Redo bytes of the last transaction, the record's header not included.
    pub last_len: u64,
    /// The ranges of the last transaction.
    pub last: Vec<Range>,
    /// Refuse every transaction.
    pub full: bool,
}

impl RedoSink for Replica {
    fn append(&mut self, view: &View, ranges: &[Range]) -> Result<Lsn, CommitError> {
        if self.full {
            return Err(CommitError::LogFull { wanted: 1, free: 0 });
        }
        self.last_len = 0;
        self.last = ranges.to_vec();
        for range in ranges {
            self.last_len += range.redo_len() as u64;
            let (from, to) = (range.at.get() as usize, range.end() as usize);
            match range.kind {
                RangeKind::Grow => self.image.resize(from.max(self.image.len()), 0),
                RangeKind::Fill => self.image[from..to].fill(0),
                RangeKind::Bytes => {
                    self.image[from..to].copy_from_slice(view.peek_bytes(range.at, range.len as usize));
                }
            }
        }
        self.appended += (32 + self.last_len).next_multiple_of(8);
        Ok(Lsn::new(self.appended))
    }

    fn appended(&self) -> Lsn {
        Lsn::new(self.appended)
    }
}

impl Replica {
    /// I5: replaying the log gives the bytes of the working view.
    pub fn assert_same_bytes(&self, view: &View) {
        assert_eq!(self.image.len() as u64, view.image_len(), "the image's length");
        let bytes = view.peek_bytes(super::Offset::NULL, self.image.len());
        if *bytes == self.image[..] {
            return;
        }
        if let Some(at) = bytes.iter().zip(&self.image).position(|(view, image)| view != image) {
            panic!("view and replayed image differ at {at:#x}");
        }
    }
}

/// A formatted heap over fresh memory, and its log.
pub fn formatted(max_len: u64) -> (Heap, Replica) {
    let mut heap = Heap::open(MemSource::new(max_len), 0).expect("address space");
    let mut log = Replica::default();
    let mut txn = heap.txn();
    Heap::format(&mut txn, [9; 16]).expect("room for the superblock");
    txn.commit(&mut log).expect("an empty log");
    (heap, log)
}
