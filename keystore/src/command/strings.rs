//! Commands on strings.

use farkeep_proto::number::{FloatError, incr_by_float};
use farkeep_proto::resp::Encoder;

use super::parse::{self, TimeKind};
use crate::entry::Storage;
use crate::error::CommandError;
use crate::keystore::{ReadCtx, Slot, WriteCtx};
use crate::signal::EventClass;
use crate::string::{StringRef, new_bytes, new_string};

type Done = Result<(), CommandError>;

/// `GET key`
pub fn get(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    reply(ctx.string(args[1])?, out);
    Ok(())
}

fn reply(value: Option<StringRef<'_>>, out: &mut Encoder<'_>) {
    match value {
        Some(StringRef::Bytes(bytes)) => out.bulk(bytes),
        Some(StringRef::Int(number)) => out.bulk_int(number),
        None => out.null(),
    }
}

/// What `SET` was asked for beside the key and the value.
#[derive(Clone, Copy, Debug, Default)]
struct SetOptions<'a> {
    only_new: bool,
    only_existing: bool,
    get: bool,
    keep_ttl: bool,
    persist: bool,
    expire: Option<(TimeKind, &'a [u8])>,
}

impl<'a> SetOptions<'a> {
    /// The options of `SET`, or of `GETEX`, which has fewer.
    fn parse(words: &[&'a [u8]], getex: bool) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            if !getex && parse::is(word, "NX") && !options.only_existing {
                options.only_new = true;
            } else if !getex && parse::is(word, "XX") && !options.only_new {
                options.only_existing = true;
            } else if !getex && parse::is(word, "GET") {
                options.get = true;
            } else if !getex && parse::is(word, "KEEPTTL") && options.expire.is_none() {
                options.keep_ttl = true;
            } else if getex && parse::is(word, "PERSIST") && options.expire.is_none() {
                options.persist = true;
            } else if let Some(kind) = TimeKind::of_option(word)
                && !options.keep_ttl
                && !options.persist
                && options.expire.is_none_or(|(before, _)| before == kind)
                && let Some(time) = rest.next()
            {
                options.expire = Some((kind, time));
            } else {
                return Err(CommandError::Syntax);
            }
        }
        Ok(options)
    }

    fn expire_ms(&self, now_ms: u64, command: &'static str) -> Result<u64, CommandError> {
        self.expire.map_or(Ok(0), |(kind, time)| kind.positive(time, now_ms, command))
    }
}

/// `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds |
/// KEEPTTL]`
pub fn set(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (key, value) = (args[1], args[2]);
    if args.len() == 3 {
        let slot = ctx.find(key);
        ctx.store(key, slot.as_ref(), new_string(value), 0)?;
        ctx.signal(key, EventClass::String, "set");
        out.ok();
        return Ok(());
    }
    let options = SetOptions::parse(&args[3..], false)?;
    let expire_ms = options.expire_ms(ctx.now_ms, "set")?;
    let slot = if options.get {
        let slot = ctx.find_string_counted(key)?;
        reply(slot.as_ref().map(|slot| ctx.string_of(slot)), out);
        slot
    } else {
        ctx.find(key)
    };
    if (options.only_new && slot.is_some()) || (options.only_existing && slot.is_none()) {
        if !options.get {
            out.null();
        }
        return Ok(());
    }
    let kept_ms =
        if options.keep_ttl { slot.map_or(0, |slot| slot.entry.header.expire_ms) } else { expire_ms };
    ctx.store(key, slot.as_ref(), new_string(value), kept_ms)?;
    ctx.signal(key, EventClass::String, "set");
    if expire_ms != 0 {
        ctx.signal(key, EventClass::Generic, "expire");
    }
    if !options.get {
        out.ok();
    }
    Ok(())
}

/// `SETNX key value`
pub fn setnx(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let is_new = ctx.find(args[1]).is_none();
    if is_new {
        ctx.store(args[1], None, new_string(args[2]), 0)?;
        ctx.signal(args[1], EventClass::String, "set");
    }
    out.int(i64::from(is_new));
    Ok(())
}

/// `SETEX key seconds value`
pub fn setex(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    set_with_expiry(ctx, args, TimeKind::Seconds, "setex", out)
}

/// `PSETEX key milliseconds value`
pub fn psetex(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    set_with_expiry(ctx, args, TimeKind::Millis, "psetex", out)
}

fn set_with_expiry(
    ctx: &mut WriteCtx<'_, '_>,
    args: &[&[u8]],
    kind: TimeKind,
    name: &'static str,
    out: &mut Encoder<'_>,
) -> Done {
    let expire_ms = kind.positive(args[2], ctx.now_ms, name)?;
    let slot = ctx.find(args[1]);
    ctx.store(args[1], slot.as_ref(), new_string(args[3]), expire_ms)?;
    ctx.signal(args[1], EventClass::String, "set");
    ctx.signal(args[1], EventClass::Generic, "expire");
    out.ok();
    Ok(())
}

/// `GETSET key value`
pub fn getset(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let slot = ctx.find_string_counted(args[1])?;
    reply(slot.as_ref().map(|slot| ctx.string_of(slot)), out);
    ctx.store(args[1], slot.as_ref(), new_string(args[2]), 0)?;
    ctx.signal(args[1], EventClass::String, "set");
    Ok(())
}

/// `GETDEL key`
pub fn getdel(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let slot = ctx.find_string_counted(args[1])?;
    reply(slot.as_ref().map(|slot| ctx.string_of(slot)), out);
    if let Some(slot) = slot {
        ctx.remove(args[1], &slot);
        ctx.signal(args[1], EventClass::Generic, "del");
    }
    Ok(())
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT seconds | PXAT milliseconds | PERSIST]`
pub fn getex(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let key = args[1];
    let options = SetOptions::parse(&args[2..], true)?;
    let Some(mut slot) = ctx.find_string_counted(key)? else {
        out.null();
        return Ok(());
    };
    let expire_ms = options.expire_ms(ctx.now_ms, "getex")?;
    reply(Some(ctx.string_of(&slot)), out);
    if expire_ms != 0 {
        if expire_ms <= ctx.now_ms {
            ctx.remove(key, &slot);
            ctx.signal(key, EventClass::Generic, "del");
        } else {
            ctx.set_expiry(key, &mut slot, expire_ms)?;
            ctx.signal(key, EventClass::Generic, "expire");
        }
    } else if options.persist && slot.entry.header.expire_ms != 0 {
        ctx.set_expiry(key, &mut slot, 0)?;
        ctx.signal(key, EventClass::Generic, "persist");
    }
    Ok(())
}

/// `MGET key [key ...]`
pub fn mget(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.array(args.len() - 1);
    for key in &args[1..] {
        reply(ctx.string(key).ok().flatten(), out);
    }
    Ok(())
}

/// `MSET key value [key value ...]`
pub fn mset(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::arity("mset"));
    }
    set_pairs(ctx, &args[1..])?;
    out.ok();
    Ok(())
}

/// `MSETNX key value [key value ...]`
pub fn msetnx(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(CommandError::arity("msetnx"));
    }
    for pair in args[1..].chunks_exact(2) {
        if ctx.find(pair[0]).is_some() {
            out.int(0);
            return Ok(());
        }
    }
    set_pairs(ctx, &args[1..])?;
    out.int(1);
    Ok(())
}

fn set_pairs(ctx: &mut WriteCtx<'_, '_>, pairs: &[&[u8]]) -> Done {
    for pair in pairs.chunks_exact(2) {
        let slot = ctx.find(pair[0]);
        ctx.store(pair[0], slot.as_ref(), new_string(pair[1]), 0)?;
        ctx.signal(pair[0], EventClass::String, "set");
    }
    Ok(())
}

/// `APPEND key value`
pub fn append(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (key, bytes) = (args[1], args[2]);
    let len = match ctx.find_string(key)? {
        None => {
            ctx.store(key, None, new_string(bytes), 0)?;
            bytes.len() as u64
        }
        Some(mut slot) => {
            let len = ctx.string_of(&slot).text().len() as u64;
            ctx.check_length(len, bytes.len() as u64)?;
            ctx.write_at(&mut slot, len, bytes)?
        }
    };
    ctx.signal(key, EventClass::String, "append");
    out.int(len as i64);
    Ok(())
}

/// `STRLEN key`
pub fn strlen(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(ctx.string(args[1])?.map_or(0, |value| value.text().len() as i64));
    Ok(())
}

/// `GETRANGE key start end`
pub fn getrange(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (start, end) = (parse::int(args[2])?, parse::int(args[3])?);
    let value = ctx.string(args[1])?.map(StringRef::text);
    let bytes = value.as_deref().unwrap_or(&[]);
    let len = bytes.len() as i64;
    if start < 0 && end < 0 && start > end {
        out.bulk(b"");
        return Ok(());
    }
    let from_end = |at: i64| if at < 0 { len.saturating_add(at).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(len - 1));
    out.bulk(if start > end || len == 0 { b"" } else { &bytes[start as usize..=end as usize] });
    Ok(())
}

/// `SUBSTR key start end`
pub fn substr(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    getrange(ctx, args, out)
}

/// `SETRANGE key offset value`
pub fn setrange(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (key, bytes) = (args[1], args[3]);
    let offset =
        u64::try_from(parse::int(args[2])?).map_err(|_| CommandError::new("ERR offset is out of range"))?;
    let slot = ctx.find_string(key)?;
    if bytes.is_empty() {
        out.int(slot.map_or(0, |slot| ctx.string_of(&slot).text().len() as i64));
        return Ok(());
    }
    ctx.check_length(offset, bytes.len() as u64)?;
    let mut slot = match slot {
        Some(slot) => slot,
        None => make_empty(ctx, key)?,
    };
    let len = ctx.write_at(&mut slot, offset, bytes)?;
    ctx.signal(key, EventClass::String, "setrange");
    out.int(len as i64);
    Ok(())
}

/// An empty string at a key that is not there, to be written into.
pub(super) fn make_empty(ctx: &mut WriteCtx<'_, '_>, key: &[u8]) -> Result<Slot, CommandError> {
    ctx.store(key, None, new_bytes(b"", true), 0)?;
    match ctx.find(key) {
        Some(slot) => Ok(slot),
        None => unreachable!("the key was stored just now"),
    }
}

/// `INCR key`
pub fn incr(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    add(ctx, args[1], 1, out)
}

/// `DECR key`
pub fn decr(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    add(ctx, args[1], -1, out)
}

/// `INCRBY key increment`
pub fn incrby(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    add(ctx, args[1], parse::int(args[2])?, out)
}

/// `DECRBY key decrement`
pub fn decrby(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let decrement = parse::int(args[2])?;
    let increment =
        decrement.checked_neg().ok_or_else(|| CommandError::new("ERR decrement would overflow"))?;
    add(ctx, args[1], increment, out)
}

fn add(ctx: &mut WriteCtx<'_, '_>, key: &[u8], increment: i64, out: &mut Encoder<'_>) -> Done {
    let slot = ctx.find_string(key)?;
    let old = match &slot {
        None => 0,
        Some(slot) => ctx.string_of(slot).number().ok_or(CommandError::NotInteger)?,
    };
    let new = old
        .checked_add(increment)
        .ok_or_else(|| CommandError::new("ERR increment or decrement would overflow"))?;
    match &slot {
        Some(slot) if slot.entry.header.encoding().storage() == Storage::Number => {
            ctx.txn.put(slot.entry.at.add(8), &new);
        }
        _ => {
            let expire_ms = slot.map_or(0, |slot| slot.entry.header.expire_ms);
            ctx.store(key, slot.as_ref(), crate::payload::NewValue::Int(new), expire_ms)?;
        }
    }
    ctx.signal(key, EventClass::String, "incrby");
    out.int(new);
    Ok(())
}

/// `INCRBYFLOAT key increment`
pub fn incrbyfloat(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let key = args[1];
    let slot = ctx.find_string(key)?;
    let sum = match &slot {
        None => incr_by_float(b"0", args[2]),
        Some(slot) => incr_by_float(&ctx.string_of(slot).text(), args[2]),
    }
    .map_err(float_error)?;
    let expire_ms = slot.map_or(0, |slot| slot.entry.header.expire_ms);
    ctx.store(key, slot.as_ref(), new_bytes(&sum, false), expire_ms)?;
    ctx.signal(key, EventClass::String, "incrbyfloat");
    out.bulk(&sum);
    Ok(())
}

fn float_error(error: FloatError) -> CommandError {
    match error {
        FloatError::NotFinite => CommandError::new("ERR increment would produce NaN or Infinity"),
        _ => CommandError::NotFloat,
    }
}
