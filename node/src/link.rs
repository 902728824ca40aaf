//! The follower's side of the connection to its leader.
//!
//! One thread carries out what [`farkeep_follower::Follower`] decides: connect, introduce, truncate, open the window, answer
//! heartbeats, try again. While a session runs, a second thread serves the window: it receives straight into the log, persists,
//! acknowledges and tells the replayer. Neither ever takes the engine for longer than a change of the log needs.

mod connect;
mod window;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use farkeep_core::log::{LogMap, Tail};
use farkeep_core::lsn::Lsn;
use farkeep_follower::{Action, Follower, JoinError, Link as LinkState};
use farkeep_proto::control::{self, Body, HandoverStep, Published};
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::statvfs;

use crate::engine::{Engine, Handover};
use crate::node::Node;
use crate::peers;
use crate::rdma::{self, Basis};
use crate::replication::LeaderAddress;
use crate::spare::Spare;
use crate::throttle::Throttle;

use connect::{connect, request};
use window::{ServedWindow, Trial};
pub use window::{TailWatch, take_burst};

/// Wait for the leader's socket while something else is looked for that does not wake this thread.
const TICK: Duration = Duration::from_millis(20);
/// Longest sleep while nothing is due.
const REST_MS: u64 = 500;
/// The same as `TICK` while a role is about to change hands: clients wait.
const BRISK_TICK: Duration = Duration::from_millis(1);
/// Longest wait for the engine before it is asked whether there is still a reason.
const ENGINE_PATIENCE: Duration = Duration::from_millis(1);
/// Bytes of an image that are allocated and brought into memory in one go before a delta sync: some milliseconds' work.
const RESERVED_AT_ONCE: u64 = 4 << 20;
/// How often a leader hears that this node is alive while it is busy: less than the shortest deadline there is.
const ALIVE_INTERVAL: Duration = Duration::from_millis(100);
/// Sleep without a leader to follow.
const IDLE: Duration = Duration::from_millis(500);

/// What a following node knows of its log; shared by the link's threads, the replayer and the engine.
#[derive(Debug)]
pub struct Followership {
    /// Whom to follow.
    pub leader: LeaderAddress,
    /// The state machine.
    pub machine: Follower,
    /// How far the log has been read; `None` in a pool without a dataset.
    pub tail: Option<Tail>,
    /// The log.
    pub log: Arc<LogMap>,
    /// Bytes received since the start.
    pub received_bytes: u64,
    /// When the link was lost, in the node's ms; `None` while it is up, and as long as it never was.
    pub down_since_ms: Option<u64>,
    /// Why it is down; empty while it is up.
    pub down_reason: String,
    /// The link is up, or was when it was last looked at.
    pub was_up: bool,
    /// The leader is asked to stand down for this node.
    pub handover: Option<Handover>,
    /// It follows nobody until it is told whom: a failover is about to choose the new leader.
    pub fenced: bool,
    /// It has come to a peer that was about to be promoted; `None` once that one leads.
    pub coming: Option<Coming>,
    /// Who else follows, as far as the leader has said.
    pub peers: control::Peers,
    /// What the acknowledgements of an rdma session rest on.
    pub basis: Option<Basis>,
    /// Says things on the control channel, while there is one.
    pub speaker: Option<Speaker>,
}

/// How a follower came to a peer that was about to be promoted.
#[derive(Debug)]
pub struct Coming {
    /// Which time it was, since the start.
    pub number: u64,
    /// Whom it followed before, and follows again if it is dismissed.
    pub from: LeaderAddress,
}

/// The writing side of a control channel: the link's thread answers the leader, the replayer says what became of a walk's steps.
#[derive(Clone, Debug)]
pub struct Speaker(Arc<Mutex<TcpStream>>);

impl Speaker {
    /// Says something, as a whole.
    ///
    /// # Errors
    /// When the connection is of no more use.
    pub fn say(&self, body: Body) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        control::encode(body, &mut bytes);
        self.0.lock().write_all(&bytes)
    }
}

impl Followership {
    /// The link is up.
    pub fn note_up(&mut self) {
        self.was_up = true;
        self.down_since_ms = None;
        self.down_reason.clear();
    }

    /// The link is down, whether it was up or an attempt has failed.
    fn note_down(&mut self, now_ms: u64, why: &str) {
        if std::mem::take(&mut self.was_up) {
            self.down_since_ms = Some(now_ms);
        }
        why.clone_into(&mut self.down_reason);
    }

    /// From here on the leader gets nothing out of this node: the link finds that there is nobody to follow.
    pub fn fence(&mut self, now_ms: u64) {
        const WHY: &str = "fenced for a failover";
        self.fenced = true;
        self.handover = None;
        // What is to be done about it, the link does anyway, as it does when there is nobody to follow.
        drop(self.machine.disconnected(now_ms, WHY));
        self.note_down(now_ms, WHY);
    }

    /// Whether the leader stands down for this node, which holds all that it must.
    pub fn is_granted(&self, now_ms: u64) -> bool {
        let durable = self.machine.progress().durable;
        self.handover.as_ref().is_some_and(|handover| handover.is_granted(now_ms, durable))
    }

    /// Whom to follow now.
    fn wanted(&self) -> Option<LeaderAddress> {
        (!self.fenced).then(|| self.leader.clone())
    }

    /// Reads what has arrived in the log and tells the state machine.
    pub fn look(&mut self) {
        let Some(tail) = &mut self.tail else { return };
        tail.poll(&self.log);
        self.machine.scanned(tail.end().lsn, tail.committed());
        if let Some(cell) = self.log.tail_cell() {
            self.machine.tail_cell(cell);
        }
    }
}

/// Runs until the node stops.
pub fn run(node: &Arc<Node>) {
    let mut link = Link {
        node: Arc::clone(node),
        leader: None,
        control: None,
        inbox: Vec::new(),
        published: Vec::new(),
        asked: None,
        farewell: None,
        window: None,
        trial: None,
        complaints: Throttle::default(),
    };
    while !node.stopping.load(Ordering::Acquire) {
        link.turn();
    }
    link.close_window();
}

struct Link {
    node: Arc<Node>,
    /// Whom the present session is with.
    leader: Option<LeaderAddress>,
    control: Option<(TcpStream, Speaker)>,
    inbox: Vec<u8>,
    /// The parts that have arrived of a published message.
    published: Vec<u8>,
    /// The session in which the leader was asked to stand down.
    asked: Option<u64>,
    /// That session, and its control channel, when this node does not follow any more.
    farewell: Option<(u64, Speaker)>,
    window: Option<ServedWindow>,
    /// The same window under rdma, while the session runs over another fabric.
    trial: Option<Trial>,
    /// Why there is no session, as far as the log has been told.
    complaints: Throttle,
}

impl Link {
    fn turn(&mut self) {
        let (wanted, fenced, is_new) = match &*self.node.followership() {
            // The same leader as before may be followed anew.
            Some(follows) => {
                (follows.wanted(), follows.fenced, follows.machine.link() == LinkState::Detached)
            }
            None => (None, false, false),
        };
        if wanted != self.leader || wanted.is_some() && is_new {
            self.farewell = match (self.asked.take(), self.control.take()) {
                (Some(session), Some((_, speaker))) if wanted.is_none() && !fenced => {
                    Some((session, speaker))
                }
                _ => None,
            };
            self.close_window();
            self.inbox.clear();
            self.complaints.forget();
            self.leader.clone_from(&wanted);
            if wanted.is_some() {
                let actions = self.with_machine(|machine, now_ms| machine.follow(now_ms));
                self.carry_out(actions);
            }
        }
        if wanted.is_none() {
            self.say_farewell();
            self.sleep(IDLE);
            return;
        }
        let actions = self.with_machine(Follower::tick);
        self.carry_out(actions);
        self.ask_for_handover();
        self.decline_handover();
        if self.control.is_none() {
            let rest = self.rest();
            self.sleep(rest);
            return;
        }
        match self.receive() {
            Ok(()) => self.look_after_windows(),
            Err(error) => self.lost(&format!("{error:#}")),
        }
    }

    /// Tells the leader that has stood down for this node that it has taken over, once it leads. If it cannot, the leader leads on.
    fn say_farewell(&mut self) {
        if self.node.has_been_promoted.swap(false, Ordering::AcqRel)
            && let Some((session, speaker)) = self.farewell.take()
            && let Err(error) = speaker.say(Body::Handover(handover_message(session, HandoverStep::Taken)))
        {
            tracing::info!(%error, "the former leader could not be told of the promotion");
        }
    }

    /// Asks the state machine; nothing happens if the node follows somebody else by now.
    fn with_machine(&self, ask: impl FnOnce(&mut Follower, u64) -> Vec<Action>) -> Vec<Action> {
        let now_ms = self.node.now().ms;
        match &mut *self.node.followership() {
            Some(follows) if !follows.fenced && Some(&follows.leader) == self.leader.as_ref() => {
                ask(&mut follows.machine, now_ms)
            }
            _ => Vec::new(),
        }
    }

    /// The engine, as long as this node follows whom this link is with. Who holds it to change that waits for this thread to close
    /// the window, so this thread must not wait for the engine any longer then.
    fn engine(&self) -> Result<MutexGuard<'_, Engine>> {
        loop {
            let engine = self.node.engine.try_lock_for(ENGINE_PATIENCE);
            // Whoever had it may have changed that.
            self.check_wanted()?;
            if let Some(engine) = engine {
                return Ok(engine);
            }
        }
    }

    /// Fails once this node is to follow somebody else than this link is with, or nobody.
    fn check_wanted(&self) -> Result<()> {
        let guard = self.node.followership();
        let Some(follows) = guard.as_ref() else { bail!("this node does not follow any more") };
        let wanted = follows.wanted();
        if wanted.is_none() || wanted != self.leader || follows.machine.link() == LinkState::Detached {
            bail!("this node does not follow any more");
        }
        Ok(())
    }

    fn lost(&mut self, why: &str) {
        let actions = self.with_machine(|machine, now_ms| machine.disconnected(now_ms, why));
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            if let Err(error) = self.act(action) {
                self.lost(&format!("{error:#}"));
                return;
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Connect => {
                let leader = self.leader.clone().context("nobody to follow")?;
                // It would only fill its log, and then the leader's: nobody gets room before this image has followed.
                ensure!(
                    !self.node.image_is_stuck.load(Ordering::Relaxed),
                    "this node's image cannot grow: no space left where its pool lies"
                );
                let mut stream = connect(&leader, &self.node.config())?;
                request(&mut stream, &[b"FARKEEP.REPLICATE"])?;
                // It is read when there is something to read. The limit is for a stream that says so and has nothing.
                stream.set_read_timeout(Some(TICK))?;
                let speaker = Speaker(Arc::new(Mutex::new(stream.try_clone()?)));
                if let Some(follows) = &mut *self.node.followership() {
                    follows.speaker = Some(speaker.clone());
                }
                self.control = Some((stream, speaker));
                self.inbox.clear();
                self.published.clear();
                self.offer_rdma();
                self.take_stock()?;
                let actions = self.with_machine(Follower::connected);
                self.carry_out(actions);
            }
            Action::Send(Body::Ready(mut ready)) => {
                if let Some(ServedWindow::Rdma(served)) = &self.window {
                    ready.rdma = Some(served.window().clone());
                }
                self.send(Body::Ready(ready))?;
            }
            Action::Send(body) => self.send(body)?,
            Action::Disconnect => {
                self.control = None;
                self.inbox.clear();
            }
            Action::CloseWindow => self.close_window(),
            Action::OpenWindow { session, fabric } => self.open_window(session, fabric)?,
            Action::TryRdma { session } => {
                // The session goes on as it is; the leader finds that there was no answer.
                if let Err(error) = self.try_rdma(session) {
                    tracing::info!(leader = %self.name(), error = format!("{error:#}"), "cannot try rdma");
                }
            }
            Action::JoinFailed(error) => {
                if matches!(error, JoinError::RefusedDataset(_)) && self.engine()?.start_over(&self.node)? {
                    let actions = self.with_machine(|machine, now_ms| machine.follow(now_ms));
                    self.carry_out(actions);
                    return Ok(());
                }
                let why = error.to_string();
                if self.complaints.is_news(self.node.now().ms, &why) {
                    tracing::warn!(leader = %self.name(), %error, "the leader does not let this node join");
                }
                self.note_down(&why);
            }
            Action::SessionLost(why) => {
                if self.complaints.is_news(self.node.now().ms, &why) {
                    tracing::warn!(leader = %self.name(), why, "lost the leader");
                }
                self.note_down(&why);
            }
            change => {
                if let Action::BeginSync { begin, .. } = &change {
                    self.reserve(begin.image_len)?;
                }
                self.engine()?.change_follower_log(&self.node, change)?;
            }
        }
        Ok(())
    }

    /// Allocates the image that a delta sync is about to fill and brings it into memory, beside whatever else this machine does. That
    /// may take long, so the leader is told now and then that this node is alive. If there is not enough space, nothing is, and the
    /// sync finds that.
    fn reserve(&mut self, image_len: u64) -> Result<()> {
        let free = statvfs(&self.node.config().pool).map_or(0, |fs| fs.f_bavail * fs.f_frsize);
        if image_len.saturating_sub(self.node.image.allocated()) > free {
            return Ok(());
        }
        let mut spare = Spare::default();
        let mut told = Instant::now();
        let steps = (0..image_len).step_by(RESERVED_AT_ONCE as usize);
        for len in steps.map(|at| image_len.min(at + RESERVED_AT_ONCE)) {
            if let Err(error) = spare.run(|| self.node.image.reserve(len)) {
                tracing::debug!(%error, len, "the image could not be allocated ahead of a sync");
                return Ok(());
            }
            spare.covered(RESERVED_AT_ONCE);
            if told.elapsed() >= ALIVE_INTERVAL {
                ensure!(!self.node.stopping.load(Ordering::Acquire), "this node stops");
                self.check_wanted()?;
                for action in self.with_machine(Follower::busy) {
                    self.act(action)?;
                }
                told = Instant::now();
            }
        }
        Ok(())
    }

    fn send(&mut self, body: Body) -> Result<()> {
        let (_, speaker) = self.control.as_ref().context("no control connection")?;
        Ok(speaker.say(body)?)
    }

    /// Looks at the log of the session that is over. Its leader may have been told that records are durable here which nobody has looked
    /// at since: the next hello must name them, or the log is cut off before them. And what has been looked at need not be
    /// persistent: one-sided stores are seen before they are flushed.
    fn take_stock(&self) -> Result<()> {
        let found = self.node.followership().as_mut().map(|follows| {
            follows.look();
            (Arc::clone(&follows.log), follows.machine.progress())
        });
        let Some((log, progress)) = found else { return Ok(()) };
        if progress.durable > progress.checkpoint {
            log.persist_stream(progress.checkpoint, progress.durable)
                .context("the log cannot be made persistent")?;
        }
        Ok(())
    }

    /// Puts rdma into the next hello, or why it cannot be used.
    fn offer_rdma(&mut self) {
        if !rdma::is_wanted(&self.node.config()) {
            return;
        }
        let Some(log) = self.node.followership().as_ref().map(|follows| Arc::clone(&follows.log)) else {
            return;
        };
        let offer = self.node.rdma.offer(&log);
        if !offer.unusable.is_empty()
            && self.node.rdma.device().is_ok()
            && self.complaints.is_news(self.node.now().ms, &offer.unusable)
        {
            tracing::warn!(why = %offer.unusable, "the leader cannot reach this node by RDMA");
        }
        self.with_machine(|machine, _| {
            machine.offer_first(offer);
            Vec::new()
        });
    }

    fn name(&self) -> String {
        self.leader.as_ref().map_or_else(String::new, LeaderAddress::to_string)
    }

    fn note_down(&self, why: &str) {
        let now_ms = self.node.now().ms;
        if let Some(follows) = &mut *self.node.followership() {
            follows.note_down(now_ms, why);
        }
    }

    /// How long nothing needs to be done unless this thread is woken.
    fn rest(&self) -> Duration {
        let now_ms = self.node.now().ms;
        self.node.link.set_resting(true);
        let rest = match &*self.node.followership() {
            Some(Followership { handover: Some(handover), .. }) if handover.is_pressing(now_ms) => BRISK_TICK,
            Some(follows) => Duration::from_millis(follows.machine.rest_ms(now_ms).clamp(1, REST_MS)),
            None => BRISK_TICK,
        };
        let rest = if self.trial.is_some() { rest.min(TICK) } else { rest };
        if rest <= TICK {
            self.node.link.set_resting(false);
        }
        rest
    }

    fn sleep(&self, timeout: Duration) {
        if let Err(error) = self.node.link.wait(timeout) {
            tracing::error!(%error, "the link's thread cannot sleep");
            std::thread::sleep(timeout);
        }
    }

    fn receive(&mut self) -> Result<()> {
        let rest = self.rest();
        let (stream, _) = self.control.as_mut().context("no control connection")?;
        if !self.node.link.wait_for(stream.as_fd(), rest)? {
            return Ok(());
        }
        let mut buffer = [0u8; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the leader closed the connection"),
            Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading from the leader failed"),
        }
        while let Some((envelope, consumed)) = control::decode(&self.inbox)? {
            self.inbox.drain(..consumed);
            match envelope.body {
                Some(Body::Published(part)) => {
                    self.published(&part)?;
                    continue;
                }
                Some(Body::Handover(step)) => {
                    self.handover(&step);
                    continue;
                }
                Some(Body::Peers(peers)) => {
                    peers::save(&self.node.config().pool, self.leader.as_ref(), &peers);
                    if let Some(follows) = &mut *self.node.followership() {
                        follows.peers = peers;
                    }
                    continue;
                }
                _ => {}
            }
            let is_step = matches!(envelope.body, Some(Body::Chunk(_)));
            // Over tcp there may be bytes that are not persistent yet, and what is acknowledged has been looked at.
            if matches!(envelope.body, Some(Body::Heartbeat(_)))
                && matches!(self.window, Some(ServedWindow::Shm { .. } | ServedWindow::Rdma(_)))
                && let Some(follows) = &mut *self.node.followership()
            {
                follows.look();
            }
            let actions = self.with_machine(|machine, now_ms| machine.message(now_ms, envelope.body));
            self.carry_out(actions);
            if is_step {
                self.node.replay.raise();
            }
            if self.control.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Tells the leader that this node does not take over, if the engine has decided so.
    fn decline_handover(&mut self) {
        let session = match &mut *self.node.followership() {
            Some(follows) if follows.handover.as_ref().is_some_and(|handover| handover.declined) => {
                follows.handover = None;
                follows.machine.standing().session
            }
            _ => return,
        };
        if let Err(error) = self.send(Body::Handover(handover_message(session, HandoverStep::Refuse))) {
            self.lost(&format!("{error:#}"));
        }
    }

    /// Asks the leader to stand down, if the engine wants that and it has not been asked yet.
    fn ask_for_handover(&mut self) {
        let (session, request, offered) = match &mut *self.node.followership() {
            Some(Followership { handover: Some(handover), machine, .. }) if !handover.sent => {
                handover.sent = true;
                (machine.standing().session, handover.request(), handover.offered)
            }
            _ => return,
        };
        self.asked = Some(session);
        let ask = control::Handover { request, offered, ..handover_message(session, HandoverStep::Ask) };
        if let Err(error) = self.act(Action::Send(Body::Handover(ask))) {
            self.lost(&format!("{error:#}"));
        }
    }

    /// The leader says something about its succession.
    fn handover(&mut self, said: &control::Handover) {
        let now_ms = self.node.now().ms;
        let mut guard = self.node.followership();
        let Some(follows) = &mut *guard else { return };
        let session = follows.machine.standing().session;
        if session != said.session || follows.fenced {
            return;
        }
        match (said.step(), &mut follows.handover) {
            // Its answer is on the way already.
            (HandoverStep::Offer, Some(handover)) if handover.is_pressing(now_ms) => {}
            (HandoverStep::Offer, handover) => {
                *handover = Some(Handover::new(now_ms, true));
                // A quiet follower's cron is slow.
                self.node.wake_workers();
            }
            (HandoverStep::Grant, Some(handover)) if handover.request() == said.request => {
                handover.end = Some(Lsn::new(said.end_lsn));
                if handover.offered {
                    self.with_engine("take-over", |engine, node| engine.take_over(node));
                }
            }
            (HandoverStep::Refuse, handover) if handover.as_ref().is_some_and(|h| h.offered) => {
                *handover = None;
            }
            (HandoverStep::Refuse, Some(handover)) => handover.refused = true,
            (HandoverStep::Moved, _) => {
                let leader = LeaderAddress { host: said.address.clone(), port: said.port as u16 };
                tracing::info!(%leader, "the leader says that another node has taken over");
                self.with_engine("moved", move |engine, node| engine.move_to(node, leader));
            }
            _ => {}
        }
    }

    /// Lets a thread of its own change the role: who does that waits for this one to close the window.
    fn with_engine(
        &self,
        name: &str,
        change: impl FnOnce(&mut Engine, &Node) -> Result<()> + Send + 'static,
    ) {
        let node = Arc::clone(&self.node);
        let run = move || {
            if let Err(error) = change(&mut node.engine.lock(), &node) {
                tracing::warn!(error = format!("{error:#}"), "the role stays as it was");
            }
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            tracing::error!(%error, "no thread for a change of the role");
        }
    }

    /// A client of the leader has published a message. The engine is taken for it, so that what is published has one order with
    /// what clients here do.
    fn published(&mut self, part: &Published) -> Result<()> {
        self.published.extend_from_slice(&part.payload);
        if part.more {
            if self.published.len() as u64 > self.node.config().proto_max_bulk_len {
                bail!("the leader passes on a message longer than proto-max-bulk-len");
            }
            return Ok(());
        }
        let payload = std::mem::take(&mut self.published);
        let mut engine = self.engine()?;
        let message = engine.message(part.sharded, &part.channel, &payload, Lsn::ZERO);
        engine.publish(&message, None);
        engine.pubsub.wake_others(&self.node, None);
        Ok(())
    }
}

fn handover_message(session: u64, step: HandoverStep) -> control::Handover {
    control::Handover { session, step: step.into(), ..control::Handover::default() }
}
