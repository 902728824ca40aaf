//! The image file and its two mappings.
//!
//! The *shared* mapping is the image: the replayer stores committed records there, and a follower's clients read it.
//! The *private* mapping is a leader's working view: it reads through to the image, and a store copies the page into
//! DRAM. Address space is reserved once, for the longest image there may be, by mapping beyond the file's end, so
//! growing moves no byte. Space is allocated before anybody may touch it, so a full file system is an error and not
//! a SIGBUS. On tmpfs it is allocated in huge pages, as long as they are cheaper than what they replace: a kernel that
//! gets its memory from a host may take milliseconds for one, but twice as long for 512 common ones.
//!
//! A crash loses the private mapping entirely. Of the shared one it leaves what was persisted, and of the rest any
//! part; replaying from the checkpoint puts that right.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

use super::crash::{CrashDouble, Medium};
use super::domain::{Persistence, is_tmpfs};
use super::map::{HUGE_PAGE_LEN, Kind, Mapping, Region};
use super::mem::Mem;
use crate::heap::{ImageSource, PAGE_LEN};
use crate::sched::processor_time;

/// A growing image gets space in steps of a sixteenth of it, within these bounds, so that a large one makes few
/// system calls and a small one stays small.
const GROW_STEP_MIN: u64 = 256 << 10;
const GROW_STEP_MAX: u64 = 64 << 20;

/// A huge page that takes longer than this is dearer than the 512 it replaces, as long as nothing else is known of them: where memory is
/// at hand they take half of it.
const HUGE_PAGE_TIME_MAX: Duration = Duration::from_millis(2);
/// So many blocks are left alone after one that did not come cheap, twice as many after the next, and so on up to a bound.
const PATIENCE_MIN: u64 = 8;
const PATIENCE_MAX: u64 = 1024;

/// Asks for huge pages as long as they are cheap: a kernel that has to move others out of their way first, or to get memory from a host,
/// takes milliseconds for one, in which nobody else may have the processor.
#[derive(Debug, Default)]
struct HugePages {
    /// Blocks that are to be left alone, ...
    skipped: u64,
    /// ... and how many the next time.
    patience: u64,
    /// What the last block of common pages has taken until they were in memory.
    common: Option<Duration>,
}

/// What the space is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Bytes that may be stored some day.
    Growth,
    /// Bytes that will all be stored at once, so that every page is going to be brought into memory anyway.
    Filling,
}

impl HugePages {
    /// Allocates blocks of the image between `from` and `to` as a huge page each. Says whether that is possible at all here.
    fn allocate(&mut self, image: &Region, from: u64, to: u64, need: Need) -> bool {
        let block_len = HUGE_PAGE_LEN as u64;
        let blocks = from.next_multiple_of(block_len)..to - to % block_len;
        for at in blocks.step_by(HUGE_PAGE_LEN) {
            let mut is_there = false;
            let may_compare = need == Need::Growth || self.common.is_some();
            if may_compare && self.is_worth_it() {
                let began = processor_time();
                // A page that is there and ends the block is what `collapse` wants.
                let last = at + block_len - PAGE_LEN;
                let done = fallocate(&**image.file(), FallocateFlags::empty(), last, PAGE_LEN)
                    .map_err(io::Error::from)
                    .and_then(|()| image.collapse(at));
                match done {
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return false,
                    done => is_there = done.is_ok(),
                }
                self.learn(is_there && self.is_cheap(processor_time() - began));
            }
            if need == Need::Filling && !is_there {
                self.bring_in_common(image, at);
            }
        }
        true
    }

    /// Allocates a block in common pages, brings them into memory and notes what that takes. What fails is left to others.
    fn bring_in_common(&mut self, image: &Region, at: u64) {
        let began = processor_time();
        let done = fallocate(&**image.file(), FallocateFlags::empty(), at, HUGE_PAGE_LEN as u64)
            .map_err(io::Error::from)
            .and_then(|()| image.populate(at, HUGE_PAGE_LEN));
        if done.is_ok() {
            self.common = Some(processor_time() - began);
        }
    }

    /// Whether a huge page that took so long is no dearer than what it replaces.
    fn is_cheap(&self, took: Duration) -> bool {
        took <= self.common.unwrap_or(HUGE_PAGE_TIME_MAX)
    }

    /// Whether to ask for one for the next block.
    fn is_worth_it(&mut self) -> bool {
        let left_alone = self.skipped > 0;
        self.skipped -= u64::from(left_alone);
        !left_alone
    }

    /// What was asked for came cheap, or it did not.
    fn learn(&mut self, cheap: bool) {
        self.patience = if cheap { 0 } else { (self.patience * 2).clamp(PATIENCE_MIN, PATIENCE_MAX) };
        self.skipped = self.patience;
    }
}

/// The image of a pool.
#[derive(Debug)]
pub struct Image {
    shared: Region,
    name: String,
    /// Bytes of the file that have space allocated.
    allocated: AtomicU64,
    /// The working view, as long as somebody has one.
    private: Mutex<Weak<Mapping>>,
    /// Held by whoever changes the file's length; in it, where the file can have them, what is known of huge pages.
    growing: Mutex<Option<HugePages>>,
}

impl Image {
    /// Maps `file`, of which `image_len` bytes hold data, with address space for `max_len` bytes.
    pub fn map(
        file: Arc<File>,
        max_len: u64,
        persistence: Persistence,
        name: &str,
        double: Option<Arc<CrashDouble>>,
    ) -> io::Result<Image> {
        let metadata = file.metadata()?;
        let allocated = metadata.len();
        let max_len = max_len.max(allocated).next_multiple_of(PAGE_LEN);
        let huge_pages = (double.is_none() && is_tmpfs(&file)?).then(HugePages::default);
        // A process that ended while it allocated a huge page has left a hole.
        if huge_pages.is_some() && metadata.blocks() * 512 < allocated {
            fallocate(&*file, FallocateFlags::empty(), 0, allocated)?;
        }
        let mut shared = Region::map(file, max_len, persistence, name)?;
        if let Some(double) = double {
            shared = shared.with_double(double, Medium::Image);
        }
        Ok(Image {
            shared,
            name: name.to_owned(),
            allocated: AtomicU64::new(allocated),
            private: Mutex::default(),
            growing: Mutex::new(huge_pages),
        })
    }

    /// The shared mapping. Bytes beyond [`Image::allocated`] must not be touched.
    pub(crate) fn region(&self) -> &Region {
        &self.shared
    }

    /// How many bytes may be touched.
    pub fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Acquire)
    }

    /// Gives all space back: an empty image. Nobody may have a handle on its memory.
    pub fn clear(&self) -> io::Result<()> {
        let _growing = self.lock_growing();
        self.allocated.store(0, Ordering::Release);
        let file = self.shared.file();
        file.set_len(0)?;
        file.sync_all()
    }

    /// Makes everything behind the first `len` bytes zero, by giving its space back. Nobody may have a handle on that part of
    /// the memory.
    pub fn clear_from(&self, len: u64) -> io::Result<()> {
        let _growing = self.lock_growing();
        let kept = len.next_multiple_of(PAGE_LEN);
        let allocated = self.allocated();
        if len >= allocated {
            return Ok(());
        }
        // The last page that stays is cleared by hand.
        let rest = kept.min(allocated) - len;
        if rest > 0 {
            self.shared.with_mut(len, rest as usize, |bytes| bytes.fill(0));
            self.shared.flush(len, rest as usize);
            self.shared.fence();
        }
        if kept < allocated {
            self.allocated.store(kept, Ordering::Release);
            self.shared.file().set_len(kept)?;
        }
        self.shared.sync_file()
    }

    fn lock_growing(&self) -> MutexGuard<'_, Option<HugePages>> {
        self.growing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the file reach from `from` to `to`, with space for every byte, and says how far it reaches then. An error leaves it as it was.
    fn allocate(
        &self,
        huge_pages: &mut Option<HugePages>,
        from: u64,
        to: u64,
        need: Need,
    ) -> io::Result<u64> {
        let file = &**self.shared.file();
        if huge_pages.as_mut().is_some_and(|asked| !asked.allocate(&self.shared, from, to, need)) {
            *huge_pages = None;
        }
        match fallocate(file, FallocateFlags::empty(), from, to - from) {
            Ok(()) => Ok(to),
            Err(error) => {
                file.set_len(from)?;
                Err(error.into())
            }
        }
    }

    /// As [`ImageSource::grow_to`], for somebody who is about to store every byte up to there. On tmpfs, where the kernel can
    /// make huge pages of it (Linux since 6.1), that brings the pages into memory, as huge ones or as common ones, whichever takes less here.
    pub fn reserve(&self, len: u64) -> io::Result<()> {
        self.reach(len, Need::Filling)
    }

    /// Makes at least `len` bytes usable.
    fn reach(&self, len: u64, need: Need) -> io::Result<()> {
        if len <= self.allocated() {
            return Ok(());
        }
        // Others may grow it too, or clear it.
        let mut growing = self.lock_growing();
        let allocated = self.allocated();
        if len <= allocated {
            return Ok(());
        }
        if len > self.shared.len() {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("an image of {len} bytes in an address space of {} bytes", self.shared.len()),
            ));
        }
        let step = match need {
            Need::Growth => (allocated / 16).next_power_of_two().clamp(GROW_STEP_MIN, GROW_STEP_MAX),
            Need::Filling => PAGE_LEN,
        };
        let generous = len.next_multiple_of(step).min(self.shared.len());
        // Where there is not enough for a whole step there may still be enough for what is needed.
        let mut allocate = |to| self.allocate(&mut growing, allocated, to, need);
        let reached = allocate(generous).or_else(|_| allocate(len))?;
        self.allocated.fetch_max(reached, Ordering::AcqRel);
        Ok(())
    }

    /// How bytes get persistent here.
    pub fn persistence(&self) -> &Persistence {
        self.shared.persistence()
    }

    /// Read access to the image itself, for a follower's clients and for inspection.
    pub fn shared_memory(&self) -> Mem {
        // SAFETY: the shared mapping stays as long as the handle; space is allocated before any limit moves over it;
        // only the replayer stores into it, and on a follower never while a client reads.
        unsafe { self.shared.mapping().mem() }
    }
}

impl ImageSource for Image {
    fn memory(&self) -> Mem {
        let mapping = Mapping::new(self.shared.file(), self.shared.len() as usize, Kind::Private, &self.name);
        let mapping = Arc::new(mapping.expect("address space for the working view"));
        // SAFETY: the mapping stays as long as the handle; space is allocated before any limit moves over it. Stores
        // of the replayer show through on pages without a private copy only, and such a page is not in use by any
        // transaction that is not yet in the image: a transaction's first store to a page makes it private, and it
        // stays so until everything that was stored to it has been replayed.
        let mem = unsafe { mapping.mem() };
        *self.private.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&mapping);
        mem
    }

    fn max_len(&self) -> u64 {
        self.shared.len()
    }

    fn grow_to(&self, len: u64) -> io::Result<()> {
        self.reach(len, Need::Growth)
    }

    fn drop_private(&self, at: u64, len: u64) -> io::Result<()> {
        match self.private.lock().unwrap_or_else(PoisonError::into_inner).upgrade() {
            Some(mapping) => mapping.drop_copies(at, len),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::pmem::domain::{Durability, detect};

    const MIB: u64 = 1 << 20;

    fn image(file: &Arc<File>) -> Image {
        let persistence = detect(file, Durability::Auto).unwrap();
        Image::map(Arc::clone(file), 256 * MIB, persistence, "test", None).unwrap()
    }

    fn has_space_for_all(file: &File) -> bool {
        let metadata = file.metadata().unwrap();
        metadata.blocks() * 512 >= metadata.len()
    }

    #[test]
    fn an_image_has_space_for_every_byte_whatever_its_pages_and_keeps_what_is_in_it() {
        for dir in ["/dev/shm", "."] {
            let Ok(file) = tempfile::tempfile_in(dir) else { continue };
            let file = Arc::new(file);
            let mut expected = Vec::new();
            {
                let image = image(&file);
                let steps = [
                    (300 << 10, Need::Growth),
                    (5 * MIB, Need::Growth),
                    (9 * MIB + 1, Need::Filling),
                    (37 * MIB, Need::Growth),
                ];
                for (len, need) in steps {
                    image.reach(len, need).unwrap();
                    assert!(image.allocated() >= len);
                    assert!(has_space_for_all(&file), "{dir}: {len}");
                    assert_eq!(file.metadata().unwrap().len(), image.allocated());
                    let at = len - 8;
                    image.region().store(at, &len.to_le_bytes());
                    expected.push((at, len));
                }
                for &(at, len) in &expected {
                    assert_eq!(image.region().bytes(at, 8), len.to_le_bytes(), "{dir}");
                }
            }
            let image = image(&file);
            assert!(image.region().base_address().addr().get().is_multiple_of(HUGE_PAGE_LEN));
            for &(at, len) in &expected {
                assert_eq!(image.region().bytes(at, 8), len.to_le_bytes(), "{dir}, mapped again");
            }
            assert!(image.region().bytes(10 * MIB, 26 * MIB as usize).iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn blocks_are_left_alone_after_a_dear_huge_page_and_asked_for_again_after_a_cheap_one() {
        let mut huge_pages = HugePages::default();
        let mut left_alone = |cheap| {
            huge_pages.learn(cheap);
            (0..).find(|_| huge_pages.is_worth_it()).unwrap()
        };
        let answers = [true, false, false, false, true, false];
        assert_eq!(answers.map(&mut left_alone), [0, 8, 16, 32, 0, 8]);
        assert_eq!([false; 9].map(left_alone)[8], PATIENCE_MAX);
    }

    #[test]
    fn a_huge_page_is_compared_with_what_common_ones_take_where_that_is_known() {
        let knowing = |common| HugePages { common, ..HugePages::default() };
        let ms = Duration::from_millis;
        assert!(knowing(None).is_cheap(ms(1)) && !knowing(None).is_cheap(ms(3)));
        assert!(knowing(Some(ms(6))).is_cheap(ms(3)), "a host takes longer for 512 pages");
        assert!(!knowing(Some(ms(1))).is_cheap(ms(2)), "memory is at hand, but not in one piece");
    }

    #[test]
    fn what_is_reserved_takes_no_page_faults_any_more() {
        // An entry of 8 bytes for each page, of which the highest bit says that the page is mapped.
        fn mapped(image: &Image, pages: std::ops::Range<u64>) -> u64 {
            let first = image.region().base_address().addr().get() as u64 / PAGE_LEN + pages.start;
            let mut entries = vec![0; (pages.end - pages.start) as usize * 8];
            File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entries, first * 8).unwrap();
            entries.chunks(8).map(|entry| u64::from(entry[7] >> 7)).sum()
        }
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
        let file = Arc::new(file);
        let image = image(&file);
        image.grow_to(4 * MIB).unwrap();
        image.reserve(12 * MIB).unwrap();
        let pages = 4 * MIB / PAGE_LEN..12 * MIB / PAGE_LEN;
        assert_eq!(mapped(&image, pages.clone()), pages.end - pages.start);
        assert!(image.growing.lock().unwrap().as_ref().is_none_or(|learnt| learnt.common.is_some()));
        assert!(has_space_for_all(&file));
    }

    #[test]
    fn a_hole_that_a_killed_process_left_gets_its_space_when_the_image_is_mapped() {
        let Ok(file) = tempfile::tempfile_in("/dev/shm") else { return };
        let file = Arc::new(file);
        // As far as `HugePages` had come.
        fallocate(&*file, FallocateFlags::empty(), 4 * MIB - PAGE_LEN, PAGE_LEN).unwrap();
        assert!(!has_space_for_all(&file));
        let image = image(&file);
        assert!(has_space_for_all(&file));
        assert_eq!(image.allocated(), 4 * MIB);
    }
}
