//! A medium that forgets: what stands in for persistent memory and disks when tests pull the plug.
//!
//! The double keeps, beside the memory of a pool's two files, a *shadow*: the bytes that are surely persistent.
//! Flushed lines get into it at the next fence, as they were when flushed; on a disk everything does at a sync. When
//! the power fails, each aligned 8-byte word that differs between memory and shadow survives or not, at random: any
//! line may have been evicted from the cache at any time, and a line may have been evicted halfway through a series
//! of stores to it.
//!
//! Every flush, fence and sync is a *persist point*. [`CrashDouble::set_fuse`] names the one just before which the
//! power fails: the double then keeps aside what there is at that moment and lets the program run on in vain, so
//! that no code has to be able to stop in mid-air. A test sweeps the fuse over all points of a scenario and looks
//! what recovery makes of each wreck. The memory is a pair of memfds, so that the code under test is the real code,
//! with both mappings of the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};

use super::persist::LINE_LEN;

/// The files of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// The log.
    Log = 0,
    /// The image.
    Image = 1,
}

const MEDIA: [Medium; 2] = [Medium::Log, Medium::Image];
const WORD_LEN: usize = 8;
const PAGE_LEN: usize = 4096;
static ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];
/// Shadows grow in steps of this many bytes.
const GROW_STEP: usize = 1 << 20;

/// The memory of one node's pool, and what of it would survive.
#[derive(Debug)]
pub struct CrashDouble {
    files: [Arc<File>; 2],
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    shadows: [Vec<u8>; 2],
    /// Flushed and not fenced yet.
    pending: Vec<(Medium, usize, Vec<u8>)>,
    points: u64,
    fuse: Option<u64>,
    /// Memory and shadows as they were when the fuse blew.
    kept: Option<[(Vec<u8>, Vec<u8>); 2]>,
}

impl CrashDouble {
    /// A node without any files.
    pub fn new() -> io::Result<Arc<CrashDouble>> {
        CrashDouble::holding(Vec::new(), Vec::new())
    }

    /// A node whose files hold these bytes, persistently.
    pub fn holding(log: Vec<u8>, image: Vec<u8>) -> io::Result<Arc<CrashDouble>> {
        let file = |name: &str, bytes: &[u8]| -> io::Result<Arc<File>> {
            let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
            file.set_len(bytes.len() as u64)?;
            // Zeros need no memory.
            for (page, bytes) in bytes.chunks(PAGE_LEN).enumerate() {
                if bytes != &ZEROS[..bytes.len()] {
                    file.write_all_at(bytes, (page * PAGE_LEN) as u64)?;
                }
            }
            Ok(Arc::new(file))
        };
        let files = [file("farkeep-log", &log)?, file("farkeep-image", &image)?];
        let books = Books { shadows: [log, image], ..Books::default() };
        Ok(Arc::new(CrashDouble { files, books: Mutex::new(books) }))
    }

    /// One of the node's files.
    pub fn file(&self, medium: Medium) -> Arc<File> {
        Arc::clone(&self.files[medium as usize])
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many persist points there have been.
    pub fn points(&self) -> u64 {
        self.books().points
    }

    /// Has the power fail just before persist point number `point` (see [`CrashDouble::points`]) takes effect.
    pub fn set_fuse(&self, point: u64) {
        self.books().fuse = Some(point);
    }

    /// Whether the power has failed. Whatever is reported durable from then on does not count.
    pub fn blown(&self) -> bool {
        self.books().kept.is_some()
    }

    fn point(&self, books: &mut Books) {
        if books.fuse == Some(books.points) && books.kept.is_none() {
            books.kept = Some(self.wreck(books));
        }
        books.points += 1;
    }

    /// The bytes that one of the files holds now.
    pub fn memory(&self, medium: Medium) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read(medium, &mut bytes);
        bytes
    }

    /// Has `bytes` hold what one of the files holds now. A buffer that was used before saves time.
    fn read(&self, medium: Medium, bytes: &mut Vec<u8>) {
        let file = &self.files[medium as usize];
        let len = file.metadata().expect("a memfd has a length").len() as usize;
        bytes.resize(len, 0);
        file.read_exact_at(bytes, 0).expect("a memfd can be read");
    }

    /// Memory and shadows as they are now, of the same lengths.
    fn wreck(&self, books: &Books) -> [(Vec<u8>, Vec<u8>); 2] {
        MEDIA.map(|medium| {
            let memory = self.memory(medium);
            let mut shadow = books.shadows[medium as usize].clone();
            shadow.resize(memory.len(), 0);
            (memory, shadow)
        })
    }

    pub(super) fn flush(&self, medium: Medium, at: u64, bytes: &[u8]) {
        let mut books = self.books();
        self.point(&mut books);
        let at = at as usize;
        let first = at / LINE_LEN * LINE_LEN;
        // Neighbours on the same lines are written back along; the file is whole pages, so the lines exist.
        let len = (at + bytes.len()).next_multiple_of(LINE_LEN) - first;
        let mut lines = vec![0; len];
        let read =
            self.files[medium as usize].read_at(&mut lines, first as u64).expect("a memfd can be read");
        lines.truncate(read);
        books.pending.push((medium, first, lines));
    }

    pub(super) fn fence(&self) {
        let mut books = self.books();
        self.point(&mut books);
        for (medium, at, lines) in std::mem::take(&mut books.pending) {
            let shadow = &mut books.shadows[medium as usize];
            if shadow.len() < at + lines.len() {
                shadow.resize((at + lines.len()).next_multiple_of(GROW_STEP), 0);
            }
            shadow[at..][..lines.len()].copy_from_slice(&lines);
        }
    }

    pub(super) fn sync(&self, medium: Medium) -> io::Result<()> {
        let mut books = self.books();
        self.point(&mut books);
        self.read(medium, &mut books.shadows[medium as usize]);
        Ok(())
    }

    /// What the node finds when the power is back, if it fails now (or failed when the fuse blew). `coin` decides
    /// what of the rest survives: it returns uniformly distributed numbers.
    pub fn crash(&self, mut coin: impl FnMut() -> u64) -> io::Result<Arc<CrashDouble>> {
        let mut books = self.books();
        let wreck = books.kept.take().unwrap_or_else(|| self.wreck(&books));
        let [log, image] = wreck.map(|(memory, shadow)| survivors(&memory, shadow, &mut coin));
        CrashDouble::holding(log, image)
    }
}

/// Memory as it is found after a crash: each word either as persisted or as last stored.
fn survivors(memory: &[u8], mut shadow: Vec<u8>, coin: &mut impl FnMut() -> u64) -> Vec<u8> {
    // Nearly all pages are equal, and comparing them whole is fast.
    let pages =
        shadow.chunks_mut(PAGE_LEN).zip(memory.chunks(PAGE_LEN)).filter(|(page, stored)| page != stored);
    let lines = pages.flat_map(|(page, stored)| page.chunks_mut(LINE_LEN).zip(stored.chunks(LINE_LEN)));
    for (line, stored) in lines.filter(|(line, stored)| line != stored) {
        // A third of the lines survive whole, a third not at all, of the others any words.
        match coin() % 3 {
            0 => line.copy_from_slice(stored),
            1 => {}
            _ => {
                let words = coin();
                for (place, (word, stored)) in
                    line.chunks_mut(WORD_LEN).zip(stored.chunks(WORD_LEN)).enumerate()
                {
                    if words >> place & 1 == 1 {
                        word.copy_from_slice(stored);
                    }
                }
            }
        }
    }
    shadow
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pmem::domain::{Domain, Durability, detect};
    use crate::pmem::map::Region;

    fn region(double: &Arc<CrashDouble>, domain: Domain) -> Region {
        let file = double.file(Medium::Log);
        file.set_len(8192).unwrap();
        let persistence = detect(&file, Durability::Forced(domain)).unwrap();
        Region::map(file, 8192, persistence, "double").unwrap().with_double(Arc::clone(double), Medium::Log)
    }

    fn coin(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^ mixed >> 29
        }
    }

    #[test]
    fn flushed_and_fenced_bytes_survive_and_others_may_or_may_not() {
        let mut seen = [false; 2];
        for seed in 0..32 {
            let double = CrashDouble::new().unwrap();
            let region = region(&double, Domain::Pmem);
            region.store(0, b"persisted");
            region.flush(0, 9);
            region.fence();
            region.store(4096, b"8 bytes!");
            region.flush(4096, 8);
            let after = double.crash(coin(seed)).unwrap().memory(Medium::Log);
            assert_eq!(&after[..9], b"persisted");
            assert!(&after[4096..4104] == b"8 bytes!" || after[4096..4104] == [0; 8]);
            seen[usize::from(after[4096] != 0)] = true;
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn bytes_stored_between_flush_and_fence_are_not_surely_persistent() {
        let lost = (0..32).any(|seed| {
            let double = CrashDouble::new().unwrap();
            let region = region(&double, Domain::Pmem);
            region.flush(0, 8);
            region.store(0, &[1; 8]);
            region.fence();
            double.crash(coin(seed)).unwrap().memory(Medium::Log)[0] == 0
        });
        assert!(lost);
    }

    #[test]
    fn a_disk_persists_at_sync_and_the_fuse_stops_time_before_it() {
        let double = CrashDouble::new().unwrap();
        let region = region(&double, Domain::Disk);
        region.store(0, b"first");
        region.sync().unwrap();
        double.set_fuse(double.points());
        region.store(0, b"again");
        assert!(!double.blown());
        region.sync().unwrap();
        assert!(double.blown());
        region.store(0, b"never");
        let after = double.crash(coin(1)).unwrap().memory(Medium::Log);
        assert!(&after[..5] == b"first" || &after[..5] == b"again", "{:?}", &after[..5]);
    }
}
