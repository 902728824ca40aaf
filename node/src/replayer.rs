//! The replayer's thread: carries the image along with what is committed, and takes checkpoints.
//!
//! On a leader it works beside the engine, on pages that the working view has copies of. On a follower it takes the engine for each
//! step, because clients read the same image; a step is short. There it also takes the steps of a walk over the image (a delta
//! sync, a scrub), each when the image is at exactly the step's position. In the middle of a delta sync nobody reads the image, so
//! the engine is left alone, and the work is done in spare time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farkeep_core::heap::ImageSource;
use farkeep_core::lsn::Lsn;
use farkeep_core::replay::{ReplayError, Replayer};
use farkeep_follower::{Action, take_step};
use farkeep_proto::control::{ChunkOutcome, ChunkStep};
use parking_lot::MutexGuard;

use crate::engine::Engine;
use crate::events::Level;
use crate::node::Node;
use crate::spare::Spare;

/// Log replayed in one step, in bytes: what a reader on a follower may have to wait for.
const STEP_BYTES: u64 = 256 * 1024;
/// Log applied between two checkpoints where persisting is a matter of instructions.
const CHECKPOINT_BYTES: u64 = 1024 * 1024;
/// The same where it takes an `fdatasync` of the image.
const CHECKPOINT_BYTES_DISK: u64 = 16 * 1024 * 1024;
/// Bytes of chunks taken from a leader between two checkpoints.
const CHECKPOINT_CHUNK_BYTES: u64 = 16 * 1024 * 1024;
/// Pause between two looks while there is work now and then.
const PAUSE: Duration = Duration::from_millis(1);
/// Looks without work before the replayer goes to sleep.
const IDLE_LOOKS: u32 = 20;
/// Longest sleep.
const SLEEP: Duration = Duration::from_millis(250);
/// The same while it is to stand still.
const PAUSED_SLEEP: Duration = Duration::from_secs(1);
/// Longest sleep in the middle of a delta sync, where each step and all of the log that it needs wake the thread.
const SYNC_SLEEP: Duration = Duration::from_millis(20);

/// What a step has done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Worked,
    NothingToDo,
    /// In the middle of a delta sync: the leader has to say how it goes on.
    AwaitsLeader,
}

/// Runs until the node stops; a last checkpoint makes the next start short.
pub fn run(node: &Arc<Node>) {
    let mut idle_looks = 0;
    let mut spare = Spare::default();
    while !node.stopping.load(Ordering::Acquire) {
        grow_ahead(node);
        if node.replay_paused.load(Ordering::Relaxed) {
            node.replay.wait(PAUSED_SLEEP);
            continue;
        }
        let stepped = step(node, &mut spare, idle_looks >= IDLE_LOOKS);
        // Also where there is nothing left to do: the pool may have been opened anew, and replayed by that.
        if stepped.is_ok() && node.image_is_stuck.load(Ordering::Relaxed) {
            tracing::info!("the image follows the log again");
            node.image_is_stuck.store(false, Ordering::Relaxed);
        }
        match stepped {
            Ok(Step::Worked) => idle_looks = 0,
            Ok(Step::NothingToDo) if idle_looks < IDLE_LOOKS => {
                idle_looks += 1;
                std::thread::sleep(PAUSE);
            }
            Ok(Step::NothingToDo) => node.replay.wait_idle(SLEEP),
            Ok(Step::AwaitsLeader) => {
                idle_looks += 1;
                node.replay.wait_idle(SYNC_SLEEP);
            }
            Err(error @ ReplayError::Grow { .. }) => {
                if !node.image_is_stuck.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the image cannot follow the log; trying again");
                    node.events.note(
                        Level::Critical,
                        "pool",
                        format!("the image cannot follow the log: {error}"),
                    );
                }
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

/// One step, towards what is committed and, on a follower, of a walk over the image.
fn step(node: &Node, spare: &mut Spare, idle: bool) -> Result<Step, ReplayError> {
    // A leader is told by the engine what is committed, a follower by its followership.
    let follows = node.followership().is_some();
    if !follows {
        let mut guard = node.replayer.lock();
        let Some(replayer) = &mut *guard else { return Ok(Step::NothingToDo) };
        if node.followership().is_some() {
            return Ok(Step::Worked);
        }
        let worked = advance(node, replayer, node.marks.committed(), idle, None)?;
        node.marks.publish(replayer.applied(), replayer.checkpoint_lsn());
        return Ok(if worked { Step::Worked } else { Step::NothingToDo });
    }
    let mut engine = node.engine.lock();
    let mut guard = node.replayer.lock();
    // The role may have changed since; the engine's lock keeps it from changing from here on.
    let (target, cursor, frontier) = match &*node.followership() {
        Some(follows) => {
            (follows.machine.replay_target(), follows.machine.sync_cursor(), follows.machine.frontier())
        }
        None => return Ok(Step::NothingToDo),
    };
    let Some(replayer) = &mut *guard else { return Ok(Step::NothingToDo) };
    replayer.store_up_to(frontier);
    let worked = if cursor.is_none() {
        advance(node, replayer, target, idle, None)?
    } else {
        drop(engine);
        let before = replayer.applied();
        let worked = spare.run(|| advance(node, replayer, target, idle, cursor))?;
        spare.covered(replayer.applied().distance_from(before));
        drop(guard);
        engine = node.engine.lock();
        guard = node.replayer.lock();
        worked
    };
    // Another pool may have been opened meanwhile.
    let Some(replayer) = &mut *guard else { return Ok(Step::Worked) };
    let taken = follow(node, engine, replayer, spare, worked)?;
    Ok(match (worked || taken, cursor) {
        (true, _) => Step::Worked,
        (false, None) => Step::NothingToDo,
        (false, Some(_)) => Step::AwaitsLeader,
    })
}

/// Says how far a follower has come, and takes a step of a walk over the image if one is due there. Returns whether one was.
fn follow(
    node: &Node,
    mut engine: MutexGuard<'_, Engine>,
    replayer: &mut Replayer,
    spare: &mut Spare,
    worked: bool,
) -> Result<bool, ReplayError> {
    engine.follower_applied(node, replayer.image_len(), replayer.applied());
    let (applied, checkpoint) = (replayer.applied(), replayer.checkpoint_lsn());
    node.marks.publish(applied, checkpoint);
    if worked {
        // The leader is to hear of it: it gives the log's space to new records.
        node.link.raise_if_resting();
    }
    let (due, log, scrub) = match &mut *node.followership() {
        Some(follows) => {
            follows.machine.replayed(applied, checkpoint);
            let due = follows.machine.chunk_due(applied);
            (due, Arc::clone(&follows.log), !follows.machine.is_mid_sync())
        }
        None => return Ok(false),
    };
    let Some(chunk) = due else { return Ok(false) };
    // Clients may go on reading while bytes are only compared, and read nothing in the middle of a sync.
    let ends = chunk.step() == ChunkStep::End;
    let engine = (ends || scrub && chunk.step() != ChunkStep::Compare).then_some(engine);
    let mut take = || take_step(&chunk, replayer, &log, scrub);
    let (outcome, described) = if engine.is_some() {
        take()?
    } else {
        let taken = spare.run(take)?;
        spare.covered(u64::from(chunk.len));
        taken
    };
    let mut speaker = None;
    let mut answers = Vec::new();
    if let Some(follows) = &mut *node.followership() {
        follows.machine.replayed(replayer.applied(), replayer.checkpoint_lsn());
        answers = follows.machine.chunk_taken(&chunk, applied, outcome, described);
        speaker = follows.speaker.clone();
    }
    if let (Some(mut engine), ChunkOutcome::Done) = (engine, outcome) {
        node.marks.publish(replayer.applied(), replayer.checkpoint_lsn());
        engine.sync_ended(node, replayer.image_len(), applied);
    }
    for answer in answers {
        if let (Some(speaker), Action::Send(body)) = (&speaker, answer)
            && let Err(error) = speaker.say(body)
        {
            tracing::debug!(%error, "an answer did not reach the leader; the link's thread finds out why");
        }
    }
    Ok(true)
}

/// Takes the image towards `target`, and a checkpoint when one is due. `cursor` is how much of it a delta sync has settled, while
/// there is one.
fn advance(
    node: &Node,
    replayer: &mut Replayer,
    target: Lsn,
    idle: bool,
    cursor: Option<u64>,
) -> Result<bool, ReplayError> {
    let before = replayer.applied();
    if target > before {
        replayer.step(target, STEP_BYTES)?;
    }
    let behind = replayer.applied().distance_from(replayer.checkpoint_lsn());
    let due = if node.image_on_disk { CHECKPOINT_BYTES_DISK } else { CHECKPOINT_BYTES };
    let worked = replayer.applied() > before;
    // The rest is checkpointed as soon as there is nothing better to do, so that a restart is short.
    let chunk_bytes = replayer.chunk_bytes_behind();
    let due_now = behind >= due || chunk_bytes >= CHECKPOINT_CHUNK_BYTES;
    if due_now || (behind + chunk_bytes > 0 && !worked && idle) {
        match cursor {
            Some(cursor) => replayer.checkpoint_in_sync(cursor)?,
            None => replayer.checkpoint()?,
        };
        return Ok(true);
    }
    Ok(worked)
}
