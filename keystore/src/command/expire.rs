//! Commands on a key's expiry.

use farkeep_proto::resp::Encoder;

use super::parse::{self, TimeKind};
use crate::error::CommandError;
use crate::keystore::{ReadCtx, WriteCtx};
use crate::signal::EventClass;

type Done = Result<(), CommandError>;

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub fn expire(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    expire_at(ctx, args, TimeKind::Seconds, "expire", out)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub fn pexpire(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    expire_at(ctx, args, TimeKind::Millis, "pexpire", out)
}

/// `EXPIREAT key unix-time-seconds [NX | XX | GT | LT]`
pub fn expireat(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    expire_at(ctx, args, TimeKind::UnixSeconds, "expireat", out)
}

/// `PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]`
pub fn pexpireat(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    expire_at(ctx, args, TimeKind::UnixMillis, "pexpireat", out)
}

/// When the new expiry is to be set.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    only_without: bool,
    only_with: bool,
    only_later: bool,
    only_earlier: bool,
}

impl Condition {
    fn parse(words: &[&[u8]]) -> Result<Self, CommandError> {
        let mut condition = Self::default();
        for word in words {
            let flag = match () {
                () if parse::is(word, "NX") => &mut condition.only_without,
                () if parse::is(word, "XX") => &mut condition.only_with,
                () if parse::is(word, "GT") => &mut condition.only_later,
                () if parse::is(word, "LT") => &mut condition.only_earlier,
                () => {
                    let word = String::from_utf8_lossy(word);
                    return Err(CommandError::owned(format!("ERR Unsupported option {word}")));
                }
            };
            *flag = true;
        }
        if condition.only_without && (condition.only_with || condition.only_later || condition.only_earlier) {
            return Err(CommandError::new(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if condition.only_later && condition.only_earlier {
            return Err(CommandError::new("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(condition)
    }

    /// Whether `new_ms` may take the place of `now_ms`, 0 being for ever.
    fn allows(self, old_ms: u64, new_ms: i64) -> bool {
        let old = i64::try_from(old_ms).unwrap_or(i64::MAX);
        let has = old_ms != 0;
        !(self.only_without && has
            || self.only_with && !has
            || self.only_later && (!has || new_ms <= old)
            || self.only_earlier && has && new_ms >= old)
    }
}

fn expire_at(
    ctx: &mut WriteCtx<'_, '_>,
    args: &[&[u8]],
    kind: TimeKind,
    name: &'static str,
    out: &mut Encoder<'_>,
) -> Done {
    let key = args[1];
    let condition = Condition::parse(&args[3..])?;
    let value = parse::int(args[2])?;
    let at = kind.resolve(value, ctx.now_ms).ok_or(CommandError::InvalidExpire(name))?;
    let Some(mut slot) = ctx.find(key) else {
        out.int(0);
        return Ok(());
    };
    if !condition.allows(slot.entry.header.expire_ms, at) {
        out.int(0);
        return Ok(());
    }
    match u64::try_from(at) {
        Ok(at_ms) if at_ms > ctx.now_ms => {
            ctx.set_expiry(key, &mut slot, at_ms)?;
            ctx.signal(key, EventClass::Generic, "expire");
        }
        _ => {
            ctx.remove(key, &slot);
            ctx.signal(key, EventClass::Generic, "del");
        }
    }
    out.int(1);
    Ok(())
}

/// `PERSIST key`
pub fn persist(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let changed = match ctx.find(args[1]) {
        Some(mut slot) if slot.entry.header.expire_ms != 0 => {
            ctx.set_expiry(args[1], &mut slot, 0)?;
            ctx.signal(args[1], EventClass::Generic, "persist");
            true
        }
        _ => false,
    };
    out.int(i64::from(changed));
    Ok(())
}

/// `TTL key`
pub fn ttl(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(left(ctx, args[1], |at, now| (at.saturating_sub(now) + 500) / 1000));
    Ok(())
}

/// `PTTL key`
pub fn pttl(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(left(ctx, args[1], u64::saturating_sub));
    Ok(())
}

/// `EXPIRETIME key`
pub fn expiretime(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(left(ctx, args[1], |at, _| at.saturating_add(500) / 1000));
    Ok(())
}

/// `PEXPIRETIME key`
pub fn pexpiretime(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    out.int(left(ctx, args[1], |at, _| at));
    Ok(())
}

/// -2 without the key, -1 without an expiry, else what `shown` makes of the expiry and the present.
fn left(ctx: &ReadCtx<'_>, key: &[u8], shown: impl Fn(u64, u64) -> u64) -> i64 {
    match ctx.find(key) {
        None => -2,
        Some(entry) if entry.header.expire_ms == 0 => -1,
        Some(entry) => i64::try_from(shown(entry.header.expire_ms, ctx.now_ms)).unwrap_or(i64::MAX),
    }
}
