//! `BITFIELD`: integers of 1 to 64 bits at any place of a string.

use farkeep_proto::resp::Encoder;

use super::bits::{bit_offset, open_bits};
use super::parse;
use crate::error::CommandError;
use crate::keystore::{ReadCtx, WriteCtx};
use crate::signal::EventClass;
use crate::string::StringRef;

type Done = Result<(), CommandError>;

/// What becomes of a number that does not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// A field's type: `i8`, `u63` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FieldType {
    signed: bool,
    bits: u32,
}

impl FieldType {
    fn parse(word: &[u8]) -> Result<Self, CommandError> {
        let bad = || {
            CommandError::new(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            )
        };
        let (&sign, digits) = word.split_first().ok_or_else(bad)?;
        let signed = match sign {
            b'i' => true,
            b'u' => false,
            _ => return Err(bad()),
        };
        let bits = parse::int(digits).map_err(|_| bad())?;
        if !(1..=if signed { 64 } else { 63 }).contains(&bits) {
            return Err(bad());
        }
        Ok(Self { signed, bits: bits as u32 })
    }

    fn range(self) -> (i128, i128) {
        if self.signed {
            (-(1i128 << (self.bits - 1)), (1i128 << (self.bits - 1)) - 1)
        } else {
            (0, (1i128 << self.bits) - 1)
        }
    }

    /// The number that the lower bits of `raw` stand for.
    fn value(self, raw: u64) -> i64 {
        let unused = 64 - self.bits;
        if self.signed { ((raw << unused) as i64) >> unused } else { ((raw << unused) >> unused) as i64 }
    }

    /// `number` as the field can hold it; `None` if it cannot and that is a failure.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = self.range();
        match overflow {
            _ if (min..=max).contains(&number) => Some(number as i64),
            Overflow::Wrap => Some(self.value(number as u64)),
            Overflow::Saturate => Some(if number > max { max as i64 } else { min as i64 }),
            Overflow::Fail => None,
        }
    }

    /// As [`FieldType::fit`], for a number that is given rather than computed. Redis takes the distance from a signed number to the
    /// maximum in 64 bits, so that it saturates one that is far enough below the range at its upper end.
    fn fit_absolute(self, number: i64, overflow: Overflow) -> Option<i64> {
        let (_, max) = self.range();
        let number = if self.signed { i128::from(number) } else { i128::from(number as u64) };
        let wraps = self.signed && self.bits < 64 && max - number > i128::from(i64::MAX);
        match overflow {
            Overflow::Saturate if wraps => Some(max as i64),
            _ => self.fit(number, overflow),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

/// One of a request's operations.
#[derive(Clone, Copy, Debug)]
struct Operation {
    action: Action,
    ty: FieldType,
    offset: u64,
    overflow: Overflow,
}

fn parse_operations(words: &[&[u8]], max_string_len: u64) -> Result<Vec<Operation>, CommandError> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut rest = words;
    while let Some((&word, args)) = rest.split_first() {
        let (words, has_value) = match () {
            () if parse::is(word, "GET") && args.len() >= 2 => (2, false),
            () if parse::is(word, "SET") && args.len() >= 3 => (3, true),
            () if parse::is(word, "INCRBY") && args.len() >= 3 => (3, true),
            () if parse::is(word, "OVERFLOW") && !args.is_empty() => {
                overflow = match args[0] {
                    how if parse::is(how, "WRAP") => Overflow::Wrap,
                    how if parse::is(how, "SAT") => Overflow::Saturate,
                    how if parse::is(how, "FAIL") => Overflow::Fail,
                    _ => return Err(CommandError::new("ERR Invalid OVERFLOW type specified")),
                };
                rest = &args[1..];
                continue;
            }
            () => return Err(CommandError::Syntax),
        };
        let ty = FieldType::parse(args[0])?;
        let offset = bit_offset(args[1], u64::from(ty.bits), max_string_len)?;
        let value = if has_value { parse::int(args[2])? } else { 0 };
        let action = match () {
            () if !has_value => Action::Get,
            () if parse::is(word, "SET") => Action::Set(value),
            () => Action::Add(value),
        };
        operations.push(Operation { action, ty, offset, overflow });
        rest = &args[words..];
    }
    Ok(operations)
}

/// The `bits` bits from `offset` on; what is behind the end reads as zeros.
fn load(bytes: &[u8], offset: u64, bits: u32) -> u64 {
    (offset..offset + u64::from(bits)).fold(0, |number, bit| {
        let byte = bytes.get((bit / 8) as usize).copied().unwrap_or(0);
        number << 1 | u64::from(byte >> (7 - bit % 8) & 1)
    })
}

/// Stores the lower `bits` bits of `number` from bit `offset` of `bytes` on.
fn save(bytes: &mut [u8], offset: u64, bits: u32, number: u64) {
    for place in 0..u64::from(bits) {
        let bit = offset + place;
        let on = (number >> (u64::from(bits) - 1 - place) & 1) as u8;
        let byte = &mut bytes[(bit / 8) as usize];
        *byte = *byte & !(1 << (7 - bit % 8)) | on << (7 - bit % 8);
    }
}

/// `BITFIELD key [GET type offset | SET type offset value | INCRBY type offset increment | OVERFLOW WRAP |
/// SAT | FAIL] ...`
pub fn bitfield(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let operations = parse_operations(&args[2..], ctx.ks.limits.max_string_len)?;
    let writes = operations.iter().filter(|operation| operation.action != Action::Get);
    let Some(bits) = writes.map(|operation| operation.offset + u64::from(operation.ty.bits)).max() else {
        return get_all(&ctx.read(), args[1], &operations, out);
    };
    let (location, grown) = open_bits(ctx, args[1], bits)?;
    let mut changed = false;
    out.array(operations.len());
    for Operation { action, ty, offset, overflow } in operations {
        // The bytes the field touches, at most nine, cut at the end of the string for a GET beyond it.
        let first = offset / 8;
        let len = ((offset + u64::from(ty.bits)).div_ceil(8) - first)
            .min(location.extent.len.saturating_sub(first));
        let mut bytes = match len {
            0 => Vec::new(),
            len => ctx.txn.bytes(location.bytes_at.add(first), len as usize).to_vec(),
        };
        let old = ty.value(load(&bytes, offset % 8, ty.bits));
        // The number to store, and which one the client gets to see.
        let fitted = match action {
            Action::Get => {
                out.int(old);
                continue;
            }
            Action::Set(value) => ty.fit_absolute(value, overflow).map(|new| (new, old)),
            Action::Add(value) => ty.fit(i128::from(old) + i128::from(value), overflow).map(|new| (new, new)),
        };
        let Some((new, shown)) = fitted else {
            out.null();
            continue;
        };
        changed |= grown || new != old;
        save(&mut bytes, offset % 8, ty.bits, new as u64);
        ctx.txn.write(location.bytes_at.add(first), &bytes);
        out.int(shown);
    }
    if changed {
        ctx.signal(args[1], EventClass::String, "setbit");
    }
    Ok(())
}

/// `BITFIELD_RO key [GET type offset] ...`
pub fn bitfield_ro(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let operations = parse_operations(&args[2..], ctx.ks.limits.max_string_len)?;
    if operations.iter().any(|operation| operation.action != Action::Get) {
        return Err(CommandError::new("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    get_all(ctx, args[1], &operations, out)
}

fn get_all(ctx: &ReadCtx<'_>, key: &[u8], operations: &[Operation], out: &mut Encoder<'_>) -> Done {
    let text = ctx.string(key)?.map(StringRef::text);
    let bytes = text.as_deref().unwrap_or(&[]);
    out.array(operations.len());
    for operation in operations {
        out.int(operation.ty.value(load(bytes, operation.offset, operation.ty.bits)));
    }
    Ok(())
}
