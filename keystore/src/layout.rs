//! Where the keystore's own records lie in the image.
//!
//! User root 0 of the image points to the *table*: one page of its own that holds the hash seed and, per
//! database, the offset of its record. The table is written by `SWAPDB` and `FLUSHDB` only, on purpose: every
//! reader depends on it, so a reader of a database that was just swapped or flushed waits for that to be
//! committed, while nobody waits for the last insertion's count.
//!
//! A database's record holds the roots of its two indexes, of all keys and of those with an expiry, and takes
//! a write per insertion; readers only peek at it.

use farkeep_core::heap::{HeapError, Offset, Txn, View};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::index::Root;

/// The image's user root that the keystore owns.
pub const ROOT_SLOT: usize = 0;
/// Says that the table is one.
const MAGIC: u64 = u64::from_le_bytes(*b"FKKEYS\0\x01");
/// The most databases a keystore can have.
pub const MAX_DATABASES: usize = 16_384;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct TableHead {
    magic: u64,
    seed: u64,
    databases: u64,
    /// Where the head of the reclaim list is kept.
    reclaim_at: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct TableRow {
    record: u64,
    /// Counts the flushes of this database: what makes a flush a write to the table.
    flushes: u64,
}

const HEAD_LEN: u64 = size_of::<TableHead>() as u64;
const ROW_LEN: u64 = size_of::<TableRow>() as u64;
const _: () = assert!(size_of::<TableHead>() == 32 && size_of::<TableRow>() == 16);

/// A database's record.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DbRecord {
    pub keys: Root,
    pub expires: Root,
    pub reserved: [u64; 2],
}

pub(crate) const RECORD_LEN: u64 = size_of::<DbRecord>() as u64;
const _: () = assert!(size_of::<DbRecord>() == 64);
/// Where in a record the root of the index of keys with an expiry is.
pub(crate) const EXPIRES_AT: u64 = crate::index::ROOT_LEN;

/// What never changes once the image is formatted, read once when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The table.
    pub table: Offset,
    /// The seed of every hash in the image.
    pub seed: u64,
    /// Number of databases.
    pub databases: usize,
    /// Where the head of the reclaim list is kept.
    pub reclaim_at: Offset,
}

/// Why an image has no usable keystore.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// User root 0 is null: the image was never formatted.
    #[error("the image holds no keystore")]
    Unformatted,
    /// User root 0 points to something else.
    #[error("the keystore's table at {at:?} begins with {found:#018x}, not with its magic number")]
    Foreign {
        /// The table's offset.
        at: Offset,
        /// What is there.
        found: u64,
    },
    /// The table cannot be one.
    #[error("the keystore's table at {at:?} is damaged: {what}")]
    Damaged {
        /// The table's offset.
        at: Offset,
        /// What is wrong.
        what: &'static str,
    },
}

impl Layout {
    /// Makes an empty keystore in an image whose user root 0 is null.
    pub(crate) fn format(txn: &mut Txn<'_>, databases: usize, seed: u64) -> Result<Self, HeapError> {
        assert!((1..=MAX_DATABASES).contains(&databases), "1 to {MAX_DATABASES} databases, not {databases}");
        let records_len = databases * RECORD_LEN as usize + 16;
        let records = txn.alloc(records_len)?;
        txn.zero(records, records_len);
        let table_len = (HEAD_LEN as usize + databases * ROW_LEN as usize).next_multiple_of(4096);
        let table = txn.alloc(table_len)?;
        txn.zero(table, table_len);
        let reclaim_at = records.add(databases as u64 * RECORD_LEN);
        let head =
            TableHead { magic: MAGIC, seed, databases: databases as u64, reclaim_at: reclaim_at.get() };
        txn.put(table, &head);
        for db in 0..databases as u64 {
            let row = TableRow { record: records.add(db * RECORD_LEN).get(), flushes: 0 };
            txn.put(table.add(HEAD_LEN + db * ROW_LEN), &row);
        }
        txn.set_root(ROOT_SLOT, table);
        Ok(Self { table, seed, databases, reclaim_at })
    }

    pub(crate) fn open(view: &View) -> Result<Self, OpenError> {
        let table = view.root(ROOT_SLOT);
        if table == Offset::NULL {
            return Err(OpenError::Unformatted);
        }
        let fits =
            |at: Offset, len: u64| at.get().checked_add(len).is_some_and(|end| end <= view.image_len());
        if !fits(table, HEAD_LEN) {
            return Err(OpenError::Damaged { at: table, what: "the table lies beyond the image's end" });
        }
        let head: TableHead = view.peek(table);
        if head.magic != MAGIC {
            return Err(OpenError::Foreign { at: table, found: head.magic });
        }
        if head.databases == 0 || head.databases > MAX_DATABASES as u64 {
            return Err(OpenError::Damaged { at: table, what: "the number of databases is out of range" });
        }
        if !fits(table, HEAD_LEN + head.databases * ROW_LEN) || !fits(Offset::new(head.reclaim_at), 8) {
            return Err(OpenError::Damaged { at: table, what: "the table points beyond the image's end" });
        }
        let (databases, reclaim_at) = (head.databases as usize, Offset::new(head.reclaim_at));
        Ok(Self { table, seed: head.seed, databases, reclaim_at })
    }

    fn row_at(&self, db: usize) -> Offset {
        assert!(db < self.databases, "database {db} of {}", self.databases);
        self.table.add(HEAD_LEN + db as u64 * ROW_LEN)
    }

    /// Where database `db` has its record. The reader depends on the last swap or flush.
    #[inline]
    pub(crate) fn record_at(&self, view: &View, db: usize) -> Offset {
        Offset::new(view.get::<u64>(self.row_at(db)))
    }

    /// As [`Layout::record_at`], without a dependency; for prefetching.
    #[inline]
    pub(crate) fn peek_record_at(&self, view: &View, db: usize) -> Offset {
        Offset::new(view.peek::<u64>(self.row_at(db)))
    }

    pub(crate) fn swap(&self, txn: &mut Txn<'_>, first: usize, second: usize) {
        let a: u64 = txn.peek(self.row_at(first));
        let b: u64 = txn.peek(self.row_at(second));
        txn.put(self.row_at(first), &b);
        txn.put(self.row_at(second), &a);
    }

    pub(crate) fn note_flush(&self, txn: &mut Txn<'_>, db: usize) {
        let flushes_at = self.row_at(db).add(8);
        let flushes: u64 = txn.peek(flushes_at);
        txn.put(flushes_at, &(flushes + 1));
    }

    /// The blocks the layout is made of, with the length in use of each.
    pub(crate) fn blocks(&self, view: &View) -> [(Offset, u64); 2] {
        let records =
            (0..self.databases).map(|db| self.peek_record_at(view, db)).min().unwrap_or(Offset::NULL);
        let table_len = (HEAD_LEN + self.databases as u64 * ROW_LEN).next_multiple_of(4096);
        [(self.table, table_len), (records, self.databases as u64 * RECORD_LEN + 16)]
    }
}
