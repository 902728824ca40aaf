//! Commands that look at how things are stored: `OBJECT`, `MEMORY`, and the keystore's part of `DEBUG`.

use farkeep_proto::resp::Encoder;

use super::parse;
use crate::entry::{Encoding, Entry, Type};
use crate::error::CommandError;
use crate::hash;
use crate::index::BUCKET_LEN;
use crate::keystore::{Keystore, ReadCtx};
use crate::string;

type Done = Result<(), CommandError>;

/// Numbers below this one Redis shares between keys, and says so in `OBJECT REFCOUNT`.
const SHARED_NUMBERS: u64 = 10_000;
/// Fields of a big hash whose length `MEMORY USAGE` looks at unless told otherwise.
const DEFAULT_SAMPLES: i64 = 5;

/// The encoding Redis would report.
fn encoding_name(entry: Entry, ctx: &ReadCtx<'_>) -> &'static str {
    match entry.header.encoding() {
        Encoding::ListInline | Encoding::ListBlock => "listpack",
        Encoding::Indexed => "hashtable",
        Encoding::Int | Encoding::Inline | Encoding::Block => string::encoding_name(entry, ctx.view),
    }
}

fn refcount(entry: Entry) -> i64 {
    let shared = entry.header.encoding() == Encoding::Int && entry.header.value < SHARED_NUMBERS;
    if shared { i64::from(i32::MAX) } else { 1 }
}

/// `OBJECT ENCODING key`
pub fn object_encoding(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    match ctx.find(args[2]) {
        Some(entry) => out.bulk(encoding_name(entry, ctx).as_bytes()),
        None => out.null(),
    }
    Ok(())
}

/// `OBJECT REFCOUNT key`
pub fn object_refcount(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    match ctx.find(args[2]) {
        Some(entry) => out.int(refcount(entry)),
        None => out.null(),
    }
    Ok(())
}

/// `OBJECT IDLETIME key`: no time of last use is kept (it would make a write of every read), so every key
/// reads as used just now.
pub fn object_idletime(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    match ctx.find(args[2]) {
        Some(_) => out.int(0),
        None => out.null(),
    }
    Ok(())
}

/// `OBJECT FREQ key`
pub fn object_freq(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    if ctx.find(args[2]).is_none() {
        out.null();
        return Ok(());
    }
    Err(CommandError::new(
        "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
         switching between policies at runtime LRU and LFU data will take some time to adjust.",
    ))
}

/// `OBJECT HELP`
pub fn object_help(_ctx: &mut ReadCtx<'_>, _args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    help(
        out,
        "OBJECT",
        &[
            ("ENCODING <key>", "Tell how the value of <key> is encoded."),
            ("FREQ <key>", "Tell how often <key> is used, under an LFU policy."),
            ("IDLETIME <key>", "Tell for how many seconds <key> was not used."),
            ("REFCOUNT <key>", "Tell how many references the value of <key> has."),
        ],
    );
    Ok(())
}

/// `MEMORY HELP`
pub fn memory_help(_ctx: &mut ReadCtx<'_>, _args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    help(
        out,
        "MEMORY",
        &[
            ("DOCTOR", "Say what is remarkable about memory use."),
            ("MALLOC-STATS", "Report the allocator's own statistics."),
            ("PURGE", "Ask the allocator to give memory back."),
            ("STATS", "Report memory use in detail."),
            ("USAGE <key> [SAMPLES <count>]", "Tell how many bytes of the image <key> and its value take."),
        ],
    );
    Ok(())
}

/// A help reply as Redis lays it out: a line that says what follows, then each subcommand with its
/// explanation indented.
pub fn help(out: &mut Encoder<'_>, command: &str, subcommands: &[(&str, &str)]) {
    out.array(3 + 2 * subcommands.len());
    out.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    for (usage, explanation) in subcommands.iter().chain(&[("HELP", "Print this help.")]) {
        out.simple(usage);
        out.simple(&format!("    {explanation}"));
    }
}

/// `MEMORY USAGE key [SAMPLES count]`
pub fn memory_usage(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let mut samples = DEFAULT_SAMPLES;
    let mut rest = args[3..].iter();
    while let Some(word) = rest.next() {
        match rest.next() {
            Some(count) if parse::is(word, "SAMPLES") => {
                samples = parse::int(count)?;
                if samples < 0 {
                    return Err(CommandError::Syntax);
                }
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    match ctx.find(args[2]) {
        Some(entry) => out.int(bytes_of(entry, ctx, samples as u64) as i64),
        None => out.null(),
    }
    Ok(())
}

/// Bytes of the image a key takes: its entry, its share of the index, its block, its fields. The length of an
/// indexed hash's fields is estimated from `samples` of them (0: all are looked at).
fn bytes_of(entry: Entry, ctx: &ReadCtx<'_>, samples: u64) -> u64 {
    let slots = if entry.header.expire_ms == 0 { 1 } else { 2 };
    let own = entry.block_bytes(ctx.view) + slots * BUCKET_LEN / 4;
    if entry.header.encoding() != Encoding::Indexed {
        return own;
    }
    let index = entry.field_index(ctx.ks.layout.seed);
    let (mut seen, mut bytes) = (0u64, 0u64);
    index.for_each(ctx.view, |item| {
        seen += 1;
        bytes += hash::field_bytes(ctx.view, item);
        samples == 0 || seen < samples
    });
    let mean = bytes.checked_div(seen).unwrap_or(0);
    own + index.root(ctx.view).buckets * BUCKET_LEN + mean * index.len(ctx.view)
}

/// `MEMORY DOCTOR`
pub fn memory_doctor(ctx: &mut ReadCtx<'_>, _args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let waiting = crate::reclaim::is_pending(ctx.view, ctx.ks.layout.reclaim_at);
    let text = if waiting {
        "Memory of removed keys is still being freed in the background; ask again later.\n"
    } else {
        "No memory problem found in the image.\n"
    };
    out.verbatim("txt", text.as_bytes());
    Ok(())
}

/// `DEBUG OBJECT key`
pub fn debug_object(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let [_, _, key] = args else { return Err(CommandError::Syntax) };
    let entry = ctx.peek(key).ok_or(CommandError::NoSuchKey)?;
    let len = match entry.ty() {
        Type::String => string::StringRef::of(entry, ctx.view).text().len() as u64 + 1,
        Type::Hash => entry.payload(ctx.view).1.len,
    };
    out.simple(&format!(
        "Value at:{:#x} refcount:{} encoding:{} serializedlength:{len} lru:0 lru_seconds_idle:0",
        entry.at.get(),
        refcount(entry),
        encoding_name(entry, ctx),
    ));
    Ok(())
}

/// `DEBUG SET-ACTIVE-EXPIRE 0|1`
pub fn debug_set_active_expire(ks: &mut Keystore, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let [_, _, switch] = args else { return Err(CommandError::Syntax) };
    ks.set_active_expire(parse::int(switch)? != 0);
    out.ok();
    Ok(())
}
