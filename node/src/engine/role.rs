//! Who this node is, and how that changes.
//!
//! Every change goes through recovery ([`farkeep_core::recover`]): what the old role had open is dropped, the working view
//! with it, which is the rollback of everything uncommitted; then the pool is opened in the new role. The time that takes
//! depends on the log since the checkpoint only.
//!
//! Locks are taken in the order engine, replayer, followership.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use farkeep_core::heap::{Heap, View};
use farkeep_core::inspect;
use farkeep_core::log::{Appender, Beginning, Claim, Geometry, Position, Promise, Reign, Replid};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_core::pool::{Pool, PoolOptions};
use farkeep_core::recover::{self, LeaderOptions, SyncStart};
use farkeep_core::replay::Replayer;
use farkeep_fabric::{Identity, LogMemory, history, shm};
use farkeep_follower::{self as follower, Action, Follower};
use farkeep_keystore::Keystore;
use farkeep_leader::{Leader, LocalWatermarks, Start};
use farkeep_proto::control::FabricOffer;
use farkeep_proto::redo::FORMAT_VERSION;

use super::{Counters, Engine, TAIL_DELAY_MS, follower_config, leader_config, limits};
use crate::config::{Config, FabricChoice};
use crate::events::Level;
use crate::link::Followership;
use crate::node::{Marks, Node};
use crate::peers;
use crate::pubsub::PubSub;
use crate::replication::{LeaderAddress, Sessions, durability};
use crate::watch::Watches;
use crate::worker::Now;

/// How long the link thread may take to close the window. It takes a moment, or something is very wrong.
pub(super) const WINDOW_CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How much of the log is read back in one go, in bytes: some 3 ms.
const READ_BACK_LEN: u64 = 8 << 20;

/// The node's role.
#[derive(Debug)]
pub(super) enum Role {
    /// It takes writes.
    Leader(Box<Leading>),
    /// It follows.
    Follower(Following),
    /// Between two roles, seen only when a change failed half-way.
    Changing,
}

/// What a leader has open.
#[derive(Debug)]
pub(super) struct Leading {
    pub(super) heap: Heap,
    pub(super) appender: Appender,
    pub(super) machine: Leader,
    pub(super) sessions: Sessions,
    pub(super) memory: LogRef,
    /// When the tail cell has to be sent for its own sake.
    pub(super) tail_due_ms: Option<u64>,
    /// When the last scrub began, or this reign, in the node's ms.
    pub(super) scrubbed_ms: u64,
    /// Back to here the log is being read, for a follower that goes on from there.
    pub(super) read_back_to: Option<Lsn>,
}

/// The log as the fabric takes it.
#[derive(Clone)]
pub(super) struct LogRef(pub(super) Arc<dyn LogMemory>);

impl std::fmt::Debug for LogRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogRef")
    }
}

/// What a follower has open. The rest of it is the [`Followership`].
#[derive(Debug)]
pub(super) struct Following {
    /// The image; `None` in a pool that holds no dataset yet.
    pub(super) view: Option<View>,
    /// The image may be read once this has been applied: a crash may have left it partly ahead.
    pub(super) consistent_at: Lsn,
    /// No leader has taken this node in since it began to follow, and no key has been looked for and found: if it turns
    /// out to hold none, a foreign leader's dataset may take its place.
    disposable: bool,
}

impl Leading {
    /// Whether the log is made durable by the log writer and not at the end of a turn.
    pub(super) fn has_log_writer(&self) -> bool {
        !self.appender.log().region().persistence().by_instructions()
    }

    /// Up to where followers are sent the log: on a disk, what is appended goes out with its group.
    pub(super) fn shippable(&self) -> Lsn {
        if self.has_log_writer() { self.machine.durable() } else { self.machine.appended() }
    }

    /// Makes everything appended persistent, or asks the log writer to.
    pub(super) fn make_durable(&mut self, node: &Node) {
        use farkeep_core::heap::RedoSink;
        let before = self.machine.appended();
        if self.machine.may_settle() {
            self.settle();
        }
        let appended = self.appender.appended();
        let moved = appended > before;
        if moved {
            self.machine.set_appended(appended);
            if self.has_log_writer() && appended.get() >= node.log_group.load(Ordering::SeqCst) {
                node.log_writer.raise();
            }
        }
        let durable = self.appender.persist();
        if moved {
            self.machine.set_now(node.now_us());
        }
        self.machine.set_durable(durable);
    }

    /// Has the reign count, for which enough followers have come.
    fn settle(&mut self) {
        match recover::settle(&mut self.appender) {
            Ok(end) => {
                tracing::info!(epoch = %self.machine.epoch(), followers = self.machine.followers().len(), "the reign is settled");
                self.machine.settled(end);
            }
            // It is tried again in the next turn.
            Err(error) => tracing::debug!(%error, "the reign could not be settled yet"),
        }
    }

    /// Arranges for the tail cell to follow a commit that nothing else carries to the followers.
    pub(super) fn schedule_tail(&mut self, node: &Node, now: Now, committed_before: Lsn, tail_sent: bool) {
        if tail_sent {
            self.tail_due_ms = None;
        }
        if self.machine.committed() > committed_before && self.tail_due_ms.is_none() {
            self.tail_due_ms = Some(now.ms + TAIL_DELAY_MS);
        }
        node.tail_pending.store(self.tail_due_ms.is_some(), Ordering::Relaxed);
    }

    /// Carries out what the state machine wants of a follower's session.
    pub(super) fn carry_out(&mut self, action: farkeep_leader::Action) {
        match action {
            farkeep_leader::Action::Send(id, body) => self.sessions.say(id, body),
            farkeep_leader::Action::Dropped { id, name, reason } => {
                self.sessions.dropped(id, &name, &reason);
            }
        }
    }

    /// Reads the log back a bit, if a follower waits for that.
    pub(super) fn read_log_back(&mut self, marks: &Marks) {
        let Some(from) = self.read_back_to else { return };
        let log = self.appender.log();
        recover::check_kept(log, from, READ_BACK_LEN);
        if log.checked() <= from.max(log.oldest()) {
            self.read_back_to = None;
        }
        self.take_local_marks(marks);
    }

    /// Takes over where the replayer is: room for new records.
    pub(super) fn take_local_marks(&mut self, marks: &Marks) {
        self.machine.set_local(LocalWatermarks::of(self.appender.log(), marks.checkpoint()));
        self.appender.set_floor(self.machine.floor());
    }
}

/// Drops a working view without waiting for it: to give a gigabyte of its private pages back takes Linux some 90 ms, in which a group
/// that changes its leader would stand still. Nobody can reach them any more.
fn drop_elsewhere(heap: Heap) {
    // Without a thread for it the heap is dropped here, with the closure.
    let dropped = std::thread::Builder::new().name("unmap".to_owned()).spawn(move || drop(heap));
    if let Err(error) = dropped {
        tracing::debug!(%error, "the working view is unmapped in the engine's time");
    }
}

/// Opens the pool of a configuration.
///
/// # Errors
/// One line that says what, where, and why.
fn open_pool(config: &Config) -> Result<Pool> {
    let mut options = PoolOptions::new(config.pool.clone(), random());
    options.log_path.clone_from(&config.log);
    options.log_len = config.log_size;
    options.max_image_len = (config.maxmemory > 0).then_some(config.maxmemory);
    options.durability = durability(config.durability);
    Ok(Pool::open(&options)?)
}

/// Random bytes from the system.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

/// For a promotion that nobody has begun yet.
pub fn new_claim() -> Claim {
    Claim(random())
}

impl Engine {
    /// Opens the pool in the role of the configuration.
    ///
    /// # Errors
    /// When the pool cannot be used as it is.
    pub fn open(config: &Config) -> Result<(Engine, Opened)> {
        let pool = open_pool(config)?;
        let mut engine = Engine {
            pool,
            role: Role::Changing,
            keystore: None,
            watches: Watches::default(),
            pubsub: PubSub::default(),
            committed: Lsn::ZERO,
            nothing_told_until: Lsn::ZERO,
            reign: 0,
            last_committed: Lsn::ZERO,
            handing_over: None,
            mustering: None,
            comings: 0,
            claim: None,
            moved: None,
            recounting: false,
            walked: super::Walks::default(),
            counters: Counters::default(),
        };
        let opened = match &config.replicaof {
            None => engine.open_as_leader(config, Promise::default(), 0, false)?,
            Some(leader) => engine.open_as_follower(config, leader.clone())?,
        };
        Ok((engine, opened))
    }

    /// Whose trouble it is when the pool cannot be opened.
    fn of_pool(&self) -> String {
        format!("the pool {}", self.pool.path().display())
    }

    /// How many followers it takes to settle this reign, if more than `sync-followers`: see [`Leader::wanted`]. `known`: so many, if the pool does
    /// not remember more.
    fn quorum(&self, config: &Config, reign: &Reign, known: usize) -> usize {
        if reign.beginning() != Beginning::Contested {
            return 0;
        }
        let quorum = peers::remembered_quorum(&config.pool).max(known);
        if quorum > config.sync_followers {
            tracing::warn!(
                followed = %self.pool.log().state().followed,
                quorum,
                "nobody has promoted this node, and another one may lead: it takes writes only when so many followers have come. If the group \
                 has a leader, have this node follow that one (REPLICAOF)"
            );
        }
        quorum
    }

    /// `known`: how many followers it takes as far as the sessions know, if another node may lead; see [`Engine::quorum`].
    fn open_as_leader(
        &mut self,
        config: &Config,
        promise: Promise,
        known: usize,
        promoted: bool,
    ) -> Result<Opened> {
        let options =
            LeaderOptions { promise, promoted, ..LeaderOptions::new(Replid(random()), Some(random())) };
        let recover::Leader { mut heap, mut appender, replayer, reign, reign_begun, committed } =
            recover::open_leader(&self.pool, &options).with_context(|| self.of_pool())?;
        let log = Arc::clone(self.pool.log());
        self.counters.redo_start = reign_begun;
        let mut established = reign_begun;
        let mut keystore = if heap.is_formatted() {
            Keystore::open(heap.view())?
        } else {
            let mut txn = heap.txn();
            Heap::format(&mut txn, self.pool.dataset_id().context("a leader has a dataset")?)?;
            let keystore = Keystore::format(&mut txn, config.databases, u64::from_ne_bytes(random()))?;
            established = txn.commit(&mut appender)?;
            self.nothing_told_until = established;
            keystore
        };
        keystore.limits = limits(config);
        keystore.reseed(u64::from_ne_bytes(random()));
        let mut durable = appender.persist();
        if durable < established {
            durable = log.sync()?;
        }
        let start = Start {
            history: history::to_message(&log.history()),
            followed: log.state().followed,
            quorum: self.quorum(config, &reign, known),
            committed,
            established: reign_begun,
            durable: durable.min(reign_begun),
            local: LocalWatermarks::of(&log, replayer.checkpoint_lsn()),
        };
        let mut machine = Leader::new(leader_config(config), self.identity(), start);
        machine.set_appended(established);
        machine.set_durable(durable);
        self.committed = machine.committed();
        self.keystore = Some(keystore);
        self.recounting = true;
        crate::cli::log::set_role(b'M');
        self.role = Role::Leader(Box::new(Leading {
            heap,
            appender,
            machine,
            sessions: Sessions::knowing(peers::others(&config.pool)),
            memory: LogRef(log),
            tail_due_ms: None,
            scrubbed_ms: 0,
            read_back_to: None,
        }));
        Ok(Opened { committed: self.committed, replayer: Some(replayer), followership: None })
    }

    fn open_as_follower(&mut self, config: &Config, leader: LeaderAddress) -> Result<Opened> {
        let log = Arc::clone(self.pool.log());
        let state = log.state();
        let (mut view, mut replayer, mut tail) = (None, None, None);
        let mut progress = follower::Progress::default();
        let mut consistent_at = Lsn::ZERO;
        if !self.pool.is_blank() {
            let opened = recover::open_follower(&self.pool).with_context(|| self.of_pool())?;
            progress = progress_of(&opened);
            consistent_at = opened.consistent_at;
            (view, replayer, tail) = (Some(opened.view), Some(opened.replayer), Some(opened.tail));
        }
        self.committed = progress.committed;
        self.keystore = None;
        if progress.applied >= consistent_at {
            // If it is damaged, that is said when the link is up.
            self.keystore = view.as_ref().and_then(|view| open_keystore(view, config).ok()?);
        }
        // The link puts rdma first, at every attempt anew.
        let tcp = FabricOffer { name: "tcp".to_owned(), ..FabricOffer::default() };
        let fabrics = match config.fabric {
            FabricChoice::Auto | FabricChoice::Tcp => vec![tcp],
            FabricChoice::Shm => shm::offer(&self.pool.log_path(), &log).into_iter().chain([tcp]).collect(),
            FabricChoice::Rdma => Vec::new(),
        };
        let machine = Follower::new(
            follower_config(config),
            self.identity(),
            fabrics,
            follower::Holdings {
                history: history::to_message(&state.history),
                promised: state.promised,
                progress,
                mid_sync: state.mid_sync,
                sync_cursor: state.sync_cursor,
            },
        );
        self.role = Role::Follower(Following { view, consistent_at, disposable: true });
        crate::cli::log::set_role(b'S');
        let peers = peers::of_leader(&config.pool, &leader);
        let followership = Followership {
            leader,
            machine,
            tail,
            log,
            received_bytes: 0,
            down_since_ms: None,
            down_reason: String::new(),
            was_up: false,
            handover: None,
            fenced: false,
            coming: None,
            peers,
            basis: None,
            speaker: None,
        };
        Ok(Opened { committed: self.committed, replayer, followership: Some(followership) })
    }

    fn identity(&self) -> Identity {
        let log = self.pool.log();
        Identity {
            node_id: log.node_id(),
            dataset_id: self.pool.dataset_id(),
            log_format: FORMAT_VERSION,
            ring_len: log.geometry().ring_len(),
            segment_len: log.geometry().segment_len(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Whether this node follows `leader` already.
    pub fn follows(&self, node: &Node, leader: &LeaderAddress) -> bool {
        node.followership().as_ref().is_some_and(|follows| follows.leader == *leader && !follows.fenced)
    }

    /// REPLICAOF NO ONE: leaves the leader for good, then begins a reign. Nothing happens on a leader.
    ///
    /// `claim`: the promotion to which this node and others have promised, who were fenced for it. It then has the number that they
    /// have promised, and no other. [`Claim::NONE`]: nobody was asked.
    ///
    /// # Errors
    /// When this node cannot lead, or has promised to somebody else's promotion meanwhile; it then goes on following.
    pub fn promote(&mut self, node: &Node, claim: Claim) -> Result<()> {
        if self.is_leader() {
            let promised = self.pool.log().state().promised.claim;
            ensure!([Claim::NONE, promised].contains(&claim), "this node leads by another promotion");
            return Ok(());
        }
        let config = node.config();
        let started = node.now();
        if self.pool.log().state().mid_sync {
            bail!("this node is in the middle of a synchronisation and holds no usable dataset");
        }
        let is_granted = |follows: &Followership| follows.is_granted(node.now().ms);
        let was_granted = node.followership().as_ref().is_some_and(is_granted);
        // What keeps the image from following the log would keep this node from leading, and nothing has changed yet.
        if let Some(replayer) = &mut *node.replayer.lock() {
            let target = node.followership().as_ref().map(|follows| follows.machine.replay_target());
            replayer.run(target.unwrap_or(Lsn::ZERO))?;
        }
        // The old leader gets no further acknowledgement out of this node: the promise is durable, then the window is
        // closed by the link thread, which finds that there is nobody to follow any more. Acknowledgements are sent
        // under the followership, so from the moment it is gone there are none.
        let (promise, former) = {
            let mut replayer = node.replayer.lock();
            let mut guard = node.followership();
            let promise = self.promise_for(claim)?;
            recover::promise(self.pool.log(), promise)?;
            *replayer = None;
            (promise, guard.take())
        };
        let handed_over = former
            .as_ref()
            .and_then(|former| former.handover.as_ref())
            .is_some_and(|handover| handover.end.is_some());
        node.link.raise();
        if !node.wait_for_window_closed(WINDOW_CLOSE_LIMIT) {
            // The old leader could still get an acknowledgement for what is not in the log that is about to be read (I11).
            node.stop();
            bail!("the window could not be taken away from the old leader; the node stops");
        }
        if was_granted && !former.as_ref().is_some_and(is_granted) {
            self.go_on_following(node, former);
            bail!("the leader stands down no longer");
        }
        self.drop_role();
        self.begin_reign();
        let promise = Promise { epoch: promise.epoch.of_the_promoted(), ..promise };
        let before = self.pool.log().history().epoch();
        let opened = match self.open_as_leader(&config, promise, 0, true) {
            Ok(opened) => opened,
            Err(error) => {
                self.give_up_reign(before);
                self.go_on_following(node, former);
                return Err(error);
            }
        };
        let epoch = self.pool.log().history().epoch();
        node.install(opened);
        node.update_config(|config| config.replicaof = None);
        node.has_been_promoted.store(true, Ordering::Release);
        node.link.raise();
        if handed_over {
            self.gather(node);
        } else {
            self.end_handover(node);
        }
        let took_ms = node.now().ms - started.ms;
        node.events.note_timed(Level::Info, "phase", format!("promoted in epoch {epoch}"), Some(took_ms));
        tracing::info!(%epoch, committed = %self.committed, took_ms, "promoted to leader");
        Ok(())
    }

    /// What this node promises to its own promotion.
    fn promise_for(&self, claim: Claim) -> Result<Promise> {
        let state = self.pool.log().state();
        if claim == Claim::NONE {
            return Ok(state.next_promise(Promise { epoch: Epoch::ZERO, claim: new_claim() }));
        }
        state.promised_to(claim).with_context(|| {
            format!(
                "this node has promised to another promotion meanwhile, of epoch {}",
                state.promised.epoch
            )
        })
    }

    /// The pool cannot be led: this node is again the follower that it was. If that is impossible as well it serves nobody, and stops rather
    /// than be taken for a leader.
    fn go_on_following(&mut self, node: &Node, former: Option<Followership>) {
        let Some(former) = former else { return node.stop() };
        self.drop_role();
        let Ok(mut opened) = self.follow_or_stop(node, former.leader) else { return };
        if let Some(follows) = &mut opened.followership {
            follows.fenced = former.fenced;
        }
        node.install(opened);
        node.link.raise();
    }

    /// [`Engine::open_as_follower`] where there is no way back: a node that has no role stops.
    fn follow_or_stop(&mut self, node: &Node, leader: LeaderAddress) -> Result<Opened> {
        self.open_as_follower(&node.config(), leader).inspect_err(|error| {
            tracing::error!(error = format!("{error:#}"), "this node can neither lead nor follow; it stops");
            node.stop();
        })
    }

    /// REPLICAOF host port: stops leading, or changes the leader.
    ///
    /// # Errors
    /// When the pool cannot be opened as a follower's.
    pub fn follow(&mut self, node: &Node, leader: LeaderAddress) -> Result<()> {
        // Nobody was told of anything in such a reign, so it need not stand between this node and a leader that has gone on
        // without knowing of the promotion.
        let idle_reign = match &self.role {
            Role::Leader(leading) => {
                let history = self.pool.log().history();
                history.current().is_some_and(|reign| leading.machine.committed() <= reign.start)
            }
            _ => false,
        };
        {
            let mut replayer = node.replayer.lock();
            if self.is_leader()
                && let Some(replayer) = &mut *replayer
            {
                // What clients were told stays readable here, whatever becomes of the link.
                crate::replayer::settle(replayer, self.committed);
            }
            *node.followership() = None;
            *replayer = None;
        }
        node.link.raise();
        if !node.wait_for_window_closed(WINDOW_CLOSE_LIMIT) {
            node.stop();
            bail!("the window could not be taken away from the old leader; the node stops");
        }
        node.has_been_promoted.store(false, Ordering::Release);
        self.drop_role();
        if idle_reign {
            self.give_up_reign(Epoch::ZERO);
        }
        self.begin_reign();
        self.end_handover(node);
        node.wake_workers();
        let opened = self.follow_or_stop(node, leader.clone())?;
        node.install(opened);
        tracing::info!(leader = %leader, "now following");
        node.update_config(|config| config.replicaof = Some(leader));
        node.link.raise();
        Ok(())
    }

    /// Whether there is no key in this node's pool, neither in the image nor in what the log holds beyond it, committed or
    /// not. Reads the log from the checkpoint on, so it is asked only where much hangs on it. The replayer must be at rest.
    fn holds_no_keys(&self) -> bool {
        let empty =
            |ks: &Keystore, view: &View| (0..ks.databases()).all(|db| ks.db_stats(view, db).keys == 0);
        if self.read_parts().is_ok_and(|(view, ks)| !empty(ks, view)) {
            return false;
        }
        if recover::survey(self.pool.log()).lost_committed.is_some() {
            return false;
        }
        match inspect::contents(&self.pool) {
            Ok(heap) if heap.is_formatted() => {
                Keystore::open(heap.view()).is_ok_and(|ks| empty(&ks, heap.view()))
            }
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(%error, "what the pool holds cannot be told");
                false
            }
        }
    }

    /// The leader refuses this node for its dataset. A node that was never given a key gives its own up, and joins as
    /// one with a blank pool; whether it did is returned. A dataset with keys in it is given up only where the operator says
    /// so (`replace-dataset yes`).
    ///
    /// # Errors
    /// When the pool cannot be made blank.
    pub fn start_over(&mut self, node: &Node) -> Result<bool> {
        let replace = node.config().replace_dataset;
        if !replace && !matches!(&self.role, Role::Follower(Following { disposable: true, .. })) {
            return Ok(false);
        }
        let Some(leader) = node.followership().as_ref().map(|follows| follows.leader.clone()) else {
            return Ok(false);
        };
        {
            let mut replayer = node.replayer.lock();
            if !replace && !self.holds_no_keys() {
                self.joined();
                return Ok(false);
            }
            *node.followership() = None;
            *replayer = None;
        }
        self.drop_role();
        let given_up = self.pool.abandon().context("the dataset could not be given up");
        node.marks.publish(Lsn::ZERO, Lsn::ZERO);
        // With what is left of it, if it is not given up.
        let opened = self.follow_or_stop(node, leader.clone())?;
        node.install(opened);
        given_up?;
        tracing::info!(leader = %leader, by_order = replace, "gave up this node's dataset to take over the leader's");
        Ok(true)
    }

    /// A leader has taken this node in, or it has been found to hold keys: from here on there is something to lose.
    pub fn joined(&mut self) {
        if let Role::Follower(following) = &mut self.role {
            following.disposable = false;
        }
    }

    /// A follower with a higher promise wants to join: this leader goes on under a later epoch.
    ///
    /// # Errors
    /// When the reign cannot begin.
    pub fn renew_reign(&mut self, node: &Node, above: Promise) -> Result<()> {
        let config = node.config();
        let known = match &self.role {
            Role::Leader(leading) => leading.sessions.quorum(&config),
            _ => 0,
        };
        *node.replayer.lock() = None;
        self.drop_role();
        let promise = Promise { epoch: above.epoch.next(), ..above };
        // Uncommitted transactions are durable in the log and come back into the new working view.
        let opened = self.open_as_leader(&config, promise, known, false).inspect_err(|_| node.stop())?;
        node.install(opened);
        Ok(())
    }

    /// Positions of the log stop meaning what they meant.
    fn begin_reign(&mut self) {
        self.reign += 1;
        self.last_committed = self.committed;
        self.moved = None;
        // What other nodes have done to watched keys meanwhile, nobody here was told.
        self.watches.break_all();
    }

    /// Gives up this node's reign, of which nobody was told, if it is a later one than `before`.
    fn give_up_reign(&self, before: Epoch) {
        if self.pool.log().history().epoch() > before
            && let Err(error) = recover::disown_reign(&self.pool)
        {
            // It can follow all the same, if only a leader of a later epoch.
            tracing::warn!(%error, "a reign that committed nothing could not be given up");
        }
    }

    fn drop_role(&mut self) {
        if let Role::Leader(leading) = &mut self.role {
            // What was appended in this turn may not be persistent yet; recovery must find it whole.
            leading.appender.persist();
        }
        self.keystore = None;
        if let Role::Leader(leading) = std::mem::replace(&mut self.role, Role::Changing) {
            drop_elsewhere(leading.heap);
        }
    }

    /// Carries out a change that the follower's state machine wants in the log.
    ///
    /// # Errors
    /// When the log cannot be changed; the session is then of no use.
    pub fn change_follower_log(&mut self, node: &Node, change: Action) -> Result<()> {
        let mut replayer = node.replayer.lock();
        let mut guard = node.followership();
        let follows = guard.as_mut().context("this node does not follow any more")?;
        match change {
            Action::Promise(epoch) => recover::promise(self.pool.log(), epoch)?,
            Action::Adopt { dataset_id, ring_len, segment_len } => {
                let geometry =
                    Geometry::new(ring_len, segment_len).context("the leader's log is impossible")?;
                node.rdma.forget();
                self.pool.adopt(dataset_id, geometry)?;
                let opened = recover::open_follower(&self.pool)?;
                follows.machine.adopted(dataset_id, ring_len, segment_len);
                follows.log = Arc::clone(self.pool.log());
                follows.tail = Some(opened.tail);
                *replayer = Some(opened.replayer);
                self.role = Role::Follower(Following {
                    view: Some(opened.view),
                    consistent_at: opened.consistent_at,
                    disposable: false,
                });
            }
            Action::Rejoin { end, history: reigns } => {
                let history = history::from_message(&reigns).context("the leader's history is impossible")?;
                *replayer = None;
                recover::join(&self.pool, end, history)?;
                let opened = recover::open_follower(&self.pool)?;
                let progress = progress_of(&opened);
                if progress.applied < opened.consistent_at {
                    self.keystore = None;
                }
                follows.tail = Some(opened.tail);
                *replayer = Some(opened.replayer);
                self.role = Role::Follower(Following {
                    view: Some(opened.view),
                    consistent_at: opened.consistent_at,
                    disposable: false,
                });
                follows.machine.reopened(reigns, progress);
            }
            Action::BeginSync { at, begin, history: reigns } => {
                let history = history::from_message(&reigns).context("the leader's history is impossible")?;
                let held = follows.machine.progress().durable;
                tracing::info!(leader = %follows.leader, from = %at, %held, "a delta sync begins");
                self.keystore = None;
                *replayer = None;
                let position = Position { lsn: at, crc: begin.crc, epoch: Epoch::new(begin.epoch) };
                let start = SyncStart { at: position, image_len: begin.image_len, history };
                recover::begin_sync(&self.pool, start)?;
                let opened = recover::open_follower(&self.pool)?;
                follows.tail = Some(opened.tail);
                node.marks.publish(opened.replayer.applied(), opened.replayer.checkpoint_lsn());
                *replayer = Some(opened.replayer);
                self.role = Role::Follower(Following {
                    view: Some(opened.view),
                    consistent_at: opened.consistent_at,
                    disposable: false,
                });
                follows.machine.began_sync(reigns, at);
            }
            other => bail!("{other:?} is no change of the log"),
        }
        Ok(())
    }

    /// The replayer has stored more into a follower's image.
    pub fn follower_applied(&mut self, node: &Node, image_len: u64, applied: Lsn) {
        let Role::Follower(Following { view: Some(view), consistent_at, .. }) = &mut self.role else {
            return;
        };
        view.set_image_len(image_len);
        self.committed = applied;
        if self.keystore.is_none() && applied >= *consistent_at {
            match open_keystore(view, &node.config()) {
                Ok(keystore) => self.keystore = keystore,
                Err(error) => {
                    let why = format!("the image is damaged: {error}; FARKEEP SCRUB on the leader mends it");
                    if let Some(follows) = &mut *node.followership()
                        && follows.down_reason != why
                    {
                        tracing::error!(why, "this node has nothing to serve");
                        follows.down_reason = why;
                    }
                }
            }
            if self.keystore.is_some() {
                self.note_link(node);
            }
        }
    }
}

/// How far a follower is that was just opened.
fn progress_of(opened: &recover::Follower) -> follower::Progress {
    follower::Progress {
        durable: opened.durable(),
        committed: opened.committed,
        applied: opened.replayer.applied(),
        checkpoint: opened.replayer.checkpoint_lsn(),
    }
}

/// The keystore of an image, once there is one.
fn open_keystore(view: &View, config: &Config) -> Result<Option<Keystore>> {
    if view.image_len() == 0 {
        return Ok(None);
    }
    let mut keystore = Keystore::open(view)?;
    keystore.limits = limits(config);
    keystore.reseed(u64::from_ne_bytes(random()));
    Ok(Some(keystore))
}

/// What a new role needs outside the engine.
#[derive(Debug)]
pub struct Opened {
    /// `committed_lsn`: a leader's image is carried up to there from the start, whether or not anything is written.
    pub committed: Lsn,
    /// Carries the image along.
    pub replayer: Option<Replayer>,
    /// A follower's state.
    pub followership: Option<Followership>,
}
