//! Strings: a number in the entry's header, bytes in the entry, or bytes in a block.
//!
//! What is the shortest text of a 64-bit integer is stored as that integer, so `INCR` changes eight bytes.
//! Which of Redis's three encodings `OBJECT ENCODING` says follows from the length, save for strings that
//! were changed in place: those Redis calls `raw` whatever their length, and a flag in the header remembers
//! it.

use std::ops::Deref;

use farkeep_core::heap::{HeapError, View};
use farkeep_proto::number::{DecimalI64, format_i64, parse_i64};

use crate::entry::{Encoding, Entry, Extent, FLAG_RAW, Storage, Type};
use crate::error::CommandError;
use crate::keystore::{ReadCtx, Slot, WriteCtx};
use crate::payload::{Location, NewValue};

/// The longest string that Redis keeps as `embstr`, in bytes.
const EMBSTR_MAX: u64 = 44;
/// The longest text of a 64-bit integer, in bytes.
const INT_TEXT_MAX: usize = 20;

/// A string that can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StringRef<'v> {
    /// A number.
    Int(i64),
    /// Bytes.
    Bytes(&'v [u8]),
}

/// A string's bytes: borrowed from the image, or the digits of a number.
#[derive(Debug)]
pub(crate) enum Text<'v> {
    /// Digits.
    Digits(DecimalI64),
    /// Bytes in the image.
    Bytes(&'v [u8]),
}

impl Deref for Text<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Digits(digits) => digits,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl<'v> StringRef<'v> {
    /// The string in `entry`, which is one.
    #[inline]
    pub fn of(entry: Entry, view: &'v View) -> Self {
        if entry.header.kind == Encoding::Int as u8 {
            Self::Int(entry.header.value as i64)
        } else {
            Self::Bytes(entry.payload(view).0)
        }
    }

    /// Its bytes.
    #[inline]
    pub fn text(self) -> Text<'v> {
        match self {
            Self::Int(number) => Text::Digits(format_i64(number)),
            Self::Bytes(bytes) => Text::Bytes(bytes),
        }
    }

    /// The number it is, if it is one.
    pub fn number(self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(number),
            Self::Bytes(bytes) => parse_i64(bytes),
        }
    }
}

/// The encoding Redis would report for the string in `entry`.
pub(crate) fn encoding_name(entry: Entry, view: &View) -> &'static str {
    match entry.header.encoding() {
        Encoding::Int => "int",
        _ if entry.header.flags & FLAG_RAW == 0
            && entry.location(view).is_some_and(|location| location.extent.len <= EMBSTR_MAX) =>
        {
            "embstr"
        }
        _ => "raw",
    }
}

/// A new string as it is best stored: as a number if it is one.
#[inline]
pub(crate) fn new_string(bytes: &[u8]) -> NewValue<'_> {
    if bytes.len() <= INT_TEXT_MAX
        && let Some(number) = parse_i64(bytes)
    {
        return NewValue::Int(number);
    }
    NewValue::Bytes { encoding: Encoding::Inline, flags: 0, bytes, items: 0 }
}

/// A new string that is never stored as a number; `raw` as Redis would say it.
pub(crate) fn new_bytes(bytes: &[u8], raw: bool) -> NewValue<'_> {
    NewValue::Bytes { encoding: Encoding::Inline, flags: if raw { FLAG_RAW } else { 0 }, bytes, items: 0 }
}

impl<'a> ReadCtx<'a> {
    /// The string at `key`; `None` if there is no such key. Counts a hit or a miss.
    #[inline]
    pub(crate) fn string(&self, key: &[u8]) -> Result<Option<StringRef<'a>>, CommandError> {
        match self.find(key) {
            None => Ok(None),
            Some(entry) if entry.ty() == Type::String => Ok(Some(StringRef::of(entry, self.view))),
            Some(_) => Err(CommandError::WrongType),
        }
    }
}

impl WriteCtx<'_, '_> {
    /// The string at `key` for a command that changes it.
    pub(crate) fn find_string(&mut self, key: &[u8]) -> Result<Option<Slot>, CommandError> {
        only_string(self.find(key))
    }

    /// As [`WriteCtx::find_string`], counting a hit or a miss.
    pub(crate) fn find_string_counted(&mut self, key: &[u8]) -> Result<Option<Slot>, CommandError> {
        only_string(self.find_counted(key))
    }

    /// The string of a slot.
    pub(crate) fn string_of(&self, slot: &Slot) -> StringRef<'_> {
        StringRef::of(slot.entry, self.txn)
    }

    /// The result of adding `more` bytes to `len`, or the refusal if that is longer than a string may be.
    pub(crate) fn check_length(&self, len: u64, more: u64) -> Result<u64, CommandError> {
        len.checked_add(more)
            .filter(|&total| total <= self.ks.limits.max_string_len)
            .ok_or(CommandError::StringTooLong)
    }

    /// Makes the string at least `len` bytes long, with zeros at its end, and `raw`: ready to be changed in
    /// place.
    pub(crate) fn open_string(&mut self, slot: &mut Slot, len: u64) -> Result<Location, HeapError> {
        let is_number = slot.entry.header.encoding().storage() == Storage::Number;
        let now = if is_number {
            0
        } else {
            slot.entry.location(self.txn).map_or(0, |location| location.extent.len)
        };
        let wanted = if is_number {
            len.max(format_i64(slot.entry.header.value as i64).len() as u64)
        } else {
            len.max(now)
        };
        let mut location = self.reserve(slot, wanted)?;
        self.set_flags(slot, FLAG_RAW);
        let had = location.extent.len;
        if wanted > had {
            self.txn.zero(location.bytes_at.add(had), (wanted - had) as usize);
            self.set_extent(slot, &mut location, Extent::bytes(wanted));
        }
        Ok(location)
    }

    /// Stores `bytes` at `offset` of the string, which grows as far as needed; a gap reads as zeros. Returns
    /// the new length.
    pub(crate) fn write_at(&mut self, slot: &mut Slot, offset: u64, bytes: &[u8]) -> Result<u64, HeapError> {
        let is_number = slot.entry.header.encoding().storage() == Storage::Number;
        let wanted = if is_number {
            format_i64(slot.entry.header.value as i64).len() as u64
        } else {
            slot.entry.location(self.txn).map_or(0, |location| location.extent.len)
        }
        .max(offset + bytes.len() as u64);
        let mut location = self.reserve(slot, wanted)?;
        self.set_flags(slot, FLAG_RAW);
        let had = location.extent.len;
        if offset > had {
            self.txn.zero(location.bytes_at.add(had), (offset - had) as usize);
        }
        self.txn.write(location.bytes_at.add(offset), bytes);
        self.set_extent(slot, &mut location, Extent::bytes(wanted));
        Ok(wanted)
    }
}

fn only_string(slot: Option<Slot>) -> Result<Option<Slot>, CommandError> {
    match slot {
        Some(slot) if slot.entry.ty() != Type::String => Err(CommandError::WrongType),
        slot => Ok(slot),
    }
}
