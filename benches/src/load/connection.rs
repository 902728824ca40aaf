//! One connection: its socket, the batch on its way out, the replies still due.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use rustix::event::epoll::EventFlags;
use rustix::net::{SendFlags, send};

use super::reply::Scanner;
use super::request::command;
use super::workload::Workload;

/// A connection of the loop.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    pub(super) scanner: Scanner,
    /// The batch; `out[sent..]` has not been handed to the kernel.
    pub(super) out: Vec<u8>,
    sent: usize,
    /// Replies of the batch that have not arrived.
    pub(super) replies_due: usize,
    /// When the batch was about to be sent, on the loop's clock.
    pub(super) started_ns: u64,
    /// What epoll watches for.
    pub(super) interest: EventFlags,
}

impl Connection {
    /// Connects, authenticates if asked to, and makes the socket non-blocking.
    pub(super) fn open(workload: &Workload) -> io::Result<Self> {
        let mut socket = TcpStream::connect(workload.address)?;
        socket.set_nodelay(true)?;
        if let Some(password) = &workload.password {
            authenticate(&mut socket, password)?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            scanner: Scanner::default(),
            out: Vec::new(),
            sent: 0,
            replies_due: 0,
            started_ns: 0,
            interest: EventFlags::IN,
        })
    }

    /// Forgets the last batch, of which every reply is in.
    pub(super) fn begin_batch(&mut self, started_ns: u64) {
        debug_assert!(self.replies_due == 0 && self.sent == self.out.len());
        self.out.clear();
        self.sent = 0;
        self.started_ns = started_ns;
    }

    /// Hands as much of the batch to the kernel as it takes. Says whether all of it is on its way.
    #[inline]
    pub(super) fn push_out(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match send(&self.socket, &self.out[self.sent..], SendFlags::NOSIGNAL) {
                Ok(taken) => self.sent += taken,
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

fn authenticate(socket: &mut TcpStream, password: &str) -> io::Result<()> {
    socket.write_all(&command(&[b"AUTH", password.as_bytes()]))?;
    let mut reply = Vec::new();
    let mut byte = [0];
    while !reply.ends_with(b"\r\n") {
        socket.read_exact(&mut byte)?;
        reply.extend_from_slice(&byte);
    }
    if reply.starts_with(b"+") {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&reply).trim_end().to_owned()))
}
