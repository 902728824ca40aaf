//! The leader's side of its followers' connections: sessions, control messages, windows.
//!
//! A follower opens two connections to the ordinary port. The first becomes its control channel ([`ControlPeer`]); over
//! tcp a second one becomes its window. What is decided is [`farkeep_leader::Leader`]'s; here its decisions meet sockets.

use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use farkeep_core::lsn::Lsn;
use farkeep_core::pmem::domain::{Domain, Durability};
use farkeep_fabric::{Completion, FabricKind, LogMemory, RemoteWindow, Sending, shm, tcp};
use farkeep_leader::{FollowerId, Join, Leader, Peer, ship};
use farkeep_proto::control::{self, Body, HandoverStep, Hello};

use crate::clients::Client;
pub use crate::config::LeaderAddress;
use crate::config::{DurabilityChoice, FabricChoice};
use crate::engine::Engine;
use crate::node::Node;
use crate::pubsub::Message;
use crate::stats;
use crate::throttle::Throttle;
use crate::worker::Now;
use crate::worker::poll::{Interest, Poll};

/// Bytes of published messages that may wait for one follower. What exceeds them is not told to its subscribers: heartbeats go
/// the same way and must not come late.
const PUBLISHED_BACKLOG_BYTES: usize = 4 * 1024 * 1024;
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
}

struct Attached {
    remote: Box<dyn RemoteWindow + Send>,
    /// The worker whose poller watches it, and for what.
    worker: usize,
    watched: Option<Interest>,
    blocked: bool,
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
    done: Vec<Completion>,
    /// Published messages not yet passed on: those of this turn, and those that wait for a commit.
    published: VecDeque<Arc<Message>>,
    published_bytes: usize,
    /// Messages that there was no room for, not yet counted elsewhere.
    published_lost: u64,
    /// Refusals, as far as the log has been told.
    complaints: Throttle,
}

impl Sessions {
    /// Posts what it lacks to every follower that was not sent the log up to `until` yet; with `tail` to every one, for the
    /// tail cell's sake.
    /// Returns whether anything went out.
    pub fn ship(&mut self, leader: &mut Leader, log: &Arc<dyn LogMemory>, until: Lsn, tail: bool) -> bool {
        let mut broken = Vec::new();
        let mut shipped = false;
        for (&id, session) in &mut self.by_id {
            let Some(window) = &mut session.window else { continue };
            let Some(follower) = leader.follower(id) else { continue };
            if !follower.in_reach() || (follower.shipped >= until && !tail && !window.blocked) {
                continue;
            }
            match ship::pump(leader, id, window.remote.as_mut(), log) {
                Ok(sending) => {
                    window.blocked = sending == Sending::Blocked;
                    shipped = true;
                }
                Err(error) => broken.push((id, error.to_string())),
            }
        }
        for (id, reason) in broken {
            self.end(leader, id, &reason);
        }
        shipped
    }

    /// Takes what has completed on windows that have nothing to wait on: one-sided stores complete at once.
    pub fn collect_at_once(&mut self, leader: &mut Leader, now: Now) {
        let one_sided =
            |session: &Session| session.window.as_ref().is_some_and(|w| w.remote.readiness().is_none());
        if self.by_id.values().any(one_sided) {
            self.collect(leader, now);
        }
    }

    /// Takes what the followers have acknowledged.
    pub fn collect(&mut self, leader: &mut Leader, now: Now) {
        let mut broken = Vec::new();
        for (&id, session) in &mut self.by_id {
            let Some(window) = &mut session.window else { continue };
            if let Err(error) = ship::collect(leader, now.ms, id, window.remote.as_mut(), &mut self.done) {
                broken.push((id, error.to_string()));
            }
        }
        for (id, reason) in broken {
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
        }
    }

    /// Puts a message on a follower's control channel.
    pub fn say(&mut self, id: FollowerId, body: Body) {
        if let Some(session) = self.by_id.get_mut(&id) {
            control::encode(body, &mut session.outbox);
        }
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
                let worker = &node.workers[session.worker];
                if !worker.speak.swap(true, Ordering::AcqRel) {
                    worker.waker.wake();
                }
            }
        }
    }

    /// Whether a window connection of this session is awaited.
    pub fn expects_window(&self, session: u64) -> bool {
        self.by_id.get(&FollowerId::new(session)).is_some_and(|session| session.window.is_none())
    }

    /// Brings one worker's poller in line with what its windows have to be watched for.
    pub fn watch(&mut self, worker: usize, poll: &Poll, token_base: u64) {
        for (id, session) in &mut self.by_id {
            let Some(window) = &mut session.window else { continue };
            let Some(fd) = window.remote.readiness() else { continue };
            let wanted = Interest { readable: true, writable: window.blocked };
            if window.worker != worker || window.watched == Some(wanted) {
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
    }

    fn start_if_ready(&mut self, leader: &mut Leader, id: FollowerId, now: Now) -> Result<()> {
        let Some(session) = self.by_id.get(&id) else { bail!("the session is over") };
        if session.ready && session.window.is_some() {
            leader.ready(now.ms, id)?;
            if let Some(follower) = leader.follower(id) {
                let reason = follower.fabric_reason.as_str();
                tracing::info!(
                    follower = %follower.name(),
                    fabric = %follower.fabric,
                    why_no_better = (!reason.is_empty()).then_some(reason),
                    from = %follower.shipped,
                    "a follower is attached"
                );
            }
        }
        Ok(())
    }
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

/// The leader's end of a follower's control channel.
#[derive(Debug)]
pub struct ControlPeer {
    host: String,
    worker: usize,
    session: Option<FollowerId>,
    /// Where the follower serves its own clients.
    follower: Option<LeaderAddress>,
    buffer: Vec<u8>,
}

impl ControlPeer {
    /// The channel of a connection that said `FARKEEP.REPLICATE`.
    pub fn new(client: &Client) -> Self {
        let host = client.peer.rsplit_once(':').map_or(client.peer.as_str(), |(host, _)| host);
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            worker: client.worker,
            session: None,
            follower: None,
            buffer: Vec::new(),
        }
    }

    /// Takes received bytes; answers go to `out`.
    ///
    /// # Errors
    /// When the connection is of no more use; what is in `out` should still be sent.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        engine: &mut Engine,
        node: &Node,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        let mut consumed = 0;
        while let Some((envelope, len)) = control::decode(&self.buffer[consumed..])? {
            consumed += len;
            match envelope.body {
                Some(Body::Hello(hello)) => self.hello(&hello, engine, node, now, out)?,
                Some(Body::Ready(ready)) => {
                    let id = FollowerId::new(ready.session);
                    let (leader, sessions) = engine.leading().context("this node is not the leader")?;
                    if let Some(session) = sessions.by_id.get_mut(&id) {
                        session.ready = true;
                    }
                    sessions.start_if_ready(leader, id, now)?;
                }
                Some(Body::Status(status)) => {
                    let id = FollowerId::new(status.session);
                    let (leader, _) = engine.leading().context("this node is not the leader")?;
                    leader.status(now.ms, id, &status)?;
                }
                Some(Body::Handover(step)) => match step.step() {
                    HandoverStep::Ask => {
                        let successor = self.follower.clone().context("no session was begun")?;
                        let id = FollowerId::new(step.session);
                        let end_lsn = engine.stand_down(now, id, successor)?.get();
                        let grant = HandoverStep::Grant.into();
                        control::encode(
                            Body::Handover(control::Handover { session: step.session, step: grant, end_lsn }),
                            out,
                        );
                    }
                    HandoverStep::Taken => engine.handed_over(node, now, FollowerId::new(step.session))?,
                    HandoverStep::Grant | HandoverStep::Unknown => {}
                },
                Some(Body::Goodbye(goodbye)) => bail!("the follower ends the session: {}", goodbye.reason),
                _ => {}
            }
        }
        self.buffer.drain(..consumed);
        Ok(())
    }

    fn hello(
        &mut self,
        hello: &Hello,
        engine: &mut Engine,
        node: &Node,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let config = node.config();
        let peer = Peer { address: self.host.clone(), fabrics: usable_fabrics(config.fabric) };
        let Some((leader, sessions)) = engine.leading() else {
            let text =
                "this node is a follower itself; followers of followers are not supported, follow the leader";
            let refuse = control::Refuse {
                reason: control::RefuseReason::NotLeader.into(),
                text: text.to_owned(),
                epoch: 0,
            };
            control::encode(Body::Refuse(refuse), out);
            return Ok(());
        };
        match leader.join(now.ms, hello, &peer) {
            Join::Accepted { id, welcome, replaces } => {
                if let Some(old) = replaces {
                    sessions.by_id.remove(&old);
                }
                let mut session = Session {
                    outbox: Vec::new(),
                    published: Vec::new(),
                    worker: self.worker,
                    ready: false,
                    window: None,
                };
                if FabricKind::from_name(&welcome.fabric) == Some(FabricKind::Shm) {
                    session.window = Some(open_shm(hello, welcome.session, durability(config.durability))?);
                }
                control::encode(Body::Welcome(welcome), out);
                sessions.by_id.insert(id, session);
                self.session = Some(id);
                self.follower = leader
                    .follower(id)
                    .map(|follower| LeaderAddress { host: follower.address.clone(), port: follower.port });
            }
            Join::Refused(refuse) => {
                if sessions.complaints.is_news(now.ms, &format!("{}:{}", self.host, refuse.text)) {
                    tracing::warn!(
                        follower = %format!("{}:{}", self.host, hello.listening_port),
                        reason = %refuse.text,
                        "refused a follower"
                    );
                }
                engine.count_refusal();
                control::encode(Body::Refuse(refuse), out);
            }
            Join::Renew { above, refuse } => {
                tracing::info!(epoch = %above, "a follower has promised to a later epoch; renewing the reign");
                engine.renew_reign(node, above)?;
                control::encode(Body::Refuse(refuse), out);
            }
        }
        Ok(())
    }

    /// The session, once there is one.
    pub fn session(&self) -> Option<FollowerId> {
        self.session
    }

    /// The connection is gone.
    pub fn closed(&self, engine: &mut Engine) {
        if let (Some(id), Some((leader, sessions))) = (self.session, engine.leading()) {
            sessions.end(leader, id, "the control connection closed");
        }
    }
}

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
    entry.window = Some(Attached {
        remote: Box::new(tcp::Remote::new(tcp::Socket::new(stream))),
        worker,
        watched: None,
        blocked: false,
    });
    sessions.start_if_ready(leader, id, now)
}

fn open_shm(hello: &Hello, session: u64, durability: Durability) -> Result<Attached> {
    let offer = hello.fabrics.iter().find(|offer| offer.name == FabricKind::Shm.name());
    let offer = offer.context("the follower offers no shm")?;
    let window = shm::SharedWindow::map(offer, &hello.node_id, durability)?;
    Ok(Attached {
        remote: Box::new(shm::Remote::new(window, session)),
        worker: 0,
        watched: None,
        blocked: false,
    })
}

/// The fabrics that this leader can use towards a follower. shm has to be asked for on both sides: nothing keeps a leader
/// from storing into another process's memory, so it is for tests, measurements and memory that hosts share.
fn usable_fabrics(choice: FabricChoice) -> Vec<FabricKind> {
    match choice {
        FabricChoice::Shm => vec![FabricKind::Shm, FabricKind::Tcp],
        _ => vec![FabricKind::Tcp],
    }
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
