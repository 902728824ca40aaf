//! A leader and a follower that are linked.

use crate::client::Client;
use crate::server::{Server, ServerBuilder};
use crate::wait;

/// A leader and its follower. The leader acknowledges a write only when the follower has it too.
#[derive(Debug)]
pub struct Pair {
    pub leader: Server,
    pub follower: Server,
}

/// What follows from a broken link, and is expected wherever a test breaks one.
pub const LINK_TROUBLE: &[&str] = &[
    "link",
    "Link",
    "follower",
    "Follower",
    "leader",
    "Leader",
    "Connection",
    "connection",
    "epoch",
    "replica",
];

impl Pair {
    /// A pair with default settings.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(ServerBuilder::farkeep(), ServerBuilder::farkeep())
    }

    /// A pair from two builders; `sync-followers 1` and `replicaof` are added here.
    #[track_caller]
    pub fn with(leader: ServerBuilder, follower: ServerBuilder) -> Self {
        let leader = leader.args("--sync-followers 1").start();
        let address = format!("127.0.0.1 {}", leader.port());
        let follower = follower.args("--sync-followers 1").directive("replicaof", &address).start();
        let pair = Self { leader, follower };
        pair.wait_for_link();
        pair
    }

    /// Waits until the follower says its link is up and the leader acknowledges a write.
    #[track_caller]
    pub fn wait_for_link(&self) {
        wait_for_link(&self.leader, &self.follower);
    }

    /// Waits until the follower has applied all that the leader has appended.
    #[track_caller]
    pub fn wait_until_applied(&self) {
        wait::until("the follower to have applied all of the leader's log", || {
            let appended = self.leader.info("replication", "master_repl_offset");
            !appended.is_empty()
                && self.follower.info("farkeep", "farkeep_applied_lsn") == appended
                && self.follower.info("replication", "master_link_status") == "up"
        });
    }

    /// Declares that both nodes may log trouble with the link.
    pub fn expect_link_trouble(mut self) -> Self {
        expect_link_trouble(&mut self.leader);
        expect_link_trouble(&mut self.follower);
        self
    }
}

/// Declares that a node may log trouble with a link.
pub fn expect_link_trouble(node: &mut Server) {
    for text in LINK_TROUBLE {
        node.expect_log(text);
    }
}

/// Waits until `follower` says its link is up. Its leader may hear a little later that a sync is over.
#[track_caller]
pub fn wait_until_up(follower: &Server) {
    wait::until("the follower's link to be up", || {
        follower.info("replication", "master_link_status") == "up"
    });
}

/// Waits until `follower` says its link is up and `leader` acknowledges a write.
#[track_caller]
pub fn wait_for_link(leader: &Server, follower: &Server) {
    wait_until_up(follower);
    let online = format!("port={},state=online", follower.port());
    wait::until("the leader to count the follower as online", || {
        (0..8).any(|at| leader.info("replication", &format!("slave{at}")).contains(&online))
    });
    wait::until("the leader to acknowledge a write", || {
        Client::connect(leader.port())
            .and_then(|mut client| client.try_command(&["SET", "farkeep-test:link", "up"]))
            .is_ok_and(|value| value.is_ok())
    });
}
