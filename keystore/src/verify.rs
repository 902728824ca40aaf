//! Checks everything the keystore has in an image against everything else there.
//!
//! Runs offline or between transactions, reads all, changes nothing, and takes nothing for granted: a damaged
//! image yields findings, never a panic. It also lists the blocks it could reach, which is what the
//! allocator's own check ([`farkeep_core::heap::verify`]) needs to tell a leak from a use.
//!
//! What must hold, and so what is looked for: every entry lies in the bucket its key's hash says, under the
//! right tag, once; the roots count what is there; the index of expiries holds exactly the entries that have
//! one; lists and indexes of fields have as many fields as they say; detached indexes on the reclaim list are
//! taken apart no further than they say.

use farkeep_core::heap::{Finding, Offset, View};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::entry::{CAPACITY_UNKNOWN, Encoding, Entry, Extent, HEADER_LEN, Header, Keys, Storage, Type};
use crate::hash::{self, Fields, list};
use crate::index::{Detached, Index, ROOT_LEN};
use crate::layout::{EXPIRES_AT, Layout, RECORD_LEN};
use crate::payload::BLOCK_HEAD;
use crate::reclaim::ItemKind;

/// After this many findings the check stops adding to them.
const FINDINGS_MAX: usize = 1000;

/// What a check brought to light.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// What is wrong. Empty for a sound image.
    pub findings: Vec<Finding>,
    /// Every block the keystore owns, with the number of its bytes that are in use.
    pub blocks: Vec<(Offset, usize)>,
    /// Keys found.
    pub keys: u64,
    /// Fields found in all hashes.
    pub fields: u64,
}

/// Checks the keystore in `view`.
pub fn verify(view: &View) -> Verified {
    let mut check = Checker { view, found: Verified::default() };
    match Layout::open(view) {
        Err(error) => check.fault(view.root(crate::layout::ROOT_SLOT), error.to_string()),
        Ok(layout) => check.keystore(&layout),
    }
    check.found
}

/// A check under way.
pub(crate) struct Checker<'v> {
    pub view: &'v View,
    found: Verified,
}

impl<'v> Checker<'v> {
    pub fn fault(&mut self, at: Offset, what: String) {
        if self.found.findings.len() < FINDINGS_MAX {
            self.found.findings.push(Finding { at, what });
        }
    }

    pub fn block(&mut self, at: Offset, len: u64) {
        self.found.blocks.push((at, len as usize));
    }

    /// Whether `len` bytes at `at` are inside the image and not in its first page; if not, that is a finding
    /// about `what`.
    pub fn covers(&mut self, at: Offset, len: u64, what: &str) -> bool {
        let inside =
            at.get() >= 4096 && at.get().checked_add(len).is_some_and(|end| end <= self.view.image_len());
        if !inside {
            self.fault(at, format!("{what}: {len} bytes here are not all in the image"));
        }
        inside
    }

    /// The value at `at`, if it is inside the image.
    pub fn get<T: FromBytes + KnownLayout + Immutable + Copy>(
        &mut self,
        at: Offset,
        what: &str,
    ) -> Option<T> {
        self.covers(at, size_of::<T>() as u64, what).then(|| self.view.peek(at))
    }

    fn keystore(&mut self, layout: &Layout) {
        for (at, len) in layout.blocks(self.view) {
            if !self.covers(at, len, "the table of databases") {
                return;
            }
            self.block(at, len);
        }
        for db in 0..layout.databases {
            let record_at = layout.peek_record_at(self.view, db);
            if self.covers(record_at, RECORD_LEN, "a database's record") {
                self.database(layout, db, record_at);
            }
        }
        self.reclaim_list(layout);
    }

    fn database(&mut self, layout: &Layout, db: usize, record_at: Offset) {
        let keys: Index<Keys> = Index::new(record_at, layout.seed);
        let expires: Index<Keys> = Index::new(record_at.add(EXPIRES_AT), layout.seed);
        let mut with_expiry = 0u64;
        let count = keys.verify(self, &format!("keys of database {db}"), &mut |check, at| {
            check.found.keys += 1;
            let entry = check.entry(layout, at);
            with_expiry += u64::from(entry.is_some_and(|entry| entry.header.expire_ms != 0));
            entry.is_some()
        });
        let sound = self.found.findings.is_empty();
        let listed = expires.verify(self, &format!("expiries of database {db}"), &mut |check, at| {
            let Some(header) = check.get::<Header>(at, "an entry with an expiry") else { return false };
            let key_at = at.add(HEADER_LEN);
            if !check.covers(key_at, u64::from(header.key_len), "the key of an entry with an expiry") {
                return false;
            }
            if header.expire_ms == 0 {
                check.fault(at, format!("listed among the expiries of database {db}, but has none"));
            }
            let key = check.view.peek_bytes(key_at, header.key_len as usize);
            if sound && keys.find(check.view, keys.hash(key), key).map(|found| found.item) != Some(at) {
                check.fault(at, format!("listed among the expiries of database {db}, but no key of it"));
            }
            true
        });
        if with_expiry != listed {
            let what =
                format!("database {db}: {with_expiry} of {count} keys have an expiry, {listed} are listed");
            self.fault(record_at.add(EXPIRES_AT), what);
        }
    }

    /// Checks an entry and what hangs on it; `None` if not even its key can be read.
    fn entry(&mut self, layout: &Layout, at: Offset) -> Option<Entry> {
        let header: Header = self.get(at, "an entry")?;
        let key_len = u64::from(header.key_len);
        let Some(encoding) = Encoding::from_kind(header.kind) else {
            self.fault(at, format!("an entry of unknown kind {:#04x}", header.kind));
            return None;
        };
        if !self.covers(at.add(HEADER_LEN), key_len, "an entry's key") {
            return None;
        }
        let entry = Entry { at, header };
        let inline = match encoding.storage() {
            Storage::Number | Storage::Block => 0,
            Storage::Inline => Extent::from_word(header.value).len,
            Storage::Index => ROOT_LEN,
        };
        let used = HEADER_LEN + key_len + inline;
        if header.capacity != CAPACITY_UNKNOWN && used > u64::from(header.capacity) * 16 {
            self.fault(
                at,
                format!("{used} bytes in an entry that says it holds {}", u64::from(header.capacity) * 16),
            );
        }
        self.block(at, used);
        if self.covers(entry.payload_at(), inline, "an entry's payload") {
            self.value(layout, entry, encoding);
        }
        Some(entry)
    }

    fn value(&mut self, layout: &Layout, entry: Entry, encoding: Encoding) {
        match encoding.storage() {
            Storage::Number => {}
            Storage::Index => {
                let fields: Index<Fields> = Index::new(entry.payload_at(), layout.seed);
                let count = fields.verify(self, "fields of a hash", &mut |check, at| check.field(at));
                if count == 0 {
                    self.fault(entry.at, "a hash without fields".to_owned());
                }
            }
            Storage::Inline => {
                let extent = Extent::from_word(entry.header.value);
                self.payload(entry, encoding, entry.payload_at(), extent);
            }
            Storage::Block => {
                let block_at = Offset::new(entry.header.value);
                let Some([extent, capacity]) = self.get::<[u64; 2]>(block_at, "a value's block") else {
                    return;
                };
                let extent = Extent::from_word(extent);
                if extent.len > capacity {
                    self.fault(block_at, format!("{} bytes in a block of {capacity}", extent.len));
                }
                self.block(block_at, BLOCK_HEAD + capacity);
                if self.covers(block_at.add(BLOCK_HEAD), extent.len, "a value's block") {
                    self.payload(entry, encoding, block_at.add(BLOCK_HEAD), extent);
                }
            }
        }
    }

    fn payload(&mut self, entry: Entry, encoding: Encoding, at: Offset, extent: Extent) {
        if encoding.ty() == Type::String {
            if extent.items != 0 {
                self.fault(entry.at, format!("a string with {} items", extent.items));
            }
            return;
        }
        let mut pairs = list::pairs(self.view.peek_bytes(at, extent.len as usize));
        let count = pairs.by_ref().count() as u64;
        self.found.fields += count;
        if count != u64::from(extent.items) || pairs.position() as u64 != extent.len || count == 0 {
            let what = format!(
                "a list of {count} fields in {} bytes; {} fields in {} bytes were announced",
                pairs.position(),
                extent.items,
                extent.len
            );
            self.fault(at, what);
        }
    }

    fn field(&mut self, at: Offset) -> bool {
        if !self.covers(at, hash::FIELD_HEAD, "a field") {
            return false;
        }
        let len = hash::field_bytes(self.view, at);
        let readable = self.covers(at, len, "a field");
        if readable {
            self.found.fields += 1;
            self.block(at, len);
        }
        readable
    }

    fn reclaim_list(&mut self, layout: &Layout) {
        let Some(first) = self.get::<u64>(layout.reclaim_at, "the reclaim list") else { return };
        let mut next = first;
        let mut links = 0u64;
        while next != 0 {
            links += 1;
            if links > self.view.image_len() / 64 {
                return self.fault(layout.reclaim_at, "the reclaim list runs in a circle".to_owned());
            }
            let detached = Detached { directory: Offset::new(next) };
            let Some(head) = detached.head(self) else { return };
            let kind = ItemKind::from_word(head.kind);
            let Some(kind) = kind else {
                return self.fault(detached.directory, format!("a detached index of kind {:#x}", head.kind));
            };
            detached.verify(self, &head, &mut |check, at| match kind {
                ItemKind::Borrowed => {}
                ItemKind::Fields => {
                    check.field(at);
                }
                ItemKind::Entries => {
                    check.entry(layout, at);
                }
            });
            next = head.next;
        }
    }
}
