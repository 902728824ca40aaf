//! Commands on single bits of strings. Bit 0 is the highest bit of byte 0.

use farkeep_proto::resp::Encoder;

use super::parse;
use super::strings::make_empty;
use crate::error::CommandError;
use crate::keystore::{ReadCtx, WriteCtx};
use crate::payload::Location;
use crate::signal::EventClass;
use crate::string::{StringRef, Text, new_bytes};

type Done = Result<(), CommandError>;

const BAD_OFFSET: CommandError = CommandError::new("ERR bit offset is not an integer or out of range");
const BAD_BIT: CommandError = CommandError::new("ERR bit is not an integer or out of range");

/// The offset of a bit; `#n` is the n-th field of `width` bits, where that is allowed (`width` not 0).
pub(super) fn bit_offset(word: &[u8], width: u64, max_string_len: u64) -> Result<u64, CommandError> {
    let (digits, factor) = match word.strip_prefix(b"#") {
        Some(digits) if width > 0 => (digits, width),
        _ => (word, 1),
    };
    parse::int(digits)
        .ok()
        .and_then(|number| u64::try_from(number).ok()?.checked_mul(factor))
        .filter(|&offset| offset <= i64::MAX as u64 && offset >> 3 < max_string_len)
        .ok_or(BAD_OFFSET)
}

/// The string at `key`, made if it is not there, and at least `bits` bits long; and whether it had to be made longer.
pub(super) fn open_bits(
    ctx: &mut WriteCtx<'_, '_>,
    key: &[u8],
    bits: u64,
) -> Result<(Location, bool), CommandError> {
    let len = bits.div_ceil(8);
    let (mut slot, had) = match ctx.find_string(key)? {
        Some(slot) => {
            let had = ctx.string_of(&slot).text().len() as u64;
            (slot, had)
        }
        None => (make_empty(ctx, key)?, 0),
    };
    Ok((ctx.open_string(&mut slot, len)?, had < len))
}

/// `SETBIT key offset value`
pub fn setbit(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let key = args[1];
    let offset = bit_offset(args[2], 0, ctx.ks.limits.max_string_len)?;
    let on = match parse::int(args[3]) {
        Ok(0) => 0,
        Ok(1) => 1,
        _ => return Err(BAD_BIT),
    };
    let (location, grown) = open_bits(ctx, key, offset + 1)?;
    let byte_at = location.bytes_at.add(offset / 8);
    let byte: u8 = ctx.txn.get(byte_at);
    let shift = 7 - offset % 8;
    let old = byte >> shift & 1;
    ctx.txn.put(byte_at, &(byte & !(1 << shift) | on << shift));
    if grown || old != on {
        ctx.signal(key, EventClass::String, "setbit");
    }
    out.int(i64::from(old));
    Ok(())
}

/// `GETBIT key offset`
pub fn getbit(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let offset = bit_offset(args[2], 0, ctx.ks.limits.max_string_len)?;
    let text = ctx.string(args[1])?.map(StringRef::text);
    let byte = text.and_then(|text| text.get((offset / 8) as usize).copied()).unwrap_or(0);
    out.int(i64::from(byte >> (7 - offset % 8) & 1));
    Ok(())
}

/// A range of bits: first and last, both in it.
#[derive(Clone, Copy, Debug)]
struct BitRange {
    first: u64,
    last: u64,
}

/// The unit a range is given in: bits, or bytes if `word` is not there.
fn unit_is_bit(word: Option<&&[u8]>) -> Result<bool, CommandError> {
    match word {
        None => Ok(false),
        Some(word) if parse::is(word, "BYTE") => Ok(false),
        Some(word) if parse::is(word, "BIT") => Ok(true),
        Some(_) => Err(CommandError::Syntax),
    }
}

/// Resolves a range given in bytes or bits, from the end if negative, against a string of `len` bytes; `None`
/// if it is empty.
fn bit_range(start: i64, end: i64, in_bits: bool, len: usize) -> Option<BitRange> {
    let units = if in_bits { len as i64 * 8 } else { len as i64 };
    let from_end = |at: i64| if at < 0 { units.saturating_add(at).max(0) } else { at };
    let (start, end) = (from_end(start), from_end(end).min(units - 1));
    if start > end {
        return None;
    }
    let (first, last) = if in_bits { (start, end) } else { (start * 8, end * 8 + 7) };
    Some(BitRange { first: first as u64, last: last as u64 })
}

/// The bytes of a range, those at its ends with the bits outside of it replaced by `outside`.
fn masked(bytes: &[u8], range: BitRange, outside: bool) -> impl Iterator<Item = u8> {
    let (from, to) = ((range.first / 8) as usize, (range.last / 8) as usize);
    let head = 0xFFu8 >> (range.first % 8);
    let tail = 0xFFu8 << (7 - range.last % 8);
    bytes[from..=to].iter().enumerate().map(move |(place, &byte)| {
        let mut mask = 0xFF;
        if place == 0 {
            mask &= head;
        }
        if place == to - from {
            mask &= tail;
        }
        if outside { byte | !mask } else { byte & mask }
    })
}

fn count_ones(bytes: &[u8], range: BitRange) -> u64 {
    let (from, to) = ((range.first / 8) as usize, (range.last / 8) as usize);
    if to - from < 16 {
        return masked(bytes, range, false).map(|byte| u64::from(byte.count_ones())).sum();
    }
    let inner = &bytes[from + 1..to];
    let edges = [
        (bytes[from] & (0xFF >> (range.first % 8))).count_ones(),
        (bytes[to] & (0xFF << (7 - range.last % 8))).count_ones(),
    ];
    let (words, rest) = inner.as_chunks::<8>();
    let words: u64 = words.iter().map(|word| u64::from(u64::from_ne_bytes(*word).count_ones())).sum();
    let rest: u64 = rest.iter().map(|byte| u64::from(byte.count_ones())).sum();
    u64::from(edges[0] + edges[1]) + words + rest
}

/// `BITCOUNT key [start end [BYTE | BIT]]`
pub fn bitcount(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let Some(text) = ctx.string(args[1])?.map(StringRef::text) else {
        out.int(0);
        return Ok(());
    };
    let range = match &args[2..] {
        [] => bit_range(0, -1, false, text.len()),
        [start, end, unit @ ..] if unit.len() <= 1 => {
            let (start, end) = (parse::int(start)?, parse::int(end)?);
            if start < 0 && end < 0 && start > end {
                // Before it looks at the unit, and even if both are before the string's start; BITPOS does
                // neither.
                out.int(0);
                return Ok(());
            }
            bit_range(start, end, unit_is_bit(unit.first())?, text.len())
        }
        _ => return Err(CommandError::Syntax),
    };
    out.int(range.map_or(0, |range| count_ones(&text, range)) as i64);
    Ok(())
}

/// `BITPOS key bit [start [end [BYTE | BIT]]]`
pub fn bitpos(ctx: &mut ReadCtx<'_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let bit = match parse::int(args[2])? {
        0 => false,
        1 => true,
        _ => return Err(CommandError::new("ERR The bit argument must be 1 or 0.")),
    };
    let Some(text) = ctx.string(args[1])?.map(StringRef::text) else {
        out.int(if bit { -1 } else { 0 });
        return Ok(());
    };
    let (start, end, in_bits, end_given) = match &args[3..] {
        [] => (0, -1, false, false),
        [start] => (parse::int(start)?, -1, false, false),
        [start, end, unit @ ..] if unit.len() <= 1 => {
            let start = parse::int(start)?;
            let in_bits = unit_is_bit(unit.first())?;
            (start, parse::int(end)?, in_bits, true)
        }
        _ => return Err(CommandError::Syntax),
    };
    let Some(range) = bit_range(start, end, in_bits, text.len()) else {
        out.int(-1);
        return Ok(());
    };
    out.int(first_bit(&text, range, bit).map_or_else(
        // Behind the end of a string there are clear bits without end, unless the client has said where to
        // stop.
        || if bit || end_given { -1 } else { (range.last + 1) as i64 },
        |position| position as i64,
    ));
    Ok(())
}

fn first_bit(bytes: &[u8], range: BitRange, bit: bool) -> Option<u64> {
    let (place, byte) = masked(bytes, range, !bit)
        .map(|byte| if bit { byte } else { !byte })
        .enumerate()
        .find(|&(_, byte)| byte != 0)?;
    Some((range.first / 8 + place as u64) * 8 + u64::from(byte.leading_zeros()))
}

/// `BITOP AND | OR | XOR | NOT destkey key [key ...]`
pub fn bitop(ctx: &mut WriteCtx<'_, '_>, args: &[&[u8]], out: &mut Encoder<'_>) -> Done {
    let (operation, target, sources) = (args[1], args[2], &args[3..]);
    let combine: fn(u8, u8) -> u8 = match () {
        () if parse::is(operation, "AND") => |a, b| a & b,
        () if parse::is(operation, "OR") => |a, b| a | b,
        () if parse::is(operation, "XOR") => |a, b| a ^ b,
        () if parse::is(operation, "NOT") => |a, _| !a,
        () => return Err(CommandError::Syntax),
    };
    let negates = parse::is(operation, "NOT");
    if negates && sources.len() != 1 {
        return Err(CommandError::new("ERR BITOP NOT must be called with a single source key."));
    }
    let read = ctx.read();
    let texts = sources
        .iter()
        .map(|key| Ok(read.string(key)?.map_or(Text::Bytes(b""), StringRef::text)))
        .collect::<Result<Vec<_>, CommandError>>()?;
    let len = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    let mut result = texts[0].to_vec();
    result.resize(len, 0);
    if negates {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for text in &texts[1..] {
        let padded = text.iter().copied().chain(std::iter::repeat(0));
        result.iter_mut().zip(padded).for_each(|(byte, other)| *byte = combine(*byte, other));
    }
    let slot = ctx.find(target);
    if len > 0 {
        ctx.store(target, slot.as_ref(), new_bytes(&result, true), 0)?;
        ctx.signal(target, EventClass::String, "set");
    } else if let Some(slot) = slot {
        ctx.remove(target, &slot);
        ctx.signal(target, EventClass::Generic, "del");
    }
    out.int(len as i64);
    Ok(())
}
