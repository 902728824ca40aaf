//! The leader's side of its followers' connections: sessions, control messages, windows.
//!
//! A follower opens two connections to the ordinary port. The first becomes its control channel ([`ControlPeer`]); over
//! tcp a second one becomes its window. Over rdma the leader connects to the follower ([`connected`]). What is decided is
//! [`farkeep_leader::Leader`]'s; here its decisions meet sockets.
//!
//! # When rdma fails
//!
//! A session whose rdma cannot be connected, breaks, or completes nothing for as long as a silent follower would be given is over; the
//! follower comes back from its last durable LSN and is given tcp, because [`Memory`] knows why. When its time has come, a session
//! over tcp is asked to open its window to rdma as well (`TryRdma`). Only when that link is there does the session leave tcp, between two
//! batches: nothing more is posted until everything posted is acknowledged, then the link is exchanged. The session stays the same, and
//! no writer notices.

mod control_peer;
mod known;

use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use farkeep_core::lsn::Lsn;
use farkeep_core::pmem::domain::{Domain, Durability};
use farkeep_fabric::{Completion, FabricError, FabricKind, LogMemory, Outgoing, RemoteWindow, Sending, tcp};
use farkeep_leader::{FollowerEntry, FollowerId, FollowerState, Leader, LeaderError, ship};
use farkeep_proto::control::{self, Body, FabricOffer, Hello, RdmaWindow, TryRdma};

pub use self::control_peer::ControlPeer;
use self::known::Known;
pub use crate::config::LeaderAddress;
use crate::config::{Config, DurabilityChoice};
use crate::engine::Engine;
use crate::node::Node;
use crate::peers;
use crate::pubsub::Message;
use crate::rdma::memory::Memory;
use crate::stats;
use crate::throttle::Throttle;
use crate::worker::Now;
use crate::worker::poll::{Interest, Poll};

/// Bytes of published messages that may wait for one follower. What exceeds them is not told to its subscribers: heartbeats go
/// the same way and must not come late.
const PUBLISHED_BACKLOG_BYTES: usize = 4 * 1024 * 1024;
/// A follower in the middle of a delta sync, for which nobody waits, gets the log with each chunk, when so much of it has come
/// together, ...
const LAZY_BYTES: u64 = 1024 * 1024;
/// ... or so many ms have passed.
const LAZY_MS: u64 = 20;
/// A longer message travels in parts of this length.
const PUBLISHED_PART_BYTES: usize = 256 * 1024;

/// One follower's session: its window, and what is to be said on its control channel.
#[derive(Debug)]
struct Session {
    /// Bytes for the control channel.
    outbox: Vec<u8>,
    /// Published messages for the same channel, whole control messages, at most [`PUBLISHED_BACKLOG_BYTES`].
    published: Vec<u8>,
    /// The worker that owns the control channel.
    worker: usize,
    /// The follower has opened its window.
    ready: bool,
    window: Option<Attached>,
    node_id: Vec<u8>,
    /// What it was last told of its peers.
    peers_told: Option<control::Peers>,
    /// How it can be reached by rdma, if it can.
    rdma: Option<FabricOffer>,
    trial: Trial,
    /// rdma: the flush that everybody waits for, and since when.
    waits: Option<(Lsn, u64)>,
    /// When it was last sent the log.
    logged_ms: u64,
}

/// An attempt to go on over rdma.
#[derive(Debug)]
enum Trial {
    None,
    /// The follower has been asked to open its window.
    Asked {
        until_ms: u64,
    },
    /// A helper thread connects.
    Connecting,
    /// The link is there; the old one is waited for.
    Connected(Attached),
}

/// How long a follower may take to answer `TryRdma`.
const TRIAL_LIMIT_MS: u64 = 5_000;

struct Attached {
    remote: Box<dyn RemoteWindow + Send>,
    /// rdma: `apm` or `gpspm`; otherwise empty.
    mode: &'static str,
    /// The worker whose poller watches it, and for what.
    worker: usize,
    watched: Option<Interest>,
    blocked: bool,
    /// What was lent to the walker could not be sent whole.
    stuck: bool,
}

impl Attached {
    fn new(remote: Box<dyn RemoteWindow + Send>, mode: &'static str, worker: usize) -> Self {
        Self { remote, mode, worker, watched: None, blocked: false, stuck: false }
    }

    fn is_one_sided(&self) -> bool {
        matches!(self.remote.kind(), FabricKind::Shm | FabricKind::Rdma)
    }

    /// Whether the walker sends what is posted: for a follower in mid-sync nobody waits, and over tcp its chunks would cost the worker
    /// more than its clients do.
    fn is_sent_by_walker(&self, follower: &FollowerEntry) -> bool {
        follower.state == FollowerState::Syncing && self.remote.kind() == FabricKind::Tcp
    }
}

/// A link to a follower's window that a helper thread has made.
pub struct Link {
    /// The window.
    pub remote: Box<dyn RemoteWindow + Send>,
    /// `apm` or `gpspm`.
    pub mode: &'static str,
    /// Whether batches are copied on their way.
    pub staged: bool,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("fabric", &self.remote.kind()).field("worker", &self.worker).finish()
    }
}

/// The sessions of one reign.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: HashMap<FollowerId, Session>,
    /// All followers of this reign, also those that went.
    known: Known,
    /// What of them the pool remembers.
    remembered: Option<control::Peers>,
    done: Vec<Completion>,
    /// Published messages not yet passed on: those of this turn, and those that wait for a commit.
    published: VecDeque<Arc<Message>>,
    published_bytes: usize,
    /// Messages that there was no room for, not yet counted elsewhere.
    published_lost: u64,
    /// Refusals, as far as the log has been told.
    complaints: Throttle,
    /// Whose rdma has failed.
    memory: Memory,
    /// The time of the last look.
    now_ms: u64,
}

impl Sessions {
    /// No sessions yet, in a group that had these followers.
    pub fn knowing(addresses: Vec<control::PeerAddress>) -> Self {
        Self { known: Known::of(addresses), ..Self::default() }
    }

    /// Posts what it lacks to every follower that was not sent the log up to `until` yet; with `tail` to every one, for the
    /// tail cell's sake.
    /// Returns whether anything went out.
    pub fn ship(&mut self, leader: &mut Leader, log: &Arc<dyn LogMemory>, until: Lsn, tail: bool) -> bool {
        let mut broken = Vec::new();
        let mut shipped = false;
        for (&id, session) in &mut self.by_id {
            if !session.may_ship(leader, id, &mut self.memory, self.now_ms) {
                continue;
            }
            let Some(follower) = leader.follower(id) else { continue };
            if session.window.as_ref().is_some_and(|window| window.is_sent_by_walker(follower)) {
                continue;
            }
            let Some((log_due, window)) = session.due(follower, until, tail, self.now_ms) else { continue };
            match ship::pump(leader, id, window.remote.as_mut(), log, log_due) {
                Ok(sending) => {
                    window.blocked = sending == Sending::Blocked;
                    shipped = true;
                }
                Err(error) => broken.push((id, error.to_string())),
            }
        }
        for (id, reason) in broken {
            self.broke(leader, id, reason);
        }
        shipped
    }

    /// As [`Sessions::ship`], to the followers whose windows the walker serves; it sends what this returns, and says so with
    /// [`Sessions::sent`].
    pub fn lend(
        &mut self,
        leader: &mut Leader,
        log: &Arc<dyn LogMemory>,
        until: Lsn,
        now: Now,
    ) -> Vec<(FollowerId, Outgoing)> {
        self.now_ms = now.ms;
        let mut lent = Vec::new();
        for (&id, session) in &mut self.by_id {
            let Some(follower) = leader.follower(id) else { continue };
            let is_walkers = session.window.as_ref().is_some_and(|window| window.is_sent_by_walker(follower));
            if !is_walkers || !session.may_ship(leader, id, &mut self.memory, self.now_ms) {
                continue;
            }
            let Some(follower) = leader.follower(id) else { continue };
            let Some((log_due, window)) = session.due(follower, until, true, self.now_ms) else { continue };
            ship::post(leader, id, window.remote.as_mut(), log, log_due);
            while leader.follower(id).is_some_and(FollowerEntry::has_chunk_pieces) && window.remote.room() > 0
            {
                ship::post(leader, id, window.remote.as_mut(), log, false);
            }
            lent.extend(window.remote.lend().map(|outgoing| (id, outgoing)));
        }
        lent
    }

    /// What was lent is sent, as far as the link took it. Returns whether something is left for the walker; `None` if whatever is left
    /// is the worker's.
    pub fn sent(
        &mut self,
        leader: &mut Leader,
        id: FollowerId,
        sent: Result<Sending, FabricError>,
    ) -> Option<bool> {
        let window = self.by_id.get_mut(&id).and_then(|session| session.window.as_mut())?;
        let is_walkers = window.is_sent_by_walker(leader.follower(id)?);
        match sent {
            Ok(sending) => {
                window.stuck = is_walkers && sending == Sending::Blocked;
                // The worker has to look whether it posted something meanwhile.
                window.blocked = !is_walkers;
                is_walkers.then_some(window.stuck)
            }
            Err(error) => {
                self.broke(leader, id, error.to_string());
                None
            }
        }
    }

    /// A follower's window is of no more use.
    fn broke(&mut self, leader: &mut Leader, id: FollowerId, mut reason: String) {
        if let Some(session) = self.by_id.get(&id)
            && session.window.as_ref().is_some_and(|window| window.remote.kind() == FabricKind::Rdma)
        {
            reason = format!("the rdma link broke: {reason}");
            self.memory.failed(&session.node_id, self.now_ms, &reason);
        }
        self.end(leader, id, &reason);
    }

    /// Gives up rdma links on which nothing completes, and asks sessions that fell back to tcp to try rdma again if it is
    /// `usable` here. To be called ten times a second.
    pub fn tick(&mut self, leader: &mut Leader, now: Now, usable: bool) {
        self.now_ms = now.ms;
        let limit_ms = leader.config().deadline_ms;
        let mut stalled = Vec::new();
        for (&id, session) in &mut self.by_id {
            let Some(follower) = leader.follower(id) else { continue };
            let Some(window) = &session.window else { continue };
            match window.remote.kind() {
                FabricKind::Rdma if follower.is_drained() => session.waits = None,
                FabricKind::Rdma => match session.waits {
                    Some((at, since_ms)) if at == follower.flushed() => {
                        if now.ms.saturating_sub(since_ms) >= limit_ms {
                            stalled.push((id, format!("nothing has completed for {limit_ms} ms")));
                        }
                    }
                    _ => session.waits = Some((follower.flushed(), now.ms)),
                },
                FabricKind::Tcp if usable && session.rdma.is_some() && follower.in_reach() => {
                    if let Some(reason) = session.try_rdma(id, &mut self.memory, now.ms) {
                        leader.set_fabric(id, FabricKind::Tcp, reason);
                    }
                }
                _ => {}
            }
        }
        for (id, reason) in stalled {
            self.broke(leader, id, reason);
        }
    }

    /// How a follower's window is reached, beyond the fabric's name.
    pub fn mode(&self, id: FollowerId) -> &'static str {
        self.by_id.get(&id).and_then(|session| session.window.as_ref()).map_or("", |window| window.mode)
    }

    /// Takes what has completed on windows where looking costs no system call: one-sided stores complete at once, and a
    /// network card's writes soon.
    pub fn collect_at_once(&mut self, leader: &mut Leader, now: Now) {
        if self.by_id.values().any(|session| session.window.as_ref().is_some_and(Attached::is_one_sided)) {
            self.collect(leader, now);
        }
    }

    /// Whether something is under way that is found soonest by looking for it.
    pub fn expect_soon(&self, leader: &Leader) -> bool {
        self.by_id.iter().any(|(&id, session)| {
            let rdma = |window: &Attached| window.remote.kind() == FabricKind::Rdma;
            session.window.as_ref().is_some_and(rdma)
                && leader.follower(id).is_some_and(|follower| !follower.is_drained())
        })
    }

    /// To be called by a worker before it sleeps: has its windows announce what completes from now on. Returns whether it may
    /// sleep; if not, there is something to collect.
    pub fn rest(&mut self, leader: &mut Leader, worker: usize) -> bool {
        let (mut may_sleep, mut broken) = (true, Vec::new());
        for (&id, session) in &mut self.by_id {
            let Some(window) = session.window.as_mut().filter(|window| window.worker == worker) else {
                continue;
            };
            match window.remote.rest() {
                Ok(rests) => may_sleep &= rests,
                Err(error) => broken.push((id, error.to_string())),
            }
        }
        may_sleep &= broken.is_empty();
        for (id, reason) in broken {
            self.broke(leader, id, reason);
        }
        may_sleep
    }

    /// Takes what the followers have acknowledged.
    pub fn collect(&mut self, leader: &mut Leader, now: Now) {
        self.now_ms = now.ms;
        let (mut broken, mut wrong) = (Vec::new(), Vec::new());
        for (&id, session) in &mut self.by_id {
            let Some(window) = &mut session.window else { continue };
            match ship::collect(leader, now.ms, id, window.remote.as_mut(), &mut self.done) {
                Ok(()) => {}
                Err(LeaderError::Fabric(error)) => broken.push((id, error.to_string())),
                Err(error) => wrong.push((id, error.to_string())),
            }
        }
        for (id, reason) in broken {
            self.broke(leader, id, reason);
        }
        for (id, reason) in wrong {
            self.end(leader, id, &reason);
        }
    }

    /// Forgets a session; its channels close as their owners notice.
    pub fn end(&mut self, leader: &mut Leader, id: FollowerId, reason: &str) {
        if let Some(left) = leader.leave(id) {
            self.dropped(id, &left.name(), reason);
        }
    }

    /// As [`Sessions::end`], for a session that the leader's state machine has ended.
    pub fn dropped(&mut self, id: FollowerId, name: &str, reason: &str) {
        if self.by_id.remove(&id).is_some() {
            tracing::warn!(follower = name, reason, "lost a follower");
            self.known.note_lost(name, reason);
        }
    }

    /// Puts a message on a follower's control channel.
    pub fn say(&mut self, id: FollowerId, body: Body) {
        if let Some(session) = self.by_id.get_mut(&id) {
            control::encode(body, &mut session.outbox);
        }
    }

    /// As [`Sessions::say`], without waiting for the next heartbeat.
    pub fn say_at_once(&mut self, node: &Node, id: FollowerId, body: Body) {
        self.say(id, body);
        if let Some(session) = self.by_id.get(&id) {
            node.workers[session.worker].speak();
        }
    }

    /// Tells every follower who the others are, if that has changed since it was last told. To be called ten times a second, and as
    /// soon as a follower joins, so that the others know of it before anything is acknowledged because of it.
    ///
    /// Those that are gone count as well: whatever was acknowledged because of them may be nowhere else, and they may come back to this
    /// leader when it has been replaced without knowing. They are forgotten when neither is likely any more.
    pub fn introduce(&mut self, node: &Node, leader: &Leader) {
        self.known.note(leader, self.now_ms);
        let sync = leader.config().sync_followers;
        let followers: Vec<_> = self.known.addresses().cloned().collect();
        let all = control::Peers { followers, sync_followers: sync as u32, yourself: None };
        // Until it has gathered a group that has had another leader, what it knows of that is worth more.
        if leader.is_settled() && self.remembered.as_ref() != Some(&all) {
            peers::save(&node.config().pool, None, &all);
            self.remembered = Some(all.clone());
        }
        let mut untold = Vec::new();
        for (&id, session) in self.by_id.iter_mut().filter(|(_, session)| session.ready) {
            let Some(follower) = leader.follower(id) else { continue };
            let peers = control::Peers { yourself: Some(address_of(follower)), ..all.clone() };
            if session.peers_told.as_ref() != Some(&peers) {
                session.peers_told = Some(peers.clone());
                untold.push((id, peers));
            }
        }
        for (id, peers) in untold {
            self.say_at_once(node, id, Body::Peers(peers));
        }
    }

    /// The [`peers::quorum`] of this leader's own group.
    pub fn quorum(&self, config: &Config) -> usize {
        peers::quorum(self.known.addresses().count(), config.sync_followers)
    }

    /// The followers of this reign that are gone, and why.
    pub fn lost(&self) -> impl Iterator<Item = (&str, &str)> {
        self.known.lost()
    }

    /// Takes what is to be sent on a control channel; `None` when the session is over. Published messages stay while
    /// `congested`: the channel still has to send others.
    pub fn take_outbox(&mut self, id: FollowerId, congested: bool) -> Option<Vec<u8>> {
        let session = self.by_id.get_mut(&id)?;
        let mut bytes = std::mem::take(&mut session.outbox);
        if !congested {
            bytes.append(&mut session.published);
        }
        Some(bytes)
    }

    /// Notes a published message for the followers' subscribers.
    pub fn publish(&mut self, message: &Arc<Message>) {
        if self.by_id.is_empty() {
            return;
        }
        let len = message.channel.len() + message.payload.len();
        if self.published_bytes + len > PUBLISHED_BACKLOG_BYTES
            || message.channel.len() > PUBLISHED_PART_BYTES
        {
            self.published_lost += 1;
            return;
        }
        self.published_bytes += len;
        self.published.push_back(Arc::clone(message));
    }

    /// Puts the published messages that need not wait for a commit any more on the followers' control channels. They keep
    /// their order: one that waits holds up those behind it.
    pub fn pass_published_on(&mut self, node: &Node, committed: Lsn) {
        if self.published_lost > 0 {
            stats::add(&node.stats.published_lost, std::mem::take(&mut self.published_lost));
        }
        let mut bytes = Vec::new();
        while let Some(message) = self.published.pop_front_if(|message| message.until <= committed) {
            self.published_bytes -= message.channel.len() + message.payload.len();
            bytes.clear();
            encode_published(&message, &mut bytes);
            for session in self.by_id.values_mut().filter(|session| session.ready) {
                if session.published.len() + bytes.len() > PUBLISHED_BACKLOG_BYTES {
                    stats::add(&node.stats.published_lost, 1);
                    continue;
                }
                session.published.extend_from_slice(&bytes);
                node.workers[session.worker].speak();
            }
        }
    }

    /// Puts the steps of walks over the image that can be told now on the followers' control channels. Returns whether there was any.
    pub fn say_steps(&mut self, leader: &mut Leader, node: &Node) -> bool {
        let mut said = false;
        while let Some((id, body)) = leader.walk_message() {
            let Some(session) = self.by_id.get_mut(&id) else { continue };
            control::encode(body, &mut session.outbox);
            // It is taken when the log has come up to where it was read.
            session.logged_ms = 0;
            said = true;
            node.workers[session.worker].speak();
        }
        said
    }

    /// Whether a window connection of this session is awaited.
    pub fn expects_window(&self, session: u64) -> bool {
        self.by_id.get(&FollowerId::new(session)).is_some_and(|session| session.window.is_none())
    }

    /// Brings one worker's poller in line with what its windows have to be watched for. Returns whether rdma is among them.
    pub fn watch(&mut self, worker: usize, poll: &Poll, token_base: u64) -> bool {
        let mut rdma = false;
        for (id, session) in &mut self.by_id {
            let Some(window) = session.window.as_mut().filter(|window| window.worker == worker) else {
                continue;
            };
            rdma |= window.remote.kind() == FabricKind::Rdma;
            let Some(fd) = window.remote.readiness() else { continue };
            let wanted = Interest { readable: true, writable: window.blocked };
            if window.watched == Some(wanted) {
                continue;
            }
            let token = token_base + (id.session() & 0xFFFF_FFFF);
            let result = match window.watched {
                None => poll.add(fd, token, wanted),
                Some(_) => poll.modify(fd, token, wanted),
            };
            match result {
                Ok(()) => window.watched = Some(wanted),
                Err(error) => tracing::warn!(%error, "cannot watch a follower's window"),
            }
        }
        rdma
    }

    fn start_if_ready(&mut self, leader: &mut Leader, id: FollowerId, now: Now) -> Result<()> {
        let Some(session) = self.by_id.get(&id) else { bail!("the session is over") };
        if session.ready
            && let Some(window) = &session.window
        {
            leader.ready(now.ms, id)?;
            if let Some(follower) = leader.follower(id) {
                let reason = follower.fabric_reason.as_str();
                tracing::info!(
                    follower = %follower.name(),
                    fabric = %follower.fabric,
                    mode = (!window.mode.is_empty()).then_some(window.mode),
                    why_no_better = (!reason.is_empty()).then_some(reason),
                    from = %follower.shipped,
                    "a follower is attached"
                );
            }
        }
        Ok(())
    }
}

/// Where clients reach a follower.
fn address_of(follower: &FollowerEntry) -> control::PeerAddress {
    control::PeerAddress { host: follower.address.clone(), port: follower.port.into() }
}

fn encode_published(message: &Message, out: &mut Vec<u8>) {
    let mut parts = message.payload.chunks(PUBLISHED_PART_BYTES).peekable();
    loop {
        let payload = parts.next().unwrap_or_default().to_vec();
        let more = parts.peek().is_some();
        let (channel, sharded) = (message.channel.to_vec(), message.sharded);
        control::encode(Body::Published(control::Published { channel, payload, sharded, more }), out);
        if !more {
            return;
        }
    }
}

impl Session {
    fn new(hello: &Hello, worker: usize) -> Self {
        let offered =
            |offer: &&FabricOffer| offer.name == FabricKind::Rdma.name() && offer.unusable.is_empty();
        Self {
            outbox: Vec::new(),
            published: Vec::new(),
            worker,
            ready: false,
            window: None,
            node_id: hello.node_id.clone(),
            peers_told: None,
            rdma: hello.fabrics.iter().find(offered).cloned(),
            trial: Trial::None,
            waits: None,
            logged_ms: 0,
        }
    }

    /// The window, if there is anything to post or to send, and whether the log is; it is at `until`.
    fn due(
        &mut self,
        follower: &FollowerEntry,
        until: Lsn,
        tail: bool,
        now_ms: u64,
    ) -> Option<(bool, &mut Attached)> {
        let window = self.window.as_mut().filter(|_| follower.in_reach())?;
        let lacks = follower.shipped < until || tail;
        let lazy = follower.state == FollowerState::Syncing
            && until.get().saturating_sub(follower.shipped.get()) < LAZY_BYTES
            && now_ms < self.logged_ms + LAZY_MS;
        let log_due = lacks && !lazy;
        if log_due {
            self.logged_ms = now_ms;
        }
        (log_due || follower.has_chunk_pieces() || window.blocked || window.stuck)
            .then_some((log_due, window))
    }

    /// Exchanges the link if a better one is there and nothing is under way on the old one. While something is, nothing more
    /// may be posted.
    fn may_ship(&mut self, leader: &mut Leader, id: FollowerId, memory: &mut Memory, now_ms: u64) -> bool {
        if !matches!(self.trial, Trial::Connected(_)) {
            return true;
        }
        if !leader.follower(id).is_some_and(FollowerEntry::is_drained) {
            return false;
        }
        if let Trial::Connected(link) = std::mem::replace(&mut self.trial, Trial::None) {
            leader.set_fabric(id, link.remote.kind(), String::new());
            memory.up(&self.node_id, now_ms);
            let name = leader.follower(id).map(FollowerEntry::name).unwrap_or_default();
            tracing::info!(follower = name, fabric = %link.remote.kind(), mode = link.mode, "a follower goes on over a better fabric");
            self.window = Some(link);
        }
        true
    }

    /// Moves on with what may lead back to rdma. Returns why it does not, if that is news.
    fn try_rdma(&mut self, id: FollowerId, memory: &mut Memory, now_ms: u64) -> Option<String> {
        match self.trial {
            Trial::None if memory.is_due(&self.node_id, now_ms) => {
                self.trial = Trial::Asked { until_ms: now_ms + TRIAL_LIMIT_MS };
                control::encode(Body::TryRdma(TryRdma { session: id.session() }), &mut self.outbox);
                None
            }
            Trial::Asked { until_ms } if now_ms >= until_ms => {
                memory.failed(&self.node_id, now_ms, "the follower did not open its window to rdma");
                self.trial = Trial::None;
                memory.reason(&self.node_id, now_ms).map(|reason| format!("rdma: {reason}"))
            }
            _ => None,
        }
    }

    /// What `Ready` says of an rdma window, if it is one to connect to.
    fn wants_connection(&mut self, rdma: Option<RdmaWindow>) -> Option<(FabricOffer, RdmaWindow)> {
        let asked = matches!(self.trial, Trial::Asked { .. });
        let both = self.rdma.clone().zip(rdma).filter(|_| self.window.is_none() || asked)?;
        self.trial = Trial::Connecting;
        Some(both)
    }
}

/// A helper thread has connected to the window of a session's follower, or could not.
#[cfg_attr(not(feature = "rdma"), expect(dead_code, reason = "only the rdma fabric makes links"))]
pub fn connected(node: &Node, id: FollowerId, link: Result<Link, String>) {
    let mut engine = node.engine.lock();
    let now = node.now();
    // Whatever has become of the session meanwhile: without it there is no use for a link.
    let Some((leader, sessions)) = engine.leading() else { return };
    let Some(session) = sessions.by_id.get_mut(&id) else { return };
    let name = leader.follower(id).map(FollowerEntry::name).unwrap_or_default();
    session.trial = Trial::None;
    match link {
        Ok(link) => {
            tracing::debug!(
                follower = name,
                mode = link.mode,
                staged = link.staged,
                "connected to a follower's window"
            );
            let link = Attached::new(link.remote, link.mode, RDMA_WORKER);
            if session.window.is_some() {
                session.trial = Trial::Connected(link);
            } else {
                session.window = Some(link);
                sessions.memory.up(&session.node_id, now.ms);
                if let Err(error) = sessions.start_if_ready(leader, id, now) {
                    sessions.end(leader, id, &error.to_string());
                }
            }
        }
        Err(why) => {
            sessions.memory.failed(&session.node_id, now.ms, &why);
            if session.window.is_some() {
                tracing::info!(follower = name, why, "rdma does not work yet; the session goes on over tcp");
                let reason = sessions.memory.reason(&session.node_id, now.ms).unwrap_or(why);
                leader.set_fabric(id, FabricKind::Tcp, format!("rdma: {reason}"));
            } else {
                sessions.end(leader, id, &format!("rdma: {why}"));
            }
        }
    }
    drop(engine);
    // It watches the new link, and ships what is due.
    node.workers[RDMA_WORKER].waker.wake();
}

/// The worker that watches the rdma links.
const RDMA_WORKER: usize = 0;

/// A session's window connection has arrived on `stream`.
///
/// # Errors
/// When the session is over.
pub fn attach_window(
    engine: &mut Engine,
    session: u64,
    stream: TcpStream,
    worker: usize,
    now: Now,
) -> Result<()> {
    let id = FollowerId::new(session);
    let (leader, sessions) = engine.leading().context("this node is not the leader")?;
    let entry = sessions.by_id.get_mut(&id).context("the session is over")?;
    let remote = tcp::Remote::new(tcp::Socket::new(stream));
    entry.window = Some(Attached::new(Box::new(remote), "", worker));
    sessions.start_if_ready(leader, id, now)
}

/// The configured durability, as the core understands it.
pub fn durability(choice: DurabilityChoice) -> Durability {
    match choice {
        DurabilityChoice::Auto => Durability::Auto,
        DurabilityChoice::Pmem => Durability::Forced(Domain::Pmem),
        DurabilityChoice::Disk => Durability::Forced(Domain::Disk),
        DurabilityChoice::Volatile => Durability::Forced(Domain::Volatile),
    }
}
