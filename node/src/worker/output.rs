//! A connection's outgoing bytes, part of which may be held until a log position is committed (I7).
//!
//! Replies are appended in order and leave in order. A *hold* says: from this position on, nothing may be
//! sent before `lsn` is committed. Within one turn of the worker all held replies of a connection share one
//! hold, since the turn's records are made durable together anyway.

use std::collections::VecDeque;

use farkeep_core::lsn::Lsn;

/// Above this capacity an emptied buffer is given back to the allocator.
const KEEP_CAPACITY_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy)]
struct Hold {
    /// Index into `buf` of the first byte that must wait.
    start: usize,
    lsn: Lsn,
}

/// Bytes waiting to be written to a socket, and what they wait for.
#[derive(Debug, Default)]
pub struct Output {
    buf: Vec<u8>,
    sent: usize,
    holds: VecDeque<Hold>,
    /// Length of `buf` at the start of the turn: holds at or above it belong to this turn and are merged.
    turn_start: usize,
}

impl Output {
    /// The buffer replies are appended to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buf
    }

    /// Bytes appended and not yet written to the socket.
    pub fn pending(&self) -> usize {
        self.buf.len() - self.sent
    }

    /// Index at which the next reply will start.
    pub fn position(&self) -> usize {
        self.buf.len()
    }

    /// Marks the beginning of a turn.
    pub fn begin_turn(&mut self) {
        self.turn_start = self.buf.len();
    }

    /// Holds everything from `start` on until `lsn` is committed. `start` never precedes an earlier hold's.
    /// Returns whether this is the connection's first hold of this turn, which the worker must remember.
    pub fn hold(&mut self, start: usize, lsn: Lsn) -> bool {
        match self.holds.back_mut() {
            Some(last) if last.start >= self.turn_start => {
                last.lsn = last.lsn.max(lsn);
                false
            }
            Some(last) if last.lsn >= lsn => false,
            _ => {
                self.holds.push_back(Hold { start, lsn });
                true
            }
        }
    }

    /// The position the connection's last reply waits for, if any reply waits.
    pub fn held_until(&self) -> Option<Lsn> {
        self.holds.back().map(|hold| hold.lsn)
    }

    /// Drops the holds that `committed` satisfies.
    pub fn release(&mut self, committed: Lsn) {
        while self.holds.front().is_some_and(|hold| hold.lsn <= committed) {
            self.holds.pop_front();
        }
    }

    /// Replaces every reply that is still held by `error`, once, and lets it go. What the held replies
    /// would have said is not known to be true, so none of it is ever sent.
    pub fn fail_held(&mut self, error: &[u8]) {
        if let Some(hold) = self.holds.pop_front() {
            self.buf.truncate(hold.start);
            self.buf.extend_from_slice(error);
            self.holds.clear();
        }
    }

    /// The bytes that may be written now.
    pub fn sendable(&self) -> &[u8] {
        let end = self.holds.front().map_or(self.buf.len(), |hold| hold.start);
        &self.buf[self.sent..end]
    }

    /// Notes that `count` bytes of [`Output::sendable`] were written.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.buf.len() {
            debug_assert!(self.holds.is_empty());
            self.sent = 0;
            self.turn_start = 0;
            if self.buf.capacity() > KEEP_CAPACITY_BYTES {
                self.buf = Vec::new();
            } else {
                self.buf.clear();
            }
        } else if self.sent > KEEP_CAPACITY_BYTES && self.sent > self.buf.len() / 2 {
            self.buf.drain(..self.sent);
            for hold in &mut self.holds {
                hold.start -= self.sent;
            }
            self.turn_start = self.turn_start.saturating_sub(self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_a_hold_wait_for_the_commit_and_keep_their_order() {
        let mut out = Output::default();
        out.begin_turn();
        out.buffer().extend_from_slice(b"+PONG\r\n");
        let start = out.position();
        out.buffer().extend_from_slice(b"+OK\r\n");
        assert!(out.hold(start, Lsn::new(100)));
        out.buffer().extend_from_slice(b"+PONG\r\n");
        assert_eq!(out.sendable(), b"+PONG\r\n");
        out.advance(7);
        assert_eq!(out.sendable(), b"");
        out.release(Lsn::new(99));
        assert_eq!(out.sendable(), b"");
        out.release(Lsn::new(100));
        assert_eq!(out.sendable(), b"+OK\r\n+PONG\r\n");
        out.advance(12);
        assert_eq!(out.pending(), 0);
    }

    #[test]
    fn one_turn_makes_one_hold_and_the_next_turn_its_own() {
        let mut out = Output::default();
        out.begin_turn();
        out.buffer().extend_from_slice(b"a");
        assert!(out.hold(0, Lsn::new(10)));
        out.buffer().extend_from_slice(b"b");
        assert!(!out.hold(1, Lsn::new(20)));
        out.begin_turn();
        out.buffer().extend_from_slice(b"c");
        assert!(out.hold(2, Lsn::new(30)));
        out.release(Lsn::new(20));
        assert_eq!(out.sendable(), b"ab");
    }

    #[test]
    fn held_replies_that_fail_are_replaced_by_one_error() {
        let mut out = Output::default();
        out.begin_turn();
        out.buffer().extend_from_slice(b"+1\r\n");
        let start = out.position();
        out.buffer().extend_from_slice(b"+OK\r\n+OK\r\n");
        out.hold(start, Lsn::new(5));
        out.fail_held(b"-ERR unknown fate\r\n");
        assert_eq!(out.sendable(), b"+1\r\n-ERR unknown fate\r\n");
    }
}
