//! The keystore: what a process keeps in its own memory beside the image, and the two contexts commands run
//! in.
//!
//! All data is in the image. A [`Keystore`] holds what may be lost: limits, counters, cursors of background
//! work, signals not yet delivered. It is opened in constant time, whatever the image's size.
//!
//! A [`ReadCtx`] cannot write: an expired key reads as missing and stays where it is, so a follower may run
//! any read on its image. A [`WriteCtx`] removes the expired keys it meets, as part of its transaction.

use std::cell::Cell;

use farkeep_core::heap::{HeapError, Offset, Txn, View};

use crate::entry::{Entry, Keys};
use crate::expiry::ActiveExpiry;
use crate::index::{self, Found, Index};
use crate::layout::{EXPIRES_AT, Layout, OpenError};
use crate::signal::{EventClass, Signals};

/// What limits the shape of values; each is a directive of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `hash-max-listpack-entries`: a hash with more fields is indexed.
    pub hash_max_listpack_entries: u64,
    /// `hash-max-listpack-value`: a hash with a longer field or value (in bytes) is indexed.
    pub hash_max_listpack_value: u64,
    /// `proto-max-bulk-len`: the longest string, in bytes.
    pub max_string_len: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { hash_max_listpack_entries: 128, hash_max_listpack_value: 64, max_string_len: 512 << 20 }
    }
}

/// Counters for INFO, since the process started or [`Stats::reset`].
#[derive(Debug, Default)]
pub struct Stats {
    /// `keyspace_hits`: reads that found their key.
    pub hits: Cell<u64>,
    /// `keyspace_misses`: reads that did not.
    pub misses: Cell<u64>,
    /// `expired_keys`: keys removed because their time had come.
    pub expired_keys: u64,
    /// `lazyfreed_objects`: items freed after their key was gone.
    pub reclaimed_items: u64,
}

impl Stats {
    /// Sets all counters to zero (`CONFIG RESETSTAT`).
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// What INFO's Keyspace section says of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbStats {
    /// Keys, those past their expiry but not yet removed included.
    pub keys: u64,
    /// Keys with an expiry.
    pub expires: u64,
    /// Estimate of the mean time left to keys with an expiry, in milliseconds.
    pub avg_ttl_ms: u64,
}

/// The volatile half of the keystore.
#[derive(Debug)]
pub struct Keystore {
    pub(crate) layout: Layout,
    /// What limits the shape of values.
    pub limits: Limits,
    /// What was changed and not yet told.
    pub signals: Signals,
    /// Counters for INFO.
    pub stats: Stats,
    pub(crate) expiry: ActiveExpiry,
    random: Cell<u64>,
}

/// A key's hash, for the two stages of prefetching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(u64);

/// The two indexes of one database.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Db {
    pub keys: Index<Keys>,
    pub expires: Index<Keys>,
}

impl Db {
    fn new(record_at: Offset, seed: u64) -> Self {
        Self { keys: Index::new(record_at, seed), expires: Index::new(record_at.add(EXPIRES_AT), seed) }
    }
}

impl Keystore {
    /// Makes an empty keystore with this many databases in an image that has none. `seed` must be random: it
    /// decides where keys go, and a client that knows it can make keys collide.
    ///
    /// # Errors
    /// When the image cannot grow.
    pub fn format(txn: &mut Txn<'_>, databases: usize, seed: u64) -> Result<Self, HeapError> {
        Ok(Self::new(Layout::format(txn, databases, seed)?))
    }

    /// Opens the keystore of an image.
    ///
    /// # Errors
    /// When there is none. Nothing is changed.
    pub fn open(view: &View) -> Result<Self, OpenError> {
        Ok(Self::new(Layout::open(view)?))
    }

    fn new(layout: Layout) -> Self {
        Self {
            expiry: ActiveExpiry::new(layout.databases),
            layout,
            limits: Limits::default(),
            signals: Signals::default(),
            stats: Stats::default(),
            random: Cell::new(layout.seed),
        }
    }

    /// Number of databases; fixed when the image was formatted.
    pub fn databases(&self) -> usize {
        self.layout.databases
    }

    /// Turns the active expiry cycle on or off (`DEBUG SET-ACTIVE-EXPIRE`); off, expired keys still read as
    /// missing.
    pub fn set_active_expire(&mut self, on: bool) {
        self.expiry.set_enabled(on);
    }

    /// Starts the sequence behind `RANDOMKEY`, `HRANDFIELD` and the like anew. Nothing in the image depends
    /// on it.
    pub fn reseed(&self, seed: u64) {
        self.random.set(seed);
    }

    /// The next random number (splitmix64).
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// The hash of a key, as every index of this image uses it.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(index::hash(self.layout.seed, key))
    }

    /// First stage of prefetching: asks for the bucket in which `key` would be. A worker does this for every
    /// key of a batch of commands, then [`Keystore::prefetch_entry`] for each, then executes.
    #[inline]
    pub fn prefetch(&self, view: &View, db: usize, key: &[u8]) -> KeyHash {
        let hash = self.hash(key);
        let record_at = self.layout.peek_record_at(view, db);
        Db::new(record_at, self.layout.seed).keys.prefetch_bucket(view, hash.0);
        hash
    }

    /// Second stage: looks into the bucket, which should have come by now, and asks for the entry.
    #[inline]
    pub fn prefetch_entry(&self, view: &View, db: usize, hash: KeyHash) {
        let record_at = self.layout.peek_record_at(view, db);
        Db::new(record_at, self.layout.seed).keys.prefetch_item(view, hash.0);
    }

    #[inline]
    pub(crate) fn db(&self, view: &View, db: usize) -> Db {
        Db::new(self.layout.record_at(view, db), self.layout.seed)
    }

    /// Whether `key` of database `db` is there, but its time has come.
    pub fn is_expired(&self, view: &View, db: usize, key: &[u8], now_ms: u64) -> bool {
        let keys = self.db(view, db).keys;
        let found = keys.find(view, keys.hash(key), key);
        found.is_some_and(|found| Entry::load(view, found.item).header.is_expired(now_ms))
    }

    /// Number of keys and of keys with an expiry in a database; for INFO and DBSIZE.
    pub fn db_stats(&self, view: &View, db: usize) -> DbStats {
        let indexes = self.db(view, db);
        let expires = indexes.expires.len(view);
        let avg_ttl_ms = if expires == 0 { 0 } else { self.expiry.avg_ttl_ms(db) };
        DbStats { keys: indexes.keys.len(view), expires, avg_ttl_ms }
    }
}

/// What a reading command gets.
#[derive(Debug)]
pub struct ReadCtx<'a> {
    /// The image, or the leader's working view of it.
    pub view: &'a View,
    /// The keystore's volatile half.
    pub ks: &'a Keystore,
    /// The selected database.
    pub db: usize,
    /// Milliseconds since 1970, the same for all commands of a batch.
    pub now_ms: u64,
}

/// What a writing command gets.
pub struct WriteCtx<'a, 'h> {
    /// The transaction the command is (a part of).
    pub txn: &'a mut Txn<'h>,
    /// The keystore's volatile half.
    pub ks: &'a mut Keystore,
    /// The selected database.
    pub db: usize,
    /// Milliseconds since 1970, the same for all commands of a transaction.
    pub now_ms: u64,
}

impl std::fmt::Debug for WriteCtx<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteCtx").field("db", &self.db).field("now_ms", &self.now_ms).finish_non_exhaustive()
    }
}

/// A key that is there: its entry, and where the index has it. Stale once another key is inserted into or
/// removed from the database.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    pub(crate) hash: u64,
    pub(crate) found: Found,
    /// The entry.
    pub entry: Entry,
}

impl<'a> ReadCtx<'a> {
    pub(crate) fn indexes(&self) -> Db {
        self.ks.db(self.view, self.db)
    }

    /// The entry of a key that is there and not expired, without counting a hit or a miss.
    #[inline]
    pub fn peek(&self, key: &[u8]) -> Option<Entry> {
        let keys = self.indexes().keys;
        let found = keys.find(self.view, keys.hash(key), key)?;
        let entry = Entry::load(self.view, found.item);
        (!entry.header.is_expired(self.now_ms)).then_some(entry)
    }

    /// The entry of a key that is there and not expired. Counts a hit or a miss.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<Entry> {
        let entry = self.peek(key);
        let counter = if entry.is_some() { &self.ks.stats.hits } else { &self.ks.stats.misses };
        counter.set(counter.get() + 1);
        entry
    }
}

impl<'h> WriteCtx<'_, 'h> {
    /// The same command's view of things as a reader has it.
    pub fn read(&self) -> ReadCtx<'_> {
        ReadCtx { view: self.txn, ks: self.ks, db: self.db, now_ms: self.now_ms }
    }

    #[inline]
    pub(crate) fn indexes(&self) -> Db {
        self.ks.db(self.txn, self.db)
    }

    /// Says that `key` of the selected database was changed, created or removed.
    #[inline]
    pub fn signal(&mut self, key: &[u8], class: EventClass, event: &'static str) {
        self.ks.signals.key(self.db, key, class, event);
    }

    /// The key, if it is there. One whose time has come is removed on the way and reads as missing.
    #[inline]
    pub fn find(&mut self, key: &[u8]) -> Option<Slot> {
        let keys = self.indexes().keys;
        let hash = keys.hash(key);
        let found = keys.find(self.txn, hash, key)?;
        let slot = Slot { hash, found, entry: Entry::load(self.txn, found.item) };
        if slot.entry.header.is_expired(self.now_ms) {
            self.remove_expired(key, &slot);
            return None;
        }
        Some(slot)
    }

    /// As [`WriteCtx::find`] for a command that also reads the value: counts a hit or a miss.
    pub fn find_counted(&mut self, key: &[u8]) -> Option<Slot> {
        let slot = self.find(key);
        let counter = if slot.is_some() { &self.ks.stats.hits } else { &self.ks.stats.misses };
        counter.set(counter.get() + 1);
        slot
    }

    #[cold]
    pub(crate) fn remove_expired(&mut self, key: &[u8], slot: &Slot) {
        self.remove(key, slot);
        self.ks.stats.expired_keys += 1;
        self.signal(key, EventClass::Expired, "expired");
    }
}
