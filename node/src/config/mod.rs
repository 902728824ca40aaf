//! The configuration: redis.conf-style directives from a file and from flags, `CONFIG GET|SET|REWRITE`.
//!
//! Directives that Redis has keep Redis's names, meaning, units and error texts. [`Config`] is the typed result: what
//! the server reads. Each directive is one row of a table that says how its value is parsed, printed and reached; file,
//! flags, `CONFIG` and rewriting all work over that table.
//!
//! Directives of Redis that mean nothing here (there is no fork, no RDB schedule, no AOF) are of two kinds. Those that
//! promise nothing, or only what Farkeep does anyway, are accepted with a warning, kept, shown by `CONFIG GET` and
//! written back. Those whose silent acceptance would make someone rely on what is not there (TLS, ACL files, cluster
//! mode, eviction) are refused with the reason.
//!
//! A configuration is immutable once built; `CONFIG SET` builds a changed copy and swaps it in, so a reader sees all of
//! a command's changes or none.

mod directive;
mod file;
mod rewrite;
mod set;
mod table;
mod table_kept;
mod value;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

pub use file::{ConfigError, Loaded, load};
pub use rewrite::rewrite;
#[cfg(test)]
use rewrite::rewritten;
#[cfg(test)]
use set::Changed;
pub use set::{get, set};
pub use value::MemoryOrPercent;

use value::choice;

choice! {
    /// How a line of the log looks.
    LogFormat {
        /// As Redis's.
        Text = "text",
        /// A JSON object.
        Json = "json",
    }
}

choice! {
    /// How much is logged.
    LogLevel {
        /// Everything.
        Debug = "debug",
        /// Much, but not every detail.
        Verbose = "verbose",
        /// What an operator wants to know.
        Notice = "notice",
        /// What an operator has to know.
        Warning = "warning",
        /// Nothing at all.
        Nothing = "nothing",
    }
}

choice! {
    /// What becomes of writes while fewer than `sync-followers` followers are in reach.
    OnFollowerLoss {
        /// They are refused with `-NOREPLICAS`.
        Refuse = "refuse",
        /// They are acknowledged once durable locally, and the status says so.
        Degrade = "degrade",
    }
}

choice! {
    /// How a leader reaches its followers' windows.
    FabricChoice {
        /// The best that both sides have.
        Auto = "auto",
        /// RDMA only.
        Rdma = "rdma",
        /// TCP only.
        Tcp = "tcp",
        /// Shared memory of one host only.
        Shm = "shm",
    }
}

choice! {
    /// The durability domain of the pool: what persisting means.
    DurabilityChoice {
        /// Detected when the pool is opened.
        Auto = "auto",
        /// Cache-line write-back.
        Pmem = "pmem",
        /// `fdatasync`.
        Disk = "disk",
        /// Nothing survives a power cut.
        Volatile = "volatile",
    }
}

choice! {
    /// Who may use DEBUG.
    DebugCommand {
        /// Nobody.
        No = "no",
        /// Everybody.
        Yes = "yes",
        /// Connections from this host.
        Local = "local",
    }
}

choice! {
    /// What to do when `maxmemory` is reached.
    EvictionPolicy {
        /// Refuse writes that need more.
        NoEviction = "noeviction",
    }
}

/// The address of the leader to follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderAddress {
    /// Host name or address.
    pub host: String,
    /// The port of its RESP server.
    pub port: u16,
}

impl std::fmt::Display for LeaderAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The classes of connections that have output buffer limits of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientClass {
    /// Ordinary clients.
    Normal = 0,
    /// Followers.
    Replica = 1,
    /// Subscribers.
    Pubsub = 2,
}

/// How many bytes of replies may wait for a client before it is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputBufferLimit {
    /// Beyond this many bytes at once; 0 for no limit.
    pub hard_bytes: usize,
    /// Beyond this many bytes for `soft_s` seconds; 0 for no limit.
    pub soft_bytes: usize,
    /// See `soft_bytes`.
    pub soft_s: u64,
}

/// What the server is configured to do. Field names are the directives' with their units.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// TCP port; 0 for none.
    pub port: u16,
    /// Addresses to listen on; one that starts with `-` may be missing on this host, `*` is all of IPv4.
    pub bind: Vec<String>,
    /// The listen queue's length.
    pub tcp_backlog: u32,
    /// Path of a unix socket to listen on as well.
    pub unixsocket: Option<String>,
    /// Permissions of the unix socket; 0 leaves them to the umask.
    pub unixsocketperm: u32,
    /// Seconds after which an idle client is disconnected; 0 for never.
    pub timeout_s: u64,
    /// Seconds between TCP keepalive probes; 0 for none.
    pub tcp_keepalive_s: u64,
    /// Refuse clients from other hosts while no password is set.
    pub protected_mode: bool,
    /// Most client connections at a time.
    pub maxclients: usize,
    /// Number of databases.
    pub databases: usize,
    /// How much is logged.
    pub loglevel: LogLevel,
    /// Where to log; standard output if empty.
    pub logfile: String,
    /// How a line of the log looks.
    pub log_format: LogFormat,
    /// Go to the background.
    pub daemonize: bool,
    /// Where to write the process id; nowhere if empty.
    pub pidfile: String,
    /// The working directory, against which relative paths are taken; unchanged if `None`.
    pub dir: Option<PathBuf>,
    /// The password of the default user.
    pub requirepass: Option<String>,
    /// The user a follower authenticates as with its leader.
    pub masteruser: Option<String>,
    /// The password a follower authenticates with.
    pub masterauth: Option<String>,
    /// The leader to follow; `None` to lead.
    pub replicaof: Option<LeaderAddress>,
    /// The address a follower wants to be known by, instead of the one it connects from.
    pub replica_announce_ip: Option<String>,
    /// The port a follower wants to be known by; 0 for `port`.
    pub replica_announce_port: u16,
    /// Whether Sentinel is told of this follower.
    pub replica_announced: bool,
    /// Sentinel prefers the lowest; 0 is never promoted.
    pub replica_priority: u32,
    /// Whether a follower that has lost its leader still serves reads.
    pub replica_serve_stale_data: bool,
    /// Seconds of silence after which a peer is given up.
    pub repl_timeout_s: u64,
    /// Good followers that there must be for a write to be taken; 0 for no such demand.
    pub min_replicas_to_write: u32,
    /// Whole seconds that a good follower may have been silent for; 0 for no such demand.
    pub min_replicas_max_lag_s: u64,
    /// Most bytes the image may grow to; 0 for what the file system allows.
    pub maxmemory: u64,
    /// What to do when they are used up.
    pub maxmemory_policy: EvictionPolicy,
    /// Longest argument of a command, in bytes.
    pub proto_max_bulk_len: u64,
    /// Most bytes of requests that may wait in a connection.
    pub client_query_buffer_limit: usize,
    /// Most bytes of replies that may wait, by [`ClientClass`].
    pub client_output_buffer_limit: [OutputBufferLimit; 3],
    /// Most fields of a hash in the compact encoding.
    pub hash_max_listpack_entries: usize,
    /// Longest field or value in it, in bytes.
    pub hash_max_listpack_value: usize,
    /// Background rounds per second.
    pub hz: u32,
    /// Who may use DEBUG.
    pub enable_debug_command: DebugCommand,
    /// I/O worker threads.
    pub io_threads: usize,
    /// `rename-command`: old name, new name (empty to remove the command).
    pub rename_command: Vec<(String, String)>,
    /// The port of the HTTP server; 0 for none.
    pub http_port: u16,
    /// The address it listens on.
    pub http_bind: IpAddr,
    /// Whether it takes actions, and does not only show.
    pub http_actions: bool,
    /// The pool's directory.
    pub pool: PathBuf,
    /// The log, if not in the pool: a file or a devdax device.
    pub log: Option<PathBuf>,
    /// Bytes of the log's ring, for a pool that is created.
    pub log_size: u64,
    /// Followers on which a write must be durable before it is acknowledged.
    pub sync_followers: usize,
    /// What becomes of writes while there are fewer.
    pub on_follower_loss: OnFollowerLoss,
    /// Whether reads wait until what they saw is committed.
    pub read_commit: bool,
    /// How followers are reached.
    pub fabric: FabricChoice,
    /// The address of the RDMA device to use; `None` for its first one.
    pub rdma_bind: Option<IpAddr>,
    /// The port at which a follower listens for its leader's RDMA connections; 0 for any that is free.
    pub rdma_port: u16,
    /// The RDMA device to use, by name; `None` for any.
    pub rdma_device: Option<String>,
    /// The operator's word that what this host's RDMA device writes goes past the processor's caches (DDIO off).
    pub rdma_direct_write: bool,
    /// `sync-max-rate`: bytes a second that delta syncs and the repairs of scrubs may send, all of them together; 0 is no limit.
    pub sync_max_rate: u64,
    /// `scrub-interval`: seconds between two scrubs; 0 is never.
    pub scrub_interval_s: u64,
    /// `replace-dataset`: a leader's dataset may take the place of another one in this node's pool.
    pub replace_dataset: bool,
    /// What persisting means.
    pub durability: DurabilityChoice,
    /// Milliseconds a reply is held for its commit before it becomes an error.
    pub commit_timeout_ms: u64,
    /// Milliseconds a write waits for room in the log before it becomes an error.
    pub log_full_timeout_ms: u64,
    /// DRAM for pages of the working view that differ from the image; a percentage is of the host's memory.
    pub dram_budget: MemoryOrPercent,
    /// Directives that are kept but have no effect, by name, where they differ from Redis's default.
    kept: BTreeMap<&'static str, String>,
}

impl Default for Config {
    fn default() -> Self {
        let buffer = |hard_bytes, soft_bytes, soft_s| OutputBufferLimit { hard_bytes, soft_bytes, soft_s };
        Self {
            port: 6379,
            bind: vec!["*".to_owned(), "-::*".to_owned()],
            tcp_backlog: 511,
            unixsocket: None,
            unixsocketperm: 0,
            timeout_s: 0,
            tcp_keepalive_s: 300,
            protected_mode: true,
            maxclients: 10_000,
            databases: 16,
            loglevel: LogLevel::Notice,
            logfile: String::new(),
            log_format: LogFormat::Text,
            daemonize: false,
            pidfile: String::new(),
            dir: None,
            requirepass: None,
            masteruser: None,
            masterauth: None,
            replicaof: None,
            replica_announce_ip: None,
            replica_announce_port: 0,
            replica_announced: true,
            replica_priority: 100,
            replica_serve_stale_data: true,
            repl_timeout_s: 60,
            min_replicas_to_write: 0,
            min_replicas_max_lag_s: 10,
            maxmemory: 0,
            maxmemory_policy: EvictionPolicy::NoEviction,
            proto_max_bulk_len: 512 << 20,
            client_query_buffer_limit: 1 << 30,
            client_output_buffer_limit: [
                buffer(0, 0, 0),
                buffer(256 << 20, 64 << 20, 60),
                buffer(32 << 20, 8 << 20, 60),
            ],
            hash_max_listpack_entries: 512,
            hash_max_listpack_value: 64,
            hz: 10,
            enable_debug_command: DebugCommand::No,
            io_threads: 1,
            rename_command: Vec::new(),
            http_port: 0,
            http_bind: IpAddr::from([127, 0, 0, 1]),
            http_actions: false,
            pool: PathBuf::from("pool"),
            log: None,
            log_size: 256 << 20,
            sync_followers: 0,
            on_follower_loss: OnFollowerLoss::Refuse,
            read_commit: true,
            fabric: FabricChoice::Auto,
            rdma_bind: None,
            rdma_port: 0,
            rdma_device: None,
            rdma_direct_write: false,
            sync_max_rate: 0,
            scrub_interval_s: 86_400,
            replace_dataset: false,
            durability: DurabilityChoice::Auto,
            commit_timeout_ms: 5_000,
            log_full_timeout_ms: 5_000,
            dram_budget: MemoryOrPercent::Percent(50),
            kept: BTreeMap::new(),
        }
    }
}

impl Config {
    /// The output buffer limit of a class of connections.
    #[must_use]
    pub fn output_buffer_limit(&self, class: impl Into<ClientClass>) -> OutputBufferLimit {
        self.client_output_buffer_limit[class.into() as usize]
    }

    /// How many good followers there must be for a write to be taken. As in Redis, 0 for either of the two directives about
    /// that is no demand at all.
    #[must_use]
    pub fn good_replicas_to_write(&self) -> usize {
        if self.min_replicas_max_lag_s == 0 { 0 } else { self.min_replicas_to_write as usize }
    }

    /// What to answer a client at `peer` (`address:port`, or the path of a unix socket) that protected mode keeps out.
    #[must_use]
    pub fn protected_mode_refusal(&self, peer: &str) -> Option<&'static str> {
        let local = peer.starts_with("127.") || peer.starts_with("[::1]") || peer.starts_with('/');
        let local = local
            || peer.starts_with("[::ffff:127.")
            || self.unixsocket.as_deref().is_some_and(|path| peer.starts_with(path));
        (self.protected_mode && self.requirepass.is_none() && !local).then_some(
            "-DENIED Farkeep is running in protected mode because protected mode is enabled and no password is set \
             for the default user. In this mode connections are only accepted from the loopback interface. To connect \
             from other hosts, either set a password (requirepass), or, if nobody but you can reach this port, \
             switch the mode off: CONFIG SET protected-mode no from this host, 'protected-mode no' in the configuration \
             file, or --protected-mode no on the command line.\r\n",
        )
    }
}

#[cfg(test)]
pub(crate) mod oracle;
#[cfg(test)]
mod tests;
