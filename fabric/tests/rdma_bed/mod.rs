//! A leader and a follower in one process, over the guest's RDMA device.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farkeep_core::log::ring::{LogIdentity, file_len};
use farkeep_core::log::{Geometry, LogMap};
use farkeep_core::lsn::Lsn;
use farkeep_core::pmem::domain::{Durability, dax_device, detect};
use farkeep_core::pmem::map::Region;
use farkeep_fabric::rdma::{
    ConnectError, Device, Endpoint, Mode, Remote, Session, Source, Unusable, connect, probe,
};
use farkeep_fabric::window::Reported;
use farkeep_fabric::{Completion, LogWindow, RemoteWindow, Ticket};
use farkeep_proto::window::RING_AT;
use tempfile::TempDir;

pub const RING_LEN: u64 = 16 << 20;
pub const SESSION: u64 = 7;
/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const REPORTED: Reported =
    Reported { durable: Lsn::new(30), applied: Lsn::new(20), checkpoint: Lsn::new(10) };

/// Whether this is the guest; says so if not.
pub fn is_guest() -> bool {
    let yes = std::env::var_os("FARKEEP_GUEST").is_some_and(|value| value == "1");
    if !yes {
        eprintln!("skipped here: cargo xtask guest --suite runs it");
    }
    yes
}

/// The guest's device.
pub fn device() -> Device {
    probe(None, None).expect("these tests run in the guest: cargo xtask guest")
}

/// A log at `path`, made if it is not there: a file or a devdax device.
pub fn log_at(path: &Path) -> Arc<LogMap> {
    let geometry = Geometry::new(RING_LEN, 1 << 20).unwrap();
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let len = match dax_device(&file).unwrap() {
        Some(device) => device.len,
        None => {
            let len = file_len(geometry.ring_len());
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
            len
        }
    };
    let persistence = detect(&file, Durability::Auto).unwrap();
    let region = Region::map(Arc::new(file), len, persistence, "log").unwrap();
    let identity = LogIdentity { node_id: [3; 16], geometry };
    LogMap::format(&region, identity).unwrap();
    Arc::new(LogMap::open(region, identity).unwrap())
}

/// A directory in memory.
pub fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// Stores these bytes at the start of a log's ring.
pub fn fill(log: &LogMap, bytes: &[u8]) {
    log.with_window_mut(RING_AT, bytes.len(), |ring| ring.copy_from_slice(bytes));
}

/// A leader and a follower that are connected.
pub struct Pair {
    pub remote: Remote,
    pub session: Option<Session>,
    pub endpoint: Endpoint,
    pub window: LogWindow,
    pub source: Source,
    pub leader: Arc<LogMap>,
    _dir: TempDir,
}

/// Connects to a session, which is served meanwhile.
pub fn join(
    source: &Source,
    endpoint: &Endpoint,
    session: &mut Session,
    window: &mut LogWindow,
) -> Result<Remote, ConnectError> {
    let (offer, ready) = (endpoint.offer(), session.window());
    std::thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(source, &offer, &ready, SESSION, PATIENCE));
        while !session.is_connected() && !connecting.is_finished() {
            session.turn(window, Some(Duration::from_millis(100))).unwrap();
        }
        connecting.join().unwrap()
    })
}

impl Pair {
    /// A pair whose leader ships from its log, which begins with these bytes; without them, one that copies.
    pub fn new(mode: Mode, log: Option<&[u8]>) -> Self {
        let dir = directory();
        let device = device();
        let leader = log_at(&dir.path().join("leader"));
        let source = match log {
            Some(bytes) => {
                fill(&leader, bytes);
                Source::new(&device, &leader)
            }
            None => Source::copying(&device, Unusable::NoDevice),
        };
        assert_eq!(source.staged().is_none(), log.is_some(), "{:?}", source.staged());
        let follower = log_at(&dir.path().join("follower"));
        let mut endpoint = Endpoint::listen(&device, 0).unwrap();
        let mut session = endpoint.open(SESSION, &follower, mode).unwrap();
        let mut window = LogWindow::new(follower);
        let remote = join(&source, &endpoint, &mut session, &mut window).unwrap();
        assert_eq!((remote.mode(), remote.is_staged()), (mode, log.is_none()));
        Self { remote, session: Some(session), endpoint, window, source, leader, _dir: dir }
    }

    /// What the window shows at an offset.
    pub fn visible(&self, at: u64, len: usize) -> Vec<u8> {
        self.window.log().window_bytes(at, len).to_vec()
    }

    /// Lets the follower do what there is to do; says whether there was anything.
    pub fn step(&mut self) -> bool {
        let Some(session) = &mut self.session else { return false };
        match session.turn(&mut self.window, Some(Duration::ZERO)).unwrap() {
            None => false,
            Some(burst) => {
                if burst.batch_ended {
                    session.acknowledge(REPORTED).unwrap();
                }
                true
            }
        }
    }

    /// Lets both move until the ticket has completed.
    pub fn finish(&mut self, ticket: Ticket) -> Vec<Completion> {
        let started = Instant::now();
        let mut done = Vec::new();
        while done.last().is_none_or(|last: &Completion| last.ticket < ticket) {
            self.remote.kick().unwrap();
            self.step();
            self.remote.poll(&mut done).unwrap();
            assert!(started.elapsed() < PATIENCE, "{ticket:?} never completed: {done:?}");
        }
        done
    }
}
