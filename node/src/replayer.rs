//! The replayer's thread: carries the image along with what is committed, and takes checkpoints.
//!
//! On a leader it works beside the engine, on pages that the working view has copies of. On a follower it takes the engine for each
//! step, because clients read the same image; a step is short.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farkeep_core::heap::ImageSource;
use farkeep_core::lsn::Lsn;
use farkeep_core::replay::{ReplayError, Replayer};

use crate::node::Node;

/// Log replayed in one step, in bytes: what a reader on a follower may have to wait for.
const STEP_BYTES: u64 = 256 * 1024;
/// Log applied between two checkpoints where persisting is a matter of instructions.
const CHECKPOINT_BYTES: u64 = 1024 * 1024;
/// The same where it takes an `fdatasync` of the image.
const CHECKPOINT_BYTES_DISK: u64 = 16 * 1024 * 1024;
/// Pause between two looks while there is work now and then.
const PAUSE: Duration = Duration::from_millis(1);
/// Looks without work before the replayer goes to sleep.
const IDLE_LOOKS: u32 = 20;
/// Longest sleep.
const SLEEP: Duration = Duration::from_millis(250);

/// Runs until the node stops; a last checkpoint makes the next start short.
pub fn run(node: &Arc<Node>) {
    let mut idle_looks = 0;
    while !node.stopping.load(Ordering::Acquire) {
        grow_ahead(node);
        if node.replay_paused.load(Ordering::Relaxed) {
            node.replay.wait(SLEEP);
            continue;
        }
        match step(node, idle_looks >= IDLE_LOOKS) {
            Ok(true) => idle_looks = 0,
            Ok(false) if idle_looks < IDLE_LOOKS => {
                idle_looks += 1;
                std::thread::sleep(PAUSE);
            }
            Ok(false) => node.replay.wait_idle(SLEEP),
            Err(error @ ReplayError::Grow { .. }) => {
                tracing::error!(%error, "the image cannot follow the log; trying again");
                std::thread::sleep(SLEEP);
            }
            Err(error) => {
                tracing::error!(%error, "replaying failed; the node stops");
                node.stop();
            }
        }
    }
    // Readers of a follower's image have the engine.
    let _engine = node.engine.lock();
    let mut guard = node.replayer.lock();
    let committed = node.followership().as_ref().map(|follows| follows.machine.replay_target());
    if let Some(replayer) = &mut *guard {
        settle(replayer, committed.unwrap_or_else(|| node.marks.committed()));
    }
}

/// Takes the image to `committed`, persistently: whoever opens it next, in whatever role, sees all that was promised.
pub fn settle(replayer: &mut Replayer, committed: Lsn) {
    if let Err(error) = replayer.run(committed).and_then(|()| replayer.checkpoint()) {
        tracing::error!(%error, "the last checkpoint failed");
    }
}

/// Allocates space for the image before the engine needs it, so that no command waits for the file system.
fn grow_ahead(node: &Node) {
    let due = node.image_due.swap(0, Ordering::Relaxed);
    if due == 0 {
        return;
    }
    // A file system that is full is the engine's to report, to the client whose command needs the space.
    if let Err(error) = node.image.grow_to(due) {
        tracing::debug!(%error, due, "the image could not be allocated ahead of need");
    }
}

/// One step. Returns whether anything was done.
fn step(node: &Node, idle: bool) -> Result<bool, ReplayError> {
    // A leader is told by the engine what is committed, a follower by its followership.
    let follows = node.followership().is_some();
    if !follows {
        let mut guard = node.replayer.lock();
        let Some(replayer) = &mut *guard else { return Ok(false) };
        if node.followership().is_some() {
            return Ok(true);
        }
        let worked = advance(node, replayer, node.marks.committed(), idle)?;
        node.marks.publish(replayer.applied(), replayer.checkpoint_lsn());
        return Ok(worked);
    }
    let mut engine = node.engine.lock();
    let mut guard = node.replayer.lock();
    // The role may have changed since; the engine's lock keeps it from changing from here on.
    let target = node.followership().as_ref().map(|follows| follows.machine.replay_target());
    let (Some(target), Some(replayer)) = (target, &mut *guard) else { return Ok(false) };
    let worked = advance(node, replayer, target, idle)?;
    engine.follower_applied(node, replayer.image_len(), replayer.applied());
    drop(engine);
    let (applied, checkpoint) = (replayer.applied(), replayer.checkpoint_lsn());
    node.marks.publish(applied, checkpoint);
    if let Some(follows) = &mut *node.followership() {
        follows.machine.replayed(applied, checkpoint);
    }
    Ok(worked)
}

fn advance(node: &Node, replayer: &mut Replayer, target: Lsn, idle: bool) -> Result<bool, ReplayError> {
    let before = replayer.applied();
    if target > before {
        replayer.step(target, STEP_BYTES)?;
    }
    let behind = replayer.applied().distance_from(replayer.checkpoint_lsn());
    let due = if node.image_on_disk { CHECKPOINT_BYTES_DISK } else { CHECKPOINT_BYTES };
    let worked = replayer.applied() > before;
    // The rest is checkpointed as soon as there is nothing better to do, so that a restart is short.
    if behind >= due || (behind > 0 && !worked && idle) {
        replayer.checkpoint()?;
        return Ok(true);
    }
    Ok(worked)
}
