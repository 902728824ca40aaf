//! How many bytes are in allocated blocks.
//!
//! The count in the superblock lags, since storing it with every allocation would cost redo bytes; so after a crash
//! it is only nearly right. The exact count is found by walking the runs of the image, a bounded number at a time,
//! while allocation goes on: blocks in runs behind the cursor are counted as they come and go, the others when the
//! cursor gets there. One such walk after each start keeps errors from adding up.

use super::alloc::desc::Kind;
use super::alloc::{extent, slab, stored_used_bytes};
use super::view::View;

/// The volatile count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UsedBytes {
    bytes: i64,
    recount: Option<Recount>,
}

/// A walk under way.
#[derive(Clone, Copy, Debug)]
struct Recount {
    /// Runs that begin before this page are counted.
    cursor: u32,
    bytes: i64,
}

impl UsedBytes {
    /// What the superblock says, and a walk yet to be made.
    pub(super) fn stored(view: &View) -> UsedBytes {
        if view.image_len() == 0 {
            return UsedBytes::default();
        }
        let recount = Some(Recount { cursor: 0, bytes: 0 });
        UsedBytes { bytes: stored_used_bytes(view) as i64, recount }
    }

    /// The best there is to know.
    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.bytes.max(0) as u64
    }

    /// Whether the walk is done.
    pub(super) fn is_exact(&self) -> bool {
        self.recount.is_none()
    }

    /// Counts a block allocated (or freed, if negative) in the run that begins at page `run`.
    #[inline]
    pub(super) fn add(&mut self, run: u32, bytes: i64) {
        self.bytes += bytes;
        if let Some(recount) = &mut self.recount
            && run < recount.cursor
        {
            recount.bytes += bytes;
        }
    }

    /// Walks on over up to `max_runs` runs.
    pub(super) fn recount(&mut self, view: &View, max_runs: usize) {
        let Some(recount) = &mut self.recount else { return };
        let top = extent::top(view);
        for _ in 0..max_runs {
            if recount.cursor >= top {
                self.bytes = recount.bytes;
                self.recount = None;
                return;
            }
            let desc = view.desc(recount.cursor);
            let pages = match desc.kind() {
                Some(Kind::Slab) => {
                    let class = desc.class();
                    let blocks = class.blocks() - slab::header(view, recount.cursor).free_blocks();
                    recount.bytes += (blocks as usize * class.block_len()) as i64;
                    desc.len
                }
                Some(Kind::Extent) => {
                    recount.bytes += i64::from(desc.len) * super::PAGE_LEN as i64;
                    desc.len
                }
                Some(Kind::Free | Kind::Meta) => desc.len,
                // Runs have been merged and cut anew around the cursor: the next run is found page by page.
                _ => 1,
            };
            recount.cursor += pages.max(1);
        }
    }
}
