//! Checks the allocator's structures against each other and against what the heap's user can reach.
//!
//! Runs offline or between transactions, reads everything, changes nothing, and takes no offset it finds for granted:
//! a damaged image yields findings, never a panic.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::PAGE_LEN;
use super::alloc::classes::{CLASSES, Class};
use super::alloc::desc::{Desc, Kind, table_of, table_pages};
use super::alloc::extent::{self, BINS, bin_of, offset_of};
use super::alloc::slab::{self, Header, SLAB_MAGIC, block_at, index_of, listed_from};
use super::offset::Offset;
use super::superblock::{self, TABLES, bin_at, partial_at, table_at};
use super::view::View;

/// After this many findings the rest is only counted.
const FINDINGS_MAX: usize = 1000;

/// Something in the image that contradicts something else in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Where in the image.
    pub at: Offset,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// Walks superblock, descriptors, slabs and free lists, and compares the allocated blocks with the reachable ones,
/// given as the start of each block and the number of its bytes that are in use. A sound image has no findings.
pub fn verify(view: &View, reachable: impl IntoIterator<Item = (Offset, usize)>) -> Vec<Finding> {
    let mut check = Check::new(view);
    if check.superblock() {
        check.pages();
        check.bins();
        check.slab_lists();
        check.blocks(reachable);
    }
    check.finish()
}

struct SlabSeen {
    class: Class,
    header: Header,
    reached: [u64; slab::BLOCKS_MAX / 64],
    on_list: bool,
}

struct Check<'v> {
    view: &'v View,
    top: u32,
    findings: Vec<Finding>,
    more: usize,
    slabs: HashMap<u32, SlabSeen>,
    /// First page to number of pages and whether the extent was reached.
    extents: HashMap<u32, (u32, bool)>,
    free_runs: HashMap<u32, u32>,
}

impl<'v> Check<'v> {
    fn new(view: &'v View) -> Check<'v> {
        Check {
            view,
            top: 0,
            findings: Vec::new(),
            more: 0,
            slabs: HashMap::new(),
            extents: HashMap::new(),
            free_runs: HashMap::new(),
        }
    }

    fn finish(mut self) -> Vec<Finding> {
        if self.more > 0 {
            let what = format!("and {} more findings", self.more);
            self.findings.push(Finding { at: Offset::NULL, what });
        }
        self.findings
    }

    fn found(&mut self, at: Offset, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { at, what: what.into() });
        } else {
            self.more += 1;
        }
    }

    /// Whether superblock and descriptor tables allow to go on.
    fn superblock(&mut self) -> bool {
        if let Err(error) = superblock::check(self.view) {
            self.found(Offset::NULL, error.to_string());
            return false;
        }
        self.top = extent::top(self.view);
        if self.top == 0 || u64::from(self.top) * PAGE_LEN > self.view.image_len() {
            let what =
                format!("top is page {}, beyond the image's {} bytes", self.top, self.view.image_len());
            self.found(superblock::TOP_AT, what);
            return false;
        }
        for table in 0..TABLES {
            let page: u32 = self.view.peek(table_at(table));
            let needed = table <= table_of(self.top - 1);
            let end = u64::from(page) + u64::from(table_pages(table.min(20)));
            if (needed && page == 0) || (page != 0 && end > u64::from(self.top)) {
                self.found(
                    table_at(table),
                    format!("descriptor table {table} is said to lie at page {page}"),
                );
                return false;
            }
        }
        true
    }

    /// The descriptor of a page, of which nothing is known yet.
    fn desc(&self, page: u32) -> Option<Desc> {
        (page < self.top).then(|| self.view.desc(page))
    }

    /// Walks all runs from the first page to `top`.
    fn pages(&mut self) {
        let mut page = 0;
        let mut after_free = false;
        while page < self.top {
            let desc = self.view.desc(page);
            let pages = match desc.kind() {
                Some(Kind::Meta | Kind::Extent | Kind::Free | Kind::Slab)
                    if desc.len > 0 && u64::from(page) + u64::from(desc.len) <= u64::from(self.top) =>
                {
                    desc.len
                }
                _ => {
                    self.found(
                        self.view.desc_at(page),
                        format!("page {page} should begin a run, but is {desc:?}"),
                    );
                    self.slabs_lost(&mut page);
                    after_free = false;
                    continue;
                }
            };
            match desc.kind() {
                Some(Kind::Extent) => {
                    self.rest(page, pages, Kind::ExtentTail);
                    self.extents.insert(page, (pages, false));
                }
                Some(Kind::Free) => {
                    self.rest(page, pages, Kind::FreeTail);
                    if after_free || page + pages == self.top {
                        self.found(offset_of(page), format!("free run of {pages} pages not merged"));
                    }
                    self.free_runs.insert(page, pages);
                }
                Some(Kind::Slab) => self.slab(page, &desc),
                _ => {}
            }
            after_free = desc.kind() == Some(Kind::Free);
            page += pages;
        }
    }

    /// Goes on to the next page that begins a run.
    fn slabs_lost(&self, page: &mut u32) {
        *page += 1;
        while let Some(desc) = self.desc(*page) {
            if matches!(desc.kind(), Some(Kind::Meta | Kind::Extent | Kind::Free | Kind::Slab)) {
                break;
            }
            *page += 1;
        }
    }

    /// Checks what the descriptors of a run say behind its first page: nothing, but for the last.
    fn rest(&mut self, page: u32, pages: u32, kind: Kind) {
        if pages == 1 {
            return;
        }
        for inside in page + 1..page + pages - 1 {
            let desc = self.view.desc(inside);
            if desc != Desc::default() {
                let what = format!("page {inside} inside the run at page {page} is {desc:?}");
                self.found(self.view.desc_at(inside), what);
            }
        }
        let last = page + pages - 1;
        let desc = self.view.desc(last);
        if desc.kind() != Some(kind) || desc.len != pages - 1 {
            let what =
                format!("page {last} should be the {kind:?} of the run at page {page}, but is {desc:?}");
            self.found(self.view.desc_at(last), what);
        }
    }

    fn slab(&mut self, page: u32, desc: &Desc) {
        let header = slab::header(self.view, page);
        let number = desc.class_number();
        if usize::from(number) >= CLASSES || header.class != number || header.magic != SLAB_MAGIC {
            let what =
                format!("slab of class {number} with magic {:#x}, class {}", header.magic, header.class);
            return self.found(offset_of(page), what);
        }
        let class = Class::numbered(number);
        if desc.len != class.pages() {
            self.found(self.view.desc_at(page), format!("slab of {class:?} with {} pages", desc.len));
        }
        for distance in 1..desc.len {
            let body = self.view.desc(page + distance);
            if body != Desc::of_slab(Kind::SlabBody, class, distance) {
                let at = self.view.desc_at(page + distance);
                self.found(at, format!("page {distance} of the slab at page {page} is {body:?}"));
            }
        }
        for index in class.blocks() as usize..slab::BLOCKS_MAX {
            if !header.holds(index) {
                self.found(
                    offset_of(page),
                    format!("slab of {class:?} offers block {index}, which it has not"),
                );
            }
        }
        let seen = SlabSeen { class, header, reached: [0; slab::BLOCKS_MAX / 64], on_list: false };
        self.slabs.insert(page, seen);
    }

    fn bins(&mut self) {
        let mut listed = HashSet::new();
        for bin in 0..BINS {
            let mut previous = 0;
            let mut page: u32 = self.view.peek(bin_at(bin));
            while page != 0 {
                let Some(&pages) = self.free_runs.get(&page) else {
                    self.found(
                        bin_at(bin),
                        format!("bin {bin} leads to page {page}, which begins no free run"),
                    );
                    break;
                };
                if bin_of(pages) != bin || !listed.insert(page) {
                    self.found(
                        offset_of(page),
                        format!("free run of {pages} pages in bin {bin}, or in it twice"),
                    );
                    break;
                }
                let desc = self.view.desc(page);
                if desc.prev != previous {
                    let what = format!("free run links back to page {}, not {previous}", desc.prev);
                    self.found(self.view.desc_at(page), what);
                }
                previous = page;
                page = desc.next;
            }
        }
        let lost: Vec<u32> = self.free_runs.keys().copied().filter(|page| !listed.contains(page)).collect();
        for page in lost {
            self.found(offset_of(page), "free run in no bin");
        }
    }

    fn slab_lists(&mut self) {
        for number in 0..CLASSES {
            let class = Class::numbered(number as u8);
            let mut previous = 0;
            let mut page: u32 = self.view.peek(partial_at(number));
            while page != 0 {
                let Some(seen) = self.slabs.get_mut(&page).filter(|seen| seen.class == class) else {
                    self.found(
                        partial_at(number),
                        format!("list of {class:?} leads to page {page}, not its slab"),
                    );
                    break;
                };
                if std::mem::replace(&mut seen.on_list, true) {
                    self.found(offset_of(page), format!("list of {class:?} comes to this slab twice"));
                    break;
                }
                let header = seen.header;
                if header.prev != previous || header.free_blocks() == 0 {
                    let (prev, free) = (header.prev, header.free_blocks());
                    let what =
                        format!("listed slab with {free} free blocks links back to {prev}, not {previous}");
                    self.found(offset_of(page), what);
                }
                previous = page;
                page = header.next;
            }
        }
        let mut wrong = Vec::new();
        for (&page, seen) in &self.slabs {
            let said = seen.header.listed == 1;
            let due = seen.header.free_blocks() >= listed_from(seen.class);
            if said != seen.on_list || (due && !seen.on_list) {
                let free = seen.header.free_blocks();
                wrong.push((
                    page,
                    format!("slab with {free} free blocks: on its list {}, says {said}", seen.on_list),
                ));
            }
        }
        for (page, what) in wrong {
            self.found(offset_of(page), what);
        }
    }

    fn blocks(&mut self, reachable: impl IntoIterator<Item = (Offset, usize)>) {
        for (at, len) in reachable {
            if let Err(what) = self.reach(at, len) {
                self.found(at, what);
            }
        }
        let mut leaked = Vec::new();
        for (&page, &(pages, reached)) in &self.extents {
            if !reached {
                leaked.push((offset_of(page), u64::from(pages) * PAGE_LEN));
            }
        }
        for (&page, seen) in &self.slabs {
            for index in 0..seen.class.blocks() as usize {
                if seen.header.holds(index) && seen.reached[index / 64] >> (index % 64) & 1 == 0 {
                    leaked.push((block_at(page, seen.class, index), seen.class.block_len() as u64));
                }
            }
        }
        leaked.sort_unstable();
        for (at, len) in leaked {
            self.found(at, format!("leak: block of {len} bytes is allocated, but nothing leads to it"));
        }
    }

    fn reach(&mut self, at: Offset, len: usize) -> Result<(), String> {
        let page = u32::try_from(at.get() / PAGE_LEN).ok().filter(|&page| page < self.top);
        let Some(page) = page else { return Err("reachable, but beyond all blocks".into()) };
        let desc = self.view.desc(page);
        let usable = match desc.kind() {
            Some(Kind::Slab | Kind::SlabBody) => {
                let first =
                    if desc.kind() == Some(Kind::Slab) { Some(page) } else { page.checked_sub(desc.len) };
                let slab = first.and_then(|page| self.slabs.get_mut(&page).map(|seen| (page, seen)));
                let Some((first, seen)) = slab else { return Err("reachable, but in a damaged slab".into()) };
                let Some(index) = index_of(first, seen.class, at).filter(|&index| seen.header.holds(index))
                else {
                    return Err(format!("reachable, but no allocated block of {:?}", seen.class));
                };
                if seen.reached[index / 64] >> (index % 64) & 1 == 1 {
                    return Err("block with two owners".into());
                }
                seen.reached[index / 64] |= 1 << (index % 64);
                seen.class.block_len()
            }
            _ => {
                let extent = self.extents.get_mut(&page).filter(|_| at == offset_of(page));
                let Some((pages, reached)) = extent else {
                    return Err("reachable, but not allocated".into());
                };
                if std::mem::replace(reached, true) {
                    return Err("block with two owners".into());
                }
                *pages as usize * PAGE_LEN as usize
            }
        };
        if len > usable {
            return Err(format!("{len} bytes in use in a block of {usable}: overlaps what follows"));
        }
        Ok(())
    }
}
