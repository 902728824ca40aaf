//! What INFO reports, as plain values: gathered in one place, formatted in another.
//!
//! [`EngineInfo`] is what only the engine knows; the rest of an [`InfoSnapshot`] comes from the shared parts
//! of the process ([`super::collect`]). Lengths are in bytes, positions are LSNs as numbers.

use farkeep_leader::lag::{Lag, StageReport};

/// Everything INFO can say at one instant.
#[derive(Debug, Clone, Default)]
pub struct InfoSnapshot {
    /// Section Server.
    pub server: ServerInfo,
    /// Section Clients.
    pub clients: ClientsInfo,
    /// What the kernel says about the process.
    pub process: ProcessInfo,
    /// What the engine says.
    pub engine: EngineInfo,
    /// Section Stats.
    pub stats: StatsInfo,
    /// `http-bind` and `http-port`.
    pub http: (String, u16),
    /// `maxmemory`, 0 for none.
    pub maxmemory_bytes: u64,
    /// `maxmemory-policy`.
    pub maxmemory_policy: String,
    /// Section Commandstats: commands that were called, by name.
    pub commands: Vec<CommandInfo>,
    /// Section Errorstats: error code and count.
    pub errors: Vec<(String, u64)>,
}

/// Section Server.
#[derive(Debug, Clone, Default)]
pub struct ServerInfo {
    /// `uname`'s system, release and machine.
    pub os: String,
    /// Process id.
    pub process_id: u32,
    /// 40 hexadecimal digits, new at every start.
    pub run_id: String,
    /// The port that is listened on.
    pub tcp_port: u16,
    /// Unix time in microseconds.
    pub server_time_us: i64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Unix time of the start in seconds.
    pub started_at_s: i64,
    /// Path of the binary.
    pub executable: String,
    /// Path of the configuration file, or empty.
    pub config_file: String,
    /// I/O workers.
    pub io_threads: usize,
}

/// Section Clients.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClientsInfo {
    /// Connections that are not a follower's.
    pub connected: usize,
    /// `maxclients`.
    pub max: usize,
    /// Longest query buffer now.
    pub max_input_bytes: usize,
    /// Longest output buffer now.
    pub max_output_bytes: usize,
    /// Connections that wait inside a command.
    pub blocked: usize,
    /// Query and output buffers of all clients together.
    pub buffers_bytes: usize,
}

/// What the kernel says about the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessInfo {
    /// Resident set.
    pub rss_bytes: u64,
    /// Memory of the machine.
    pub system_memory_bytes: u64,
    /// CPU time in the kernel, of all threads, in seconds.
    pub cpu_sys_s: f64,
    /// CPU time in user mode, of all threads, in seconds.
    pub cpu_user_s: f64,
    /// CPU time in the kernel of the first worker's thread, in seconds.
    pub cpu_sys_main_s: f64,
    /// CPU time in user mode of the first worker's thread, in seconds.
    pub cpu_user_main_s: f64,
}

/// Section Stats, as far as the process counts it outside the engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatsInfo {
    /// Connections accepted.
    pub connections: u64,
    /// Commands executed.
    pub commands: u64,
    /// Commands a second.
    pub commands_per_s: u64,
    /// Bytes read from clients.
    pub input_bytes: u64,
    /// Bytes written to clients.
    pub output_bytes: u64,
    /// Bytes a second read from clients.
    pub input_bytes_per_s: u64,
    /// Bytes a second written to clients.
    pub output_bytes_per_s: u64,
    /// Connections refused.
    pub rejected_connections: u64,
    /// Error replies.
    pub error_replies: u64,
    /// Reads of sockets.
    pub reads: u64,
    /// Writes of sockets.
    pub writes: u64,
    /// Turns of all workers.
    pub turns: u64,
    /// Replies that were held for a commit.
    pub held_replies: u64,
    /// Held replies that ended in an error.
    pub held_failed: u64,
    /// Commands that waited for room in the log.
    pub log_full_waits: u64,
    /// Published messages that some follower was not told of.
    pub published_lost: u64,
}

/// One line of Commandstats.
#[derive(Debug, Clone, Default)]
pub struct CommandInfo {
    /// Name, lower case.
    pub name: String,
    /// Executions.
    pub calls: u64,
    /// Refusals before execution.
    pub rejected: u64,
    /// Executions that ended in an error.
    pub failed: u64,
}

/// One database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DbInfo {
    /// Its number.
    pub index: usize,
    /// Keys.
    pub keys: u64,
    /// Keys with an expiry.
    pub expires: u64,
    /// Mean time to live in ms.
    pub avg_ttl_ms: u64,
}

/// What only the engine knows.
#[derive(Debug, Clone, Default)]
pub struct EngineInfo {
    /// Leader or follower, with what belongs to it.
    pub role: RoleInfo,
    /// Channels that somebody subscribes to.
    pub pubsub_channels: usize,
    /// Patterns that somebody subscribes to.
    pub pubsub_patterns: usize,
    /// Shard channels that somebody subscribes to.
    pub pubsub_shard_channels: usize,
    /// The present reign's replid, 40 hexadecimal digits.
    pub replid: String,
    /// The reign before it, or empty.
    pub previous_replid: String,
    /// Where the present reign began, if there was one before it.
    pub reign_start_lsn: Option<u64>,
    /// The present reign's epoch as a number.
    pub epoch: u32,
    /// The same as people read it and as the log shows it: `promotions.restarts`.
    pub epoch_shown: String,
    /// The epoch of the log's last record that counts when logs are compared, as a number.
    pub log_epoch: u32,
    /// Where that record ends.
    pub log_end_lsn: u64,
    /// `master_failover_state`.
    pub failover_state: &'static str,
    /// The reigns that the log remembers, oldest first: epoch as shown, replid, where it began.
    pub reigns: Vec<(String, String, u64)>,
    /// The highest epoch promised to, as shown.
    pub promised_epoch: String,
    /// `oldest_lsn`.
    pub oldest_lsn: u64,
    /// `checkpoint_lsn`.
    pub checkpoint_lsn: u64,
    /// `applied_lsn`.
    pub applied_lsn: u64,
    /// `committed_lsn`.
    pub committed_lsn: u64,
    /// `durable_lsn`.
    pub durable_lsn: u64,
    /// `appended_lsn`.
    pub appended_lsn: u64,
    /// Directory of the pool.
    pub pool: String,
    /// Path of the log.
    pub log: String,
    /// `pmem`, `disk` or `volatile`.
    pub durability: String,
    /// Why that domain was found, for people; may be empty.
    pub durability_reason: String,
    /// Dataset id, hexadecimal.
    pub dataset_id: String,
    /// Node id, hexadecimal.
    pub node_id: String,
    /// Length of the image.
    pub image_len_bytes: u64,
    /// Bytes of the image in use by keys and indexes.
    pub image_used_bytes: u64,
    /// Highest `image_used_bytes` seen since the start.
    pub image_used_peak_bytes: u64,
    /// Length of the log's ring.
    pub log_len_bytes: u64,
    /// Bytes of the ring that somebody still needs.
    pub log_used_bytes: u64,
    /// Pages of the working view that have a private copy.
    pub private_pages: u64,
    /// Redo bytes appended since the start.
    pub redo_bytes: u64,
    /// Transactions appended since the start.
    pub transactions: u64,
    /// `sync-followers`.
    pub sync_followers: usize,
    /// Followers that can confirm writes now.
    pub followers_in_reach: usize,
    /// How many there must be for a write to be taken; more than `sync-followers` where a leader has to gather a group that has had another one.
    pub followers_wanted: usize,
    /// Goes on with fewer followers than `sync-followers` (`on-follower-loss degrade`).
    pub degraded: bool,
    /// Followers that count for `min-replicas-to-write`; `None` where it demands nothing.
    pub good_followers: Option<usize>,
    /// Refuses writes, because fewer followers are in reach than `sync-followers` or `min-replicas-to-write` say.
    pub refusing: bool,
    /// On a leader, how long things take.
    pub times: TimesInfo,
    /// The node cannot serve yet: a follower before its first synchronisation.
    pub loading: bool,
    /// Why the node has stopped writing, or empty.
    pub failure: String,
    /// Reads that found their key.
    pub keyspace_hits: u64,
    /// Reads that did not.
    pub keyspace_misses: u64,
    /// Keys removed because they expired.
    pub expired_keys: u64,
    /// Followers that joined by resume.
    pub resumes: u64,
    /// Followers that could not be let in, since a resume was not possible.
    pub resumes_refused: u64,
    /// The RDMA device, or empty ...
    pub rdma_device: String,
    /// ... and why there is none.
    pub rdma_unusable: String,
    /// Delta syncs and scrubs that have ended.
    pub walks: crate::engine::Walks,
    /// Bytes shipped to followers.
    pub shipped_bytes: u64,
    /// Bytes received from a leader.
    pub received_bytes: u64,
    /// The databases that hold keys.
    pub databases: Vec<DbInfo>,
}

/// How long writes take on a leader.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimesInfo {
    /// From append to durable here.
    pub durable: StageReport,
    /// From append to committed: what a client waits for.
    pub committed: StageReport,
    /// What is appended and not committed.
    pub uncommitted: Lag,
    /// What was acknowledged, but is on no follower; `None` without any follower in reach, when that is all there is.
    pub at_risk: Option<Lag>,
}

/// The node's role and what belongs to it.
#[derive(Debug, Clone)]
pub enum RoleInfo {
    /// It accepts writes.
    Leader {
        /// Followers whose control channel is open, oldest first.
        followers: Vec<FollowerInfo>,
        /// Followers that were lost in this reign and have not come back: address and port, and why.
        lost: Vec<(String, String)>,
    },
    /// It follows somebody.
    Follower(Box<LeaderLinkInfo>),
}

impl Default for RoleInfo {
    fn default() -> Self {
        Self::Leader { followers: Vec::new(), lost: Vec::new() }
    }
}

/// A follower as its leader knows it.
#[derive(Debug, Clone, Default)]
pub struct FollowerInfo {
    /// Address clients reach it at.
    pub ip: String,
    /// Port clients reach it at.
    pub port: u16,
    /// Its node id, hexadecimal.
    pub node_id: String,
    /// How far its session has come: `joining`, `catching-up`, `streaming`.
    pub state: &'static str,
    /// Everything before it has been posted.
    pub posted_lsn: u64,
    /// How far behind the leader's log it is: posted, durable, applied.
    pub lag: [Lag; 3],
    /// How long writes took to get there: posted, durable, applied.
    pub stages: [StageReport; 3],
    /// Milliseconds since it was last heard of.
    pub silent_ms: u64,
    /// Its window is open and takes the log.
    pub online: bool,
    /// Its `durable_lsn`.
    pub durable_lsn: u64,
    /// Its `applied_lsn`.
    pub applied_lsn: u64,
    /// Its `checkpoint_lsn`.
    pub checkpoint_lsn: u64,
    /// Whole seconds since it was last heard of.
    pub silent_s: u64,
    /// `tcp`, `shm` or `rdma`.
    pub fabric: String,
    /// Why no better fabric is in use, or empty.
    pub fabric_reason: String,
    /// rdma: `apm` or `gpspm`; or empty.
    pub mode: &'static str,
    /// It is in the middle of a delta sync.
    pub syncing: bool,
    /// The walk over the image that is under way, a delta sync or a scrub.
    pub walk: Option<WalkInfo>,
}

/// A walk over the image.
#[derive(Debug, Clone, Copy, Default)]
pub struct WalkInfo {
    /// `sync` or `scrub`.
    pub purpose: &'static str,
    /// Length of the image in bytes.
    pub image_bytes: u64,
    /// Bytes of it that are settled.
    pub settled_bytes: u64,
    /// Bytes of chunks and of blocks that were sent.
    pub sent_bytes: u64,
    /// Chunks that differed.
    pub differing: u64,
    /// How long it has been going on.
    pub elapsed_ms: u64,
}

impl WalkInfo {
    /// Bytes a second that get settled.
    pub fn rate(&self) -> u64 {
        self.settled_bytes * 1000 / self.elapsed_ms.max(1)
    }

    /// Seconds that the rest will take at that rate; `None` where there is none yet.
    pub fn eta_s(&self) -> Option<u64> {
        let left = self.image_bytes.saturating_sub(self.settled_bytes);
        (self.rate() > 0).then(|| left.div_ceil(self.rate()))
    }
}

/// The link to the leader as a follower knows it.
#[derive(Debug, Clone, Default)]
pub struct LeaderLinkInfo {
    /// The leader's host as configured.
    pub host: String,
    /// The leader's port as configured.
    pub port: u16,
    /// A session runs, its window is attached and clients are served.
    pub up: bool,
    /// A session runs, but clients cannot be served yet.
    pub syncing: bool,
    /// Seconds since the leader was last heard of; `None` while the link is not up.
    pub silent_s: Option<u64>,
    /// The same in the middle of a delta sync.
    pub sync_silent_s: u64,
    /// Seconds since the link was lost; `None` if it never was up.
    pub down_s: Option<u64>,
    /// Why the link is down, for people; or empty.
    pub down_reason: String,
    /// `replica-priority`.
    pub priority: i64,
    /// `replica-announced`.
    pub announced: bool,
    /// It follows nobody until a failover tells it whom.
    pub fenced: bool,
    /// Where the leader's followers are, as far as it has said.
    pub peers: Vec<String>,
    /// The leader's `sync-followers`, as far as it has said.
    pub leaders_sync_followers: u32,
    /// `tcp`, `shm` or `rdma`; empty while there is no link.
    pub fabric: String,
    /// Why no better fabric is in use, or empty.
    pub fabric_reason: String,
    /// rdma: `apm` or `gpspm`, and why; or empty.
    pub mode: (&'static str, &'static str),
    /// The image is in the middle of a delta sync: how far that is, in bytes of how many, and how many came from the leader.
    pub sync: Option<(u64, u64, u64)>,
}
