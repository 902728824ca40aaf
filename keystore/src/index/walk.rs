//! Checking an index, in use or detached, and listing the blocks it is made of.

use farkeep_core::heap::Offset;

use super::bucket::{BUCKET_LEN, Bucket, SLOTS, Slot, next_of};
use super::resize::{
    DirectoryHead, bucket_number, directory_len, segment_buckets, segment_of, segment_ref, segments,
};
use super::{Index, Kind, Root};
use crate::verify::Checker;

/// An overflow chain longer than this many buckets is a circle or as bad as one.
const CHAIN_MAX: usize = 4096;

impl<K: Kind> Index<K> {
    /// Checks the whole index, called `name` in findings. `item` is called with every item and says whether
    /// its key can be read. Returns the number of items.
    pub(crate) fn verify(
        self,
        check: &mut Checker<'_>,
        name: &str,
        item: &mut dyn FnMut(&mut Checker<'_>, Offset) -> bool,
    ) -> u64 {
        let Some(root) = check.get::<Root>(self.root_at, name) else { return 0 };
        if root.directory == 0 || root.buckets == 0 {
            if root != Root::default() {
                check.fault(self.root_at, format!("{name}: an index without buckets has a root of {root:?}"));
            }
            return 0;
        }
        let Some(segment_offsets) = segment_offsets(check, Offset::new(root.directory), root.buckets, name)
        else {
            return 0;
        };
        let mut count = 0;
        for number in 0..root.buckets {
            let (segment, within) = segment_of(number);
            let bucket_at = Offset::new(segment_offsets[segment as usize]).add(within * BUCKET_LEN);
            let mut seen: Vec<(Slot, Offset)> = Vec::new();
            for (at, slot) in chain(check, bucket_at, name) {
                count += 1;
                if !item(check, slot.item()) {
                    continue;
                }
                let hash = K::hash_of(check.view, self.seed, slot.item());
                let home = bucket_number(hash, root.buckets);
                if home != number || !slot.has_tag_of(hash) {
                    let what = format!("{name}: item {} belongs to bucket {home}, not {number}", slot.item());
                    check.fault(at, what);
                }
                if seen.iter().any(|(other, _)| {
                    other.has_tag_of(hash) && K::same(check.view, other.item(), slot.item())
                }) {
                    check.fault(at, format!("{name}: the key of item {} is there twice", slot.item()));
                }
                seen.push((slot, at));
            }
        }
        self.verify_spare(check, &root, &segment_offsets, name);
        if count != root.count {
            check.fault(self.root_at, format!("{name}: {count} items counted, the root says {}", root.count));
        }
        count
    }

    /// What is allocated but not yet in use has to be zero, for a split takes it to be.
    fn verify_spare(self, check: &mut Checker<'_>, root: &Root, segment_offsets: &[u64], name: &str) {
        let (segment, within) = segment_of(root.buckets - 1);
        let at = Offset::new(segment_offsets[segment as usize]);
        for spare in within + 1..segment_buckets(segment) {
            let spare_at = at.add(spare * BUCKET_LEN);
            if check.view.peek::<Bucket>(spare_at) != [0; 8] {
                check.fault(spare_at, format!("{name}: a bucket beyond the last is not zero"));
            }
        }
    }
}

/// The offsets of all segments, their blocks and the directory's noted; `None` if they cannot be read.
fn segment_offsets(check: &mut Checker<'_>, directory: Offset, buckets: u64, name: &str) -> Option<Vec<u64>> {
    // Before anything is allocated for them: the buckets have to fit into the image.
    let len = buckets.checked_mul(BUCKET_LEN).filter(|&len| len <= check.view.image_len());
    let Some(_) = len else {
        check.fault(directory, format!("{name}: {buckets} buckets are more than the image can hold"));
        return None;
    };
    let count = segments(buckets);
    if !check.covers(directory, directory_len(count), name) {
        return None;
    }
    check.block(directory, directory_len(count));
    let mut offsets = Vec::with_capacity(count as usize);
    for segment in 0..count {
        let at: u64 = check.view.peek(segment_ref(directory, segment));
        let len = segment_buckets(segment) * BUCKET_LEN;
        if !check.covers(Offset::new(at), len, name) {
            return None;
        }
        check.block(Offset::new(at), len);
        offsets.push(at);
    }
    Some(offsets)
}

/// The slots of a chain and the buckets they are in; overflow buckets are noted as blocks.
fn chain(check: &mut Checker<'_>, bucket_at: Offset, name: &str) -> Vec<(Offset, Slot)> {
    let mut slots = Vec::new();
    let mut at = bucket_at;
    for length in 0.. {
        if length == CHAIN_MAX {
            check.fault(bucket_at, format!("{name}: a chain of more than {CHAIN_MAX} buckets"));
            break;
        }
        let Some(bucket) = check.get::<Bucket>(at, name) else { break };
        let before = slots.len();
        slots.extend(bucket[..SLOTS].iter().filter(|&&word| word != 0).map(|&word| (at, Slot(word))));
        if at != bucket_at {
            check.block(at, BUCKET_LEN);
            if slots.len() == before {
                check.fault(at, format!("{name}: an empty overflow bucket"));
            }
        }
        at = next_of(&bucket);
        if at.is_null() {
            break;
        }
    }
    slots
}

/// An index on the reclaim list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detached {
    pub directory: Offset,
}

impl Detached {
    /// Its head, if it can be read.
    pub fn head(self, check: &mut Checker<'_>) -> Option<DirectoryHead> {
        check.get(self.directory, "the reclaim list")
    }

    /// Calls `item` with every item that is still there.
    pub fn verify(
        self,
        check: &mut Checker<'_>,
        head: &DirectoryHead,
        item: &mut dyn FnMut(&mut Checker<'_>, Offset),
    ) {
        let name = "a detached index";
        if head.buckets == 0 {
            check.block(self.directory, directory_len(0));
            return;
        }
        let Some(offsets) = segment_offsets(check, self.directory, head.buckets, name) else { return };
        for number in 0..head.buckets {
            let (segment, within) = segment_of(number);
            let bucket_at = Offset::new(offsets[segment as usize]).add(within * BUCKET_LEN);
            for (_, slot) in chain(check, bucket_at, name) {
                item(check, slot.item());
            }
        }
    }
}
