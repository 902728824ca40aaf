//! The log writer: makes the log durable on a disk, so that an `fdatasync` never holds the engine.
//!
//! Everything appended while one `fdatasync` runs is covered by the next: that is the whole of the group commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::node::Node;

/// Longest sleep without work.
const IDLE: Duration = Duration::from_millis(200);

/// Runs until the node stops.
pub fn run(node: &Arc<Node>) {
    while !node.stopping.load(Ordering::Acquire) {
        let log = Arc::clone(node.engine.lock().pool().log());
        if log.appended() == log.durable() {
            node.log_writer.wait(IDLE);
            continue;
        }
        if let Err(error) = log.sync() {
            // The log has stopped by itself: no write is taken or acknowledged any more.
            tracing::error!(%error, "the log could not be made durable");
            node.log_writer.wait(IDLE);
        }
        node.wake_workers();
    }
}
