//! A keystore on memory: its log replays every transaction at once into an image of its own, as a follower
//! would.

use std::io;
use std::sync::Arc;

use farkeep_core::Lsn;
use farkeep_core::heap::{CommitError, Heap, ImageSource, Offset, Range, RangeKind, RedoSink, View};
use farkeep_core::pmem::mem::Mem;
use farkeep_keystore::command::{execute, table::Handler};
use farkeep_keystore::{CommandError, Keystore, ReadCtx, WriteCtx};
use farkeep_proto::resp::Encoder;

#[derive(Debug)]
struct Memory {
    max_len: u64,
    start: Vec<u8>,
}

impl ImageSource for Memory {
    fn memory(&self) -> Mem {
        let mut mem = Mem::anonymous(self.max_len as usize).expect("address space");
        if !self.start.is_empty() {
            mem.set_limit(self.start.len());
            mem.bytes_mut(0, self.start.len()).copy_from_slice(&self.start);
        }
        mem
    }

    fn max_len(&self) -> u64 {
        self.max_len
    }

    fn grow_to(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn drop_private(&self, _at: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

/// The log, which keeps nothing but what replaying it gives.
#[derive(Debug, Default)]
pub struct Log {
    pub image: Vec<u8>,
    pub appended: u64,
    pub records: u64,
    /// Whether to replay; benches do not.
    pub replays: bool,
}

impl RedoSink for Log {
    fn append(&mut self, view: &View, ranges: &[Range]) -> Result<Lsn, CommitError> {
        let mut len = 32;
        for range in ranges {
            len += range.redo_len() as u64;
            if !self.replays {
                continue;
            }
            let (from, to) = (range.at.get() as usize, range.end() as usize);
            match range.kind {
                RangeKind::Grow => self.image.resize(from.max(self.image.len()), 0),
                RangeKind::Fill => self.image[from..to].fill(0),
                RangeKind::Bytes => {
                    self.image[from..to].copy_from_slice(view.peek_bytes(range.at, range.len as usize));
                }
            }
        }
        self.records += 1;
        self.appended += u64::next_multiple_of(len, 8);
        Ok(Lsn::new(self.appended))
    }

    fn appended(&self) -> Lsn {
        Lsn::new(self.appended)
    }
}

/// A keystore that commands can be given to.
#[derive(Debug)]
pub struct Store {
    pub heap: Heap,
    pub log: Log,
    pub ks: Keystore,
    pub db: usize,
    pub now_ms: u64,
    pub resp3: bool,
    max_len: u64,
}

impl Store {
    /// An empty one with 16 databases, in an image of at most `max_len` bytes.
    pub fn new(max_len: u64, replays: bool) -> Self {
        let mut heap = Heap::open(Arc::new(Memory { max_len, start: Vec::new() }), 0).unwrap();
        let mut log = Log { replays, ..Log::default() };
        let mut txn = heap.txn();
        Heap::format(&mut txn, [9; 16]).unwrap();
        let ks = Keystore::format(&mut txn, 16, 0x5EED).unwrap();
        txn.commit(&mut log).unwrap();
        Self { heap, log, ks, db: 0, now_ms: 1_700_000_000_000, resp3: false, max_len }
    }

    /// What the process would find after a crash: the image that replaying the log gives.
    pub fn reopen(&mut self) {
        let start = self.log.image.clone();
        let image_len = start.len() as u64;
        self.heap = Heap::open(Arc::new(Memory { max_len: self.max_len, start }), image_len).unwrap();
        let limits = self.ks.limits.clone();
        self.ks = Keystore::open(self.heap.view()).unwrap();
        self.ks.limits = limits;
    }

    /// I5: the replayed image has the bytes of the working view.
    pub fn assert_replayed(&mut self) {
        // A rollback leaves repairs to the next commit: here is one, of a transaction that changes next to
        // nothing.
        let selected = std::mem::replace(&mut self.db, 15);
        self.run(&[b"FLUSHDB"]);
        self.db = selected;
        let view = self.heap.view();
        assert_eq!(self.log.image.len() as u64, view.image_len());
        let bytes = view.peek_bytes(Offset::NULL, self.log.image.len());
        if let Some(at) = bytes.iter().zip(&self.log.image).position(|(view, image)| view != image) {
            panic!("view and replayed image differ at {at:#x}");
        }
    }

    /// Runs a command as one transaction and returns its reply.
    pub fn run(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut reply = Vec::new();
        self.run_into(args, &mut reply, true);
        reply
    }

    /// Runs a command whose transaction is then dropped, as by a crash before it is in the log.
    pub fn run_and_lose(&mut self, args: &[&[u8]]) {
        self.run_into(args, &mut Vec::new(), false);
    }

    pub fn run_into(&mut self, args: &[&[u8]], reply: &mut Vec<u8>, commits: bool) {
        let mut out = Encoder::new(reply, self.resp3);
        let command = match execute::resolve(args) {
            Ok(command) => command,
            Err(error) => return out.error(&error.reply()),
        };
        if matches!(command.handler, Handler::Read(_)) {
            let mut ctx = ReadCtx { view: self.heap.view(), ks: &self.ks, db: self.db, now_ms: self.now_ms };
            execute::read(&mut ctx, command, args, &mut out);
            return;
        }
        let mut txn = self.heap.txn();
        let mut ctx = WriteCtx { txn: &mut txn, ks: &mut self.ks, db: self.db, now_ms: self.now_ms };
        execute::write(&mut ctx, command, args, &mut out);
        if commits {
            txn.commit(&mut self.log).unwrap();
        }
    }

    /// As [`Store::run`], from words separated by spaces, with the reply as text.
    pub fn say(&mut self, line: &str) -> String {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.run(&words)).into_owned()
    }

    /// Runs a piece of background work as one transaction.
    pub fn work<T>(&mut self, work: impl FnOnce(&mut WriteCtx<'_, '_>) -> T) -> T {
        let mut txn = self.heap.txn();
        let mut ctx = WriteCtx { txn: &mut txn, ks: &mut self.ks, db: self.db, now_ms: self.now_ms };
        let result = work(&mut ctx);
        txn.commit(&mut self.log).unwrap();
        result
    }

    /// Frees everything that waits to be freed.
    pub fn reclaim_all(&mut self) {
        while self.work(|ctx| ctx.reclaim(100)).map_err(CommandError::from).unwrap() > 0 {}
    }
}
