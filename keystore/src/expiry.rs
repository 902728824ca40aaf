//! Expiry: keys whose time has come.
//!
//! Reads do not remove them, so that a follower can serve reads; a writing command removes those it meets
//! ([`WriteCtx::find`]); and the active cycle walks the index of keys with an expiry, a few buckets at a
//! time, from where it stopped the last time. How often and with what budget is for the caller, who has the
//! clock.
//!
//! The cursors and the estimate of the mean time to live are volatile: after a crash the walk begins anew.

use crate::entry::Entry;
use crate::error::CommandError;
use crate::index::Cursor;
use crate::keystore::{Slot, WriteCtx};

/// Where the active cycle stands.
#[derive(Debug)]
pub(crate) struct ActiveExpiry {
    enabled: bool,
    next_db: usize,
    databases: Vec<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    cursor: Cursor,
    avg_ttl_ms: u64,
}

impl ActiveExpiry {
    pub fn new(databases: usize) -> Self {
        Self { enabled: true, next_db: 0, databases: vec![Progress::default(); databases] }
    }

    pub fn avg_ttl_ms(&self, db: usize) -> u64 {
        self.databases[db].avg_ttl_ms
    }

    pub fn swap(&mut self, first: usize, second: usize) {
        self.databases.swap(first, second);
    }

    pub fn set_enabled(&mut self, on: bool) {
        self.enabled = on;
    }
}

/// How many positions without a key the cycle skips per key of its budget.
const EMPTY_POSITIONS_PER_KEY: usize = 4;

/// Looks at about `budget` keys with an expiry, over all databases, and removes those whose time has come.
/// Returns how many were removed: as many as a good part of the budget means that another call is worth its
/// while. Does nothing after `DEBUG SET-ACTIVE-EXPIRE 0`.
///
/// # Errors
/// When a removal needs memory the image does not have; the transaction then has to be rolled back.
pub fn active_expire(ctx: &mut WriteCtx<'_, '_>, budget: usize) -> Result<usize, CommandError> {
    if !ctx.ks.expiry.enabled {
        return Ok(0);
    }
    let selected = ctx.db;
    let mut looked_at = 0;
    let mut removed = 0;
    for _ in 0..ctx.ks.databases() {
        let db = ctx.ks.expiry.next_db;
        ctx.db = db;
        let outcome = expire_in_db(ctx, budget - looked_at);
        ctx.db = selected;
        let (seen, gone, finished) = outcome?;
        looked_at += seen;
        removed += gone;
        if finished {
            ctx.ks.expiry.next_db = (db + 1) % ctx.ks.databases();
        }
        if looked_at >= budget {
            break;
        }
    }
    Ok(removed)
}

/// Walks the expires index of the selected database until its end or the budget's. Returns keys seen, keys
/// removed, and whether the end was met.
fn expire_in_db(ctx: &mut WriteCtx<'_, '_>, budget: usize) -> Result<(usize, usize, bool), CommandError> {
    let db = ctx.db;
    if ctx.indexes().expires.len(ctx.txn) == 0 {
        ctx.ks.expiry.databases[db] = Progress::default();
        return Ok((0, 0, true));
    }
    let (mut seen, mut removed, mut positions) = (0, 0, 0);
    let (mut ttl_sum, mut ttl_keys) = (0u64, 0u64);
    let mut due = Vec::new();
    let mut finished = false;
    while seen < budget && positions < budget * EMPTY_POSITIONS_PER_KEY && !finished {
        let cursor = ctx.ks.expiry.databases[db].cursor;
        let now_ms = ctx.now_ms;
        let next = ctx.indexes().expires.scan(ctx.txn, cursor, |item| {
            seen += 1;
            let entry = Entry::load(ctx.txn, item);
            if entry.header.is_expired(now_ms) {
                due.push(entry.key(ctx.txn).to_vec());
            } else {
                ttl_sum = ttl_sum.saturating_add(entry.header.expire_ms - now_ms);
                ttl_keys += 1;
            }
        });
        for key in due.drain(..) {
            let keys = ctx.indexes().keys;
            let hash = keys.hash(&key);
            if let Some(found) = keys.find(ctx.txn, hash, &key) {
                let slot = Slot { hash, found, entry: Entry::load(ctx.txn, found.item) };
                ctx.remove_expired(&key, &slot);
                removed += 1;
            }
        }
        ctx.ks.expiry.databases[db].cursor = next;
        positions += 1;
        finished = next == Cursor::START;
    }
    if let Some(sample) = ttl_sum.checked_div(ttl_keys) {
        let average = &mut ctx.ks.expiry.databases[db].avg_ttl_ms;
        *average = if *average == 0 { sample } else { *average / 50 * 49 + sample / 50 };
    }
    Ok((seen, removed, finished))
}
