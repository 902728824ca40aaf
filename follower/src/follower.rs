//! The follower's state machine.

use farkeep_core::log::Promise;
use farkeep_core::lsn::Lsn;
use farkeep_fabric::{FabricKind, Identity};
use farkeep_proto::control::{
    BeginSync, Body, Chunk, ChunkAnswer, ChunkOutcome, ChunkStep, FabricOffer, Goodbye, Hello, Ready,
    RefuseReason, Reign, Status, Welcome,
};
use farkeep_proto::window::TailCell;

use crate::apply::{Bookkeeping, Progress};
use crate::join::{JoinError, Past, examine, hello};
use crate::sync_target::{SyncTarget, TargetProgress};

/// What an operator, or the build, chooses.
#[derive(Clone, Debug)]
pub struct Config {
    /// The first pause after a failed attempt; it doubles with each.
    pub retry_min_ms: u64,
    /// The longest pause between two attempts.
    pub retry_max_ms: u64,
    /// How long connecting and joining may take, and how long a leader may be silent before its first heartbeat has
    /// told otherwise.
    pub join_timeout_ms: u64,
    /// The least time between two statuses that are not answers to a heartbeat.
    pub status_interval_ms: u64,
    /// The port at which this node serves clients.
    pub listening_port: u16,
    /// The address to be announced under; empty: the one it connects from.
    pub announce_address: String,
    /// Whatever this node's pool holds may be replaced by the leader's dataset.
    pub replace_dataset: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retry_min_ms: 50,
            retry_max_ms: 2000,
            join_timeout_ms: 5000,
            status_interval_ms: 20,
            listening_port: 0,
            announce_address: String::new(),
            replace_dataset: false,
        }
    }
}

/// What recovery found in the pool.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// The reigns that the log has seen, oldest first.
    pub history: Vec<Reign>,
    /// What the node has promised.
    pub promised: Promise,
    /// How far the node is.
    pub progress: Progress,
    /// Whether the image is in the middle of a sync.
    pub mid_sync: bool,
    /// How many bytes of the image, from its beginning on, that sync has settled.
    pub sync_cursor: u64,
}

/// What is to be done, in the order given. An action that persists something has done so before the next one begins;
/// if it fails, the rest must not happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Open a control channel to the leader; report [`Follower::connected`] or [`Follower::disconnected`].
    Connect,
    /// Send a message on the control channel.
    Send(Body),
    /// Close the control channel, if one is open, and forget what it still brings.
    Disconnect,
    /// Make it impossible that the window takes, or answers for, anything more of the last session: deregister,
    /// disconnect, stop the agent. Needed before anything that comes behind it.
    CloseWindow,
    /// Persist that this node takes part in no epoch below this one.
    Promise(Promise),
    /// Make the empty pool this dataset's, with a log of this geometry.
    Adopt {
        /// The dataset's id.
        dataset_id: [u8; 16],
        /// Length of the ring in bytes.
        ring_len: u64,
        /// Length of a segment in bytes.
        segment_len: u64,
    },
    /// Cut the log off at this transaction end, then take over this history (`core::recover::join`), open the pool as a
    /// follower's again and say what it holds with [`Follower::reopened`]. No record of the history's last reign has
    /// been acknowledged before.
    Rejoin {
        /// Where the log must end.
        end: Lsn,
        /// The leader's reigns, oldest first.
        history: Vec<Reign>,
    },
    /// Begin a delta sync (`core::recover::begin_sync`): log and image of this pool, which holds the dataset, are given up;
    /// the log starts anew at `at`. Open the pool as a follower's again and say so with [`Follower::began_sync`].
    BeginSync {
        /// Where the log begins.
        at: Lsn,
        /// What its first record continues, and how long the image is.
        begin: BeginSync,
        /// The leader's reigns, oldest first.
        history: Vec<Reign>,
    },
    /// Open the window for a session over this fabric; on tcp: open the data channel and start its agent.
    OpenWindow {
        /// The session's number.
        session: u64,
        /// The fabric.
        fabric: FabricKind,
    },
    /// Open the window to rdma as well, beside the tcp that the session runs over, and say so with another [`Ready`]. If it
    /// cannot be opened, nothing is to be done; if the leader takes it, [`Follower::switched`] is.
    TryRdma {
        /// The session's number.
        session: u64,
    },
    /// Log this: the attempt to join has failed, and will be repeated.
    JoinFailed(JoinError),
    /// Log this: the session is over, and will be re-established.
    SessionLost(String),
}

/// How the link to the leader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// No leader is followed: fenced, promoted or never told whom to follow.
    Detached,
    /// Waiting to try (again).
    Waiting,
    /// The control channel is being opened.
    Connecting,
    /// `Hello` is said.
    Joining,
    /// In a session.
    Following,
}

/// What `INFO` says about the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How the link stands.
    pub link: Link,
    /// The session's number; 0 without one.
    pub session: u64,
    /// The fabric in use.
    pub fabric: Option<FabricKind>,
    /// Why no better one is.
    pub fabric_reason: String,
    /// When the leader was last heard, in milliseconds of the caller's clock.
    pub last_heard_ms: u64,
    /// Why the last attempt failed; `None` after one that did not.
    pub last_error: Option<JoinError>,
}

#[derive(Debug)]
enum State {
    Detached,
    Waiting { until_ms: u64 },
    Connecting { since_ms: u64 },
    Joining { since_ms: u64 },
    Following(Session),
}

#[derive(Debug)]
struct Session {
    number: u64,
    fabric: FabricKind,
    fabric_reason: String,
    deadline_ms: u64,
    last_heard_ms: u64,
    last_status_ms: u64,
    last_status: Progress,
}

/// A node that follows.
#[derive(Debug)]
pub struct Follower {
    config: Config,
    identity: Identity,
    fabrics: Vec<FabricOffer>,
    pub(crate) past: Past,
    pub(crate) mid_sync: bool,
    /// How much of the image a sync has settled, as far as no walk is under way that knows better.
    sync_cursor: u64,
    walk: Option<SyncTarget>,
    /// The sync of this session began with an empty image, so that every chunk will come.
    blank: bool,
    book: Bookkeeping,
    state: State,
    failed_attempts: u32,
    last_error: Option<JoinError>,
}

impl Follower {
    /// A node with these holdings that follows nobody yet. `fabrics` are offered best first.
    pub fn new(config: Config, identity: Identity, fabrics: Vec<FabricOffer>, holdings: Holdings) -> Self {
        Self {
            config,
            identity,
            fabrics,
            past: Past { history: holdings.history, promised: holdings.promised },
            mid_sync: holdings.mid_sync,
            sync_cursor: holdings.sync_cursor,
            walk: None,
            blank: false,
            book: Bookkeeping::new(holdings.progress),
            state: State::Detached,
            failed_attempts: 0,
            last_error: None,
        }
    }

    /// How far this node is.
    pub fn progress(&self) -> Progress {
        self.book.progress()
    }

    /// Up to where the replayer may go. In the middle of a walk over the image not beyond the step that is due next.
    pub fn replay_target(&self) -> Lsn {
        let committed = self.book.progress().committed;
        let horizon = self.walk.as_ref().and_then(SyncTarget::horizon);
        horizon.map_or(committed, |horizon| horizon.min(committed)).max(self.book.progress().applied)
    }

    /// The reigns that the log has seen, oldest first.
    pub fn history(&self) -> &[Reign] {
        &self.past.history
    }

    /// What this node has promised.
    pub fn promised(&self) -> Promise {
        self.past.promised
    }

    /// What this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How the link to the leader stands.
    pub fn link(&self) -> Link {
        match self.state {
            State::Detached => Link::Detached,
            State::Waiting { .. } => Link::Waiting,
            State::Connecting { .. } => Link::Connecting,
            State::Joining { .. } => Link::Joining,
            State::Following(_) => Link::Following,
        }
    }

    /// What `INFO` says about the leader.
    pub fn standing(&self) -> Standing {
        let session = match &self.state {
            State::Following(session) => Some(session),
            _ => None,
        };
        Standing {
            link: self.link(),
            session: session.map_or(0, |session| session.number),
            fabric: session.map(|session| session.fabric),
            fabric_reason: session.map_or_else(String::new, |session| session.fabric_reason.clone()),
            last_heard_ms: session.map_or(0, |session| session.last_heard_ms),
            last_error: self.last_error.clone(),
        }
    }

    /// What is best to offer has changed (a device came or went). Counts from the next attempt to join.
    pub fn offer_first(&mut self, offer: FabricOffer) {
        self.fabrics.retain(|other| other.name != offer.name);
        self.fabrics.insert(0, offer);
    }

    /// Follow a leader, or another one than before; the owner knows its address. Any session is over.
    pub fn follow(&mut self, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        self.end_session();
        if !matches!(self.state, State::Detached | State::Waiting { .. }) {
            actions.extend([Action::CloseWindow, Action::Disconnect]);
        }
        self.failed_attempts = 0;
        self.state = State::Connecting { since_ms: now_ms };
        actions.push(Action::Connect);
        actions
    }

    pub(crate) fn detach(&mut self) {
        self.end_session();
        self.state = State::Detached;
    }

    fn end_session(&mut self) {
        self.end_walk();
        self.blank = false;
    }

    /// The walk over the image does not go on; another one may, from the same place.
    fn end_walk(&mut self) {
        if let Some(walk) = self.walk.take() {
            self.sync_cursor = if self.mid_sync { walk.cursor() } else { 0 };
        }
    }

    pub(crate) fn is_detached(&self) -> bool {
        matches!(self.state, State::Detached)
    }

    /// Takes over a changed configuration. What the leader is told of it, it is told at the next attempt to join.
    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// The control channel is open.
    pub fn connected(&mut self, now_ms: u64) -> Vec<Action> {
        if !matches!(self.state, State::Connecting { .. }) {
            return Vec::new();
        }
        self.state = State::Joining { since_ms: now_ms };
        let hello = Hello {
            listening_port: u32::from(self.config.listening_port),
            announce_address: self.config.announce_address.clone(),
            replace_dataset: self.config.replace_dataset,
            mid_sync: self.mid_sync,
            sync_cursor: self.sync_cursor,
            ..hello(&self.identity, &self.past, self.progress(), self.fabrics.clone())
        };
        vec![Action::Send(Body::Hello(hello))]
    }

    /// The control channel, the data channel or the attempt to open one has ended.
    pub fn disconnected(&mut self, now_ms: u64, why: &str) -> Vec<Action> {
        match self.state {
            State::Detached | State::Waiting { .. } => Vec::new(),
            State::Connecting { .. } | State::Joining { .. } | State::Following(_) => {
                let mut actions = self.retry(now_ms);
                actions.push(Action::SessionLost(why.to_owned()));
                actions
            }
        }
    }

    /// Gives the session up and waits before the next attempt.
    fn retry(&mut self, now_ms: u64) -> Vec<Action> {
        self.end_session();
        let doublings = self.failed_attempts.min(16);
        let pause_ms = (self.config.retry_min_ms << doublings).min(self.config.retry_max_ms);
        self.failed_attempts = self.failed_attempts.saturating_add(1);
        self.state = State::Waiting { until_ms: now_ms + pause_ms };
        vec![Action::CloseWindow, Action::Disconnect]
    }

    fn join_failed(&mut self, now_ms: u64, error: JoinError) -> Vec<Action> {
        let mut actions = self.retry(now_ms);
        actions.push(Action::JoinFailed(error.clone()));
        self.last_error = Some(error);
        actions
    }

    /// A message came on the control channel. `None` stands for a kind that this build does not know.
    ///
    /// What one-sided writes had brought by then must have been [`scanned`](Follower::scanned) before a heartbeat is handed over. The leader
    /// counts what they have made persistent here without asking anybody, so if that does not validate, the session is over:
    /// the next one begins where the log ends and fills it.
    pub fn message(&mut self, now_ms: u64, body: Option<Body>) -> Vec<Action> {
        match (&mut self.state, body) {
            (State::Joining { .. }, Some(Body::Welcome(welcome))) => self.welcomed(now_ms, &welcome),
            (State::Joining { .. }, Some(Body::Refuse(refuse))) => {
                let error = if refuse.reason() == RefuseReason::ForeignDataset {
                    JoinError::RefusedDataset(refuse.text)
                } else {
                    JoinError::Refused(refuse.text)
                };
                self.join_failed(now_ms, error)
            }
            (State::Following(session), Some(Body::Heartbeat(heartbeat)))
                if heartbeat.session == session.number =>
            {
                self.heard(now_ms);
                self.book.told(Lsn::new(heartbeat.committed_lsn));
                let (durable, flushed) = (self.progress().durable, heartbeat.flushed_lsn);
                if Lsn::new(flushed) > durable {
                    let why = format!(
                        "the log validates up to durable_lsn {durable} only, and the leader has flushed it up to {flushed}"
                    );
                    return self.disconnected(now_ms, &why);
                }
                vec![self.status(now_ms)]
            }
            (State::Following(session), Some(Body::TryRdma(request)))
                if request.session == session.number =>
            {
                vec![Action::TryRdma { session: request.session }]
            }
            (State::Following(session), Some(Body::Chunk(chunk))) if chunk.session == session.number => {
                self.heard(now_ms);
                self.chunk_step(now_ms, chunk)
            }
            (State::Following(session), Some(Body::Goodbye(goodbye)))
                if goodbye.session == session.number =>
            {
                let why = format!("the leader ends the session: {}", goodbye.reason);
                self.disconnected(now_ms, &why)
            }
            // Messages of an earlier session, or of a kind that is not for a follower.
            _ => Vec::new(),
        }
    }

    fn welcomed(&mut self, now_ms: u64, welcome: &Welcome) -> Vec<Action> {
        let accepted = match examine(&self.identity, &self.past, self.progress(), welcome) {
            Ok(accepted) => accepted,
            Err(error) => {
                let goodbye = Goodbye { session: welcome.session, reason: error.to_string() };
                let mut actions = vec![Action::Send(Body::Goodbye(goodbye))];
                actions.extend(self.join_failed(now_ms, error));
                return actions;
            }
        };
        // The order matters. No leader of an earlier epoch can be answered from here on; the history is persistent
        // before the first record of the new reign can arrive, let alone be acknowledged. What this machine believes
        // of the log changes only with `reopened`: if the owner fails half-way, the next hello says what is there.
        let mut actions = Vec::new();
        if accepted.promise != self.past.promised {
            self.past.promised = accepted.promise;
            actions.push(Action::Promise(accepted.promise));
        }
        actions.push(Action::CloseWindow);
        // The leader goes by the same: no dataset was named in the hello.
        self.blank = self.identity.dataset_id.is_none() && welcome.begin_sync.is_some();
        if self.identity.dataset_id.is_none() {
            actions.push(Action::Adopt {
                dataset_id: accepted.dataset_id,
                ring_len: welcome.ring_len,
                segment_len: welcome.segment_len,
            });
        }
        let resume = accepted.resume;
        let progress = if let Some(begin) = welcome.begin_sync {
            actions.push(Action::BeginSync { at: resume, begin, history: welcome.history.clone() });
            Progress { checkpoint: resume, applied: resume, committed: resume, durable: resume }
        } else {
            if resume < self.progress().durable || self.past.history != welcome.history {
                actions.push(Action::Rejoin { end: resume, history: welcome.history.clone() });
            }
            // What is committed behind the resume point is not what this log holds there.
            self.book.told(Lsn::new(welcome.committed_lsn).min(resume));
            Progress { durable: resume, ..self.progress() }
        };
        actions.push(Action::OpenWindow { session: welcome.session, fabric: accepted.fabric });
        let ready = Ready { session: welcome.session, progress: progress.message(), rdma: None };
        actions.push(Action::Send(Body::Ready(ready)));
        self.state = State::Following(Session {
            number: welcome.session,
            fabric: accepted.fabric,
            fabric_reason: welcome.fabric_reason.clone(),
            deadline_ms: u64::from(welcome.deadline_ms),
            last_heard_ms: now_ms,
            last_status_ms: now_ms,
            last_status: progress,
        });
        self.last_error = None;
        actions
    }

    /// [`Action::Adopt`] has been carried out: the pool holds this dataset.
    pub fn adopted(&mut self, dataset_id: [u8; 16], ring_len: u64, segment_len: u64) {
        self.identity.dataset_id = Some(dataset_id);
        (self.identity.ring_len, self.identity.segment_len) = (ring_len, segment_len);
    }

    /// [`Action::Rejoin`] has been carried out: the pool holds this history and is this far. What was told about records
    /// that have been cut off is forgotten; what is known to be committed is not. The replayer should be taken up to
    /// [`Follower::replay_target`] before the image is read again: it may have started over from the checkpoint.
    pub fn reopened(&mut self, history: Vec<Reign>, progress: Progress) {
        self.past.history = history;
        self.book.reopened(progress);
    }

    /// [`Action::BeginSync`] has been carried out: the pool is in the middle of a sync, with this history and a log that
    /// begins at `at`.
    pub fn began_sync(&mut self, history: Vec<Reign>, at: Lsn) {
        self.past.history = history;
        self.book = Bookkeeping::new(Progress { checkpoint: at, applied: at, committed: at, durable: at });
        (self.mid_sync, self.sync_cursor, self.walk) = (true, 0, None);
    }

    /// Whether the image is in the middle of a sync.
    pub fn is_mid_sync(&self) -> bool {
        self.mid_sync
    }

    /// How much of the image a sync has settled: what the next checkpoint may note. `None` outside of a sync.
    pub fn sync_cursor(&self) -> Option<u64> {
        self.mid_sync.then(|| self.walk.as_ref().map_or(self.sync_cursor, SyncTarget::cursor))
    }

    /// In a sync that sends every chunk: where the part of the image ends that has been sent. What the log says of the rest need not be
    /// stored (`core::replay::Replayer::store_up_to`). `None` otherwise.
    pub fn frontier(&self) -> Option<u64> {
        (self.mid_sync && self.blank).then(|| self.walk.as_ref().map_or(0, SyncTarget::walked))
    }

    /// How the walk over the image goes that is under way.
    pub fn walk(&self) -> Option<TargetProgress> {
        self.walk.as_ref().map(SyncTarget::progress)
    }

    fn chunk_step(&mut self, now_ms: u64, chunk: Chunk) -> Vec<Action> {
        if chunk.step() == ChunkStep::Begin {
            self.end_walk();
            self.walk = Some(SyncTarget::new(chunk, self.sync_cursor));
            return Vec::new();
        }
        let Some(walk) = &mut self.walk else { return Vec::new() };
        let at = Lsn::new(chunk.at_lsn);
        match walk.push(chunk) {
            Ok(()) => {
                // The leader has it in its image, so it is committed.
                self.book.told(at);
                Vec::new()
            }
            Err(why) => self.disconnected(now_ms, why),
        }
    }

    /// The step of a walk over the image that is to be taken now, where the image is at `applied` and nothing is stored into it
    /// meanwhile: see [`ChunkStep`]. Take it, and say what became of it with [`Follower::chunk_taken`].
    pub fn chunk_due(&mut self, applied: Lsn) -> Option<Chunk> {
        self.walk.as_mut()?.due(applied)
    }

    /// The step that was due has been taken by an image at `applied`, with this outcome and this description of a chunk that differs. For
    /// `Done` the owner has ended the sync in the pool, if there was one. Panics if the image was not where the step is for.
    pub fn chunk_taken(
        &mut self,
        chunk: &Chunk,
        applied: Lsn,
        outcome: ChunkOutcome,
        described: Vec<u32>,
    ) -> Vec<Action> {
        let due = self.walk.as_mut().filter(|walk| walk.is_next(chunk));
        let is_due = due.is_some();
        if let Some(walk) = due {
            walk.taken(applied, outcome);
        }
        if outcome == ChunkOutcome::Done {
            (self.walk, self.mid_sync, self.sync_cursor) = (None, false, 0);
        }
        // The session may have ended meanwhile.
        let State::Following(session) = &self.state else { return Vec::new() };
        if !is_due || session.number != chunk.session {
            return Vec::new();
        }
        let answer = ChunkAnswer {
            session: chunk.session,
            outcome: outcome.into(),
            offset: chunk.offset,
            applied_lsn: applied.get(),
            described,
        };
        vec![Action::Send(Body::ChunkAnswer(answer))]
    }

    /// The session goes on over this fabric.
    pub fn switched(&mut self, fabric: FabricKind) {
        if let State::Following(session) = &mut self.state {
            session.fabric = fabric;
            session.fabric_reason.clear();
        }
    }

    fn status(&mut self, now_ms: u64) -> Action {
        let progress = self.book.progress();
        let State::Following(session) = &mut self.state else {
            unreachable!("a status belongs to a session")
        };
        session.last_status_ms = now_ms;
        session.last_status = progress;
        Action::Send(Body::Status(Status { session: session.number, progress: progress.message() }))
    }

    /// What the owner carries out takes long, and nobody listens to the leader meanwhile: it counts as heard, and is told that this node is
    /// alive. Nothing outside of a session.
    pub fn busy(&mut self, now_ms: u64) -> Vec<Action> {
        let State::Following(session) = &mut self.state else { return Vec::new() };
        session.last_heard_ms = now_ms;
        vec![self.status(now_ms)]
    }

    /// The log validates up to `durable`, the end of a transaction, and its records say that `committed` is committed.
    /// Panics if `durable` goes back.
    pub fn scanned(&mut self, durable: Lsn, committed: Lsn) {
        self.book.scanned(durable, committed);
    }

    /// The tail cell says something. Only a cell of the session's own epoch counts.
    pub fn tail_cell(&mut self, cell: TailCell) {
        if let State::Following(_) = self.state {
            self.book.tail_cell(cell, self.past.highest());
        }
    }

    /// The leader has been heard on the data channel.
    pub fn heard(&mut self, now_ms: u64) {
        if let State::Following(session) = &mut self.state {
            session.last_heard_ms = now_ms;
            // Whatever a session begins with has been done.
            self.failed_attempts = 0;
        }
    }

    /// The replayer has stored everything up to `applied` and persisted everything up to `checkpoint`.
    pub fn replayed(&mut self, applied: Lsn, checkpoint: Lsn) {
        self.book.replayed(applied, checkpoint);
    }

    /// How long [`Follower::tick`] has nothing to do, unless something else happens before.
    pub fn rest_ms(&self, now_ms: u64) -> u64 {
        let left = |since_ms: u64, limit_ms: u64| (since_ms + limit_ms).saturating_sub(now_ms);
        match &self.state {
            State::Detached => u64::MAX,
            State::Waiting { until_ms } => left(*until_ms, 0),
            State::Connecting { since_ms } | State::Joining { since_ms } => {
                left(*since_ms, self.config.join_timeout_ms)
            }
            State::Following(session) => {
                let silence = left(session.last_heard_ms, session.deadline_ms);
                if session.last_status == self.book.progress() {
                    return silence;
                }
                silence.min(left(session.last_status_ms, self.config.status_interval_ms))
            }
        }
    }

    /// Time has passed. To be called at the end of [`Follower::rest_ms`] at the latest, which is soon once something has moved.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Action> {
        let waited = |since_ms: u64| now_ms.saturating_sub(since_ms) >= self.config.join_timeout_ms;
        match &self.state {
            State::Detached => Vec::new(),
            State::Waiting { until_ms } if now_ms < *until_ms => Vec::new(),
            State::Waiting { .. } => {
                self.state = State::Connecting { since_ms: now_ms };
                vec![Action::Connect]
            }
            State::Connecting { since_ms } if waited(*since_ms) => {
                self.disconnected(now_ms, "connecting to the leader took too long")
            }
            State::Joining { since_ms } if waited(*since_ms) => {
                self.disconnected(now_ms, "the leader did not answer the hello")
            }
            State::Connecting { .. } | State::Joining { .. } => Vec::new(),
            State::Following(session) => {
                let silent_ms = now_ms.saturating_sub(session.last_heard_ms);
                if silent_ms >= session.deadline_ms {
                    return self
                        .disconnected(now_ms, &format!("the leader has been silent for {silent_ms} ms"));
                }
                let due = now_ms.saturating_sub(session.last_status_ms) >= self.config.status_interval_ms;
                if due && session.last_status != self.book.progress() {
                    return vec![self.status(now_ms)];
                }
                Vec::new()
            }
        }
    }
}
