//! A small HTTP client for tests: one request a connection, raw where a test wants to misbehave.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The first line and the headers, lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The value of a header; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.filter(|(other, _)| *other == name).map(|(_, value)| value.trim()).next().unwrap_or_default()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// A connection to a port of this host.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// GET.
#[track_caller]
pub fn get(port: u16, path: &str) -> Answer {
    request(port, "GET", path, &[], "")
}

/// Any request; panics without an answer.
#[track_caller]
pub fn request(port: u16, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    try_request(port, method, path, headers, body)
        .unwrap_or_else(|error| panic!("{method} {path} on port {port}: {error}"))
}

/// Any request.
pub fn try_request(port: u16, method: &str, path: &str, headers: &[&str], body: &str) -> io::Result<Answer> {
    let mut text =
        format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|header| header.to_ascii_lowercase().starts_with("host:")) {
        text.push_str("Host: 127.0.0.1\r\n");
    }
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    let mut stream = connect(port)?;
    stream.write_all(text.as_bytes())?;
    read_answer(&mut stream)
}

/// Reads one answer, up to its length or to the end of the connection.
pub fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        if let Some(answer) = complete(&bytes, false) {
            return Ok(answer);
        }
        let len = stream.read(&mut part)?;
        if len == 0 {
            return complete(&bytes, true).ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        bytes.extend_from_slice(&part[..len]);
    }
}

fn complete(bytes: &[u8], ended: bool) -> Option<Answer> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut body = &bytes[end + 4..];
    let answer = Answer { status, head, body: String::new() };
    if let Ok(len) = answer.header("content-length").parse::<usize>() {
        body = body.get(..len)?;
    } else if !ended {
        return None;
    }
    Some(Answer { body: String::from_utf8_lossy(body).into_owned(), ..answer })
}
