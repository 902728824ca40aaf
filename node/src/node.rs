//! What the threads of one process share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use farkeep_core::lsn::Lsn;
use farkeep_core::pmem::image::Image;
use farkeep_core::replay::Replayer;
use farkeep_keystore::command::Command;
use farkeep_keystore::command::table::flag;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use crate::alarm::Alarm;
use crate::clients::{Client, ClientKind, Clients};
use crate::config::Config;
use crate::engine::{Engine, Opened};
use crate::events::Events;
use crate::link::Followership;
use crate::rdma::Rdma;
use crate::stats::Stats;
use crate::worker::Now;
use crate::worker::connection::{Session, Stream};
use crate::worker::poll::Waker;

/// What one worker asks of another.
#[derive(Debug)]
pub enum Message {
    /// A connection for this worker to own.
    Accepted {
        /// The socket.
        stream: Stream,
        /// The peer's address.
        peer: String,
        /// Our own address.
        local: String,
    },
    /// CLIENT KILL of one of its connections.
    Kill(u64),
}

/// The address of a worker for the others.
#[derive(Debug)]
pub struct WorkerHandle {
    /// Wakes it.
    pub waker: Waker,
    /// There is something to be said on control channels of followers that it owns.
    pub speak: AtomicBool,
    inbox: Mutex<Vec<Message>>,
}

impl WorkerHandle {
    /// A worker's mailbox.
    pub fn new() -> io::Result<Self> {
        Ok(Self { waker: Waker::new()?, speak: AtomicBool::new(false), inbox: Mutex::new(Vec::new()) })
    }

    /// Puts a message into its inbox and wakes it.
    pub fn send(&self, message: Message) {
        self.inbox.lock().push(message);
        self.waker.wake();
    }

    /// There is something to be said on a control channel that it owns.
    pub fn speak(&self) {
        if !self.speak.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Takes everything from the inbox.
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.inbox.lock())
    }
}

/// CLIENT PAUSE.
#[derive(Debug, Default)]
struct Pause {
    active: AtomicBool,
    until_ms: AtomicU64,
    writes_only: AtomicBool,
    /// Writes wait for the end of a handover, whatever CLIENT PAUSE says.
    handover: AtomicBool,
}

/// Lets a background thread sleep until there is work.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Mutex<bool>,
    changed: Condvar,
    idle: AtomicBool,
}

impl Signal {
    /// Wakes the sleeper, now or at its next wait.
    pub fn raise(&self) {
        *self.raised.lock() = true;
        self.changed.notify_one();
    }

    /// Sleeps until raised, or for at most `timeout`.
    pub fn wait(&self, timeout: std::time::Duration) {
        let mut raised = self.raised.lock();
        if !*raised {
            self.changed.wait_for(&mut raised, timeout);
        }
        *raised = false;
    }

    /// As [`Signal::wait`], for a thread that otherwise looks for work by itself: only while it sleeps here do
    /// others pay for waking it ([`Signal::raise_if_idle`]).
    pub fn wait_idle(&self, timeout: std::time::Duration) {
        self.idle.store(true, Ordering::SeqCst);
        self.wait(timeout);
        self.idle.store(false, Ordering::SeqCst);
    }

    /// Wakes a thread that is in [`Signal::wait_idle`]. A wake-up that just misses it comes with the timeout.
    pub fn raise_if_idle(&self) {
        if self.idle.load(Ordering::Relaxed) {
            self.raise();
        }
    }
}

/// The watermarks that one thread moves and others look at.
#[derive(Debug, Default)]
pub struct Marks {
    /// `committed_lsn` of a leader.
    pub committed: AtomicU64,
    applied: AtomicU64,
    checkpoint: AtomicU64,
}

impl Marks {
    /// `committed_lsn` of a leader.
    pub fn committed(&self) -> Lsn {
        Lsn::new(self.committed.load(Ordering::Acquire))
    }

    /// `applied_lsn`.
    pub fn applied(&self) -> Lsn {
        Lsn::new(self.applied.load(Ordering::Acquire))
    }

    /// `checkpoint_lsn`.
    pub fn checkpoint(&self) -> Lsn {
        Lsn::new(self.checkpoint.load(Ordering::Acquire))
    }

    /// The replayer's positions.
    pub fn publish(&self, applied: Lsn, checkpoint: Lsn) {
        self.applied.store(applied.get(), Ordering::Release);
        self.checkpoint.store(checkpoint.get(), Ordering::Release);
    }
}

/// One process.
#[derive(Debug)]
pub struct Node {
    config: RwLock<Arc<Config>>,
    config_version: AtomicU64,
    /// Working view, log, role: taken by one worker for a turn at a time.
    pub engine: Mutex<Engine>,
    /// Connections.
    pub clients: Clients,
    /// Counters.
    pub stats: Stats,
    /// What happened.
    pub events: Events,
    /// The workers' mailboxes.
    pub workers: Vec<WorkerHandle>,
    /// The process is to end.
    pub stopping: AtomicBool,
    /// The followers have not been told of the last commit yet.
    pub tail_pending: AtomicBool,
    /// Watermarks.
    pub marks: Marks,
    /// Carries the image along; `None` in a pool without a dataset and while the role changes.
    pub replayer: Mutex<Option<Replayer>>,
    followership: Mutex<Option<Followership>>,
    /// Threads that serve the window.
    windows: AtomicUsize,
    /// The window could not be taken away from a leader: it counts as open for good.
    pub window_lost: AtomicBool,
    /// The RDMA device.
    pub rdma: Rdma,
    /// The image, for allocating ahead of need.
    pub image: Arc<Image>,
    /// Whether a checkpoint takes an `fdatasync`.
    pub image_on_disk: bool,
    /// The length that the image should be allocated to ahead of need, or 0.
    pub image_due: AtomicU64,
    /// This node has begun to lead, and the link has not heard of it.
    pub has_been_promoted: AtomicBool,
    /// The file system is too full for what the log says of the image.
    pub image_is_stuck: AtomicBool,
    /// Work for the replayer.
    pub replay: Signal,
    /// Work for the log writer (`disk` only).
    pub log_writer: Signal,
    /// The end of the log from which on the log writer wants to be woken: its group is complete then.
    pub log_group: AtomicU64,
    /// A new role for the link thread.
    pub link: Alarm,
    /// A walk over the image is under way (leader only).
    pub walking: AtomicBool,
    /// Work for the walker.
    pub walk: Signal,
    /// 40 hexadecimal digits, new at every start.
    pub run_id: String,
    /// Unix time of the start in ms.
    pub started_at_ms: u64,
    /// The configuration file, if any.
    pub config_file: Option<std::path::PathBuf>,
    /// Active expiry runs (DEBUG SET-ACTIVE-EXPIRE).
    pub active_expire: AtomicBool,
    /// The replayer stands still (DEBUG SET-REPLAY): the image stays as it is while the log goes on.
    pub replay_paused: AtomicBool,
    started: Instant,
    pause: Pause,
}

impl Node {
    /// Puts the shared parts together.
    pub fn new(
        config: Config,
        config_file: Option<std::path::PathBuf>,
        (engine, opened): (Engine, Opened),
        run_id: String,
    ) -> io::Result<Self> {
        let workers =
            (0..config.io_threads.max(1)).map(|_| WorkerHandle::new()).collect::<io::Result<Vec<_>>>()?;
        let unix_ms = unix_ms();
        let image_on_disk = !engine.pool().image().persistence().by_instructions();
        let image = Arc::clone(engine.pool().image());
        let node = Self {
            image,
            rdma: Rdma::new(&config),
            config: RwLock::new(Arc::new(config)),
            config_version: AtomicU64::new(0),
            engine: Mutex::new(engine),
            marks: Marks::default(),
            replayer: Mutex::new(None),
            followership: Mutex::new(None),
            windows: AtomicUsize::new(0),
            window_lost: AtomicBool::new(false),
            image_on_disk,
            image_due: AtomicU64::new(0),
            has_been_promoted: AtomicBool::new(false),
            image_is_stuck: AtomicBool::new(false),
            clients: Clients::default(),
            stats: Stats::default(),
            events: Events::default(),
            workers,
            stopping: AtomicBool::new(false),
            tail_pending: AtomicBool::new(false),
            replay: Signal::default(),
            log_writer: Signal::default(),
            log_group: AtomicU64::new(0),
            link: Alarm::new()?,
            walking: AtomicBool::new(false),
            walk: Signal::default(),
            run_id,
            started_at_ms: unix_ms,
            config_file,
            active_expire: AtomicBool::new(true),
            replay_paused: AtomicBool::new(false),
            started: Instant::now(),
            pause: Pause::default(),
        };
        node.install(opened);
        Ok(node)
    }

    /// A follower's state; `None` on a leader.
    pub fn followership(&self) -> MutexGuard<'_, Option<Followership>> {
        self.followership.lock()
    }

    /// Puts in place what a new role needs outside the engine.
    pub fn install(&self, opened: Opened) {
        self.marks.committed.store(opened.committed.get(), Ordering::Release);
        if let Some(replayer) = &opened.replayer {
            self.marks.publish(replayer.applied(), replayer.checkpoint_lsn());
        }
        // In this order: whoever sees the replayer also sees for whom it works.
        *self.followership.lock() = opened.followership;
        *self.replayer.lock() = opened.replayer;
        self.replay.raise();
        self.link.raise();
    }

    /// Whether somebody serves the window.
    pub fn window_is_open(&self) -> bool {
        self.windows.load(Ordering::Acquire) > 0 || self.window_lost.load(Ordering::Acquire)
    }

    /// Waits until nobody serves the window any more, and says whether that has come about. Takes a moment at most, since
    /// the link thread closes it.
    pub fn wait_for_window_closed(&self, timeout: std::time::Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while self.window_is_open() && Instant::now() < deadline {
            self.link.raise();
            std::thread::yield_now();
        }
        !self.window_is_open()
    }

    /// The configuration as of now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read())
    }

    /// Rises with every change of the configuration.
    pub fn config_version(&self) -> u64 {
        self.config_version.load(Ordering::Acquire)
    }

    /// Changes the configuration; readers see either all of the change or none.
    pub fn update_config<R>(&self, change: impl FnOnce(&mut Config) -> R) -> R {
        let mut guard = self.config.write();
        let mut config = (**guard).clone();
        let result = change(&mut config);
        *guard = Arc::new(config);
        self.config_version.fetch_add(1, Ordering::Release);
        result
    }

    /// The time, read once a turn.
    pub fn now(&self) -> Now {
        let us = self.now_us();
        Now { ms: us / 1000, us, unix_ms: unix_ms() }
    }

    /// Monotonic microseconds since the node started.
    pub fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Wakes every worker: a commit that another thread brought about may release their replies.
    pub fn wake_workers(&self) {
        for worker in &self.workers {
            worker.waker.wake();
        }
    }

    /// Closes a client's connection, whichever worker owns it.
    pub fn kill(&self, client: &Client) {
        client.killed.store(true, Ordering::Release);
        self.workers[client.worker].send(Message::Kill(client.id));
    }

    /// CLIENT UNBLOCK: whether that client waited in WAIT or WAITAOF. Its wait ends with what was reached.
    pub fn unblock(&self, client: &Client, _with_error: bool) -> bool {
        let waits = client.blocked.load(Ordering::Acquire);
        if waits {
            client.unblocked.store(true, Ordering::Release);
            self.workers[client.worker].waker.wake();
        }
        waits
    }

    /// Starts an orderly stop.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake_workers();
        self.replay.raise();
        self.log_writer.raise();
        self.link.raise();
        self.walk.raise();
    }

    /// CLIENT PAUSE.
    pub fn pause(&self, until_ms: u64, writes_only: bool) {
        self.pause.until_ms.store(until_ms, Ordering::Relaxed);
        self.pause.writes_only.store(writes_only, Ordering::Relaxed);
        self.pause.active.store(true, Ordering::Release);
    }

    /// CLIENT UNPAUSE.
    pub fn unpause(&self) {
        self.pause.active.store(false, Ordering::Release);
        self.wake_workers();
    }

    /// Writes wait for the end of a handover, or do so no longer. Whoever has been waiting is found by its worker, which tries
    /// again by itself.
    pub fn pause_for_handover(&self, pauses: bool) {
        self.pause.handover.store(pauses, Ordering::Release);
    }

    /// Whether commands may have to wait: for the end of a CLIENT PAUSE or of a handover.
    pub fn pausing(&self) -> bool {
        self.pause.active.load(Ordering::Relaxed) || self.pause.handover.load(Ordering::Relaxed)
    }

    /// Whether the pause in force applies to this command.
    pub fn pauses(&self, spec: &Command, now: Now, session: &Session) -> bool {
        if session.client.kind() == ClientKind::Replica {
            return false;
        }
        let active = self.pause.active.load(Ordering::Acquire);
        let over = active && now.ms >= self.pause.until_ms.load(Ordering::Relaxed);
        if over {
            self.pause.active.store(false, Ordering::Release);
        }
        let paused = active && !over;
        if paused && !self.pause.writes_only.load(Ordering::Relaxed) && spec.name != "client" {
            return true;
        }
        let queued = || session.multi.iter().flat_map(|multi| &multi.queued).map(|queued| queued.entry.spec);
        let any = |is: fn(&Command) -> bool| is(spec) || (spec.name == "exec" && queued().any(is));
        // What is published is in no log, so a handover does not concern it; Sentinel publishes to stay in touch.
        let handover = self.pause.handover.load(Ordering::Acquire);
        let writes = (paused || handover) && any(|spec| spec.flags.has(flag::WRITE));
        writes || (paused && any(|spec| matches!(spec.name, "publish" | "spublish")))
    }

    /// Seconds since the start.
    pub fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

/// A window that is being served, as long as this lives.
#[derive(Debug)]
pub struct OpenWindow(Arc<Node>);

impl OpenWindow {
    /// To be called under the followership: whoever ends that waits for the windows that were opened before.
    pub fn new(node: &Arc<Node>) -> Self {
        node.windows.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(node))
    }
}

impl Drop for OpenWindow {
    fn drop(&mut self) {
        self.0.windows.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Unix time in ms.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
