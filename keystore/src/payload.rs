//! Where a value's bytes are, and how they grow: the same for strings and for small hashes.
//!
//! A payload is inline in the entry up to [`INLINE_MAX`], beyond that in a block of its own.
//! [`WriteCtx::reserve`] makes room, moving the payload if it must, and leaves slack when it had to, so that
//! appending n bytes one by one costs O(n) redo bytes in all. A caller then stores bytes at
//! [`Location::bytes_at`] and the new [`Extent`] with [`WriteCtx::set_extent`].

use farkeep_core::heap::{HeapError, Offset, Txn, View};

use crate::entry::{CAPACITY_UNKNOWN, Encoding, Entry, Extent, HEADER_LEN, Header, Storage};
use crate::hash::Fields;
use crate::index::{Index, Root};
use crate::keystore::{Slot, WriteCtx};
use crate::reclaim;

/// Up to this length of the whole entry, in bytes, a payload is inline.
pub(crate) const INLINE_MAX: u64 = 4096;
/// A payload up to this length is inline whatever the key's length is.
const INLINE_ALWAYS: u64 = 64;
/// What precedes the bytes in a block: the extent, and the block's capacity in bytes.
pub(crate) const BLOCK_HEAD: u64 = 16;
/// Entries up to this length are never moved to save memory.
const SMALL_ENTRY: u64 = 128;
/// A growing payload of more than this many bytes gets a quarter of its length as slack, a smaller one its
/// whole length.
const LARGE_PAYLOAD: u64 = 1 << 20;

/// Where a payload's bytes are.
#[derive(Clone, Copy, Debug)]
pub struct Location {
    /// Its first byte.
    pub bytes_at: Offset,
    /// Where its [`Extent`] is.
    pub(crate) extent_at: Offset,
    /// How many bytes there is room for.
    pub(crate) capacity: u64,
    /// How many bytes and items it has.
    pub extent: Extent,
}

impl Entry {
    /// Where the payload of an inline or block encoding is; `None` for the others.
    #[inline]
    pub(crate) fn location(self, view: &View) -> Option<Location> {
        match self.header.encoding().storage() {
            Storage::Inline => Some(Location {
                bytes_at: self.payload_at(),
                extent_at: self.at.add(8),
                capacity: match self.header.capacity {
                    // Too long for its header to say; such an entry is rewritten rather than grown.
                    CAPACITY_UNKNOWN => Extent::from_word(self.header.value).len,
                    units => {
                        (u64::from(units) * 16).saturating_sub(HEADER_LEN + u64::from(self.header.key_len))
                    }
                },
                extent: Extent::from_word(self.header.value),
            }),
            Storage::Block => {
                let block_at = Offset::new(self.header.value);
                let [extent, capacity]: [u64; 2] = view.get(block_at);
                Some(Location {
                    bytes_at: block_at.add(BLOCK_HEAD),
                    extent_at: block_at,
                    capacity,
                    extent: Extent::from_word(extent),
                })
            }
            Storage::Number | Storage::Index => None,
        }
    }

    /// The payload of an inline or block encoding; empty for the others.
    #[inline]
    pub(crate) fn payload(self, view: &View) -> (&[u8], Extent) {
        match self.location(view) {
            Some(location) => (view.bytes(location.bytes_at, location.extent.len as usize), location.extent),
            None => (&[], Extent::default()),
        }
    }

    /// The index of an indexed encoding's items.
    #[inline]
    pub(crate) fn field_index(self, seed: u64) -> Index<Fields> {
        debug_assert_eq!(self.header.encoding().storage(), Storage::Index);
        Index::new(self.payload_at(), seed)
    }

    /// Bytes of the image the key takes: its entry and its block. Not what an index of fields takes.
    pub(crate) fn block_bytes(self, view: &View) -> u64 {
        let entry = match self.header.capacity {
            CAPACITY_UNKNOWN => {
                HEADER_LEN + u64::from(self.header.key_len) + Extent::from_word(self.header.value).len
            }
            units => u64::from(units) * 16,
        };
        match self.header.encoding().storage() {
            Storage::Block => {
                entry + BLOCK_HEAD + self.location(view).map_or(0, |location| location.capacity)
            }
            _ => entry,
        }
    }
}

/// Whether a payload of `len` bytes goes into the entry.
#[inline]
fn goes_inline(key_len: u64, len: u64) -> bool {
    len <= INLINE_ALWAYS || HEADER_LEN + key_len + len <= INLINE_MAX
}

/// The capacity to ask for when a payload grows to `len` bytes.
fn with_slack(len: u64) -> u64 {
    if len > LARGE_PAYLOAD { len + len / 4 } else { len * 2 }
}

/// What a new value is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewValue<'b> {
    /// A string that is a number.
    Int(i64),
    /// A payload: its type is that of `encoding`, which storage it gets is decided by its length.
    Bytes { encoding: Encoding, flags: u8, bytes: &'b [u8], items: u32 },
    /// An index that already exists elsewhere.
    Index(Root),
}

impl<'h> WriteCtx<'_, 'h> {
    /// Gives `key` a value and an expiry (0: none), whatever was there before: `existing` is what
    /// [`WriteCtx::find`] said just now.
    #[inline]
    pub(crate) fn store(
        &mut self,
        key: &[u8],
        existing: Option<&Slot>,
        value: NewValue<'_>,
        expire_ms: u64,
    ) -> Result<(), HeapError> {
        let Some(slot) = existing else {
            let hash = self.indexes().keys.hash(key);
            return self.insert_new(hash, key, value, expire_ms);
        };
        if self.overwrite(slot, value, expire_ms) {
            return Ok(());
        }
        let db = self.indexes();
        let had_expiry = slot.entry.header.expire_ms != 0;
        let at = new_entry(self.txn, key, value, expire_ms)?;
        db.keys.replace(self.txn, &slot.found, at);
        if had_expiry || expire_ms != 0 {
            self.move_expiry(slot, key, at, had_expiry, expire_ms != 0)?;
        }
        release_value(self.txn, self.ks.layout.reclaim_at, slot.entry);
        self.txn.free(slot.entry.at);
        Ok(())
    }

    fn insert_new(
        &mut self,
        hash: u64,
        key: &[u8],
        value: NewValue<'_>,
        expire_ms: u64,
    ) -> Result<(), HeapError> {
        let db = self.indexes();
        let at = new_entry(self.txn, key, value, expire_ms)?;
        db.keys.insert(self.txn, hash, at)?;
        if expire_ms != 0 {
            db.expires.insert(self.txn, hash, at)?;
        }
        Ok(())
    }

    /// Keeps the index of keys with an expiry right when the entry of `slot` gives way to the one at `at`.
    #[cold]
    fn move_expiry(
        &mut self,
        slot: &Slot,
        key: &[u8],
        at: Offset,
        had: bool,
        has: bool,
    ) -> Result<(), HeapError> {
        let expires = self.indexes().expires;
        match (had.then(|| expires.find(self.txn, slot.hash, key)).flatten(), has) {
            (Some(found), true) => expires.replace(self.txn, &found, at),
            (Some(found), false) => expires.remove(self.txn, &found),
            (None, true) => expires.insert(self.txn, slot.hash, at)?,
            (None, false) => {}
        }
        Ok(())
    }

    /// Overwrites in place, if the new value is an inline one or a number, the old one had nothing outside of
    /// the entry, the expiry stays within or without the index of expiries, and the block is neither too
    /// short nor much too long.
    #[inline]
    fn overwrite(&mut self, slot: &Slot, value: NewValue<'_>, expire_ms: u64) -> bool {
        let old = slot.entry.header;
        if (old.expire_ms != 0) != (expire_ms != 0) || old.capacity == CAPACITY_UNKNOWN {
            return false;
        }
        if !matches!(old.encoding().storage(), Storage::Inline | Storage::Number) {
            return false;
        }
        let key_len = u64::from(old.key_len);
        let (kind, flags, word, bytes): (_, _, _, &[u8]) = match value {
            NewValue::Int(number) => (Encoding::Int, 0, number as u64, &[]),
            NewValue::Bytes { encoding, flags, bytes, items } if goes_inline(key_len, bytes.len() as u64) => {
                (
                    encoding.stored(Storage::Inline),
                    flags,
                    Extent { len: bytes.len() as u64, items }.word(),
                    bytes,
                )
            }
            _ => return false,
        };
        let (capacity, needed) = (u64::from(old.capacity) * 16, HEADER_LEN + key_len + bytes.len() as u64);
        if needed > capacity || (capacity > SMALL_ENTRY && needed * 2 < capacity) {
            return false;
        }
        let new = Header { kind: kind as u8, flags, value: word, expire_ms, ..old };
        rewrite_header(self.txn, slot.entry.at, &old, &new);
        if !bytes.is_empty() {
            self.txn.write(slot.entry.payload_at(), bytes);
        }
        true
    }

    /// Makes room for a payload of `len` bytes, keeping the bytes it has. A number becomes its digits. The
    /// entry may move: `slot` says where to.
    pub(crate) fn reserve(&mut self, slot: &mut Slot, len: u64) -> Result<Location, HeapError> {
        let entry = slot.entry;
        if let Some(location) = entry.location(self.txn)
            && location.capacity >= len
        {
            return Ok(location);
        }
        let key_len = u64::from(entry.header.key_len);
        let digits;
        let (old_bytes, extent) = match entry.header.encoding().storage() {
            Storage::Number => {
                digits = farkeep_proto::number::format_i64(entry.header.value as i64);
                (digits.to_vec(), Extent::bytes(digits.len() as u64))
            }
            _ => {
                let (bytes, extent) = entry.payload(self.txn);
                (bytes.to_vec(), extent)
            }
        };
        let had_block = entry.header.encoding().storage() == Storage::Block;
        let longest = len.max(extent.len);
        // What was empty grows to what is asked for; what grows again will grow once more.
        let wanted = if extent.len == 0 {
            longest
        } else {
            with_slack(longest).min(self.ks.limits.max_string_len).max(longest)
        };
        if !had_block && goes_inline(key_len, wanted) {
            let encoding = entry.header.encoding().stored(Storage::Inline);
            let mut bytes = Vec::with_capacity((HEADER_LEN + key_len) as usize + old_bytes.len());
            let entry_len = (HEADER_LEN + key_len + wanted) as usize;
            let at = self.txn.alloc(entry_len)?;
            let header = Header {
                kind: encoding as u8,
                capacity: capacity_of(self.txn, at),
                value: extent.word(),
                ..entry.header
            };
            bytes.extend_from_slice(zerocopy::IntoBytes::as_bytes(&header));
            bytes.extend_from_slice(entry.key(self.txn));
            bytes.extend_from_slice(&old_bytes);
            self.txn.init(at, &bytes);
            self.relocate(slot, at)?;
        } else {
            let block_at = new_block(self.txn, wanted, extent, &old_bytes)?;
            let encoding = entry.header.encoding().stored(Storage::Block);
            let new = Header { kind: encoding as u8, value: block_at.get(), ..entry.header };
            if had_block {
                self.txn.free(Offset::new(entry.header.value));
            }
            rewrite_header(self.txn, entry.at, &entry.header, &new);
            slot.entry.header = new;
        }
        match slot.entry.location(self.txn) {
            Some(location) => Ok(location),
            None => unreachable!("a payload was just made"),
        }
    }

    /// Puts the entry at `at`, a copy with the same key and expiry, in the place of the one `slot` found, and
    /// frees that.
    pub(crate) fn relocate(&mut self, slot: &mut Slot, at: Offset) -> Result<(), HeapError> {
        let db = self.indexes();
        db.keys.replace(self.txn, &slot.found, at);
        if slot.entry.header.expire_ms != 0 {
            let key = slot.entry.key(self.txn).to_vec();
            self.move_expiry(slot, &key, at, true, true)?;
        }
        self.txn.free(slot.entry.at);
        slot.found.item = at;
        slot.entry = Entry::load(self.txn, at);
        Ok(())
    }

    /// Stores how long the payload is now.
    pub(crate) fn set_extent(&mut self, slot: &mut Slot, location: &mut Location, extent: Extent) {
        if extent != location.extent {
            self.txn.put(location.extent_at, &extent.word());
            location.extent = extent;
            slot.entry.header = self.txn.peek(slot.entry.at);
        }
    }

    /// Sets an entry's flags.
    pub(crate) fn set_flags(&mut self, slot: &mut Slot, flags: u8) {
        if slot.entry.header.flags != flags {
            slot.entry.header.flags = flags;
            self.txn.put(slot.entry.at.add(1), &flags);
        }
    }
}

/// Stores the words in which a header changes.
#[inline]
pub(crate) fn rewrite_header(txn: &mut Txn<'_>, at: Offset, old: &Header, new: &Header) {
    if (old.kind, old.flags) != (new.kind, new.flags) {
        txn.put(at, &[new.kind, new.flags]);
    }
    if old.value != new.value {
        txn.put(at.add(8), &new.value);
    }
    if old.expire_ms != new.expire_ms {
        txn.put(at.add(crate::entry::EXPIRE_AT), &new.expire_ms);
    }
}

/// The capacity of the block at `at`, as a header says it.
#[inline]
fn capacity_of(txn: &Txn<'_>, at: Offset) -> u16 {
    u16::try_from(txn.usable_len(at) / 16).unwrap_or(CAPACITY_UNKNOWN)
}

/// Allocates and fills an entry that is in no index yet.
pub(crate) fn new_entry(
    txn: &mut Txn<'_>,
    key: &[u8],
    value: NewValue<'_>,
    expire_ms: u64,
) -> Result<Offset, HeapError> {
    let key_len = key.len() as u64;
    let (encoding, flags, word, tail): (_, _, _, &[u8]) = match &value {
        NewValue::Int(number) => (Encoding::Int, 0, *number as u64, &[]),
        NewValue::Bytes { encoding, flags, bytes, items } => {
            let extent = Extent { len: bytes.len() as u64, items: *items };
            if goes_inline(key_len, extent.len) {
                (encoding.stored(Storage::Inline), *flags, extent.word(), *bytes)
            } else {
                let block_at = new_block(txn, extent.len, extent, bytes)?;
                (encoding.stored(Storage::Block), *flags, block_at.get(), &[])
            }
        }
        NewValue::Index(root) => (Encoding::Indexed, 0, 0, zerocopy::IntoBytes::as_bytes(root)),
    };
    let len = (HEADER_LEN + key_len) as usize + tail.len();
    let at = txn.alloc(len)?;
    let header = Header {
        kind: encoding as u8,
        flags,
        capacity: capacity_of(txn, at),
        key_len: u32::try_from(key.len()).expect("a key is at most 512 MB"),
        value: word,
        expire_ms,
    };
    init_parts(txn, at, [zerocopy::IntoBytes::as_bytes(&header), key, tail]);
    Ok(at)
}

/// Initialises a block with three pieces as one range.
#[inline]
fn init_parts(txn: &mut Txn<'_>, at: Offset, parts: [&[u8]; 3]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut near = [0u8; 256];
    if len <= near.len() {
        let mut filled = 0;
        for part in parts {
            near[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
        }
        txn.init(at, &near[..len]);
    } else {
        txn.init(at, &parts.concat());
    }
}

/// Allocates a block for `capacity` payload bytes and fills it with `bytes`.
pub(crate) fn new_block(
    txn: &mut Txn<'_>,
    capacity: u64,
    extent: Extent,
    bytes: &[u8],
) -> Result<Offset, HeapError> {
    let block_at = txn.alloc((BLOCK_HEAD + capacity) as usize)?;
    let capacity = txn.usable_len(block_at) as u64 - BLOCK_HEAD;
    txn.init(block_at, zerocopy::IntoBytes::as_bytes(&[extent.word(), capacity]));
    if !bytes.is_empty() {
        txn.init(block_at.add(BLOCK_HEAD), bytes);
    }
    Ok(block_at)
}

/// Gives up what an entry's value has outside of the entry. A long index goes to the reclaim list.
pub(crate) fn release_value(txn: &mut Txn<'_>, reclaim_at: Offset, entry: Entry) {
    match entry.header.encoding().storage() {
        Storage::Number | Storage::Inline => {}
        Storage::Block => txn.free(Offset::new(entry.header.value)),
        Storage::Index => reclaim::detach(txn, reclaim_at, entry.payload_at(), reclaim::ItemKind::Fields),
    }
}
