//! Inline requests and lines of a configuration file: words, quoted as a shell user would.
//!
//! Words are separated by white space. Within double quotes `\n \r \t \a \b` and `\xHH` stand for single bytes and `\`
//! before any other byte for that byte; within single quotes only `\'` is special. A closing quote must be followed by
//! white space or the end of the line.

use std::ops::Range;

/// A quote is not closed, or something stands right behind a closing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unbalanced;

/// Splits a line into words; `None` when quotes are unbalanced.
#[must_use]
pub fn split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut line = line.to_vec();
    let mut args = Vec::new();
    split_in_place(&mut line, &mut args).ok()?;
    Some(args.into_iter().map(|range| line[range].to_vec()).collect())
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r')
}

/// Splits `line` into words and unescapes them where they stand: a word is never longer than its source.
pub(super) fn split_in_place(line: &mut [u8], args: &mut Vec<Range<usize>>) -> Result<(), Unbalanced> {
    let mut read = 0;
    loop {
        while line.get(read).is_some_and(|&b| is_space(b)) {
            read += 1;
        }
        if read == line.len() {
            return Ok(());
        }
        let start = read;
        let mut write = read;
        let mut push = |line: &mut [u8], byte: u8| {
            line[write] = byte;
            write += 1;
        };
        let mut quote = None;
        loop {
            match (quote, &line[read..]) {
                (None, []) => break,
                (Some(_), []) => return Err(Unbalanced),
                (None, &[byte, ..]) if is_space(byte) => break,
                (None, &[byte @ (b'"' | b'\''), ..]) => {
                    quote = Some(byte);
                    read += 1;
                }
                (Some(b'"'), &[b'\\', b'x', high, low, ..])
                    if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                {
                    push(line, hex(high) << 4 | hex(low));
                    read += 4;
                }
                (Some(b'"'), &[b'\\', byte, ..]) => {
                    push(line, unescape(byte));
                    read += 2;
                }
                (Some(b'\''), &[b'\\', b'\'', ..]) => {
                    push(line, b'\'');
                    read += 2;
                }
                (Some(open), &[byte, ref rest @ ..]) if byte == open => {
                    if rest.first().is_some_and(|&b| !is_space(b)) {
                        return Err(Unbalanced);
                    }
                    quote = None;
                    read += 1;
                }
                (_, &[byte, ..]) => {
                    push(line, byte);
                    read += 1;
                }
            }
        }
        args.push(start..write);
    }
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).map_or(0, |value| value as u8)
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Option<Vec<String>> {
        Some(split_args(line.as_bytes())?.iter().map(|arg| arg.escape_ascii().to_string()).collect())
    }

    fn words(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn words_are_split_and_unquoted() {
        assert_eq!(split(""), words(&[]));
        assert_eq!(split("  set  key\tvalue  "), words(&["set", "key", "value"]));
        assert_eq!(split(r#"a "b c" 'd e'"#), words(&["a", "b c", "d e"]));
        assert_eq!(split(r#""\x41\n\q\\""#), words(&[r"A\nq\\"]));
        assert_eq!(split(r#""\x4""#), words(&["x4"]));
        assert_eq!(split(r"'it\'s \n'"), words(&[r"it\'s \\n"]));
        assert_eq!(split(r#""""#), words(&[""]));
        assert_eq!(split(r#"ab"cd""#), words(&["abcd"]));
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [r#""abc"#, "'abc", r#""a"b"#, "'a'b", r#""a\""#, r"'a\'"] {
            assert_eq!(split(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_quoting(args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6)) {
            let mut line = Vec::new();
            for arg in &args {
                line.push(b' ');
                line.push(b'"');
                for byte in arg {
                    line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
                }
                line.push(b'"');
            }
            prop_assert_eq!(split_args(&line), Some(args));
        }

        #[test]
        fn any_line_is_split_or_refused(line in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split_args(&line);
        }
    }
}
