//! A follower's window under RDMA, and the thread that serves it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use farkeep_core::log::LogMap;
use farkeep_fabric::rdma::{Fence, Mode, Session};
use farkeep_fabric::{FabricError, LogWindow, shm};
use farkeep_proto::control::RdmaWindow;

use super::{Basis, Rdma};
use crate::link::{TailWatch, take_burst};
use crate::node::{Node, OpenWindow};

/// How often the window is looked at while there is no use for what would be found.
const REST: Duration = Duration::from_secs(1);

/// A window that a session's leader may write to, or is about to.
#[derive(Debug)]
pub struct Served {
    window: RdmaWindow,
    basis: Basis,
    fence: Fence,
    connected: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Served {
    /// Opens the window of `log` to the leader of this session. `open` is given up when nobody serves it any more.
    ///
    /// # Errors
    /// When the window cannot be registered.
    pub fn open(node: &Arc<Node>, session: u64, log: &Arc<LogMap>, open: OpenWindow) -> Result<Self> {
        let (session, basis) = node.rdma.open(session, log)?;
        let (window, fence) = (session.window(), session.fence());
        let connected = Arc::new(AtomicBool::new(false));
        let server = Server {
            node: Arc::clone(node),
            session,
            window: LogWindow::new(Arc::clone(log)),
            connected: Arc::clone(&connected),
        };
        let run = move || server.run(open);
        let thread = thread::Builder::new().name("window-rdma".to_owned()).spawn(run)?;
        Rdma::prepare_next(node, log);
        Ok(Self { window, basis, fence, connected, thread })
    }

    /// What `Ready` says of it.
    pub fn window(&self) -> &RdmaWindow {
        &self.window
    }

    /// What acknowledgements rest on.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// Whether the leader has connected.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Whether the leader has gone.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Takes the window away from the leader and waits for the thread. If it cannot be taken away, the node stops, and whoever
    /// waits for the window to be closed waits in vain.
    ///
    /// # Errors
    /// When the thread has failed an assertion.
    pub fn close(self, node: &Node) -> thread::Result<()> {
        if let Err(error) = self.fence.close() {
            unfenced(node, &error);
        }
        self.thread.join()
    }
}

/// The leader may still write: this node must not do as if it could not.
fn unfenced(node: &Node, error: &FabricError) {
    tracing::error!(%error, "the window could not be taken away from the leader; the node stops");
    node.window_lost.store(true, Ordering::Release);
    node.stop();
}

struct Server {
    node: Arc<Node>,
    session: Session,
    window: LogWindow,
    connected: Arc<AtomicBool>,
}

impl Server {
    fn run(mut self, open: OpenWindow) {
        let end = match self.session.mode() {
            Mode::Apm => self.watch(),
            Mode::Gpspm => self.answer(),
        };
        let Err(error) = end;
        tracing::debug!(%error, "the rdma window's session ended");
        if let Err(error) = self.session.fence().close() {
            unfenced(&self.node, &error);
        }
        drop(self.session);
        drop(open);
        // The link thread may be asleep, and there is something to do for it.
        self.node.link.raise();
    }

    /// GPSPM: persists and answers.
    fn answer(&mut self) -> Result<Infallible, FabricError> {
        loop {
            let burst = self.session.turn(&mut self.window, None)?;
            self.connected.store(self.session.is_connected(), Ordering::Release);
            if let Some(burst) = burst {
                let reported = take_burst(&self.node, burst);
                if burst.batch_ended {
                    self.session.acknowledge(reported)?;
                }
            }
        }
    }

    /// APM: finds what has come, for the replayer.
    fn watch(&mut self) -> Result<Infallible, FabricError> {
        let (mut pace, mut tail, mut found) = (shm::Watch::default(), TailWatch::default(), false);
        loop {
            // Until the leader is there, and while the replayer stands still, nobody would use what could be found.
            let rests = !self.session.is_connected() || self.node.replay_paused.load(Ordering::Relaxed);
            let pause = if rests { REST } else { Duration::from_micros(pace.pause_us(found)) };
            self.session.turn(&mut self.window, Some(pause))?;
            self.connected.store(self.session.is_connected(), Ordering::Release);
            if !rests {
                found = tail.look(&self.node);
            }
        }
    }
}
