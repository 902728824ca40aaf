//! Directives of Redis 7.0 that have no effect here. Tools read them (`CONFIG GET *`) and configuration files carry
//! them, so they are accepted and kept, as long as nobody is made to rely on what is not there.
//!
//! What is about how Redis persists, forks or schedules is harmless: Farkeep's acknowledged writes are durable whatever
//! `save` and `appendfsync` say. What would change who gets in, what is encrypted, what is evicted or what is told to
//! whom is not.

use super::directive::{Check, Directive};

const INT_MAX: i64 = i32::MAX as i64;

const TLS: &str =
    "TLS is not available in this version: run Farkeep behind a TLS proxy, or on a private network";
const ACL: &str = "users other than the default one are not available in this version";
const CLUSTER: &str = "cluster mode is not available in this version";
const FOLLOWER_WRITES: &str =
    "a follower is always read only: its image is a byte for byte copy of its leader's";
const EVENTS: &str = "keyspace notifications are not available in this version";

const fn kept(name: &'static str, default: &'static str, check: Check) -> Directive {
    Directive::kept(name, default, check)
}

const fn flag(name: &'static str, default: &'static str) -> Directive {
    Directive::kept(name, default, Check::Bool)
}

const fn number(name: &'static str, default: &'static str, min: i64, max: i64) -> Directive {
    Directive::kept(name, default, Check::Integer(min, max))
}

const fn unavailable(name: &'static str, default: &'static str, reason: &'static str) -> Directive {
    Directive::kept(name, default, Check::Unavailable(reason))
}

pub(super) static TABLE: &[Directive] = &[
    // Snapshots and append-only files: acknowledged writes are durable without them.
    kept("save", "", Check::Save),
    flag("appendonly", "no"),
    kept("appendfsync", "everysec", Check::OneOf(&["everysec", "always", "no"])),
    kept("appendfilename", "appendonly.aof", Check::Text).at_start(),
    kept("appenddirname", "appendonlydir", Check::Text).at_start(),
    flag("no-appendfsync-on-rewrite", "no"),
    number("auto-aof-rewrite-percentage", "100", 0, INT_MAX),
    kept("auto-aof-rewrite-min-size", "67108864", Check::Memory(0, i64::MAX)),
    flag("aof-load-truncated", "yes"),
    flag("aof-use-rdb-preamble", "yes"),
    flag("aof-timestamp-enabled", "no"),
    flag("aof-rewrite-incremental-fsync", "yes"),
    flag("aof-disable-auto-gc", "no"),
    flag("rdb-save-incremental-fsync", "yes"),
    flag("rdbcompression", "yes"),
    flag("rdbchecksum", "yes").at_start(),
    flag("rdb-del-sync-files", "no"),
    kept("dbfilename", "dump.rdb", Check::Text).protected(),
    flag("stop-writes-on-bgsave-error", "yes"),
    kept("sanitize-dump-payload", "no", Check::OneOf(&["no", "yes", "clients"])),
    // Replication by snapshot: followers are filled by log shipping.
    flag("repl-diskless-sync", "yes"),
    number("repl-diskless-sync-delay", "5", 0, INT_MAX),
    number("repl-diskless-sync-max-replicas", "0", 0, INT_MAX),
    kept("repl-diskless-load", "disabled", Check::OneOf(&["disabled", "on-empty-db", "swapdb"])),
    flag("repl-disable-tcp-nodelay", "no"),
    // Heartbeats go out as often as `repl-timeout` makes them necessary.
    number("repl-ping-replica-period", "10", 1, INT_MAX).alias("repl-ping-slave-period"),
    kept("repl-backlog-size", "1048576", Check::MemoryRaised(16 << 10)),
    number("repl-backlog-ttl", "3600", 0, i64::MAX),
    unavailable("replica-read-only", "yes", FOLLOWER_WRITES).alias("slave-read-only"),
    flag("replica-ignore-maxmemory", "yes").alias("slave-ignore-maxmemory"),
    flag("replica-lazy-flush", "no").alias("slave-lazy-flush"),
    flag("replica-ignore-disk-write-errors", "no"),
    kept("propagation-error-behavior", "ignore", Check::OneOf(&["ignore", "panic", "panic-on-replicas"])),
    // Memory, encodings of types to come, background work.
    kept("maxmemory-clients", "0", Check::MemoryOrPercent),
    number("maxmemory-samples", "5", 1, INT_MAX),
    number("maxmemory-eviction-tenacity", "10", 0, 100),
    number("active-expire-effort", "1", 1, 10),
    unavailable(
        "activedefrag",
        "no",
        "the image's allocator does not fragment the way active defragmentation mends",
    ),
    kept("active-defrag-ignore-bytes", "104857600", Check::Memory(1, i64::MAX)),
    number("active-defrag-threshold-lower", "10", 0, 1000),
    number("active-defrag-threshold-upper", "100", 0, 1000),
    number("active-defrag-cycle-min", "1", 1, 99),
    number("active-defrag-cycle-max", "25", 1, 99),
    number("active-defrag-max-scan-fields", "1000", 1, i64::MAX),
    flag("activerehashing", "yes"),
    flag("dynamic-hz", "yes"),
    flag("jemalloc-bg-thread", "yes"),
    flag("lazyfree-lazy-eviction", "no"),
    flag("lazyfree-lazy-expire", "no"),
    flag("lazyfree-lazy-server-del", "no"),
    flag("lazyfree-lazy-user-del", "no"),
    flag("lazyfree-lazy-user-flush", "no"),
    number("lfu-log-factor", "10", 0, INT_MAX),
    number("lfu-decay-time", "1", 0, INT_MAX),
    number("list-max-listpack-size", "-2", i32::MIN as i64, INT_MAX).alias("list-max-ziplist-size"),
    number("list-compress-depth", "0", 0, INT_MAX),
    number("set-max-intset-entries", "512", 0, i64::MAX),
    number("zset-max-listpack-entries", "128", 0, i64::MAX).alias("zset-max-ziplist-entries"),
    kept("zset-max-listpack-value", "64", Check::Memory(0, i64::MAX)).alias("zset-max-ziplist-value"),
    kept("hll-sparse-max-bytes", "3000", Check::Memory(0, i64::MAX)),
    kept("stream-node-max-bytes", "4096", Check::Memory(0, i64::MAX)),
    number("stream-node-max-entries", "100", 0, i64::MAX),
    number("tracking-table-max-keys", "1000000", 0, i64::MAX),
    number("busy-reply-threshold", "5000", 0, i64::MAX).alias("lua-time-limit"),
    // Observation.
    number("slowlog-log-slower-than", "10000", -1, i64::MAX),
    number("slowlog-max-len", "128", 0, i64::MAX),
    number("latency-monitor-threshold", "0", 0, i64::MAX),
    flag("latency-tracking", "yes"),
    kept("latency-tracking-info-percentiles", "50 99 99.9", Check::Words),
    number("acllog-max-len", "128", 0, i64::MAX),
    unavailable("notify-keyspace-events", "", EVENTS),
    // The process.
    flag("always-show-logo", "no").at_start(),
    flag("crash-log-enabled", "yes"),
    flag("crash-memcheck-enabled", "yes"),
    flag("disable-thp", "yes").at_start(),
    flag("set-proc-title", "yes").at_start(),
    kept("proc-title-template", "{title} {listen-addr} {server-mode}", Check::Text),
    kept("supervised", "no", Check::OneOf(&["no", "auto", "systemd", "upstart"])).at_start(),
    kept("oom-score-adj", "no", Check::OneOf(&["no", "yes", "relative", "absolute"])),
    kept("oom-score-adj-values", "0 200 800", Check::Words),
    flag("syslog-enabled", "no").at_start(),
    kept("syslog-ident", "redis", Check::Text).at_start(),
    kept("syslog-facility", "local0", Check::Text).at_start(),
    kept("server_cpulist", "", Check::Text).at_start(),
    kept("bio_cpulist", "", Check::Text).at_start(),
    kept("aof_rewrite_cpulist", "", Check::Text).at_start(),
    kept("bgsave_cpulist", "", Check::Text).at_start(),
    flag("io-threads-do-reads", "no").at_start(),
    kept("bind-source-addr", "", Check::Text),
    number("socket-mark-id", "0", 0, u32::MAX as i64).at_start(),
    number("shutdown-timeout", "10", 0, INT_MAX),
    kept("shutdown-on-sigint", "default", Check::Words),
    kept("shutdown-on-sigterm", "default", Check::Words),
    kept("ignore-warnings", "", Check::Text).at_start(),
    kept("enable-protected-configs", "no", Check::OneOf(&["no", "yes", "local"])).at_start(),
    kept("enable-module-command", "no", Check::OneOf(&["no", "yes", "local"])).at_start(),
    // Access.
    unavailable("aclfile", "", ACL).at_start(),
    kept("acl-pubsub-default", "resetchannels", Check::OneOf(&["allchannels", "resetchannels"])),
    unavailable("tls-port", "0", TLS).at_start(),
    unavailable("tls-cluster", "no", TLS),
    unavailable("tls-replication", "no", TLS),
    kept("tls-auth-clients", "yes", Check::OneOf(&["no", "yes", "optional"])),
    unavailable("tls-cert-file", "", TLS),
    unavailable("tls-key-file", "", TLS),
    unavailable("tls-key-file-pass", "", TLS),
    unavailable("tls-client-cert-file", "", TLS),
    unavailable("tls-client-key-file", "", TLS),
    unavailable("tls-client-key-file-pass", "", TLS),
    unavailable("tls-dh-params-file", "", TLS),
    unavailable("tls-ca-cert-file", "", TLS),
    unavailable("tls-ca-cert-dir", "", TLS),
    unavailable("tls-protocols", "", TLS),
    unavailable("tls-ciphers", "", TLS),
    unavailable("tls-ciphersuites", "", TLS),
    flag("tls-prefer-server-ciphers", "no"),
    flag("tls-session-caching", "yes"),
    number("tls-session-cache-size", "20480", 0, INT_MAX),
    number("tls-session-cache-timeout", "300", 0, INT_MAX),
    // Cluster mode.
    unavailable("cluster-enabled", "no", CLUSTER).at_start(),
    kept("cluster-config-file", "nodes.conf", Check::Text).at_start(),
    number("cluster-node-timeout", "15000", 0, i64::MAX),
    number("cluster-migration-barrier", "1", 0, INT_MAX),
    number("cluster-replica-validity-factor", "10", 0, INT_MAX).alias("cluster-slave-validity-factor"),
    flag("cluster-replica-no-failover", "no").alias("cluster-slave-no-failover"),
    flag("cluster-require-full-coverage", "yes"),
    flag("cluster-allow-reads-when-down", "no"),
    flag("cluster-allow-pubsubshard-when-down", "yes"),
    flag("cluster-allow-replica-migration", "yes"),
    kept("cluster-announce-ip", "", Check::Text),
    kept("cluster-announce-hostname", "", Check::Text),
    number("cluster-announce-port", "0", 0, 65535),
    number("cluster-announce-bus-port", "0", 0, 65535),
    number("cluster-announce-tls-port", "0", 0, 65535),
    number("cluster-port", "0", 0, 65535).at_start(),
    kept("cluster-preferred-endpoint-type", "ip", Check::OneOf(&["ip", "hostname", "unknown-endpoint"])),
    kept("cluster-link-sendbuf-limit", "0", Check::Memory(0, i64::MAX)),
];
