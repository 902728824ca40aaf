//! The client's side: requests out, replies in. For tools, load generators and tests.

use std::fmt;

use crate::number::{parse_i64, parse_u64, push_u64};

/// Replies nested deeper than this are refused.
const MAX_DEPTH: usize = 64;

/// Appends a request as a multibulk.
pub fn push_command<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    out.push(b'*');
    push_u64(out, args.len() as u64);
    out.extend_from_slice(b"\r\n");
    for arg in args {
        let arg = arg.as_ref();
        out.push(b'$');
        push_u64(out, arg.len() as u64);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// A reply of either protocol.
#[derive(Clone, PartialEq)]
pub enum Reply {
    /// `+`
    Simple(Vec<u8>),
    /// `-`, its code included
    Error(Vec<u8>),
    /// `:`
    Int(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1` or `_`
    Null,
    /// `*`
    Array(Vec<Reply>),
    /// `%`
    Map(Vec<(Reply, Reply)>),
    /// `~`
    Set(Vec<Reply>),
    /// `>`
    Push(Vec<Reply>),
    /// `,` as its text
    Double(Vec<u8>),
    /// `#`
    Boolean(bool),
    /// `(` as its text
    BigNumber(Vec<u8>),
    /// `=`, its format included
    Verbatim(Vec<u8>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |f: &mut fmt::Formatter<'_>, sign: &str, bytes: &[u8]| {
            write!(f, "{sign}{}", bytes.escape_ascii())
        };
        match self {
            Self::Simple(bytes) => text(f, "+", bytes),
            Self::Error(bytes) => text(f, "-", bytes),
            Self::Int(value) => write!(f, ":{value}"),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Null => f.write_str("null"),
            Self::Array(items) => f.debug_list().entries(items).finish(),
            Self::Map(pairs) => f.debug_map().entries(pairs.iter().map(|(k, v)| (k, v))).finish(),
            Self::Set(items) => f.debug_set().entries(items).finish(),
            Self::Push(items) => {
                f.write_str(">")?;
                f.debug_list().entries(items).finish()
            }
            Self::Double(bytes) => text(f, ",", bytes),
            Self::Boolean(value) => write!(f, "#{value}"),
            Self::BigNumber(bytes) => text(f, "(", bytes),
            Self::Verbatim(bytes) => text(f, "=", bytes),
        }
    }
}

/// The bytes are not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a RESP reply, at byte {at}")]
pub struct BadReply {
    /// Where it went wrong, in bytes from the start of the reply.
    pub at: usize,
}

/// Decodes the reply at the start of `buf`: the reply and the bytes it took, or `None` while it is incomplete.
/// Attributes are skipped.
///
/// # Errors
/// When the bytes are not RESP.
pub fn decode_reply(buf: &[u8]) -> Result<Option<(Reply, usize)>, BadReply> {
    let mut cursor = Cursor { buf, at: 0 };
    match cursor.reply(0) {
        Ok(reply) => Ok(Some((reply, cursor.at))),
        Err(Stop::Incomplete) => Ok(None),
        Err(Stop::Bad) => Err(BadReply { at: cursor.at }),
    }
}

enum Stop {
    Incomplete,
    Bad,
}

struct Cursor<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.buf[self.at..];
        let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or(Stop::Incomplete)?;
        self.at += end + 2;
        Ok(&rest[..end])
    }

    fn bytes(&mut self, len: u64) -> Result<&'a [u8], Stop> {
        let rest = &self.buf[self.at..];
        let len = usize::try_from(len).map_err(|_| Stop::Bad)?;
        if rest.len().checked_sub(2).is_none_or(|room| room < len) {
            return Err(Stop::Incomplete);
        }
        self.at += len + 2;
        Ok(&rest[..len])
    }

    fn replies(&mut self, count: u64, depth: usize) -> Result<Vec<Reply>, Stop> {
        (0..count).map(|_| self.reply(depth + 1)).collect()
    }

    fn reply(&mut self, depth: usize) -> Result<Reply, Stop> {
        if depth > MAX_DEPTH {
            return Err(Stop::Bad);
        }
        let line = self.line()?;
        let (kind, text) = line.split_first().ok_or(Stop::Bad)?;
        let count = || parse_u64(text).ok_or(Stop::Bad);
        Ok(match kind {
            b'+' => Reply::Simple(text.to_vec()),
            b'-' => Reply::Error(text.to_vec()),
            b':' => Reply::Int(parse_i64(text).ok_or(Stop::Bad)?),
            b',' => Reply::Double(text.to_vec()),
            b'(' => Reply::BigNumber(text.to_vec()),
            b'#' => Reply::Boolean(text == b"t"),
            b'_' => Reply::Null,
            b'$' | b'*' if text == b"-1" => Reply::Null,
            b'$' => Reply::Bulk(self.bytes(count()?)?.to_vec()),
            b'=' => Reply::Verbatim(self.bytes(count()?)?.to_vec()),
            b'*' => Reply::Array(self.replies(count()?, depth)?),
            b'~' => Reply::Set(self.replies(count()?, depth)?),
            b'>' => Reply::Push(self.replies(count()?, depth)?),
            b'%' => {
                let pairs = (0..count()?).map(|_| Ok((self.reply(depth + 1)?, self.reply(depth + 1)?)));
                Reply::Map(pairs.collect::<Result<_, Stop>>()?)
            }
            b'|' => {
                for _ in 0..count()?.checked_mul(2).ok_or(Stop::Bad)? {
                    self.reply(depth + 1)?;
                }
                self.reply(depth + 1)?
            }
            _ => return Err(Stop::Bad),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Encoder;
    use proptest::prelude::*;

    #[test]
    fn replies_of_both_protocols_are_read_back() {
        for resp3 in [false, true] {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&mut out, resp3);
            encoder.array(5);
            encoder.int(-5);
            encoder.bulk(b"a\r\nb");
            encoder.null();
            encoder.map(1);
            encoder.simple("k");
            encoder.boolean(true);
            encoder.verbatim("txt", b"x");
            let (reply, consumed) = decode_reply(&out).unwrap().unwrap();
            assert_eq!(consumed, out.len());
            let Reply::Array(items) = reply else { panic!("an array was written") };
            assert_eq!(items[..3], [Reply::Int(-5), Reply::Bulk(b"a\r\nb".to_vec()), Reply::Null]);
            for cut in 0..out.len() {
                assert_eq!(decode_reply(&out[..cut]), Ok(None), "{cut} bytes are not the whole reply");
            }
        }
    }

    #[test]
    fn bulk_without_its_line_end_is_incomplete() {
        for text in ["$0\r\n", "$0\r\n:", "|5\r\n$0\r\n:", "=3\r\nabc\r", "*2\r\n$0\r\n\r"] {
            assert_eq!(decode_reply(text.as_bytes()), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(decode_reply(&b"*1\r\n".repeat(10_000)).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_reply_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_reply(&bytes);
        }

        #[test]
        fn bits_of_protocol_are_a_reply_or_refused(pieces in prop::collection::vec("([-+:$*%~>=|#_,(][-0-9]{0,2})?(\r\n)?[a-z]{0,2}", 0..12)) {
            let _ = decode_reply(pieces.concat().as_bytes());
        }
    }
}
