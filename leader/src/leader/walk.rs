//! Walks over the image, for all followers that have one.
//!
//! A follower in mid-sync gets its walk when it joins; a healthy one gets one for a scrub. They take turns, so that a second
//! follower that joins does not wait for the first.

use farkeep_core::lsn::Lsn;
use farkeep_fabric::Ticket;
use farkeep_proto::control::{Body, ChunkAnswer};

use super::{Action, Leader, LeaderError};
use crate::followers::{FollowerEntry, FollowerId, FollowerState};
use crate::sync_source::{ChunkRead, Job, Leave, Piece, PostedChunk, Purpose, SyncSource, WalkProgress};

/// A walk that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// What it was for.
    pub purpose: Purpose,
    /// How it went.
    pub progress: WalkProgress,
}

/// Why a follower is not synced anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ResyncError {
    /// There is no such follower, or it is not up to date.
    #[error("it is not in reach, or in the middle of a delta sync already")]
    NotInReach,
    /// Without it there are too few others.
    #[error(
        "without it {others} of the {needed} followers that a write needs hold all that is acknowledged: until the sync has ended, writes \
         would be refused, and what is acknowledged could be lost with this node"
    )]
    Needed {
        /// How many others hold all that is acknowledged.
        others: usize,
        /// `sync-followers`.
        needed: usize,
    },
}

impl Leader {
    /// Begins a scrub of every follower that is up to date and not in a walk already; says how many those are.
    pub fn begin_scrub(&mut self, now_ms: u64) -> usize {
        let chunk_len = self.config.chunk_len;
        let idle = |follower: &&mut FollowerEntry| {
            follower.state == FollowerState::Streaming && follower.walk.is_none()
        };
        let mut begun = 0;
        for follower in self.followers.values_mut().filter(idle) {
            let mut walk = SyncSource::new(now_ms, Purpose::Scrub, follower.id.session(), chunk_len, 0);
            walk.begin();
            follower.walk = Some(walk);
            begun += 1;
        }
        begun
    }

    /// Ends a follower's session, so that it joins again with a delta sync, as if nothing were known of what it holds. This does not
    /// survive the reign.
    ///
    /// # Errors
    /// [`ResyncError`]. With `force` it does not matter that it is needed.
    pub fn resync(&mut self, id: FollowerId, force: bool) -> Result<Option<Action>, ResyncError> {
        let follower = self.followers.get(&id).ok_or(ResyncError::NotInReach)?;
        if !follower.counts() {
            return Err(ResyncError::NotInReach);
        }
        let committed = self.committed();
        let others = self.counting().filter(|other| other.id != id && other.durable >= committed).count();
        let needed = self.config.sync_followers;
        if others < needed && !force {
            return Err(ResyncError::Needed { others, needed });
        }
        self.to_resync.insert(follower.node_id.clone());
        Ok(self.give_up(id, "an operator asked for a resync".to_owned()))
    }

    /// Whether any walk is under way.
    pub fn walks(&self) -> bool {
        self.in_reach().any(|follower| follower.walk.is_some())
    }

    /// What is to be read next, of an image that is at `applied`, and for whom. Followers take turns behind `last`.
    pub fn walk_job(
        &self,
        applied: Lsn,
        last: Option<FollowerId>,
        leave: Leave,
    ) -> Option<(FollowerId, Job)> {
        let job =
            |follower: &FollowerEntry| Some((follower.id, follower.walk.as_ref()?.job(applied, leave)?));
        let behind = self.in_reach().filter(|follower| Some(follower.id) > last);
        behind.chain(self.in_reach().filter(|follower| Some(follower.id) <= last)).find_map(job)
    }

    /// A job is done. Nothing happens if the session is over.
    pub fn walk_done(&mut self, id: FollowerId, job: &Job, read: ChunkRead) {
        if let Some(walk) = self.followers.get_mut(&id).and_then(|follower| follower.walk.as_mut()) {
            walk.done(job, read);
        }
    }

    /// The next step to be said to some follower on its control channel.
    pub fn walk_message(&mut self) -> Option<(FollowerId, Body)> {
        self.followers.values_mut().find_map(|follower| {
            let chunk = follower.walk.as_mut()?.message()?;
            Some((follower.id, Body::Chunk(chunk)))
        })
    }

    /// A follower has answered a step; returns the walk if that has ended it. A follower whose sync has ended counts from
    /// here on.
    ///
    /// # Errors
    /// [`LeaderError`] when the session is over or the answer makes no sense; drop it.
    pub fn walk_answered(
        &mut self,
        now_ms: u64,
        id: FollowerId,
        answer: &ChunkAnswer,
    ) -> Result<Option<Walked>, LeaderError> {
        let follower = self.followers.get_mut(&id).ok_or(LeaderError::NoSession(id))?;
        follower.last_heard_ms = now_ms;
        // Of an earlier walk of this session.
        let Some(walk) = &mut follower.walk else { return Ok(None) };
        if !walk.answered(answer)? {
            return Ok(None);
        }
        let walked = Walked { purpose: walk.purpose(), progress: walk.progress() };
        follower.walk = None;
        if follower.state == FollowerState::Syncing {
            follower.state = FollowerState::CatchingUp;
            self.recompute();
        }
        Ok(Some(walked))
    }

    /// The next piece of a chunk to post to a follower's window, if it fits into `room`.
    pub(crate) fn chunk_piece(&mut self, id: FollowerId, room: u64) -> Option<Piece> {
        self.followers.get_mut(&id)?.walk.as_mut()?.piece(room)
    }

    /// The last piece of the chunk in this slot was posted; `ticket` is its flush.
    pub(crate) fn posted_chunk(&mut self, id: FollowerId, slot: usize, ticket: Ticket) {
        if let Some(follower) = self.followers.get_mut(&id) {
            follower.posted_chunks.push_back(PostedChunk { ticket, slot });
        }
    }
}
