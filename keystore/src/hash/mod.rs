//! Hashes: from fields to values, inside one key.
//!
//! A small hash is a [list](list); beyond `hash-max-listpack-entries` fields, or with a field or value longer
//! than `hash-max-listpack-value`, it becomes an [index](crate::index) of fields and stays one, as in Redis.
//! The root of that index is the payload of the key's entry, so the number of fields and the key itself are
//! found with the same cache line.
//!
//! A field of an indexed hash is a block `field length u32 | value length u32 | field | value`.

pub(crate) mod list;

use farkeep_core::heap::{HeapError, Offset, Txn, View};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::entry::{Encoding, Entry, Extent, Storage, Type};
use crate::error::CommandError;
use crate::index::{self, Cursor, Index, Kind, Root};
use crate::keystore::{Keystore, ReadCtx, Slot, WriteCtx};
use crate::payload::NewValue;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct FieldHead {
    field_len: u32,
    value_len: u32,
}

pub(crate) const FIELD_HEAD: u64 = size_of::<FieldHead>() as u64;
const _: () = assert!(size_of::<FieldHead>() == 8);
/// Blocks up to this length are not given up for a shorter value.
const SMALL_FIELD: u64 = 128;

/// Fields of a hash, as an index holds them.
#[derive(Clone, Copy, Debug)]
pub enum Fields {}

impl Kind for Fields {
    fn hash_of(view: &View, seed: u64, at: Offset) -> u64 {
        index::hash(seed, field_of(view, at))
    }

    fn is(view: &View, at: Offset, key: &[u8]) -> bool {
        field_of(view, at) == key
    }

    fn same(view: &View, first: Offset, second: Offset) -> bool {
        field_of(view, first) == field_of(view, second)
    }
}

fn field_of(view: &View, at: Offset) -> &[u8] {
    let head: FieldHead = view.get(at);
    view.bytes(at.add(FIELD_HEAD), head.field_len as usize)
}

/// A field and its value.
pub(crate) fn pair_at(view: &View, at: Offset) -> (&[u8], &[u8]) {
    let head: FieldHead = view.get(at);
    let both = view.bytes(at.add(FIELD_HEAD), head.field_len as usize + head.value_len as usize);
    both.split_at(head.field_len as usize)
}

/// Bytes a field's block takes.
pub(crate) fn field_bytes(view: &View, at: Offset) -> u64 {
    let head: FieldHead = view.get(at);
    FIELD_HEAD + u64::from(head.field_len) + u64::from(head.value_len)
}

fn new_field(txn: &mut Txn<'_>, field: &[u8], value: &[u8]) -> Result<Offset, HeapError> {
    let len = FIELD_HEAD as usize + field.len() + value.len();
    let at = txn.alloc(len)?;
    let head = FieldHead {
        field_len: u32::try_from(field.len()).expect("a field is at most 512 MB"),
        value_len: u32::try_from(value.len()).expect("a value is at most 512 MB"),
    };
    txn.init(at, &[head.as_bytes(), field, value].concat());
    Ok(at)
}

/// A hash that can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HashRef<'v> {
    /// A list.
    List { list: &'v [u8], len: u64 },
    /// An index of fields.
    Indexed { index: Index<Fields>, view: &'v View },
}

impl<'v> HashRef<'v> {
    /// The hash in `entry`, which is one.
    pub fn of(entry: Entry, view: &'v View, ks: &Keystore) -> Self {
        if entry.header.encoding().storage() == Storage::Index {
            Self::Indexed { index: entry.field_index(ks.layout.seed), view }
        } else {
            let (list, extent) = entry.payload(view);
            Self::List { list, len: u64::from(extent.items) }
        }
    }

    /// Number of fields.
    pub fn len(self) -> u64 {
        match self {
            Self::List { len, .. } => len,
            Self::Indexed { index, view } => index.len(view),
        }
    }

    /// The value of a field.
    pub fn get(self, field: &[u8]) -> Option<&'v [u8]> {
        match self {
            Self::List { list, .. } => list::find(list, field).map(|pair| pair.value),
            Self::Indexed { index, view } => {
                let found = index.find(view, index.hash(field), field)?;
                Some(pair_at(view, found.item).1)
            }
        }
    }

    /// Calls `visit` with every field and value.
    pub fn for_each(self, mut visit: impl FnMut(&'v [u8], &'v [u8])) {
        match self {
            Self::List { list, .. } => list::pairs(list).for_each(|pair| visit(pair.field, pair.value)),
            Self::Indexed { index, view } => index.for_each(view, |item| {
                let (field, value) = pair_at(view, item);
                visit(field, value);
                true
            }),
        }
    }

    /// One step of `HSCAN`: a list is returned whole.
    pub fn scan(self, cursor: Cursor, mut visit: impl FnMut(&'v [u8], &'v [u8])) -> Cursor {
        match self {
            Self::List { .. } => {
                self.for_each(visit);
                Cursor::START
            }
            Self::Indexed { index, view } => index.scan(view, cursor, |item| {
                let (field, value) = pair_at(view, item);
                visit(field, value);
            }),
        }
    }

    /// A random field and its value; `None` for a hash without any.
    pub fn random(self, ks: &Keystore) -> Option<(&'v [u8], &'v [u8])> {
        match self {
            Self::List { list, len } => {
                let number = ks.random() % len.max(1);
                list::pairs(list).nth(number as usize).map(|pair| (pair.field, pair.value))
            }
            Self::Indexed { index, view } => {
                index.random(view, || ks.random()).map(|item| pair_at(view, item))
            }
        }
    }
}

impl<'a> ReadCtx<'a> {
    /// The hash at `key`; `None` if there is no such key.
    pub(crate) fn hash(&self, key: &[u8]) -> Result<Option<HashRef<'a>>, CommandError> {
        match self.find(key) {
            None => Ok(None),
            Some(entry) if entry.ty() == Type::Hash => Ok(Some(HashRef::of(entry, self.view, self.ks))),
            Some(_) => Err(CommandError::WrongType),
        }
    }
}

impl WriteCtx<'_, '_> {
    /// The hash at `key` for a command that changes it.
    pub(crate) fn find_hash(&mut self, key: &[u8]) -> Result<Option<Slot>, CommandError> {
        match self.find(key) {
            Some(slot) if slot.entry.ty() != Type::Hash => Err(CommandError::WrongType),
            slot => Ok(slot),
        }
    }

    /// Gives fields their values, making the hash if `slot` (the result of [`WriteCtx::find_hash`]) is
    /// `None`. Returns how many fields are new.
    pub(crate) fn hash_set(
        &mut self,
        key: &[u8],
        slot: Option<Slot>,
        pairs: &[(&[u8], &[u8])],
    ) -> Result<u64, CommandError> {
        if let Some(slot) = slot
            && slot.entry.header.encoding() == Encoding::Indexed
        {
            return self.indexed_set(slot.entry, pairs);
        }
        let (mut list, mut items) = match &slot {
            None => (Vec::new(), 0),
            Some(slot) => {
                let (bytes, extent) = slot.entry.payload(self.txn);
                (bytes.to_vec(), extent.items)
            }
        };
        let longest = self.ks.limits.hash_max_listpack_value;
        let too_long = |bytes: &[u8]| bytes.len() as u64 > longest;
        let mut created = 0;
        let mut rest = pairs;
        if !pairs.iter().any(|(field, value)| too_long(field) || too_long(value)) {
            while let Some(((field, value), behind)) = rest.split_first() {
                if u64::from(items) > self.ks.limits.hash_max_listpack_entries {
                    break;
                }
                if list::set(&mut list, field, value) {
                    created += 1;
                    items += 1;
                }
                rest = behind;
            }
            if u64::from(items) <= self.ks.limits.hash_max_listpack_entries {
                self.store_list(key, slot, &list, items)?;
                return Ok(created);
            }
        }
        let entry = self.convert(key, slot, &list)?;
        Ok(created + self.indexed_set(entry, rest)?)
    }

    /// Stores a changed list back.
    fn store_list(
        &mut self,
        key: &[u8],
        slot: Option<Slot>,
        list: &[u8],
        items: u32,
    ) -> Result<(), HeapError> {
        let Some(mut slot) = slot else {
            let value = NewValue::Bytes { encoding: Encoding::ListInline, flags: 0, bytes: list, items };
            return self.store(key, None, value, 0);
        };
        let mut location = self.reserve(&mut slot, list.len() as u64)?;
        let old = self.txn.bytes(location.bytes_at, location.extent.len as usize);
        let same = old.iter().zip(list).take_while(|(old, new)| old == new).count();
        let tail = if old.len() == list.len() {
            old[same..]
                .iter()
                .rev()
                .zip(list[same..].iter().rev())
                .take_while(|(old, new)| old == new)
                .count()
        } else {
            0
        };
        self.txn.write(location.bytes_at.add(same as u64), &list[same..list.len() - tail]);
        self.set_extent(&mut slot, &mut location, Extent { len: list.len() as u64, items });
        Ok(())
    }

    /// Turns a list into an index, or makes an empty one.
    fn convert(&mut self, key: &[u8], slot: Option<Slot>, list: &[u8]) -> Result<Entry, CommandError> {
        let expire_ms = slot.map_or(0, |slot| slot.entry.header.expire_ms);
        self.store(key, slot.as_ref(), NewValue::Index(Root::default()), expire_ms)?;
        let Some(slot) = self.find(key) else { unreachable!("the key was stored just now") };
        let index = slot.entry.field_index(self.ks.layout.seed);
        for pair in list::pairs(list) {
            let at = new_field(self.txn, pair.field, pair.value)?;
            index.insert(self.txn, index.hash(pair.field), at)?;
        }
        Ok(slot.entry)
    }

    fn indexed_set(&mut self, entry: Entry, pairs: &[(&[u8], &[u8])]) -> Result<u64, CommandError> {
        let index = entry.field_index(self.ks.layout.seed);
        let mut created = 0;
        for (field, value) in pairs {
            let hash = index.hash(field);
            let Some(found) = index.find(self.txn, hash, field) else {
                let at = new_field(self.txn, field, value)?;
                index.insert(self.txn, hash, at)?;
                created += 1;
                continue;
            };
            let needed = FIELD_HEAD + field.len() as u64 + value.len() as u64;
            let capacity = self.txn.usable_len(found.item) as u64;
            if needed <= capacity && (capacity <= SMALL_FIELD || needed * 2 >= capacity) {
                self.txn.put(found.item.add(4), &(value.len() as u32));
                self.txn.write(found.item.add(FIELD_HEAD + field.len() as u64), value);
            } else {
                let at = new_field(self.txn, field, value)?;
                index.replace(self.txn, &found, at);
                self.txn.free(found.item);
            }
        }
        Ok(created)
    }

    /// Removes fields, and the key with the last of them. Returns how many were there, and whether the key is
    /// gone.
    pub(crate) fn hash_remove(
        &mut self,
        key: &[u8],
        slot: Slot,
        fields: &[&[u8]],
    ) -> Result<(u64, bool), CommandError> {
        let mut removed = 0;
        if slot.entry.header.encoding() == Encoding::Indexed {
            let index = slot.entry.field_index(self.ks.layout.seed);
            for field in fields {
                if let Some(found) = index.find(self.txn, index.hash(field), field) {
                    index.remove(self.txn, &found);
                    self.txn.free(found.item);
                    removed += 1;
                }
                if index.len(self.txn) == 0 {
                    self.remove(key, &slot);
                    return Ok((removed, true));
                }
            }
            return Ok((removed, false));
        }
        let (bytes, extent) = slot.entry.payload(self.txn);
        let mut list = bytes.to_vec();
        for field in fields {
            removed += u64::from(list::remove(&mut list, field));
        }
        if removed == u64::from(extent.items) {
            self.remove(key, &slot);
            return Ok((removed, true));
        }
        if removed > 0 {
            self.store_list(key, Some(slot), &list, extent.items - removed as u32)?;
        }
        Ok((removed, false))
    }
}

/// A copy of an indexed hash's index with all its fields.
pub(crate) fn copy_index(ctx: &mut WriteCtx<'_, '_>, entry: Entry) -> Result<Root, HeapError> {
    let seed = ctx.ks.layout.seed;
    let source = entry.field_index(seed);
    let mut items = Vec::with_capacity(source.len(ctx.txn) as usize);
    source.for_each(ctx.txn, |item| {
        items.push(item);
        true
    });
    // The index needs a root in the image while it grows; a block stands in for the entry that is not there
    // yet.
    let root_at = ctx.txn.alloc(size_of::<Root>())?;
    ctx.txn.zero(root_at, size_of::<Root>());
    let copy = Index::<Fields>::new(root_at, seed);
    for item in items {
        let (field, value) = pair_at(ctx.txn, item);
        let (field, value) = (field.to_vec(), value.to_vec());
        let at = new_field(ctx.txn, &field, &value)?;
        copy.insert(ctx.txn, copy.hash(&field), at)?;
    }
    let root = copy.root(ctx.txn);
    ctx.txn.free(root_at);
    Ok(root)
}
