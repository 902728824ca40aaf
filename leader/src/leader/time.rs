//! What time brings about: heartbeats, and followers that are given up.
//!
//! The ring takes new records only where every follower in reach has checkpointed the old ones (I8), so a follower that
//! stands still stops the writers as soon as the ring is full. Nobody may be refused a write for the sake of a follower that
//! the write does not wait for: such a one is given up in time, and the ring goes over what it lacks. One that writes do
//! wait for is given more time, because without it they are refused anyway. Neither loses anything that a client was told: a
//! follower out of the registry counts for no commit (I7).
//!
//! A leader that fails over or crashes forgets these clocks with the registry.

use farkeep_proto::control::{Body, Heartbeat};

use super::{Action, Leader, OnFollowerLoss};
use crate::followers::{FollowerEntry, FollowerId};

/// For so long a transaction that found no room is taken to be waiting for some still, in ms. Those that wait try again
/// much more often.
const ROOM_WANTED_MS: u64 = 1000;

impl Leader {
    /// Time has passed. To be called at least every [`Config::heartbeat_ms`](super::Config::heartbeat_ms).
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        self.lag.tick(self.followers.values_mut().map(|follower| &mut *follower.stages));
        let mut actions = Vec::new();
        let beat = Heartbeat {
            session: 0,
            epoch: self.epoch.get(),
            appended_lsn: self.appended.get(),
            committed_lsn: self.committed().get(),
            flushed_lsn: 0,
        };
        for follower in self.followers.values_mut() {
            if now_ms.saturating_sub(follower.last_heartbeat_ms) >= self.config.heartbeat_ms {
                follower.last_heartbeat_ms = now_ms;
                let (session, flushed_lsn) = (follower.id.session(), follower.flushed_end.get());
                let beat = Heartbeat { session, flushed_lsn, ..beat };
                actions.push(Action::Send(follower.id, Body::Heartbeat(beat)));
            }
        }
        for (id, reason) in self.silent(now_ms) {
            actions.extend(self.give_up(id, reason));
        }
        actions.extend(self.free_ring(now_ms));
        actions
    }

    /// A transaction has found no room in the ring and waits for some. To be called whenever it is tried again; a follower
    /// that holds the ring back is given up in time for it.
    pub fn out_of_room(&mut self, now_ms: u64) -> Option<Action> {
        self.out_of_room_ms = Some(now_ms);
        self.free_ring(now_ms)
    }

    fn silent(&self, now_ms: u64) -> Vec<(FollowerId, String)> {
        let silent_ms = |follower: &FollowerEntry| now_ms.saturating_sub(follower.last_heard_ms);
        self.followers
            .values()
            .filter(|follower| silent_ms(follower) >= self.config.deadline_ms)
            .map(|follower| (follower.id, format!("it has been silent for {} ms", silent_ms(follower))))
            .collect()
    }

    /// Gives up the follower that keeps room from those who want it, if one has done so for too long. One at a time: what
    /// the others hold back may suffice.
    fn free_ring(&mut self, now_ms: u64) -> Option<Action> {
        let wanted = self.ring_is_nearly_full()
            || self.out_of_room_ms.is_some_and(|since| now_ms.saturating_sub(since) <= ROOM_WANTED_MS);
        let (local, committed) = (self.local.checkpoint, self.committed());
        let commit_waits = committed < self.durable;
        for follower in self.followers.values_mut() {
            // The ring waits for its checkpoint, or for ours, which waits for a commit, which waits for it.
            let behind = follower.checkpoint < local || (commit_waits && follower.durable <= committed);
            follower.note_holding(wanted && follower.in_reach() && behind, now_ms);
        }
        let limit_ms =
            if self.needs_all() { self.config.needed_hold_limit_ms } else { self.config.hold_limit_ms };
        let held_ms = |follower: &FollowerEntry| Some(now_ms.saturating_sub(follower.holding?.since_ms));
        let (follower, held_ms) = self
            .followers
            .values()
            .filter_map(|follower| Some((follower, held_ms(follower)?)))
            .filter(|&(_, held_ms)| held_ms >= limit_ms)
            .min_by_key(|(follower, _)| follower.checkpoint)?;
        let reason = format!(
            "it has held the log back at checkpoint_lsn {} for {held_ms} ms without getting any further (appended_lsn {})",
            follower.checkpoint, self.appended
        );
        self.give_up(follower.id, reason)
    }

    /// Whether writes would be refused if one of the followers in reach were not.
    fn needs_all(&self) -> bool {
        self.config.on_follower_loss == OnFollowerLoss::Refuse
            && self.counting().count() <= self.config.sync_followers
    }

    /// Whether less than an eighth of what the ring can take is left for new records. A segment of it is never used.
    fn ring_is_nearly_full(&self) -> bool {
        let used = self.appended.get().saturating_sub(self.floor().get());
        used > (self.identity.ring_len - self.identity.segment_len) / 8 * 7
    }

    pub(super) fn give_up(&mut self, id: FollowerId, reason: String) -> Option<Action> {
        let name = self.leave(id)?.name();
        Some(Action::Dropped { id, name, reason })
    }
}
