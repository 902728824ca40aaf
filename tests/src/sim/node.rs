//! One node: a pool on a crash double, and what the process does with it in its present role.
//!
//! The parts are the real ones; only sockets, the clock and chance are the cluster's. Every function here is a piece
//! of what a node's threads do between two waits. Before anything leaves the node it looks whether its power has failed
//! in the middle ([`Node::dark`]): what a dark node has done since is not known to anybody.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;

use farkeep_core::heap::{CommitError, View};
use farkeep_core::log::{Beginning, EpochHistory, Geometry, LogState, Position, Promise, Replid, Tail};
use farkeep_core::lsn::{Epoch, Lsn, Watermarks};
use farkeep_core::pmem::crash::CrashDouble;
use farkeep_core::pmem::domain::{Domain, Durability};
use farkeep_core::pool::{Pool, PoolOptions};
use farkeep_core::recover::{self, LeaderOptions, RecoverError, SyncStart};
use farkeep_core::replay::Replayer;
use farkeep_fabric::sim::FarEnd;
use farkeep_fabric::tcp::Agent;
use farkeep_fabric::{Identity, LogMemory, Outgoing, RemoteWindow, history};
use farkeep_follower::{Follower, Holdings, Progress, take_step};
use farkeep_leader::sync_source::{ChunkRead, Leave};
use farkeep_leader::{self as leader, FollowerId, HeldReplies, Leader, LocalWatermarks};
use farkeep_proto::control::{self, BeginSync, ChunkOutcome, FabricOffer};
use farkeep_proto::redo::FORMAT_VERSION;

use super::oracle::Oracle;
use super::rng::Rng;
use super::wire::WireEnd;
use super::workload;

/// Clients of a leader; each has one write under way at most.
const CLIENTS: usize = 40;

/// What all nodes of a run have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length of the ring.
    pub ring_len: u64,
    /// Length of its segments.
    pub segment_len: u64,
    /// What the pools lie on.
    pub domain: Domain,
    /// How many followers a leader has.
    pub followers: usize,
    /// How a leader is configured.
    pub leader: leader::Config,
    /// How many bytes a leader may post to a follower in one go.
    pub room: u64,
    /// How many of a thousand steps are faults, or the operator's answer to one.
    pub faults_per_mille: u64,
}

/// A follower's connection, seen from the leader.
pub struct Conn {
    /// The follower's node.
    pub peer: usize,
    /// The control channel.
    pub control: WireEnd,
    /// Bytes of a message that is not whole yet.
    pub inbox: Vec<u8>,
    /// The session, once it is welcomed.
    pub id: Option<FollowerId>,
    /// Whether it has said that it is ready.
    pub ready: bool,
    /// Its window, once that is open.
    pub remote: Option<Box<dyn RemoteWindow>>,
    /// What was lent to be sent, until it is.
    pub outgoing: Option<Outgoing>,
}

/// A node that leads.
pub struct Leading {
    /// The working view.
    pub heap: farkeep_core::heap::Heap,
    /// The end of the log.
    pub appender: farkeep_core::log::Appender,
    /// The background checkpoint.
    pub replayer: Replayer,
    /// The registry and the commit rule.
    pub machine: Leader,
    /// Connections of followers.
    pub conns: Vec<Conn>,
    /// Clients that wait.
    pub held: HeldReplies<Position>,
    /// The follower whose walk over the image was served last.
    walked: Option<FollowerId>,
}

impl Leading {
    /// Ends the connection of a session that is over.
    pub fn hang_up(&mut self, id: FollowerId) {
        self.conns.retain(|conn| {
            if conn.id == Some(id) {
                conn.control.cut();
            }
            conn.id != Some(id)
        });
    }
}

/// A follower's side of a data channel.
pub enum Channel {
    /// Frames and their agent.
    Tcp(WireEnd, Agent),
    /// A one-sided link.
    OneSided(FarEnd),
}

/// What a follower's pool has open; nothing while it is blank.
pub struct Opened {
    /// Carries the image along.
    pub replayer: Replayer,
    /// The end of the log.
    pub tail: Tail,
}

/// A node that follows.
pub struct Following {
    /// The session's state.
    pub machine: Follower,
    /// What the pool has open.
    pub opened: Option<Opened>,
    /// The control channel.
    pub control: Option<WireEnd>,
    /// Bytes of a message that is not whole yet.
    pub inbox: Vec<u8>,
    /// The data channel.
    pub channel: Option<Channel>,
    /// Whom it follows.
    pub target: usize,
}

/// What a node is doing.
pub enum Role {
    /// Nothing: it has crashed.
    Down,
    /// Leading.
    Leading(Box<Leading>),
    /// Following.
    Following(Box<Following>),
}

/// A node.
pub struct Node {
    /// Its number.
    pub index: usize,
    plan: Plan,
    double: Arc<CrashDouble>,
    pool: Option<Pool>,
    /// Where its image was when its bytes were last looked at.
    looked_at: Cell<Option<Position>>,
    /// Its image was damaged, and no scrub has ended since.
    damaged: bool,
    /// What it is doing.
    pub role: Role,
}

impl Node {
    /// A node with an empty pool that is switched off.
    pub fn new(index: usize, plan: &Plan) -> Self {
        let double = CrashDouble::new().expect("memory for a pool");
        Self {
            index,
            plan: plan.clone(),
            double,
            pool: None,
            looked_at: Cell::new(None),
            damaged: false,
            role: Role::Down,
        }
    }

    /// The pool of a node that is up.
    pub fn pool(&self) -> &Pool {
        self.pool.as_ref().expect("the node is up")
    }

    /// Whether the power has failed in the middle of what the node was doing.
    pub fn dark(&self) -> bool {
        self.double.blown()
    }

    /// Lets the power fail at the `after`th persist point from now.
    pub fn light_fuse(&self, after: u64) {
        self.double.set_fuse(self.double.points() + after);
    }

    /// As [`Node::light_fuse`], somewhere soon, if the node is up.
    pub fn light_fuse_if_up(&self, rng: &mut Rng) {
        if self.is_up() {
            self.light_fuse(rng.below(25));
        }
    }

    /// A few words on the node, for failures.
    pub fn summary(&self) -> String {
        match &self.role {
            Role::Down => format!("{}: down", self.index),
            Role::Leading(leading) => format!(
                "{}: leads in epoch {}, appended {}, committed {}, free {}, followers {:?}",
                self.index,
                leading.machine.epoch(),
                leading.machine.appended(),
                leading.machine.committed(),
                leading.appender.free_bytes(),
                leading.machine.followers().collect::<Vec<_>>()
            ),
            Role::Following(following) => format!(
                "{}: follows {}, {:?}, {:?}, promised {}",
                self.index,
                following.target,
                following.machine.progress(),
                following.machine.standing(),
                following.machine.promised().epoch
            ),
        }
    }

    /// Ends the process; all memory stays as it is.
    pub fn kill(&mut self, oracle: &mut Oracle) {
        self.role = Role::Down;
        self.pool = None;
        oracle.forget(self.index);
    }

    /// Takes the power away: of what was not persisted, any subset of cache lines survives.
    pub fn power_cut(&mut self, rng: &mut Rng, oracle: &mut Oracle) {
        self.kill(oracle);
        self.double = self.double.crash(|| rng.number()).expect("memory for a pool");
    }

    fn open_pool(&mut self) {
        let options = PoolOptions {
            log_len: self.plan.ring_len,
            segment_len: self.plan.segment_len,
            max_image_len: Some(2 << 20),
            durability: Durability::Forced(self.plan.domain),
            ..PoolOptions::new(PathBuf::from(format!("node{}", self.index)), [self.index as u8 + 1; 16])
        };
        self.pool = Some(Pool::on_double(&self.double, &options).expect("a pool survives any crash"));
    }

    /// What a node that is down has in its pool.
    pub fn state(&mut self) -> LogState {
        if self.pool.is_none() {
            self.open_pool();
        }
        self.pool().log().state()
    }

    fn identity(&self) -> Identity {
        let geometry = self.pool().log().geometry();
        Identity {
            node_id: self.pool().node_id(),
            dataset_id: self.pool().dataset_id(),
            log_format: FORMAT_VERSION,
            ring_len: geometry.ring_len(),
            segment_len: geometry.segment_len(),
            software: "simulation".into(),
        }
    }

    /// Starts as a leader: a new reign, of at least this epoch. `promoted`: by an operator who has seen what enough others hold.
    pub fn lead(
        &mut self,
        promise: Promise,
        promoted: bool,
        known_committed: Lsn,
        rng: &mut Rng,
        oracle: &mut Oracle,
    ) {
        if self.pool.is_none() {
            self.open_pool();
        }
        let mut replid = [0; 20];
        rng.fill(&mut replid);
        let mut dataset = [0; 16];
        rng.fill(&mut dataset);
        let end = recover::survey(self.pool().log()).end;
        let options =
            LeaderOptions { promise, promoted, ..LeaderOptions::new(Replid(replid), Some(dataset)) };
        let has_followed = self.pool().log().state().followed != Epoch::ZERO;
        let opened = match recover::open_leader(self.pool(), &options) {
            // It lacks what others have committed, and knows: of what was on its way when its power failed, any part may have come.
            Err(RecoverError::Empty) => return self.kill(oracle),
            Err(RecoverError::Damaged { .. }) if !promoted && has_followed => return self.kill(oracle),
            opened => opened.expect("a log survives any crash"),
        };
        let end = if end.lsn == Lsn::ZERO { self.pool().log().state().checkpoint } else { end };
        // Known even if the power has failed meanwhile: the reign's first record may survive all the same.
        let (how, begun) = (opened.reign.beginning(), opened.appender.position());
        oracle.leads(self.index, how == Beginning::Promoted, end, begun, opened.heap.view());
        if self.dark() {
            return self.power_cut(rng, oracle);
        }
        let log = self.pool().log();
        let start = leader::Start {
            history: history::to_message(&log.history()),
            followed: log.state().followed,
            committed: opened.committed.max(known_committed),
            quorum: match how {
                Beginning::Contested => self.plan.followers - self.plan.leader.sync_followers,
                _ => 0,
            },
            established: opened.reign_begun,
            durable: opened.appender.durable(),
            local: LocalWatermarks::of(log, opened.replayer.checkpoint_lsn()),
        };
        let machine = Leader::new(self.plan.leader.clone(), self.identity(), start);
        let mut leading = Leading {
            heap: opened.heap,
            appender: opened.appender,
            replayer: opened.replayer,
            machine,
            conns: Vec::new(),
            held: HeldReplies::new(),
            walked: None,
        };
        if !leading.heap.is_formatted() {
            let dataset_id = self.pool().dataset_id().expect("a leader has a dataset");
            let before = leading.appender.position();
            let mut txn = leading.heap.txn();
            workload::found(&mut txn, dataset_id).expect("room in an empty image");
            txn.commit(&mut leading.appender).expect("room in an empty log");
            oracle.appended(before, leading.appender.position(), leading.heap.view());
        }
        leading.machine.set_appended(leading.appender.position().lsn);
        self.role = Role::Leading(Box::new(leading));
    }

    /// Starts as a follower of `target`.
    pub fn follow(&mut self, target: usize, now_ms: u64, rng: &mut Rng, oracle: &mut Oracle) {
        if self.pool.is_none() {
            self.open_pool();
        }
        let opened = self.open_as_follower();
        if self.dark() {
            return self.power_cut(rng, oracle);
        }
        let (progress, opened) = match opened {
            Some((progress, opened)) => (progress, Some(opened)),
            None => (Progress::default(), None),
        };
        let state = self.pool().log().state();
        let holdings = Holdings {
            history: history::to_message(&state.history),
            promised: state.promised,
            progress,
            mid_sync: state.mid_sync,
            sync_cursor: state.sync_cursor,
        };
        let mut offers: Vec<_> =
            ["sim", "tcp"].map(|name| FabricOffer { name: name.into(), ..FabricOffer::default() }).into();
        if rng.chance(50) {
            offers.reverse();
        }
        let mut machine =
            Follower::new(farkeep_follower::Config::default(), self.identity(), offers, holdings);
        let actions = machine.follow(now_ms);
        assert_eq!(actions, [farkeep_follower::Action::Connect]);
        // The first attempt is the cluster's to make, after a moment.
        machine.disconnected(now_ms, "not yet connected");
        self.role = Role::Following(Box::new(Following {
            machine,
            opened,
            control: None,
            inbox: Vec::new(),
            channel: None,
            target,
        }));
    }

    fn open_as_follower(&self) -> Option<(Progress, Opened)> {
        if self.pool().is_blank() {
            return None;
        }
        let opened = recover::open_follower(self.pool()).expect("a log survives any crash");
        let progress = Progress {
            checkpoint: opened.replayer.checkpoint_lsn(),
            applied: opened.replayer.applied(),
            committed: opened.committed,
            durable: opened.durable(),
        };
        Some((progress, Opened { replayer: opened.replayer, tail: opened.tail }))
    }

    /// A follower makes its blank pool a dataset's.
    pub fn adopt(&mut self, dataset_id: [u8; 16], ring_len: u64, segment_len: u64) {
        let geometry = Geometry::new(ring_len, segment_len).expect("a leader's ring is possible");
        self.pool.as_mut().expect("the node is up").adopt(dataset_id, geometry).expect("a blank pool");
        if let Role::Following(following) = &mut self.role {
            following.machine.adopted(dataset_id, ring_len, segment_len);
        }
    }

    /// A follower cuts its log off and takes over its leader's history.
    pub fn rejoin(&mut self, end: Lsn, reigns: &[control::Reign], oracle: &mut Oracle) {
        let history: EpochHistory = history::from_message(reigns).expect("a leader's history is in order");
        let Role::Following(following) = &mut self.role else { panic!("only a follower rejoins") };
        following.opened = None;
        recover::join(self.pool.as_ref().expect("the node is up"), end, history)
            .expect("the leader's point is ours");
        oracle.forget(self.index);
        if self.dark() {
            return;
        }
        let (progress, mut opened) = self.open_as_follower().expect("not blank any more");
        assert_eq!(progress.durable, end, "the log ends where it was cut");
        let Role::Following(following) = &mut self.role else { unreachable!("as above") };
        following.machine.reopened(reigns.to_vec(), progress);
        // What has once been shown to readers is shown again before anybody looks.
        opened.replayer.run(following.machine.replay_target()).expect("committed records are whole");
        following.machine.replayed(opened.replayer.applied(), opened.replayer.checkpoint_lsn());
        following.opened = Some(opened);
    }

    /// A follower gives its log and image up and begins a delta sync.
    pub fn begin_sync(&mut self, at: Lsn, begin: BeginSync, reigns: &[control::Reign], oracle: &mut Oracle) {
        let history = history::from_message(reigns).expect("a leader's history is in order");
        let Role::Following(following) = &mut self.role else { panic!("only a follower syncs") };
        following.opened = None;
        let at = Position { lsn: at, crc: begin.crc, epoch: Epoch::new(begin.epoch) };
        let start = SyncStart { at, image_len: begin.image_len, history };
        recover::begin_sync(self.pool.as_ref().expect("the node is up"), start).expect("a double's persist");
        oracle.forget(self.index);
        self.damaged = false;
        if self.dark() {
            return;
        }
        let (_, opened) = self.open_as_follower().expect("not blank any more");
        let Role::Following(following) = &mut self.role else { unreachable!("as above") };
        following.machine.began_sync(reigns.to_vec(), at.lsn);
        following.opened = Some(opened);
    }

    /// A leader reads its image for a walk over it, and says what can be said.
    pub fn walk(&mut self, rng: &mut Rng) {
        let Role::Leading(leading) = &mut self.role else { return };
        let Leading { replayer, machine, conns, walked, .. } = &mut **leading;
        let chunk_len = machine.config().chunk_len;
        for _ in 0..rng.between(1, 12) {
            let leave = Leave { read: rng.chance(90), mark: rng.chance(90) };
            let Some((id, job)) = machine.walk_job(replayer.applied(), *walked, leave) else { break };
            *walked = Some(id);
            machine.walk_done(id, &job, ChunkRead::of(&job, chunk_len, replayer));
        }
        while let Some((id, body)) = machine.walk_message() {
            if let Some(conn) = conns.iter().find(|conn| conn.id == Some(id)) {
                let mut bytes = Vec::new();
                control::encode(body, &mut bytes);
                conn.control.send_all(&bytes);
            }
        }
    }

    /// A follower takes the step of a walk that is due; says whether one was.
    fn take_step(&mut self) -> bool {
        let Some(log) = self.pool.as_ref().map(|pool| Arc::clone(pool.log())) else { return false };
        let Role::Following(following) = &mut self.role else { return false };
        let Some(opened) = &mut following.opened else { return false };
        let replayer = &mut opened.replayer;
        let applied = replayer.applied();
        let Some(chunk) = following.machine.chunk_due(applied) else { return false };
        let (outcome, described) = take_step(&chunk, replayer, &log, false).expect("a double's persist");
        assert_ne!(outcome, ChunkOutcome::Torn, "a chunk is announced when it has arrived");
        if outcome == ChunkOutcome::Done {
            self.looked_at.set(None);
            self.damaged = false;
        }
        if self.double.blown() {
            return false;
        }
        following.machine.replayed(replayer.applied(), replayer.checkpoint_lsn());
        for action in following.machine.chunk_taken(&chunk, applied, outcome, described) {
            if let (farkeep_follower::Action::Send(body), Some(control)) = (action, &following.control) {
                let mut bytes = Vec::new();
                control::encode(body, &mut bytes);
                control.send_all(&bytes);
            }
        }
        true
    }

    /// A bit of a follower's image flips.
    pub fn damage(&mut self, rng: &mut Rng) {
        let Role::Following(following) = &mut self.role else { return };
        let Some(opened) = &mut following.opened else { return };
        let image_len = opened.replayer.image_len();
        if image_len == 0 {
            return;
        }
        let at = rng.below(image_len);
        let byte = opened.replayer.chunk(at, 1).expect("within the image")[0];
        opened.replayer.store_chunk(at, &[byte ^ 1 << rng.below(8)]);
        self.damaged = true;
    }

    /// Whether the node's image is damaged, as far as nobody has looked.
    pub fn is_damaged(&self) -> bool {
        self.damaged
    }

    /// A leader executes clients' transactions and makes them persistent.
    pub fn work(&mut self, now_ms: u64, rng: &mut Rng, oracle: &mut Oracle) {
        let Role::Leading(leading) = &mut self.role else { return };
        leading.appender.set_floor(leading.machine.floor());
        leading.appender.set_committed_hint(leading.machine.committed());
        if leading.machine.may_settle() {
            let before = leading.appender.position();
            match recover::settle(&mut leading.appender) {
                Ok(end) => {
                    oracle.marked(before, leading.appender.position());
                    if !self.double.blown() {
                        leading.machine.settled(end);
                    }
                }
                // A follower's image has to be carried along first.
                Err(RecoverError::Append(CommitError::LogFull { .. })) => {}
                Err(error) => panic!("{error}"),
            }
        }
        for _ in 0..rng.below(4) {
            // Clients wait for their replies.
            if leading.machine.can_write().is_err() || leading.held.len() >= CLIENTS {
                break;
            }
            let before = leading.appender.position();
            let mut txn = leading.heap.txn();
            workload::change(&mut txn, rng).expect("room in the image");
            if rng.chance(10) {
                continue;
            }
            match txn.commit(&mut leading.appender) {
                Ok(end) if end == before.lsn => {}
                Ok(end) => {
                    let position = leading.appender.position();
                    oracle.appended(before, position, leading.heap.view());
                    leading.held.push(now_ms, end, position);
                }
                Err(CommitError::LogFull { .. } | CommitError::TooLarge { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        leading.machine.set_appended(leading.appender.position().lsn);
        if rng.chance(80) {
            let durable = match self.plan.domain {
                Domain::Disk => {
                    self.pool.as_ref().expect("the node is up").log().sync().expect("a double's sync")
                }
                _ => leading.appender.persist(),
            };
            if !self.double.blown() {
                leading.machine.set_durable(durable);
            }
        }
    }

    /// A leader carries its image along.
    pub fn checkpoint(&mut self, rng: &mut Rng) {
        let Some(log) = self.pool.as_ref().map(|pool| Arc::clone(pool.log())) else { return };
        match &mut self.role {
            Role::Down => {}
            Role::Leading(leading) => {
                let committed = leading.machine.committed();
                leading.replayer.step(committed, rng.between(1, 4000)).expect("committed records are whole");
                if rng.chance(30) {
                    leading.replayer.checkpoint().expect("a double's persist");
                }
                if rng.chance(20) {
                    leading
                        .heap
                        .drop_private(leading.replayer.applied(), 1 << 20)
                        .expect("pages can be dropped");
                }
                let checkpoint = leading.replayer.checkpoint_lsn();
                leading.machine.set_local(LocalWatermarks::of(&log, checkpoint));
            }
            Role::Following(following) => {
                let Some(opened) = &mut following.opened else { return };
                let target = following.machine.replay_target();
                opened.replayer.store_up_to(following.machine.frontier());
                opened.replayer.step(target, rng.between(1, 4000)).expect("committed records are whole");
                if rng.chance(30) {
                    match following.machine.sync_cursor() {
                        Some(cursor) => opened.replayer.checkpoint_in_sync(cursor),
                        None => opened.replayer.checkpoint(),
                    }
                    .expect("a double's persist");
                }
                if !self.double.blown() {
                    following.machine.replayed(opened.replayer.applied(), opened.replayer.checkpoint_lsn());
                    for _ in 0..rng.between(1, 12) {
                        if !self.take_step() {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Whether it is a follower whose leader stores into its memory.
    pub fn is_written_into(&self) -> bool {
        matches!(&self.role, Role::Following(following) if matches!(following.channel, Some(Channel::OneSided(_))))
    }

    /// A follower looks at its log, which is persistent as far as `persist` says or makes it so.
    pub fn scan(&mut self) {
        let Some(pool) = &self.pool else { return };
        let log = pool.log();
        let Role::Following(following) = &mut self.role else { return };
        let Some(opened) = &mut following.opened else { return };
        let before = opened.tail.end().lsn;
        let end = opened.tail.poll(log);
        if let Some(Channel::OneSided(_)) | None = following.channel
            && end > before
        {
            // Seen is not persistent: a one-sided write becomes visible before it is flushed.
            log.persist_stream(before, end).expect("a double's persist");
        }
        if self.double.blown() {
            return;
        }
        following.machine.scanned(end, opened.tail.committed());
        if let Some(cell) = log.tail_cell() {
            following.machine.tail_cell(cell);
        }
    }

    /// The node's own log, to ship from.
    pub fn memory(&self) -> Arc<dyn LogMemory> {
        Arc::<farkeep_core::log::LogMap>::clone(self.pool().log())
    }

    /// Whether the node leads.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// Whether the node is up.
    pub fn is_up(&self) -> bool {
        !matches!(self.role, Role::Down)
    }

    /// How far a follower's log is, to be compared with others. Nothing, in the middle of a sync.
    pub fn rank(&self) -> (Epoch, Lsn) {
        match &self.role {
            Role::Following(following) if !following.machine.is_mid_sync() => {
                let log = self.pool().log();
                following.opened.as_ref().map_or((Epoch::ZERO, Lsn::ZERO), |opened| {
                    let end = opened.tail.end();
                    log.history().standing(&log.geometry(), end.epoch, end.lsn)
                })
            }
            _ => (Epoch::ZERO, Lsn::ZERO),
        }
    }

    /// Holds the node against the invariants.
    pub fn examine(&self, oracle: &mut Oracle, thoroughly: bool) {
        let (replayer, watermarks, epoch) = match &self.role {
            Role::Down => return,
            Role::Leading(leading) => {
                let watermarks = Watermarks {
                    oldest: self.pool().log().oldest(),
                    checkpoint: leading.replayer.checkpoint_lsn(),
                    applied: leading.replayer.applied(),
                    committed: leading.machine.committed(),
                    durable: leading.machine.durable(),
                    appended: leading.machine.appended(),
                };
                oracle.committed(self.index, leading.appender.position(), leading.machine.committed());
                (&leading.replayer, watermarks, leading.machine.epoch())
            }
            Role::Following(following) => {
                let Some(opened) = &following.opened else { return };
                let progress = following.machine.progress();
                let watermarks = Watermarks {
                    oldest: self.pool().log().oldest().min(progress.checkpoint),
                    checkpoint: progress.checkpoint,
                    applied: progress.applied,
                    committed: progress.committed,
                    durable: progress.durable,
                    appended: progress.durable,
                };
                (&opened.replayer, watermarks, following.machine.promised().epoch)
            }
        };
        oracle.stands(self.index, epoch, watermarks);
        if self.damaged || self.pool().log().state().mid_sync {
            return;
        }
        // Looking at all bytes takes long; now and then it is done although nothing should have changed.
        if self.looked_at.replace(Some(replayer.position())) == Some(replayer.position()) && !thoroughly {
            return;
        }
        let image = View::of_image(self.pool().image().shared_memory(), replayer.image_len());
        oracle.image(self.index, replayer.position(), &image);
    }
}
