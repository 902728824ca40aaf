//! The follower's side of a walk over the image: a delta sync or a scrub.
//!
//! The leader says, step by step, what a chunk of its image was at some position, and the follower takes each step when it
//! has replayed up to exactly there: then its own chunk has to be the same bytes, and what it stores is right at once.
//! The position of the step that is due next, or of the last one taken, is the *horizon*: nothing behind it is
//! replayed, because the next step may be about it.
//!
//! A sync also keeps a *cursor*: everything before it in the image is settled. It goes into the pool with the checkpoints, so
//! that a sync goes on where it was after a crash of either side. A scrub keeps nothing; it begins anew.

use std::collections::{BTreeSet, VecDeque};

use farkeep_core::chunk;
use farkeep_core::log::LogMap;
use farkeep_core::lsn::Lsn;
use farkeep_core::replay::{ReplayError, Replayer};
use farkeep_proto::control::{Chunk, ChunkOutcome, ChunkStep};
use farkeep_proto::window::{MAX_CHUNK_LEN, STAGING_SLOTS, staging_at};

/// The most steps that a leader may say ahead.
const MAX_QUEUED: usize = 4096;

/// How a walk goes, for showing it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetProgress {
    /// Length of the leader's image in bytes.
    pub image_len: u64,
    /// Bytes of it that are settled.
    pub settled_bytes: u64,
    /// Bytes of chunks that were taken from the leader.
    pub received_bytes: u64,
    /// Chunks that were not the leader's.
    pub differing: u64,
}

/// Takes a step that is due, on the image that `replayer` carries along. Except for `Compare` nobody may read the image meanwhile.
/// In a scrub a difference is damage, and said to be in the log. Returns what became of it and, of a chunk that differs, what its blocks
/// are here.
///
/// # Errors
/// [`ReplayError`] when the end of a sync cannot be noted persistently; the node must stop writing.
pub fn take_step(
    chunk: &Chunk,
    replayer: &mut Replayer,
    log: &LogMap,
    scrub: bool,
) -> Result<(ChunkOutcome, Vec<u32>), ReplayError> {
    let (offset, len) = (chunk.offset, u64::from(chunk.len));
    let lsn = replayer.applied();
    let report_difference = || {
        if scrub {
            tracing::error!(
                %lsn,
                offset,
                len,
                "the image is not the leader's here: it is damaged, and will be repaired from the leader"
            );
        }
    };
    let mut described = Vec::new();
    let outcome = match chunk.step() {
        ChunkStep::Begin => ChunkOutcome::Ready,
        ChunkStep::Compare => match replayer.chunk(offset, len) {
            Some(bytes) if chunk::hash(bytes) == chunk.hash => {
                if !scrub {
                    replayer.keep_chunk(offset, len);
                }
                ChunkOutcome::Same
            }
            here => {
                report_difference();
                described = here.map(chunk::describe).unwrap_or_default();
                ChunkOutcome::Differs
            }
        },
        ChunkStep::Zero => match replayer.chunk(offset, len) {
            Some(bytes) => {
                if !chunk::is_zero(bytes) {
                    report_difference();
                    replayer.zero_chunk(offset, len);
                } else if !scrub {
                    replayer.keep_chunk(offset, len);
                }
                ChunkOutcome::Taken
            }
            None => ChunkOutcome::Differs,
        },
        ChunkStep::Stored => {
            if store(chunk, replayer, log, scrub) {
                ChunkOutcome::Taken
            } else {
                tracing::warn!(%lsn, offset, "a chunk of the leader's image did not arrive whole; asking again");
                ChunkOutcome::Torn
            }
        }
        ChunkStep::End => {
            replayer.end_sync()?;
            ChunkOutcome::Done
        }
        ChunkStep::Mark | ChunkStep::Unknown => unreachable!("there is nothing to take"),
    };
    Ok((outcome, described))
}

/// Stores a chunk, or its blocks, out of a staging slot, if that makes it the leader's. A chunk beyond the image's end does not.
fn store(chunk: &Chunk, replayer: &mut Replayer, log: &LogMap, scrub: bool) -> bool {
    let (offset, len) = (chunk.offset, u64::from(chunk.len));
    let Some(here) = replayer.chunk(offset, len) else { return false };
    let patch_len = chunk::patch_len(&chunk.blocks, here.len());
    let bytes = log.window_bytes(staging_at(u64::from(chunk.slot)), patch_len);
    let patched = chunk::patched(here, &chunk.blocks, bytes);
    if chunk::hash(&patched) != chunk.hash {
        return false;
    }
    for range in chunk::ranges(&chunk.blocks, patched.len()) {
        replayer.store_chunk(offset + range.start as u64, &patched[range]);
    }
    // As of a chunk that is the same: the blocks that stay as they are may never have been written back.
    if !scrub && !chunk.blocks.is_empty() {
        replayer.keep_chunk(offset, len);
    }
    true
}

#[derive(Debug)]
pub(crate) struct SyncTarget {
    queue: VecDeque<Chunk>,
    /// The position of the last step taken; `None` before the first.
    horizon: Option<Lsn>,
    /// Where the furthest chunk ends that a step was about.
    walked: u64,
    /// Chunks that differed and have not come yet.
    open: BTreeSet<u64>,
    progress: TargetProgress,
}

impl SyncTarget {
    pub(crate) fn new(begin: Chunk, cursor: u64) -> Self {
        Self {
            queue: VecDeque::from([begin]),
            horizon: None,
            walked: cursor,
            open: BTreeSet::new(),
            progress: TargetProgress::default(),
        }
    }

    /// A step of the leader's. Says what is wrong with it, if it cannot be taken.
    pub(crate) fn push(&mut self, chunk: Chunk) -> Result<(), &'static str> {
        let end = chunk.offset.checked_add(u64::from(chunk.len));
        match chunk.step() {
            ChunkStep::Unknown | ChunkStep::Begin => {
                return Err("the leader's walk has a step that is unknown here");
            }
            ChunkStep::Compare | ChunkStep::Zero | ChunkStep::Stored => {
                if chunk.len == 0
                    || u64::from(chunk.len) > MAX_CHUNK_LEN
                    || end.is_none_or(|end| end > chunk.image_len)
                {
                    return Err("the leader's walk names an impossible chunk");
                }
                if u64::from(chunk.slot) >= STAGING_SLOTS {
                    return Err("the leader's walk names an impossible staging slot");
                }
                if !chunk::are_blocks(&chunk.blocks, chunk.len as usize) {
                    return Err("the leader's walk names impossible blocks");
                }
            }
            ChunkStep::Mark | ChunkStep::End => {}
        }
        let last =
            self.queue.back().map_or(0, |last| last.at_lsn).max(self.horizon.unwrap_or(Lsn::ZERO).get());
        if chunk.at_lsn < last {
            return Err("the leader's walk goes back");
        }
        if self.queue.front().is_some_and(|first| first.step() == ChunkStep::Begin) {
            return Err("the leader's walk does not wait until this image stands still");
        }
        // A mark says no more than that the next step is not before it.
        if self.queue.back().is_some_and(|last| last.step() == ChunkStep::Mark) {
            self.queue.pop_back();
        }
        if self.queue.len() >= MAX_QUEUED {
            return Err("the leader's walk does not wait for answers");
        }
        self.queue.push_back(chunk);
        Ok(())
    }

    /// Up to where the image may be taken; `None` for as far as there is.
    pub(crate) fn horizon(&self) -> Option<Lsn> {
        let due = self.queue.front().filter(|chunk| chunk.step() != ChunkStep::Begin);
        due.map(|chunk| Lsn::new(chunk.at_lsn)).or(self.horizon)
    }

    /// The step to be taken by an image that is at `applied`.
    pub(crate) fn due(&mut self, applied: Lsn) -> Option<Chunk> {
        loop {
            let chunk = self.queue.front()?;
            let at = Lsn::new(chunk.at_lsn);
            match chunk.step() {
                ChunkStep::Begin => return Some(chunk.clone()),
                ChunkStep::Mark if at <= applied => {
                    self.horizon = Some(at);
                    self.queue.pop_front();
                }
                _ => return (at <= applied).then(|| chunk.clone()),
            }
        }
    }

    /// Whether this step has not been taken yet, and is next.
    pub(crate) fn is_next(&self, chunk: &Chunk) -> bool {
        self.queue.front() == Some(chunk)
    }

    /// The step that was due has been taken, by an image at `applied`.
    pub(crate) fn taken(&mut self, applied: Lsn, outcome: ChunkOutcome) {
        let chunk = self.queue.pop_front().expect("a step was due");
        let begins = chunk.step() == ChunkStep::Begin;
        assert!(
            begins || applied.get() == chunk.at_lsn,
            "a step for LSN {} was taken at LSN {applied}",
            chunk.at_lsn
        );
        self.horizon = Some(applied);
        if begins {
            return;
        }
        let end = chunk.offset + u64::from(chunk.len);
        self.walked = self.walked.max(end);
        self.progress.image_len = chunk.image_len;
        match outcome {
            ChunkOutcome::Differs => {
                self.progress.differing += 1;
                self.open.insert(chunk.offset);
            }
            ChunkOutcome::Torn => {
                self.open.insert(chunk.offset);
            }
            ChunkOutcome::Taken => {
                self.open.remove(&chunk.offset);
                if chunk.step() == ChunkStep::Stored {
                    self.progress.received_bytes +=
                        chunk::patch_len(&chunk.blocks, chunk.len as usize) as u64;
                }
            }
            _ => {}
        }
    }

    /// Where the furthest chunk ends that a step was about.
    pub(crate) fn walked(&self) -> u64 {
        self.walked
    }

    /// Everything before it in the image is settled.
    pub(crate) fn cursor(&self) -> u64 {
        self.open.first().map_or(self.walked, |&first| first.min(self.walked))
    }

    pub(crate) fn progress(&self) -> TargetProgress {
        TargetProgress { settled_bytes: self.cursor(), ..self.progress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: ChunkStep, at_lsn: u64, offset: u64) -> Chunk {
        Chunk { step: step.into(), at_lsn, offset, len: 100, image_len: 1000, ..Chunk::default() }
    }

    fn target() -> SyncTarget {
        let mut target = SyncTarget::new(step(ChunkStep::Begin, 0, 0), 0);
        assert_eq!(target.horizon(), None);
        assert_eq!(target.due(Lsn::new(50)).unwrap().step(), ChunkStep::Begin);
        target.taken(Lsn::new(50), ChunkOutcome::Ready);
        target
    }

    #[test]
    fn nothing_is_replayed_behind_the_next_step_and_each_is_taken_exactly_there() {
        let mut target = target();
        assert_eq!(target.horizon(), Some(Lsn::new(50)), "nothing is known of what comes next");
        target.push(step(ChunkStep::Mark, 70, 0)).unwrap();
        assert_eq!((target.horizon(), target.due(Lsn::new(50))), (Some(Lsn::new(70)), None));
        assert_eq!(target.due(Lsn::new(70)), None);
        assert_eq!(target.horizon(), Some(Lsn::new(70)));
        target.push(step(ChunkStep::Mark, 80, 0)).unwrap();
        target.push(step(ChunkStep::Compare, 90, 0)).unwrap();
        assert_eq!(target.horizon(), Some(Lsn::new(90)), "what lies before the next step is not about any");
        assert_eq!(target.due(Lsn::new(80)), None);
        assert_eq!(target.due(Lsn::new(90)).unwrap().at_lsn, 90);
        target.taken(Lsn::new(90), ChunkOutcome::Same);
        assert_eq!(target.horizon(), Some(Lsn::new(90)));
    }

    #[test]
    fn the_cursor_stands_before_the_first_chunk_that_is_open() {
        let mut target = target();
        for (offset, outcome) in
            [(0, ChunkOutcome::Same), (100, ChunkOutcome::Differs), (200, ChunkOutcome::Same)]
        {
            target.push(step(ChunkStep::Compare, 60, offset)).unwrap();
            target.due(Lsn::new(60)).unwrap();
            target.taken(Lsn::new(60), outcome);
        }
        assert_eq!(target.cursor(), 100);
        target.push(step(ChunkStep::Stored, 65, 100)).unwrap();
        assert_eq!(target.due(Lsn::new(60)), None);
        target.due(Lsn::new(65)).unwrap();
        target.taken(Lsn::new(65), ChunkOutcome::Taken);
        assert_eq!(target.cursor(), 300);
    }

    #[test]
    fn a_walk_that_goes_on_before_the_image_stands_still_is_refused() {
        let mut target = SyncTarget::new(step(ChunkStep::Begin, 0, 0), 0);
        assert!(target.push(step(ChunkStep::Compare, 40, 0)).is_err());
        target.due(Lsn::new(50)).unwrap();
        target.taken(Lsn::new(50), ChunkOutcome::Ready);
        assert_eq!(target.horizon(), Some(Lsn::new(50)), "what was refused is not due");
        target.push(step(ChunkStep::Compare, 50, 0)).unwrap();
    }

    #[test]
    fn a_walk_that_goes_back_or_names_what_is_not_there_is_refused() {
        let mut target = target();
        assert!(target.push(step(ChunkStep::Compare, 49, 0)).is_err());
        target.push(step(ChunkStep::Compare, 60, 0)).unwrap();
        assert!(target.push(step(ChunkStep::Compare, 59, 0)).is_err());
        assert!(target.push(step(ChunkStep::Compare, 60, 950)).is_err());
        assert!(target.push(Chunk { slot: 4, ..step(ChunkStep::Stored, 60, 0) }).is_err());
        assert!(target.push(Chunk { blocks: vec![2], ..step(ChunkStep::Stored, 60, 0) }).is_err());
        assert!(target.push(Chunk { offset: u64::MAX, ..step(ChunkStep::Zero, 60, 0) }).is_err());
        assert!(target.push(Chunk { step: 99, ..step(ChunkStep::Compare, 60, 0) }).is_err());
    }
}
