//! How an index grows and shrinks: by one bucket, inside the transaction of the insertion or removal that
//! made it due.
//!
//! Buckets lie in segments whose lengths double from 16 to 4096 buckets (1 to 256 KiB) and then stay. So an
//! index of five items costs a kilobyte, no bucket ever moves in memory when the table grows, and a new
//! segment is zeroed in some 20 us.

use farkeep_core::heap::{HeapError, Offset, Txn, View};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::bucket::{self, BUCKET_LEN, Bucket, Gathered, LINK, SLOTS, Slot, next_of};
use super::{BUCKETS_AT, Index, Kind, Root};

/// Buckets in the first segment; an index with items never has fewer.
pub(crate) const FIRST_SEGMENT: u64 = 16;
/// Buckets in a segment once the index is large.
const LARGE_SEGMENT: u64 = 4096;
const FIRST_LOG2: u32 = FIRST_SEGMENT.ilog2();
const LARGE_LOG2: u32 = LARGE_SEGMENT.ilog2();
/// Segment offsets in the smallest directory: with the head, one cache line.
const FIRST_DIRECTORY: u64 = 4;

/// What precedes the segment offsets in a directory. All zero while the index is in use; once it is detached,
/// the directory is a link of the reclaim list, so that giving an index up never needs memory.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct DirectoryHead {
    /// The next directory to be reclaimed.
    pub next: u64,
    /// What the items are.
    pub kind: u64,
    /// Buckets that still exist.
    pub buckets: u64,
    /// Items that were there when the index was detached.
    pub count: u64,
}

pub(crate) const HEAD_LEN: u64 = size_of::<DirectoryHead>() as u64;
const _: () = assert!(size_of::<DirectoryHead>() == 32);

/// The segment a bucket is in, and its place there.
#[inline]
pub(crate) fn segment_of(bucket: u64) -> (u64, u64) {
    if bucket >= LARGE_SEGMENT {
        let small = u64::from(LARGE_LOG2 - FIRST_LOG2);
        (small + (bucket >> LARGE_LOG2), bucket & (LARGE_SEGMENT - 1))
    } else if bucket < FIRST_SEGMENT {
        (0, bucket)
    } else {
        let log2 = bucket.ilog2();
        (u64::from(log2 - FIRST_LOG2 + 1), bucket - (1 << log2))
    }
}

/// Buckets in a segment.
pub(crate) fn segment_buckets(segment: u64) -> u64 {
    if segment == 0 { FIRST_SEGMENT } else { (FIRST_SEGMENT << (segment - 1).min(32)).min(LARGE_SEGMENT) }
}

/// Segments of an index with `buckets` buckets.
pub(crate) fn segments(buckets: u64) -> u64 {
    if buckets == 0 { 0 } else { segment_of(buckets - 1).0 + 1 }
}

fn directory_capacity(segments: u64) -> u64 {
    segments.next_power_of_two().max(FIRST_DIRECTORY)
}

/// Length in bytes of the directory of an index with `segments` segments.
pub(crate) fn directory_len(segments: u64) -> u64 {
    HEAD_LEN + 8 * directory_capacity(segments)
}

/// Where the directory at `directory` keeps the offset of a segment.
pub(crate) fn segment_ref(directory: Offset, segment: u64) -> Offset {
    directory.add(HEAD_LEN + 8 * segment)
}

/// The bucket a hash belongs to in a table of `buckets` buckets.
#[inline]
pub(crate) fn bucket_number(hash: u64, buckets: u64) -> u64 {
    let level = buckets.ilog2();
    let wide = hash & ((2 << level) - 1);
    if wide < buckets { wide } else { hash & ((1 << level) - 1) }
}

/// Where a bucket is.
#[inline]
pub(crate) fn bucket_at(view: &View, root: &Root, number: u64) -> Offset {
    debug_assert!(number < root.buckets);
    let (segment, within) = segment_of(number);
    let segment_at: u64 = view.peek(segment_ref(Offset::new(root.directory), segment));
    Offset::new(segment_at).add(within * BUCKET_LEN)
}

impl<K: Kind> Index<K> {
    pub(super) fn first_segment(self, txn: &mut Txn<'_>) -> Result<Root, HeapError> {
        let segment = new_segment(txn, 0)?;
        let len = directory_len(1) as usize;
        let directory = txn.alloc(len)?;
        txn.zero(directory, len);
        txn.put(segment_ref(directory, 0), &segment.get());
        let root = Root { directory: directory.get(), buckets: FIRST_SEGMENT, count: 0 };
        txn.put(self.root_at, &root);
        Ok(root)
    }

    /// Adds bucket number `root.buckets` and moves to it, from the bucket it is split off, what now belongs
    /// there.
    pub(super) fn split(self, txn: &mut Txn<'_>, mut root: Root) -> Result<(), HeapError> {
        let (number, level) = (root.buckets, root.buckets.ilog2());
        self.make_room(txn, &mut root, number)?;
        root.buckets += 1;
        txn.put(self.root_at.add(BUCKETS_AT), &root.buckets);

        let from_at = bucket_at(txn, &root, number - (1 << level));
        let to_at = bucket_at(txn, &root, number);
        let from: Bucket = txn.peek(from_at);
        if next_of(&from).is_null() {
            let (mut stay, mut go) = (from, [0; 8]);
            let mut gone = 0;
            for word in stay[..SLOTS].iter_mut().filter(|word| **word != 0) {
                if self.hash_bit(txn, Slot(*word), level) {
                    go[gone] = std::mem::take(word);
                    gone += 1;
                }
            }
            if gone == 0 {
                bucket::touch(&mut go);
            }
            bucket::rewrite(txn, from_at, &from, &stay);
            bucket::rewrite(txn, to_at, &[0; 8], &go);
            return Ok(());
        }
        let (mut stay, mut go) = (Gathered::new(), Gathered::new());
        for slot in Gathered::chain(txn, from_at).iter() {
            if self.hash_bit(txn, slot, level) { go.push(slot) } else { stay.push(slot) }
        }
        write_chain(txn, from_at, &stay)?;
        if go.len() == 0 {
            touch_at(txn, to_at);
        }
        write_chain(txn, to_at, &go)
    }

    /// Dissolves the last bucket into the one it was once split off, if there is room in its chain.
    pub(super) fn merge(self, txn: &mut Txn<'_>, mut root: Root) {
        let last = root.buckets - 1;
        let into = last - (1 << last.ilog2());
        let last_at = bucket_at(txn, &root, last);
        let into_at = bucket_at(txn, &root, into);
        let moved = Gathered::chain(txn, last_at);
        if bucket::free_slots(txn, into_at) < moved.len() {
            // A removal must succeed in a full image, so it never asks for memory. A later one will merge.
            return;
        }
        for slot in moved.iter() {
            bucket::add_to_free(txn, into_at, slot);
        }
        if moved.len() == 0 {
            touch_at(txn, into_at);
        }
        let (segment, within) = segment_of(last);
        let old: Bucket = txn.peek(last_at);
        bucket::free_overflow(txn, &old);
        if within == 0 {
            let segment_at: u64 = txn.peek(segment_ref(Offset::new(root.directory), segment));
            txn.free(Offset::new(segment_at));
        } else {
            bucket::rewrite(txn, last_at, &old, &[0; 8]);
        }
        root.buckets = last;
        txn.put(self.root_at.add(BUCKETS_AT), &root.buckets);
    }

    fn hash_bit(self, view: &View, slot: Slot, bit: u32) -> bool {
        slot.hash_bit(bit).unwrap_or_else(|| K::hash_of(view, self.seed, slot.item()) >> bit & 1 == 1)
    }

    /// Makes the segment that bucket `number` is in, and a larger directory, if they are not there.
    fn make_room(self, txn: &mut Txn<'_>, root: &mut Root, number: u64) -> Result<(), HeapError> {
        let (segment, within) = segment_of(number);
        if within != 0 {
            return Ok(());
        }
        // A directory keeps the length it once had when the index shrinks, so its capacity is asked of the
        // allocator.
        let directory = Offset::new(root.directory);
        let new_segment_at = new_segment(txn, segment)?;
        if directory_len(segment + 1) as usize > txn.usable_len(directory) {
            let grown = txn.alloc(directory_len(segment + 1) as usize)?;
            let used = (HEAD_LEN + 8 * segment) as usize;
            let mut bytes = txn.peek_bytes(directory, used).to_vec();
            bytes.resize(directory_len(segment + 1) as usize, 0);
            txn.init(grown, &bytes);
            txn.free(directory);
            root.directory = grown.get();
            txn.put(self.root_at, &root.directory);
        }
        txn.put(segment_ref(Offset::new(root.directory), segment), &new_segment_at.get());
        Ok(())
    }
}

fn touch_at(txn: &mut Txn<'_>, at: Offset) {
    let old: Bucket = txn.peek(at);
    let mut new = old;
    bucket::touch(&mut new);
    bucket::rewrite(txn, at, &old, &new);
}

fn new_segment(txn: &mut Txn<'_>, segment: u64) -> Result<Offset, HeapError> {
    let len = (segment_buckets(segment) * BUCKET_LEN) as usize;
    let at = txn.alloc(len)?;
    txn.zero(at, len);
    Ok(at)
}

/// Makes the chain at `at` hold exactly these slots, packed, reusing its overflow buckets and freeing those
/// left over.
fn write_chain(txn: &mut Txn<'_>, at: Offset, slots: &Gathered) -> Result<(), HeapError> {
    let mut slots_left = slots.len();
    let mut rest = slots.iter();
    let mut at = at;
    loop {
        let old: Bucket = txn.peek(at);
        let mut new: Bucket = [0; 8];
        for word in new[..SLOTS.min(slots_left)].iter_mut() {
            *word = rest.next().map_or(0, |slot| slot.0);
        }
        slots_left -= slots_left.min(SLOTS);
        if slots_left == 0 {
            bucket::free_overflow(txn, &old);
            // What is left of the link is its noise, which a touch before this call may have changed.
            new[LINK] = old[LINK] & 15;
        } else if !next_of(&old).is_null() {
            new[LINK] = old[LINK];
        } else {
            let overflow_at = txn.alloc(BUCKET_LEN as usize)?;
            txn.zero(overflow_at, BUCKET_LEN as usize);
            new[LINK] = overflow_at.get();
        }
        bucket::rewrite(txn, at, &old, &new);
        if slots_left == 0 {
            return Ok(());
        }
        at = next_of(&new);
    }
}
