//! Unmodified redis-sentinels in charge of a leader and two followers.

use std::time::Duration;

use farkeep_tests::load::{Ledger, Load};
use farkeep_tests::pair::expect_link_trouble;
use farkeep_tests::{Client, Server, ServerBuilder, Value, wait};

const WRITERS: u64 = 4;

/// A leader, two followers, three sentinels.
struct Group {
    nodes: Vec<Server>,
    sentinels: Vec<Server>,
}

impl Group {
    /// Starts all of them and waits until every sentinel knows everybody.
    fn start() -> Self {
        Self::with_priorities([None, None])
    }

    /// As [`Group::start`], with the `replica-priority` of each follower.
    fn with_priorities(priorities: [Option<u32>; 2]) -> Self {
        let node = |args: &str| {
            let mut node =
                ServerBuilder::farkeep().with_config_file().args("--sync-followers 1").args(args).start();
            expect_link_trouble(&mut node);
            node
        };
        let mut nodes = vec![node("")];
        for priority in priorities {
            nodes.push(node(
                &priority.map_or_else(String::new, |value| format!("--replica-priority {value}")),
            ));
        }
        for follower in &nodes[1..] {
            follower.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", nodes[0].port()));
            follower.client().expect_ok("CONFIG REWRITE");
        }
        let lines = format!(
            "sentinel monitor main 127.0.0.1 {} 2\nsentinel down-after-milliseconds main 1000\n\
             sentinel failover-timeout main 10000",
            nodes[0].port()
        );
        wait::until("both followers to be up", || nodes[1..].iter().all(is_up));
        let sentinels = (0..3).map(|_| ServerBuilder::sentinel(&lines).start()).collect();
        let group = Self { nodes, sentinels };
        group.wait_until_known("2");
        group
    }

    /// Waits until every sentinel counts so many followers in good health, and the two other sentinels.
    fn wait_until_known(&self, followers: &str) {
        for sentinel in &self.sentinels {
            wait::until("a sentinel to know everybody", || {
                let master = fields(&sentinel.client().words("SENTINEL MASTER main"));
                let replicas =
                    sentinel.client().words("SENTINEL REPLICAS main").elements().unwrap_or_default();
                let healthy = replicas.iter().map(fields).filter(|replica| {
                    get(replica, "flags") == "slave" && get(replica, "master-link-status") == "ok"
                });
                get(&master, "num-slaves") == followers
                    && get(&master, "num-other-sentinels") == "2"
                    && healthy.count().to_string() == followers
            });
            let others = sentinel.client().words("SENTINEL SENTINELS main").elements().expect("an array");
            assert_eq!(others.len(), 2);
        }
    }

    /// Waits until all sentinels agree on another leader than that at `before`, and it acknowledges a write; its index.
    #[track_caller]
    fn wait_for_successor(&self, before: u16) -> usize {
        let mut successor = 0;
        wait::until("the sentinels to agree on a new leader that takes writes", || {
            let told: Vec<u16> = self.sentinels.iter().map(told_leader).collect();
            successor = self.nodes.iter().position(|node| node.port() == told[0]).unwrap_or_default();
            told[0] != before
                && told.iter().all(|port| *port == told[0])
                && Client::connect(told[0])
                    .and_then(|mut client| client.try_command(&["SET", "written", "again"]))
                    .is_ok_and(|value| value.is_ok())
        });
        successor
    }

    /// Waits until a node follows another and its link is up.
    #[track_caller]
    fn wait_until_follows(&self, follower: usize, leader: usize) {
        let (follower, port) = (&self.nodes[follower], self.nodes[leader].port().to_string());
        wait::until("a node to follow the new leader", || {
            follower.info("replication", "master_port") == port && is_up(follower)
        });
    }

    fn other_than(&self, one: usize, two: usize) -> usize {
        (0..self.nodes.len()).find(|at| *at != one && *at != two).expect("three nodes")
    }
}

fn is_up(follower: &Server) -> bool {
    follower.info("replication", "master_link_status") == "up"
}

/// A flat list of names and values.
fn fields(value: &Value) -> Vec<(String, String)> {
    let words = value.elements().unwrap_or_default();
    words
        .chunks(2)
        .map(|pair| (pair[0].text().unwrap_or_default(), pair[1].text().unwrap_or_default()))
        .collect()
}

fn get<'a>(fields: &'a [(String, String)], name: &str) -> &'a str {
    fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
}

/// The leader's port, if one asks a sentinel.
fn told_leader(sentinel: &Server) -> u16 {
    let address =
        sentinel.client().words("SENTINEL GET-MASTER-ADDR-BY-NAME main").elements().unwrap_or_default();
    address.get(1).and_then(Value::text).and_then(|port| port.parse().ok()).unwrap_or_default()
}

fn config_says(node: &Server, line: &str) -> bool {
    let text = std::fs::read_to_string(node.config_file()).expect("the file can be read");
    text.lines().any(|found| found == line || found.starts_with(line))
}

/// Writers that go on at the successor.
fn more_writes(node: &Server, ledger: &mut Ledger, round: u64) {
    let load = Load::start(node.port(), WRITERS, round);
    load.wait_for_more(300);
    ledger.merge(load.stop());
}

#[test]
fn a_killed_leader_is_replaced_loses_nothing_and_comes_back_as_follower() {
    let mut group = Group::start();
    let old = group.nodes[0].port();
    let load = Load::start(old, WRITERS, 1);
    load.wait_for_more(500);
    group.nodes[0].kill();
    let mut ledger = load.stop();
    let leader = group.wait_for_successor(old);
    let follower = group.other_than(0, leader);
    group.wait_until_follows(follower, leader);
    ledger.assert_kept_by("the new leader", &mut group.nodes[leader].client());
    ledger.settle(&mut group.nodes[leader].client());
    more_writes(&group.nodes[leader], &mut ledger, 2);

    // It believes to lead, alone; nobody is acknowledged anything, until the sentinels tell it better.
    group.nodes[0].restart();
    group.wait_until_follows(0, leader);
    group.wait_until_known("2");
    let replicaof = format!("replicaof 127.0.0.1 {}", group.nodes[leader].port());
    assert!(config_says(&group.nodes[0], &replicaof) && config_says(&group.nodes[follower], &replicaof));
    assert!(!config_says(&group.nodes[leader], "replicaof"));
    more_writes(&group.nodes[leader], &mut ledger, 3);
    ledger.assert_kept_by("the leader", &mut group.nodes[leader].client());
    let appended = group.nodes[leader].info("farkeep", "farkeep_appended_lsn");
    wait::until("the returned node to have all of it", || {
        group.nodes[0].info("farkeep", "farkeep_applied_lsn") == appended
    });
    ledger.assert_kept_by("the returned node", &mut group.nodes[0].client());
}

#[test]
fn sentinel_failover_moves_the_leader_under_load_without_loss_and_for_good() {
    let mut group = Group::start();
    let old = group.nodes[0].port();
    let load = Load::start(old, WRITERS, 1);
    load.wait_for_more(500);
    group.sentinels[1].client().expect_ok("SENTINEL FAILOVER main");
    let leader = group.wait_for_successor(old);
    let follower = group.other_than(0, leader);
    group.wait_until_follows(follower, leader);
    group.wait_until_follows(0, leader);
    let mut ledger = load.stop();
    ledger.assert_kept_by("the new leader", &mut group.nodes[leader].client());
    ledger.settle(&mut group.nodes[leader].client());
    more_writes(&group.nodes[leader], &mut ledger, 2);
    group.wait_until_known("2");

    // Without sentinels, everybody still knows its place after a restart.
    for sentinel in &mut group.sentinels {
        sentinel.stop();
    }
    for node in &mut group.nodes {
        assert!(node.stop().success());
    }
    for node in &mut group.nodes {
        node.restart();
    }
    group.wait_until_follows(follower, leader);
    group.wait_until_follows(0, leader);
    assert_eq!(group.nodes[leader].info("replication", "role"), "master");
    ledger.assert_kept_by("the new leader", &mut group.nodes[leader].client());
}

/// A stopped leader wakes up in a world that has gone on without it.
#[test]
fn a_leader_that_stood_still_acknowledges_nothing_more_and_follows() {
    let group = Group::start();
    let old = group.nodes[0].port();
    let load = Load::start(old, WRITERS, 1);
    load.wait_for_more(500);
    group.nodes[0].freeze();
    let leader = group.wait_for_successor(old);
    group.nodes[0].thaw();
    group.wait_until_follows(0, leader);
    let mut ledger = load.stop();
    ledger.assert_kept_by("the new leader", &mut group.nodes[leader].client());
    ledger.settle(&mut group.nodes[leader].client());
    more_writes(&group.nodes[leader], &mut ledger, 2);
    ledger.assert_kept_by("the new leader", &mut group.nodes[leader].client());
}

#[test]
fn priorities_decide_and_zero_is_never_promoted() {
    let mut group = Group::with_priorities([Some(0), Some(50)]);
    let old = group.nodes[0].port();
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
