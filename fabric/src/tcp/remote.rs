//! The leader's end of a data channel.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use farkeep_proto::window::{TAIL_CELL_AT, TAIL_CELL_LEN, TailCell};

use super::frame::{ACK_LEN, Ack, HEADER_LEN, Header};
use crate::window::{Completion, FabricError, FabricKind, LogBytes, RemoteWindow, Sending, Ticket};

/// How many bytes may be posted to one follower before it has acknowledged earlier ones. It bounds what a slow link
/// can have queued; a fast one never sees it.
pub const MAX_IN_FLIGHT_BYTES: u64 = 16 << 20;

/// Frames that one system call gathers; two pieces of memory each.
const MAX_GATHERED_FRAMES: usize = 32;

/// A non-blocking stream of bytes; a socket, or a simulated one.
pub trait ByteStream {
    /// Sends as much as fits, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits now; anything else means that the stream is broken.
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Receives what is there, without waiting; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there now; anything else means that the stream is broken.
    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// What to wait on, if there is something.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;
}

#[derive(Debug)]
enum Payload {
    Log(LogBytes),
    Tail([u8; TAIL_CELL_LEN]),
    Empty,
}

#[derive(Debug)]
struct Frame {
    header: [u8; HEADER_LEN],
    payload: Payload,
}

impl Frame {
    fn new(header: Header, payload: Payload) -> Self {
        Self { header: header.to_bytes(), payload }
    }

    fn payload(&self) -> &[u8] {
        match &self.payload {
            Payload::Log(bytes) => bytes.bytes(),
            Payload::Tail(bytes) => bytes,
            Payload::Empty => &[],
        }
    }

    fn len(&self) -> usize {
        HEADER_LEN + self.payload().len()
    }
}

/// A window behind a stream of frames.
#[derive(Debug)]
pub struct Remote<S> {
    stream: S,
    /// Frames not yet wholly sent.
    queue: VecDeque<Frame>,
    /// How much of the first of them is sent.
    front_sent: usize,
    /// The header of the last write, as long as none of its frame is sent and no flush has been asked for.
    unflushed: Option<Header>,
    tail: Option<TailCell>,
    /// The last ticket given out.
    issued: u64,
    /// Tickets not yet acknowledged with the bytes that each of them covers.
    open: VecDeque<(u64, u64)>,
    /// Bytes posted since the last flush.
    posted_unflushed: u64,
    /// Bytes posted and not acknowledged, flushed or not.
    in_flight: u64,
    /// A piece of an acknowledgement.
    partial_ack: Vec<u8>,
    broken: bool,
}

impl<S: ByteStream> Remote<S> {
    /// Takes over a stream on which nothing but frames will travel from now on.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            queue: VecDeque::new(),
            front_sent: 0,
            unflushed: None,
            tail: None,
            issued: 0,
            open: VecDeque::new(),
            posted_unflushed: 0,
            in_flight: 0,
            partial_ack: Vec::with_capacity(ACK_LEN),
            broken: false,
        }
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    fn send_once(&mut self) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); 2 * MAX_GATHERED_FRAMES];
        let mut count = 0;
        let mut skip = self.front_sent;
        for frame in self.queue.iter().take(MAX_GATHERED_FRAMES) {
            for part in [&frame.header[..], frame.payload()] {
                let sent = skip.min(part.len());
                skip -= sent;
                let part = &part[sent..];
                if !part.is_empty() {
                    pieces[count] = IoSlice::new(part);
                    count += 1;
                }
            }
        }
        self.stream.send(&pieces[..count])
    }

    fn advance(&mut self, sent: usize) {
        self.front_sent += sent;
        while let Some(front) = self.queue.front() {
            let len = front.len();
            if self.front_sent < len {
                break;
            }
            self.front_sent -= len;
            self.queue.pop_front();
        }
        // A flush can be a flag on the last frame only while none of that frame is on its way.
        if self.queue.is_empty() || (self.queue.len() == 1 && self.front_sent > 0) {
            self.unflushed = None;
        }
    }

    fn acknowledged(&mut self, ack: Ack, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        if ack.seq > self.issued {
            return Err(FabricError::AcknowledgedTooMuch { acknowledged: ack.seq, posted: self.issued });
        }
        while let Some(&(ticket, bytes)) = self.open.front()
            && ticket <= ack.seq
        {
            self.in_flight -= bytes;
            self.open.pop_front();
        }
        done.push(Completion { ticket: Ticket::new(ack.seq), reported: Some(ack.reported) });
        Ok(())
    }

    fn receive(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        let mut buffer = [0u8; 64 * ACK_LEN];
        loop {
            let received = match self.stream.recv(&mut buffer) {
                Ok(0) => return Err(FabricError::Closed),
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let mut bytes = &buffer[..received];
            while !bytes.is_empty() {
                let take = bytes.len().min(ACK_LEN - self.partial_ack.len());
                self.partial_ack.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if let Ok(whole) = <&[u8; ACK_LEN]>::try_from(&self.partial_ack[..]) {
                    let ack = Ack::from_bytes(whole);
                    self.partial_ack.clear();
                    self.acknowledged(ack, done)?;
                }
            }
            if received < buffer.len() {
                return Ok(());
            }
        }
    }
}

impl<S: ByteStream> RemoteWindow for Remote<S> {
    fn kind(&self) -> FabricKind {
        FabricKind::Tcp
    }

    fn room(&self) -> u64 {
        MAX_IN_FLIGHT_BYTES - self.in_flight
    }

    fn write(&mut self, offset: u64, source: LogBytes) {
        let len = u64::from(source.len());
        assert!(len <= self.room(), "a write of {len} bytes was posted where {} fit", self.room());
        let header = Header { offset, len: source.len(), flush: false, seq: self.issued + 1 };
        self.queue.push_back(Frame::new(header, Payload::Log(source)));
        self.unflushed = Some(header);
        self.in_flight += len;
        self.posted_unflushed += len;
    }

    fn flush(&mut self) -> Ticket {
        let seq = self.issued + 1;
        match (self.unflushed.take(), self.queue.back_mut()) {
            (Some(header), Some(frame)) => frame.header = Header { flush: true, ..header }.to_bytes(),
            _ => {
                let header = Header { offset: 0, len: 0, flush: true, seq };
                self.queue.push_back(Frame::new(header, Payload::Empty));
            }
        }
        self.issued = seq;
        self.open.push_back((seq, std::mem::take(&mut self.posted_unflushed)));
        Ticket::new(seq)
    }

    fn write_tail(&mut self, cell: TailCell) {
        self.tail = Some(cell);
    }

    fn kick(&mut self) -> Result<Sending, FabricError> {
        if self.broken {
            return Err(FabricError::Closed);
        }
        if let Some(cell) = self.tail.take() {
            let already = self.queue.back().is_some_and(|last| matches!(last.payload, Payload::Tail(_)));
            if already && (self.queue.len() > 1 || self.front_sent == 0) {
                self.queue.pop_back();
            }
            let len = TAIL_CELL_LEN as u32;
            let header = Header { offset: TAIL_CELL_AT, len, flush: false, seq: self.issued + 1 };
            self.queue.push_back(Frame::new(header, Payload::Tail(cell.to_bytes())));
            self.unflushed = None;
        }
        while !self.queue.is_empty() {
            match self.send_once() {
                Ok(sent) => self.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sending::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken = true;
                    return Err(error.into());
                }
            }
        }
        Ok(Sending::Done)
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        if self.broken {
            return Err(FabricError::Closed);
        }
        let result = self.receive(done);
        self.broken = result.is_err();
        result
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.stream.readiness()
    }
}
