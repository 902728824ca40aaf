//! Requests: multibulk (`*3\r\n$3\r\nSET\r\n…`) and inline (`SET key value\n`), decoded in place and incrementally.
//!
//! A connection's buffer may end anywhere, also in the middle of a 512 MB argument. What has been understood so far is
//! kept in [`DecodeState`], so that every byte is looked at once: feeding a bulk in pieces costs the pieces, and
//! [`DecodeState::missing_bytes`] tells the reader how much room to make for the rest.
//!
//! Limits and error texts are those of Redis 7.0, and so is its leniency: of the two bytes that end a line only the
//! first is looked at, and the two behind a bulk not at all. One thing is made definite that in Redis depends on how
//! the bytes were cut into packets: a line longer than [`MAX_LINE_LEN`] is refused even if its end has arrived as well.

use std::fmt;
use std::ops::Range;

use super::inline;
use crate::number::parse_i64;

/// The longest inline request, multibulk count or bulk length line, in bytes without its end.
pub const MAX_LINE_LEN: usize = 64 * 1024;

/// Before a client has authenticated it may send this many arguments…
const UNAUTHENTICATED_ARGS: i64 = 10;
/// … of this many bytes each.
const UNAUTHENTICATED_BULK_LEN: i64 = 16 * 1024;

/// What a connection may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest argument, in bytes (`proto-max-bulk-len`).
    pub max_bulk_len: u64,
    /// Whether the client has authenticated, or need not. Until then it gets far tighter limits.
    pub authenticated: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bulk_len: 512 * 1024 * 1024, authenticated: true }
    }
}

/// What came out of a call of [`decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A whole command; its arguments are in `args`, and it took `consumed` bytes of the buffer.
    Command {
        /// Bytes of the buffer to drop once the command has been executed.
        consumed: usize,
    },
    /// The buffer ends within a command. Call again with the same bytes and more.
    Incomplete,
    /// A request without arguments (an empty line, `*0`, `*-1`): nothing to execute and nothing to reply.
    Empty {
        /// Bytes of the buffer to drop.
        consumed: usize,
    },
}

/// A request that cannot be understood. The connection is of no further use: reply, then close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The count behind `*` is not a number or too large.
    InvalidMultibulkLength,
    /// The length behind `$` is not a number, negative or above `proto-max-bulk-len`.
    InvalidBulkLength,
    /// An argument does not start with `$`.
    ExpectedBulk {
        /// The byte that stands there instead.
        got: u8,
    },
    /// The line of a multibulk count does not end.
    TooBigMultibulkCount,
    /// The line of a bulk length does not end.
    TooBigBulkCount,
    /// An inline request does not end.
    TooBigInline,
    /// An inline request has a quote that is not closed, or text right behind a closing quote.
    UnbalancedQuotes,
    /// Too many arguments before authentication.
    UnauthenticatedMultibulkLength,
    /// Too long an argument before authentication.
    UnauthenticatedBulkLength,
}

impl ProtocolError {
    /// Appends the error as a reply, `-ERR Protocol error: …`.
    pub fn push_reply(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"-ERR ");
        match *self {
            Self::ExpectedBulk { got } => {
                out.extend_from_slice(b"Protocol error: expected '$', got '");
                match got {
                    // Redis formats this as a C string, which a NUL ends.
                    0 => {}
                    b'\r' | b'\n' => out.extend_from_slice(b" '"),
                    _ => out.extend_from_slice(&[got, b'\'']),
                }
            }
            _ => out.extend_from_slice(self.to_string().as_bytes()),
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        f.write_str(match self {
            Self::InvalidMultibulkLength => "invalid multibulk length",
            Self::InvalidBulkLength => "invalid bulk length",
            Self::ExpectedBulk { got } => return write!(f, "expected '$', got '{}'", char::from(*got)),
            Self::TooBigMultibulkCount => "too big mbulk count string",
            Self::TooBigBulkCount => "too big bulk count string",
            Self::TooBigInline => "too big inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
        })
    }
}

impl std::error::Error for ProtocolError {}

/// How far the command at the start of a connection's buffer has been understood.
///
/// It belongs to the connection, and is back at its default whenever [`decode`] returned anything but
/// [`Decoded::Incomplete`].
#[derive(Debug, Default)]
pub struct DecodeState {
    /// Arguments still to come; 0 until the multibulk count is known.
    remaining: usize,
    /// Where decoding goes on: the next unread line, or the bulk whose length is known.
    at: usize,
    /// The length of the bulk at `at`.
    bulk_len: Option<usize>,
    /// Bytes behind `at` already searched for the end of a line.
    searched: usize,
    /// The arguments understood so far, while the command is incomplete.
    saved: Vec<Range<usize>>,
}

impl DecodeState {
    /// How many bytes more than the `available` ones are needed at the least before [`decode`] can get any further:
    /// what a reader should make room for.
    #[must_use]
    pub fn missing_bytes(&self, available: usize) -> usize {
        let wanted = self.at + self.bulk_len.map_or(1, |len| len + 2);
        wanted.saturating_sub(available).max(1)
    }

    /// Whether the buffer starts with a command that has been understood in part.
    #[must_use]
    pub fn is_mid_command(&self) -> bool {
        self.at != 0 || self.searched != 0
    }

    /// Forgets everything, as for a new connection.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Decodes the command at the start of `buf`.
///
/// On [`Decoded::Command`] `args` holds at least one range into `buf`; otherwise its content means nothing. `args` may
/// be shared by connections, `state` may not. After [`Decoded::Incomplete`] the next call must be given the same bytes,
/// followed by more (they may have moved in memory). The buffer is written only for inline requests, whose quoted
/// arguments are unescaped where they stand.
///
/// # Errors
/// When the bytes are not a request; see [`ProtocolError`].
#[inline]
pub fn decode(
    buf: &mut [u8],
    args: &mut Vec<Range<usize>>,
    limits: &Limits,
    state: &mut DecodeState,
) -> Result<Decoded, ProtocolError> {
    if state.remaining != 0 {
        std::mem::swap(args, &mut state.saved);
        return bulks(buf, args, limits, state);
    }
    args.clear();
    match buf.first() {
        None => return Ok(Decoded::Incomplete),
        Some(b'*') => {}
        Some(_) => return inline_request(buf, args, state),
    }
    let (count, next) = match short_number(buf, 1) {
        Some((count, next)) => (count as i64, next),
        None => match line_end(buf, state, b'\r').map_err(|TooLong| ProtocolError::TooBigMultibulkCount)? {
            Some(end) if end + 1 < buf.len() => {
                (parse_i64(&buf[1..end]).ok_or(ProtocolError::InvalidMultibulkLength)?, end + 2)
            }
            _ => return Ok(Decoded::Incomplete),
        },
    };
    if count > i64::from(i32::MAX) {
        return Err(ProtocolError::InvalidMultibulkLength);
    }
    if count > UNAUTHENTICATED_ARGS && !limits.authenticated {
        return Err(ProtocolError::UnauthenticatedMultibulkLength);
    }
    state.searched = 0;
    if count <= 0 {
        return Ok(Decoded::Empty { consumed: next });
    }
    state.remaining = count as usize;
    state.at = next;
    bulks(buf, args, limits, state)
}

#[inline]
fn bulks(
    buf: &[u8],
    args: &mut Vec<Range<usize>>,
    limits: &Limits,
    state: &mut DecodeState,
) -> Result<Decoded, ProtocolError> {
    // Kept in locals: `state` is written back only where a command stays incomplete.
    let mut remaining = state.remaining;
    let mut at = state.at;
    let mut bulk_len = state.bulk_len.take();
    while remaining != 0 {
        let len = match bulk_len.take() {
            Some(len) => len,
            None => {
                let short = if buf.get(at) == Some(&b'$') { short_number(buf, at + 1) } else { None };
                let (len, next) = match short {
                    Some((len, next)) => (len as i64, next),
                    None => {
                        state.at = at;
                        match bulk_length_line(buf, state)? {
                            Some(line) => line,
                            None => {
                                state.remaining = remaining;
                                std::mem::swap(args, &mut state.saved);
                                return Ok(Decoded::Incomplete);
                            }
                        }
                    }
                };
                if len as u64 > limits.max_bulk_len {
                    return Err(ProtocolError::InvalidBulkLength);
                }
                if len > UNAUTHENTICATED_BULK_LEN && !limits.authenticated {
                    return Err(ProtocolError::UnauthenticatedBulkLength);
                }
                state.searched = 0;
                at = next;
                len as usize
            }
        };
        if buf.len() - at < len + 2 {
            state.remaining = remaining;
            state.at = at;
            state.bulk_len = Some(len);
            std::mem::swap(args, &mut state.saved);
            return Ok(Decoded::Incomplete);
        }
        args.push(at..at + len);
        at += len + 2;
        remaining -= 1;
    }
    state.remaining = 0;
    state.at = 0;
    Ok(Decoded::Command { consumed: at })
}

/// The bulk length line at `state.at` in full generality: its number and where the bulk starts, or `None` while the
/// line is incomplete.
#[cold]
fn bulk_length_line(buf: &[u8], state: &mut DecodeState) -> Result<Option<(i64, usize)>, ProtocolError> {
    let at = state.at;
    let end = match line_end(buf, state, b'\r').map_err(|TooLong| ProtocolError::TooBigBulkCount)? {
        Some(end) if end + 1 < buf.len() => end,
        _ => return Ok(None),
    };
    if buf[at] != b'$' {
        return Err(ProtocolError::ExpectedBulk { got: buf[at] });
    }
    match parse_i64(&buf[at + 1..end]) {
        Some(len) if len >= 0 => Ok(Some((len, end + 2))),
        _ => Err(ProtocolError::InvalidBulkLength),
    }
}

/// A number of up to seven digits at `at` with the two bytes that end its line: the common case, without a search.
#[inline]
fn short_number(buf: &[u8], at: usize) -> Option<(u32, usize)> {
    let line = buf.get(at..)?;
    let first = line.first()?.wrapping_sub(b'0');
    if first > 9 {
        return None;
    }
    let mut value = u32::from(first);
    for (n, &byte) in line.iter().enumerate().take(8).skip(1) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let canonical = first != 0 || n == 1;
            return (byte == b'\r' && canonical && line.len() > n + 1).then_some((value, at + n + 2));
        }
        value = value * 10 + u32::from(digit);
    }
    None
}

struct TooLong;

/// The position of `byte` at or behind `state.at`, which remembers how far it has searched.
fn line_end(buf: &[u8], state: &mut DecodeState, byte: u8) -> Result<Option<usize>, TooLong> {
    let from = state.at + state.searched;
    let upto = buf.len().min(state.at + MAX_LINE_LEN + 1);
    if let Some(found) = buf[from..upto].iter().position(|&b| b == byte) {
        // Not remembered as searched: the byte behind it may be missing yet.
        state.searched = from + found - state.at;
        return Ok(Some(from + found));
    }
    if upto - state.at > MAX_LINE_LEN {
        return Err(TooLong);
    }
    state.searched = upto - state.at;
    Ok(None)
}

#[cold]
fn inline_request(
    buf: &mut [u8],
    args: &mut Vec<Range<usize>>,
    state: &mut DecodeState,
) -> Result<Decoded, ProtocolError> {
    let Some(newline) = line_end(buf, state, b'\n').map_err(|TooLong| ProtocolError::TooBigInline)? else {
        return Ok(Decoded::Incomplete);
    };
    state.searched = 0;
    let end = if newline > 0 && buf[newline - 1] == b'\r' { newline - 1 } else { newline };
    inline::split_in_place(&mut buf[..end], args)
        .map_err(|inline::Unbalanced| ProtocolError::UnbalancedQuotes)?;
    let consumed = newline + 1;
    Ok(if args.is_empty() { Decoded::Empty { consumed } } else { Decoded::Command { consumed } })
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
