//! The window of a session: opened to the leader over the fabric agreed on, served by a thread of its own, and changed for one over rdma
//! while the session goes on.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use farkeep_core::log::LogMap;
use farkeep_fabric::tcp::Burst;
use farkeep_fabric::window::Reported;
use farkeep_fabric::{FabricKind, LogWindow, shm, tcp};
use farkeep_proto::control::{Body, Ready};
use farkeep_proto::window::TailCell;

use super::Link;
use super::connect::{connect, request};
use crate::engine::rewrite_config;
use crate::node::{Node, OpenWindow};
use crate::rdma;

/// A window that is being served, by a thread of its own.
pub(super) enum ServedWindow {
    Tcp { socket: TcpStream, thread: JoinHandle<()> },
    Shm { stop: Arc<AtomicBool>, log: Arc<LogMap>, thread: JoinHandle<()> },
    Rdma(rdma::Served),
}

impl ServedWindow {
    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Tcp { thread, .. } | Self::Shm { thread, .. } => thread.is_finished(),
            Self::Rdma(served) => served.is_finished(),
        }
    }

    pub(super) fn close(self, node: &Node) {
        let ended = match self {
            Self::Tcp { socket, thread } => {
                // The socket may be closed already; then there is nothing to end.
                drop(socket.shutdown(Shutdown::Both));
                thread.join()
            }
            Self::Shm { stop, log, thread } => {
                log.set_gate(0);
                stop.store(true, Ordering::Release);
                thread.join()
            }
            Self::Rdma(served) => served.close(node),
        };
        if ended.is_err() {
            tracing::error!("the thread that served the window failed an assertion");
            node.stop();
        }
    }
}

/// An attempt to go on over rdma.
pub(super) struct Trial {
    served: rdma::Served,
    /// Until when the leader has to be connected.
    deadline: Instant,
}

/// How long a leader may take to connect to a window that it has asked for.
const TRIAL_LIMIT: Duration = Duration::from_secs(10);

impl Link {
    pub(super) fn look_after_windows(&mut self) {
        let ended = self.window.as_ref().is_some_and(ServedWindow::is_finished);
        let Some(trial) = &self.trial else {
            if ended {
                self.lost("the window connection ended");
            }
            return;
        };
        let connected = trial.served.is_connected();
        if trial.served.is_finished() || (!connected && Instant::now() >= trial.deadline) {
            self.end_trial();
        } else if ended && connected {
            self.take_trial();
        }
    }

    /// The leader has left the session's old fabric for rdma.
    fn take_trial(&mut self) {
        let Some(Trial { served, .. }) = self.trial.take() else { return };
        if let Some(old) = self.window.take() {
            old.close(&self.node);
        }
        let basis = served.basis();
        if let Some(follows) = &mut *self.node.followership() {
            follows.basis = Some(basis);
            follows.machine.switched(FabricKind::Rdma);
        }
        tracing::info!(leader = %self.name(), fabric = "rdma", mode = basis.mode, why = basis.why, "following over a better fabric");
        self.window = Some(ServedWindow::Rdma(served));
    }

    fn end_trial(&mut self) {
        let Some(Trial { served, .. }) = self.trial.take() else { return };
        ServedWindow::Rdma(served).close(&self.node);
    }

    /// Whoever ends the followership from here on waits until this window is closed.
    fn claim_window(&self) -> Result<(OpenWindow, Arc<LogMap>)> {
        match &*self.node.followership() {
            Some(follows) if !follows.fenced && Some(&follows.leader) == self.leader.as_ref() => {
                Ok((OpenWindow::new(&self.node), Arc::clone(&follows.log)))
            }
            _ => bail!("this node does not follow any more"),
        }
    }

    pub(super) fn open_window(&mut self, session: u64, fabric: FabricKind) -> Result<()> {
        let leader = self.leader.clone().context("nobody to follow")?;
        self.engine()?.joined();
        self.close_window();
        let node = Arc::clone(&self.node);
        let builder = std::thread::Builder::new().name("window".to_owned());
        let mut basis = None;
        self.window = Some(match fabric {
            FabricKind::Tcp => {
                let mut stream = connect(&leader, &self.node.config())?;
                request(&mut stream, &[b"FARKEEP.WINDOW", session.to_string().as_bytes()])?;
                stream.set_read_timeout(None)?;
                // Only now: nobody has to wait for the connection.
                let (open, log) = self.claim_window()?;
                let socket = stream.try_clone()?;
                let window = LogWindow::new(log);
                let thread = builder.spawn(move || serve_tcp(&node, &stream, window, open))?;
                ServedWindow::Tcp { socket, thread }
            }
            FabricKind::Shm => {
                let (open, log) = self.claim_window()?;
                let stop = Arc::new(AtomicBool::new(false));
                let flag = Arc::clone(&stop);
                log.set_gate(session);
                let thread = builder.spawn(move || watch_shm(&node, &flag, open))?;
                ServedWindow::Shm { stop, log, thread }
            }
            FabricKind::Rdma => {
                let (open, log) = self.claim_window()?;
                let served = rdma::Served::open(&node, session, &log, open)?;
                basis = Some(served.basis());
                ServedWindow::Rdma(served)
            }
            other @ FabricKind::Sim => bail!("this build has no {other} fabric"),
        });
        let (mut no_better, mut came) = (String::new(), false);
        if let Some(follows) = &mut *self.node.followership() {
            follows.down_reason.clear();
            came = follows.coming.take().is_some();
            follows.basis = basis;
            no_better = follows.machine.standing().fabric_reason;
        }
        let mut engine = self.engine()?;
        engine.note_link(&self.node);
        if came {
            rewrite_config(&self.node);
        }
        drop(engine);
        self.complaints.forget();
        tracing::info!(
            leader = %self.name(),
            %fabric,
            why_no_better = (!no_better.is_empty()).then_some(no_better),
            mode = basis.map(|basis| basis.mode),
            why = basis.map(|basis| basis.why),
            "following"
        );
        Ok(())
    }

    /// Opens the window to rdma beside the fabric in use, and tells the leader.
    pub(super) fn try_rdma(&mut self, session: u64) -> Result<()> {
        self.end_trial();
        if !matches!(self.window, Some(ServedWindow::Tcp { .. })) {
            bail!("the session does not run over tcp");
        }
        let (open, log) = self.claim_window()?;
        let served = rdma::Served::open(&self.node, session, &log, open)?;
        let window = served.window().clone();
        self.trial = Some(Trial { served, deadline: Instant::now() + TRIAL_LIMIT });
        let progress = self.node.followership().as_ref().map(|follows| follows.machine.progress());
        let progress = progress.context("this node does not follow any more")?.message();
        self.send(Body::Ready(Ready { session, progress, rdma: Some(window) }))
    }

    pub(super) fn close_window(&mut self) {
        self.end_trial();
        if let Some(window) = self.window.take() {
            window.close(&self.node);
        }
    }
}

/// Takes note of what has come into the window, and says what to answer.
pub fn take_burst(node: &Node, burst: Burst) -> Reported {
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
    let (progress, target) = (follows.machine.progress(), follows.machine.replay_target());
    let mid_sync = follows.machine.is_mid_sync();
    drop(guard);
    match target > progress.applied {
        // It does not look by itself then.
        true if mid_sync => node.replay.raise(),
        true => node.replay.raise_if_idle(),
        false => {}
    }
    progress.reported()
}

fn serve_tcp(node: &Arc<Node>, stream: &TcpStream, mut window: LogWindow, open: OpenWindow) {
    let Err(error) = tcp::serve(stream.as_fd(), &mut window, |_, burst| take_burst(node, burst));
    tracing::debug!(%error, "the window connection ended");
    drop(open);
    node.link.raise();
}

/// Finds what one-sided stores have brought, by the tail cell.
#[derive(Debug, Default)]
pub struct TailWatch {
    seen: Option<TailCell>,
}

impl TailWatch {
    /// Whether there is anything new. If so, it is read, and the replayer told.
    pub fn look(&mut self, node: &Node) -> bool {
        let mut guard = node.followership();
        let Some(follows) = &mut *guard else { return false };
        let cell = follows.log.tail_cell();
        let found = cell.is_some() && cell != self.seen;
        if found {
            self.seen = cell;
            follows.look();
        }
        let (progress, target) = (follows.machine.progress(), follows.machine.replay_target());
        drop(guard);
        if target > progress.applied {
            node.replay.raise_if_idle();
        }
        found
    }
}

fn watch_shm(node: &Arc<Node>, stop: &AtomicBool, open: OpenWindow) {
    let (mut pace, mut tail) = (shm::Watch::default(), TailWatch::default());
    while !stop.load(Ordering::Acquire) {
        let found = tail.look(node);
        std::thread::sleep(Duration::from_micros(pace.pause_us(found)));
    }
    drop(open);
}
