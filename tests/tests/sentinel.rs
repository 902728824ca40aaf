//! Unmodified redis-sentinels in charge of a leader and two followers, under some 1,600 acknowledged writes a second.
//!
//! What the bar asks for is asserted: nothing acknowledged is lost. How long a fault lasts for a client is told, split into what the
//! sentinels take to find out and to decide, and the rest.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use farkeep_tests::faults::clients::Clients;
use farkeep_tests::faults::history::History;
use farkeep_tests::sentinel::{Events, Group, config_says, told_leader};
use farkeep_tests::{Client, binary, seed, wait};

/// Clients that go where the sentinels say, and how long each rests after a write: together with one client that stays with
/// the first leader they make some 1,600 writes a second.
const WRITERS: usize = 4;
const PAUSE: Duration = Duration::from_micros(2_500);

/// A group with clients at work.
struct Scene {
    group: Group,
    events: Events,
    clients: Clients,
    began: Instant,
    guide: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Scene {
    fn start() -> Self {
        Self::with(Group::start())
    }

    fn with(group: Group) -> Self {
        let ports: Vec<u16> = group.nodes.iter().map(|node| node.port()).collect();
        let began = Instant::now();
        let clients = Clients::start(&ports, WRITERS, PAUSE, seed::fresh());
        let stop = Arc::new(AtomicBool::new(false));
        let guide = guide(&group, &clients, Arc::clone(&stop));
        let events = Events::listen(&group);
        let scene = Self { group, events, clients, began, guide: Some((stop, guide)) };
        scene.clients.shared.wait_for_more(1_000);
        scene
    }

    /// The node that leads, as all sentinels say, once it is another one than `before` and takes writes.
    #[track_caller]
    fn successor(&self, before: usize) -> usize {
        self.group.wait_for_successor(self.group.address(before))
    }

    /// Waits until both others follow the leader, and ends the clients.
    fn end(&mut self, leader: usize) -> History {
        self.clients.shared.wait_for_more(500);
        for at in (0..3).filter(|&at| at != leader) {
            self.group.wait_until_follows(at, leader);
        }
        self.end_clients()
    }

    /// As [`Scene::end`], without waiting for the first leader: what it acknowledges alone, if it does, it has by now.
    fn end_on_time(&mut self, leader: usize) -> History {
        self.group.wait_until_follows(self.group.other_than(0, leader), leader);
        self.clients.shared.wait_for_more(1_000);
        self.end_clients()
    }

    fn end_clients(&mut self) -> History {
        let (stop, thread) = self.guide.take().expect("it ends once");
        stop.store(true, Ordering::SeqCst);
        thread.join().expect("the guide does not panic");
        let idle = Clients::start(&[], 0, PAUSE, 0);
        std::mem::replace(&mut self.clients, idle).stop()
    }

    /// Nothing is lost, on the leader and on those that follow it.
    #[track_caller]
    fn check(&self, history: &History, leader: usize) {
        let followers: Vec<usize> = (0..3).filter(|&at| at != leader).collect();
        self.check_on(history, leader, &followers);
    }

    #[track_caller]
    fn check_on(&self, history: &History, leader: usize, followers: &[usize]) {
        history.assert_kept_by("the leader", &mut self.group.nodes[leader].client());
        let appended = self.group.nodes[leader].info("farkeep", "farkeep_appended_lsn");
        for &at in followers {
            wait::until("a follower to have all of it", || {
                self.group.nodes[at].info("farkeep", "farkeep_applied_lsn") == appended
            });
            history.assert_kept_by("a follower", &mut self.group.nodes[at].client());
        }
    }

    /// Tells how long a fault lasted.
    fn tell(&self, what: &str, history: &History, fault: Instant, old: usize) {
        let ms = |at: Instant| at.saturating_duration_since(self.began).as_millis() as u64;
        let after =
            |at: Option<Instant>| at.map_or_else(|| "-".to_owned(), |at| (ms(at) - ms(fault)).to_string());
        let times = history.acknowledgements();
        let since = ms(fault);
        let per_s = times.iter().filter(|(at, _)| *at < since).count() as u64 * 1000 / since.max(1);
        let last_old = times.iter().rev().find(|(_, node)| *node == old).map_or(0, |(at, _)| *at);
        let first_new = times.iter().find(|(at, node)| *node != old && *at >= since).map_or(0, |(at, _)| *at);
        let decided = self.events.first("+failover-state-send-slaveof-noone", fault);
        let first = first_new.saturating_sub(since);
        let ours = decided.map_or(0, |at| first_new.saturating_sub(ms(at)));
        println!(
            "{what}: {per_s} writes/s before; the old leader acknowledged until {} ms after the fault; in ms after the fault: \
             down {}, decided {}, promotion seen {}; first accepted write {first}, which is {ours} after the decision; {} acknowledged, \
             none lost",
            i128::from(last_old) - i128::from(since),
            after(self.events.first("+odown", fault)),
            after(decided),
            after(self.events.first("+promoted-slave", fault)),
            times.len(),
        );
    }
}

/// Leads the clients where the sentinels say.
fn guide(group: &Group, clients: &Clients, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    let shared = Arc::clone(&clients.shared);
    let sentinel = group.sentinels[0].port();
    let addresses: Vec<u16> = (0..3).map(|at| group.address(at)).collect();
    std::thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            let told = Client::connect(sentinel).map(|mut client| told_leader(&mut client));
            if let Ok(told) = told
                && let Some(at) = addresses.iter().position(|address| *address == told)
            {
                shared.leader.store(at, Ordering::SeqCst);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

#[test]
fn a_killed_leader_is_replaced_loses_nothing_and_comes_back_as_follower() {
    let mut scene = Scene::start();
    let fault = Instant::now();
    scene.group.nodes[0].kill();
    let leader = scene.successor(0);
    let follower = scene.group.other_than(0, leader);
    scene.group.wait_until_follows(follower, leader);
    // It believes to lead, alone; nobody is acknowledged anything, until the sentinels tell it better.
    scene.group.nodes[0].restart();
    let history = scene.end(leader);
    scene.tell("kill -9", &history, fault, 0);
    scene.check(&history, leader);
    let group = &scene.group;
    group.wait_until_known("2");
    let replicaof = format!("replicaof 127.0.0.1 {}", group.address(leader));
    assert!(config_says(&group.nodes[0], &replicaof) && config_says(&group.nodes[follower], &replicaof));
    assert!(!config_says(&group.nodes[leader], "replicaof"));
}

#[test]
fn sentinel_failover_moves_the_leader_under_load_without_loss_and_for_good() {
    let mut scene = Scene::start();
    let fault = Instant::now();
    scene.group.sentinels[1].client().expect_ok("SENTINEL FAILOVER main");
    let leader = scene.successor(0);
    let history = scene.end(leader);
    scene.tell("SENTINEL FAILOVER", &history, fault, 0);
    scene.check(&history, leader);
    scene.group.wait_until_known("2");

    // Without sentinels, everybody still knows its place after a restart.
    let Scene { mut group, .. } = scene;
    for sentinel in &mut group.sentinels {
        sentinel.stop();
    }
    for node in &mut group.nodes {
        assert!(node.stop().success());
    }
    for node in &mut group.nodes {
        node.restart();
    }
    for at in (0..3).filter(|&at| at != leader) {
        group.wait_until_follows(at, leader);
    }
    assert_eq!(group.nodes[leader].info("replication", "role"), "master");
    history.assert_kept_by("the new leader", &mut group.nodes[leader].client());
}

/// A stopped leader wakes up in a world that has gone on without it.
#[test]
fn a_leader_that_stood_still_acknowledges_nothing_more_and_follows() {
    let mut scene = Scene::start();
    let fault = Instant::now();
    scene.group.nodes[0].freeze();
    let leader = scene.successor(0);
    scene.group.nodes[0].thaw();
    let history = scene.end(leader);
    scene.tell("SIGSTOP + SIGCONT", &history, fault, 0);
    scene.check(&history, leader);
}

/// As before, but it wakes up at the worst moment: its successor has been promoted, and the sentinels have not told the other
/// follower yet. With that one it could go on acknowledging.
#[test]
fn a_leader_that_wakes_up_between_promotion_and_reconfiguration_acknowledges_nothing_that_is_lost() {
    let mut scene = Scene::start();
    let fault = Instant::now();
    scene.group.nodes[0].freeze();
    wait::until("a follower to be promoted", || {
        (1..3).any(|at| scene.group.nodes[at].info("replication", "role") == "master")
    });
    scene.group.nodes[0].thaw();
    let leader = scene.successor(0);
    let history = scene.end_on_time(leader);
    scene.tell("SIGSTOP + SIGCONT at the promotion", &history, fault, 0);
    scene.check_on(&history, leader, &[scene.group.other_than(0, leader)]);
}

/// The sentinels and the follower that they prefer do not reach the leader any more; its clients and the other follower do.
#[test]
fn a_leader_that_only_clients_and_one_follower_reach_acknowledges_nothing_that_is_lost() {
    let mut scene = Scene::with(Group::with_priorities([Some(10), Some(100)]));
    let fault = Instant::now();
    scene.group.doors[0].cut_but(scene.group.second_followers.clone());
    let leader = scene.successor(0);
    assert_eq!(leader, 1);
    let history = scene.end_on_time(leader);
    scene.tell("the leader cut off from sentinels and one follower", &history, fault, 0);
    scene.check_on(&history, leader, &[scene.group.other_than(0, leader)]);
}

/// The disk was lost, the process is started again by itself, quicker than the sentinels notice. Redis's followers would now
/// take over its empty dataset.
#[test]
fn a_leader_that_comes_back_with_an_empty_pool_wipes_nobody() {
    let mut group = Group::start();
    let mut client = group.nodes[0].client();
    for number in 0..100 {
        assert!(client.command(&["SET", &format!("key:{number}"), "kept"]).is_ok());
    }
    let appended = group.nodes[0].info("farkeep", "farkeep_appended_lsn");
    for node in &group.nodes[1..] {
        wait::until("a follower to have all of it", || {
            node.info("farkeep", "farkeep_applied_lsn") == appended
        });
    }
    for text in ["refuses", "dataset"] {
        group.nodes.iter_mut().for_each(|node| node.expect_log(text));
    }
    group.nodes[0].kill();
    std::fs::remove_dir_all(group.nodes[0].pool()).expect("the pool can be removed");
    group.nodes[0].restart();
    for at in 1..3 {
        wait::until("a follower to refuse the empty leader", || {
            group.nodes[at].info("farkeep", "farkeep_link_down_reason").contains("dataset")
        });
        assert_eq!(group.nodes[at].client().words("DBSIZE").int(), Some(100));
    }
    assert!(
        group.nodes[0].client().words("SET a b").error().is_some_and(|text| text.starts_with("NOREPLICAS"))
    );
}

#[test]
fn redis_py_finds_leader_and_followers_and_follows_a_failover() {
    let group = Group::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/sentinel.py");
    let output = Command::new(binary::python())
        .arg(script)
        .args(group.sentinels.iter().map(|sentinel| sentinel.port().to_string()))
        .output()
        .expect("python starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn priorities_decide_and_zero_is_never_promoted() {
    let mut group = Group::with_priorities([Some(0), Some(50)]);
    let old = group.address(0);
    group.nodes[0].kill();
    assert_eq!(group.wait_for_successor(old), 2);
    group.wait_until_follows(1, 2);
}

/// What sentinels say to each other, they say on leader and followers.
#[test]
fn sentinels_greet_each_other_on_every_node() {
    let group = Group::start();
    for node in &group.nodes {
        let mut client = node.client();
        client.set_reply_timeout(Duration::from_secs(20));
        client.words("SUBSCRIBE __sentinel__:hello");
        let mut heard = std::collections::BTreeSet::new();
        while heard.len() < 3 {
            let parts = client.reply().expect("a greeting").elements().expect("an array");
            let text = parts[2].text().expect("a text");
            heard.insert(text.split(',').nth(1).expect("a port").to_owned());
        }
    }
}
