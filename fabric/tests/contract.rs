//! The contract of `RemoteWindow`, held against every fabric.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use farkeep_core::lsn::Lsn;
use farkeep_fabric::sim::{FarEnd, MemoryWindow};
use farkeep_fabric::tcp::frame::{ACK_LEN, Header};
use farkeep_fabric::tcp::{Agent, MAX_IN_FLIGHT_BYTES, Socket};
use farkeep_fabric::window::Reported;
use farkeep_fabric::{Completion, LogBytes, LogMemory, RemoteWindow, Sending, Ticket, Window, shm, sim, tcp};
use farkeep_proto::window::{
    GATE_AT, RING_AT, STAGING_AT, STAGING_SLOT_LEN, STAGING_SLOTS, TAIL_CELL_AT, TAIL_CELL_LEN, TailCell,
};

const WINDOW_LEN: usize = 12 << 20;
/// Data goes behind the tail cell's page.
const DATA_AT: u64 = STAGING_AT;

/// A leader's end, and the means to let the follower's end move.
trait Bed {
    fn remote(&mut self) -> &mut dyn RemoteWindow;
    /// What the window shows at an offset.
    fn visible(&self, at: u64, len: usize) -> Vec<u8>;
    /// What a power cut would leave there.
    fn persistent(&self, at: u64, len: usize) -> Vec<u8>;
    /// The leader's log, with the bytes of [`log`].
    fn log(&self) -> Arc<dyn LogMemory> {
        log()
    }
    /// Lets the follower's end do some of its work; says whether there was any.
    fn step(&mut self) -> bool;
    fn break_link(&mut self);
    /// Whether the follower's processor takes part.
    const REPORTS: bool;
}

struct Tcp {
    remote: tcp::Remote<Socket>,
    socket: TcpStream,
    agent: Agent,
    window: MemoryWindow,
    buffer: Vec<u8>,
}

const REPORTED: Reported =
    Reported { durable: Lsn::new(30), applied: Lsn::new(20), checkpoint: Lsn::new(10) };

impl Tcp {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (leader, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_nodelay(true).unwrap();
        Self {
            remote: tcp::Remote::new(Socket::new(leader)),
            socket,
            agent: Agent::new(WINDOW_LEN as u64),
            window: MemoryWindow::new(WINDOW_LEN),
            // An odd length, so that frames are cut anywhere.
            buffer: vec![0; 70_001],
        }
    }
}

impl Bed for Tcp {
    const REPORTS: bool = true;

    fn remote(&mut self) -> &mut dyn RemoteWindow {
        &mut self.remote
    }

    fn visible(&self, at: u64, len: usize) -> Vec<u8> {
        self.window.visible()[at as usize..][..len].to_vec()
    }

    fn persistent(&self, at: u64, len: usize) -> Vec<u8> {
        self.window.persistent()[at as usize..][..len].to_vec()
    }

    fn step(&mut self) -> bool {
        match self.socket.read(&mut self.buffer) {
            Ok(0) => false,
            Ok(received) => {
                self.agent.feed(&self.buffer[..received], &mut self.window).unwrap();
                self.agent.persist(&mut self.window).unwrap();
                if let Some(ack) = self.agent.acknowledge(REPORTED) {
                    self.socket.write_all(&ack).unwrap();
                }
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn break_link(&mut self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

struct Sim {
    remote: sim::Remote,
    far: FarEnd,
    window: MemoryWindow,
}

impl Sim {
    fn new() -> Self {
        let (remote, far) = sim::link();
        Self { remote, far, window: MemoryWindow::new(WINDOW_LEN) }
    }
}

impl Bed for Sim {
    const REPORTS: bool = false;

    fn remote(&mut self) -> &mut dyn RemoteWindow {
        &mut self.remote
    }

    fn visible(&self, at: u64, len: usize) -> Vec<u8> {
        self.window.visible()[at as usize..][..len].to_vec()
    }

    fn persistent(&self, at: u64, len: usize) -> Vec<u8> {
        self.window.persistent()[at as usize..][..len].to_vec()
    }

    fn step(&mut self) -> bool {
        let delivered = self.far.deliver(&mut self.window, 1000).unwrap();
        self.far.complete(1) + delivered > 0
    }

    fn break_link(&mut self) {
        self.far.cut();
    }
}

struct Shm {
    remote: shm::Remote<MemoryWindow>,
}

impl Shm {
    fn new() -> Self {
        let mut window = MemoryWindow::new(WINDOW_LEN);
        window.write(GATE_AT, &7u64.to_le_bytes());
        Self { remote: shm::Remote::new(window, 7) }
    }
}

impl Bed for Shm {
    const REPORTS: bool = false;

    fn remote(&mut self) -> &mut dyn RemoteWindow {
        &mut self.remote
    }

    fn visible(&self, at: u64, len: usize) -> Vec<u8> {
        self.remote.window().visible()[at as usize..][..len].to_vec()
    }

    fn persistent(&self, at: u64, len: usize) -> Vec<u8> {
        self.remote.window().persistent()[at as usize..][..len].to_vec()
    }

    fn step(&mut self) -> bool {
        false
    }

    fn break_link(&mut self) {
        self.remote.window().fail();
        self.remote.flush();
    }
}

/// Log memory whose bytes tell where they came from.
fn log() -> Arc<dyn LogMemory> {
    static LOG: LazyLock<Arc<dyn LogMemory>> =
        LazyLock::new(|| Arc::new((0..WINDOW_LEN).map(|i| (i * 31 + i / 251) as u8).collect::<Vec<u8>>()));
    Arc::clone(&LOG)
}

/// Lets both ends move until `ticket` has completed.
fn finish(bed: &mut impl Bed, ticket: Ticket) -> Vec<Completion> {
    let mut done = Vec::new();
    for _ in 0..1_000_000 {
        bed.remote().kick().unwrap();
        bed.step();
        bed.remote().poll(&mut done).unwrap();
        if done.last().is_some_and(|last| last.ticket >= ticket) {
            return done;
        }
    }
    panic!("{ticket:?} never completed: {done:?}");
}

/// Lets the follower's end move until nothing is left.
fn settle(bed: &mut impl Bed) {
    let mut idle = 0;
    while idle < 1000 {
        let sending = bed.remote().kick().unwrap();
        idle = if bed.step() || sending == Sending::Blocked { 0 } else { idle + 1 };
    }
}

fn completed_bytes_are_persistent(mut bed: impl Bed) {
    let log = bed.log();
    bed.remote().write(DATA_AT, LogBytes::new(Arc::clone(&log), 100, 5000));
    bed.remote().write(DATA_AT + 9000, LogBytes::new(Arc::clone(&log), 7000, 3));
    let ticket = bed.remote().flush();
    finish(&mut bed, ticket);
    assert_eq!(bed.persistent(DATA_AT, 5000), log.slice(100, 5000));
    assert_eq!(bed.persistent(DATA_AT + 9000, 3), log.slice(7000, 3));
    assert_eq!(bed.persistent(DATA_AT + 5000, 1), [0], "nothing is written beside");
}

fn completions_are_cumulative_and_in_order<B: Bed>(mut bed: B) {
    let log = bed.log();
    let mut tickets = Vec::new();
    for i in 0..20u64 {
        bed.remote().write(DATA_AT + i * 64, LogBytes::new(Arc::clone(&log), i * 64, 64));
        tickets.push(bed.remote().flush());
        bed.remote().kick().unwrap();
    }
    assert!(tickets.is_sorted_by(|a, b| a.next() == *b), "tickets rise one by one");
    let done = finish(&mut bed, *tickets.last().unwrap());
    assert!(done.is_sorted_by(|a, b| a.ticket < b.ticket), "{done:?}");
    assert_eq!(done.last().unwrap().reported, B::REPORTS.then_some(REPORTED));
    let mut more = Vec::new();
    settle(&mut bed);
    bed.remote().poll(&mut more).unwrap();
    assert_eq!(more, [], "a ticket completes once");
}

fn the_tail_cell_arrives_behind_the_data_it_speaks_of(mut bed: impl Bed) {
    let log = bed.log();
    let cell = TailCell { epoch: 3, appended_lsn: 640, committed_lsn: 320 };
    bed.remote().write(DATA_AT, LogBytes::new(Arc::clone(&log), 0, 64 << 10));
    bed.remote().write_tail(TailCell { appended_lsn: 1, ..cell });
    bed.remote().write_tail(cell);
    let ticket = bed.remote().flush();
    loop {
        bed.remote().kick().unwrap();
        let moved = bed.step();
        let bytes: [u8; TAIL_CELL_LEN] = bed.visible(TAIL_CELL_AT, TAIL_CELL_LEN).try_into().unwrap();
        if let Some(seen) = TailCell::from_bytes(&bytes) {
            assert_eq!(seen, cell);
            assert_eq!(bed.visible(DATA_AT, 64 << 10), log.slice(0, 64 << 10));
            break;
        }
        assert!(moved || bed.remote().readiness().is_some(), "the cell never arrives");
    }
    finish(&mut bed, ticket);
}

fn a_flush_covers_what_was_kicked_before_it(mut bed: impl Bed) {
    let log = bed.log();
    bed.remote().write(DATA_AT, LogBytes::new(Arc::clone(&log), 0, 1000));
    bed.remote().write_tail(TailCell::default());
    bed.remote().kick().unwrap();
    settle(&mut bed);
    let mut done = Vec::new();
    bed.remote().poll(&mut done).unwrap();
    assert_eq!(done, [], "nothing completes that was not flushed");
    let ticket = bed.remote().flush();
    finish(&mut bed, ticket);
    assert_eq!(bed.persistent(DATA_AT, 1000), log.slice(0, 1000));
    let ticket = bed.remote().flush();
    finish(&mut bed, ticket);
}

fn a_batch_larger_than_any_buffer_arrives_whole(mut bed: impl Bed) {
    let log = bed.log();
    let len = bed.remote().room().min(WINDOW_LEN as u64 - DATA_AT) as u32;
    let room = bed.remote().room();
    bed.remote().write(DATA_AT, LogBytes::new(Arc::clone(&log), 0, len));
    let ticket = bed.remote().flush();
    finish(&mut bed, ticket);
    assert_eq!(bed.persistent(DATA_AT, len as usize), log.slice(0, len as usize));
    assert_eq!(bed.remote().room(), room, "what has completed makes room again");
}

/// Bytes that are in no log, and in no other call's. Made of copies, because the guest's processor is slow.
fn elsewhere(len: u64, salt: u64) -> Arc<Vec<u8>> {
    let block: Vec<u8> = (0..251u64).map(|i| (i * 7 + salt * 13) as u8).collect();
    let mut bytes = block.repeat((len / 251 + 1) as usize);
    bytes.truncate(len as usize);
    Arc::new(bytes)
}

fn memory_that_is_not_the_log_arrives_in_staging_slots_between_batches(mut bed: impl Bed) {
    const PART_LEN: u64 = 256 << 10;
    const BATCH_LEN: u64 = 5000;
    let log = bed.log();
    let room = bed.remote().room();
    for lap in 0..2 {
        let mut last = Ticket::default();
        let mut parts = Vec::new();
        for part in 0..STAGING_SLOTS * 4 {
            let at = STAGING_AT + part / 4 * STAGING_SLOT_LEN + part % 4 * PART_LEN;
            if bed.remote().room() < PART_LEN + BATCH_LEN {
                finish(&mut bed, last);
            }
            let memory = elsewhere(PART_LEN + part, lap * 100 + part);
            // Nobody but the fabric keeps the memory alive, and it does not begin where the write does.
            bed.remote().write(at, LogBytes::new(memory, part, PART_LEN as u32));
            parts.push(at);
            let from = lap * 1000 + part * BATCH_LEN;
            bed.remote()
                .write(RING_AT + part * BATCH_LEN, LogBytes::new(Arc::clone(&log), from, BATCH_LEN as u32));
            last = bed.remote().flush();
            if part % 3 == 0 {
                bed.remote().kick().unwrap();
            }
        }
        finish(&mut bed, last);
        for (part, at) in (0..).zip(parts) {
            let expected = &elsewhere(PART_LEN + part, lap * 100 + part)[part as usize..];
            assert!(bed.persistent(at, PART_LEN as usize) == expected, "part {part} of lap {lap}");
        }
        let batches = (STAGING_SLOTS * 4 * BATCH_LEN) as usize;
        assert!(bed.persistent(RING_AT, batches) == log.slice(lap * 1000, batches), "the log of lap {lap}");
        assert_eq!(bed.remote().room(), room, "what has completed makes room again");
    }
}

fn a_broken_link_fails_its_open_tickets_and_stays_broken(mut bed: impl Bed) {
    let log = bed.log();
    bed.remote().write(DATA_AT, LogBytes::new(Arc::clone(&log), 0, 1000));
    let first = bed.remote().flush();
    finish(&mut bed, first);
    bed.break_link();
    bed.remote().write(DATA_AT, LogBytes::new(Arc::clone(&log), 0, 1000));
    let lost = bed.remote().flush();
    let mut done = Vec::new();
    let mut failed = false;
    for _ in 0..1_000_000 {
        failed |= bed.remote().kick().is_err();
        failed |= bed.remote().poll(&mut done).is_err();
        if failed {
            break;
        }
        std::thread::yield_now();
    }
    assert!(failed, "the break is noticed");
    assert!(done.iter().all(|completion| completion.ticket < lost), "{done:?}");
    assert!(bed.remote().poll(&mut done).is_err());
}

fn whatever_the_order_of_calls_the_window_ends_up_the_same(mut make: impl FnMut() -> Box<dyn FnOnce(u64)>) {
    for seed in 1..40 {
        make()(seed);
    }
}

fn random_calls(mut bed: impl Bed, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let log = bed.log();
    let mut model = vec![0u8; WINDOW_LEN];
    let mut flushed = Vec::new();
    let mut done = Vec::new();
    let mut outgoing = None;
    for _ in 0..300 {
        match random(9) {
            0 | 1 => {
                let (at, len) = (DATA_AT + random(100_000), 1 + random(20_000));
                if len <= bed.remote().room() {
                    let (memory, from): (Arc<dyn LogMemory>, _) = match random(3) {
                        0 => (elsewhere(len, random(99)), 0),
                        _ => (Arc::clone(&log), random(1 << 20)),
                    };
                    model[at as usize..][..len as usize].copy_from_slice(memory.slice(from, len as usize));
                    bed.remote().write(at, LogBytes::new(memory, from, len as u32));
                }
            }
            2 => flushed.push((bed.remote().flush(), ())),
            3 => bed.remote().write_tail(TailCell { epoch: 1, appended_lsn: random(99), committed_lsn: 0 }),
            4 => {
                let sending = bed.remote().kick().unwrap();
                assert_eq!(sending == Sending::Lent, outgoing.is_some());
            }
            5 if outgoing.is_none() => outgoing = bed.remote().lend(),
            5 => assert!(bed.remote().lend().is_none(), "one at a time"),
            6 => {
                if let Some(outgoing) = &mut outgoing {
                    outgoing().unwrap();
                }
            }
            7 => outgoing = None,
            _ => {
                bed.step();
                bed.remote().poll(&mut done).unwrap();
            }
        }
    }
    drop(outgoing);
    let last = bed.remote().flush();
    let rest = finish(&mut bed, last);
    done.extend(rest);
    assert!(done.is_sorted_by(|a, b| a.ticket < b.ticket), "seed {seed}: {done:?}");
    let model = &model[DATA_AT as usize..];
    assert!(bed.persistent(DATA_AT, model.len()) == model, "seed {seed}: the window differs from the model");
}

macro_rules! contract {
    ($fabric:ident, $new:expr) => {
        mod $fabric {
            use super::*;

            #[test]
            fn completed_bytes_are_persistent() {
                super::completed_bytes_are_persistent($new);
            }
            #[test]
            fn completions_are_cumulative_and_in_order() {
                super::completions_are_cumulative_and_in_order($new);
            }
            #[test]
            fn the_tail_cell_arrives_behind_the_data_it_speaks_of() {
                super::the_tail_cell_arrives_behind_the_data_it_speaks_of($new);
            }
            #[test]
            fn a_flush_covers_what_was_kicked_before_it() {
                super::a_flush_covers_what_was_kicked_before_it($new);
            }
            #[test]
            fn a_batch_larger_than_any_buffer_arrives_whole() {
                super::a_batch_larger_than_any_buffer_arrives_whole($new);
            }
            #[test]
            fn memory_that_is_not_the_log_arrives_in_staging_slots_between_batches() {
                super::memory_that_is_not_the_log_arrives_in_staging_slots_between_batches($new);
            }
            #[test]
            fn a_broken_link_fails_its_open_tickets_and_stays_broken() {
                super::a_broken_link_fails_its_open_tickets_and_stays_broken($new);
            }
            #[test]
            fn whatever_the_order_of_calls_the_window_ends_up_the_same() {
                super::whatever_the_order_of_calls_the_window_ends_up_the_same(|| {
                    Box::new(|seed| random_calls($new, seed))
                });
            }
        }
    };
}

contract!(over_tcp, Tcp::new());
contract!(over_shm, Shm::new());
contract!(over_sim, Sim::new());

#[cfg(feature = "rdma")]
#[expect(dead_code, reason = "the other test program uses more of it")]
mod rdma_bed;

/// In the guest; each of these holds the whole contract, because a bed is expensive there.
#[cfg(feature = "rdma")]
mod over_rdma {
    use std::sync::Arc;

    use farkeep_core::log::LogMap;
    use farkeep_fabric::rdma::Mode;
    use farkeep_fabric::{LogMemory, RemoteWindow};

    use super::{Bed, WINDOW_LEN, log};
    use crate::rdma_bed::{Pair, is_guest};

    struct Rdma<const REPORTS: bool> {
        pair: Pair,
        direct: bool,
    }

    impl<const REPORTS: bool> Rdma<REPORTS> {
        fn new(mode: Mode, direct: bool) -> Self {
            let log = log();
            Self { pair: Pair::new(mode, direct.then(|| log.slice(0, WINDOW_LEN))), direct }
        }
    }

    impl<const REPORTS: bool> Bed for Rdma<REPORTS> {
        const REPORTS: bool = REPORTS;

        fn remote(&mut self) -> &mut dyn RemoteWindow {
            &mut self.pair.remote
        }

        fn visible(&self, at: u64, len: usize) -> Vec<u8> {
            self.pair.visible(at, len)
        }

        fn persistent(&self, at: u64, len: usize) -> Vec<u8> {
            self.pair.visible(at, len)
        }

        fn log(&self) -> Arc<dyn LogMemory> {
            if self.direct { Arc::<LogMap>::clone(&self.pair.leader) } else { log() }
        }

        fn step(&mut self) -> bool {
            self.pair.step()
        }

        fn break_link(&mut self) {
            self.pair.session = None;
        }
    }

    fn the_contract_holds<const REPORTS: bool>(mode: Mode, direct: bool) {
        let new = || Rdma::<REPORTS>::new(mode, direct);
        super::completed_bytes_are_persistent(new());
        super::completions_are_cumulative_and_in_order(new());
        super::the_tail_cell_arrives_behind_the_data_it_speaks_of(new());
        super::a_flush_covers_what_was_kicked_before_it(new());
        super::a_batch_larger_than_any_buffer_arrives_whole(new());
        super::memory_that_is_not_the_log_arrives_in_staging_slots_between_batches(new());
        super::a_broken_link_fails_its_open_tickets_and_stays_broken(new());
        for seed in 1..6 {
            super::random_calls(new(), seed);
        }
    }

    #[test]
    fn guest_the_contract_holds_in_apm() {
        if is_guest() {
            the_contract_holds::<false>(Mode::Apm, true);
        }
    }

    #[test]
    fn guest_the_contract_holds_in_apm_through_a_staging_ring() {
        if is_guest() {
            the_contract_holds::<false>(Mode::Apm, false);
        }
    }

    #[test]
    fn guest_the_contract_holds_in_gpspm() {
        if is_guest() {
            the_contract_holds::<true>(Mode::Gpspm, true);
        }
    }

    #[test]
    fn guest_the_contract_holds_in_gpspm_through_a_staging_ring() {
        if is_guest() {
            the_contract_holds::<true>(Mode::Gpspm, false);
        }
    }
}

#[test]
fn a_frame_outside_the_window_ends_the_channel_and_stores_nothing() {
    use farkeep_fabric::FabricError;
    use farkeep_fabric::tcp::frame::Header;
    let mut window = MemoryWindow::new(4096);
    for (offset, len) in [(4090, 10), (u64::MAX, 1), (u64::MAX - 3, 4), (4097, 0)] {
        let mut agent = Agent::new(window.len());
        let header = Header { offset, len, flush: true, seq: 1 }.to_bytes();
        let result = agent.feed(&[&header[..], &[7; 10]].concat(), &mut window);
        assert!(matches!(result, Err(FabricError::OutsideWindow { .. })), "{offset}+{len}: {result:?}");
    }
    let skipped = Header { offset: 0, len: 0, flush: true, seq: 2 }.to_bytes();
    let result = Agent::new(window.len()).feed(&skipped, &mut window);
    assert!(matches!(result, Err(FabricError::OutOfOrder { expected: 1, found: 2 })), "{result:?}");
    let mut unknown = Header { offset: 0, len: 0, flush: true, seq: 1 }.to_bytes();
    unknown[15] = 0x80;
    let result = Agent::new(window.len()).feed(&unknown, &mut window);
    assert!(matches!(result, Err(FabricError::UnknownFlags { .. })), "{result:?}");
    assert_eq!(window.visible(), vec![0; 4096]);
}

#[test]
fn a_failed_persist_is_never_acknowledged() {
    use farkeep_fabric::tcp::frame::Header;
    let mut window = MemoryWindow::new(4096);
    let mut agent = Agent::new(window.len());
    let header = Header { offset: 0, len: 4, flush: true, seq: 1 }.to_bytes();
    agent.feed(&[&header[..], &[7; 4]].concat(), &mut window).unwrap();
    window.fail();
    assert!(agent.persist(&mut window).is_err());
    assert_eq!(agent.acknowledge(REPORTED), None);
}

#[test]
fn the_blocking_loop_serves_until_it_is_shut_down() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (leader, _) = listener.accept().unwrap();
    let shutdown = socket.try_clone().unwrap();
    let follower = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let mut window = MemoryWindow::new(1 << 20);
        let ended = tcp::serve(socket.as_fd(), &mut window, |_, burst| {
            assert!(burst.stored > 0 || burst.batch_ended);
            REPORTED
        });
        (ended.unwrap_err().to_string(), window.persistent())
    });
    let mut remote = tcp::Remote::new(Socket::new(leader));
    remote.write(DATA_AT, LogBytes::new(log(), 0, 500_000));
    let ticket = remote.flush();
    let mut done = Vec::new();
    while done.is_empty() {
        remote.kick().unwrap();
        remote.poll(&mut done).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(done, [Completion { ticket, reported: Some(REPORTED) }]);
    assert_eq!(remote.room(), MAX_IN_FLIGHT_BYTES);
    shutdown.shutdown(std::net::Shutdown::Both).unwrap();
    let (ended, persistent) = follower.join().unwrap();
    assert_eq!(ended, "the peer closed the connection");
    assert_eq!(&persistent[DATA_AT as usize..][..500_000], log().slice(0, 500_000));
}

#[test]
fn the_blocking_loop_stores_a_frame_in_whatever_pieces_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut leader, _) = listener.accept().unwrap();
    leader.set_nodelay(true).unwrap();
    leader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let follower = std::thread::spawn(move || {
        use std::os::fd::AsFd;
        let mut window = MemoryWindow::new(WINDOW_LEN);
        let _ended = tcp::serve(socket.as_fd(), &mut window, |_, _| REPORTED);
        window.persistent()
    });
    let mut sent = Vec::new();
    for seq in 1..=400_u64 {
        let len = 64_000 + seq * 1801 % 500_000;
        let from = seq * 997;
        sent = log().slice(from, len as usize).to_vec();
        let header = Header { offset: DATA_AT, len: len as u32, flush: true, seq };
        leader.write_all(&header.to_bytes()).unwrap();
        // In three pieces, of which the follower has taken one when the next one comes, or not.
        let mut cuts = [0, seq * 7919 % len, seq * 104_729 % len, len];
        cuts.sort_unstable();
        for cut in cuts.windows(2) {
            leader.write_all(&sent[cut[0] as usize..cut[1] as usize]).unwrap();
            (0..200).for_each(|_| std::thread::yield_now());
        }
        leader.read_exact(&mut [0; ACK_LEN]).unwrap();
    }
    drop(leader);
    assert_eq!(&follower.join().unwrap()[DATA_AT as usize..][..sent.len()], sent);
}
