//! The leader's state machine.

mod time;
mod walk;

pub use walk::{ResyncError, Walked};

use std::collections::{BTreeMap, BTreeSet};

use farkeep_core::chunk::DEFAULT_CHUNK_LEN;
use farkeep_core::log::{Beginning, EpochHistory, LogMap, Position, Promise};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::window::Reported;
use farkeep_fabric::{Completion, FabricError, FabricKind, Identity, Ticket, history};
use farkeep_proto::control::{BeginSync, Body, Hello, Refuse, RefuseReason, Reign, Status, Welcome};
use farkeep_proto::window::TailCell;

use crate::commit::{CommitPoint, kth_best};
use crate::followers::{FollowerEntry, FollowerId, FollowerState, Posted};
use crate::join::{Decision, Ours, decide};
use crate::lag;
use crate::sync_source::{PostedChunk, Purpose, SyncSource, Unasked};

/// The most followers that a leader takes in.
pub const MAX_FOLLOWERS: usize = 64;

/// What becomes of writes when fewer than `sync_followers` followers are in reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFollowerLoss {
    /// They are refused at once.
    #[default]
    Refuse,
    /// They go on with the followers there are, local durability at the least, and this is reported.
    Degrade,
}

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct Config {
    /// On how many followers a write must be durable before it is acknowledged.
    pub sync_followers: usize,
    /// What happens when there are not as many.
    pub on_follower_loss: OnFollowerLoss,
    /// How often a follower is sent a heartbeat.
    pub heartbeat_ms: u64,
    /// After how long a silence a follower is given up.
    pub deadline_ms: u64,
    /// How long a follower that writes can do without may keep the ring from taking new records, getting no further
    /// meanwhile, before it is given up. To be well below the time that a writer waits for room.
    pub hold_limit_ms: u64,
    /// The same for a follower without which writes are refused. Longer, since giving it up helps no writer: it
    /// tells them the truth, that a follower is missing and not room. Still below the time that a writer waits.
    pub needed_hold_limit_ms: u64,
    /// So many good followers there must be for a write to be taken at all, whatever its acknowledgement waits for; 0 is no
    /// such demand.
    pub good_followers: usize,
    /// A follower that has been silent for more whole seconds than this is not a good one.
    pub good_silence_s: u64,
    /// Length of the chunks in which an image is compared and sent, in bytes.
    pub chunk_len: u64,
}

impl Config {
    /// Whether no write is acknowledged that no follower holds.
    fn waits(&self) -> bool {
        self.sync_followers > 0 && self.on_follower_loss == OnFollowerLoss::Refuse
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sync_followers: 1,
            on_follower_loss: OnFollowerLoss::Refuse,
            heartbeat_ms: 500,
            deadline_ms: 3000,
            hold_limit_ms: 2_500,
            needed_hold_limit_ms: 3_750,
            good_followers: 0,
            good_silence_s: 10,
            chunk_len: DEFAULT_CHUNK_LEN,
        }
    }
}

/// Where a reign begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// All reigns of the log, this one last.
    pub history: Vec<Reign>,
    /// The last reign that this node has followed and has not been promoted above since.
    pub followed: Epoch,
    /// How many followers have to join before a contested reign counts, if those are more than `sync-followers`: see [`Leader::wanted`].
    pub quorum: usize,
    /// What recovery knows to be committed.
    pub committed: Lsn,
    /// The end of this reign's `EPOCH_START` record, which is also the end of the log.
    pub established: Lsn,
    /// The local log is persistent up to here.
    pub durable: Lsn,
    /// The local image's positions.
    pub local: LocalWatermarks,
}

/// The positions of the leader's own pool that it does not keep itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalWatermarks {
    /// The first LSN that the ring still holds.
    pub oldest: Lsn,
    /// The first LSN from which the ring has been read and found whole.
    pub checked: Lsn,
    /// The pool's `checkpoint_lsn`.
    pub checkpoint: Lsn,
}

impl LocalWatermarks {
    /// Those of a log, and of the replayer that works on it.
    pub fn of(log: &LogMap, checkpoint: Lsn) -> Self {
        let (oldest, checked) = (log.oldest().min(checkpoint), log.checked().min(checkpoint));
        Self { oldest, checked, checkpoint }
    }
}

/// Where a follower comes from.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of its control connection.
    pub address: String,
    /// The fabrics that the leader can use towards it.
    pub fabrics: Vec<FabricKind>,
    /// Fabrics that it cannot use towards it now, and why.
    pub unusable: Vec<(FabricKind, String)>,
}

/// Where the leader's own image is: the place where a delta sync begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageAt {
    /// Its `applied_lsn`, and what the record behind it continues.
    pub position: Position,
    /// Its length there, in bytes.
    pub image_len: u64,
}

/// The answer to a `Hello`.
#[derive(Debug, PartialEq)]
pub enum Join {
    /// It is in; send it the message, and [`Leader::ready`] what it answers. If the same node had another session,
    /// that one is over: drop its link.
    Accepted {
        /// The new session.
        id: FollowerId,
        /// What to answer.
        welcome: Box<Welcome>,
        /// The session that this one replaces.
        replaces: Option<FollowerId>,
        /// Why the follower needs a delta sync; `None` where its log can be gone on from.
        why_sync: Option<String>,
    },
    /// It is not; send it the message and close.
    Refused(Refuse),
    /// It is not yet: begin a new reign with an epoch above this one (persist it, append `EPOCH_START`, start a new
    /// [`Leader`]), and the follower's next attempt will succeed. Send it the message and close.
    Renew {
        /// The epoch to exceed, and the claim to have; [`Claim::NONE`](farkeep_core::log::Claim::NONE): a new one.
        above: Promise,
        /// What to answer meanwhile.
        refuse: Refuse,
    },
    /// It is not yet: the log has to be read back to here first
    /// ([`check_kept`](farkeep_core::recover::check_kept), [`Leader::set_local`]). Ask again, or send it the message and close.
    Unchecked {
        /// From where on the follower needs it.
        from: Lsn,
        /// What to answer meanwhile.
        refuse: Refuse,
    },
}

/// What time brings about.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Send this to the follower on its control channel.
    Send(FollowerId, Body),
    /// The follower is out of the registry: close its channels and log this.
    Dropped {
        /// The session that is over.
        id: FollowerId,
        /// [`FollowerEntry::name`]: the registry does not know it any more.
        name: String,
        /// Why it was given up.
        reason: String,
    },
}

/// A part of the log that a follower lacks and may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// From here ...
    pub from: Lsn,
    /// ... to here.
    pub to: Lsn,
}

/// Whether the group can keep its promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// As many followers as are wanted.
    Full,
    /// Fewer, and writes go on without (`on-follower-loss degrade`).
    Degraded {
        /// Followers that a write waits for.
        waits_for: usize,
        /// Followers that it should wait for.
        wanted: usize,
    },
    /// Fewer, and writes are refused.
    Refusing {
        /// Followers in reach.
        in_reach: usize,
        /// Followers that a write must wait for.
        wanted: usize,
    },
}

/// Too few followers are in reach for a write to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NOREPLICAS Not enough good replicas to write.")]
pub struct NoReplicas {
    /// Followers in reach.
    pub in_reach: usize,
    /// Followers that a write must wait for.
    pub wanted: usize,
}

/// What ends a follower's session from the leader's side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaderError {
    /// The link is broken.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The session is not in the registry (any more).
    #[error("there is no follower session {0}")]
    NoSession(FollowerId),
    /// While the follower was getting ready, the ring went over the point from which it was to go on.
    #[error(
        "the log no longer reaches back to LSN {resume} where the follower was to go on (oldest_lsn {oldest})"
    )]
    FellBehind {
        /// Where it was to go on.
        resume: Lsn,
        /// What the ring holds.
        oldest: Lsn,
    },
    /// The follower claims to hold more than there is.
    #[error("the follower reports LSN {reported}, the log ends at {appended}")]
    ClaimsTooMuch {
        /// What it reports.
        reported: Lsn,
        /// The end of the log.
        appended: Lsn,
    },
    /// The follower acknowledged a batch whose records it could not validate.
    #[error("the follower has a batch up to LSN {posted}, but its log is valid only up to {validated}")]
    DoesNotValidate {
        /// The end of the batch.
        posted: Lsn,
        /// The end of what validates.
        validated: Lsn,
    },
    /// The follower answers what it was not asked.
    #[error(transparent)]
    Walk(#[from] Unasked),
    /// The follower reports watermarks out of order.
    #[error("the follower reports durable_lsn {durable}, applied_lsn {applied}, checkpoint_lsn {checkpoint}")]
    OutOfOrder {
        /// As reported.
        durable: Lsn,
        /// As reported.
        applied: Lsn,
        /// As reported.
        checkpoint: Lsn,
    },
}

/// One reign: the registry of followers and what is committed.
///
/// A leader that is deposed drops this; one that must renew its reign makes another.
#[derive(Debug)]
pub struct Leader {
    config: Config,
    identity: Identity,
    history: Vec<Reign>,
    past: EpochHistory,
    followed: Epoch,
    epoch: Epoch,
    quorum: usize,
    unsettled: bool,
    commit: CommitPoint,
    appended: Lsn,
    durable: Lsn,
    local: LocalWatermarks,
    followers: BTreeMap<FollowerId, FollowerEntry>,
    sessions: u32,
    /// When what was appended, and how long it took from there.
    lag: lag::Clock,
    /// When a transaction last found no room in the ring.
    out_of_room_ms: Option<u64>,
    /// Nodes that are to be synced when they come back, whatever they hold.
    to_resync: BTreeSet<Vec<u8>>,
    /// Scratch space for the k-th best.
    positions: Vec<Lsn>,
}

impl Leader {
    /// Begins a reign whose epoch and `EPOCH_START` record are already in the pool.
    pub fn new(config: Config, identity: Identity, start: Start) -> Self {
        let epoch = Epoch::new(start.history.last().expect("a leader has a reign").epoch);
        let past = history::from_message(&start.history).expect("a pool's history is in order");
        let mut commit = CommitPoint::new(start.committed);
        let asks =
            config.on_follower_loss == OnFollowerLoss::Refuse && config.sync_followers.max(start.quorum) > 0;
        let unsettled = asks && past.current().is_some_and(|reign| reign.beginning() != Beginning::Promoted);
        if !unsettled {
            commit.mark(start.established);
        }
        let mut leader = Self {
            config,
            identity,
            history: start.history,
            past,
            followed: start.followed,
            epoch,
            quorum: start.quorum,
            unsettled,
            commit,
            appended: start.established,
            durable: start.durable,
            local: start.local,
            followers: BTreeMap::new(),
            sessions: 0,
            lag: lag::Clock::new(start.established),
            out_of_room_ms: None,
            to_resync: BTreeSet::new(),
            positions: Vec::new(),
        };
        leader.recompute();
        leader
    }

    /// The epoch of this reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// All reigns of the log, this one last.
    pub fn history(&self) -> &[Reign] {
        &self.history
    }

    /// What the operator chose.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes over a changed configuration.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
        self.recompute();
    }

    /// The highest LSN that is committed. It never goes back.
    pub fn committed(&self) -> Lsn {
        self.commit.committed()
    }

    /// The end of the log.
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// The end of what is persistent here.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// It is `now_us` by the caller's monotonic clock, in microseconds, for all that is told from now on: see [`lag`].
    pub fn set_now(&mut self, now_us: u64) {
        self.lag.appends.set_now(now_us);
    }

    /// When what was appended, and how long it took from there.
    pub fn lag(&self) -> &lag::Clock {
        &self.lag
    }

    pub(crate) fn ring_len(&self) -> u64 {
        self.identity.ring_len
    }

    /// A transaction ends at `lsn` and nothing is appended behind it. Once per turn is enough. Panics if it goes
    /// back.
    pub fn set_appended(&mut self, lsn: Lsn) {
        assert!(lsn >= self.appended, "appended_lsn went back from {} to {lsn}", self.appended);
        if lsn == self.appended {
            return;
        }
        self.commit.mark(lsn);
        self.appended = lsn;
        self.lag.appends.append(lsn);
    }

    /// The local log is persistent up to `lsn`.
    pub fn set_durable(&mut self, lsn: Lsn) {
        assert!(lsn <= self.appended, "durable_lsn {lsn} is behind appended_lsn {}", self.appended);
        if lsn > self.durable {
            self.lag.durable.advance(&self.lag.appends, self.durable, lsn);
            self.durable = lsn;
            self.recompute();
        }
    }

    /// The local pool's positions have moved.
    pub fn set_local(&mut self, local: LocalWatermarks) {
        self.local = local;
    }

    /// The first LSN from which the ring can still be shipped. What has been appended since the pool's own mark was last
    /// told may have overwritten more, up to the end of a segment, but nothing that this node's own image still needs.
    fn oldest(&self) -> Lsn {
        let overwritten = self.appended.get().saturating_sub(self.identity.ring_len);
        let kept = Lsn::new(overwritten.next_multiple_of(self.identity.segment_len));
        self.local.oldest.max(kept).min(self.local.checkpoint)
    }

    /// The LSN below which nobody needs the ring any more: what the appender may overwrite.
    ///
    /// It may go back when a follower joins that has yet to catch up; the appender then has less room, or none.
    pub fn floor(&self) -> Lsn {
        let followers = self.in_reach().map(|follower| follower.checkpoint);
        followers.min().map_or(self.local.checkpoint, |lowest| lowest.min(self.local.checkpoint))
    }

    /// Followers whose window is open.
    fn in_reach(&self) -> impl Iterator<Item = &FollowerEntry> {
        self.followers.values().filter(|follower| follower.in_reach())
    }

    /// Followers that a commit may rest on.
    fn counting(&self) -> impl Iterator<Item = &FollowerEntry> {
        self.followers.values().filter(|follower| follower.counts())
    }

    /// All followers in the registry.
    pub fn followers(&self) -> impl ExactSizeIterator<Item = &FollowerEntry> {
        self.followers.values()
    }

    /// A follower in the registry.
    pub fn follower(&self, id: FollowerId) -> Option<&FollowerEntry> {
        self.followers.get(&id)
    }

    /// On how many followers everything up to `lsn` is durable: what `WAIT` counts.
    pub fn followers_durable_at(&self, lsn: Lsn) -> usize {
        self.counting().filter(|follower| follower.durable >= lsn).count()
    }

    /// How many followers there must be for a write where `on-follower-loss` is `refuse`: `sync-followers`, but more until a reign is settled to which
    /// nobody was promoted and beside which somebody else may lead: this node has followed him since, or a follower has promised to him. Of
    /// his followers enough have to join for him to have too few left, and for one of them to hold whatever he has acknowledged.
    pub fn wanted(&self) -> usize {
        let quorum = if self.unsettled { self.quorum } else { 0 };
        self.config.sync_followers.max(quorum)
    }

    /// Whether its followers are enough to lead them, or were: see [`Leader::wanted`].
    pub fn is_settled(&self) -> bool {
        !self.unsettled
    }

    /// Whether the reign's second record is to be written ([`recover::settle`](farkeep_core::recover::settle)): nobody was promoted to the reign, and
    /// as many followers are in reach as it takes. Each has promised to take part in no earlier reign, and held nothing more than this
    /// node when it joined: the first phase of Paxos, as a promotion has it behind it.
    pub fn may_settle(&self) -> bool {
        let refuses = self.config.on_follower_loss == OnFollowerLoss::Refuse;
        self.unsettled && (!refuses || self.counting().count() >= self.wanted())
    }

    /// The reign's second record has been appended, and ends at `lsn`.
    pub fn settled(&mut self, lsn: Lsn) {
        self.unsettled = false;
        self.followed = Epoch::ZERO;
        self.set_appended(lsn);
        self.recompute();
    }

    /// Whether the group can keep its promise.
    pub fn availability(&self) -> Availability {
        let wanted = self.config.sync_followers;
        match self.config.on_follower_loss {
            OnFollowerLoss::Refuse => {
                let wanted = self.wanted();
                let in_reach = self.counting().count();
                if in_reach < wanted {
                    Availability::Refusing { in_reach, wanted }
                } else {
                    Availability::Full
                }
            }
            OnFollowerLoss::Degrade => {
                let waits_for = self.required();
                if waits_for < wanted {
                    Availability::Degraded { waits_for, wanted }
                } else {
                    Availability::Full
                }
            }
        }
    }

    /// Whether a write may be executed now.
    ///
    /// # Errors
    /// [`NoReplicas`] when it could not be acknowledged.
    pub fn can_write(&self) -> Result<(), NoReplicas> {
        match self.availability() {
            Availability::Refusing { in_reach, wanted } => Err(NoReplicas { in_reach, wanted }),
            Availability::Full | Availability::Degraded { .. } => Ok(()),
        }
    }

    /// How many followers are good: of some use without the leader, and heard from lately.
    pub fn good_followers(&self) -> usize {
        let now_ms = self.lag.appends.now_us() / 1000;
        let limit_s = self.config.good_silence_s;
        self.counting().filter(|follower| follower.silent_s(now_ms) <= limit_s).count()
    }

    /// Whether there are fewer good followers than are demanded of a leader that takes writes.
    pub fn lacks_good_followers(&self) -> bool {
        self.config.good_followers > 0 && self.good_followers() < self.config.good_followers
    }

    /// How many followers a commit waits for.
    fn required(&self) -> usize {
        match self.config.on_follower_loss {
            OnFollowerLoss::Refuse => self.wanted(),
            OnFollowerLoss::Degrade => {
                let streaming = |follower: &&FollowerEntry| follower.state == FollowerState::Streaming;
                self.config.sync_followers.min(self.followers.values().filter(streaming).count())
            }
        }
    }

    /// Recomputes what follows from positions and states.
    fn recompute(&mut self) {
        let required = self.required();
        let mut positions = std::mem::take(&mut self.positions);
        positions.clear();
        positions.extend(self.counting().map(|follower| follower.durable));
        let held = match required {
            0 => Some(self.durable),
            _ => kth_best(&mut positions, required).map(|remote| remote.min(self.durable)),
        };
        self.positions = positions;
        let before = self.committed();
        if let Some(held) = held
            && self.commit.advance(held)
        {
            self.lag.committed.advance(&self.lag.appends, before, self.commit.committed());
        }
        assert!(self.committed() <= self.durable, "committed_lsn is ahead of durable_lsn");
        let committed = self.committed();
        for follower in self.followers.values_mut() {
            if follower.state == FollowerState::CatchingUp && follower.durable >= committed {
                follower.state = FollowerState::Streaming;
            }
        }
    }

    /// A follower wants to join. `image` tells where our own image is, if it can be told at the moment; it is asked only
    /// where a delta sync has to begin.
    pub fn join(
        &mut self,
        now_ms: u64,
        hello: &Hello,
        peer: &Peer,
        image: impl FnOnce() -> Option<ImageAt>,
    ) -> Join {
        let ours = Ours {
            identity: &self.identity,
            history: &self.history,
            past: &self.past,
            followed: self.followed,
            settled: !self.unsettled,
            waits: self.config.waits(),
            oldest: self.oldest(),
            checked: self.local.checked,
            appended: self.appended,
            fabrics: &peer.fabrics,
            unusable: &peer.unusable,
        };
        let asked_for = self.to_resync.contains(&hello.node_id);
        let (from, sync, fabric, fabric_reason) = match decide(&ours, hello, asked_for) {
            Decision::Resume { from, fabric, fabric_reason } => (from, None, fabric, fabric_reason),
            Decision::Sync { why, fabric, fabric_reason } => {
                let Some(at) = image() else {
                    let text = "the leader's image cannot be read at the moment".to_owned();
                    return Join::Refused(self.refuse(RefuseReason::TryAgain, text));
                };
                (at.position.lsn, Some((at, why)), fabric, fabric_reason)
            }
            Decision::Refuse(refuse) => return Join::Refused(refuse),
            Decision::Check { from } => {
                let text =
                    format!("the leader is reading its log back to LSN {from}, where the follower goes on");
                return Join::Unchecked { from, refuse: self.refuse(RefuseReason::TryAgain, text) };
            }
            Decision::Renew { above } => {
                let text = format!(
                    "the leader begins a reign above epoch {}, as this follower takes part in none below",
                    above.epoch
                );
                return Join::Renew { above, refuse: self.refuse(RefuseReason::TryAgain, text) };
            }
        };
        let replaces =
            self.followers.values().find(|other| other.node_id == hello.node_id).map(|other| other.id);
        if let Some(old) = replaces {
            self.leave(old);
        }
        if self.followers.len() >= MAX_FOLLOWERS {
            let text = format!("the leader already has {MAX_FOLLOWERS} followers");
            return Join::Refused(self.refuse(RefuseReason::TooMany, text));
        }
        if sync.is_none() {
            // Only what is committed gets into an image, and up to here both logs are the same. A new leader may not know of it, and
            // would wait for a commit that waits for this follower, if that is in the middle of a sync and the only one.
            let applied = Lsn::new(hello.progress.applied_lsn);
            self.commit.learn(applied.min(from).min(self.durable));
        }
        self.sessions += 1;
        let id = FollowerId::new(u64::from(self.epoch.get()) << 32 | u64::from(self.sessions));
        let progress = hello.progress;
        let address = if hello.announce_address.is_empty() { &peer.address } else { &hello.announce_address };
        let walk = |from| SyncSource::new(now_ms, Purpose::Sync, id.session(), self.config.chunk_len, from);
        let (begin_sync, why_sync, walk) = match sync {
            Some((ImageAt { position, image_len }, why)) => {
                let begin = BeginSync { crc: position.crc, epoch: position.epoch.get(), image_len };
                let walk = walk(0);
                let walk = if hello.dataset_id.is_empty() { walk.of_blank() } else { walk };
                (Some(begin), Some(why), Some(walk))
            }
            None if hello.mid_sync => (None, None, Some(walk(hello.sync_cursor))),
            None => (None, None, None),
        };
        let checkpoint = if begin_sync.is_some() { from } else { Lsn::new(progress.checkpoint_lsn) };
        let applied = if begin_sync.is_some() { from } else { Lsn::new(progress.applied_lsn).min(from) };
        let entry = FollowerEntry {
            id,
            node_id: hello.node_id.clone(),
            address: address.clone(),
            port: u16::try_from(hello.listening_port).unwrap_or(0),
            state: FollowerState::Joining,
            fabric,
            fabric_reason: fabric_reason.clone(),
            shipped: from,
            flushed: from,
            flushed_end: Lsn::ZERO,
            durable: from,
            applied,
            checkpoint,
            last_heard_ms: now_ms,
            last_heartbeat_ms: now_ms,
            holding: None,
            posted: std::collections::VecDeque::new(),
            tail_sent: None,
            stages: Box::default(),
            walk,
            posted_chunks: std::collections::VecDeque::new(),
        };
        self.followers.insert(id, entry);
        let welcome = Welcome {
            session: id.session(),
            node_id: self.identity.node_id.to_vec(),
            dataset_id: self.identity.dataset_id.map_or_else(Vec::new, |id| id.to_vec()),
            history: self.history.clone(),
            resume_lsn: from.get(),
            committed_lsn: self.committed().get(),
            fabric: fabric.name().into(),
            fabric_reason,
            heartbeat_ms: self.config.heartbeat_ms as u32,
            deadline_ms: self.config.deadline_ms as u32,
            software: self.identity.software.clone(),
            ring_len: self.identity.ring_len,
            segment_len: self.identity.segment_len,
            begin_sync,
        };
        Join::Accepted { id, welcome: Box::new(welcome), replaces, why_sync }
    }

    fn refuse(&self, reason: RefuseReason, text: String) -> Refuse {
        Refuse { reason: reason.into(), text, epoch: self.epoch.get() }
    }

    /// The follower has cut its log to the point of the welcome and opened its window: shipping may begin. Call it
    /// when its `Ready` *and*, on tcp, its data channel are there.
    ///
    /// # Errors
    /// [`LeaderError`] when the session is over or the log has left the follower behind; drop it.
    pub fn ready(&mut self, now_ms: u64, id: FollowerId) -> Result<(), LeaderError> {
        let oldest = self.oldest();
        let follower = self.followers.get_mut(&id).ok_or(LeaderError::NoSession(id))?;
        follower.last_heard_ms = now_ms;
        if follower.state == FollowerState::Joining {
            // Nothing has held the ring back for it since it was welcomed.
            if follower.shipped < oldest {
                return Err(LeaderError::FellBehind { resume: follower.shipped, oldest });
            }
            follower.state = match &mut follower.walk {
                Some(walk) => {
                    walk.begin();
                    // It has given up what it held.
                    self.to_resync.remove(&follower.node_id);
                    FollowerState::Syncing
                }
                None => FollowerState::CatchingUp,
            };
        }
        self.recompute();
        Ok(())
    }

    /// The part of the log to post to a follower now, at most `room` bytes; `None` when there is nothing to post or it has no
    /// credit: bytes it has not checkpointed are never overwritten (I8).
    pub fn shipment(&self, id: FollowerId, room: u64) -> Option<Shipment> {
        let follower = self.followers.get(&id).filter(|follower| follower.in_reach())?;
        let credit = follower.checkpoint + self.identity.ring_len;
        let to = self.appended.min(follower.shipped + room).min(credit);
        (to > follower.shipped).then_some(Shipment { from: follower.shipped, to })
    }

    /// A shipment up to `to` was posted; `ticket` is its flush. Panics if the session is not in the registry.
    pub fn posted(&mut self, id: FollowerId, to: Lsn, ticket: Ticket) {
        let transaction_end = to == self.appended;
        let follower = self.followers.get_mut(&id).expect("posted to a follower in the registry");
        assert!(
            to > follower.shipped && to <= follower.checkpoint + self.identity.ring_len,
            "posted beyond credit"
        );
        follower.stages.posted.advance(&self.lag.appends, follower.shipped, to);
        follower.shipped = to;
        follower.posted.push_back(Posted { ticket, to, transaction_end });
    }

    /// The tail cell to write into a follower's window, if it says something new.
    pub fn tail_for(&mut self, id: FollowerId) -> Option<TailCell> {
        let cell = TailCell {
            epoch: self.epoch.get(),
            appended_lsn: self.appended.get(),
            committed_lsn: self.committed().get(),
        };
        let follower = self.followers.get_mut(&id).filter(|follower| follower.in_reach())?;
        (follower.tail_sent.replace(cell) != Some(cell)).then_some(cell)
    }

    /// Flushes have completed.
    ///
    /// # Errors
    /// [`LeaderError`] when the session is over or what the follower says cannot be; drop it.
    pub fn completed(
        &mut self,
        now_ms: u64,
        id: FollowerId,
        completion: Completion,
    ) -> Result<(), LeaderError> {
        let follower = self.followers.get_mut(&id).ok_or(LeaderError::NoSession(id))?;
        follower.last_heard_ms = now_ms;
        let mut last = None;
        while let Some(&posted) = follower.posted.front()
            && posted.ticket <= completion.ticket
        {
            last = Some(posted);
            follower.posted.pop_front();
            follower.flushed = posted.to;
            if posted.transaction_end {
                follower.flushed_end = posted.to;
            }
        }
        while let Some(&PostedChunk { ticket, slot }) = follower.posted_chunks.front()
            && ticket <= completion.ticket
        {
            follower.posted_chunks.pop_front();
            if let Some(walk) = &mut follower.walk {
                walk.arrived(slot);
            }
        }
        let Some(reported) = completion.reported else {
            if let Some(posted) = last {
                follower.raise(&self.lag.appends, posted.to, Lsn::ZERO, Lsn::ZERO);
                self.recompute();
            }
            return Ok(());
        };
        if let Some(posted) = last
            && posted.transaction_end
            && reported.durable < posted.to
        {
            return Err(LeaderError::DoesNotValidate { posted: posted.to, validated: reported.durable });
        }
        self.reported(id, reported)
    }

    /// A follower has said on its control channel how far it is.
    ///
    /// # Errors
    /// [`LeaderError`] when the session is over or what the follower says cannot be; drop it.
    pub fn status(&mut self, now_ms: u64, id: FollowerId, status: &Status) -> Result<(), LeaderError> {
        let follower = self.followers.get_mut(&id).ok_or(LeaderError::NoSession(id))?;
        follower.last_heard_ms = now_ms;
        if !follower.in_reach() {
            return Ok(());
        }
        let progress = status.progress;
        let reported = Reported {
            durable: Lsn::new(progress.durable_lsn).min(follower.durable),
            applied: Lsn::new(progress.applied_lsn).min(follower.durable),
            checkpoint: Lsn::new(progress.checkpoint_lsn).min(follower.durable),
        };
        self.reported(id, reported)
    }

    /// Takes over what a follower reports, as far as this session has made it persistent. It may well report more: when
    /// what a crash had left behind a gap in its log fits to what has just filled the gap. That is as good as the
    /// records that were shipped, but nobody has flushed it on the terms of the session.
    fn reported(&mut self, id: FollowerId, reported: Reported) -> Result<(), LeaderError> {
        let appended = self.appended;
        let follower = self.followers.get_mut(&id).ok_or(LeaderError::NoSession(id))?;
        let Reported { durable, applied, checkpoint } = reported;
        if durable > appended {
            return Err(LeaderError::ClaimsTooMuch { reported: durable, appended });
        }
        if checkpoint > applied || applied > durable {
            return Err(LeaderError::OutOfOrder { durable, applied, checkpoint });
        }
        let flushed = follower.flushed;
        let [durable, applied, checkpoint] = [durable, applied, checkpoint].map(|lsn| lsn.min(flushed));
        follower.raise(&self.lag.appends, durable, applied, checkpoint);
        self.recompute();
        Ok(())
    }

    /// A session goes on over another fabric, whose tickets begin anew, or it is known better now why over no better one. Panics
    /// if it changes while tickets of the old fabric are open.
    pub fn set_fabric(&mut self, id: FollowerId, fabric: FabricKind, reason: String) {
        let Some(follower) = self.followers.get_mut(&id) else { return };
        assert!(
            follower.fabric == fabric || follower.is_drained(),
            "tickets of two fabrics cannot be told apart"
        );
        follower.fabric = fabric;
        follower.fabric_reason = reason;
        // The last cell may have been on its way over a link that is gone.
        follower.tail_sent = None;
    }

    /// A follower's session is over. Returns what was known of it, if it was in the registry.
    pub fn leave(&mut self, id: FollowerId) -> Option<FollowerEntry> {
        let left = self.followers.remove(&id)?;
        self.recompute();
        Some(left)
    }
}
