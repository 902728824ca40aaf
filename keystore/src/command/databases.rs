//! Commands on whole databases.

use farkeep_proto::resp::Encoder;

use super::parse;
use crate::error::CommandError;
use crate::keystore::{Keystore, ReadCtx, WriteCtx};

type Done = Result<(), CommandError>;

/// The number of a database, as `SELECT`, `COPY` and `MOVE` take it.
///
/// # Errors
/// When `word` is no integer, or there is no such database.
pub fn number(ks: &Keystore, word: &[u8]) -> Result<usize, CommandError> {
    let number = parse::int32(word)?;
    usize::try_from(number).ok().filter(|&db| db < ks.databases()).ok_or(CommandError::NoSuchDatabase)
}

/// `DBSIZE`
pub fn dbsize(ctx: &mut ReadCtx<'_>, _args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(ctx.indexes().keys.len(ctx.view) as i64);
    Ok(())
}

/// `FLUSHDB [ASYNC | SYNC]`: always in constant time, so both words mean the same.
pub fn flushdb(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    check_flush_option(args)?;
    ctx.flush(ctx.db);
    out.ok();
    Ok(())
}

/// `FLUSHALL [ASYNC | SYNC]`
pub fn flushall(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    check_flush_option(args)?;
    for db in 0..ctx.ks.databases() {
        ctx.flush(db);
    }
    out.ok();
    Ok(())
}

fn check_flush_option(args: &[&[u8]]) -> Done {
    match args {
        [_] => Ok(()),
        [_, word] if parse::is(word, "ASYNC") || parse::is(word, "SYNC") => Ok(()),
        _ => Err(CommandError::Syntax),
    }
}

/// `SWAPDB index1 index2`
pub fn swapdb(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let index = |word, text| parse::int32(word).map_err(|_| CommandError::new(text));
    let first = index(args[1], "ERR invalid first DB index")?;
    let second = index(args[2], "ERR invalid second DB index")?;
    let known = |number| {
        usize::try_from(number).ok().filter(|&db| db < ctx.ks.databases()).ok_or(CommandError::NoSuchDatabase)
    };
    let (first, second) = (known(first)?, known(second)?);
    ctx.swap(first, second);
    out.ok();
    Ok(())
}
