//! A leader and its followers, with configuration files, that know each other.

use crate::client::Value;
use crate::load::Ledger;
use crate::pair::{expect_link_trouble, wait_for_link};
use crate::server::{Server, ServerBuilder};
use crate::wait;

/// A leader and its followers.
#[derive(Debug)]
pub struct Group(pub Vec<Server>);

impl Group {
    /// A leader that wants one follower per write, and so many followers.
    #[track_caller]
    pub fn start(followers: usize) -> Self {
        Self::start_with(followers, "--sync-followers 1 --commit-timeout 60000")
    }

    /// A leader with these directives and so many followers.
    #[track_caller]
    pub fn start_with(followers: usize, directives: &str) -> Self {
        let node = || ServerBuilder::farkeep().with_config_file().args(directives);
        let leader = node().start();
        let mut nodes = vec![leader];
        for _ in 0..followers {
            let follower = node().start();
            follower.client().expect_ok(&format!("REPLICAOF 127.0.0.1 {}", nodes[0].port()));
            nodes.push(follower);
        }
        for node in &mut nodes {
            expect_link_trouble(node);
        }
        for follower in &nodes[1..] {
            follower.client().expect_ok("CONFIG REWRITE");
            wait_for_link(&nodes[0], follower);
        }
        wait::until("everybody to know everybody", || {
            nodes[1..].iter().all(|node| known_peers(node) == followers)
        });
        Self(nodes)
    }

    /// Which one leads.
    #[track_caller]
    pub fn leader(&self) -> usize {
        self.0.iter().position(|node| role(node) == "master").expect("a leader")
    }

    /// Where clients reach them.
    pub fn ports(&self) -> Vec<u16> {
        self.0.iter().map(Server::port).collect()
    }
}

/// How many followers its leader has told it of, itself among them.
pub fn known_peers(node: &Server) -> usize {
    node.info("farkeep", "farkeep_peers").split(',').count()
}

/// How far a FAILOVER is.
pub fn state(node: &Server) -> String {
    node.info("replication", "master_failover_state")
}

/// `master` or `slave`.
pub fn role(node: &Server) -> String {
    node.info("replication", "role")
}

/// Clients may have been told nothing but where not to write.
#[track_caller]
pub fn assert_only_redirects(ledger: &Ledger) {
    let others: Vec<_> = ledger.errors.iter().filter(|(text, _)| !text.contains("READONLY")).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Promotes it as Sentinel does.
pub fn promote_in_a_transaction(node: &Server) -> Value {
    let mut client = node.client();
    client.expect_ok("MULTI");
    client.words("REPLICAOF NO ONE");
    client.words("EXEC")
}

/// FAILOVER from one to the other, to its end.
#[track_caller]
pub fn fail_over(from: &Server, to: &Server) {
    from.client().expect_ok(&format!("FAILOVER TO 127.0.0.1 {}", to.port()));
    wait::until("the failover to be over", || state(from) == "no-failover" && role(from) == "slave");
    assert_eq!(role(to), "master");
    assert_eq!(from.info("replication", "master_port"), to.port().to_string());
    assert_eq!(from.info("replication", "master_link_status"), "up");
}

/// Waits for it to have so many followers.
#[track_caller]
pub fn wait_for_followers(leader: &Server, count: usize) {
    wait::until("the followers", || {
        leader.info("farkeep", "farkeep_followers_in_reach") == count.to_string()
    });
}
