//! What can go wrong in a command, in the words clients know.
//!
//! A handler returns a [`CommandError`] and nothing else: whoever called it truncates the output, rolls the
//! transaction back to the command's savepoint and sends [`CommandError::reply`]. So a handler may fail at
//! any point without having changed anything, and no handler contains clean-up code.

use std::borrow::Cow;

use farkeep_core::heap::HeapError;

/// Why a command was refused. The texts are Redis 7.0's, byte for byte, because clients compare them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The key holds another type than the command works on.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    /// The arguments cannot be understood.
    #[error("ERR syntax error")]
    Syntax,
    /// An argument or a stored value ought to be a 64-bit integer.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// An argument or a stored value ought to be a finite floating-point number.
    #[error("ERR value is not a valid float")]
    NotFloat,
    /// The command needs a key that is there.
    #[error("ERR no such key")]
    NoSuchKey,
    /// An argument's number is outside of what the command takes.
    #[error("ERR index out of range")]
    IndexOutOfRange,
    /// The result would be longer than the longest string, in bytes.
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    StringTooLong,
    /// `SCAN` and its kin were given something that is no cursor.
    #[error("ERR invalid cursor")]
    InvalidCursor,
    /// `SELECT`, `COPY`, `MOVE` and `SWAPDB`: there is no such database.
    #[error("ERR DB index is out of range")]
    NoSuchDatabase,
    /// Fewer or more arguments than the command takes. Holds the command's full name (`object|encoding`).
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(Cow<'static, str>),
    /// An expiry that is not positive or too far in the future. Holds the command's name.
    #[error("ERR invalid expire time in '{0}' command")]
    InvalidExpire(&'static str),
    /// The image is as large as it may become.
    #[error("OOM command not allowed when used memory > 'maxmemory'.")]
    OutOfMemory(#[source] HeapError),
    /// Any other refusal: the whole error line, its code included, without the leading dash.
    #[error("{0}")]
    Other(Cow<'static, str>),
}

impl CommandError {
    /// A refusal with a fixed text; `text` is the whole line without the leading dash.
    pub const fn new(text: &'static str) -> Self {
        Self::Other(Cow::Borrowed(text))
    }

    /// A refusal with a text made on the spot; `text` is the whole line without the leading dash.
    pub const fn owned(text: String) -> Self {
        Self::Other(Cow::Owned(text))
    }

    /// The wrong-number-of-arguments refusal a handler raises itself, for example `HSET` with an odd number
    /// of words.
    pub const fn arity(name: &'static str) -> Self {
        Self::Arity(Cow::Borrowed(name))
    }

    /// The error line as the client gets it, without the leading dash.
    pub fn reply(&self) -> String {
        self.to_string()
    }

    /// Redis's answer to a subcommand it does not have: `command` in upper case, `sub` as the client wrote
    /// it.
    pub fn unknown_subcommand(command: &str, sub: &[u8]) -> Self {
        // Redis prints it as a C string, which a NUL ends.
        let end = sub.iter().position(|&byte| byte == 0).unwrap_or(sub.len());
        let sub = String::from_utf8_lossy(&sub[..end.min(128)]).into_owned();
        Self::owned(format!("ERR unknown subcommand '{sub}'. Try {command} HELP."))
    }
}

impl From<HeapError> for CommandError {
    fn from(source: HeapError) -> Self {
        Self::OutOfMemory(source)
    }
}
