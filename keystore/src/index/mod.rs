//! The index: from a key to the offset of its item, by linear hashing.
//!
//! One structure serves a database's keys, its keys with an expiry and the fields of a big hash; what an item
//! is, is said by a [`Kind`]. The index owns its buckets, segments and directory; the items belong to the
//! caller.
//!
//! # Why linear hashing
//!
//! The image is persistent memory and its redo is shipped over a network, so what counts is how few cache
//! lines a lookup touches and how few bytes an insertion changes. A lookup costs one miss for the bucket and
//! one for the item: a bucket is one cache line of seven slots and a link, and a slot holds 20 bits of the
//! hash, so that a foreign item is hardly ever visited. An insertion writes one slot. The table grows by one
//! bucket at a time ([`Index::insert`] splits the bucket whose turn it is), so there is no rehash, no second
//! table and no stall, and it shrinks the same way. Extendible hashing splits where it overflows and needs a
//! directory entry per segment to say so; linear hashing needs two numbers.
//!
//! # Layout
//!
//! ```text
//! Root       directory u64 | buckets u64 | count u64            inside whatever owns the index
//! directory  next u64 | kind u64 | buckets u64 | count u64      used by `reclaim` once the index is detached
//!            segment offset u64 x capacity
//! segment    bucket x 16, 16, 32, 64, … 2048, then 4096 each
//! bucket     slot u64 x 7 | link u64      link: offset of an overflow bucket, or 0; the lowest bit is noise
//! slot       44 bits item offset / 16 | 20 bits tag, bits 14..34 of the hash; 0 is empty
//! ```
//!
//! With `n` buckets and `level = floor(log2 n)`, an item lives in bucket `h mod 2^(level+1)` if that is below
//! `n`, else in `h mod 2^level`. The next bucket to be split is `n - 2^level`, and what decides who moves is
//! bit `level` of the hash. From level 14 to 33 that bit is in the tag, so a split reads and writes two cache
//! lines and no item.
//!
//! # Invariants
//!
//! - A bucket number at or above `buckets` inside an allocated segment is all zero.
//! - An overflow bucket in a chain is never empty.
//! - `count` is the number of slots in use.
//! - The root and the directory are *geometry*: read with `peek`, they do not make a reader depend on the last
//!   split. Buckets and items do; and a split or merge writes to every bucket that becomes the home of a key,
//!   so whoever looks there, even in vain, depends on it and so on all that came before it.
//!
//! A crash cannot show a half-made split: it is part of the transaction of the insertion that caused it.

mod bucket;
mod cursor;
mod resize;
mod walk;

use std::marker::PhantomData;

use farkeep_core::heap::{HeapError, Offset, Txn, View};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) use bucket::{BUCKET_LEN, Bucket, SLOTS, Slot, next_of};
pub use cursor::Cursor;
pub(crate) use resize::{DirectoryHead, segment_of, segment_ref};
pub(crate) use walk::Detached;

/// What an index holds: how to hash an item that is already there, and how to tell whether it is the one
/// looked for.
pub trait Kind: Copy {
    /// The hash of the item at `at` under `seed`; the same as [`hash`] of the key it was inserted with.
    fn hash_of(view: &View, seed: u64, at: Offset) -> u64;
    /// Whether the item at `at` has this key.
    fn is(view: &View, at: Offset, key: &[u8]) -> bool;
    /// Whether two items have the same key.
    fn same(view: &View, first: Offset, second: Offset) -> bool;
    /// Asks for the item's cache line.
    fn prefetch(view: &View, at: Offset) {
        view.prefetch(at);
    }
}

/// The hash of a key. `seed` is random, made when the image is formatted and stored in it: a client cannot
/// choose keys that collide.
#[inline]
pub fn hash(seed: u64, key: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, key)
}

/// The part of an index that its owner stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Root {
    /// The directory, or null for an index that never had an item.
    pub directory: u64,
    /// Number of buckets; 0 only together with a null directory.
    pub buckets: u64,
    /// Number of items.
    pub count: u64,
}

pub(crate) const ROOT_LEN: u64 = size_of::<Root>() as u64;
const _: () = assert!(size_of::<Root>() == 24);
const BUCKETS_AT: u64 = 8;
const COUNT_AT: u64 = 16;

/// Items per bucket, doubled, above which an insertion splits.
const SPLIT_LOAD_X2: u64 = 9;
/// Items per bucket, doubled, below which a removal merges. Far below the split load, so that no sequence of
/// operations makes an index split and merge in turn.
const MERGE_LOAD_X2: u64 = 3;

/// Where an item was found. Valid until the next insertion into or removal from the same index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The item.
    pub item: Offset,
    slot_at: Offset,
    /// The bucket the slot is in, and the one whose link leads there (null for the first of a chain).
    bucket_at: Offset,
    parent_at: Offset,
}

/// A handle on the index whose root is at a given offset. It is two numbers; all state is in the image.
#[derive(Clone, Copy, Debug)]
pub struct Index<K> {
    root_at: Offset,
    seed: u64,
    kind: PhantomData<K>,
}

impl<K: Kind> Index<K> {
    /// The index whose root is at `root_at`. Items are hashed under `seed`.
    #[inline]
    pub const fn new(root_at: Offset, seed: u64) -> Self {
        Self { root_at, seed, kind: PhantomData }
    }

    /// Number of items; a reader depends on it.
    #[inline]
    pub fn len(self, view: &View) -> u64 {
        view.get::<u64>(self.root_at.add(COUNT_AT))
    }

    /// The root, without depending on it.
    #[inline]
    pub fn root(self, view: &View) -> Root {
        view.peek(self.root_at)
    }

    /// The hash of a key under this index's seed.
    #[inline]
    pub fn hash(self, key: &[u8]) -> u64 {
        hash(self.seed, key)
    }

    /// Asks for the bucket in which `hash` would be.
    #[inline]
    pub fn prefetch_bucket(self, view: &View, hash: u64) {
        let root = self.root(view);
        if root.buckets != 0 {
            view.prefetch(resize::bucket_at(view, &root, resize::bucket_number(hash, root.buckets)));
        }
    }

    /// Asks for the items that may have this hash; meant for some time after [`Index::prefetch_bucket`].
    #[inline]
    pub fn prefetch_item(self, view: &View, hash: u64) {
        let root = self.root(view);
        if root.buckets == 0 {
            return;
        }
        let bucket: Bucket =
            view.peek(resize::bucket_at(view, &root, resize::bucket_number(hash, root.buckets)));
        for &word in &bucket[..SLOTS] {
            if Slot(word).may_be(hash) {
                K::prefetch(view, Slot(word).item());
            }
        }
    }

    /// The item with this key. `hash` is [`Index::hash`] of `key`.
    #[inline]
    pub fn find(self, view: &View, hash: u64, key: &[u8]) -> Option<Found> {
        let root = self.root(view);
        if root.buckets == 0 {
            // There is no bucket to depend on, so whoever reads nothing here depends on the root itself.
            let _: u64 = view.get(self.root_at);
            return None;
        }
        let mut parent_at = Offset::NULL;
        let mut bucket_at = resize::bucket_at(view, &root, resize::bucket_number(hash, root.buckets));
        loop {
            let bucket: Bucket = view.get(bucket_at);
            for (number, &word) in bucket[..SLOTS].iter().enumerate() {
                if Slot(word).may_be(hash) && K::is(view, Slot(word).item(), key) {
                    let slot_at = bucket_at.add(8 * number as u64);
                    return Some(Found { item: Slot(word).item(), slot_at, bucket_at, parent_at });
                }
            }
            let next = next_of(&bucket);
            if next.is_null() {
                return None;
            }
            (parent_at, bucket_at) = (bucket_at, next);
        }
    }

    /// Adds an item. The caller has made sure that no item with its key is there.
    ///
    /// # Errors
    /// When the image cannot grow; the transaction then has to be rolled back to where it was before.
    pub fn insert(self, txn: &mut Txn<'_>, hash: u64, item: Offset) -> Result<(), HeapError> {
        let mut root = self.root(txn);
        if root.buckets == 0 {
            root = self.first_segment(txn)?;
        }
        let bucket_at = resize::bucket_at(txn, &root, resize::bucket_number(hash, root.buckets));
        bucket::add(txn, bucket_at, Slot::new(item, hash))?;
        root.count += 1;
        txn.put(self.root_at.add(COUNT_AT), &root.count);
        if root.count * 2 > root.buckets * SPLIT_LOAD_X2 {
            self.split(txn, root)?;
        }
        Ok(())
    }

    /// Puts another item with the same key in the place of the one found.
    pub fn replace(self, txn: &mut Txn<'_>, found: &Found, item: Offset) {
        let slot = Slot(txn.peek(found.slot_at));
        debug_assert_eq!(slot.item(), found.item, "the slot still holds what was found");
        txn.put(found.slot_at, &slot.with_item(item).0);
    }

    /// Removes what was found. The item itself stays the caller's.
    ///
    /// Never asks for memory, so it succeeds in a full image.
    pub fn remove(self, txn: &mut Txn<'_>, found: &Found) {
        bucket::clear(txn, found.bucket_at, found.slot_at, found.parent_at);
        let mut root = self.root(txn);
        root.count -= 1;
        txn.put(self.root_at.add(COUNT_AT), &root.count);
        if root.count * 2 < root.buckets * MERGE_LOAD_X2 && root.buckets > resize::FIRST_SEGMENT {
            self.merge(txn, root);
        }
    }
}
