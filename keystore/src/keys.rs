//! What can be done with a whole key, whatever its type: remove it, let it expire, rename, copy or move it,
//! flush its database.

use farkeep_core::heap::{HeapError, Offset};

use crate::entry::{Encoding, Entry, Storage};
use crate::hash;
use crate::index::Root;
use crate::keystore::{Db, Slot, WriteCtx};
use crate::payload::{self, NewValue};
use crate::reclaim::{self, ItemKind};
use crate::signal::Signal;

impl WriteCtx<'_, '_> {
    /// Removes a key with its value. Tells nobody: the command knows which event it is.
    /// Never asks for memory, so it succeeds in a full image.
    pub(crate) fn remove(&mut self, key: &[u8], slot: &Slot) {
        self.unlink(key, slot);
        payload::release_value(self.txn, self.ks.layout.reclaim_at, slot.entry);
        self.txn.free(slot.entry.at);
    }

    /// Takes an entry out of its database's indexes and leaves it where it is.
    fn unlink(&mut self, key: &[u8], slot: &Slot) {
        let db = self.indexes();
        if slot.entry.header.expire_ms != 0
            && let Some(found) = db.expires.find(self.txn, slot.hash, key)
        {
            db.expires.remove(self.txn, &found);
        }
        db.keys.remove(self.txn, &slot.found);
    }

    /// Puts an entry that is in no index into those of `db`.
    fn link(&mut self, db: Db, hash: u64, at: Offset, expire_ms: u64) -> Result<(), HeapError> {
        db.keys.insert(self.txn, hash, at)?;
        if expire_ms != 0 {
            db.expires.insert(self.txn, hash, at)?;
        }
        Ok(())
    }

    /// Sets or (0) removes a key's expiry.
    ///
    /// # Errors
    /// When the image cannot grow.
    pub(crate) fn set_expiry(
        &mut self,
        key: &[u8],
        slot: &mut Slot,
        expire_ms: u64,
    ) -> Result<(), HeapError> {
        let had = slot.entry.header.expire_ms != 0;
        if slot.entry.header.expire_ms == expire_ms {
            return Ok(());
        }
        self.txn.put(slot.entry.at.add(crate::entry::EXPIRE_AT), &expire_ms);
        slot.entry.header.expire_ms = expire_ms;
        let expires = self.indexes().expires;
        if expire_ms == 0 {
            if let Some(found) = expires.find(self.txn, slot.hash, key) {
                expires.remove(self.txn, &found);
            }
        } else if !had {
            expires.insert(self.txn, slot.hash, slot.entry.at)?;
        }
        Ok(())
    }

    /// Gives the entry of `slot` the name `to`, which is not taken. The value does not move, unless it is in
    /// the entry.
    pub(crate) fn rename(&mut self, from: &[u8], slot: &Slot, to: &[u8]) -> Result<(), HeapError> {
        let entry = slot.entry;
        let at = self.clone_entry(entry, to, None)?;
        self.unlink(from, slot);
        self.txn.free(entry.at);
        let db = self.indexes();
        self.link(db, db.keys.hash(to), at, entry.header.expire_ms)
    }

    /// Puts a deep copy of `entry` into database `db` as `to`, which is not taken there.
    pub(crate) fn copy_to(&mut self, entry: Entry, db: usize, to: &[u8]) -> Result<(), HeapError> {
        let new_value = match entry.header.encoding().storage() {
            Storage::Number | Storage::Inline => None,
            Storage::Block => {
                let (bytes, extent) = entry.payload(self.txn);
                let bytes = bytes.to_vec();
                Some(Deep::Block(payload::new_block(self.txn, extent.len, extent, &bytes)?))
            }
            Storage::Index => Some(Deep::Index(hash::copy_index(self, entry)?)),
        };
        let at = self.clone_entry(entry, to, new_value)?;
        let target = self.ks.db(self.txn, db);
        self.link(target, target.keys.hash(to), at, entry.header.expire_ms)
    }

    /// Moves the entry of `slot` to database `db`, where its key is not taken.
    pub(crate) fn move_to(&mut self, key: &[u8], slot: &Slot, db: usize) -> Result<(), HeapError> {
        self.unlink(key, slot);
        let target = self.ks.db(self.txn, db);
        self.link(target, slot.hash, slot.entry.at, slot.entry.header.expire_ms)
    }

    /// A new entry, in no index, with another key and either the same value or the given part of it.
    fn clone_entry(&mut self, entry: Entry, key: &[u8], deep: Option<Deep>) -> Result<Offset, HeapError> {
        let header = entry.header;
        let encoding = header.encoding();
        let expire_ms = header.expire_ms;
        match (encoding.storage(), deep) {
            (Storage::Number, _) => {
                payload::new_entry(self.txn, key, NewValue::Int(header.value as i64), expire_ms)
            }
            (Storage::Inline, _) => {
                let (bytes, extent) = entry.payload(self.txn);
                let bytes = bytes.to_vec();
                let value =
                    NewValue::Bytes { encoding, flags: header.flags, bytes: &bytes, items: extent.items };
                payload::new_entry(self.txn, key, value, expire_ms)
            }
            (Storage::Block, deep) => {
                let block_at = match deep {
                    Some(Deep::Block(at)) => at.get(),
                    _ => header.value,
                };
                self.clone_with_word(encoding, header.flags, key, block_at, expire_ms)
            }
            (Storage::Index, deep) => {
                let root = match deep {
                    Some(Deep::Index(root)) => root,
                    _ => self.txn.peek(entry.payload_at()),
                };
                payload::new_entry(self.txn, key, NewValue::Index(root), expire_ms)
            }
        }
    }

    /// A new entry whose value is a block that is already there.
    fn clone_with_word(
        &mut self,
        encoding: Encoding,
        flags: u8,
        key: &[u8],
        word: u64,
        expire_ms: u64,
    ) -> Result<Offset, HeapError> {
        let at = payload::new_entry(self.txn, key, NewValue::Int(word as i64), expire_ms)?;
        self.txn.put(at, &[encoding as u8, flags]);
        Ok(at)
    }

    /// Removes all keys of a database: detaches its indexes, in time independent of their size.
    pub(crate) fn flush(&mut self, db: usize) {
        let record_at = self.ks.layout.record_at(self.txn, db);
        let reclaim_at = self.ks.layout.reclaim_at;
        reclaim::detach(self.txn, reclaim_at, record_at, ItemKind::Entries);
        let expires_at = record_at.add(crate::layout::EXPIRES_AT);
        reclaim::detach(self.txn, reclaim_at, expires_at, ItemKind::Borrowed);
        self.ks.layout.note_flush(self.txn, db);
        self.ks.signals.push(Signal::Flushed { db });
    }

    /// Lets two databases change places.
    pub(crate) fn swap(&mut self, first: usize, second: usize) {
        if first != second {
            self.ks.layout.swap(self.txn, first, second);
            self.ks.expiry.swap(first, second);
        }
        self.ks.signals.push(Signal::Swapped { first, second });
    }
}

/// The part of a value outside of its entry, copied.
enum Deep {
    Block(Offset),
    Index(Root),
}
