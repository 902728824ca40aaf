//! The cluster: nodes, what is under way between them, the operator, and the faults.
//!
//! One step is one thing that happens somewhere: a node does a piece of its work, some bytes arrive, time passes, a link
//! is cut, a machine loses its power, the operator promotes a follower. After each, every node is held against the
//! oracle.

mod operator;

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use farkeep_core::log::{Claim, Promise};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_core::recover;
use farkeep_fabric::tcp::{self, Agent};
use farkeep_fabric::{
    Completion, FabricError, FabricKind, LogBytes, LogWindow, Outgoing, RemoteWindow, Sending, Ticket, sim,
};
use farkeep_follower::{Action, JoinError};
use farkeep_leader::sync_source::Purpose;
use farkeep_leader::{
    Action as LeaderAction, ImageAt, Join, LeaderError, LocalWatermarks, Peer, Walked, ship,
};
use farkeep_proto::control::{self, Body, Hello, Refuse};
use farkeep_proto::window::TailCell;

use super::node::{Channel, Conn, Leading, Node, Plan, Role};
use super::oracle::Oracle;
use super::rng::Rng;
use super::wire::{WireEnd, wire};

/// A data channel that has not reached the leader yet.
struct Arrival {
    leader: usize,
    session: u64,
    remote: Box<dyn RemoteWindow>,
}

/// A window with less room than it could have, so that batches end inside transactions.
struct Narrow {
    inner: Box<dyn RemoteWindow>,
    room: Rc<Cell<u64>>,
}

impl RemoteWindow for Narrow {
    fn kind(&self) -> FabricKind {
        self.inner.kind()
    }

    fn room(&self) -> u64 {
        self.inner.room().min(self.room.get())
    }

    fn write(&mut self, offset: u64, source: LogBytes) {
        self.inner.write(offset, source);
    }

    fn flush(&mut self) -> Ticket {
        self.inner.flush()
    }

    fn write_tail(&mut self, cell: TailCell) {
        self.inner.write_tail(cell);
    }

    fn kick(&mut self) -> Result<Sending, FabricError> {
        self.inner.kick()
    }

    fn lend(&mut self) -> Option<Outgoing> {
        self.inner.lend()
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        self.inner.poll(done)
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.inner.readiness()
    }
}

/// How the run went, for the curious.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Writes acknowledged to clients.
    pub acknowledged: u64,
    /// Reigns begun.
    pub reigns: u64,
    /// Crashes and kills.
    pub crashes: u64,
    /// Sessions opened.
    pub sessions: u64,
    /// Delta syncs that came to their end.
    pub syncs: u64,
    /// Followers that the operator had synced anew.
    pub resyncs: u64,
    /// Chunks that were damaged, found by a scrub and repaired.
    pub repaired: u64,
    /// How far the stream got.
    pub committed: u64,
}

impl Report {
    /// Adds what another run has counted.
    pub fn add(&mut self, other: &Report) {
        self.acknowledged += other.acknowledged;
        self.reigns += other.reigns;
        self.crashes += other.crashes;
        self.sessions += other.sessions;
        self.syncs += other.syncs;
        self.resyncs += other.resyncs;
        self.repaired += other.repaired;
        self.committed += other.committed;
    }
}

/// Everything there is.
#[expect(missing_debug_implementations, reason = "a failure shows the nodes' summaries")]
pub struct Cluster {
    rng: Rng,
    now_ms: u64,
    plan: Plan,
    nodes: Vec<Node>,
    arrivals: Vec<Arrival>,
    /// Whom the operator believes to be the leader.
    leader: usize,
    /// How many failovers it has begun: what tells its promotions apart.
    failovers: u64,
    /// A node has led since, or does, that the operator knows nothing of.
    usurped: bool,
    /// Pairs of nodes that cannot reach each other until then.
    partitions: Vec<(usize, usize, u64)>,
    /// Until when a node that is down stays down, whatever the operator does: longer than the ring may reach back.
    absent: Vec<u64>,
    /// What windows have room for.
    room: Rc<Cell<u64>>,
    oracle: Oracle,
    report: Report,
    calm: bool,
    trace: bool,
}

impl Cluster {
    /// A cluster of `count` nodes, of which the first leads a new dataset.
    pub fn new(mut rng: Rng, plan: Plan, count: usize, trace: bool) -> Self {
        let nodes = (0..count).map(|index| Node::new(index, &plan)).collect();
        let mut oracle = Oracle::default();
        let mut cluster = Self {
            now_ms: 0,
            room: Rc::new(Cell::new(plan.room)),
            plan,
            nodes,
            arrivals: Vec::new(),
            leader: 0,
            failovers: 0,
            usurped: false,
            partitions: Vec::new(),
            absent: vec![0; count],
            report: Report::default(),
            calm: false,
            trace,
            rng: rng.clone(),
            oracle: Oracle::default(),
        };
        cluster.nodes[0].lead(Promise::default(), false, Lsn::ZERO, &mut rng, &mut oracle);
        for node in &mut cluster.nodes[1..] {
            node.follow(0, 0, &mut rng, &mut oracle);
        }
        cluster.oracle = oracle;
        cluster.rng = rng;
        cluster.report.reigns = 1;
        cluster
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:6} {}", self.now_ms, what());
        }
    }

    /// Lets something happen.
    pub fn step(&mut self) {
        let node = self.rng.index(self.nodes.len());
        if !self.calm && self.rng.below(1000) < self.plan.faults_per_mille {
            self.trouble(node);
        } else {
            match self.rng.below(10) {
                // The leader has the most to do.
                0 => self.turn(self.leader),
                1..4 => self.turn(node),
                4..7 => self.deliver(),
                7 => self.scan(node),
                8 => {
                    self.nodes[node].checkpoint(&mut self.rng);
                    self.crash_if_dark(node);
                    self.nodes[node].walk(&mut self.rng);
                }
                _ => self.pass_time(),
            }
        }
        let thoroughly = self.rng.chance(1);
        for index in 0..self.nodes.len() {
            self.crash_if_dark(index);
            self.nodes[index].examine(&mut self.oracle, thoroughly);
        }
    }

    fn reachable(&self, a: usize, b: usize) -> bool {
        let now = self.now_ms;
        a == b
            || !self
                .partitions
                .iter()
                .any(|&(x, y, until)| now < until && ((a, b) == (x, y) || (a, b) == (y, x)))
    }

    fn pass_time(&mut self) {
        self.now_ms += match self.rng.below(20) {
            // Long silences end sessions; without faults there are none.
            0 if !self.calm => self.rng.between(500, 4000),
            0..5 => self.rng.between(50, 300),
            _ => self.rng.between(1, 30),
        };
        let now = self.now_ms;
        self.partitions.retain(|&(_, _, until)| now < until);
        for index in 0..self.nodes.len() {
            match &mut self.nodes[index].role {
                Role::Down => {}
                Role::Leading(leading) => {
                    for action in leading.machine.tick(now) {
                        match action {
                            LeaderAction::Send(id, body) => {
                                if let Some(conn) = leading.conns.iter().find(|conn| conn.id == Some(id)) {
                                    send(&conn.control, body);
                                }
                            }
                            LeaderAction::Dropped { id, .. } => leading.hang_up(id),
                        }
                    }
                }
                Role::Following(following) => {
                    let actions = following.machine.tick(now);
                    self.carry_out(index, actions);
                }
            }
        }
    }

    /// A node does a piece of its work.
    fn turn(&mut self, index: usize) {
        match self.nodes[index].role {
            Role::Down => {}
            Role::Leading(_) => self.leader_turn(index),
            Role::Following(_) => self.follower_turn(index),
        }
    }

    fn leader_turn(&mut self, index: usize) {
        self.answer_followers(index);
        if !self.nodes[index].leads() {
            return;
        }
        let now = self.now_ms;
        self.collect(index);
        // What is committed is known to the oracle before anybody can learn it, be it from a record of the leader's own
        // log after its power has failed in the middle of this turn.
        self.nodes[index].examine(&mut self.oracle, false);
        self.nodes[index].work(now, &mut self.rng, &mut self.oracle);
        if self.nodes[index].dark() {
            return self.crash_if_dark(index);
        }
        self.nodes[index].examine(&mut self.oracle, false);
        let log = self.nodes[index].memory();
        let Role::Leading(leading) = &mut self.nodes[index].role else { return };
        let Leading { machine, conns, held, .. } = &mut **leading;
        conns.retain_mut(|conn| {
            let (Some(id), Some(remote)) = (conn.id, &mut conn.remote) else { return true };
            let log_due = self.rng.chance(80);
            // What is lent is sent some time later, and only as far as the link takes it then.
            let sent = if self.rng.chance(20) {
                conn.outgoing.take().map_or(Ok(Sending::Done), |mut outgoing| outgoing())
            } else if conn.outgoing.is_none() && self.rng.chance(20) {
                ship::post(machine, id, &mut **remote, &log, log_due);
                conn.outgoing = remote.lend();
                Ok(Sending::Lent)
            } else {
                ship::pump(machine, id, &mut **remote, &log, log_due)
            };
            if sent.is_err() {
                machine.leave(id);
                conn.control.cut();
            }
            sent.is_ok()
        });
        let acknowledged = &mut self.oracle.acknowledged;
        held.release(machine.committed(), |_| *acknowledged += 1);
    }

    /// A leader takes the completions that have arrived.
    fn collect(&mut self, index: usize) {
        let now = self.now_ms;
        let Role::Leading(leading) = &mut self.nodes[index].role else { return };
        let Leading { machine, conns, .. } = &mut **leading;
        let mut done = Vec::new();
        let mut lost = None;
        conns.retain_mut(|conn| {
            let (Some(id), Some(remote)) = (conn.id, &mut conn.remote) else { return true };
            match ship::collect(machine, now, id, &mut **remote, &mut done) {
                Ok(()) => true,
                Err(error) => {
                    if !matches!(error, LeaderError::Fabric(_)) {
                        lost = Some(format!("node {}: {error}", conn.peer));
                    }
                    machine.leave(id);
                    conn.control.cut();
                    false
                }
            }
        });
        assert_eq!(lost, None, "a follower broke the protocol");
    }

    /// A leader reads its control channels.
    fn answer_followers(&mut self, index: usize) {
        let now = self.now_ms;
        let mut renew = None;
        let mut arrived: Vec<Arrival> = Vec::new();
        let (here, rest) = self.arrivals.drain(..).partition(|arrival| arrival.leader == index);
        self.arrivals = rest;
        arrived.extend::<Vec<Arrival>>(here);
        if !matches!(self.nodes[index].role, Role::Leading(_)) {
            return;
        }
        let log = Arc::clone(self.nodes[index].pool().log());
        let Role::Leading(leading) = &mut self.nodes[index].role else { return };
        let Leading { machine, conns, replayer, .. } = &mut **leading;
        for arrival in arrived {
            if let Some(conn) =
                conns.iter_mut().find(|conn| conn.id.is_some_and(|id| id.session() == arrival.session))
            {
                conn.remote = Some(arrival.remote);
            }
        }
        let mut replaced = None;
        for conn in conns.iter_mut() {
            conn.inbox.extend(conn.control.take(4096));
            while let Some((envelope, consumed)) =
                control::decode(&conn.inbox).expect("nobody garbles messages")
            {
                conn.inbox.drain(..consumed);
                match envelope.body {
                    Some(Body::Hello(hello)) => {
                        let peer = Peer {
                            address: "sim".into(),
                            fabrics: vec![FabricKind::Sim, FabricKind::Tcp],
                            unusable: vec![],
                        };
                        let image =
                            ImageAt { position: replayer.position(), image_len: replayer.image_len() };
                        match join(machine, now, &hello, &peer, image, conn, &mut replaced) {
                            Outcome::Answered => {}
                            Outcome::Renew(above) => {
                                renew = renew.into_iter().chain([above]).max_by_key(|above| above.epoch);
                            }
                            Outcome::Check(from) => {
                                // As little at a time as there is: the follower has to come several times.
                                recover::check_kept(&log, from, 1);
                                machine.set_local(LocalWatermarks::of(&log, replayer.checkpoint_lsn()));
                            }
                        }
                    }
                    Some(Body::Ready(ready)) if conn.id.is_some_and(|id| id.session() == ready.session) => {
                        conn.ready = true;
                    }
                    Some(Body::Status(status))
                        if conn.id.is_some_and(|id| id.session() == status.session) =>
                    {
                        // The session may have been dropped meanwhile.
                        let _ = machine.status(now, conn.id.expect("just looked"), &status);
                    }
                    Some(Body::ChunkAnswer(answer))
                        if conn.id.is_some_and(|id| id.session() == answer.session) =>
                    {
                        match machine.walk_answered(now, conn.id.expect("just looked"), &answer) {
                            Ok(Some(Walked { purpose: Purpose::Sync, .. })) => self.report.syncs += 1,
                            Ok(Some(Walked { progress, .. })) => self.report.repaired += progress.differing,
                            // The session may have been dropped meanwhile.
                            Ok(None) | Err(LeaderError::NoSession(_)) => {}
                            Err(error) => panic!("a follower broke the protocol: {error}"),
                        }
                    }
                    Some(Body::Goodbye(_)) => conn.control.cut(),
                    _ => {}
                }
            }
            if let (Some(id), true, true) = (conn.id, conn.ready, conn.remote.is_some())
                && machine.follower(id).is_some_and(|follower| !follower.in_reach())
            {
                match machine.ready(now, id) {
                    Ok(()) => self.report.sessions += 1,
                    Err(_) => conn.control.cut(),
                }
            }
        }
        conns.retain(|conn| {
            let over = conn.control.is_over() || conn.id.is_some_and(|id| replaced == Some(id));
            if let Some(id) = conn.id
                && over
            {
                machine.leave(id);
            }
            !over
        });
        if let Some(above) = renew {
            let known = machine.committed();
            self.say(|| format!("leader {index} begins a reign above epoch {}", above.epoch));
            self.renew(index, above, false, known);
        }
    }

    fn follower_turn(&mut self, index: usize) {
        let now = self.now_ms;
        let Role::Following(following) = &mut self.nodes[index].role else { return };
        let Some(control) = &following.control else { return };
        following.inbox.extend(control.take(4096));
        if control.is_over() && following.inbox.is_empty() {
            let actions = following.machine.disconnected(now, "the control channel is cut");
            return self.carry_out(index, actions);
        }
        loop {
            let Role::Following(following) = &mut self.nodes[index].role else { return };
            let decoded = control::decode(&following.inbox).expect("nobody garbles messages");
            let Some((envelope, consumed)) = decoded else { break };
            following.inbox.drain(..consumed);
            if let Some(Body::Heartbeat(heartbeat)) = &envelope.body {
                let node = &mut self.nodes[index];
                // Over tcp there may be bytes that are not persistent yet, and what is acknowledged has been looked at.
                if node.is_written_into() {
                    node.scan();
                }
                let Role::Following(following) = &node.role else { return };
                let (session, durable) =
                    (following.machine.standing().session, following.machine.progress().durable);
                // Nothing damages a log here.
                assert!(
                    node.dark() || heartbeat.session != session || heartbeat.flushed_lsn <= durable.get(),
                    "node {index}: its log is flushed up to {} and valid up to {durable}",
                    heartbeat.flushed_lsn
                );
            }
            let Role::Following(following) = &mut self.nodes[index].role else { return };
            let actions = following.machine.message(now, envelope.body);
            self.carry_out(index, actions);
        }
        let Role::Following(following) = &mut self.nodes[index].role else { return };
        if following.control.as_ref().is_some_and(WireEnd::is_over) {
            let actions = following.machine.disconnected(now, "the control channel is cut");
            self.carry_out(index, actions);
        }
    }

    /// Does what a follower's machine says, as far as the power lasts.
    fn carry_out(&mut self, index: usize, actions: Vec<Action>) {
        let now = self.now_ms;
        for action in actions {
            if self.nodes[index].dark() {
                return self.crash_if_dark(index);
            }
            if self.trace && !matches!(action, Action::Send(Body::Status(_)) | Action::Connect) {
                self.say(|| format!("node {index}: {action:?}"));
            }
            let Role::Following(following) = &mut self.nodes[index].role else { return };
            match action {
                Action::Connect => {
                    let target = following.target;
                    let Some((ours, theirs)) = self.connect(index, target) else {
                        let Role::Following(following) = &mut self.nodes[index].role else { return };
                        let more = following.machine.disconnected(now, "nobody there");
                        self.carry_out(index, more);
                        continue;
                    };
                    if let Role::Leading(leading) = &mut self.nodes[target].role {
                        let conn = Conn {
                            peer: index,
                            control: theirs,
                            inbox: Vec::new(),
                            id: None,
                            ready: false,
                            remote: None,
                            outgoing: None,
                        };
                        leading.conns.push(conn);
                    }
                    // What has come into the window since it was last looked at may be what somebody was told is durable.
                    self.nodes[index].scan();
                    if self.nodes[index].dark() {
                        return self.crash_if_dark(index);
                    }
                    let Role::Following(following) = &mut self.nodes[index].role else { return };
                    following.control = Some(ours);
                    following.inbox.clear();
                    let more = following.machine.connected(now);
                    self.carry_out(index, more);
                }
                Action::Send(body) => {
                    if let Some(control) = &following.control {
                        send(control, body);
                    }
                }
                Action::Disconnect => {
                    if let Some(control) = following.control.take() {
                        control.cut();
                    }
                    following.inbox.clear();
                }
                Action::CloseWindow => close(following.channel.take()),
                Action::Promise(promise) => {
                    recover::promise(self.nodes[index].pool().log(), promise).expect("promises rise");
                }
                Action::Adopt { dataset_id, ring_len, segment_len } => {
                    self.nodes[index].adopt(dataset_id, ring_len, segment_len);
                }
                Action::Rejoin { end, history } => self.nodes[index].rejoin(end, &history, &mut self.oracle),
                Action::BeginSync { at, begin, history } => {
                    self.nodes[index].begin_sync(at, begin, &history, &mut self.oracle);
                }
                Action::OpenWindow { session, fabric } => {
                    let target = following.target;
                    let window_len = self.nodes[index].pool().log().window_len();
                    let (remote, channel): (Box<dyn RemoteWindow>, _) = match fabric {
                        FabricKind::Tcp => {
                            let (ours, theirs) = wire();
                            (Box::new(tcp::Remote::new(theirs)), Channel::Tcp(ours, Agent::new(window_len)))
                        }
                        _ => {
                            let (remote, far) = sim::link();
                            (Box::new(remote), Channel::OneSided(far))
                        }
                    };
                    let Role::Following(following) = &mut self.nodes[index].role else { return };
                    following.channel = Some(channel);
                    let remote = Box::new(Narrow { inner: remote, room: Rc::clone(&self.room) });
                    self.arrivals.push(Arrival { leader: target, session, remote });
                }
                Action::JoinFailed(_) | Action::SessionLost(_) => {}
                Action::TryRdma { .. } => unreachable!("no leader of a simulated group asks for it"),
            }
        }
        self.crash_if_dark(index);
    }

    fn connect(&self, from: usize, to: usize) -> Option<(WireEnd, WireEnd)> {
        (self.reachable(from, to) && self.nodes[to].leads()).then(wire)
    }

    /// Some bytes arrive somewhere.
    fn deliver(&mut self) {
        let index = self.rng.index(self.nodes.len());
        let count = match self.rng.below(4) {
            0 => self.rng.between(1, 40) as usize,
            1 => self.rng.between(40, 2000) as usize,
            _ => usize::MAX,
        };
        match &mut self.nodes[index].role {
            Role::Down => {}
            Role::Leading(leading) => {
                for conn in &leading.conns {
                    if self.rng.chance(70) {
                        conn.control.arrive(count);
                    }
                }
            }
            Role::Following(following) => {
                if let Some(control) = &following.control
                    && self.rng.chance(50)
                {
                    control.arrive(count);
                }
                self.deliver_data(index, count);
            }
        }
        // Acknowledgements travel as well: the other ends of the followers' data channels.
        for node in &mut self.nodes {
            if let Role::Following(following) = &mut node.role {
                match &mut following.channel {
                    Some(Channel::Tcp(wire, _)) if self.rng.chance(50) => wire.arrive_at_peer(count),
                    Some(Channel::OneSided(far)) if self.rng.chance(50) => {
                        far.complete(self.rng.below(3) as usize);
                    }
                    _ => {}
                }
            }
        }
    }

    fn deliver_data(&mut self, index: usize, count: usize) {
        let log = Arc::clone(self.nodes[index].pool().log());
        let mut window = LogWindow::new(log);
        let Role::Following(following) = &mut self.nodes[index].role else { return };
        match &mut following.channel {
            None => {}
            Some(Channel::OneSided(far)) => {
                far.deliver(&mut window, count).expect("a double's persist");
            }
            Some(Channel::Tcp(wire, agent)) => {
                wire.arrive(count);
                let bytes = wire.take(usize::MAX);
                agent.feed(&bytes, &mut window).expect("a leader keeps to the protocol");
                if agent.persist(&mut window).expect("a double's persist") {
                    self.nodes[index].scan();
                    if self.nodes[index].dark() {
                        return self.crash_if_dark(index);
                    }
                    let Role::Following(following) = &mut self.nodes[index].role else { return };
                    let reported = following.machine.progress().reported();
                    if let Some(Channel::Tcp(wire, agent)) = &mut following.channel
                        && let Some(ack) = agent.acknowledge(reported)
                    {
                        wire.send_all(&ack);
                    }
                    following.machine.heard(self.now_ms);
                }
            }
        }
    }

    fn scan(&mut self, index: usize) {
        // A tcp follower's bytes are persistent only when its agent has said so.
        if let Role::Following(following) = &self.nodes[index].role
            && matches!(following.channel, Some(Channel::OneSided(_)))
        {
            self.nodes[index].scan();
            self.crash_if_dark(index);
        }
    }

    fn crash_if_dark(&mut self, index: usize) {
        if self.nodes[index].dark() {
            self.say(|| format!("node {index} loses its power in the middle of something"));
            self.unplug(index);
            self.nodes[index].power_cut(&mut self.rng, &mut self.oracle);
            self.report.crashes += 1;
        }
    }

    /// The node's connections end with it.
    fn unplug(&mut self, index: usize) {
        match &mut self.nodes[index].role {
            Role::Down => {}
            Role::Leading(leading) => leading.conns.iter().for_each(|conn| conn.control.cut()),
            Role::Following(following) => {
                if let Some(control) = following.control.take() {
                    control.cut();
                }
                close(following.channel.take());
            }
        }
        for node in &mut self.nodes {
            if let Role::Following(following) = &mut node.role
                && following.target == index
            {
                match &mut following.channel {
                    Some(Channel::Tcp(wire, _)) => wire.cut(),
                    Some(Channel::OneSided(far)) => far.cut(),
                    None => {}
                }
            }
        }
        self.arrivals.retain(|arrival| arrival.leader != index);
    }
}

/// What is to be done besides the answer to a `Hello`.
enum Outcome {
    Answered,
    /// Begin a reign above this epoch.
    Renew(Promise),
    /// Read the log back to here.
    Check(Lsn),
}

/// Answers a `Hello`.
fn join(
    machine: &mut farkeep_leader::Leader,
    now_ms: u64,
    hello: &Hello,
    peer: &Peer,
    image: ImageAt,
    conn: &mut Conn,
    replaced: &mut Option<farkeep_leader::FollowerId>,
) -> Outcome {
    let refuse = |control: &WireEnd, refuse: Refuse| send(control, Body::Refuse(refuse));
    match machine.join(now_ms, hello, peer, || Some(image)) {
        Join::Accepted { id, welcome, replaces, .. } => {
            conn.id = Some(id);
            *replaced = replaces;
            send(&conn.control, Body::Welcome(*welcome));
            Outcome::Answered
        }
        Join::Refused(why) => {
            refuse(&conn.control, why);
            Outcome::Answered
        }
        Join::Renew { above, refuse: why } => {
            refuse(&conn.control, why);
            Outcome::Renew(above)
        }
        Join::Unchecked { from, refuse: why } => {
            refuse(&conn.control, why);
            Outcome::Check(from)
        }
    }
}

fn send(control: &WireEnd, body: Body) {
    let mut bytes = Vec::new();
    control::encode(body, &mut bytes);
    control.send_all(&bytes);
}

fn close(channel: Option<Channel>) {
    match channel {
        Some(Channel::Tcp(wire, _)) => wire.cut(),
        Some(Channel::OneSided(mut far)) => far.cut(),
        None => {}
    }
}
