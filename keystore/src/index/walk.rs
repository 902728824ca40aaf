//! Checking an index, and listing the blocks it is made of.

use farkeep_core::heap::{Offset, View};

use super::bucket::{BUCKET_LEN, Bucket, LINK, SLOTS, Slot};
use super::resize::{bucket_at, bucket_number, directory_len, segment_ref, segments};
use super::{Index, Kind};

/// Something wrong with an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFault {
    /// Where it is.
    pub at: Offset,
    /// What it is.
    pub what: String,
}

impl<K: Kind> Index<K> {
    /// Walks the whole index: `block` gets every block it owns, with the length in use; `item` gets every item in a slot and says
    /// whether it can be read; `fault` gets what is wrong.
    pub fn verify(
        self,
        view: &View,
        mut block: impl FnMut(Offset, u64),
        mut item: impl FnMut(Offset) -> bool,
        mut fault: impl FnMut(IndexFault),
    ) {
        let root = self.root(view);
        if root.buckets == 0 || root.directory == 0 {
            if root.buckets != 0 || root.directory != 0 || root.count != 0 {
                let what = format!(
                    "an index without buckets has directory {:#x}, {} items",
                    root.directory, root.count
                );
                fault(IndexFault { at: self.root_at, what });
            }
            return;
        }
        let directory = Offset::new(root.directory);
        block(directory, directory_len(segments(root.buckets)));
        for segment in 0..segments(root.buckets) {
            let at: u64 = view.peek(segment_ref(directory, segment));
            block(Offset::new(at), super::resize::segment_buckets(segment) * BUCKET_LEN);
        }
        let mut count = 0;
        for number in 0..root.buckets {
            let mut at = bucket_at(view, &root, number);
            let mut first = true;
            loop {
                let bucket: Bucket = view.get(at);
                let mut used = 0;
                for &word in bucket[..SLOTS].iter().filter(|&&word| word != 0) {
                    used += 1;
                    let slot = Slot(word);
                    if !item(slot.item()) {
                        continue;
                    }
                    let hash = K::hash_of(view, self.seed, slot.item());
                    let home = bucket_number(hash, root.buckets);
                    if home != number || !slot.has_tag_of(hash) {
                        let what = format!(
                            "item {:?} of bucket {home} found in bucket {number}, word {word:#x}",
                            slot.item()
                        );
                        fault(IndexFault { at, what });
                    }
                }
                count += used;
                if !first && used == 0 {
                    fault(IndexFault {
                        at,
                        what: format!("an empty overflow bucket in the chain of {number}"),
                    });
                }
                if bucket[LINK] == 0 {
                    break;
                }
                (at, first) = (Offset::new(bucket[LINK]), false);
                block(at, BUCKET_LEN);
            }
        }
        for number in root.buckets..root.buckets.next_multiple_of(16) {
            let (segment, within) = super::resize::segment_of(number);
            if within == 0 {
                break;
            }
            let at: u64 = view.peek(segment_ref(directory, segment));
            let bucket: Bucket = view.peek(Offset::new(at).add(within * BUCKET_LEN));
            if bucket != [0; 8] {
                fault(IndexFault {
                    at: Offset::new(at).add(within * BUCKET_LEN),
                    what: format!("bucket {number} beyond the last is not zero"),
                });
            }
        }
        if count != root.count {
            fault(IndexFault {
                at: self.root_at,
                what: format!("{count} items counted, the root says {}", root.count),
            });
        }
    }
}
