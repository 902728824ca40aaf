//! The leader's end of a data channel.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use farkeep_proto::window::{TAIL_CELL_AT, TAIL_CELL_LEN, TailCell};
use parking_lot::Mutex;

use super::frame::{ACK_LEN, Ack, HEADER_LEN, Header};
use crate::window::{Completion, FabricError, FabricKind, LogBytes, Outgoing, RemoteWindow, Sending, Ticket};

/// How many bytes may be posted to one follower before it has acknowledged earlier ones. It bounds what a slow link
/// can have queued; a fast one never sees it.
pub const MAX_IN_FLIGHT_BYTES: u64 = 16 << 20;

/// Frames that one system call gathers; two pieces of memory each.
const MAX_GATHERED_FRAMES: usize = 32;

/// What an [`Outgoing`] sends with one system call: Linux may not take the processor from a thread in the middle of one, even if a
/// client's thread waits for it. A little less than 64 KiB, the most that Linux hands on in one piece: what is left over would go by itself.
const MAX_LENT_SEND_LEN: usize = 60 << 10;

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

    /// The same stream for another thread, if it can be used by two.
    fn share(&self) -> Option<Box<dyn ByteStream + Send>> {
        None
    }
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

/// Frames that are being sent, in order.
#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Frame>,
    /// How much of the first of them is sent.
    front_sent: usize,
}

impl Outbox {
    /// Sends what the stream takes, at most so many bytes with one call.
    fn send(&mut self, stream: &mut dyn ByteStream, at_once: usize) -> Result<Sending, FabricError> {
        while !self.frames.is_empty() {
            match self.send_once(stream, at_once) {
                Ok(sent) => self.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Sending::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Sending::Done)
    }

    fn send_once(&self, stream: &mut dyn ByteStream, mut room: usize) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); 2 * MAX_GATHERED_FRAMES];
        let mut count = 0;
        let mut skip = self.front_sent;
        for frame in self.frames.iter().take(MAX_GATHERED_FRAMES) {
            for part in [&frame.header[..], frame.payload()] {
                let sent = skip.min(part.len());
                skip -= sent;
                let part = &part[sent..];
                let part = &part[..room.min(part.len())];
                room -= part.len();
                if !part.is_empty() {
                    pieces[count] = IoSlice::new(part);
                    count += 1;
                }
            }
        }
        stream.send(&pieces[..count])
    }

    fn advance(&mut self, sent: usize) {
        self.front_sent += sent;
        while let Some(front) = self.frames.front() {
            let len = front.len();
            if self.front_sent < len {
                break;
            }
            self.front_sent -= len;
            self.frames.pop_front();
        }
    }

    /// Takes back a tail cell that is the last frame, if nothing of it is sent.
    fn forget_tail(&mut self) {
        let is_tail = self.frames.back().is_some_and(|last| matches!(last.payload, Payload::Tail(_)));
        if is_tail && (self.frames.len() > 1 || self.front_sent == 0) {
            self.frames.pop_back();
        }
    }
}

/// A window behind a stream of frames.
#[derive(Debug)]
pub struct Remote<S> {
    stream: S,
    /// What is being sent, by whoever kicks or by an [`Outgoing`], which holds this as well.
    outbox: Arc<Mutex<Outbox>>,
    /// Frames behind those.
    posted: VecDeque<Frame>,
    /// The header of the last frame posted, if that is a write for which no flush has been asked.
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
            outbox: Arc::default(),
            posted: VecDeque::new(),
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

    /// Hands on what was posted to be sent; `None` while it is lent.
    fn outbox(&mut self) -> Option<&mut Outbox> {
        let outbox = Arc::get_mut(&mut self.outbox)?.get_mut();
        outbox.frames.append(&mut self.posted);
        self.unflushed = None;
        if let Some(cell) = self.tail.take() {
            outbox.forget_tail();
            let len = TAIL_CELL_LEN as u32;
            let header = Header { offset: TAIL_CELL_AT, len, flush: false, seq: self.issued + 1 };
            outbox.frames.push_back(Frame::new(header, Payload::Tail(cell.to_bytes())));
        }
        Some(outbox)
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
        self.posted.push_back(Frame::new(header, Payload::Log(source)));
        self.unflushed = Some(header);
        self.in_flight += len;
        self.posted_unflushed += len;
    }

    fn flush(&mut self) -> Ticket {
        let seq = self.issued + 1;
        match (self.unflushed.take(), self.posted.back_mut()) {
            (Some(header), Some(frame)) => frame.header = Header { flush: true, ..header }.to_bytes(),
            _ => {
                let header = Header { offset: 0, len: 0, flush: true, seq };
                self.posted.push_back(Frame::new(header, Payload::Empty));
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
        if self.outbox().is_none() {
            return Ok(Sending::Lent);
        }
        let result = self.outbox.lock().send(&mut self.stream, usize::MAX);
        self.broken = result.is_err();
        result
    }

    fn lend(&mut self) -> Option<Outgoing> {
        let mut stream = self.stream.share()?;
        self.outbox()?;
        let outbox = Arc::clone(&self.outbox);
        Some(Box::new(move || outbox.lock().send(&mut *stream, MAX_LENT_SEND_LEN)))
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
