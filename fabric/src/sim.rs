//! A simulated one-sided link: every delay, piece and fault is the caller's choice.
//!
//! It behaves as RDMA does at its least helpful: bytes of a write become visible in pieces, a crash of the follower
//! in the middle leaves any of them, nothing is persistent before the flush has been carried out, the completion
//! takes its own time on the way back, and a link that breaks loses what is under way without saying how much arrived.
//! It knows no time and no randomness: whoever drives it calls [`FarEnd::deliver`] and [`FarEnd::complete`] when and
//! as far as it likes, from a seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use farkeep_proto::window::{TAIL_CELL_AT, TAIL_CELL_LEN, TailCell};

use crate::window::{
    Completion, FabricError, FabricKind, LogBytes, RemoteWindow, Sending, Ticket, Window, WindowError,
};

/// How many bytes may be posted before earlier ones have completed. Small, so that simulations run into it.
pub const MAX_IN_FLIGHT_BYTES: u64 = 1 << 20;

/// Bytes become visible in pieces of this length.
const PIECE_LEN: usize = 8;

#[derive(Debug)]
enum Op {
    Write { offset: u64, source: LogBytes, done: usize },
    Tail([u8; TAIL_CELL_LEN]),
    Flush { ticket: Ticket, bytes: u64 },
}

#[derive(Debug, Default)]
struct Link {
    /// Posted and kicked, not yet carried out.
    under_way: VecDeque<Op>,
    /// Ranges written since the last flush.
    unflushed: Vec<(u64, u64)>,
    /// Flushes carried out whose completions are on the way back.
    returning: VecDeque<(Ticket, u64)>,
    /// Completions that have arrived at the leader.
    arrived: VecDeque<(Ticket, u64)>,
    broken: bool,
}

/// The leader's end.
#[derive(Debug)]
pub struct Remote {
    link: Rc<RefCell<Link>>,
    posted: VecDeque<Op>,
    tail: Option<TailCell>,
    issued: Ticket,
    unflushed_bytes: u64,
    in_flight: u64,
}

/// The follower's end, driven by the simulation.
#[derive(Debug)]
pub struct FarEnd {
    link: Rc<RefCell<Link>>,
}

/// A new link.
pub fn link() -> (Remote, FarEnd) {
    let link = Rc::new(RefCell::new(Link::default()));
    let remote = Remote {
        link: Rc::clone(&link),
        posted: VecDeque::new(),
        tail: None,
        issued: Ticket::default(),
        unflushed_bytes: 0,
        in_flight: 0,
    };
    (remote, FarEnd { link })
}

impl FarEnd {
    /// Carries out up to `budget` bytes of what is under way (a flush counts as one byte); says how many.
    ///
    /// # Errors
    /// [`WindowError`] when the window cannot be made persistent. The link is then broken.
    pub fn deliver<W: Window + ?Sized>(
        &mut self,
        window: &mut W,
        budget: usize,
    ) -> Result<usize, WindowError> {
        let link = &mut *self.link.borrow_mut();
        let mut left = budget;
        while left > 0 && !link.broken {
            let Some(op) = link.under_way.front_mut() else { break };
            match op {
                Op::Write { offset, source, done } => {
                    let rest = &source.bytes()[*done..];
                    let take = left.min(rest.len()).next_multiple_of(PIECE_LEN).min(rest.len());
                    let at = *offset + *done as u64;
                    window.write(at, &rest[..take]);
                    link.unflushed.push((at, take as u64));
                    *done += take;
                    left = left.saturating_sub(take.max(1));
                    if take < rest.len() {
                        continue;
                    }
                }
                Op::Tail(bytes) => {
                    window.write(TAIL_CELL_AT, bytes);
                    left = left.saturating_sub(TAIL_CELL_LEN);
                }
                Op::Flush { ticket, bytes } => {
                    let returning = (*ticket, *bytes);
                    let flushed = link.unflushed.drain(..).try_for_each(|(at, len)| window.flush(at, len));
                    if let Err(error) = flushed.and_then(|()| window.fence()) {
                        link.broken = true;
                        return Err(error);
                    }
                    link.returning.push_back(returning);
                    left -= 1;
                }
            }
            link.under_way.pop_front();
        }
        Ok(budget - left)
    }

    /// Lets up to `count` completions arrive at the leader; says how many did.
    pub fn complete(&mut self, count: usize) -> usize {
        let link = &mut *self.link.borrow_mut();
        let count = count.min(link.returning.len());
        link.arrived.extend(link.returning.drain(..count));
        count
    }

    /// Breaks the link: what is under way is lost, in both directions.
    pub fn cut(&mut self) {
        let link = &mut *self.link.borrow_mut();
        link.broken = true;
        link.under_way.clear();
        link.returning.clear();
    }

    /// Whether the link is broken.
    pub fn is_broken(&self) -> bool {
        self.link.borrow().broken
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        let link = self.link.borrow();
        link.broken || (link.under_way.is_empty() && link.returning.is_empty())
    }
}

impl RemoteWindow for Remote {
    fn kind(&self) -> FabricKind {
        FabricKind::Sim
    }

    fn room(&self) -> u64 {
        MAX_IN_FLIGHT_BYTES - self.in_flight
    }

    fn write(&mut self, offset: u64, source: LogBytes) {
        let len = u64::from(source.len());
        assert!(len <= self.room(), "a write of {len} bytes was posted where {} fit", self.room());
        self.in_flight += len;
        self.unflushed_bytes += len;
        self.posted.push_back(Op::Write { offset, source, done: 0 });
    }

    fn flush(&mut self) -> Ticket {
        self.issued = self.issued.next();
        let bytes = std::mem::take(&mut self.unflushed_bytes);
        self.posted.push_back(Op::Flush { ticket: self.issued, bytes });
        self.issued
    }

    fn write_tail(&mut self, cell: TailCell) {
        self.tail = Some(cell);
    }

    fn kick(&mut self) -> Result<Sending, FabricError> {
        let link = &mut *self.link.borrow_mut();
        if link.broken {
            return Err(FabricError::Closed);
        }
        link.under_way.append(&mut self.posted);
        if let Some(cell) = self.tail.take() {
            link.under_way.push_back(Op::Tail(cell.to_bytes()));
        }
        Ok(Sending::Done)
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        let link = &mut *self.link.borrow_mut();
        for (ticket, bytes) in link.arrived.drain(..) {
            self.in_flight -= bytes;
            done.push(Completion { ticket, reported: None });
        }
        if link.broken { Err(FabricError::Closed) } else { Ok(()) }
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A window in ordinary memory that knows which of its bytes would survive a power cut. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryWindow(Rc<RefCell<Contents>>);

#[derive(Debug)]
struct Contents {
    visible: Vec<u8>,
    persistent: Vec<u8>,
    flushing: Vec<(u64, u64)>,
    failing: bool,
}

impl MemoryWindow {
    /// A window of `len` zeroes.
    pub fn new(len: usize) -> Self {
        let contents = Contents {
            visible: vec![0; len],
            persistent: vec![0; len],
            flushing: Vec::new(),
            failing: false,
        };
        Self(Rc::new(RefCell::new(contents)))
    }

    /// What would be left after a power cut that spares nothing.
    pub fn persistent(&self) -> Vec<u8> {
        self.0.borrow().persistent.clone()
    }

    /// What is visible.
    pub fn visible(&self) -> Vec<u8> {
        self.0.borrow().visible.clone()
    }

    /// Lets every fence fail from now on.
    pub fn fail(&self) {
        self.0.borrow_mut().failing = true;
    }
}

impl Window for MemoryWindow {
    fn len(&self) -> u64 {
        self.0.borrow().visible.len() as u64
    }

    fn fill(&mut self, offset: u64, len: usize, store: &mut dyn FnMut(&mut [u8])) {
        store(&mut self.0.borrow_mut().visible[offset as usize..][..len]);
    }

    fn flush(&mut self, offset: u64, len: u64) -> Result<(), WindowError> {
        self.0.borrow_mut().flushing.push((offset, len));
        Ok(())
    }

    fn fence(&mut self) -> Result<(), WindowError> {
        let contents = &mut *self.0.borrow_mut();
        if contents.failing {
            return Err(WindowError(std::io::Error::other("the simulated medium fails")));
        }
        for (offset, len) in contents.flushing.drain(..) {
            let range = offset as usize..(offset + len) as usize;
            contents.persistent[range.clone()].copy_from_slice(&contents.visible[range]);
        }
        Ok(())
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        into.copy_from_slice(&self.0.borrow().visible[offset as usize..][..into.len()]);
    }
}
