//! The follower's side of the connection to its leader.
//!
//! One thread carries out what [`farkeep_follower::Follower`] decides: connect, introduce, truncate, open the window, answer
//! heartbeats, try again. While a session runs, a second thread serves the window: it receives straight into the log, persists,
//! acknowledges and tells the replayer. Neither ever takes the engine for longer than a change of the log needs.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use farkeep_core::log::{LogMap, Tail};
use farkeep_core::lsn::Lsn;
use farkeep_fabric::window::Reported;
use farkeep_fabric::{FabricKind, LogWindow, shm, tcp};
use farkeep_follower::{Action, Follower, JoinError};
use farkeep_proto::control::{self, Body, HandoverStep, Published};

use crate::config::Config;
use crate::engine::Handover;
use crate::node::Node;
use crate::replication::LeaderAddress;
use crate::throttle::Throttle;

/// Longest wait for the leader's socket before time is looked at.
const TICK: Duration = Duration::from_millis(20);
/// Longest wait for a connection or for an answer to AUTH and the like.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
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
        window: None,
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
    control: Option<TcpStream>,
    inbox: Vec<u8>,
    /// The parts that have arrived of a published message.
    published: Vec<u8>,
    /// The session in which the leader was asked to stand down.
    asked: Option<u64>,
    window: Option<ServedWindow>,
    /// Why there is no session, as far as the log has been told.
    complaints: Throttle,
}

/// A window that is being served, by a thread of its own.
struct ServedWindow {
    stop: WindowStop,
    thread: JoinHandle<()>,
}

enum WindowStop {
    Socket(TcpStream),
    Flag(Arc<std::sync::atomic::AtomicBool>, Arc<LogMap>),
}

impl Link {
    fn turn(&mut self) {
        let wanted = self.node.followership().as_ref().map(|follows| follows.leader.clone());
        if wanted != self.leader {
            if let Some(session) = self.asked.take()
                && wanted.is_none()
                && let Err(error) = self.say_handover(session, HandoverStep::Taken)
            {
                tracing::info!(leader = %self.name(), %error, "the former leader could not be told of the promotion");
            }
            self.close_window();
            self.control = None;
            self.inbox.clear();
            self.complaints.forget();
            self.leader.clone_from(&wanted);
            if wanted.is_some() {
                let actions = self.with_machine(|machine, now_ms| machine.follow(now_ms));
                self.carry_out(actions);
            }
        }
        if wanted.is_none() {
            self.node.link.wait(IDLE);
            return;
        }
        let actions = self.with_machine(Follower::tick);
        self.carry_out(actions);
        self.ask_for_handover();
        if self.control.is_none() {
            self.node.link.wait(TICK);
            return;
        }
        match self.receive() {
            Ok(()) if self.window.as_ref().is_some_and(|window| window.thread.is_finished()) => {
                self.lost("the window connection ended");
            }
            Ok(()) => {}
            Err(error) => self.lost(&format!("{error:#}")),
        }
    }

    /// Asks the state machine; nothing happens if the node follows somebody else by now.
    fn with_machine(&self, ask: impl FnOnce(&mut Follower, u64) -> Vec<Action>) -> Vec<Action> {
        let now_ms = self.node.now().ms;
        match &mut *self.node.followership() {
            Some(follows) if Some(&follows.leader) == self.leader.as_ref() => {
                ask(&mut follows.machine, now_ms)
            }
            _ => Vec::new(),
        }
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
                let mut stream = connect(&leader, &self.node.config())?;
                request(&mut stream, &[b"FARKEEP.REPLICATE"])?;
                stream.set_read_timeout(Some(TICK))?;
                self.control = Some(stream);
                self.inbox.clear();
                self.published.clear();
                let actions = self.with_machine(Follower::connected);
                self.carry_out(actions);
            }
            Action::Send(body) => {
                let stream = self.control.as_mut().context("no control connection")?;
                let mut bytes = Vec::new();
                control::encode(body, &mut bytes);
                stream.write_all(&bytes)?;
            }
            Action::Disconnect => {
                self.control = None;
                self.inbox.clear();
            }
            Action::CloseWindow => self.close_window(),
            Action::OpenWindow { session, fabric } => self.open_window(session, fabric)?,
            Action::JoinFailed(error) => {
                if matches!(error, JoinError::RefusedDataset(_))
                    && self.node.engine.lock().start_over(&self.node)?
                {
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
            change => self.node.engine.lock().change_follower_log(&self.node, change)?,
        }
        Ok(())
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

    fn receive(&mut self) -> Result<()> {
        let stream = self.control.as_mut().context("no control connection")?;
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
                Some(Body::Handover(answer)) => {
                    self.handover_granted(&answer);
                    continue;
                }
                _ => {}
            }
            let actions = self.with_machine(|machine, now_ms| machine.message(now_ms, envelope.body));
            self.carry_out(actions);
            if self.control.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Asks the leader to stand down, if the engine wants that and it has not been asked yet.
    fn ask_for_handover(&mut self) {
        let session = match &mut *self.node.followership() {
            Some(Followership { handover: Some(handover), machine, .. }) if !handover.sent => {
                handover.sent = true;
                machine.standing().session
            }
            _ => return,
        };
        self.asked = Some(session);
        if let Err(error) = self.say_handover(session, HandoverStep::Ask) {
            self.lost(&format!("{error:#}"));
        }
    }

    fn say_handover(&mut self, session: u64, step: HandoverStep) -> Result<()> {
        let message = control::Handover { session, step: step.into(), end_lsn: 0 };
        self.act(Action::Send(Body::Handover(message)))
    }

    fn handover_granted(&self, answer: &control::Handover) {
        if let Some(Followership { handover: Some(handover), .. }) = &mut *self.node.followership()
            && answer.step() == HandoverStep::Grant
            && self.asked == Some(answer.session)
        {
            handover.end = Some(Lsn::new(answer.end_lsn));
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
        let mut engine = self.node.engine.lock();
        let message = engine.message(part.sharded, &part.channel, &payload, Lsn::ZERO);
        engine.publish(&message, None);
        engine.pubsub.wake_others(&self.node, None);
        Ok(())
    }

    fn open_window(&mut self, session: u64, fabric: FabricKind) -> Result<()> {
        let leader = self.leader.clone().context("nobody to follow")?;
        self.node.engine.lock().joined();
        let log = match &*self.node.followership() {
            Some(follows) => Arc::clone(&follows.log),
            None => bail!("this node does not follow any more"),
        };
        let node = Arc::clone(&self.node);
        let builder = std::thread::Builder::new().name("window".to_owned());
        self.close_window();
        let window = LogWindow::new(log);
        self.window = Some(match fabric {
            FabricKind::Tcp => {
                let mut stream = connect(&leader, &self.node.config())?;
                request(&mut stream, &[b"FARKEEP.WINDOW", session.to_string().as_bytes()])?;
                stream.set_read_timeout(None)?;
                let ours = stream.try_clone()?;
                node.window_open.store(true, Ordering::Release);
                let thread = builder.spawn(move || serve_tcp(&node, &stream, window))?;
                ServedWindow { stop: WindowStop::Socket(ours), thread }
            }
            FabricKind::Shm => {
                let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
                let flag = Arc::clone(&stop);
                window.log().set_gate(session);
                node.window_open.store(true, Ordering::Release);
                let thread = builder.spawn(move || watch_shm(&node, &flag))?;
                ServedWindow { stop: WindowStop::Flag(stop, Arc::clone(window.log())), thread }
            }
            other => bail!("this build has no {other} fabric"),
        });
        if let Some(follows) = &mut *self.node.followership() {
            follows.down_reason.clear();
        }
        self.node.engine.lock().note_link(&self.node);
        self.complaints.forget();
        tracing::info!(leader = %self.name(), %fabric, "following");
        Ok(())
    }

    fn close_window(&mut self) {
        let Some(window) = self.window.take() else { return };
        match &window.stop {
            // The socket may be closed already; then there is nothing to end.
            WindowStop::Socket(stream) => drop(stream.shutdown(Shutdown::Both)),
            WindowStop::Flag(flag, log) => {
                log.set_gate(0);
                flag.store(true, Ordering::Release);
            }
        }
        if window.thread.join().is_err() {
            tracing::error!("the thread that served the window failed an assertion");
            self.node.stop();
        }
    }
}

fn serve_tcp(node: &Arc<Node>, stream: &TcpStream, mut window: LogWindow) {
    let end = tcp::serve(stream.as_fd(), &mut window, |_, burst| {
        let mut guard = node.followership();
        let Some(follows) = &mut *guard else { return Reported::default() };
        follows.received_bytes += burst.stored;
        if burst.batch_ended {
            follows.look();
            follows.machine.heard(node.now().ms);
        } else if burst.tail_cell
            && let Some(cell) = follows.log.tail_cell()
        {
            follows.machine.tail_cell(cell);
        }
        let progress = follows.machine.progress();
        drop(guard);
        if progress.committed > progress.applied {
            node.replay.raise_if_idle();
        }
        progress.reported()
    });
    let Err(error) = end;
    tracing::debug!(%error, "the window connection ended");
    node.window_open.store(false, Ordering::Release);
}

fn watch_shm(node: &Arc<Node>, stop: &std::sync::atomic::AtomicBool) {
    let mut watch = shm::Watch::default();
    let mut seen = None;
    while !stop.load(Ordering::Acquire) {
        let mut guard = node.followership();
        let Some(follows) = &mut *guard else { break };
        let cell = follows.log.tail_cell();
        let found = cell.is_some() && cell != seen;
        if found {
            seen = cell;
            follows.look();
        }
        let progress = follows.machine.progress();
        drop(guard);
        if progress.committed > progress.applied {
            node.replay.raise_if_idle();
        }
        std::thread::sleep(Duration::from_micros(watch.pause_us(found)));
    }
    node.window_open.store(false, Ordering::Release);
}

/// Connects to a leader's port and authenticates.
fn connect(leader: &LeaderAddress, config: &Config) -> Result<TcpStream> {
    let addresses = (leader.host.as_str(), leader.port)
        .to_socket_addrs()
        .with_context(|| format!("cannot resolve {}", leader.host))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(mut stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
                stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                if let Some(password) = &config.masterauth {
                    match &config.masteruser {
                        Some(user) => request(&mut stream, &[b"AUTH", user.as_bytes(), password.as_bytes()])?,
                        None => request(&mut stream, &[b"AUTH", password.as_bytes()])?,
                    }
                }
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("cannot connect to {leader}")),
        None => bail!("{} has no address", leader.host),
    }
}

/// Sends one command and expects a simple status.
fn request(stream: &mut TcpStream, argv: &[&[u8]]) -> Result<()> {
    let mut bytes = format!("*{}\r\n", argv.len()).into_bytes();
    for arg in argv {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    stream.write_all(&bytes)?;
    // One byte at a time: what follows the status may belong to another protocol.
    let mut line = Vec::new();
    let mut byte = [0u8];
    while line.last() != Some(&b'\n') {
        if line.len() > 512 || stream.read(&mut byte)? == 0 {
            bail!("the leader does not answer {}", String::from_utf8_lossy(argv[0]));
        }
        line.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&line);
    if let Some(error) = text.strip_prefix('-') {
        bail!("the leader answers {}: {}", String::from_utf8_lossy(argv[0]), error.trim_end());
    }
    Ok(())
}
