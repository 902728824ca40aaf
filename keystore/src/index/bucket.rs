//! One bucket, its slots and its chain of overflow buckets.
//!
//! A slot may be empty anywhere in a bucket, so that a removal writes one word. A chain stays short (the load
//! is at most 4.5 items per bucket on average) and loses its overflow buckets as soon as they are empty.

use farkeep_core::heap::{HeapError, Offset, Txn, View};

/// Slots per bucket.
pub(crate) const SLOTS: usize = 7;
/// The word of a bucket that links to the next one of its chain.
pub(crate) const LINK: usize = 7;
/// Length of a bucket in bytes: one cache line.
pub(crate) const BUCKET_LEN: u64 = 64;

/// A bucket as words: seven slots and a link.
pub(crate) type Bucket = [u64; 8];

/// In the word that links: a bit that means nothing and only changes (see [`touch`]).
const TOUCHED: u64 = 1;

/// The next bucket of the chain, or null.
#[inline]
pub(crate) fn next_of(bucket: &Bucket) -> Offset {
    Offset::new(bucket[LINK] & !15)
}

/// The bucket with another link word that means the same.
///
/// A reader depends on the last transaction that wrote to what it has read (I7), and one who finds nothing
/// has read a bucket and nothing else. If a split or merge gives keys another home without storing a slot
/// there, a key whose removal is not committed yet would be missing without anybody depending on that
/// removal. So the new home is written to, whatever happens.
pub(crate) fn touch(bucket: &mut Bucket) {
    bucket[LINK] ^= TOUCHED;
}

const TAG_BITS: u32 = 20;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
/// The tag holds the hash's bits from here on. Lower means that small tables split without touching items,
/// higher that big tables tell items apart: 14 leaves 6 telling bits at 2^28 buckets and touches items only
/// below 2^14.
const TAG_SHIFT: u32 = 14;

/// A slot's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub u64);

impl Slot {
    #[inline]
    pub fn new(item: Offset, hash: u64) -> Self {
        debug_assert!(item.get().is_multiple_of(16) && item.get() != 0 && item.get() >> 48 == 0);
        Self((item.get() << (TAG_BITS - 4)) | Self::tag(hash))
    }

    #[inline]
    fn tag(hash: u64) -> u64 {
        (hash >> TAG_SHIFT) & TAG_MASK
    }

    #[inline]
    pub fn item(self) -> Offset {
        Offset::new((self.0 >> TAG_BITS) << 4)
    }

    #[inline]
    pub fn with_item(self, item: Offset) -> Self {
        Self((item.get() << (TAG_BITS - 4)) | (self.0 & TAG_MASK))
    }

    /// Whether the slot is in use and its tag is that of `hash`.
    #[inline]
    pub fn may_be(self, hash: u64) -> bool {
        (self.0 ^ Self::tag(hash)) & TAG_MASK == 0 && self.0 != 0
    }

    /// Bit `bit` of the item's hash, if the tag has it.
    #[inline]
    pub fn hash_bit(self, bit: u32) -> Option<bool> {
        if (TAG_SHIFT..TAG_SHIFT + TAG_BITS).contains(&bit) {
            Some(self.0 >> (bit - TAG_SHIFT) & 1 == 1)
        } else {
            None
        }
    }

    /// Whether the tag is that of `hash`.
    pub fn has_tag_of(self, hash: u64) -> bool {
        self.0 & TAG_MASK == Self::tag(hash)
    }
}

/// Stores the words in which `new` differs from `old`, as one range.
pub(crate) fn rewrite(txn: &mut Txn<'_>, at: Offset, old: &Bucket, new: &Bucket) {
    let Some(first) = (0..8).find(|&i| old[i] != new[i]) else { return };
    let last = (0..8).rfind(|&i| old[i] != new[i]).unwrap_or(first);
    txn.write(at.add(8 * first as u64), zerocopy::IntoBytes::as_bytes(&new[first..=last]));
}

/// Puts a slot into the first free place of the chain that begins at `bucket_at`. If there is none, returns
/// the last bucket of the chain.
fn put_in_chain(txn: &mut Txn<'_>, bucket_at: Offset, slot: Slot) -> Option<Offset> {
    let mut at = bucket_at;
    loop {
        let bucket: Bucket = txn.peek(at);
        if let Some(free) = bucket[..SLOTS].iter().position(|&word| word == 0) {
            txn.put(at.add(8 * free as u64), &slot.0);
            return None;
        }
        let next = next_of(&bucket);
        if next.is_null() {
            return Some(at);
        }
        at = next;
    }
}

/// Puts a slot into the chain that begins at `bucket_at`, with another bucket if it is full.
pub(crate) fn add(txn: &mut Txn<'_>, bucket_at: Offset, slot: Slot) -> Result<(), HeapError> {
    if let Some(last_at) = put_in_chain(txn, bucket_at, slot) {
        let overflow_at = txn.alloc(BUCKET_LEN as usize)?;
        let mut overflow: Bucket = [0; 8];
        overflow[0] = slot.0;
        txn.init(overflow_at, zerocopy::IntoBytes::as_bytes(&overflow));
        txn.put(last_at.add(8 * LINK as u64), &overflow_at.get());
    }
    Ok(())
}

/// As [`add`], to a chain that has a free slot.
pub(crate) fn add_to_free(txn: &mut Txn<'_>, bucket_at: Offset, slot: Slot) {
    let full = put_in_chain(txn, bucket_at, slot);
    assert!(full.is_none(), "the chain at {bucket_at} has no free slot");
}

/// How many slots of the chain that begins at `bucket_at` are free.
pub(crate) fn free_slots(view: &View, bucket_at: Offset) -> usize {
    let (mut at, mut free) = (bucket_at, 0);
    while !at.is_null() {
        let bucket: Bucket = view.peek(at);
        free += bucket[..SLOTS].iter().filter(|&&word| word == 0).count();
        at = next_of(&bucket);
    }
    free
}

/// Empties the slot at `slot_at` of the bucket at `bucket_at`; an overflow bucket that becomes empty is
/// unlinked from `parent_at` and freed.
pub(crate) fn clear(txn: &mut Txn<'_>, bucket_at: Offset, slot_at: Offset, parent_at: Offset) {
    let bucket: Bucket = txn.peek(bucket_at);
    let in_use = bucket[..SLOTS].iter().filter(|&&word| word != 0).count();
    debug_assert!(in_use > 0);
    if in_use == 1 && parent_at != Offset::NULL {
        txn.put(parent_at.add(8 * LINK as u64), &bucket[LINK]);
        txn.free(bucket_at);
    } else {
        txn.put(slot_at, &0u64);
    }
}

/// The slots of a chain: a small array, because chains are short, that spills into the heap when one is not.
pub(crate) struct Gathered {
    near: [u64; 4 * SLOTS],
    len: usize,
    spill: Vec<u64>,
}

impl Gathered {
    pub fn new() -> Self {
        Self { near: [0; 4 * SLOTS], len: 0, spill: Vec::new() }
    }

    pub fn push(&mut self, slot: Slot) {
        if self.len < self.near.len() {
            self.near[self.len] = slot.0;
            self.len += 1;
        } else {
            self.spill.push(slot.0);
        }
    }

    pub fn len(&self) -> usize {
        self.len + self.spill.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.near[..self.len].iter().chain(&self.spill).map(|&word| Slot(word))
    }

    /// All slots of the chain that begins at `bucket_at`; the reader depends on them.
    pub fn chain(view: &View, bucket_at: Offset) -> Self {
        let mut gathered = Self::new();
        let mut at = bucket_at;
        loop {
            let bucket: Bucket = view.get(at);
            for &word in bucket[..SLOTS].iter().filter(|&&word| word != 0) {
                gathered.push(Slot(word));
            }
            at = next_of(&bucket);
            if at.is_null() {
                return gathered;
            }
        }
    }
}

/// Frees the overflow buckets that hang on the bucket at `bucket_at`; the link itself is the caller's to
/// write.
pub(crate) fn free_overflow(txn: &mut Txn<'_>, bucket: &Bucket) {
    let mut at = next_of(bucket);
    while !at.is_null() {
        let next = next_of(&txn.peek(at));
        txn.free(at);
        at = next;
    }
}
