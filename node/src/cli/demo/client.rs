//! A blocking client: one socket, requests out, replies in.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farkeep_proto::resp::client::{Reply, decode_reply, push_command};

/// How long a node may take for any one thing before the demo gives up on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// A connection to a node on this host.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
    parsed: usize,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, output: Vec::new(), input: Vec::new(), parsed: 0 })
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
    /// When it does not, with the node's own words.
    pub fn must(&mut self, words: &[&str]) -> Result<Reply> {
        let reply = self.call(words).with_context(|| format!("{} got no answer", words.join(" ")))?;
        if let Reply::Error(text) = &reply {
            bail!("{} was answered with: {}", words.join(" "), text.escape_ascii());
        }
        Ok(reply)
    }

    /// The value of one field of INFO.
    ///
    /// # Errors
    /// When the node does not answer or has no such field.
    pub fn info(&mut self, section: &str, field: &str) -> Result<String> {
        let Reply::Bulk(text) = self.must(&["INFO", section])? else { bail!("INFO {section} is no text") };
        let text = String::from_utf8_lossy(&text).into_owned();
        field_of(&text, field)
            .map(str::to_owned)
            .with_context(|| format!("INFO {section} has no field {field}"))
    }
}

/// The value of a field in the text of an INFO.
fn field_of<'t>(text: &'t str, field: &str) -> Option<&'t str> {
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
}
