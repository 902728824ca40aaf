//! Replies, in RESP2 or RESP3 as the connection has chosen.
//!
//! One method per type of reply. What RESP2 has no type for is written as what Redis 7.0 writes there instead: a map
//! as a flat array, a set or a push as an array, a double as a bulk string, a boolean as 0 or 1.

use crate::number::{format_i64, push_f64, push_i64, push_u64};

/// A place in the output, to come back to: see [`Encoder::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct Encoder<'a> {
    buf: &'a mut Vec<u8>,
    resp3: bool,
}

impl<'a> Encoder<'a> {
    /// An encoder that appends to `buf`.
    #[inline]
    pub fn new(buf: &'a mut Vec<u8>, resp3: bool) -> Self {
        Self { buf, resp3 }
    }

    /// Whether the connection speaks RESP3.
    #[must_use]
    pub fn is_resp3(&self) -> bool {
        self.resp3
    }

    /// Changes the protocol for what follows, as `HELLO` does before it replies.
    pub fn set_resp3(&mut self, resp3: bool) {
        self.resp3 = resp3;
    }

    /// A second handle on the same output, for a callee that takes an encoder by value.
    pub fn reborrow(&mut self) -> Encoder<'_> {
        Encoder { buf: self.buf, resp3: self.resp3 }
    }

    /// Bytes in the buffer, what was there before included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether the buffer is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.buf.extend_from_slice(b"+OK\r\n");
    }

    /// A status. `text` must not contain a line break.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "a simple string is one line");
        self.buf.push(b'+');
        self.buf.extend_from_slice(text.as_bytes());
        self.end_line();
    }

    /// An error. `text` starts with its code (`ERR`, `WRONGTYPE`, …); line breaks become spaces.
    pub fn error(&mut self, text: &str) {
        self.error_bytes(text.as_bytes());
    }

    /// As [`Encoder::error`], for a text that quotes what a client sent.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.buf.push(b'-');
        let end = text.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |last| last + 1);
        self.buf.extend(text[..end].iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }));
        self.end_line();
    }

    /// An integer.
    #[inline]
    pub fn int(&mut self, value: i64) {
        match value {
            0 => self.buf.extend_from_slice(b":0\r\n"),
            1 => self.buf.extend_from_slice(b":1\r\n"),
            _ => {
                self.buf.push(b':');
                push_i64(self.buf, value);
                self.end_line();
            }
        }
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.buf.reserve(bytes.len() + 16);
        self.header(b'$', bytes.len());
        self.buf.extend_from_slice(bytes);
        self.end_line();
    }

    /// A bulk string holding the decimal text of an integer.
    pub fn bulk_int(&mut self, value: i64) {
        self.bulk(&format_i64(value));
    }

    /// A missing value.
    #[inline]
    pub fn null(&mut self) {
        self.buf.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// A missing array.
    pub fn null_array(&mut self) {
        self.buf.extend_from_slice(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// An array of `len` elements, which follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// A map of `len` pairs, which follow: key, value, key, value.
    #[inline]
    pub fn map(&mut self, len: usize) {
        if self.resp3 { self.header(b'%', len) } else { self.header(b'*', 2 * len) }
    }

    /// A set of `len` elements, which follow.
    pub fn set(&mut self, len: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, len);
    }

    /// A message out of turn of `len` elements, which follow.
    pub fn push(&mut self, len: usize) {
        self.header(if self.resp3 { b'>' } else { b'*' }, len);
    }

    /// Attributes of `len` pairs about the reply that comes behind them. RESP3 only.
    pub fn attribute(&mut self, len: usize) {
        debug_assert!(self.resp3, "RESP2 has no attributes");
        self.header(b'|', len);
    }

    /// A double, as `%.17g`.
    pub fn double(&mut self, value: f64) {
        let mut text = Vec::with_capacity(32);
        push_f64(&mut text, value);
        self.number_text(&text);
    }

    /// A double whose text the caller has already formatted.
    pub fn double_text(&mut self, text: &[u8]) {
        self.number_text(text);
    }

    fn number_text(&mut self, text: &[u8]) {
        if self.resp3 {
            self.buf.push(b',');
            self.buf.extend_from_slice(text);
            self.end_line();
        } else {
            self.bulk(text);
        }
    }

    /// An integer of any size, given as its decimal text.
    pub fn big_number(&mut self, text: &[u8]) {
        if self.resp3 {
            self.buf.push(b'(');
            self.buf.extend_from_slice(text);
            self.end_line();
        } else {
            self.bulk(text);
        }
    }

    /// A truth value.
    pub fn boolean(&mut self, value: bool) {
        self.buf.extend_from_slice(match (self.resp3, value) {
            (true, true) => b"#t\r\n",
            (true, false) => b"#f\r\n",
            (false, true) => b":1\r\n",
            (false, false) => b":0\r\n",
        });
    }

    /// A text for people, with its format (`txt`, `mkd`); a bulk string in RESP2.
    ///
    /// # Panics
    /// When `format` is not three bytes long, as the protocol demands.
    pub fn verbatim(&mut self, format: &str, bytes: &[u8]) {
        assert_eq!(format.len(), 3, "the format of a verbatim string has three letters");
        if self.resp3 {
            self.header(b'=', bytes.len() + 4);
            self.buf.extend_from_slice(format.as_bytes());
            self.buf.push(b':');
            self.buf.extend_from_slice(bytes);
            self.end_line();
        } else {
            self.bulk(bytes);
        }
    }

    /// Bytes that are already encoded.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Remembers this place: a later call can put a header here, or take back all that follows.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.buf.len())
    }

    /// Takes back everything written since `mark`.
    pub fn truncate(&mut self, mark: Mark) {
        self.buf.truncate(mark.0);
    }

    /// Puts the header of an array of `len` elements before what was written since `mark`. For lengths that are known
    /// only afterwards; it moves those bytes, so a length known before is better given to [`Encoder::array`].
    pub fn array_at(&mut self, mark: Mark, len: usize) {
        self.header_at(mark, |header| header.array(len));
    }

    /// As [`Encoder::array_at`], for a map of `len` pairs.
    pub fn map_at(&mut self, mark: Mark, len: usize) {
        self.header_at(mark, |header| header.map(len));
    }

    /// As [`Encoder::array_at`], for a set.
    pub fn set_at(&mut self, mark: Mark, len: usize) {
        self.header_at(mark, |header| header.set(len));
    }

    fn header_at(&mut self, mark: Mark, write: impl FnOnce(&mut Encoder<'_>)) {
        let mut header = Vec::with_capacity(24);
        write(&mut Encoder::new(&mut header, self.resp3));
        self.buf.splice(mark.0..mark.0, header);
    }

    #[inline]
    fn header(&mut self, kind: u8, len: usize) {
        if len < 10 {
            self.buf.extend_from_slice(&[kind, b'0' + len as u8, b'\r', b'\n']);
        } else {
            self.buf.push(kind);
            push_u64(self.buf, len as u64);
            self.end_line();
        }
    }

    #[inline]
    fn end_line(&mut self) {
        self.buf.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(resp3: bool, write: impl FnOnce(&mut Encoder<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Encoder::new(&mut out, resp3));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_type_has_its_form_in_both_protocols() {
        type Case = (fn(&mut Encoder<'_>), &'static str, &'static str);
        let cases: [Case; 19] = [
            (|e| e.ok(), "+OK\r\n", "+OK\r\n"),
            (|e| e.simple("QUEUED"), "+QUEUED\r\n", "+QUEUED\r\n"),
            (|e| e.error("ERR a\r\nb\r\n"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|e| e.int(-12), ":-12\r\n", ":-12\r\n"),
            (|e| e.bulk(b"hello world"), "$11\r\nhello world\r\n", "$11\r\nhello world\r\n"),
            (|e| e.bulk_int(7), "$1\r\n7\r\n", "$1\r\n7\r\n"),
            (|e| e.null(), "$-1\r\n", "_\r\n"),
            (|e| e.null_array(), "*-1\r\n", "_\r\n"),
            (|e| e.array(12), "*12\r\n", "*12\r\n"),
            (|e| e.map(2), "*4\r\n", "%2\r\n"),
            (|e| e.set(2), "*2\r\n", "~2\r\n"),
            (|e| e.push(2), "*2\r\n", ">2\r\n"),
            (|e| e.double(0.5), "$3\r\n0.5\r\n", ",0.5\r\n"),
            (|e| e.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n"),
            (|e| e.double_text(b"10.6"), "$4\r\n10.6\r\n", ",10.6\r\n"),
            (|e| e.big_number(b"123"), "$3\r\n123\r\n", "(123\r\n"),
            (|e| e.boolean(true), ":1\r\n", "#t\r\n"),
            (|e| e.boolean(false), ":0\r\n", "#f\r\n"),
            (|e| e.verbatim("txt", b"ab"), "$2\r\nab\r\n", "=6\r\ntxt:ab\r\n"),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(encoded(false, write), resp2);
            assert_eq!(encoded(true, write), resp3);
        }
        assert_eq!(encoded(true, |e| e.attribute(1)), "|1\r\n");
    }

    #[test]
    fn header_goes_before_what_it_counts() {
        let text = encoded(true, |e| {
            e.ok();
            let mark = e.mark();
            e.int(1);
            e.int(2);
            e.array_at(mark, 2);
            let undone = e.mark();
            e.bulk(b"gone");
            e.truncate(undone);
            let map = e.mark();
            e.map_at(map, 0);
        });
        assert_eq!(text, "+OK\r\n*2\r\n:1\r\n:2\r\n%0\r\n");
    }
}
