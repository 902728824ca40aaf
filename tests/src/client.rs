//! A small blocking RESP client that keeps the raw bytes of every reply.
//!
//! Real client libraries hide what a differential test must see: which null it was, the spelling of a double, whether a map
//! came as a map. This one hands out the bytes as they came, and a parsed [`Value`] where a test wants to look inside.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take. A test that expects a blocked reply sets its own limit.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    consumed: usize,
}

/// A parsed reply, one variant for each thing that looks different on the wire.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Simple(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    NullBulk,
    NullArray,
    Null,
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Push(Vec<Value>),
    Double(String),
    Bool(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
}

impl Value {
    /// The text of a simple string, bulk or verbatim string.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) => Some(text.clone()),
            Self::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Self::Verbatim(bytes) => {
                Some(String::from_utf8_lossy(bytes.get(4..).unwrap_or_default()).into_owned())
            }
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    /// The error's text, if it is one.
    pub fn error(&self) -> Option<&str> {
        if let Self::Error(text) = self { Some(text) } else { None }
    }

    /// Whether this is an error whose text begins so.
    pub fn is_error(&self, prefix: &str) -> bool {
        self.error().is_some_and(|text| text.starts_with(prefix))
    }

    /// The elements of an array, set or push, or the flattened pairs of a map.
    pub fn elements(&self) -> Option<Vec<Value>> {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => Some(items.clone()),
            Self::Map(pairs) => {
                Some(pairs.iter().flat_map(|(key, value)| [key.clone(), value.clone()]).collect())
            }
            _ => None,
        }
    }

    /// The bytes of a bulk string.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Bulk(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    /// Whether this is any of the three nulls.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::NullBulk | Self::NullArray | Self::Null)
    }

    /// Whether this is `+OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Self::Simple(text) if text == "OK")
    }
}

impl Client {
    /// Connects to a port on this host.
    pub fn connect(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { stream, received: Vec::new(), consumed: 0 })
    }

    /// Sets how long [`Client::reply`] waits.
    pub fn set_reply_timeout(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("a positive timeout is accepted");
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one command as a multibulk, without waiting for its reply.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(args, &mut bytes);
        self.send_raw(&bytes)
    }

    /// The bytes of the next reply, exactly as they came.
    pub fn reply_raw(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(len) = frame_len(&self.received[self.consumed..])? {
                let raw = self.received[self.consumed..self.consumed + len].to_vec();
                self.consumed += len;
                if self.consumed == self.received.len() {
                    self.received.clear();
                    self.consumed = 0;
                }
                return Ok(raw);
            }
            let mut chunk = [0; 64 * 1024];
            let count = self.stream.read(&mut chunk)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(&chunk[..count]);
        }
    }

    /// The next reply.
    pub fn reply(&mut self) -> io::Result<Value> {
        Ok(parse(&self.reply_raw()?))
    }

    /// Sends a command and waits for its reply.
    pub fn try_command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.send(args)?;
        self.reply()
    }

    /// Sends a command and waits for its reply; panics if the connection breaks.
    #[track_caller]
    pub fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        match self.try_command(args) {
            Ok(value) => value,
            Err(error) => panic!("{}: {error}", show_command(args)),
        }
    }

    /// A command given as words separated by blanks: for tests whose arguments have none.
    #[track_caller]
    pub fn words(&mut self, line: &str) -> Value {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        self.command(&words)
    }

    /// Sends a command that must answer `+OK`.
    #[track_caller]
    pub fn expect_ok(&mut self, line: &str) {
        let value = self.words(line);
        assert!(value.is_ok(), "{line}: expected OK, got {value:?}");
    }

    /// One field of INFO, or `None` where there is no such field.
    pub fn try_info(&mut self, section: &str, field: &str) -> io::Result<Option<String>> {
        let text = self.try_command(&["INFO", section])?.text().unwrap_or_default();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == field)
            .map(|(_, value)| value.trim_end().to_owned()))
    }
}

/// Appends `args` as a RESP multibulk.
pub fn encode<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// A command as one would type it into redis-cli.
pub fn show_command<A: AsRef<[u8]>>(args: &[A]) -> String {
    args.iter().map(|arg| quote(arg.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Bytes as redis-cli would read them back: bare where that is safe, quoted and escaped otherwise.
pub fn quote(bytes: &[u8]) -> String {
    let bare = !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\'));
    if bare {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b' '..=b'~' => text.push(char::from(byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text.push('"');
    text
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a RESP reply: {what}"))
}

/// The text of the line that starts at `at` and the position after its CRLF, or `None` while it is incomplete.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..end], at + end + 2))
}

fn number(text: &[u8]) -> io::Result<i64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| bad(&format!("length {}", quote(text))))
}

/// The length of the first complete reply in `bytes`, or `None` while it is incomplete.
fn frame_len(bytes: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0;
    let mut open: u64 = 1;
    while open > 0 {
        let Some(&kind) = bytes.get(at) else { return Ok(None) };
        let Some((text, after)) = line(bytes, at + 1) else { return Ok(None) };
        at = after;
        open -= 1;
        match kind {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {}
            b'$' | b'=' | b'!' => {
                let len = number(text)?;
                if let Ok(len) = usize::try_from(len) {
                    at += len + 2;
                    if bytes.len() < at {
                        return Ok(None);
                    }
                }
            }
            b'*' | b'~' | b'>' => open += u64::try_from(number(text)?).unwrap_or(0),
            b'%' => open += 2 * u64::try_from(number(text)?).unwrap_or(0),
            // An attribute precedes the reply it belongs to, which is still to come.
            b'|' => open += 2 * u64::try_from(number(text)?).unwrap_or(0) + 1,
            other => return Err(bad(&format!("type byte {}", quote(&[other])))),
        }
    }
    Ok(Some(at))
}

/// Parses one complete reply. Panics on malformed bytes: [`Client::reply_raw`] hands out whole frames only.
pub fn parse(raw: &[u8]) -> Value {
    let mut at = 0;
    parse_at(raw, &mut at)
}

fn parse_at(raw: &[u8], at: &mut usize) -> Value {
    let kind = raw[*at];
    let (text, after) = line(raw, *at + 1).expect("a whole frame");
    *at = after;
    let string = || String::from_utf8_lossy(text).into_owned();
    let count = || number(text).expect("a length");
    match kind {
        b'+' => Value::Simple(string()),
        b'-' => Value::Error(string()),
        b':' => Value::Int(count()),
        b'_' => Value::Null,
        b',' => Value::Double(string()),
        b'#' => Value::Bool(text == b"t"),
        b'(' => Value::BigNumber(string()),
        b'$' | b'=' | b'!' => {
            let Ok(len) = usize::try_from(count()) else { return Value::NullBulk };
            let bytes = raw[*at..*at + len].to_vec();
            *at += len + 2;
            match kind {
                b'$' => Value::Bulk(bytes),
                b'=' => Value::Verbatim(bytes),
                _ => Value::Error(String::from_utf8_lossy(&bytes).into_owned()),
            }
        }
        b'*' | b'~' | b'>' => {
            let Ok(len) = usize::try_from(count()) else { return Value::NullArray };
            let items = (0..len).map(|_| parse_at(raw, at)).collect();
            match kind {
                b'*' => Value::Array(items),
                b'~' => Value::Set(items),
                _ => Value::Push(items),
            }
        }
        b'%' => {
            let len = usize::try_from(count()).unwrap_or(0);
            Value::Map((0..len).map(|_| (parse_at(raw, at), parse_at(raw, at))).collect())
        }
        b'|' => {
            let len = usize::try_from(count()).unwrap_or(0);
            for _ in 0..2 * len {
                parse_at(raw, at);
            }
            parse_at(raw, at)
        }
        other => panic!("type byte {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_reply_is_one_frame_however_it_is_cut() {
        let raw = b"*3\r\n$3\r\na\r\n\r\n%1\r\n+k\r\n*-1\r\n$-1\r\n+next\r\n";
        let whole = raw.len() - b"+next\r\n".len();
        for cut in 0..whole {
            assert_eq!(frame_len(&raw[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert_eq!(frame_len(raw).unwrap(), Some(whole));
        let expected = Value::Array(vec![
            Value::Bulk(b"a\r\n".to_vec()),
            Value::Map(vec![(Value::Simple("k".into()), Value::NullArray)]),
            Value::NullBulk,
        ]);
        assert_eq!(parse(&raw[..whole]), expected);
    }

    #[test]
    fn quoted_bytes_read_back_in_redis_cli() {
        assert_eq!(quote(b"plain"), "plain");
        assert_eq!(quote(b""), "\"\"");
        assert_eq!(quote(b"a b\x00\"\\"), "\"a b\\x00\\\"\\\\\"");
    }
}
