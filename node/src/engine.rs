//! The engine: working view, log and role, taken by one thread at a time.
//!
//! This is the one place where the keystore and replication meet. On a leader it owns the heap, the appender and the
//! leader's state machine with its followers' sessions; on a follower, a view of the image. Changing the role swaps one for
//! the other under the engine's lock, so no command ever sees half of it.

mod access;
mod handover;
mod muster;
mod report;
mod role;
mod walk;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use farkeep_core::heap::{Heap, RedoSink, View};
use farkeep_core::log::{Appender, Claim};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_core::pool::Pool;
use farkeep_keystore::{CommandError, Keystore, ReadCtx, WriteCtx, active_expire};
use farkeep_leader::{ImageAt, Join, Leader, OnFollowerLoss, Peer};
use farkeep_proto::control::Hello;

use crate::clients::Client;
use crate::commands::replication::Reached;
use crate::config::{Config, MemoryOrPercent};
use crate::node::{Marks, Node};
use crate::pubsub::{Message, PubSub, Receivers};
use crate::replication::Sessions;
use crate::watch::Watches;
use crate::worker::Now;
use crate::worker::poll::Poll;
use handover::HandingOver;

pub use access::Access;
pub use handover::{Handover, Order, Succession, rewrite_config};
use muster::Muster;
pub use report::RoleReport;
use role::{Leading, Role};
pub use role::{Opened, new_claim};
pub use walk::Walks;

/// Keys examined by one cycle of active expiry, and items freed by one cycle of reclaiming.
const CRON_BUDGET: usize = 400;
/// Cycles of background work in one cron, as long as there is more to do.
const CRON_CYCLES: usize = 4;
/// A follower that has been silent for so long is given up, whatever `repl-timeout` allows: clients wait for it.
const FOLLOWER_DEADLINE_MS: u64 = 3000;
/// A follower is never given up for holding the log back for less than this: it says where it stands only so often.
const HOLD_LIMIT_MIN_MS: u64 = 200;
/// Runs of the allocator recounted in one cron after a start.
const RECOUNT_RUNS: usize = 1000;
/// Private pages dropped in one go when the working view is over its budget.
const DROP_BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// How long the tail cell may lag the last commit while nothing else is shipped, in ms.
pub const TAIL_DELAY_MS: u64 = 1;

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    pool: Pool,
    role: Role,
    keystore: Option<Keystore>,
    watches: Watches,
    /// Subscriptions, and messages on their way.
    pub pubsub: PubSub,
    committed: Lsn,
    /// Up to here the log holds nothing that any client wrote: the record that formats the image.
    nothing_told_until: Lsn,
    reign: u64,
    /// How far the reign before this one was committed here: what waits for less may still be told.
    last_committed: Lsn,
    /// A change of the leader that is under way.
    handing_over: Option<HandingOver>,
    /// The peers are asked before this node is promoted, or were.
    mustering: Option<Muster>,
    /// How often this node has come to a peer that was about to be promoted.
    comings: u64,
    /// The promotion for which this node has mustered its peers in vain. The next attempt is the same one, or a group that often fails to come
    /// together would run out of numbers.
    claim: Option<Claim>,
    /// This node follows whom its own followers should follow as well: it has handed over, or was told by one that has. The reign that
    /// has ended with that.
    moved: Option<Epoch>,
    /// The bytes in use, which a crash leaves slightly off, are being counted again.
    recounting: bool,
    /// What has become of walks over the image.
    walked: Walks,
    counters: Counters,
}

/// What the engine counts for INFO.
#[derive(Debug, Default)]
struct Counters {
    resumes_refused: u64,
    transactions: u64,
    redo_start: Lsn,
    used_peak_bytes: u64,
}

impl Leading {
    /// Whether there are too few followers for a write to be taken: for its acknowledgement, or for `min-replicas-to-write`.
    fn refuses_writes(&self) -> bool {
        self.machine.can_write().is_err() || self.machine.lacks_good_followers()
    }
}

impl Engine {
    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Changes whenever positions of the log stop meaning what they meant: this node began or ceased to lead.
    pub fn reign(&self) -> u64 {
        self.reign
    }

    /// Up to where everything is committed that was held under the reign with this number, which may have ended meanwhile.
    pub fn committed_under(&self, reign: u64) -> Lsn {
        match self.reign - reign {
            0 => self.committed,
            1 => self.last_committed,
            _ => Lsn::ZERO,
        }
    }

    /// The pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// `committed_lsn` as of the last look.
    pub fn committed(&self) -> Lsn {
        self.committed
    }

    /// Whether a reply that depends on `lsn` has to wait.
    pub fn must_hold(&self, lsn: Lsn) -> bool {
        lsn > self.committed && lsn > self.nothing_told_until
    }

    /// Whether anything in the working view could still be taken back.
    pub fn has_uncommitted(&self) -> bool {
        matches!(&self.role, Role::Leader(leading) if leading.machine.appended() > self.committed || leading.appender.appended() > self.committed)
    }

    /// What commands may do now.
    pub fn access(&self) -> Access {
        match &self.role {
            Role::Leader(leading) if leading.appender.log().stopped().is_some() => Access::Failed,
            // While the leader changes, writes wait instead: followers are on their way.
            Role::Leader(leading) if self.handing_over.is_none() && leading.refuses_writes() => {
                Access::NoReplicas
            }
            Role::Leader(_) => Access::ReadWrite,
            Role::Follower(_) if self.keystore.is_some() => Access::ReadOnly,
            Role::Follower(_) | Role::Changing => Access::Loading,
        }
    }

    /// What a reading command gets.
    ///
    /// # Errors
    /// While there is no keystore to read.
    pub fn read_parts(&self) -> Result<(&View, &Keystore), CommandError> {
        let view = match &self.role {
            Role::Leader(leading) => leading.heap.view(),
            Role::Follower(following) => following.view.as_ref().ok_or(NO_KEYSTORE)?,
            Role::Changing => return Err(NO_KEYSTORE),
        };
        Ok((view, self.keystore.as_ref().ok_or(NO_KEYSTORE)?))
    }

    /// What a writing command gets.
    ///
    /// # Errors
    /// When this node does not lead.
    pub fn write_parts(&mut self) -> Result<(&mut Heap, &mut Appender, &mut Keystore), CommandError> {
        match (&mut self.role, &mut self.keystore) {
            (Role::Leader(leading), Some(ks)) => Ok((&mut leading.heap, &mut leading.appender, ks)),
            _ => Err(CommandError::new("READONLY You can't write against a read only replica.")),
        }
    }

    /// The leader's state machine and sessions, if this node leads.
    pub fn leading(&mut self) -> Option<(&mut Leader, &mut Sessions)> {
        match &mut self.role {
            Role::Leader(leading) => Some((&mut leading.machine, &mut leading.sessions)),
            _ => None,
        }
    }

    /// A follower wants to join. If it goes on from where the log has not been read yet, some of that is read at once and the
    /// rest by [`Engine::cron`], and it is told to try again. `None` when this node does not lead.
    pub fn join(&mut self, node: &Node, now: Now, hello: &Hello, peer: &Peer) -> Option<Join> {
        let Role::Leader(leading) = &mut self.role else { return None };
        let joined = leading.machine.join(now.ms, hello, peer, || image_at(node));
        let Join::Unchecked { from, .. } = joined else { return Some(joined) };
        leading.read_back_to = Some(leading.read_back_to.map_or(from, |already| already.min(from)));
        leading.read_log_back(&node.marks);
        Some(leading.machine.join(now.ms, hello, peer, || image_at(node)))
    }

    /// What happens from now on happens at this time.
    pub fn set_now(&mut self, now: Now) {
        if let Role::Leader(leading) = &mut self.role {
            leading.machine.set_now(now.us);
        }
    }

    /// Ends a turn: makes what was appended persistent, ships it, and finds out what is committed.
    pub fn end_turn(&mut self, node: &Node, now: Now) {
        let Role::Leader(leading) = &mut self.role else { return };
        leading.make_durable(node);
        leading.take_local_marks(&node.marks);
        let until = leading.shippable();
        let tail_due =
            until == leading.machine.appended() && leading.tail_due_ms.is_some_and(|due| now.ms >= due);
        let shipped = leading.sessions.ship(&mut leading.machine, &leading.memory.0, until, tail_due);
        leading.sessions.collect_at_once(&mut leading.machine, now);
        leading.schedule_tail(node, now, self.committed, shipped || tail_due);
        leading.say_steps(node);
        let committed = leading.machine.committed();
        leading.sessions.pass_published_on(node, committed);
        self.set_committed(node, committed);
        self.advance_handover(node, now);
    }

    /// Posts to the followers what the log writer is about to make durable here.
    pub fn ship_group(&mut self, now: Now) {
        self.set_now(now);
        let Role::Leader(leading) = &mut self.role else { return };
        let until = leading.machine.appended();
        if leading.sessions.ship(&mut leading.machine, &leading.memory.0, until, false) {
            leading.tail_due_ms = None;
        }
    }

    /// Takes the followers' acknowledgements.
    pub fn poll_windows(&mut self, node: &Node, now: Now) {
        let Role::Leader(leading) = &mut self.role else { return };
        leading.sessions.collect(&mut leading.machine, now);
        // If this was the last write for a while, nothing else tells the followers that it is committed.
        leading.schedule_tail(node, now, self.committed, false);
        leading.say_steps(node);
        let committed = leading.machine.committed();
        self.set_committed(node, committed);
    }

    /// Whether an acknowledgement is under way that is found soonest by looking for it.
    pub fn expects_soon(&self) -> bool {
        matches!(&self.role, Role::Leader(leading) if leading.sessions.expect_soon(&leading.machine))
    }

    /// Has one worker's windows announce what completes from now on; returns whether the worker may sleep.
    pub fn rest_windows(&mut self, worker: usize) -> bool {
        let Role::Leader(leading) = &mut self.role else { return true };
        leading.sessions.rest(&mut leading.machine, worker)
    }

    fn set_committed(&mut self, node: &Node, committed: Lsn) {
        if committed > self.committed {
            self.committed = committed;
            node.marks.committed.store(committed.get(), Ordering::Release);
            if let Role::Leader(leading) = &mut self.role {
                leading.appender.set_committed_hint(committed);
            }
            node.replay.raise_if_idle();
            if node.workers.len() > 1 {
                node.wake_workers();
            }
        }
    }

    /// A transaction has found no room in the log and is about to be tried again. Whoever keeps the log from taking it is given
    /// up in time.
    pub fn make_room(&mut self, node: &Node, now: Now) {
        let Role::Leader(leading) = &mut self.role else { return };
        if let Some(action) = leading.machine.out_of_room(now.ms) {
            leading.carry_out(action);
        }
        leading.take_local_marks(&node.marks);
    }

    /// Background work, ten times a second: heartbeats, expiry, reclaiming, the DRAM budget.
    pub fn cron(&mut self, node: &Node, now: Now) {
        let config = node.config();
        node.stats.sample(now.unix_ms);
        self.count_down_handover();
        self.advance_handover(node, now);
        let Role::Leader(leading) = &mut self.role else { return };
        leading.take_local_marks(&node.marks);
        leading.read_log_back(&node.marks);
        node.image_due.store(leading.heap.growth_due().unwrap_or(0), Ordering::Relaxed);
        if self.recounting {
            self.recounting = !leading.heap.recount_used(RECOUNT_RUNS);
        }
        for action in leading.machine.tick(now.ms) {
            leading.carry_out(action);
        }
        leading.sessions.tick(&mut leading.machine, now, node.rdma.device().is_ok());
        leading.sessions.introduce(node, &leading.machine);
        let leads = self.handing_over.is_none() && leading.machine.can_write().is_ok();
        leading.look_after_walks(node, &config, now);
        if leads && leading.appender.log().stopped().is_none() {
            self.expire_and_reclaim(node, now);
        }
        self.keep_dram_budget(&config, &node.marks);
    }

    fn expire_and_reclaim(&mut self, node: &Node, now: Now) {
        for _ in 0..CRON_CYCLES {
            let Ok((heap, appender, ks)) = self.write_parts() else { return };
            let mut txn = heap.txn();
            let mut ctx = WriteCtx { txn: &mut txn, ks, db: 0, now_ms: now.unix_ms };
            let expires = node.active_expire.load(Ordering::Relaxed);
            let expired = if expires { active_expire(&mut ctx, CRON_BUDGET) } else { Ok(0) };
            let Ok(expired) = expired else { return };
            let Ok(reclaimed) = ctx.reclaim(CRON_BUDGET) else { return };
            if txn.is_empty() {
                return;
            }
            // A full log is no reason to fail: the work is still there at the next cron.
            let committed = txn.commit(appender);
            self.deliver_signals();
            if committed.is_err() || expired + reclaimed < CRON_BUDGET / 4 {
                return;
            }
        }
    }

    fn keep_dram_budget(&mut self, config: &Config, marks: &Marks) {
        let Role::Leader(leading) = &mut self.role else { return };
        let private = leading.heap.private_bytes();
        let budget = dram_budget_bytes(config);
        if private > budget {
            let over = (private - budget).min(DROP_BATCH_BYTES);
            if let Err(error) = leading.heap.drop_private(marks.applied(), over) {
                tracing::warn!(%error, "pages of the working view could not be given back");
            }
        }
        self.counters.used_peak_bytes = self.counters.used_peak_bytes.max(leading.heap.used_bytes());
    }

    /// Tells watchers what the last transaction changed.
    pub fn deliver_signals(&mut self) {
        self.counters.transactions += 1;
        let Some(ks) = &mut self.keystore else { return };
        if ks.signals.is_empty() {
            return;
        }
        let signals: Vec<_> = ks.signals.drain().collect();
        let mut watches = std::mem::take(&mut self.watches);
        for signal in &signals {
            watches.notice(signal, |db, key| self.exists(db, key));
        }
        self.watches = watches;
    }

    /// Whether a key is there, expired or not.
    fn exists(&self, db: usize, key: &[u8]) -> bool {
        let Ok((view, ks)) = self.read_parts() else { return false };
        ReadCtx { view, ks, db, now_ms: 0 }.peek(key).is_some()
    }

    /// A message that is to be published by somebody whose last write ended at `last_write`.
    pub fn message(&self, sharded: bool, channel: &[u8], payload: &[u8], last_write: Lsn) -> Arc<Message> {
        let until = if self.is_leader() && self.must_hold(last_write) { last_write } else { Lsn::ZERO };
        Arc::new(Message {
            sharded,
            channel: channel.into(),
            payload: payload.into(),
            until,
            reign: self.reign,
        })
    }

    /// Sends a message on its way to all subscribers but its publisher, the client with the id `from`; on a leader, to those
    /// of the followers too.
    pub fn publish(&mut self, message: &Arc<Message>, from: Option<u64>) -> Receivers {
        if let Role::Leader(leading) = &mut self.role {
            leading.sessions.publish(message);
        }
        self.pubsub.publish(message, from)
    }

    /// WATCH.
    pub fn watch(&mut self, client: &Arc<Client>, db: usize, key: &[u8], now_ms: u64) {
        let expired = self.read_parts().is_ok_and(|(view, ks)| ks.is_expired(view, db, key, now_ms));
        let existed = self.exists(db, key);
        self.watches.add(client, db, key, existed, expired);
        if let Some(ks) = &mut self.keystore {
            ks.signals.listen(true);
        }
    }

    /// UNWATCH, and the end of every MULTI.
    pub fn unwatch(&mut self, client: &Client) {
        if !client.watching.load(Ordering::Relaxed) {
            return;
        }
        self.watches.remove(client);
        if self.watches.is_empty()
            && let Some(ks) = &mut self.keystore
        {
            ks.signals.listen(false);
        }
    }

    /// Whether a key that `client` watches has expired since.
    pub fn watched_key_expired(&self, client: &Client, now_ms: u64) -> bool {
        if !client.watching.load(Ordering::Relaxed) {
            return false;
        }
        let Ok((view, ks)) = self.read_parts() else { return false };
        self.watches.of(client).any(|(db, key)| ks.is_expired(view, db, key, now_ms))
    }

    /// How far `lsn` has spread: what WAIT and WAITAOF answer.
    pub fn wait_counts(&self, lsn: Lsn) -> Reached {
        match &self.role {
            Role::Leader(leading) => Reached {
                local: leading.machine.durable() >= lsn,
                followers: leading.machine.followers_durable_at(lsn),
            },
            _ => Reached { local: true, followers: 0 },
        }
    }

    /// Whether a window connection of this session is awaited.
    pub fn expects_window(&self, session: u64) -> bool {
        matches!(&self.role, Role::Leader(leading) if leading.sessions.expects_window(session))
    }

    /// Brings one worker's poller in line with its windows; returns whether rdma is among them.
    pub fn watch_windows(&mut self, worker: usize, poll: &Poll, token_base: u64) -> bool {
        match &mut self.role {
            Role::Leader(leading) => leading.sessions.watch(worker, poll, token_base),
            _ => false,
        }
    }

    /// Takes over a changed configuration.
    pub fn reconfigure(&mut self, node: &Node, config: &Config) {
        if let Some(ks) = &mut self.keystore {
            ks.limits = limits(config);
        }
        if let Role::Leader(leading) = &mut self.role {
            leading.machine.set_config(leader_config(config));
        }
        if let Some(follows) = &mut *node.followership() {
            follows.machine.set_config(follower_config(config));
        }
    }

    /// CONFIG RESETSTAT.
    pub fn reset_stats(&mut self) {
        self.counters = Counters { redo_start: self.pool.log().appended(), ..Counters::default() };
        if let Some(ks) = &mut self.keystore {
            ks.stats.reset();
        }
    }

    /// Whether the log needs a log-writer thread.
    pub fn needs_log_writer(&self) -> bool {
        !self.pool.log().region().persistence().by_instructions()
    }

    /// A follower was refused.
    pub fn count_refusal(&mut self) {
        self.counters.resumes_refused += 1;
    }
}

const NO_KEYSTORE: CommandError =
    CommandError::new("LOADING Farkeep is waiting for its first synchronisation with its leader");

/// Redis's limits on the shape of values.
fn limits(config: &Config) -> farkeep_keystore::Limits {
    farkeep_keystore::Limits {
        hash_max_listpack_entries: config.hash_max_listpack_entries as u64,
        hash_max_listpack_value: config.hash_max_listpack_value as u64,
        max_string_len: config.proto_max_bulk_len,
    }
}

/// What the leader's state machine needs to know of the configuration.
fn leader_config(config: &Config) -> farkeep_leader::Config {
    let deadline_ms = (config.repl_timeout_s * 1000).clamp(500, FOLLOWER_DEADLINE_MS);
    farkeep_leader::Config {
        sync_followers: config.sync_followers,
        on_follower_loss: match config.on_follower_loss {
            crate::config::OnFollowerLoss::Refuse => OnFollowerLoss::Refuse,
            crate::config::OnFollowerLoss::Degrade => OnFollowerLoss::Degrade,
        },
        heartbeat_ms: (deadline_ms / 6).clamp(50, 1000),
        deadline_ms,
        // Whoever can be spared goes when a writer has waited half of its time. One that cannot be spared goes a bit later, so
        // that the writer is told what is the matter: followers are missing, not room.
        hold_limit_ms: (config.log_full_timeout_ms / 2).max(HOLD_LIMIT_MIN_MS),
        needed_hold_limit_ms: (config.log_full_timeout_ms / 4 * 3).max(HOLD_LIMIT_MIN_MS),
        good_followers: config.good_replicas_to_write(),
        good_silence_s: config.min_replicas_max_lag_s,
        ..farkeep_leader::Config::default()
    }
}

/// What a follower's state machine needs to know of the configuration.
fn follower_config(config: &Config) -> farkeep_follower::Config {
    farkeep_follower::Config {
        listening_port: match config.replica_announce_port {
            0 => config.port,
            port => port,
        },
        announce_address: config.replica_announce_ip.clone().unwrap_or_default(),
        replace_dataset: config.replace_dataset,
        ..farkeep_follower::Config::default()
    }
}

/// How much DRAM the private pages of the working view may take.
fn dram_budget_bytes(config: &Config) -> u64 {
    match config.dram_budget {
        MemoryOrPercent::Bytes(bytes) => bytes,
        MemoryOrPercent::Percent(percent) => {
            let info = rustix::system::sysinfo();
            info.totalram * u64::from(info.mem_unit) / 100 * u64::from(percent)
        }
    }
}

/// Where this leader's image is.
fn image_at(node: &Node) -> Option<ImageAt> {
    let guard = node.replayer.lock();
    let replayer = guard.as_ref()?;
    Some(ImageAt { position: replayer.position(), image_len: replayer.image_len() })
}
