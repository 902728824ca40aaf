//! The leader's side of a walk over the image: a delta sync, which makes a follower's image the leader's, or a scrub, which
//! finds out whether it still is.
//!
//! The two are one walk. Chunk by chunk the leader says what its bytes were at some `applied_lsn` x; the follower, which
//! replays up to exactly x and no further until it knows the next step, compares, and asks for what differs; the leader
//! reads that chunk again, at a later x, and sends it through a staging slot of the follower's window. Log shipping goes on
//! all the while, so nothing that changes behind the walk is missed: it comes as a record.
//!
//! A follower that asks says what the blocks of its own chunk are, and is sent those that have become others. In between both sides have
//! replayed the same records, so a block that then is as the follower's was, the follower has; should that ever be wrong, the hash
//! of the whole chunk says so before a byte is stored, and all of it is sent.
//!
//! Because both sides stand at exactly the same LSN whenever a chunk is compared or stored, nobody has to keep a book on
//! which chunks are already alive, replay knows nothing of a walk, and a healthy follower stays readable: for it, a
//! repaired chunk is right from the moment it is stored. The price is that positions must never fall from one step to the
//! next. A chunk that is on its way holds up the steps behind it ([`SyncSource::messages`]), and a follower that is ahead of the
//! leader's own image is waited for ([`SyncSource::job`]).
//!
//! [`SyncSource`] knows no image and no thread. Whoever owns the image asks for a [`Job`], reads the chunk between two
//! records, and reports with [`SyncSource::done`]. Memory is bounded by the staging slots. A crash, or a link that breaks,
//! loses a `SyncSource` and nothing else: what the follower has settled is in its pool.

use std::collections::VecDeque;
use std::sync::Arc;

use farkeep_core::chunk::{self, Digest, Patch};
use farkeep_core::lsn::Lsn;
use farkeep_core::replay::Replayer;
use farkeep_fabric::{LogBytes, Ticket};
use farkeep_proto::control::{Chunk, ChunkAnswer, ChunkOutcome, ChunkStep};
use farkeep_proto::window::{MAX_CHUNK_LEN, STAGING_SLOTS, staging_at};

/// Steps that a follower may have to answer at a time, beside those in staging slots.
const MAX_UNANSWERED: usize = 32;
/// A chunk goes to a staging slot in pieces of this length, so that the log never waits long behind one.
const PIECE_LEN: u32 = 256 << 10;

/// What a walk is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The follower's image is of no use before it is over.
    Sync,
    /// The follower is healthy, as far as anybody knows.
    Scrub,
}

/// What a walk needs from the image next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// The digest of the chunk at this offset.
    Compare {
        /// Where the chunk begins.
        offset: u64,
    },
    /// The digest of the chunk at this offset, and those of its blocks that are not what the follower has described.
    Send {
        /// Where the chunk begins.
        offset: u64,
        /// What the follower has said of its own blocks; if nothing, all bytes are wanted.
        described: Arc<[u32]>,
        /// The staging slot it goes to.
        slot: usize,
    },
    /// Only how far the image is.
    Look,
}

/// What a walk may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Chunks may be read; otherwise they would exceed some rate.
    pub read: bool,
    /// A follower in mid-sync may be told how far the image is. Nobody reads its image, so it may as well wait for the next chunk.
    pub mark: bool,
}

/// A chunk, as it was read between two records.
#[derive(Clone, Debug)]
pub struct ChunkRead {
    /// The image's `applied_lsn`.
    pub at: Lsn,
    /// Length of the image there, in bytes.
    pub image_len: u64,
    /// What the bytes are. [`Digest::Zero`] for [`Job::Look`].
    pub digest: Digest,
    /// What is to be sent, for [`Job::Send`].
    pub patch: Patch,
}

impl ChunkRead {
    /// Does a job of a walk whose chunks have this length, on the image that `replayer` carries along.
    pub fn of(job: &Job, chunk_len: u64, replayer: &Replayer) -> Self {
        let (at, image_len) = (replayer.applied(), replayer.image_len());
        let bytes_at = |offset: u64| {
            let len = chunk::end(offset, chunk_len, image_len).saturating_sub(offset);
            replayer.chunk(offset, len).unwrap_or_default()
        };
        let (digest, patch) = match job {
            Job::Look => (Digest::Zero, Patch::default()),
            Job::Compare { offset } => (Digest::of(bytes_at(*offset)), Patch::default()),
            Job::Send { offset, described, .. } => {
                let bytes = bytes_at(*offset);
                (Digest::of(bytes), Patch::of(bytes, described))
            }
        };
        Self { at, image_len, digest, patch }
    }
}

/// How a walk goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkProgress {
    /// Length of the image in bytes, as last read.
    pub image_len: u64,
    /// Bytes of it that have been compared or sent.
    pub walked_bytes: u64,
    /// Bytes of chunks and of blocks that have been sent.
    pub sent_bytes: u64,
    /// Chunks that differed.
    pub differing: u64,
    /// When it began, in milliseconds of the caller's clock.
    pub since_ms: u64,
}

/// A piece of a chunk for a staging slot.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Where it goes in the window.
    pub(crate) at: u64,
    pub(crate) bytes: LogBytes,
    /// The slot, if nothing is missing from it now.
    pub(crate) completes: Option<usize>,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// Its chunk is being posted; so much of it is.
    Filling {
        bytes: LogBytes,
        posted: u32,
    },
    /// All is posted, not known to have arrived.
    Posted,
    Arrived,
    /// The follower has been told, and has to answer.
    Told {
        offset: u64,
    },
}

/// A walk over the image for one follower.
#[derive(Debug)]
pub struct SyncSource {
    purpose: Purpose,
    session: u64,
    chunk_len: u64,
    /// The follower's `applied_lsn` when it stopped for the walk; `None` before it has.
    ready_at: Option<Lsn>,
    /// The follower's image is known to be empty: chunks are sent without being asked for.
    blank: bool,
    /// Where the next chunk begins that nobody has looked at.
    next: u64,
    /// The position of the last step.
    said: Lsn,
    /// Steps that have to be answered, beside those in slots.
    unanswered: usize,
    /// Chunks to be sent: where they begin, and what the follower's blocks are.
    wanted: VecDeque<(u64, Arc<[u32]>)>,
    slots: [Slot; STAGING_SLOTS as usize],
    /// Slots in the order in which their pieces are posted.
    filling: VecDeque<usize>,
    /// Steps to be said, in order; a slot's waits until the slot has arrived.
    outgoing: VecDeque<(Chunk, Option<usize>)>,
    /// Nothing is left but the follower's word.
    ending: bool,
    progress: WalkProgress,
}

/// A follower's answer makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the follower answers {outcome:?} for the chunk at {offset:#x}, which was not asked")]
pub struct Unasked {
    /// The answer.
    pub outcome: ChunkOutcome,
    /// The chunk.
    pub offset: u64,
}

impl SyncSource {
    /// A walk from offset `from` on, for the follower of this session.
    pub(crate) fn new(now_ms: u64, purpose: Purpose, session: u64, chunk_len: u64, from: u64) -> Self {
        assert!(chunk_len > 0 && chunk_len <= MAX_CHUNK_LEN, "chunks of {chunk_len} bytes");
        Self {
            purpose,
            session,
            chunk_len,
            ready_at: None,
            blank: false,
            next: from,
            said: Lsn::ZERO,
            unanswered: 0,
            wanted: VecDeque::new(),
            slots: [const { Slot::Free }; STAGING_SLOTS as usize],
            filling: VecDeque::new(),
            outgoing: VecDeque::new(),
            ending: false,
            progress: WalkProgress { since_ms: now_ms, ..WalkProgress::default() },
        }
    }

    /// As [`SyncSource::new`], for a follower whose image is empty.
    pub(crate) fn of_blank(mut self) -> Self {
        self.blank = true;
        self
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// How it goes.
    pub fn progress(&self) -> WalkProgress {
        let open = self.wanted.len() + self.slots.iter().filter(|slot| !matches!(slot, Slot::Free)).count();
        let open_bytes = (open + self.unanswered) as u64 * self.chunk_len;
        WalkProgress { walked_bytes: self.next.saturating_sub(open_bytes), ..self.progress }
    }

    /// The follower's window is open: has it stop for the walk.
    pub(crate) fn begin(&mut self) {
        self.say(ChunkStep::Begin, Lsn::ZERO, 0, Digest::Zero);
    }

    /// What is to be read next, from an image that is at `applied`; `None` while there is nothing to read.
    pub(crate) fn job(&self, applied: Lsn, leave: Leave) -> Option<Job> {
        let ready_at = self.ready_at?;
        if applied < ready_at || self.ending {
            return None;
        }
        let free = self.slots.iter().position(|slot| matches!(slot, Slot::Free));
        if let (Some((offset, described)), Some(slot), true) = (self.wanted.front(), free, leave.read) {
            return Some(Job::Send { offset: *offset, described: Arc::clone(described), slot });
        }
        let more = self.next < self.progress.image_len || self.progress.image_len == 0;
        if more && leave.read && self.unanswered < MAX_UNANSWERED && self.wanted.is_empty() {
            match free {
                Some(slot) if self.blank => {
                    return Some(Job::Send { offset: self.next, described: Arc::default(), slot });
                }
                None if self.blank => {}
                _ => return Some(Job::Compare { offset: self.next }),
            }
        }
        let over = !more && self.is_idle();
        let mark = leave.mark || self.purpose == Purpose::Scrub;
        (over || (mark && applied > self.said && self.outgoing.is_empty())).then_some(Job::Look)
    }

    fn is_idle(&self) -> bool {
        self.unanswered == 0
            && self.wanted.is_empty()
            && self.slots.iter().all(|slot| matches!(slot, Slot::Free))
    }

    /// How long the chunk at `offset` is in an image of `image_len` bytes.
    pub(crate) fn len_at(&self, offset: u64, image_len: u64) -> u64 {
        chunk::end(offset, self.chunk_len, image_len).saturating_sub(offset)
    }

    /// A job is done. Panics if the image has gone back.
    pub(crate) fn done(&mut self, job: &Job, read: ChunkRead) {
        let ChunkRead { at, image_len, digest, patch } = read;
        assert!(at >= self.said, "the image went back from {} to {at} in the middle of a walk", self.said);
        self.progress.image_len = image_len;
        let (offset, slot) = match *job {
            Job::Look => {
                let over = self.next >= image_len && self.is_idle();
                self.ending = over;
                let step = if over { ChunkStep::End } else { ChunkStep::Mark };
                return self.say(step, at, 0, Digest::Zero);
            }
            Job::Compare { offset } => (offset, None),
            Job::Send { offset, slot, .. } => (offset, Some(slot)),
        };
        let end = chunk::end(offset, self.chunk_len, image_len);
        if self.wanted.front().is_some_and(|(wanted, _)| *wanted == offset) {
            self.wanted.pop_front();
        }
        self.next = self.next.max(end);
        match (digest, slot) {
            _ if end <= offset => {}
            (Digest::Zero, _) => {
                self.unanswered += 1;
                self.say(ChunkStep::Zero, at, offset, digest);
            }
            (Digest::Hash(_), None) => {
                self.unanswered += 1;
                self.say(ChunkStep::Compare, at, offset, digest);
            }
            (Digest::Hash(_), Some(slot)) => {
                let Patch { blocks, bytes } = patch;
                self.progress.sent_bytes += bytes.len() as u64;
                let len = bytes.len() as u32;
                let bytes = LogBytes::new(Arc::new(bytes), 0, len);
                self.slots[slot] = Slot::Filling { bytes, posted: 0 };
                self.filling.push_back(slot);
                let step = self.step(ChunkStep::Stored, at, offset, digest);
                self.outgoing.push_back((Chunk { slot: slot as u32, blocks, ..step }, Some(slot)));
            }
        }
    }

    fn say(&mut self, step: ChunkStep, at: Lsn, offset: u64, digest: Digest) {
        let step = self.step(step, at, offset, digest);
        self.outgoing.push_back((step, None));
    }

    /// The next step there is to say.
    fn step(&mut self, step: ChunkStep, at: Lsn, offset: u64, digest: Digest) -> Chunk {
        self.said = self.said.max(at);
        let hash = match digest {
            Digest::Zero => 0,
            Digest::Hash(hash) => hash,
        };
        Chunk {
            session: self.session,
            step: step.into(),
            at_lsn: at.get(),
            offset,
            len: self.len_at(offset, self.progress.image_len) as u32,
            hash,
            image_len: self.progress.image_len,
            ..Chunk::default()
        }
    }

    /// Whether there is anything to post to a staging slot.
    pub(crate) fn has_pieces(&self) -> bool {
        !self.filling.is_empty()
    }

    /// The next piece to post, of at most `room` bytes.
    pub(crate) fn piece(&mut self, room: u64) -> Option<Piece> {
        let &number = self.filling.front()?;
        let Slot::Filling { bytes, posted } = &mut self.slots[number] else {
            unreachable!("it is being filled")
        };
        let len = (bytes.len() - *posted).min(PIECE_LEN).min(room.min(u64::from(PIECE_LEN)) as u32);
        if len == 0 {
            return None;
        }
        let at = staging_at(number as u64) + u64::from(*posted);
        let piece = bytes.part(*posted, len);
        *posted += len;
        let completes = (*posted == bytes.len()).then_some(number);
        if completes.is_some() {
            self.slots[number] = Slot::Posted;
            self.filling.pop_front();
        }
        Some(Piece { at, bytes: piece, completes })
    }

    /// What was posted to a slot is there.
    pub(crate) fn arrived(&mut self, slot: usize) {
        assert!(matches!(self.slots[slot], Slot::Posted), "slot {slot} arrives when it was posted");
        self.slots[slot] = Slot::Arrived;
    }

    /// The next step that can be said.
    pub(crate) fn message(&mut self) -> Option<Chunk> {
        let (chunk, slot) = self.outgoing.front()?;
        if let Some(slot) = *slot {
            if !matches!(self.slots[slot], Slot::Arrived) {
                return None;
            }
            self.slots[slot] = Slot::Told { offset: chunk.offset };
        }
        self.outgoing.pop_front().map(|(chunk, _)| chunk)
    }

    /// The follower has answered a step. Returns whether the walk is over.
    ///
    /// # Errors
    /// [`Unasked`]: the follower is not in the same walk.
    pub(crate) fn answered(&mut self, answer: &ChunkAnswer) -> Result<bool, Unasked> {
        let (outcome, offset) = (answer.outcome(), answer.offset);
        let unasked = Unasked { outcome, offset };
        let told =
            self.slots.iter_mut().find(|slot| matches!(slot, Slot::Told { offset: at } if *at == offset));
        match outcome {
            ChunkOutcome::Ready if self.ready_at.is_none() => {
                self.ready_at = Some(Lsn::new(answer.applied_lsn));
                return Ok(false);
            }
            ChunkOutcome::Done if self.ending => return Ok(true),
            ChunkOutcome::Taken if told.is_some() => {
                *told.expect("just looked") = Slot::Free;
                return Ok(false);
            }
            ChunkOutcome::Torn => {
                *told.ok_or(unasked)? = Slot::Free;
                self.wanted.push_back((offset, Arc::default()));
                return Ok(false);
            }
            ChunkOutcome::Same | ChunkOutcome::Taken => {}
            ChunkOutcome::Differs => {
                self.progress.differing += 1;
                self.wanted.push_back((offset, answer.described.as_slice().into()));
            }
            ChunkOutcome::Ready | ChunkOutcome::Done | ChunkOutcome::Unknown => return Err(unasked),
        }
        self.unanswered = self.unanswered.checked_sub(1).ok_or(unasked)?;
        Ok(false)
    }
}

/// What is posted with a ticket for a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PostedChunk {
    pub(crate) ticket: Ticket,
    pub(crate) slot: usize,
}
