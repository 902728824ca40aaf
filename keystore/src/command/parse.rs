//! Reading a request's words.

use farkeep_proto::number::parse_i64;

use crate::error::CommandError;
use crate::index::Cursor;

/// A 64-bit integer.
pub(crate) fn int(word: &[u8]) -> Result<i64, CommandError> {
    parse_i64(word).ok_or(CommandError::NotInteger)
}

/// Whether `word` is `option`, in any case.
#[inline]
pub(crate) fn is(word: &[u8], option: &str) -> bool {
    word.eq_ignore_ascii_case(option.as_bytes())
}

/// A cursor, as liberally as Redis takes it, with `strtoul`: leading zeros, a sign and nothing at all are
/// fine, white space is not.
pub(crate) fn cursor(word: &[u8]) -> Result<Cursor, CommandError> {
    let (digits, negative) = match word.split_first() {
        None => return Ok(Cursor::START),
        Some((b'+', rest)) => (rest, false),
        Some((b'-', rest)) => (rest, true),
        Some(_) => (word, false),
    };
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<u64>().ok())
        .ok_or(CommandError::InvalidCursor)?;
    Ok(Cursor(if negative { number.wrapping_neg() } else { number }))
}

/// The unit and reference of a time given in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeKind {
    /// `EX`: seconds from now.
    Seconds,
    /// `PX`: milliseconds from now.
    Millis,
    /// `EXAT`: seconds since 1970.
    UnixSeconds,
    /// `PXAT`: milliseconds since 1970.
    UnixMillis,
}

impl TimeKind {
    /// The kind an option of `SET` and `GETEX` stands for.
    pub fn of_option(word: &[u8]) -> Option<Self> {
        [("EX", Self::Seconds), ("PX", Self::Millis), ("EXAT", Self::UnixSeconds), ("PXAT", Self::UnixMillis)]
            .into_iter()
            .find_map(|(name, kind)| is(word, name).then_some(kind))
    }

    pub fn is_absolute(self) -> bool {
        matches!(self, Self::UnixSeconds | Self::UnixMillis)
    }

    fn in_seconds(self) -> bool {
        matches!(self, Self::Seconds | Self::UnixSeconds)
    }

    /// The time in milliseconds since 1970; it has to be positive, and so does `word`.
    pub fn positive(self, word: &[u8], now_ms: u64, command: &'static str) -> Result<u64, CommandError> {
        let invalid = || CommandError::InvalidExpire(command);
        let value = int(word)?;
        if value <= 0 {
            return Err(invalid());
        }
        self.resolve(value, now_ms).filter(|&at| at > 0).map(|at| at as u64).ok_or_else(invalid)
    }

    /// The time in milliseconds since 1970, which may be negative; `None` if it does not fit.
    pub fn resolve(self, value: i64, now_ms: u64) -> Option<i64> {
        let millis = if self.in_seconds() { value.checked_mul(1000)? } else { value };
        if self.is_absolute() { Some(millis) } else { millis.checked_add(i64::try_from(now_ms).ok()?) }
    }
}

/// An integer of 32 bits.
pub(crate) fn int32(word: &[u8]) -> Result<i32, CommandError> {
    let number = int(word)?;
    i32::try_from(number).map_err(|_| {
        CommandError::new("ERR value is out of range, value must between -2147483648 and 2147483647")
    })
}
