//! Commands on keys of any type.

use farkeep_proto::resp::Encoder;

use super::databases;
use super::parse;
use crate::error::CommandError;
use crate::keystore::{ReadCtx, WriteCtx};
use crate::signal::EventClass;

type Done = Result<(), CommandError>;

const SAME_OBJECT: CommandError = CommandError::new("ERR source and destination objects are the same");

/// `DEL key [key ...]`
pub fn del(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let mut removed = 0;
    for key in &args[1..] {
        if let Some(slot) = ctx.find(key) {
            ctx.remove(key, &slot);
            ctx.signal(key, EventClass::Generic, "del");
            removed += 1;
        }
    }
    out.int(removed);
    Ok(())
}

/// `UNLINK key [key ...]`: the same as `DEL`, which never frees a long value at once either.
pub fn unlink(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    del(ctx, args, out)
}

/// `EXISTS key [key ...]`
pub fn exists(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(args[1..].iter().filter(|key| ctx.find(key).is_some()).count() as i64);
    Ok(())
}

/// `TOUCH key [key ...]`
pub fn touch(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    exists(ctx, args, out)
}

/// `TYPE key`
pub fn type_of(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.simple(ctx.find(args[1]).map_or("none", |entry| entry.ty().name()));
    Ok(())
}

/// `RENAME key newkey`
pub fn rename(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    rename_to(ctx, args[1], args[2], false)?;
    out.ok();
    Ok(())
}

/// `RENAMENX key newkey`
pub fn renamenx(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let renamed = rename_to(ctx, args[1], args[2], true)?;
    out.int(i64::from(renamed));
    Ok(())
}

fn rename_to(
    ctx: &mut WriteCtx<'_, '_>,
    from: &[u8],
    to: &[u8],
    only_free: bool,
) -> Result<bool, CommandError> {
    if ctx.find(from).is_none() {
        return Err(CommandError::NoSuchKey);
    }
    if from == to {
        return Ok(false);
    }
    if let Some(taken) = ctx.find(to) {
        if only_free {
            return Ok(false);
        }
        ctx.remove(to, &taken);
    }
    // What was found before may have been moved by the removal.
    let Some(slot) = ctx.find(from) else { return Err(CommandError::NoSuchKey) };
    ctx.rename(from, &slot, to)?;
    ctx.signal(from, EventClass::Generic, "rename_from");
    ctx.signal(to, EventClass::Generic, "rename_to");
    Ok(true)
}

/// `COPY source destination [DB destination-db] [REPLACE]`
pub fn copy(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (from, to) = (args[1], args[2]);
    let (mut target, mut replace) = (ctx.db, false);
    let mut rest = args[3..].iter();
    while let Some(word) = rest.next() {
        if parse::is(word, "REPLACE") {
            replace = true;
        } else if parse::is(word, "DB")
            && let Some(number) = rest.next()
        {
            target = databases::number(ctx.ks, number)?;
        } else {
            return Err(CommandError::Syntax);
        }
    }
    if target == ctx.db && from == to {
        return Err(SAME_OBJECT);
    }
    if ctx.find_counted(from).is_none() {
        out.int(0);
        return Ok(());
    }
    let source = std::mem::replace(&mut ctx.db, target);
    let outcome = make_way(ctx, to, replace);
    ctx.db = source;
    if !outcome? {
        out.int(0);
        return Ok(());
    }
    let Some(slot) = ctx.find(from) else { return Err(CommandError::NoSuchKey) };
    ctx.copy_to(slot.entry, target, to)?;
    ctx.ks.signals.key(target, to, EventClass::Generic, "copy_to");
    out.int(1);
    Ok(())
}

/// Whether `key` of the selected database is free, having removed it if that was asked for.
fn make_way(ctx: &mut WriteCtx<'_, '_>, key: &[u8], replace: bool) -> Result<bool, CommandError> {
    let Some(slot) = ctx.find(key) else { return Ok(true) };
    if replace {
        ctx.remove(key, &slot);
    }
    Ok(replace)
}

/// `MOVE key db`
pub fn move_key(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let key = args[1];
    let target = databases::number(ctx.ks, args[2])?;
    if target == ctx.db {
        return Err(SAME_OBJECT);
    }
    let Some(slot) = ctx.find(key) else {
        out.int(0);
        return Ok(());
    };
    let source = std::mem::replace(&mut ctx.db, target);
    let free = make_way(ctx, key, false);
    ctx.db = source;
    if !free? {
        out.int(0);
        return Ok(());
    }
    ctx.move_to(key, &slot, target)?;
    ctx.signal(key, EventClass::Generic, "move_from");
    ctx.ks.signals.key(target, key, EventClass::Generic, "move_to");
    out.int(1);
    Ok(())
}
