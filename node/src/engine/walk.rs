//! Walks over the image, as far as they are the engine's business: when they begin, what became of them.
//!
//! A delta sync begins with a follower's joining; a scrub when `scrub-interval` has passed since the last one, or when
//! `FARKEEP SCRUB` asks for it. The steps are read by the walker ([`crate::walk`]) on a leader and taken by the replayer
//! ([`crate::replayer`]) on a follower.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use farkeep_core::lsn::Lsn;
use farkeep_core::recover::NEVER;
use farkeep_fabric::{FabricError, Outgoing, Sending};
use farkeep_leader::sync_source::Purpose;
use farkeep_leader::{FollowerEntry, FollowerId, Walked};
use farkeep_proto::control::ChunkAnswer;

use super::Engine;
use super::role::{Following, Leading, Role};
use crate::config::Config;
use crate::node::Node;
use crate::worker::Now;

/// What has become of walks since this node started, for INFO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walks {
    /// Delta syncs that have ended.
    pub syncs: u64,
    /// Bytes that they sent.
    pub sync_bytes: u64,
    /// Scrubs that have ended; each is of one follower.
    pub scrubs: u64,
    /// Chunks in which a follower's image was not the leader's, and was repaired.
    pub scrub_mismatches: u64,
    /// Unix time in ms at which the last scrub ended; 0 if none has.
    pub last_scrub_unix_ms: u64,
}

impl Leading {
    /// Tells the followers what there is to tell of walks over the image.
    pub(super) fn say_steps(&mut self, node: &Node) {
        if node.walking.load(Ordering::Relaxed) {
            self.sessions.say_steps(&mut self.machine, node);
        }
    }

    /// Ten times a second: begins a scrub that is due, and sees to it that the walker works while there is something to walk.
    pub(super) fn look_after_walks(&mut self, node: &Node, config: &Config, now: Now) {
        let interval_ms = config.scrub_interval_s.saturating_mul(1000);
        let due = interval_ms > 0 && now.ms >= self.scrubbed_ms.saturating_add(interval_ms);
        if due {
            self.scrub(now);
        }
        self.wake_walker(node);
    }

    fn scrub(&mut self, now: Now) -> usize {
        let begun = self.machine.begin_scrub(now.ms);
        if begun > 0 {
            self.scrubbed_ms = now.ms;
            tracing::info!(followers = begun, "a scrub begins");
        }
        begun
    }

    /// To be called when a walk may have begun.
    fn wake_walker(&mut self, node: &Node) {
        let walks = self.machine.walks();
        if node.walking.swap(walks, Ordering::AcqRel) != walks && walks {
            node.walk.raise();
        }
        self.say_steps(node);
    }
}

impl Engine {
    /// FARKEEP SCRUB: compares every chunk of the followers' images with this node's. Returns how many followers that
    /// are; `None` on a node that does not lead.
    pub fn scrub(&mut self, node: &Node, now: Now) -> Option<usize> {
        let Role::Leader(leading) = &mut self.role else { return None };
        let begun = leading.scrub(now);
        leading.wake_walker(node);
        Some(begun)
    }

    /// FARKEEP RESYNC: a follower's image is made this node's by a delta sync, as if nothing were known of what it holds. `name` is
    /// its address and port.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub fn resync(&mut self, node: &Node, name: &str, force: bool) -> Result<(), String> {
        let Role::Leader(leading) = &mut self.role else {
            return Err("a resync is begun on the leader".to_owned());
        };
        let follower = leading.machine.followers().find(|follower| follower.name() == name);
        let id = follower.map(|follower| follower.id).ok_or_else(|| format!("no follower {name}"))?;
        let dropped = leading.machine.resync(id, force).map_err(|why| format!("{name}: {why}"))?;
        if let Some(dropped) = dropped {
            leading.carry_out(dropped);
        }
        node.wake_workers();
        Ok(())
    }

    /// What the walker has to send to followers in mid-sync. Each is given back with [`Engine::sent`].
    pub fn lend_windows(&mut self, node: &Node) -> Vec<(FollowerId, Outgoing)> {
        let Role::Leader(leading) = &mut self.role else { return Vec::new() };
        let until = leading.shippable();
        let lent = leading.sessions.lend(&mut leading.machine, &leading.memory.0, until, node.now());
        if leading.machine.followers().any(FollowerEntry::has_chunk_pieces) {
            // The worker posts these.
            node.workers[0].waker.wake();
        }
        lent
    }

    /// The walker has sent what it was lent, as far as the link took it. Returns whether it has to go on with that.
    pub fn sent(&mut self, node: &Node, id: FollowerId, sent: Result<Sending, FabricError>) -> bool {
        let Role::Leader(leading) = &mut self.role else { return false };
        let stuck = leading.sessions.sent(&mut leading.machine, id, sent);
        if stuck.is_none() {
            node.workers[0].waker.wake();
        }
        stuck.unwrap_or(false)
    }

    /// A follower has answered a step of a walk.
    ///
    /// # Errors
    /// When its session is over, or the answer makes no sense; the session is then of no more use.
    pub fn walk_answered(
        &mut self,
        node: &Node,
        now: Now,
        id: FollowerId,
        answer: &ChunkAnswer,
    ) -> Result<()> {
        let Role::Leader(leading) = &mut self.role else { return Ok(()) };
        if let Some(walked) = leading.machine.walk_answered(now.ms, id, answer)? {
            let follower = leading.machine.follower(id).context("it has just answered")?.name();
            self.walked.count(&follower, now, walked);
            node.walking.store(leading.machine.walks(), Ordering::Release);
        }
        // A slot may be free, or there is something to be sent.
        node.walk.raise();
        Ok(())
    }

    /// A follower's delta sync has ended, at `applied`: the image is read from here on.
    pub fn sync_ended(&mut self, node: &Node, image_len: u64, applied: Lsn) {
        if let Role::Follower(Following { consistent_at, .. }) = &mut self.role {
            // A scrub leaves a node serving that served before.
            if *consistent_at == NEVER {
                tracing::info!(%applied, bytes = image_len, "the delta sync has ended; this node serves");
            }
            *consistent_at = applied;
        }
        self.follower_applied(node, image_len, applied);
    }
}

impl Walks {
    fn count(&mut self, follower: &str, now: Now, walked: Walked) {
        let Walked { purpose, progress } = walked;
        let took_ms = now.ms.saturating_sub(progress.since_ms);
        let (image, sent, differing) = (progress.image_len, progress.sent_bytes, progress.differing);
        match purpose {
            Purpose::Sync => {
                self.syncs += 1;
                self.sync_bytes += sent;
                tracing::info!(follower, took_ms, image, sent, "a delta sync has ended");
            }
            Purpose::Scrub => {
                self.scrubs += 1;
                self.scrub_mismatches += differing;
                self.last_scrub_unix_ms = now.unix_ms;
                if differing == 0 {
                    tracing::info!(follower, took_ms, image, "a scrub has ended: the images are the same");
                } else {
                    tracing::warn!(
                        follower,
                        chunks = differing,
                        "a scrub has found and repaired chunks that were not this leader's"
                    );
                }
            }
        }
    }
}
