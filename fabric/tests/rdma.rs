//! What is particular to RDMA, on the guest's soft-RoCE: ends, fences, limits, refusals.

#![cfg(feature = "rdma")]

mod rdma_bed;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farkeep_core::log::LogMap;
use farkeep_fabric::rdma::{ConnectError, Endpoint, Mode, Remote, Source, Unusable, connect};
use farkeep_fabric::{
    Completion, FabricError, LogBytes, LogMemory, LogWindow, RemoteWindow, Sending, Window, WindowError,
};
use farkeep_proto::control::{FabricOffer, RdmaWindow};
use farkeep_proto::window::{RING_AT, TailCell};

use rdma_bed::{
    PATIENCE, Pair, REPORTED, RING_LEN, SESSION, device, directory, fill, is_guest, join, log_at,
};

fn pattern() -> Vec<u8> {
    (0..1usize << 20).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn bytes_of(log: &Arc<LogMap>, at: u64, len: u32) -> LogBytes {
    let memory: Arc<dyn LogMemory> = Arc::<LogMap>::clone(log);
    LogBytes::new(memory, at, len)
}

/// Looks until the link says that it is broken; nothing may complete before.
#[track_caller]
fn breaks(remote: &mut Remote) -> FabricError {
    let started = Instant::now();
    let mut done = Vec::new();
    loop {
        let result = remote.poll(&mut done);
        assert_eq!(done, [], "nothing completes");
        if let Err(error) = result {
            return error;
        }
        assert!(started.elapsed() < PATIENCE, "the end of the link is never noticed");
        std::thread::yield_now();
    }
}

/// A follower in another process.
struct Elsewhere {
    child: Child,
    offer: FabricOffer,
    window: RdmaWindow,
}

impl Elsewhere {
    fn start(mode: Mode) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_follower_of_another_test", "--nocapture"])
            .env("FOLLOWER_MODE", mode.name())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.map(Result::unwrap).find_map(|line| Some(line.split_once("offer ")?.1.to_owned()));
        let line = line.expect("the follower offers");
        let words: Vec<&str> = line.split(' ').collect();
        let descriptor = words[1].as_bytes().chunks(2);
        let descriptor = descriptor.map(|hex| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap());
        let window = RdmaWindow {
            descriptor: descriptor.collect(),
            window_len: words[2].parse().unwrap(),
            mode: mode.name().into(),
        };
        let offer = FabricOffer { address: words[0].to_owned(), ..FabricOffer::default() };
        Self { child, offer, window }
    }

    fn connect(&self, source: &Source) -> Remote {
        connect(source, &self.offer, &self.window, SESSION, PATIENCE).unwrap()
    }

    /// How often its threads have run.
    fn times_run(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let runs = tasks.map(|task| {
            let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
        });
        runs.sum()
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may be dead already; that is what some tests are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No test: the process that [`Elsewhere`] starts.
#[test]
fn the_follower_of_another_test() {
    let Ok(mode) = std::env::var("FOLLOWER_MODE") else { return };
    let mode = Mode::from_name(&mode).unwrap();
    let dir = directory();
    let log = log_at(&dir.path().join("log"));
    // The directory would be left behind by a kill.
    drop(dir);
    let mut endpoint = Endpoint::listen(&device(), 0).unwrap();
    let mut session = endpoint.open(SESSION, &log, mode).unwrap();
    let descriptor: String = session.window().descriptor.iter().map(|byte| format!("{byte:02x}")).collect();
    println!("\noffer {} {descriptor} {}", endpoint.address(), session.window().window_len);
    let mut window = LogWindow::new(log);
    while let Ok(burst) = session.turn(&mut window, None) {
        if burst.is_some_and(|burst| burst.batch_ended) && session.acknowledge(REPORTED).is_err() {
            break;
        }
    }
}

#[test]
fn guest_the_death_of_a_followers_process_is_an_event_even_with_nothing_under_way() {
    if !is_guest() {
        return;
    }
    let dir = directory();
    let log = log_at(&dir.path().join("log"));
    let source = Source::new(&device(), &log);
    for mode in [Mode::Apm, Mode::Gpspm] {
        let mut follower = Elsewhere::start(mode);
        let mut remote = follower.connect(&source);
        follower.child.kill().unwrap();
        let fd = remote.readiness().unwrap();
        let patience = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&patience)), Ok(1), "the descriptor says so");
        assert!(matches!(breaks(&mut remote), FabricError::Closed));
    }
}

#[test]
fn guest_a_followers_process_does_not_run_while_batches_become_durable_in_apm() {
    if !is_guest() {
        return;
    }
    let dir = directory();
    let log = log_at(&dir.path().join("log"));
    let source = Source::new(&device(), &log);
    let follower = Elsewhere::start(Mode::Apm);
    let mut remote = follower.connect(&source);
    let mut commit = |i: u64| {
        remote.write(RING_AT + i * 256, bytes_of(&log, i * 256, 256));
        let ticket = remote.flush();
        remote.kick().unwrap();
        let mut done = Vec::new();
        while done.last().is_none_or(|last: &Completion| last.ticket < ticket) {
            remote.poll(&mut done).unwrap();
        }
    };
    commit(0);
    // Its threads fall asleep once they have seen the connection.
    let mut before = follower.times_run();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = follower.times_run();
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    (1..500).for_each(&mut commit);
    assert_eq!(follower.times_run(), before, "nobody there has run");
}

#[test]
fn guest_a_key_of_a_fenced_session_is_refused_on_a_living_connection() {
    if !is_guest() {
        return;
    }
    let bytes = pattern();
    let mut pair = Pair::new(Mode::Apm, Some(&bytes));
    let log = Arc::clone(pair.window.log());
    // Registered beforehand, while the first session is open and works.
    pair.endpoint.prepare(&log).unwrap();
    pair.remote.write(RING_AT, bytes_of(&pair.leader, 0, 100));
    let ticket = pair.remote.flush();
    pair.finish(ticket);
    let old = pair.session.take().unwrap();
    let stale = old.window();
    old.fence().close().unwrap();
    drop(old);

    // The next session, whose leader tries the key of the first.
    let mut session = pair.endpoint.open(SESSION, &log, Mode::Apm).unwrap();
    assert_ne!(session.window().descriptor, stale.descriptor);
    let offer = pair.endpoint.offer();
    let mut zombie = std::thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&pair.source, &offer, &stale, SESSION, PATIENCE));
        while !connecting.is_finished() {
            session.turn(&mut pair.window, Some(Duration::from_millis(50))).unwrap();
        }
        connecting.join().unwrap().unwrap()
    });
    zombie.write(RING_AT, bytes_of(&pair.leader, 1000, 100));
    zombie.flush();
    zombie.kick().unwrap();
    match breaks(&mut zombie) {
        FabricError::Failed { status } => assert_eq!(status, "remote access error"),
        other => panic!("{other:?}"),
    }
    assert_eq!(log.window_bytes(RING_AT, 100), &bytes[..100], "nothing was stored");
}

#[test]
fn guest_a_fenced_leader_gets_no_further_completion() {
    if !is_guest() {
        return;
    }
    let bytes = pattern();
    for mode in [Mode::Apm, Mode::Gpspm] {
        let mut pair = Pair::new(mode, Some(&bytes));
        pair.remote.write(RING_AT, bytes_of(&pair.leader, 0, 100));
        let ticket = pair.remote.flush();
        pair.finish(ticket);
        let mut session = pair.session.take().unwrap();
        session.fence().close().unwrap();
        session.fence().close().unwrap();
        pair.remote.write(RING_AT + 100, bytes_of(&pair.leader, 1000, 100));
        pair.remote.flush();
        // The card may refuse at once or later.
        if pair.remote.kick().is_ok() {
            breaks(&mut pair.remote);
        }
        assert!(matches!(session.turn(&mut pair.window, None), Err(FabricError::Closed)));
        assert_eq!(pair.visible(RING_AT + 100, 100), vec![0; 100], "nothing was stored");
    }
}

#[test]
fn guest_what_is_persistent_when_the_fence_closes_is_not_answered_any_more() {
    if !is_guest() {
        return;
    }
    let mut pair = Pair::new(Mode::Gpspm, Some(&pattern()));
    pair.remote.write(RING_AT, bytes_of(&pair.leader, 0, 100));
    pair.remote.flush();
    pair.remote.kick().unwrap();
    let mut session = pair.session.take().unwrap();
    let burst = loop {
        if let Some(burst) = session.turn(&mut pair.window, Some(PATIENCE)).unwrap() {
            break burst;
        }
    };
    assert!(burst.batch_ended && burst.stored == 100, "{burst:?}");
    session.fence().close().unwrap();
    assert!(matches!(session.acknowledge(REPORTED), Err(FabricError::Closed)));
    breaks(&mut pair.remote);
}

#[test]
fn guest_a_session_is_open_to_its_own_leader_only() {
    if !is_guest() {
        return;
    }
    let dir = directory();
    let (leader, follower) = (log_at(&dir.path().join("leader")), log_at(&dir.path().join("follower")));
    let source = Source::new(&device(), &leader);
    let mut endpoint = Endpoint::listen(&device(), 0).unwrap();
    let mut session = endpoint.open(SESSION, &follower, Mode::Apm).unwrap();
    let mut window = LogWindow::new(follower);
    let (offer, ready) = (endpoint.offer(), session.window());
    std::thread::scope(|scope| {
        let stranger = scope.spawn(|| connect(&source, &offer, &ready, SESSION + 1, PATIENCE));
        while !stranger.is_finished() {
            session.turn(&mut window, Some(Duration::from_millis(50))).unwrap();
        }
        let result = stranger.join().unwrap();
        assert!(matches!(result, Err(ConnectError::Refused(_))), "{result:?}");
    });
    assert!(!session.is_connected());
    join(&source, &endpoint, &mut session, &mut window).unwrap();
}

#[test]
fn guest_more_batches_than_any_queue_holds_complete_in_order() {
    if !is_guest() {
        return;
    }
    const BATCHES: u64 = 1500;
    let bytes = pattern();
    for (mode, log) in [(Mode::Apm, Some(&bytes[..])), (Mode::Gpspm, Some(&bytes[..])), (Mode::Gpspm, None)] {
        let mut pair = Pair::new(mode, log);
        // Where the leader's own log is not registered it still is where the bytes come from.
        fill(&pair.leader, &bytes);
        let mut blocked = false;
        let mut last = None;
        for i in 0..BATCHES {
            pair.remote.write(RING_AT + i * 320, bytes_of(&pair.leader, i * 320, 320));
            last = Some(pair.remote.flush());
            pair.remote.write_tail(TailCell { epoch: 1, appended_lsn: i, committed_lsn: i });
            blocked |= pair.remote.kick().unwrap() == Sending::Blocked;
        }
        assert!(blocked, "the queues are not that long");
        let done = pair.finish(last.unwrap());
        assert!(done.is_sorted_by(|a, b| a.ticket < b.ticket), "{done:?}");
        assert_eq!(pair.visible(RING_AT, BATCHES as usize * 320), &bytes[..BATCHES as usize * 320]);
    }
}

#[test]
fn guest_a_batch_over_the_rings_end_is_two_writes_and_one_ticket() {
    if !is_guest() {
        return;
    }
    for mode in [Mode::Apm, Mode::Gpspm] {
        let mut pair = Pair::new(mode, Some(&pattern()));
        pair.leader.with_window_mut(RING_AT + RING_LEN - 500, 500, |bytes| bytes.fill(9));
        pair.remote.write(RING_AT + RING_LEN - 500, bytes_of(&pair.leader, RING_LEN - 500, 500));
        pair.remote.write(RING_AT, bytes_of(&pair.leader, 0, 300));
        let ticket = pair.remote.flush();
        let done = pair.finish(ticket);
        assert_eq!(done.len(), 1);
        assert_eq!(pair.visible(RING_AT + RING_LEN - 500, 500), [9; 500]);
        assert_eq!(pair.visible(RING_AT, 300), &pattern()[..300]);
    }
}

/// A window that notes what is made persistent.
struct Noting {
    window: LogWindow,
    flushed: Mutex<Vec<(u64, u64)>>,
    fences: usize,
}

impl Window for Noting {
    fn len(&self) -> u64 {
        self.window.len()
    }

    fn fill(&mut self, offset: u64, len: usize, store: &mut dyn FnMut(&mut [u8])) {
        self.window.fill(offset, len, store);
    }

    fn flush(&mut self, offset: u64, len: u64) -> Result<(), WindowError> {
        self.flushed.lock().unwrap().push((offset, len));
        self.window.flush(offset, len)
    }

    fn fence(&mut self) -> Result<(), WindowError> {
        self.fences += 1;
        if self.fences > 1 {
            return Err(WindowError(std::io::Error::other("the medium fails")));
        }
        self.window.fence()
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        self.window.read(offset, into);
    }
}

#[test]
fn guest_the_agent_persists_what_was_written_and_nothing_else_and_answers_no_failure() {
    if !is_guest() {
        return;
    }
    let mut pair = Pair::new(Mode::Gpspm, Some(&pattern()));
    let mut window = Noting { window: pair.window.clone(), flushed: Mutex::default(), fences: 0 };
    let mut session = pair.session.take().unwrap();
    pair.remote.write(RING_AT + 64, bytes_of(&pair.leader, 64, 100));
    pair.remote.write(RING_AT + 164, bytes_of(&pair.leader, 164, 100));
    pair.remote.write(RING_AT + 8192, bytes_of(&pair.leader, 8192, 50));
    let ticket = pair.remote.flush();
    pair.remote.kick().unwrap();
    while session.turn(&mut window, Some(PATIENCE)).unwrap().is_none_or(|burst| !burst.batch_ended) {}
    assert_eq!(*window.flushed.lock().unwrap(), [(RING_AT + 64, 200), (RING_AT + 8192, 50)]);
    session.acknowledge(REPORTED).unwrap();
    let mut done = Vec::new();
    let started = Instant::now();
    while done.is_empty() {
        pair.remote.poll(&mut done).unwrap();
        assert!(started.elapsed() < PATIENCE);
    }
    assert_eq!(done, [Completion { ticket, reported: Some(REPORTED) }]);

    // From here on the medium fails: that is the end of the session, and no answer.
    pair.remote.write(RING_AT, bytes_of(&pair.leader, 0, 10));
    pair.remote.flush();
    pair.remote.kick().unwrap();
    let failed = loop {
        match session.turn(&mut window, Some(PATIENCE)) {
            Ok(_) => session.acknowledge(REPORTED).unwrap(),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, FabricError::Window(_)), "{failed:?}");
    drop(session);
    breaks(&mut pair.remote);
}

#[test]
fn guest_a_log_on_fsdax_is_not_registrable_says_why_and_ships_through_a_staging_ring() {
    if !is_guest() {
        return;
    }
    let fsdax = std::env::var("FARKEEP_GUEST_FSDAX").unwrap();
    let dir = tempfile::tempdir_in(fsdax).unwrap();
    let log = log_at(&dir.path().join("log"));
    let bytes = pattern();
    fill(&log, &bytes);
    let mut endpoint = Endpoint::listen(&device(), 0).unwrap();
    let refused = endpoint.prepare(&log).unwrap_err();
    assert!(matches!(refused, Unusable::FsDax { .. }), "{refused}");
    assert!(refused.to_string().contains("lies on fsdax"), "{refused}");
    assert!(refused.to_string().contains("put the log on a devdax device"), "{refused}");

    let source = Source::new(&device(), &log);
    assert!(matches!(source.staged(), Some(Unusable::FsDax { .. })), "{:?}", source.staged());
    let memory = directory();
    let follower = log_at(&memory.path().join("follower"));
    let mut session = endpoint.open(SESSION, &follower, Mode::Apm).unwrap();
    let mut window = LogWindow::new(Arc::clone(&follower));
    let mut remote = join(&source, &endpoint, &mut session, &mut window).unwrap();
    assert!(remote.is_staged());
    remote.write(RING_AT, bytes_of(&log, 0, 1 << 20));
    let ticket = remote.flush();
    remote.kick().unwrap();
    let mut done = Vec::new();
    while done.last().is_none_or(|last: &Completion| last.ticket < ticket) {
        remote.poll(&mut done).unwrap();
    }
    assert_eq!(follower.window_bytes(RING_AT, 1 << 20), bytes);
}

#[test]
fn guest_a_devdax_log_is_registered_and_read_and_written_by_the_card() {
    if !is_guest() {
        return;
    }
    let device_file = |name: &str| std::path::PathBuf::from(std::env::var(name).unwrap());
    let leader = log_at(&device_file("FARKEEP_GUEST_DEVDAX"));
    let follower = log_at(&device_file("FARKEEP_GUEST_DEVDAX2"));
    let bytes = pattern();
    fill(&leader, &bytes);
    let source = Source::new(&device(), &leader);
    assert!(source.staged().is_none(), "{:?}", source.staged());
    let mut endpoint = Endpoint::listen(&device(), 0).unwrap();
    let (mode, why) = Mode::choose(true, follower.region().persistence());
    assert_eq!(mode, Mode::Apm, "{why}");
    let mut session = endpoint.open(SESSION, &follower, mode).unwrap();
    let mut window = LogWindow::new(Arc::clone(&follower));
    let mut remote = join(&source, &endpoint, &mut session, &mut window).unwrap();
    remote.write(RING_AT, bytes_of(&leader, 0, 1 << 20));
    let ticket = remote.flush();
    remote.kick().unwrap();
    let mut done = Vec::new();
    while done.last().is_none_or(|last: &Completion| last.ticket < ticket) {
        remote.poll(&mut done).unwrap();
    }
    assert_eq!(follower.window_bytes(RING_AT, 1 << 20), bytes);
}

#[test]
fn guest_too_little_lockable_memory_is_said_with_the_numbers() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    if !is_guest() {
        return;
    }
    let dir = directory();
    let log = log_at(&dir.path().join("log"));
    let device = device();
    let mut endpoint = Endpoint::listen(&device, 0).unwrap();
    // Whoever may lock memory is not limited. The test is a process of its own.
    let mut held = capabilities(None).unwrap();
    held.effective.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, held).unwrap();
    setrlimit(Resource::Memlock, Rlimit { current: Some(8 << 20), maximum: Some(8 << 20) }).unwrap();
    let refused = endpoint.prepare(&log).unwrap_err();
    match &refused {
        Unusable::Memlock { needed, limit, .. } => {
            assert_eq!((*needed, *limit), (log.window_len(), 8 << 20));
        }
        other => panic!("{other}"),
    }
    assert!(refused.to_string().contains("LimitMEMLOCK=infinity"), "{refused}");
    let source = Source::new(&device, &log);
    assert!(matches!(source.staged(), Some(Unusable::Memlock { .. })), "{:?}", source.staged());
}

#[test]
fn guest_memory_is_given_back_when_the_connection_is_gone_and_not_before_it_is_unused() {
    if !is_guest() {
        return;
    }
    let Pair { remote, session, endpoint, window, source, leader, .. } =
        Pair::new(Mode::Apm, Some(&pattern()));
    let logs = [Arc::downgrade(&leader), Arc::downgrade(window.log())];
    drop((leader, source, window));
    assert!(logs[0].upgrade().is_some(), "the connection still reads it");
    assert!(logs[1].upgrade().is_some(), "the session's window still lies in it");
    drop((remote, session, endpoint));
    let started = Instant::now();
    while logs.iter().any(|log| log.upgrade().is_some()) {
        assert!(started.elapsed() < PATIENCE, "the memory is never given back");
        std::thread::sleep(Duration::from_millis(10));
    }
}
