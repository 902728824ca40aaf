//! Page descriptors: what each page of the image is part of.
//!
//! The first and the last page of a run say what the run is and how far its other end is, so that the neighbours of a
//! run that is freed can be merged with it; every page of a slab says where the slab begins, so that a block is freed
//! knowing only its offset. The descriptors of all other pages are zero.
//!
//! Descriptors lie in tables of which each covers as many pages as all tables before it. So two dozen table numbers in the
//! superblock suffice for the longest image, a descriptor is found without a search, and the tables never take more
//! than 1/128 of the image. A table is made when the image first grows into the pages it covers; it is never freed.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::PAGE_LEN;
use super::super::offset::Offset;
use super::super::superblock::{TABLES, table_at};
use super::super::txn::Txn;
use super::super::view::View;
use super::classes::Class;

/// The length of a descriptor in bytes.
pub(in crate::heap) const DESC_LEN: u64 = 16;
/// How many pages the first table covers.
const FIRST_TABLE_COVERS: u32 = 4096;
/// Descriptors in a page.
const DESCS_PER_PAGE: u32 = (PAGE_LEN / DESC_LEN) as u32;

const _: () = assert!(size_of::<Desc>() == DESC_LEN as usize);
const _: () = assert!(table_of(u32::MAX) < TABLES);

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::heap) enum Kind {
    /// Inside a run, or never used.
    None,
    /// The first page of the allocator's own pages; `len` is their number.
    Meta,
    /// The first page of an extent; `len` is its number of pages.
    Extent,
    /// The last page of an extent of more than one; `len` is the distance to the first.
    ExtentTail,
    /// The first page of a free run; `len` is its number of pages, `next` and `prev` link the runs in its bin.
    Free,
    /// The last page of a free run of more than one; `len` is the distance to the first.
    FreeTail,
    /// The first page of a slab; `len` is its number of pages.
    Slab,
    /// Any other page of a slab; `len` is the distance to the first.
    SlabBody,
}

const KINDS: [Kind; 8] = [
    Kind::None,
    Kind::Meta,
    Kind::Extent,
    Kind::ExtentTail,
    Kind::Free,
    Kind::FreeTail,
    Kind::Slab,
    Kind::SlabBody,
];

/// A page's descriptor, as it lies in the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(in crate::heap) struct Desc {
    kind: u8,
    class: u8,
    reserved: u16,
    pub(in crate::heap) len: u32,
    pub(in crate::heap) next: u32,
    pub(in crate::heap) prev: u32,
}

impl Desc {
    pub(in crate::heap) fn new(kind: Kind, len: u32) -> Desc {
        Desc { kind: kind as u8, len, ..Desc::default() }
    }

    pub(in crate::heap) fn of_slab(kind: Kind, class: Class, len: u32) -> Desc {
        Desc { class: class.number(), ..Desc::new(kind, len) }
    }

    /// The descriptor with another one behind it on its list.
    pub(in crate::heap) fn linked_to(self, next: u32) -> Desc {
        Desc { next, ..self }
    }

    /// The kind, unless the descriptor is corrupt.
    #[inline]
    pub(in crate::heap) fn kind(&self) -> Option<Kind> {
        KINDS.get(self.kind as usize).copied()
    }

    /// The class of the slab the page is part of. Panics if there is no such class.
    #[inline]
    pub(in crate::heap) fn class(&self) -> Class {
        Class::numbered(self.class)
    }

    /// The class's number, whatever it is.
    pub(in crate::heap) fn class_number(&self) -> u8 {
        self.class
    }
}

/// Where the links of the descriptor at `at` are.
pub(in crate::heap) fn next_at(at: Offset) -> Offset {
    at.add(std::mem::offset_of!(Desc, next) as u64)
}

/// As [`next_at`].
pub(in crate::heap) fn prev_at(at: Offset) -> Offset {
    at.add(std::mem::offset_of!(Desc, prev) as u64)
}

/// Which table holds a page's descriptor.
#[inline]
pub(in crate::heap) const fn table_of(page: u32) -> usize {
    (u32::BITS - (page / FIRST_TABLE_COVERS).leading_zeros()) as usize
}

/// The first page that a table covers.
#[inline]
const fn first_covered(table: usize) -> u32 {
    if table == 0 { 0 } else { FIRST_TABLE_COVERS << (table - 1) }
}

/// The length of a table in pages.
pub(in crate::heap) const fn table_pages(table: usize) -> u32 {
    let covers = if table == 0 { FIRST_TABLE_COVERS } else { first_covered(table) };
    covers / DESCS_PER_PAGE
}

impl View {
    /// Where a page's descriptor is.
    #[inline]
    pub(in crate::heap) fn desc_at(&self, page: u32) -> Offset {
        let table = table_of(page);
        let start = self.peek::<u32>(table_at(table));
        let within = u64::from(page - first_covered(table)) * DESC_LEN;
        Offset::new(u64::from(start) * PAGE_LEN + within)
    }

    /// A page's descriptor.
    #[inline]
    pub(in crate::heap) fn desc(&self, page: u32) -> Desc {
        self.peek(self.desc_at(page))
    }
}

impl Txn<'_> {
    pub(in crate::heap) fn put_desc(&mut self, page: u32, desc: &Desc) {
        let at = self.desc_at(page);
        self.put(at, desc);
    }

    /// Writes the descriptors of a run of pages, which may lie in more than one table.
    pub(in crate::heap) fn put_descs(&mut self, page: u32, descs: &[Desc]) {
        let here = self.covered_together(page, descs.len() as u32) as usize;
        let at = self.desc_at(page);
        self.write(at, descs[..here].as_bytes());
        if here < descs.len() {
            self.put_descs(page + here as u32, &descs[here..]);
        }
    }

    /// Zeroes the descriptors of a run of pages.
    pub(in crate::heap) fn clear_descs(&mut self, page: u32, pages: u32) {
        let here = self.covered_together(page, pages);
        let at = self.desc_at(page);
        self.zero(at, (u64::from(here) * DESC_LEN) as usize);
        if here < pages {
            self.clear_descs(page + here, pages - here);
        }
    }

    /// How many of the pages from `page` on have their descriptors in one table.
    fn covered_together(&self, page: u32, pages: u32) -> u32 {
        let end = u64::from(first_covered(table_of(page)))
            + u64::from(table_pages(table_of(page)) * DESCS_PER_PAGE);
        pages.min((end - u64::from(page)).min(u64::from(u32::MAX)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_table_begins_where_the_one_before_ends() {
        let mut next = 0u64;
        for table in 0..=table_of(u32::MAX) {
            assert_eq!(u64::from(first_covered(table)), next);
            assert_eq!(table_of(next as u32), table);
            next += u64::from(table_pages(table)) * u64::from(DESCS_PER_PAGE);
            assert_eq!(table_of((next - 1) as u32), table);
        }
        assert_eq!(next, 1 << 32, "all 32-bit page numbers are covered");
    }
}
