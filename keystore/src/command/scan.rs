//! Commands that look for keys: `SCAN`, `KEYS`, `RANDOMKEY`; and what they share with the scans inside of
//! values.

use farkeep_core::heap::Offset;
use farkeep_proto::glob;
use farkeep_proto::resp::Encoder;

use super::parse;
use crate::entry::Entry;
use crate::error::CommandError;
use crate::index::Cursor;
use crate::keystore::ReadCtx;

type Done = Result<(), CommandError>;

const DEFAULT_COUNT: u64 = 10;
/// A call of `SCAN` gives up after this many positions per key asked for, so that one over an almost empty
/// table does not stall.
const POSITIONS_PER_KEY: u64 = 10;
/// Draws of `RANDOMKEY` before it takes the first key that is not expired.
const RANDOM_DRAWS: usize = 100;

/// The options of a scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanOptions<'a> {
    pattern: Option<&'a [u8]>,
    pub count: u64,
    of_type: Option<&'a [u8]>,
}

impl<'a> ScanOptions<'a> {
    /// `words` follow the cursor; only `SCAN` itself knows `TYPE`.
    pub fn parse(words: &[&'a [u8]], with_type: bool) -> Result<Self, CommandError> {
        let mut options = Self { pattern: None, count: DEFAULT_COUNT, of_type: None };
        for pair in words.chunks(2) {
            match *pair {
                [name, count] if parse::is(name, "COUNT") => {
                    let count = parse::int(count)?;
                    options.count =
                        u64::try_from(count).ok().filter(|&n| n > 0).ok_or(CommandError::Syntax)?;
                }
                [name, pattern] if parse::is(name, "MATCH") => options.pattern = Some(pattern),
                [name, of_type] if with_type && parse::is(name, "TYPE") => options.of_type = Some(of_type),
                _ => return Err(CommandError::Syntax),
            }
        }
        Ok(options)
    }

    pub fn matches(&self, name: &[u8]) -> bool {
        matches(self.pattern, name)
    }

    /// Calls `step` until it has seen enough items, or positions, or the end.
    pub fn walk(&self, start: Cursor, mut step: impl FnMut(Cursor) -> (Cursor, u64)) -> Cursor {
        let (mut cursor, mut seen) = (start, 0);
        for _ in 0..=self.count.saturating_mul(POSITIONS_PER_KEY) {
            let (next, items) = step(cursor);
            cursor = next;
            seen += items;
            if cursor == Cursor::START || seen >= self.count {
                break;
            }
        }
        cursor
    }
}

fn matches(pattern: Option<&[u8]>, name: &[u8]) -> bool {
    pattern.is_none_or(|pattern| pattern == b"*" || glob::matches(pattern, name))
}

/// Begins the reply of a scan: the cursor to go on with.
pub(super) fn reply_cursor(cursor: Cursor, out: &mut Encoder<'_>) {
    out.array(2);
    out.bulk(cursor.0.to_string().as_bytes());
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub fn scan(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let start = parse::cursor(args[1])?;
    let options = ScanOptions::parse(&args[2..], true)?;
    let mut items: Vec<Offset> = Vec::new();
    let keys = ctx.indexes().keys;
    let next = options.walk(start, |cursor| {
        let before = items.len();
        let next = keys.scan(ctx.view, cursor, |item| items.push(item));
        (next, (items.len() - before) as u64)
    });
    reply_cursor(next, out);
    let mark = out.mark();
    let mut len = 0;
    for entry in items.into_iter().map(|item| Entry::load(ctx.view, item)) {
        let of_type = options.of_type.is_none_or(|name| parse::is(name, entry.ty().name()));
        let key = entry.key(ctx.view);
        if of_type && options.matches(key) && !entry.header.is_expired(ctx.now_ms) {
            out.bulk(key);
            len += 1;
        }
    }
    out.array_at(mark, len);
    Ok(())
}

/// `KEYS pattern`
pub fn keys(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let mark = out.mark();
    let mut len = 0;
    ctx.indexes().keys.for_each(ctx.view, |item| {
        let entry = Entry::load(ctx.view, item);
        let key = entry.key(ctx.view);
        if matches(Some(args[1]), key) && !entry.header.is_expired(ctx.now_ms) {
            out.bulk(key);
            len += 1;
        }
        true
    });
    out.array_at(mark, len);
    Ok(())
}

/// `RANDOMKEY`
pub fn randomkey(ctx: &mut ReadCtx<'_>, _args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let keys = ctx.indexes().keys;
    for _ in 0..RANDOM_DRAWS {
        let Some(item) = keys.random(ctx.view, || ctx.ks.random()) else { break };
        let entry = Entry::load(ctx.view, item);
        if !entry.header.is_expired(ctx.now_ms) {
            out.bulk(entry.key(ctx.view));
            return Ok(());
        }
    }
    let mut live = None;
    keys.for_each(ctx.view, |item| {
        let entry = Entry::load(ctx.view, item);
        live = (!entry.header.is_expired(ctx.now_ms)).then_some(entry);
        live.is_none()
    });
    match live {
        Some(entry) => out.bulk(entry.key(ctx.view)),
        None => out.null(),
    }
    Ok(())
}
