//! What the engine says about itself: ROLE and INFO.

use farkeep_core::heap::View;
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::FabricKind;
use farkeep_follower::Link;
use farkeep_leader::lag::{Lag, Stage};
use farkeep_leader::sync_source::Purpose;
use farkeep_leader::{Availability, FollowerEntry, FollowerState, Leader};

use super::Engine;
use super::role::Role;
use crate::commands::info::snapshot::{
    DbInfo, EngineInfo, FollowerInfo, LeaderLinkInfo, RoleInfo, TimesInfo, WalkInfo,
};
use crate::link::Followership;
use crate::node::Node;
use crate::pubsub::Topic;
use crate::replication::LeaderAddress;
use crate::worker::Now;

/// ROLE's answer.
#[derive(Debug)]
pub enum RoleReport {
    /// This node leads.
    Leader {
        /// The end of the log.
        offset: Lsn,
        /// Host, port and durable position of each follower in reach.
        followers: Vec<(String, u16, Lsn)>,
    },
    /// This node follows.
    Follower {
        /// The leader's host.
        host: String,
        /// The leader's port.
        port: u16,
        /// `connect`, `connecting`, `sync` or `connected`.
        state: &'static str,
        /// What is durable here.
        offset: i64,
    },
}

/// How a follower's link stands, in the terms of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkState {
    /// There is no session, or its window is not open.
    Down,
    /// A session runs, but this node has not got what it takes to serve yet.
    Syncing,
    /// A session runs, its window takes the log, and clients are served: what Sentinel may rely on.
    Up,
}

impl Engine {
    /// How the link stands.
    pub(super) fn link_state(&self, node: &Node, follows: &Followership) -> LinkState {
        let in_session = follows.machine.link() == Link::Following;
        let serves = self.keystore.is_some() && !self.pool.log().state().mid_sync;
        match (in_session, serves) {
            (true, false) => LinkState::Syncing,
            (true, true) if node.window_is_open() => LinkState::Up,
            _ => LinkState::Down,
        }
    }

    /// Something has happened by which the link may have come up. If it has, it is noted, so that its loss can be told.
    pub fn note_link(&mut self, node: &Node) {
        let mut up = false;
        if let Some(follows) = &mut *node.followership()
            && self.link_state(node, follows) == LinkState::Up
        {
            follows.note_up();
            up = true;
        }
        if up {
            self.link_is_up(node);
        }
    }

    /// How far the log is, to be compared with others ([`EpochHistory::standing`](farkeep_core::log::EpochHistory::standing)): an epoch and the end of a
    /// record. A follower takes over a new leader's history before it has any record of it, and is then not ahead of one that holds more of
    /// the reign before.
    pub(super) fn position(&self, node: &Node) -> (Epoch, Lsn) {
        let log = self.pool.log();
        let history = log.history();
        let (last, end) = match &*node.followership() {
            Some(follows) => (
                follows.tail.as_ref().map_or(Epoch::ZERO, |tail| tail.end().epoch),
                follows.machine.progress().durable,
            ),
            None => (history.epoch(), log.durable()),
        };
        history.standing(&log.geometry(), last, end)
    }

    /// ROLE.
    pub fn role_report(&self, node: &Node) -> RoleReport {
        if let Role::Leader(leading) = &self.role {
            let followers = leading.machine.followers().filter(|follower| follower.counts());
            return RoleReport::Leader {
                offset: leading.machine.appended(),
                followers: followers.map(|f| (f.address.clone(), f.port, f.durable)).collect(),
            };
        }
        let follows = node.followership();
        let Some(follows) = &*follows else {
            return RoleReport::Leader { offset: self.committed, followers: Vec::new() };
        };
        let state = match follows.machine.link() {
            Link::Following if self.link_state(node, follows) == LinkState::Up => "connected",
            Link::Following | Link::Joining => "sync",
            Link::Connecting => "connecting",
            Link::Detached | Link::Waiting => "connect",
        };
        let offset = follows.machine.progress().durable.get() as i64;
        RoleReport::Follower { host: follows.leader.host.clone(), port: follows.leader.port, state, offset }
    }

    /// Where the followers of this leader are, and whether they are in reach; `None` if this node does not lead.
    pub fn follower_addresses(&self) -> Option<Vec<(LeaderAddress, bool)>> {
        let Role::Leader(leading) = &self.role else { return None };
        let address = |follower: &FollowerEntry| {
            (LeaderAddress { host: follower.address.clone(), port: follower.port }, follower.in_reach())
        };
        Some(leading.machine.followers().map(address).collect())
    }

    /// INFO.
    pub fn info(&self, node: &Node, now: Now) -> EngineInfo {
        let config = node.config();
        let log = self.pool.log();
        let state = log.state();
        let reigns = state.history.reigns();
        let persistence = log.region().persistence();
        let position = self.position(node);
        let mut info = EngineInfo {
            replid: reigns.last().map_or_else(|| "0".repeat(40), |reign| reign.replid.to_string()),
            previous_replid: reigns.iter().rev().nth(1).map_or_else(String::new, |r| r.replid.to_string()),
            reign_start_lsn: (reigns.len() > 1).then(|| reigns.last().map_or(0, |reign| reign.start.get())),
            epoch: state.history.epoch().get(),
            epoch_shown: state.history.epoch().to_string(),
            log_epoch: position.0.get(),
            log_end_lsn: position.1.get(),
            oldest_lsn: log.oldest().get(),
            checkpoint_lsn: node.marks.checkpoint().get(),
            applied_lsn: node.marks.applied().get(),
            committed_lsn: self.committed.get(),
            durable_lsn: log.durable().get(),
            appended_lsn: log.appended().get(),
            pool: self.pool.path().display().to_string(),
            log: self.pool.log_path().display().to_string(),
            durability: persistence.domain.name().to_owned(),
            durability_reason: persistence.why.clone(),
            dataset_id: hex(&state.dataset_id),
            node_id: hex(&log.node_id()),
            log_len_bytes: log.geometry().ring_len(),
            sync_followers: config.sync_followers,
            good_followers: (config.good_replicas_to_write() > 0).then_some(0),
            loading: self.keystore.is_none(),
            failure: log.stopped().unwrap_or_default().to_owned(),
            failover_state: self.failover_state(),
            reigns: reigns
                .iter()
                .map(|reign| (reign.epoch.to_string(), reign.replid.to_string(), reign.start.get()))
                .collect(),
            promised_epoch: state.promised.epoch.to_string(),
            resumes_refused: self.counters.resumes_refused,
            transactions: self.counters.transactions,
            image_used_peak_bytes: self.counters.used_peak_bytes,
            pubsub_channels: self.pubsub.len(Topic::Channel),
            pubsub_patterns: self.pubsub.len(Topic::Pattern),
            pubsub_shard_channels: self.pubsub.len(Topic::Shard),
            ..EngineInfo::default()
        };
        match node.rdma.device() {
            Ok(device) => info.rdma_device = device,
            Err(why) => why.clone_into(&mut info.rdma_unusable),
        }
        match &self.role {
            Role::Leader(leading) => {
                let machine = &leading.machine;
                info.durable_lsn = machine.durable().get();
                info.appended_lsn = machine.appended().get();
                info.image_used_bytes = leading.heap.used_bytes();
                info.private_pages = leading.heap.private_bytes() / farkeep_core::heap::PAGE_LEN;
                info.redo_bytes = machine.appended().get().saturating_sub(self.counters.redo_start.get());
                info.log_used_bytes = machine.appended().get().saturating_sub(machine.floor().get());
                info.followers_wanted = machine.wanted();
                info.followers_in_reach = machine.followers().filter(|f| f.counts()).count();
                info.walks = self.walked;
                info.degraded = matches!(machine.availability(), Availability::Degraded { .. });
                info.refusing = leading.refuses_writes();
                info.good_followers = info.good_followers.map(|_| machine.good_followers());
                info.times = times(machine, now);
                let lag = |position| machine.lag().appends.lag(position, now.us);
                let followers = machine.followers().map(|follower| FollowerInfo {
                    node_id: hex(&follower.node_id),
                    state: follower.state.name(),
                    posted_lsn: follower.shipped.get(),
                    lag: [follower.shipped, follower.durable, follower.applied].map(lag),
                    stages: [&follower.stages.posted, &follower.stages.durable, &follower.stages.applied]
                        .map(Stage::report),
                    silent_ms: now.ms.saturating_sub(follower.last_heard_ms),
                    ip: follower.address.clone(),
                    port: follower.port,
                    online: follower.in_reach(),
                    durable_lsn: follower.durable.get(),
                    applied_lsn: follower.applied.get(),
                    checkpoint_lsn: follower.checkpoint.get(),
                    silent_s: follower.silent_s(now.ms),
                    fabric: follower.fabric.name().to_owned(),
                    fabric_reason: follower.fabric_reason.clone(),
                    mode: leading.sessions.mode(follower.id),
                    syncing: follower.state == FollowerState::Syncing,
                    walk: follower.walk().map(|(purpose, progress)| WalkInfo {
                        purpose: match purpose {
                            Purpose::Sync => "sync",
                            Purpose::Scrub => "scrub",
                        },
                        image_bytes: progress.image_len,
                        settled_bytes: progress.walked_bytes,
                        sent_bytes: progress.sent_bytes,
                        differing: progress.differing,
                        elapsed_ms: now.ms.saturating_sub(progress.since_ms),
                    }),
                });
                let lost = leading.sessions.lost().map(|(name, why)| (name.to_owned(), why.to_owned()));
                info.role = RoleInfo::Leader { followers: followers.collect(), lost: lost.collect() };
            }
            Role::Follower(following) => {
                info.image_used_bytes = following.view.as_ref().map_or(0, View::image_len);
                if let Some(follows) = &*node.followership() {
                    let progress = follows.machine.progress();
                    let standing = follows.machine.standing();
                    info.committed_lsn = progress.committed.get();
                    info.durable_lsn = progress.durable.get();
                    info.appended_lsn = progress.durable.get();
                    info.log_used_bytes = progress.durable.get().saturating_sub(progress.checkpoint.get());
                    info.received_bytes = follows.received_bytes;
                    let link = self.link_state(node, follows);
                    let up = link == LinkState::Up;
                    info.role = RoleInfo::Follower(Box::new(LeaderLinkInfo {
                        host: follows.leader.host.clone(),
                        port: follows.leader.port,
                        up,
                        syncing: link == LinkState::Syncing,
                        silent_s: up.then(|| now.ms.saturating_sub(standing.last_heard_ms) / 1000),
                        sync_silent_s: now.ms.saturating_sub(standing.last_heard_ms) / 1000,
                        down_s: follows.down_since_ms.map(|since| now.ms.saturating_sub(since) / 1000),
                        down_reason: follows.down_reason.clone(),
                        priority: i64::from(config.replica_priority),
                        announced: config.replica_announced,
                        fenced: follows.fenced,
                        peers: follows
                            .peers
                            .followers
                            .iter()
                            .map(|peer| format!("{}:{}", peer.host, peer.port))
                            .collect(),
                        leaders_sync_followers: follows.peers.sync_followers,
                        fabric: standing.fabric.map_or_else(String::new, |fabric| fabric.name().to_owned()),
                        fabric_reason: standing.fabric_reason,
                        mode: follows
                            .basis
                            .filter(|_| standing.fabric == Some(FabricKind::Rdma))
                            .map_or(("", ""), |basis| (basis.mode, basis.why)),
                        sync: follows.machine.sync_cursor().map(|settled| {
                            let walk = follows.machine.walk().unwrap_or_default();
                            (settled, walk.image_len, walk.received_bytes)
                        }),
                    }));
                }
            }
            Role::Changing => {}
        }
        info.image_len_bytes = self.pool.image().allocated();
        if let Ok((view, ks)) = self.read_parts() {
            info.keyspace_hits = ks.stats.hits.get();
            info.keyspace_misses = ks.stats.misses.get();
            info.expired_keys = ks.stats.expired_keys;
            info.databases = (0..ks.databases())
                .map(|index| (index, ks.db_stats(view, index)))
                .filter(|(_, db)| db.keys > 0)
                .map(|(index, db)| DbInfo {
                    index,
                    keys: db.keys,
                    expires: db.expires,
                    avg_ttl_ms: db.avg_ttl_ms,
                })
                .collect();
        }
        info
    }
}

/// How long writes take, and what the loss of the leader would take back.
fn times(machine: &Leader, now: Now) -> TimesInfo {
    let clock = machine.lag();
    let best =
        machine.followers().filter(|follower| follower.counts()).map(|follower| follower.durable).max();
    TimesInfo {
        durable: clock.durable.report(),
        committed: clock.committed.report(),
        uncommitted: clock.appends.lag(machine.committed(), now.us),
        // What is not committed yet was not acknowledged to anybody.
        at_risk: best.map(|best| {
            let lag = clock.appends.lag(best, now.us);
            let bytes = machine.committed().get().saturating_sub(best.get());
            if bytes == 0 { Lag::default() } else { Lag { bytes, ..lag } }
        }),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
