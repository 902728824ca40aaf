//! A group that hardly anybody writes to. Under load the next write brings along whoever was left behind by a change of roles; here nothing does.

use std::collections::HashMap;

use farkeep_tests::group::{Group, fail_over, promote_in_a_transaction, role};
use farkeep_tests::pair::wait_until_up;
use farkeep_tests::server::Server;
use farkeep_tests::sim::Rng;
use farkeep_tests::{seed, wait};

/// Groups of the test.
const GROUPS: u64 = 4;
/// What befalls each.
const ORDERS: usize = 12;

/// What an operator does to a group, and what happens to it.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// A follower is promoted, and sent back.
    Detach,
    /// The same, and it is killed instead of sent back.
    DetachAndKill,
    /// A follower is promoted, and the others are told.
    Promote,
    /// The same as Sentinel does it, the leader having been killed.
    Replace,
    FailOver,
    KillFollower,
    KillLeader,
    KillAll,
    Freeze,
    Resync,
}

const ORDERS_THERE_ARE: [Order; 10] = [
    Order::Detach,
    Order::DetachAndKill,
    Order::Promote,
    Order::Replace,
    Order::FailOver,
    Order::KillFollower,
    Order::KillLeader,
    Order::KillAll,
    Order::Freeze,
    Order::Resync,
];

struct Quiet {
    nodes: Vec<Server>,
    leader: usize,
    sync_followers: usize,
    written: HashMap<String, String>,
    rng: Rng,
}

impl Quiet {
    fn start(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (followers, sync_followers) = (2 + rng.index(2), rng.index(2));
        let directives = format!("--sync-followers {sync_followers} --commit-timeout 60000");
        let nodes = Group::start_with(followers, &directives).0;
        Self { nodes, leader: 0, sync_followers, written: HashMap::new(), rng }
    }

    fn write(&mut self) {
        let (key, value) = (format!("key:{}", self.rng.index(10)), self.rng.number().to_string());
        let leader = &self.nodes[self.leader];
        wait::until("a write to be acknowledged", || {
            leader.client().words(&format!("SET {key} {value}")).is_ok()
        });
        self.written.insert(key, value);
    }

    fn follower(&mut self) -> usize {
        (self.leader + 1 + self.rng.index(self.nodes.len() - 1)) % self.nodes.len()
    }

    fn pause(&mut self) {
        let ms = [0, 0, 1, 10, 100][self.rng.index(5)];
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }

    /// Has a node follow the leader, from its next start on as well.
    fn send_to_leader(&self, node: usize) {
        let order = format!("REPLICAOF 127.0.0.1 {}", self.nodes[self.leader].port());
        // It may have been told by its former leader.
        let told = self.nodes[node].client().words(&order);
        assert!(told.error().is_none(), "{told:?}");
        self.nodes[node].client().expect_ok("CONFIG REWRITE");
    }

    fn carry_out(&mut self, order: Order) {
        let (leader, follower) = (self.leader, self.follower());
        match order {
            Order::Detach => {
                self.nodes[follower].client().expect_ok("REPLICAOF NO ONE");
                self.pause();
                self.send_to_leader(follower);
            }
            Order::DetachAndKill => {
                self.nodes[follower].client().expect_ok("REPLICAOF NO ONE");
                self.restart(&[follower]);
                // Whether its reign came to anything, it does not know any more.
                self.nodes[follower].client().expect_ok("CONFIG SET replace-dataset yes");
                wait_until_up(&self.nodes[follower]);
                self.nodes[follower].client().expect_ok("CONFIG SET replace-dataset no");
            }
            Order::Promote => {
                self.nodes[follower].client().expect_ok("REPLICAOF NO ONE");
                self.lead(follower);
            }
            Order::Replace if self.sync_followers > 0 => {
                self.nodes[leader].kill();
                let new = &self.nodes[follower];
                wait::until("the promotion", || promote_in_a_transaction(new).error().is_none());
                self.nodes[leader].restart();
                self.lead(follower);
            }
            Order::FailOver | Order::Replace => {
                fail_over(&self.nodes[leader], &self.nodes[follower]);
                self.leader = follower;
            }
            Order::KillFollower => self.restart(&[follower]),
            Order::KillLeader => self.restart(&[leader]),
            Order::KillAll => {
                let all: Vec<usize> =
                    (0..self.nodes.len()).map(|at| (at + follower) % self.nodes.len()).collect();
                self.restart(&all);
            }
            Order::Freeze => {
                self.nodes[follower].freeze();
                self.pause();
                self.nodes[follower].thaw();
            }
            Order::Resync => {
                // Once the others hold what was written last.
                let resync = format!("FARKEEP RESYNC 127.0.0.1 {}", self.nodes[follower].port());
                wait::until("the resync to begin", || {
                    self.nodes[leader].client().words(&resync).error().is_none()
                });
            }
        }
    }

    fn lead(&mut self, node: usize) {
        self.nodes[node].client().expect_ok("CONFIG REWRITE");
        self.leader = node;
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            self.pause();
            self.send_to_leader(other);
        }
    }

    fn restart(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|&node| self.nodes[node].kill());
        self.pause();
        nodes.iter().for_each(|&node| self.nodes[node].restart());
    }

    /// Everybody follows the leader, and has applied what it has committed.
    fn is_together(&self) -> bool {
        let leader = &self.nodes[self.leader];
        let slaves = (0..8).map(|at| leader.info("replication", &format!("slave{at}")));
        let online = slaves.filter(|slave| slave.contains("state=online")).count();
        let committed = leader.info("farkeep", "farkeep_committed_lsn");
        let is_one_of_its = |node: &&Server| {
            let info = |section, field| node.info(section, field);
            info("replication", "master_port") == leader.port().to_string()
                && info("replication", "master_link_status") == "up"
                && info("replication", "master_sync_in_progress") == "0"
                && info("farkeep", "farkeep_applied_lsn") == committed
        };
        role(leader) == "master"
            && online == self.nodes.len() - 1
            && self.nodes.iter().filter(is_one_of_its).count() == online
    }
}

/// And nobody has to write anything for it.
#[test]
fn a_quiet_group_comes_together_again_whatever_it_is_told() {
    for seed in seed::seeds(GROUPS) {
        let mut group = Quiet::start(seed);
        let mut story = Vec::new();
        for _ in 0..ORDERS {
            if group.rng.chance(50) {
                group.write();
            }
            let order = ORDERS_THERE_ARE[group.rng.index(ORDERS_THERE_ARE.len())];
            story.push(order);
            group.carry_out(order);
            wait::until(&format!("the group to come together (FARKEEP_SEED={seed}, {story:?})"), || {
                group.is_together()
            });
        }
        for node in &group.nodes {
            for (key, value) in &group.written {
                let found = node.client().words(&format!("GET {key}")).text();
                assert_eq!(found.as_ref(), Some(value), "{key} (FARKEEP_SEED={seed}, {story:?})");
            }
        }
    }
}
