//! What the node shows: one value, from one look at the engine, for the page, the API and the metrics.
//!
//! `null` is "unknown" or "not of this role", and never 0.

use std::collections::BTreeMap;

use farkeep_leader::lag::{Lag, StageReport};
use serde::Serialize;

use super::verdict::Verdict;
use crate::commands::info::snapshot::{FollowerInfo, InfoSnapshot, LeaderLinkInfo, RoleInfo, WalkInfo};
use crate::config::Config;

/// Everything at one instant.
#[derive(Debug, Default, Serialize)]
pub struct Status {
    /// Unix time in ms.
    pub at_ms: u64,
    /// Version of Farkeep.
    pub version: &'static str,
    /// New at every start.
    pub run_id: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Address and port that others know this node by, as far as it knows itself.
    pub name: String,
    /// `leader` or `follower`.
    pub role: &'static str,
    /// The present reign.
    pub epoch: String,
    /// Its replid.
    pub replid: String,
    /// Hexadecimal.
    pub node_id: String,
    /// Hexadecimal.
    pub dataset_id: String,
    /// In a word and a sentence.
    pub verdict: Verdict,
    /// What was acknowledged and would be lost with this node.
    pub at_risk: Distance,
    /// What was appended and not acknowledged.
    pub uncommitted: Distance,
    /// `sync-followers`.
    pub sync_followers: usize,
    /// Followers that count.
    pub followers_in_reach: usize,
    /// How many there must be for a write to be taken.
    pub followers_wanted: usize,
    /// Positions.
    pub watermarks: Watermarks,
    /// Append to commit; `null` on a follower.
    pub commit: Option<Times>,
    /// Append to durable here; `null` on a follower.
    pub local_durable: Option<Times>,
    /// Those who follow.
    pub followers: Vec<FollowerStatus>,
    /// Those who followed in this reign and do not any more.
    pub lost: Vec<LostFollower>,
    /// The link to the leader; `null` on a leader.
    pub link: Option<LinkStatus>,
    /// What flows.
    pub rates: Rates,
    /// The log.
    pub log: LogStatus,
    /// The pool.
    pub pool: PoolStatus,
    /// Delta syncs and scrubs that have ended, since this node started.
    pub walks: WalksStatus,
    /// Clients.
    pub clients: ClientsStatus,
    /// The latest change of the leader that this node has seen.
    pub last_failover: Option<LastFailover>,
    /// Number of the latest event.
    pub last_event: u64,
    /// Whether actions are switched on.
    pub actions: bool,
    /// The section Farkeep of INFO, field by field.
    pub info: BTreeMap<String, String>,
}

/// A distance in the log. `null` is unknown.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Distance {
    /// In bytes.
    pub bytes: Option<u64>,
    /// In microseconds.
    pub us: Option<u64>,
}

impl From<Lag> for Distance {
    fn from(lag: Lag) -> Self {
        Self { bytes: Some(lag.bytes), us: Some(lag.us) }
    }
}

/// Positions in the log.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "they are called what they are called everywhere")]
pub struct Watermarks {
    oldest_lsn: u64,
    checkpoint_lsn: u64,
    applied_lsn: u64,
    committed_lsn: u64,
    durable_lsn: u64,
    appended_lsn: u64,
}

/// How long a step took lately.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Times {
    /// Turns of the last 10 to 20 seconds; 0 means that the others say nothing.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
    /// Of all times, for the metrics.
    #[serde(skip)]
    pub report: StageReport,
}

impl From<&StageReport> for Times {
    fn from(report: &StageReport) -> Self {
        Self {
            count: report.recent_count,
            p50_us: report.p50_us,
            p99_us: report.p99_us,
            max_us: report.max_us,
            report: *report,
        }
    }
}

/// A follower's state at one stage.
#[derive(Debug, Default, Clone, Serialize)]
pub struct StageStatus {
    /// `posted`, `durable`, `applied`.
    pub stage: &'static str,
    /// Everything before it has come so far.
    pub lsn: u64,
    /// How far that is behind the leader.
    pub lag_bytes: u64,
    /// The same in time.
    pub lag_us: u64,
    /// The time is a lower bound.
    pub at_least: bool,
    /// How long writes took to get so far.
    #[serde(flatten)]
    pub times: Times,
}

/// A follower.
#[derive(Debug, Default, Clone, Serialize)]
pub struct FollowerStatus {
    /// Address and port.
    pub name: String,
    /// Hexadecimal.
    pub node_id: String,
    /// `joining`, `catching-up`, `streaming`.
    pub state: &'static str,
    /// Its window takes the log.
    pub online: bool,
    /// `rdma`, `tcp` or `shm`.
    pub fabric: String,
    /// Why no better one.
    pub fabric_reason: String,
    /// Rdma: `apm` or `gpspm`.
    pub mode: &'static str,
    /// Since it was last heard of.
    pub silent_ms: u64,
    /// Posted, durable, applied.
    pub stages: [StageStatus; 3],
    /// Persistent in its image.
    pub checkpoint_lsn: u64,
    /// By how much its distance shrinks in a second; negative while it grows.
    pub catch_up_bytes_per_s: i64,
    /// When it will have caught up, if that is in sight.
    pub catch_up_s: Option<u64>,
    /// Its own page, if it has one that can be opened from here.
    pub page: Option<String>,
    /// The sync or scrub that is under way.
    pub walk: Option<WalkStatus>,
}

/// A walk over the image.
#[derive(Debug, Default, Clone, Serialize)]
pub struct WalkStatus {
    /// `sync` or `scrub`.
    pub purpose: &'static str,
    /// Length of the image.
    pub image_bytes: u64,
    /// What of it is settled.
    pub settled_bytes: u64,
    /// What of it had to be sent.
    pub sent_bytes: u64,
    /// Chunks that differed.
    pub differing: u64,
    /// Since it began.
    pub elapsed_ms: u64,
    /// Settled a second.
    pub bytes_per_s: u64,
    /// Until it ends, at that rate.
    pub left_s: Option<u64>,
}

/// Walks that have ended.
#[derive(Debug, Default, Clone, Serialize)]
pub struct WalksStatus {
    /// Delta syncs.
    pub syncs: u64,
    /// Bytes they sent.
    pub sync_bytes: u64,
    /// Scrubs.
    pub scrubs: u64,
    /// Chunks of followers that were not what the leader's are, and were repaired.
    pub scrub_mismatches: u64,
    /// Unix time in ms of the end of the last scrub.
    pub last_scrub_ms: Option<u64>,
}

/// A follower that was there.
#[derive(Debug, Default, Clone, Serialize)]
pub struct LostFollower {
    /// Address and port.
    pub name: String,
    /// Hexadecimal.
    pub node_id: String,
    /// Why it was lost, as far as is known.
    pub why: String,
    /// What it held for sure.
    pub durable_lsn: u64,
    /// Unix time in ms.
    pub since_ms: u64,
    /// Bytes appended since.
    pub behind_bytes: u64,
    /// Seconds until the log goes over what it lacks, at the present rate. `null` when nothing is written.
    pub needs_sync_s: Option<u64>,
    /// It has.
    pub needs_sync: bool,
    /// Its own page, if it had one.
    pub page: Option<String>,
}

/// The link to the leader.
#[derive(Debug, Default, Serialize)]
pub struct LinkStatus {
    /// Address and port of the leader.
    pub leader: String,
    /// A session runs.
    pub up: bool,
    /// The image is not usable yet.
    pub syncing: bool,
    /// Since the leader was last heard of; `null` while the link is down.
    pub silent_s: Option<u64>,
    /// Since the link is down.
    pub down_s: Option<u64>,
    /// Why.
    pub down_reason: String,
    /// `rdma`, `tcp` or `shm`.
    pub fabric: String,
    /// Why no better one.
    pub fabric_reason: String,
    /// Rdma: `apm` or `gpspm`.
    pub mode: &'static str,
    /// Bytes that are durable here and not yet in the image.
    pub unapplied_bytes: u64,
    /// The sync of this node that is under way.
    pub sync: Option<OwnSync>,
    /// The leader's page, if it has one that can be opened from here.
    pub page: Option<String>,
}

/// A sync as the node that is filled sees it.
#[derive(Debug, Default, Clone, Serialize)]
pub struct OwnSync {
    /// Length of the image.
    pub image_bytes: u64,
    /// What of it is settled.
    pub settled_bytes: u64,
    /// What of it came from the leader.
    pub received_bytes: u64,
}

/// What flows.
#[derive(Debug, Default, Serialize)]
pub struct Rates {
    /// Commands a second.
    pub commands_per_s: u64,
    /// From clients.
    pub input_bytes_per_s: u64,
    /// To clients.
    pub output_bytes_per_s: u64,
    /// Into the log.
    pub redo_bytes_per_s: u64,
}

/// The log's ring.
#[derive(Debug, Default, Serialize)]
pub struct LogStatus {
    /// Its path.
    pub path: String,
    /// Its length.
    pub len_bytes: u64,
    /// What somebody still needs.
    pub used_bytes: u64,
    /// Seconds after which a follower that is lost now would need a sync; `null` when nothing is written.
    pub holds_s: Option<u64>,
}

/// The pool.
#[derive(Debug, Default, Serialize)]
pub struct PoolStatus {
    /// Its directory.
    pub path: String,
    /// `pmem`, `disk`, `volatile`.
    pub durability: String,
    /// Why.
    pub durability_reason: String,
    /// Length of the image.
    pub image_bytes: u64,
    /// In use.
    pub image_used_bytes: u64,
    /// Most that the image may grow to, if that is limited.
    pub maxmemory_bytes: Option<u64>,
    /// Log that a restart would replay.
    pub checkpoint_distance_bytes: u64,
    /// Pages of the working view that differ from the image.
    pub dirty_pages: u64,
    /// DRAM they take.
    pub dirty_bytes: u64,
    /// Why the node has stopped writing.
    pub failure: String,
}

/// Clients.
#[derive(Debug, Default, Serialize)]
pub struct ClientsStatus {
    /// Connections.
    pub connected: usize,
    /// Those that wait inside a command.
    pub blocked: usize,
    /// Keys in all databases.
    pub keys: u64,
    /// Commands since the start.
    pub commands: u64,
    /// Error replies since the start.
    pub error_replies: u64,
    /// Writes whose fate could not be told.
    pub unconfirmed: u64,
}

/// The latest change of the leader.
#[derive(Debug, Default, Clone, Serialize)]
pub struct LastFailover {
    /// Unix time in ms.
    pub at_ms: u64,
    /// How long it took, if that is known.
    pub took_ms: Option<u64>,
    /// For people.
    pub text: String,
}

impl Status {
    /// What a look at the node says by itself; what takes two looks, and the verdict, is filled in by the sampler.
    pub fn new(snapshot: &InfoSnapshot, config: &Config, at_ms: u64, info: BTreeMap<String, String>) -> Self {
        let engine = &snapshot.engine;
        let stats = &snapshot.stats;
        let [commands_per_s, input_bytes_per_s, output_bytes_per_s] =
            [stats.commands_per_s, stats.input_bytes_per_s, stats.output_bytes_per_s];
        let host = config.replica_announce_ip.clone().or_else(|| {
            config
                .bind
                .iter()
                .find(|bind| !bind.starts_with('-') && *bind != "*" && *bind != "0.0.0.0")
                .cloned()
        });
        let mut status = Self {
            at_ms,
            version: env!("CARGO_PKG_VERSION"),
            run_id: snapshot.server.run_id.clone(),
            uptime_s: snapshot.server.uptime_s,
            name: format!("{}:{}", host.unwrap_or_default(), config.port),
            epoch: engine.epoch_shown.clone(),
            replid: engine.replid.clone(),
            node_id: engine.node_id.clone(),
            dataset_id: engine.dataset_id.clone(),
            sync_followers: engine.sync_followers,
            followers_in_reach: engine.followers_in_reach,
            followers_wanted: engine.followers_wanted,
            watermarks: Watermarks {
                oldest_lsn: engine.oldest_lsn,
                checkpoint_lsn: engine.checkpoint_lsn,
                applied_lsn: engine.applied_lsn,
                committed_lsn: engine.committed_lsn,
                durable_lsn: engine.durable_lsn,
                appended_lsn: engine.appended_lsn,
            },
            rates: Rates { commands_per_s, input_bytes_per_s, output_bytes_per_s, redo_bytes_per_s: 0 },
            log: LogStatus {
                path: engine.log.clone(),
                len_bytes: engine.log_len_bytes,
                used_bytes: engine.log_used_bytes,
                holds_s: None,
            },
            pool: PoolStatus {
                path: engine.pool.clone(),
                durability: engine.durability.clone(),
                durability_reason: engine.durability_reason.clone(),
                image_bytes: engine.image_len_bytes,
                image_used_bytes: engine.image_used_bytes,
                maxmemory_bytes: (config.maxmemory > 0).then_some(config.maxmemory),
                checkpoint_distance_bytes: engine.appended_lsn.saturating_sub(engine.checkpoint_lsn),
                dirty_pages: engine.private_pages,
                dirty_bytes: engine.private_pages * farkeep_core::heap::PAGE_LEN,
                failure: engine.failure.clone(),
            },
            clients: ClientsStatus {
                connected: snapshot.clients.connected,
                blocked: snapshot.clients.blocked,
                keys: engine.databases.iter().map(|db| db.keys).sum(),
                commands: stats.commands,
                error_replies: stats.error_replies,
                unconfirmed: stats.held_failed,
            },
            walks: WalksStatus {
                syncs: engine.walks.syncs,
                sync_bytes: engine.walks.sync_bytes,
                scrubs: engine.walks.scrubs,
                scrub_mismatches: engine.walks.scrub_mismatches,
                last_scrub_ms: (engine.walks.scrubs > 0).then_some(engine.walks.last_scrub_unix_ms),
            },
            actions: config.http_actions,
            info,
            ..Self::default()
        };
        match &engine.role {
            RoleInfo::Leader { followers, .. } => {
                status.role = "leader";
                status.commit = Some((&engine.times.committed).into());
                status.local_durable = Some((&engine.times.durable).into());
                status.uncommitted = engine.times.uncommitted.into();
                status.at_risk = engine.times.at_risk.map_or_else(Distance::default, Distance::from);
                status.followers = followers.iter().map(FollowerStatus::from).collect();
            }
            RoleInfo::Follower(link) => {
                status.role = "follower";
                let unapplied_bytes = engine.durable_lsn.saturating_sub(engine.applied_lsn);
                status.link = Some(LinkStatus { unapplied_bytes, ..LinkStatus::from(&**link) });
            }
        }
        status
    }
}

impl Status {
    /// `oldest_lsn`, `appended_lsn`, `committed_lsn`.
    pub fn log_lsns(&self) -> (u64, u64, u64) {
        let marks = &self.watermarks;
        (marks.oldest_lsn, marks.appended_lsn, marks.committed_lsn)
    }
}

impl From<&LeaderLinkInfo> for LinkStatus {
    fn from(link: &LeaderLinkInfo) -> Self {
        Self {
            leader: format!("{}:{}", link.host, link.port),
            up: link.up,
            syncing: link.syncing,
            silent_s: link.silent_s,
            down_s: link.down_s,
            down_reason: link.down_reason.clone(),
            fabric: link.fabric.clone(),
            fabric_reason: link.fabric_reason.clone(),
            mode: link.mode.0,
            unapplied_bytes: 0,
            sync: link.sync.map(|(settled_bytes, image_bytes, received_bytes)| OwnSync {
                image_bytes,
                settled_bytes,
                received_bytes,
            }),
            page: None,
        }
    }
}

impl From<&WalkInfo> for WalkStatus {
    fn from(walk: &WalkInfo) -> Self {
        Self {
            purpose: walk.purpose,
            image_bytes: walk.image_bytes,
            settled_bytes: walk.settled_bytes,
            sent_bytes: walk.sent_bytes,
            differing: walk.differing,
            elapsed_ms: walk.elapsed_ms,
            bytes_per_s: walk.rate(),
            left_s: walk.eta_s(),
        }
    }
}

impl From<&FollowerInfo> for FollowerStatus {
    fn from(info: &FollowerInfo) -> Self {
        let lsns = [info.posted_lsn, info.durable_lsn, info.applied_lsn];
        let stage = |at: usize| StageStatus {
            stage: crate::commands::info::STAGES[at],
            lsn: lsns[at],
            lag_bytes: info.lag[at].bytes,
            lag_us: info.lag[at].us,
            at_least: info.lag[at].at_least,
            times: (&info.stages[at]).into(),
        };
        Self {
            name: format!("{}:{}", info.ip, info.port),
            node_id: info.node_id.clone(),
            state: info.state,
            online: info.online,
            fabric: info.fabric.clone(),
            fabric_reason: info.fabric_reason.clone(),
            mode: info.mode,
            silent_ms: info.silent_ms,
            stages: [stage(0), stage(1), stage(2)],
            checkpoint_lsn: info.checkpoint_lsn,
            catch_up_bytes_per_s: 0,
            catch_up_s: None,
            page: None,
            walk: info.walk.as_ref().map(WalkStatus::from),
        }
    }
}
