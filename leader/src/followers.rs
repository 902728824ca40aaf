//! What the leader knows about a follower.

use std::collections::VecDeque;
use std::fmt;

use farkeep_core::lsn::Lsn;
use farkeep_fabric::{FabricKind, Ticket};
use farkeep_proto::window::TailCell;

use crate::lag::{Appends, FollowerStages};
use crate::sync_source::{PostedChunk, Purpose, SyncSource, WalkProgress};

/// A follower's session with this leader. The number is the one on the wire; a follower that joins again gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FollowerId(u64);

impl FollowerId {
    /// The session with this number.
    pub const fn new(session: u64) -> Self {
        Self(session)
    }

    /// The session's number.
    pub const fn session(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FollowerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerState {
    /// Welcomed; its window is not open yet. It counts for nothing and holds nothing back.
    Joining,
    /// In reach, and in the middle of a delta sync: it gets the log and holds the ring, but counts for no commit, because
    /// it could not take over (I10).
    Syncing,
    /// In reach, but behind what the group has committed.
    CatchingUp,
    /// In reach and up to date.
    Streaming,
}

impl FollowerState {
    /// The state's name in `INFO`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Syncing => "syncing",
            Self::CatchingUp => "catching-up",
            Self::Streaming => "streaming",
        }
    }
}

/// What was posted with a ticket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Posted {
    pub(crate) ticket: Ticket,
    pub(crate) to: Lsn,
    /// Whether `to` is the end of a transaction, so that the follower must report it as durable.
    pub(crate) transaction_end: bool,
}

/// A follower holds the ring back and gets no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Since when.
    pub(crate) since_ms: u64,
    /// Where it has stood since: `durable_lsn`, `applied_lsn`, `checkpoint_lsn`.
    at: [Lsn; 3],
}

/// A follower in the registry.
#[derive(Debug)]
pub struct FollowerEntry {
    /// The session.
    pub id: FollowerId,
    /// The follower's node id.
    pub node_id: Vec<u8>,
    /// The address it is announced under.
    pub address: String,
    /// The port at which it serves clients.
    pub port: u16,
    /// How far the session has come.
    pub state: FollowerState,
    /// The fabric in use.
    pub fabric: FabricKind,
    /// Why no better fabric is in use; empty when there is none.
    pub fabric_reason: String,
    /// Everything before it has been posted to the window.
    pub shipped: Lsn,
    /// Everything before it is persistent there, ...
    pub durable: Lsn,
    /// ... stored into its image, ...
    pub applied: Lsn,
    /// ... and persistent in its image. The leader does not overwrite what comes after.
    pub checkpoint: Lsn,
    /// When anything was last heard from it, in milliseconds of the caller's clock.
    pub last_heard_ms: u64,
    /// Everything before it has been flushed in this session, or was durable before it.
    pub(crate) flushed: Lsn,
    /// The last end of a transaction that has been flushed in this session: so far the follower must find its log to be valid.
    pub(crate) flushed_end: Lsn,
    pub(crate) last_heartbeat_ms: u64,
    /// Set while it holds the ring back.
    pub(crate) holding: Option<Holding>,
    pub(crate) posted: VecDeque<Posted>,
    pub(crate) tail_sent: Option<TailCell>,
    /// How long writes took on their way to it, in this session.
    pub stages: Box<FollowerStages>,
    /// The walk over the image that is under way.
    pub(crate) walk: Option<SyncSource>,
    /// Chunks that were posted, in the order of their tickets.
    pub(crate) posted_chunks: VecDeque<PostedChunk>,
}

impl FollowerEntry {
    /// Whether its window is open.
    pub fn in_reach(&self) -> bool {
        self.state != FollowerState::Joining
    }

    /// Whether what it holds is worth anything without the leader: it is in reach, and not in the middle of a sync.
    pub fn counts(&self) -> bool {
        !matches!(self.state, FollowerState::Joining | FollowerState::Syncing)
    }

    /// For how many whole seconds nothing has been heard from it.
    pub fn silent_s(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_heard_ms) / 1000
    }

    /// The walk over the image that is under way: what for, and how it goes.
    pub fn walk(&self) -> Option<(Purpose, WalkProgress)> {
        self.walk.as_ref().map(|walk| (walk.purpose(), walk.progress()))
    }

    /// Whether a chunk waits to be posted to its window.
    pub fn has_chunk_pieces(&self) -> bool {
        self.walk.as_ref().is_some_and(SyncSource::has_pieces)
    }

    /// Everything before it has been flushed in this session, or was durable before it.
    pub fn flushed(&self) -> Lsn {
        self.flushed
    }

    /// Everything that was posted to its window is persistent there.
    pub fn is_drained(&self) -> bool {
        self.posted.is_empty() && self.posted_chunks.is_empty()
    }

    /// Address and port, as they stand in the log.
    pub fn name(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// It holds the ring back at the moment, or it does not. Any step that it makes starts its time anew: one that catches up
    /// steadily is slow, and dropping it would only make it begin again further behind.
    pub(crate) fn note_holding(&mut self, holds: bool, now_ms: u64) {
        let at = [self.durable, self.applied, self.checkpoint];
        self.holding = match self.holding {
            _ if !holds => None,
            Some(holding) if holding.at == at => Some(holding),
            _ => Some(Holding { since_ms: now_ms, at }),
        };
    }

    pub(crate) fn raise(&mut self, appends: &Appends, durable: Lsn, applied: Lsn, checkpoint: Lsn) {
        self.stages.durable.advance(appends, self.durable, durable);
        self.stages.applied.advance(appends, self.applied, applied);
        self.durable = self.durable.max(durable);
        self.applied = self.applied.max(applied);
        self.checkpoint = self.checkpoint.max(checkpoint);
    }
}
