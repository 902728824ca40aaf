//! A blocking client: one socket, requests out, replies in.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farkeep_proto::resp::client::{Reply, decode_reply, push_command};

/// How long a node on this host may take for any one thing before it is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// A connection to a node.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    parsed: usize,
}

impl Client {
    /// Connects to a node on this host.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect_here(port: u16) -> io::Result<Self> {
        Self::connect("127.0.0.1", port, PATIENCE)
    }

    /// Connects. A node that is silent for longer than `patience`, now or later, is taken for dead.
    ///
    /// # Errors
    /// When the name does not resolve or nobody listens.
    pub fn connect(host: &str, port: u16, patience: Duration) -> io::Result<Self> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let mut client = Self { stream, output: Vec::new(), input: Vec::new(), parsed: 0 };
                    client.set_patience(patience)?;
                    return Ok(client);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// How long it may be silent from now on.
    ///
    /// # Errors
    /// When that is no time at all.
    pub fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))
    }

    /// Puts a command into the next batch.
    pub fn queue(&mut self, words: &[&[u8]]) {
        push_command(&mut self.output, words);
    }

    /// Sends the batch.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    /// The next reply.
    ///
    /// # Errors
    /// When the connection is gone, silent for too long, or does not speak RESP.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            match decode_reply(&self.input[self.parsed..]).map_err(io::Error::other)? {
                Some((reply, len)) => {
                    self.parsed += len;
                    return Ok(reply);
                }
                None => self.fill()?,
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.input.drain(..self.parsed);
        self.parsed = 0;
        let len = self.input.len();
        self.input.resize(len + READ_BYTES, 0);
        let count = self.stream.read(&mut self.input[len..])?;
        self.input.truncate(len + count);
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// One command and its reply.
    ///
    /// # Errors
    /// As [`Client::send`] and [`Client::receive`].
    pub fn call(&mut self, words: &[&str]) -> io::Result<Reply> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        self.queue(&words);
        self.send()?;
        self.receive()
    }

    /// One command that has to succeed.
    ///
    /// # Errors
    /// When it does not, with the node's own words. Secrets are in neither.
    pub fn must(&mut self, words: &[&str]) -> Result<Reply> {
        let (shown, hides) = shown(words);
        let reply = self.call(words).with_context(|| format!("{shown} got no answer"))?;
        if let Reply::Error(text) = &reply {
            let text = text.escape_ascii().to_string();
            // A server that does not know the command repeats its arguments.
            let text = if hides { text.split(", with args beginning with").next() } else { Some(&text[..]) };
            bail!("{shown} was answered with: {}", text.unwrap_or_default());
        }
        Ok(reply)
    }

    /// The value of one field of INFO.
    ///
    /// # Errors
    /// When the node does not answer or has no such field.
    pub fn info(&mut self, section: &str, field: &str) -> Result<String> {
        let text = self.info_text(&[section])?;
        field_of(&text, field)
            .map(str::to_owned)
            .with_context(|| format!("INFO {section} has no field {field}"))
    }

    /// The text of these sections of INFO.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn info_text(&mut self, sections: &[&str]) -> Result<String> {
        let words: Vec<&str> = ["INFO"].iter().chain(sections).copied().collect();
        let Reply::Bulk(text) = self.must(&words)? else { bail!("INFO is no text") };
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// A command as it may be printed, and whether anything was left out of it: what stands behind a word that announces a secret.
fn shown(words: &[&str]) -> (String, bool) {
    const ANNOUNCE: [&str; 4] = ["auth", "auth2", "requirepass", "masterauth"];
    let announces = |word: &&str| ANNOUNCE.iter().any(|secret| word.eq_ignore_ascii_case(secret));
    let len = words.iter().position(announces).map_or(words.len(), |at| at + 1);
    (words[..len].join(" "), len < words.len())
}

/// The value of a field in the text of an INFO.
pub fn field_of<'t>(text: &'t str, field: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_fields_are_found_by_their_whole_name() {
        let text = "# Farkeep\r\nfarkeep_log_bytes:2\r\nfarkeep_log:/x\r\n";
        assert_eq!(field_of(text, "farkeep_log"), Some("/x"));
        assert_eq!(field_of(text, "log"), None);
    }

    #[test]
    fn what_is_secret_in_a_command_is_not_shown() {
        for (words, text) in [
            (&["AUTH", "s3cret"][..], "AUTH"),
            (&["auth", "someone", "s3cret"], "auth"),
            (&["HELLO", "3", "AUTH", "someone", "s3cret", "SETNAME", "x"], "HELLO 3 AUTH"),
            (&["CONFIG", "SET", "requirepass", "s3cret"], "CONFIG SET requirepass"),
            (&["REPLICAOF", "NO", "ONE"], "REPLICAOF NO ONE"),
            (&["INFO", "replication"], "INFO replication"),
        ] {
            assert_eq!(shown(words).0, text);
        }
    }
}
