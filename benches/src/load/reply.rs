//! Counting replies as their bytes arrive.
//!
//! Replies are recognised in the receive buffer and never copied; what a read cut in two is carried over as a number of
//! bytes to skip or, for a line, as its first part. RESP2 and the RESP3 types a server may send unasked-for are known.

/// A complete top-level reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// A status, number, string or aggregate.
    Value,
    /// There is nothing at that key.
    Null,
    /// The server's error text, without the leading `-`.
    Error(&'a [u8]),
}

/// What arrived makes no sense as RESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) String);

/// Where in the stream of replies a connection is.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// The first part of a line whose end has not arrived.
    line: Vec<u8>,
    /// Bytes of a bulk string, its CRLF included, that have not arrived.
    skip: usize,
    /// Elements of the current aggregate, nested ones included, that have not arrived.
    elements: u64,
}

impl Scanner {
    /// Takes the next bytes of the stream and calls `on_reply` for every reply that they complete.
    #[inline]
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_reply: impl FnMut(Reply<'_>),
    ) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                if self.skip == 0 && self.elements == 0 {
                    on_reply(Reply::Value);
                }
                continue;
            }
            let Some(newline) = bytes.iter().position(|&byte| byte == b'\n') else {
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            let (end_of_line, rest) = bytes.split_at(newline + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.take_line(end_of_line, &mut on_reply)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(end_of_line);
                self.take_line(&line, &mut on_reply)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(())
    }

    /// `line` ends with CRLF.
    #[inline]
    fn take_line(&mut self, line: &[u8], on_reply: &mut impl FnMut(Reply<'_>)) -> Result<(), Malformed> {
        let malformed = || Malformed(String::from_utf8_lossy(line).trim_end().to_owned());
        let text = line.get(1..line.len().saturating_sub(2)).ok_or_else(malformed)?;
        self.elements = self.elements.saturating_sub(1);
        let reply = match line[0] {
            b'+' | b':' | b',' | b'#' | b'(' => Reply::Value,
            b'-' => Reply::Error(text),
            b'_' => Reply::Null,
            b'$' | b'=' => match length(text).ok_or_else(malformed)? {
                None => Reply::Null,
                Some(len) => {
                    self.skip = len + 2;
                    return Ok(());
                }
            },
            b'*' | b'~' | b'>' => {
                self.elements += length(text).ok_or_else(malformed)?.unwrap_or(0) as u64;
                Reply::Value
            }
            b'%' => {
                self.elements += 2 * length(text).ok_or_else(malformed)?.unwrap_or(0) as u64;
                Reply::Value
            }
            _ => return Err(malformed()),
        };
        if self.elements == 0 {
            on_reply(reply);
        }
        Ok(())
    }
}

/// A length line's number; `Some(None)` is the null of RESP2, `-1`.
fn length(digits: &[u8]) -> Option<Option<usize>> {
    if digits == b"-1" {
        return Some(None);
    }
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    let number = digits.iter().try_fold(0_usize, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0'))
    })?;
    Some(Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"+OK\r\n:1\r\n$-1\r\n-NOREPLICAS no\r\n$5\r\na\r\nbc\r\n*2\r\n$1\r\nx\r\n*1\r\n:7\r\n*0\r\n_\r\n$0\r\n\r\n";
    const REPLIES: [&str; 9] =
        ["Value", "Value", "Null", "Error", "Value", "Value", "Value", "Null", "Value"];

    fn replies_fed_in_pieces_of(len: usize) -> Vec<String> {
        let mut scanner = Scanner::default();
        let mut replies = Vec::new();
        for piece in STREAM.chunks(len) {
            scanner
                .feed(piece, |reply| {
                    let shown = format!("{reply:?}");
                    replies.push(shown.split('(').next().unwrap().to_owned());
                })
                .unwrap();
        }
        replies
    }

    #[test]
    fn replies_are_counted_however_the_stream_is_cut() {
        for len in 1..=STREAM.len() {
            assert_eq!(replies_fed_in_pieces_of(len), REPLIES, "pieces of {len}");
        }
    }

    #[test]
    fn error_text_is_handed_on() {
        let mut seen = Vec::new();
        let mut scanner = Scanner::default();
        for piece in [&b"-NOREP"[..], b"LICAS no\r\n"] {
            scanner
                .feed(piece, |reply| {
                    if let Reply::Error(text) = reply {
                        seen = text.to_vec();
                    }
                })
                .unwrap();
        }
        assert_eq!(seen, b"NOREPLICAS no");
    }

    #[test]
    fn what_is_not_resp_is_refused() {
        for garbage in [&b"HTTP/1.1 200 OK\r\n"[..], b"$x\r\n", b"\n", b"$99999999999\r\n"] {
            assert!(Scanner::default().feed(garbage, |_| ()).is_err());
        }
    }
}
