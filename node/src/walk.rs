//! The walker: reads this leader's image for followers that need a delta sync, and for scrubs.
//!
//! What is to be read, for whom, and what becomes of it is [`farkeep_leader::sync_source`]'s; here it meets the image. A chunk
//! is read between two steps of the replayer, so it is the image at exactly one LSN. That keeps the replayer waiting
//! for as long as a hash of a chunk takes, and the workers not at all: they are asked for a moment what to do next and
//! told the result. Commands never wait, whatever the image's size, and the memory it takes is a few chunks.
//!
//! Over tcp the walker also sends, chunks and log, to a follower in mid-sync ([`crate::replication`]).
//!
//! Chunks are read and sent in the machine's spare time ([`crate::spare`]). `sync-max-rate` bounds what is sent, for all walks
//! and followers together: what it is to spare, this leader's processor and its link, they share.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farkeep_leader::FollowerId;
use farkeep_leader::sync_source::{ChunkRead, Job, Leave, Purpose};

use crate::node::Node;
use crate::spare::Spare;

/// Sleep while no walk is under way; a new one wakes the thread.
const IDLE: Duration = Duration::from_secs(60);
/// Sleep while a walk waits for an answer, a slot, or the image to move.
const PAUSE: Duration = Duration::from_millis(2);
/// A follower in mid-sync is told how far it may replay, if no chunk tells it, when so much time has passed.
const MARK_PAUSE: Duration = Duration::from_millis(20);
/// A scrub reads so many bytes a second: it has no hurry.
const SCRUB_RATE: u64 = 256 << 20;
/// Time that may be made up for at most after a pause.
const MAX_ARREARS: Duration = Duration::from_millis(20);

/// Runs until the node stops.
pub fn run(node: &Arc<Node>) {
    let mut walker = Walker {
        node: Arc::clone(node),
        spare: Spare::or_nice(),
        last: None,
        rest: PAUSE,
        may_send_at: Instant::now(),
        marked_at: Instant::now(),
    };
    while !node.stopping.load(Ordering::Acquire) {
        if !walker.turn() {
            node.walk.wait(walker.pause());
        }
    }
}

struct Walker {
    node: Arc<Node>,
    spare: Spare,
    /// The follower that was served last.
    last: Option<FollowerId>,
    /// How long to sleep when there is nothing to do.
    rest: Duration,
    /// Nothing is sent before.
    may_send_at: Instant,
    /// When a follower was last told how far it may replay.
    marked_at: Instant,
}

impl Walker {
    /// How long there may be nothing to do.
    fn pause(&self) -> Duration {
        if !self.node.walking.load(Ordering::Acquire) {
            return IDLE;
        }
        let held_back = self.may_send_at.saturating_duration_since(Instant::now());
        if held_back.is_zero() { self.rest } else { held_back.min(self.rest) }
    }

    /// Does the next job, if there is one, and sends what there is to send.
    fn turn(&mut self) -> bool {
        if !self.node.walking.load(Ordering::Acquire) {
            return false;
        }
        let worked = self.read();
        if self.send() {
            self.rest = PAUSE;
        }
        worked
    }

    /// Does the next job, if there is one.
    fn read(&mut self) -> bool {
        let node = Arc::clone(&self.node);
        let now = Instant::now();
        let leave =
            Leave { read: now >= self.may_send_at, mark: now.duration_since(self.marked_at) >= MARK_PAUSE };
        let Some((id, job, purpose, chunk_len)) = self.next(leave) else { return false };
        self.last = Some(id);
        // A scrubbed follower's readers see what its replayer was told of.
        self.rest = if purpose == Purpose::Scrub { PAUSE } else { MARK_PAUSE };
        if job == Job::Look {
            self.marked_at = now;
        }
        // The replayer may have to wait, clients do not.
        let read = |replayer| self.spare.run(|| ChunkRead::of(&job, chunk_len, replayer));
        let read = node.replayer.lock().as_ref().map(read);
        let Some(read) = read else { return false };
        if job != Job::Look {
            self.spare.covered(chunk_len);
        }
        self.pace(purpose, &read, &job, chunk_len);
        let mut engine = node.engine.lock();
        if let Some((leader, sessions)) = engine.leading() {
            leader.walk_done(id, &job, read);
            sessions.say_steps(leader, &node);
        }
        // A mark says it all; the next one may wait.
        job != Job::Look
    }

    /// Sends to the followers in mid-sync what is for this thread to send. Returns whether some link was too full for it.
    fn send(&mut self) -> bool {
        let lent = self.node.engine.lock().lend_windows(&self.node);
        let mut stuck = false;
        for (id, mut outgoing) in lent {
            let sent = self.spare.run(&mut outgoing);
            drop(outgoing);
            stuck |= self.node.engine.lock().sent(&self.node, id, sent);
        }
        stuck
    }

    fn next(&self, leave: Leave) -> Option<(FollowerId, Job, Purpose, u64)> {
        let applied = self.node.marks.applied();
        let mut engine = self.node.engine.lock();
        let Some((leader, _)) = engine.leading() else {
            // Walks end with the reign.
            self.node.walking.store(false, Ordering::Release);
            return None;
        };
        let (id, job) = leader.walk_job(applied, self.last, leave)?;
        let (purpose, _) = leader.follower(id)?.walk()?;
        Some((id, job, purpose, leader.config().chunk_len))
    }

    /// Puts off what comes next, by as long as what was done may take.
    fn pace(&mut self, purpose: Purpose, read: &ChunkRead, job: &Job, chunk_len: u64) {
        let sent = read.patch.bytes.len() as u64;
        let took = time_for(purpose, job, sent, chunk_len, self.node.config().sync_max_rate);
        if took.is_zero() {
            return;
        }
        let from = self.may_send_at.max(Instant::now().checked_sub(MAX_ARREARS).unwrap_or(self.may_send_at));
        self.may_send_at = from + took;
    }
}

/// How long a job takes at the rate that holds for it: `limit` bytes a second for what is `sent`, if it is not 0, and the scrub's
/// own for what that only looks at.
fn time_for(purpose: Purpose, job: &Job, sent: u64, chunk_len: u64, limit: u64) -> Duration {
    let (bytes, rate) = match (purpose, job) {
        (_, Job::Send { .. }) if limit > 0 => (sent, limit),
        (Purpose::Scrub, Job::Compare { .. }) => (chunk_len, SCRUB_RATE),
        _ => return Duration::ZERO,
    };
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrubs_repairs_are_bounded_as_a_sync_is() {
        let send = Job::Send { offset: 0, described: Arc::from([]), slot: 0 };
        for purpose in [Purpose::Sync, Purpose::Scrub] {
            let took = |limit| time_for(purpose, &send, 500_000, 1 << 20, limit);
            assert_eq!(took(1_000_000), Duration::from_millis(500), "{purpose:?}");
            assert_eq!(took(0), Duration::ZERO, "{purpose:?}");
        }
    }

    #[test]
    fn what_is_only_compared_is_paced_in_a_scrub_and_by_no_limit_on_what_is_sent() {
        let took = |purpose, limit| time_for(purpose, &Job::Compare { offset: 0 }, 0, SCRUB_RATE / 4, limit);
        assert_eq!(took(Purpose::Scrub, 1), Duration::from_millis(250));
        assert_eq!(took(Purpose::Sync, 1), Duration::ZERO);
    }
}
