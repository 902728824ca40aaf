//! Commands on hashes.

use std::collections::HashSet;

use farkeep_proto::number::{FloatError, format_i64, incr_by_float, parse_i64};
use farkeep_proto::resp::Encoder;

use super::parse;
use super::scan::{ScanOptions, reply_cursor};
use crate::error::CommandError;
use crate::hash::HashRef;
use crate::keystore::{ReadCtx, WriteCtx};
use crate::signal::EventClass;

type Done = Result<(), CommandError>;

/// `HSET key field value [field value ...]`
pub fn hset(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let created = set_fields(ctx, args, "hset")?;
    out.int(created as i64);
    Ok(())
}

/// `HMSET key field value [field value ...]`
pub fn hmset(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    set_fields(ctx, args, "hmset")?;
    out.ok();
    Ok(())
}

fn set_fields(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], name: &'static str) -> Result<u64, CommandError> {
    if !args.len().is_multiple_of(2) {
        return Err(CommandError::arity(name));
    }
    let key = args[1];
    let slot = ctx.find_hash(key)?;
    let pairs: Vec<(&[u8], &[u8])> = args[2..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let created = ctx.hash_set(key, slot, &pairs)?;
    ctx.signal(key, EventClass::Hash, "hset");
    Ok(created)
}

/// `HSETNX key field value`
pub fn hsetnx(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (key, field, value) = (args[1], args[2], args[3]);
    let slot = ctx.find_hash(key)?;
    let taken = slot.is_some_and(|slot| HashRef::of(slot.entry, ctx.txn, ctx.ks).get(field).is_some());
    if !taken {
        ctx.hash_set(key, slot, &[(field, value)])?;
        ctx.signal(key, EventClass::Hash, "hset");
    }
    out.int(i64::from(!taken));
    Ok(())
}

/// `HGET key field`
pub fn hget(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    match ctx.hash(args[1])?.and_then(|hash| hash.get(args[2])) {
        Some(value) => out.bulk(value),
        None => out.null(),
    }
    Ok(())
}

/// `HMGET key field [field ...]`
pub fn hmget(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let hash = ctx.hash(args[1])?;
    out.array(args.len() - 2);
    for field in &args[2..] {
        match hash.and_then(|hash| hash.get(field)) {
            Some(value) => out.bulk(value),
            None => out.null(),
        }
    }
    Ok(())
}

/// `HGETALL key`
pub fn hgetall(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let hash = ctx.hash(args[1])?;
    out.map(hash.map_or(0, HashRef::len) as usize);
    if let Some(hash) = hash {
        hash.for_each(|field, value| {
            out.bulk(field);
            out.bulk(value);
        });
    }
    Ok(())
}

/// `HKEYS key`
pub fn hkeys(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let hash = ctx.hash(args[1])?;
    out.array(hash.map_or(0, HashRef::len) as usize);
    if let Some(hash) = hash {
        hash.for_each(|field, _| out.bulk(field));
    }
    Ok(())
}

/// `HVALS key`
pub fn hvals(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let hash = ctx.hash(args[1])?;
    out.array(hash.map_or(0, HashRef::len) as usize);
    if let Some(hash) = hash {
        hash.for_each(|_, value| out.bulk(value));
    }
    Ok(())
}

/// `HLEN key`
pub fn hlen(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(ctx.hash(args[1])?.map_or(0, HashRef::len) as i64);
    Ok(())
}

/// `HSTRLEN key field`
pub fn hstrlen(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let value = ctx.hash(args[1])?.and_then(|hash| hash.get(args[2]));
    out.int(value.map_or(0, <[u8]>::len) as i64);
    Ok(())
}

/// `HEXISTS key field`
pub fn hexists(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let there = ctx.hash(args[1])?.and_then(|hash| hash.get(args[2])).is_some();
    out.int(i64::from(there));
    Ok(())
}

/// `HDEL key field [field ...]`
pub fn hdel(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let key = args[1];
    let (removed, gone) = match ctx.find_hash(key)? {
        Some(slot) => ctx.hash_remove(key, slot, &args[2..])?,
        None => (0, false),
    };
    if removed > 0 {
        ctx.signal(key, EventClass::Hash, "hdel");
    }
    if gone {
        ctx.signal(key, EventClass::Generic, "del");
    }
    out.int(removed as i64);
    Ok(())
}

/// `HINCRBY key field increment`
pub fn hincrby(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (key, field) = (args[1], args[2]);
    let increment = parse::int(args[3])?;
    let slot = ctx.find_hash(key)?;
    let old = match slot.and_then(|slot| HashRef::of(slot.entry, ctx.txn, ctx.ks).get(field)) {
        None => 0,
        Some(value) => {
            parse_i64(value).ok_or_else(|| CommandError::new("ERR hash value is not an integer"))?
        }
    };
    let new = old
        .checked_add(increment)
        .ok_or_else(|| CommandError::new("ERR increment or decrement would overflow"))?;
    ctx.hash_set(key, slot, &[(field, &format_i64(new))])?;
    ctx.signal(key, EventClass::Hash, "hincrby");
    out.int(new);
    Ok(())
}

/// `HINCRBYFLOAT key field increment`
pub fn hincrbyfloat(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (key, field, increment) = (args[1], args[2], args[3]);
    // The increment is looked at before the key: an infinite one is refused for itself.
    incr_by_float(b"0", increment).map_err(|error| match error {
        FloatError::NotFinite => CommandError::new("ERR value is NaN or Infinity"),
        _ => CommandError::NotFloat,
    })?;
    let slot = ctx.find_hash(key)?;
    let sum = match slot.and_then(|slot| HashRef::of(slot.entry, ctx.txn, ctx.ks).get(field)) {
        None => incr_by_float(b"0", increment),
        Some(value) => incr_by_float(value, increment),
    }
    .map_err(|error| match error {
        FloatError::NotFinite => CommandError::new("ERR increment would produce NaN or Infinity"),
        _ => CommandError::new("ERR hash value is not a float"),
    })?;
    ctx.hash_set(key, slot, &[(field, &sum)])?;
    ctx.signal(key, EventClass::Hash, "hincrbyfloat");
    out.bulk(&sum);
    Ok(())
}

/// `HSCAN key cursor [MATCH pattern] [COUNT count]`
pub fn hscan(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let start = parse::cursor(args[2])?;
    let Some(hash) = ctx.hash(args[1])? else {
        reply_cursor(crate::index::Cursor::START, out);
        out.array(0);
        return Ok(());
    };
    let options = ScanOptions::parse(&args[3..], false)?;
    let mut pairs: Vec<(&[u8], &[u8])> = Vec::new();
    let next = options.walk(start, |cursor| {
        let before = pairs.len();
        let next = hash.scan(cursor, |field, value| pairs.push((field, value)));
        (next, (pairs.len() - before) as u64)
    });
    pairs.retain(|(field, _)| options.matches(field));
    reply_cursor(next, out);
    out.array(2 * pairs.len());
    for (field, value) in pairs {
        out.bulk(field);
        out.bulk(value);
    }
    Ok(())
}

/// `HRANDFIELD key [count [WITHVALUES]]`
pub fn hrandfield(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let Some(count) = args.get(2) else {
        match ctx.hash(args[1])?.and_then(|hash| hash.random(ctx.ks)) {
            Some((field, _)) => out.bulk(field),
            None => out.null(),
        }
        return Ok(());
    };
    let count = parse::int(count)?;
    if count == i64::MIN {
        return Err(CommandError::new(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ));
    }
    let with_values = match &args[3..] {
        [] => false,
        [word] if parse::is(word, "WITHVALUES") => true,
        _ => return Err(CommandError::Syntax),
    };
    if with_values && !(-(i64::MAX / 2)..=i64::MAX / 2).contains(&count) {
        return Err(CommandError::new("ERR value is out of range"));
    }
    let Some(hash) = ctx.hash(args[1])?.filter(|_| count != 0) else {
        out.array(0);
        return Ok(());
    };
    let wanted = if count > 0 { count.unsigned_abs().min(hash.len()) } else { count.unsigned_abs() } as usize;
    out.array(if with_values && !out.is_resp3() { 2 * wanted } else { wanted });
    let mut reply = |(field, value): (&[u8], &[u8])| {
        if with_values && out.is_resp3() {
            out.array(2);
        }
        out.bulk(field);
        if with_values {
            out.bulk(value);
        }
    };
    if count < 0 {
        for _ in 0..wanted {
            hash.random(ctx.ks).into_iter().for_each(&mut reply);
        }
    } else if wanted as u64 * 3 > hash.len() {
        let mut pairs = Vec::with_capacity(hash.len() as usize);
        hash.for_each(|field, value| pairs.push((field, value)));
        for place in 0..wanted {
            // A draw without replacement: what is left is a shuffled prefix.
            if wanted < pairs.len() {
                let other = place + (ctx.ks.random() % (pairs.len() - place) as u64) as usize;
                pairs.swap(place, other);
            }
            reply(pairs[place]);
        }
    } else {
        let mut seen: HashSet<&[u8]> = HashSet::with_capacity(wanted);
        while seen.len() < wanted {
            match hash.random(ctx.ks) {
                Some(pair) if seen.insert(pair.0) => reply(pair),
                _ => {}
            }
        }
    }
    Ok(())
}
