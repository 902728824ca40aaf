//! The walker: reads this leader's image for followers that need a delta sync, and for scrubs.
//!
//! What is to be read, for whom, and what becomes of it is [`farkeep_leader::sync_source`]'s; here it meets the image. A chunk
//! is read between two steps of the replayer, so it is the image at exactly one LSN. That keeps the replayer waiting
//! for as long as a hash of a chunk takes, and the workers not at all: they are asked for a moment what to do next and
//! told the result. Commands never wait, whatever the image's size, and the memory it takes is a few chunks.
//!
//! The thread gives way to those that serve clients: it is nice to them, so it does not take a processor from a worker when it
//! wakes up, and `sync-max-rate` bounds what it sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farkeep_leader::FollowerId;
use farkeep_leader::sync_source::{ChunkRead, Job, Purpose};

use crate::node::Node;

/// Sleep while no walk is under way; a new one wakes the thread.
const IDLE: Duration = Duration::from_secs(60);
/// Sleep while a walk waits for an answer, a slot, or the image to move.
const PAUSE: Duration = Duration::from_millis(2);
/// A scrub reads so many bytes a second: it has no hurry.
const SCRUB_RATE: u64 = 256 << 20;
/// The thread's nice value: about a third of the weight of a worker.
const NICENESS: i32 = 5;
/// Time that may be made up for at most after a pause.
const MAX_ARREARS: Duration = Duration::from_millis(20);

/// Runs until the node stops.
pub fn run(node: &Arc<Node>) {
    give_way();
    let mut walker = Walker { node: Arc::clone(node), last: None, may_send_at: Instant::now() };
    while !node.stopping.load(Ordering::Acquire) {
        if !walker.turn() {
            node.walk.wait(if node.walking.load(Ordering::Acquire) { PAUSE } else { IDLE });
        }
    }
}

/// Lets this thread give way to the others. A matter of latency only; where it is refused, nothing is lost.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "the walker stays an ordinary thread");
    }
}

struct Walker {
    node: Arc<Node>,
    /// The follower that was served last.
    last: Option<FollowerId>,
    /// Nothing is sent before.
    may_send_at: Instant,
}

impl Walker {
    /// Does the next job, if there is one.
    fn turn(&mut self) -> bool {
        let node = Arc::clone(&self.node);
        if !node.walking.load(Ordering::Acquire) {
            return false;
        }
        let may_send = Instant::now() >= self.may_send_at;
        let Some((id, job, purpose, chunk_len)) = self.next(may_send) else { return false };
        self.last = Some(id);
        let read = node.replayer.lock().as_ref().map(|replayer| ChunkRead::of(job, chunk_len, replayer));
        let Some(read) = read else { return false };
        self.pace(purpose, &read, job, chunk_len);
        let mut engine = node.engine.lock();
        if let Some((leader, sessions)) = engine.leading() {
            leader.walk_done(id, job, read);
            sessions.say_steps(leader, &node);
            // The worker posts what goes through a staging slot.
            if leader.follower(id).is_some_and(|follower| follower.has_chunk_pieces()) {
                drop(engine);
                node.workers[0].waker.wake();
            }
        }
        // A mark says it all; the next one may wait.
        job != Job::Look
    }

    fn next(&self, may_send: bool) -> Option<(FollowerId, Job, Purpose, u64)> {
        let applied = self.node.marks.applied();
        let mut engine = self.node.engine.lock();
        let Some((leader, _)) = engine.leading() else {
            // Walks end with the reign.
            self.node.walking.store(false, Ordering::Release);
            return None;
        };
        let (id, job) = leader.walk_job(applied, self.last, may_send)?;
        let (purpose, _) = leader.follower(id)?.walk()?;
        Some((id, job, purpose, leader.config().chunk_len))
    }

    /// Puts off what comes next, by as long as what was done may take.
    fn pace(&mut self, purpose: Purpose, read: &ChunkRead, job: Job, chunk_len: u64) {
        let limit = self.node.config().sync_max_rate;
        let (bytes, rate) = match (purpose, job) {
            (Purpose::Sync, Job::Send { .. }) if limit > 0 => (read.bytes.len() as u64, limit),
            (Purpose::Scrub, Job::Compare { .. }) => (chunk_len, SCRUB_RATE),
            _ => return,
        };
        let took = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        let from = self.may_send_at.max(Instant::now().checked_sub(MAX_ARREARS).unwrap_or(self.may_send_at));
        self.may_send_at = from + took;
    }
}
