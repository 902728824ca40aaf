//! A leader, two followers, and three unmodified redis-sentinels that watch them.
//!
//! The sentinels and the followers reach a node through a [`Path`] of its own, which is what it announces: so a node can be cut off from
//! all of them, or from some, while its clients still reach it.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::faults::proxy::Path;
use crate::pair::expect_link_trouble;
use crate::server::free_port;
use crate::{Client, Server, ServerBuilder, Value, wait};

/// After how long a silence a sentinel takes a node for down, in ms.
pub const DOWN_AFTER_MS: u64 = 1000;

/// A leader, two followers, three sentinels.
#[derive(Debug)]
pub struct Group {
    /// The first one leads at the start.
    pub nodes: Vec<Server>,
    /// By which sentinels and followers reach each of them.
    pub doors: Vec<Path>,
    /// The connections through the first leader's door by which the second follower follows it.
    pub second_followers: std::ops::Range<u64>,
    /// Three, of which two must agree.
    pub sentinels: Vec<Server>,
}

impl Group {
    /// Starts all of them and waits until every sentinel knows everybody.
    pub fn start() -> Self {
        Self::with_priorities([None, None])
    }

    /// As [`Group::start`], with the `replica-priority` of each follower.
    pub fn with_priorities(priorities: [Option<u32>; 2]) -> Self {
        let ports = [free_port(), free_port(), free_port()];
        let doors: Vec<Path> = ports.iter().map(|&port| Path::to(port)).collect();
        let mut second_followers = 0..0;
        let mut nodes: Vec<Server> = Vec::new();
        for (at, priority) in [None].into_iter().chain(priorities).enumerate() {
            let announced = doors[at].port();
            let mut builder = ServerBuilder::farkeep().port(ports[at]).with_config_file();
            builder = builder
                .args("--sync-followers 1")
                .args(&format!("--replica-announce-ip 127.0.0.1 --replica-announce-port {announced}"));
            if let Some(priority) = priority {
                builder = builder.args(&format!("--replica-priority {priority}"));
            }
            let mut node = builder.start();
            expect_link_trouble(&mut node);
            for door in &doors {
                crate::logs::disturbed(door.port());
            }
            if at > 0 {
                second_followers = doors[0].opened()..0;
                node.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", doors[0].port()));
                node.client().expect_ok("CONFIG REWRITE");
                wait::until("a follower to be up", || is_up(&node));
                second_followers.end = doors[0].opened();
            }
            nodes.push(node);
        }
        let lines = format!(
            "sentinel monitor main 127.0.0.1 {} 2\nsentinel down-after-milliseconds main {DOWN_AFTER_MS}\n\
             sentinel failover-timeout main 10000",
            doors[0].port()
        );
        let sentinels = (0..3).map(|_| ServerBuilder::sentinel(&lines).start()).collect();
        let group = Self { nodes, doors, second_followers, sentinels };
        group.wait_until_known("2");
        group
    }

    /// Under which port sentinels and followers know a node.
    pub fn address(&self, at: usize) -> u16 {
        self.doors[at].port()
    }

    /// Waits until every sentinel counts so many followers in good health, and the two other sentinels.
    pub fn wait_until_known(&self, followers: &str) {
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
    pub fn wait_for_successor(&self, before: u16) -> usize {
        let mut successor = 0;
        wait::until("the sentinels to agree on a new leader that takes writes", || {
            let told: Vec<u16> =
                self.sentinels.iter().map(|sentinel| told_leader(&mut sentinel.client())).collect();
            successor = self.doors.iter().position(|door| door.port() == told[0]).unwrap_or_default();
            told[0] != before
                && told.iter().all(|port| *port == told[0])
                && Client::connect(self.nodes[successor].port())
                    .and_then(|mut client| client.try_command(&["SET", "written", "again"]))
                    .is_ok_and(|value| value.is_ok())
        });
        successor
    }

    /// Waits until a node follows another and its link is up.
    #[track_caller]
    pub fn wait_until_follows(&self, follower: usize, leader: usize) {
        let (follower, port) = (&self.nodes[follower], self.address(leader).to_string());
        // A sentinel tells a leader of its demotion when that has said twice, ten seconds apart, that it leads.
        let follows = wait::holds_within(2 * wait::PATIENCE, || {
            follower.info("replication", "master_port") == port && is_up(follower)
        });
        assert!(follows, "waited in vain for a node to follow the new leader at {port}");
    }

    /// The third node.
    pub fn other_than(&self, one: usize, two: usize) -> usize {
        (0..self.nodes.len()).find(|at| *at != one && *at != two).expect("three nodes")
    }
}

/// Whether a follower's link is up.
pub fn is_up(follower: &Server) -> bool {
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

/// The leader's port, if one asks a sentinel; 0 if it does not say.
pub fn told_leader(sentinel: &mut Client) -> u16 {
    let reply = sentinel.try_command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
    let address = reply.ok().and_then(|reply| reply.elements()).unwrap_or_default();
    address.get(1).and_then(Value::text).and_then(|port| port.parse().ok()).unwrap_or_default()
}

/// Whether a node's configuration file has a line that begins so.
pub fn config_says(node: &Server, line: &str) -> bool {
    let text = std::fs::read_to_string(node.config_file()).expect("the file can be read");
    text.lines().any(|found| found.starts_with(line))
}

/// What the sentinels say while it lasts.
#[derive(Debug)]
pub struct Events {
    heard: Arc<Mutex<Vec<(Instant, String, String)>>>,
    _threads: Vec<JoinHandle<()>>,
}

impl Events {
    /// Listens to all sentinels of a group.
    pub fn listen(group: &Group) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listen = |sentinel: &Server| {
            let mut client = sentinel.client();
            client.set_reply_timeout(Duration::from_secs(600));
            client.words("PSUBSCRIBE *");
            let heard = Arc::clone(&heard);
            std::thread::spawn(move || {
                while let Ok(message) = client.reply() {
                    let words: Vec<_> =
                        message.elements().unwrap_or_default().iter().filter_map(Value::text).collect();
                    if let [_, _, event, text] = &words[..] {
                        heard.lock().expect("no holder panics").push((
                            Instant::now(),
                            event.clone(),
                            text.clone(),
                        ));
                    }
                }
            })
        };
        let threads = group.sentinels.iter().map(listen).collect();
        Self { heard, _threads: threads }
    }

    /// When an event was first heard after a moment, from any of them.
    pub fn first(&self, event: &str, after: Instant) -> Option<Instant> {
        let heard = self.heard.lock().expect("no holder panics");
        heard.iter().filter(|(at, name, _)| name == event && *at >= after).map(|(at, ..)| *at).min()
    }
}
