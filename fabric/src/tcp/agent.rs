//! The follower's end of a data channel, as a state machine that is fed bytes.
//!
//! Bytes go into the window as they arrive, in whatever pieces. At the end of a burst (all that one receive brought)
//! [`Agent::persist`] flushes what was written and fences once; then the owner looks at its log, and
//! [`Agent::acknowledge`] gives the one cumulative acknowledgement for the burst. A crash at any moment leaves a
//! window whose unacknowledged part may hold anything: the scan that recovery makes of it believes only records.

use farkeep_proto::window::{TAIL_CELL_AT, TAIL_CELL_LEN};

use super::frame::{ACK_LEN, Ack, HEADER_LEN, Header};
use crate::window::{FabricError, Reported, Window, WindowError};

/// Dirty ranges that an agent keeps apart before it merges them into one. A burst usually has one or two.
const MAX_DIRTY_RANGES: usize = 16;

/// What a piece of input brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    /// Bytes stored into the window.
    pub stored: u64,
    /// Whether a whole tail cell was among them.
    pub tail_cell: bool,
}

/// The state of a data channel on the follower's side.
#[derive(Debug)]
pub struct Agent {
    window_len: u64,
    header: [u8; HEADER_LEN],
    header_filled: usize,
    /// The frame whose bytes are arriving, and how many of them are stored.
    current: Option<(Header, u32)>,
    /// Written ranges that are not yet persistent.
    dirty: Vec<(u64, u64)>,
    /// The last flush whose frame is complete.
    completed: u64,
    /// The last flush that is persistent.
    persisted: u64,
    /// The last flush that was acknowledged.
    acknowledged: u64,
}

impl Agent {
    /// An agent for a new session on a window of `window_len` bytes.
    pub fn new(window_len: u64) -> Self {
        Self {
            window_len,
            header: [0; HEADER_LEN],
            header_filled: 0,
            current: None,
            dirty: Vec::with_capacity(MAX_DIRTY_RANGES),
            completed: 0,
            persisted: 0,
            acknowledged: 0,
        }
    }

    /// Takes a piece of the stream and stores what it carries.
    ///
    /// # Errors
    /// A [`FabricError`] for a frame that breaks the protocol; nothing of that frame is stored, and the channel must
    /// be closed.
    pub fn feed<W: Window + ?Sized>(&mut self, mut bytes: &[u8], window: &mut W) -> Result<Fed, FabricError> {
        let mut fed = Fed::default();
        while !bytes.is_empty() {
            let Some((frame, stored)) = &mut self.current else {
                let take = bytes.len().min(HEADER_LEN - self.header_filled);
                self.header[self.header_filled..][..take].copy_from_slice(&bytes[..take]);
                self.header_filled += take;
                bytes = &bytes[take..];
                if self.header_filled == HEADER_LEN {
                    self.header_filled = 0;
                    self.begin_frame(&mut fed)?;
                }
                continue;
            };
            let take = bytes.len().min((frame.len - *stored) as usize);
            window.write(frame.offset + u64::from(*stored), &bytes[..take]);
            self.took(take, &mut fed);
            bytes = &bytes[take..];
        }
        Ok(fed)
    }

    /// Where the next bytes of the stream belong in the window, and how many of them, if they are a frame's payload. Who receives them
    /// right there says so with [`Agent::received`].
    pub fn wanted(&self) -> Option<(u64, u32)> {
        self.current.map(|(frame, stored)| (frame.offset + u64::from(stored), frame.len - stored))
    }

    /// The next `len` bytes of the stream are in the window, where they were wanted. Panics if they were not.
    pub fn received(&mut self, len: usize) -> Fed {
        let mut fed = Fed::default();
        assert!(
            self.wanted().is_some_and(|(_, wanted)| len <= wanted as usize),
            "{len} bytes were not wanted"
        );
        self.took(len, &mut fed);
        fed
    }

    /// The next `len` bytes of the current frame are stored.
    fn took(&mut self, len: usize, fed: &mut Fed) {
        let (frame, stored) = self.current.as_mut().expect("a frame is arriving");
        let at = frame.offset + u64::from(*stored);
        *stored += len as u32;
        let (frame, complete) = (*frame, *stored == frame.len);
        fed.stored += len as u64;
        if !is_tail_cell(&frame) {
            self.mark_dirty(at, at + len as u64);
        }
        if complete {
            self.end_frame(frame, fed);
        }
    }

    fn begin_frame(&mut self, fed: &mut Fed) -> Result<(), FabricError> {
        let frame = Header::from_bytes(&self.header, self.window_len)?;
        let expected = self.completed + 1;
        if frame.seq != expected {
            return Err(FabricError::OutOfOrder { expected, found: frame.seq });
        }
        if frame.len == 0 {
            self.end_frame(frame, fed);
        } else {
            self.current = Some((frame, 0));
        }
        Ok(())
    }

    fn end_frame(&mut self, frame: Header, fed: &mut Fed) {
        self.current = None;
        fed.tail_cell |= is_tail_cell(&frame);
        if frame.flush {
            self.completed = frame.seq;
        }
    }

    fn mark_dirty(&mut self, from: u64, to: u64) {
        if let Some(last) = self.dirty.last_mut()
            && last.1 == from
        {
            last.1 = to;
            return;
        }
        if self.dirty.len() == MAX_DIRTY_RANGES {
            let start = self.dirty.iter().map(|range| range.0).min().unwrap_or(from);
            let end = self.dirty.iter().map(|range| range.1).max().unwrap_or(to);
            self.dirty.clear();
            self.dirty.push((start, end));
        }
        self.dirty.push((from, to));
    }

    /// Makes all that was stored persistent, if a batch has ended since the last call; says whether one had, in
    /// which case an acknowledgement is due.
    ///
    /// # Errors
    /// [`WindowError`] when the medium refuses. Nothing more may be acknowledged then.
    pub fn persist<W: Window + ?Sized>(&mut self, window: &mut W) -> Result<bool, WindowError> {
        if self.completed == self.persisted {
            return Ok(false);
        }
        for (from, to) in self.dirty.drain(..) {
            window.flush(from, to - from)?;
        }
        window.fence()?;
        self.persisted = self.completed;
        Ok(true)
    }

    /// The acknowledgement of all that is persistent, with what the owner found in its log; `None` when nothing is
    /// due. It must be sent whole, before any later one.
    pub fn acknowledge(&mut self, reported: Reported) -> Option<[u8; ACK_LEN]> {
        if self.acknowledged == self.persisted {
            return None;
        }
        self.acknowledged = self.persisted;
        Some(Ack { seq: self.persisted, reported }.to_bytes())
    }
}

fn is_tail_cell(frame: &Header) -> bool {
    frame.offset == TAIL_CELL_AT && frame.len as usize == TAIL_CELL_LEN && !frame.flush
}
