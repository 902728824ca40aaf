//! The log writer: makes the log durable on a disk, so that an `fdatasync` never holds the engine.
//!
//! What is appended between two `fdatasync` is a *group*. The followers get it when its `fdatasync` begins, not as it is
//! appended: they make it durable in one go and at the same time as this node, instead of in many pieces.
//!
//! The fewer groups, the more writes share each, and a group that starts the moment the last one ends takes only those
//! clients along that did not wait for that one; the others arrive just behind it and wait for two. So a group waits for as
//! many bytes as the last one had to come back ([`Pace`]), though never for longer than a part of what the
//! last `fdatasync` took. A single client never waits for anybody: what came back of its last write is its next one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farkeep_core::log::LogMap;
use farkeep_core::lsn::Lsn;

use crate::node::Node;

/// Longest sleep without work.
const IDLE: Duration = Duration::from_millis(200);
/// A group waits for this part of the last `fdatasync`'s duration at most.
const GATHER_PART: u32 = 2;

/// Runs until the node stops.
pub fn run(node: &Arc<Node>) {
    let mut pace = Pace::default();
    while !node.stopping.load(Ordering::Acquire) {
        let log = Arc::clone(node.engine.lock().pool().log());
        if log.appended() == log.durable() {
            node.log_group.store(0, Ordering::SeqCst);
            if log.appended() == log.durable() {
                node.log_writer.wait(IDLE);
            }
            continue;
        }
        pace.gather(node, &log);
        if let Err(error) = pace.write_group(node, &log) {
            // The log has stopped by itself: no write is taken or acknowledged any more.
            tracing::error!(%error, "the log could not be made durable");
            node.log_writer.wait(IDLE);
        }
        node.wake_workers();
    }
}

/// What the last group says about the next.
#[derive(Debug)]
struct Pace {
    ended: Instant,
    took: Duration,
    /// Where the log will end once everybody whom the last group answered has written again.
    expected: Lsn,
}

impl Default for Pace {
    fn default() -> Self {
        Self { ended: Instant::now(), took: Duration::ZERO, expected: Lsn::ZERO }
    }
}

impl Pace {
    /// Waits until the group is as large as it is likely to become soon.
    fn gather(&self, node: &Node, log: &LogMap) {
        let deadline = self.ended + self.took / GATHER_PART;
        node.log_group.store(self.expected.get(), Ordering::SeqCst);
        while log.appended() < self.expected && !node.stopping.load(Ordering::Acquire) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            node.log_writer.wait(left);
        }
        // Nobody needs to wake this thread while it writes: it looks again when it is done.
        node.log_group.store(u64::MAX, Ordering::SeqCst);
    }

    /// Makes the group durable, on the followers and here at the same time.
    fn write_group(&mut self, node: &Node, log: &LogMap) -> io::Result<()> {
        let before = log.durable();
        node.engine.lock().ship_group(node.now());
        let start = Instant::now();
        let durable = log.sync()?;
        self.ended = Instant::now();
        self.took = self.ended - start;
        let answered = durable.distance_from(before);
        // An eighth less, because writes of the same clients differ a little in size.
        self.expected = Lsn::new(log.appended().get() + answered - answered / 8);
        Ok(())
    }
}
