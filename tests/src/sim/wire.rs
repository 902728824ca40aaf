//! A simulated connection: bytes arrive in order, in any pieces, late, or, once it is cut, not at all.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use farkeep_fabric::tcp::ByteStream;

/// Bytes that one direction holds before a sender has to wait; small, so that sends are partial.
const CAPACITY: usize = 24 << 10;

#[derive(Debug, Default)]
struct Direction {
    under_way: VecDeque<u8>,
    arrived: VecDeque<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    directions: [Direction; 2],
    cut: bool,
}

/// One end of a connection. Clones are the same end.
#[derive(Clone, Debug)]
pub struct WireEnd {
    shared: Arc<Mutex<Shared>>,
    /// The direction this end sends in.
    side: usize,
}

/// A new connection.
pub fn wire() -> (WireEnd, WireEnd) {
    let shared = Arc::<Mutex<Shared>>::default();
    (WireEnd { shared: Arc::clone(&shared), side: 0 }, WireEnd { shared, side: 1 })
}

impl WireEnd {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics in here")
    }

    /// Sends all of `bytes`; control channels are never full. What is sent on a cut connection is lost.
    pub fn send_all(&self, bytes: &[u8]) {
        let shared = &mut *self.shared();
        if !shared.cut {
            shared.directions[self.side].under_way.extend(bytes);
        }
    }

    /// Lets up to `count` bytes that were sent to this end arrive; says how many did.
    pub fn arrive(&self, count: usize) -> usize {
        let shared = &mut *self.shared();
        let direction = &mut shared.directions[1 - self.side];
        let count = count.min(direction.under_way.len());
        direction.arrived.extend(direction.under_way.drain(..count));
        count
    }

    /// Lets up to `count` bytes that this end has sent arrive at the other.
    pub fn arrive_at_peer(&self, count: usize) {
        let shared = &mut *self.shared();
        let direction = &mut shared.directions[self.side];
        let count = count.min(direction.under_way.len());
        direction.arrived.extend(direction.under_way.drain(..count));
    }

    /// Takes up to `limit` bytes of what has arrived.
    pub fn take(&self, limit: usize) -> Vec<u8> {
        let arrived = &mut self.shared().directions[1 - self.side].arrived;
        let count = limit.min(arrived.len());
        arrived.drain(..count).collect()
    }

    /// Cuts the connection: what is under way is lost, what has arrived can still be read.
    pub fn cut(&self) {
        let shared = &mut *self.shared();
        shared.cut = true;
        shared.directions.iter_mut().for_each(|direction| direction.under_way.clear());
    }

    /// Whether the connection is cut and nothing is left to read at this end.
    pub fn is_over(&self) -> bool {
        let shared = self.shared();
        shared.cut && shared.directions[1 - self.side].arrived.is_empty()
    }
}

impl ByteStream for WireEnd {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let shared = &mut *self.shared();
        if shared.cut {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let under_way = &mut shared.directions[self.side].under_way;
        let mut room = CAPACITY.saturating_sub(under_way.len());
        let before = room;
        for piece in pieces {
            let take = room.min(piece.len());
            under_way.extend(&piece[..take]);
            room -= take;
        }
        if room == before && pieces.iter().any(|piece| !piece.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(before - room)
    }

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let taken = self.take(into.len());
        if taken.is_empty() {
            return if self.is_over() { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        into[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn share(&self) -> Option<Box<dyn ByteStream + Send>> {
        Some(Box::new(self.clone()))
    }
}
