//! Giving up a million keys without stopping for them.
//!
//! `FLUSHDB`, and `DEL` of a big hash, detach an index from its root in one small transaction: the directory
//! is pushed onto the *reclaim list*, whose head is in the keystore's records and whose links are the heads
//! of the directories themselves, so that giving memory up never needs any. [`reclaim`] then takes the
//! detached indexes apart, a bounded number of items a call, each call (a part of) a transaction. A crash
//! between two calls loses nothing: the list is in the image, and what a directory says of its buckets is
//! what is still there.
//!
//! A key's hash that is itself indexed is pushed behind the index it was found in.

use farkeep_core::heap::{HeapError, Offset, Txn, View};

use crate::entry::{Entry, Storage};
use crate::index::{BUCKET_LEN, Bucket, DirectoryHead, Root, SLOTS, Slot, next_of, segment_of, segment_ref};
use crate::keystore::WriteCtx;

/// What the items of a detached index are, and so what freeing one means. The numbers are on the media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum ItemKind {
    /// Entries, with what their values have outside of them.
    Entries = 1,
    /// Fields of a hash.
    Fields = 2,
    /// Entries that another index owns: nothing to free.
    Borrowed = 3,
}

impl ItemKind {
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        [Self::Entries, Self::Fields, Self::Borrowed].into_iter().find(|&kind| kind as u64 == word)
    }
}

/// Empties the index whose root is at `root_at`; its memory comes back through [`WriteCtx::reclaim`].
pub(crate) fn detach(txn: &mut Txn<'_>, reclaim_at: Offset, root_at: Offset, kind: ItemKind) {
    let root: Root = txn.peek(root_at);
    if root.directory == 0 {
        return;
    }
    let next: u64 = txn.peek(reclaim_at);
    push(txn, reclaim_at, &root, kind, next);
    txn.put(root_at, &Root::default());
}

/// Makes `root`'s directory the link behind the one kept at `link_at`.
fn push(txn: &mut Txn<'_>, link_at: Offset, root: &Root, kind: ItemKind, next: u64) {
    let head = DirectoryHead { next, kind: kind as u64, buckets: root.buckets, count: root.count };
    txn.put(Offset::new(root.directory), &head);
    txn.put(link_at, &root.directory);
}

/// Whether there is anything to reclaim.
pub fn is_pending(view: &View, reclaim_at: Offset) -> bool {
    view.peek::<u64>(reclaim_at) != 0
}

impl WriteCtx<'_, '_> {
    /// Frees about `budget` items of detached indexes and returns how many. 0 means that there are none left.
    ///
    /// # Errors
    /// None that leaves the list damaged; kept as a result because the caller rolls back on any.
    pub fn reclaim(&mut self, budget: usize) -> Result<usize, HeapError> {
        let reclaim_at = self.ks.layout.reclaim_at;
        let mut freed = 0;
        while freed < budget {
            let first: u64 = self.txn.peek(reclaim_at);
            if first == 0 {
                break;
            }
            let directory = Offset::new(first);
            let mut head: DirectoryHead = self.txn.peek(directory);
            while head.buckets > 0 && freed < budget {
                freed += free_last_bucket(self.txn, directory, &mut head);
            }
            if head.buckets > 0 {
                self.txn.put(directory, &head);
            } else {
                self.txn.put(reclaim_at, &head.next);
                self.txn.free(directory);
                freed += 1;
            }
        }
        self.ks.stats.reclaimed_items += freed as u64;
        Ok(freed)
    }

    /// Whether [`WriteCtx::reclaim`] has work.
    pub fn has_garbage(&self) -> bool {
        is_pending(self.txn, self.ks.layout.reclaim_at)
    }
}

/// Frees the last bucket of a detached index with its items, and the segment it was the first bucket of.
/// Returns how much work that was.
fn free_last_bucket(txn: &mut Txn<'_>, directory: Offset, head: &mut DirectoryHead) -> usize {
    let Some(kind) = ItemKind::from_word(head.kind) else {
        panic!("a detached index of kind {:#x}: the image is damaged", head.kind)
    };
    let (segment, within) = segment_of(head.buckets - 1);
    let segment_at = Offset::new(txn.peek(segment_ref(directory, segment)));
    let mut work = 1;
    let mut bucket_at = segment_at.add(within * BUCKET_LEN);
    loop {
        let bucket: Bucket = txn.peek(bucket_at);
        for &word in bucket[..SLOTS].iter().filter(|&&word| word != 0) {
            free_item(txn, head, kind, Slot(word).item());
            work += 1;
        }
        let next = next_of(&bucket);
        if bucket_at != segment_at.add(within * BUCKET_LEN) {
            txn.free(bucket_at);
        }
        if next.is_null() {
            break;
        }
        bucket_at = next;
    }
    if within == 0 {
        txn.free(segment_at);
    }
    head.buckets -= 1;
    work
}

fn free_item(txn: &mut Txn<'_>, head: &mut DirectoryHead, kind: ItemKind, item: Offset) {
    match kind {
        ItemKind::Borrowed => {}
        ItemKind::Fields => txn.free(item),
        ItemKind::Entries => {
            let entry = Entry::load(txn, item);
            match entry.header.encoding().storage() {
                Storage::Number | Storage::Inline => {}
                Storage::Block => txn.free(Offset::new(entry.header.value)),
                Storage::Index => {
                    let root: Root = txn.peek(entry.payload_at());
                    if root.directory != 0 {
                        let own = DirectoryHead {
                            next: head.next,
                            kind: ItemKind::Fields as u64,
                            buckets: root.buckets,
                            count: root.count,
                        };
                        txn.put(Offset::new(root.directory), &own);
                        head.next = root.directory;
                    }
                }
            }
            txn.free(item);
        }
    }
}
