//! A blocking client for what happens beside the load: PING, INFO, a SET and a GET.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// A server that takes longer over one command is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends one command and waits for its answer.
    pub fn call(&mut self, words: &[&str]) -> anyhow::Result<Answer> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.read_answer().with_context(|| words.join(" "))
    }

    /// A field of INFO's `section`, if it is there.
    pub fn info(&mut self, section: &str, field: &str) -> anyhow::Result<Option<String>> {
        let answer = self.call(&["INFO", section])?;
        let Answer::Bulk(Some(text)) = answer else { bail!("INFO {section} answered {answer:?}") };
        Ok(field_in(&String::from_utf8_lossy(&text), field))
    }

    /// A number in INFO's `section`.
    pub fn info_number(&mut self, section: &str, field: &str) -> anyhow::Result<u64> {
        let value =
            self.info(section, field)?.with_context(|| format!("INFO {section} has no field {field}"))?;
        value.parse().with_context(|| format!("INFO {section}: {field}:{value} is no number"))
    }

    fn read_answer(&mut self) -> anyhow::Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the server closed the connection");
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
        Ok(match kind {
            "+" => Answer::Status(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Integer(rest.parse()?),
            "$" if rest == "-1" => Answer::Bulk(None),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Answer::Bulk(Some(bytes))
            }
            _ => bail!("unexpected reply '{line}'"),
        })
    }
}

fn field_in(info: &str, field: &str) -> Option<String> {
    info.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_is_found_by_its_whole_name() {
        let info = "# Replication\r\nrole:master\r\nmaster_repl_offset:12\r\nmaster_repl:7\r\n";
        assert_eq!(field_in(info, "master_repl"), Some("7".into()));
        assert_eq!(field_in(info, "master_repl_offset"), Some("12".into()));
        assert_eq!(field_in(info, "repl_offset"), None);
    }
}
