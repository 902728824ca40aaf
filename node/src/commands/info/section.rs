//! Which sections an INFO names, and the text of each.
//!
//! Sections and fields stand in Redis 7.0's order under Redis's names, because tools parse them by name and
//! people compare them by eye. A field that means nothing here says 0 or what Redis says when the feature is
//! off. What only Farkeep has to say is in its own section at the end.

use std::fmt::Write;

use farkeep_leader::lag::StageReport;

use super::snapshot::{EngineInfo, FollowerInfo, InfoSnapshot, RoleInfo};

/// One section: its name in an INFO command, and whether a plain INFO shows it.
struct Section {
    name: &'static str,
    by_default: bool,
    write: fn(&InfoSnapshot, &mut String),
}

const fn section(name: &'static str, by_default: bool, write: fn(&InfoSnapshot, &mut String)) -> Section {
    Section { name, by_default, write }
}

/// In the order they are shown.
const SECTIONS: [Section; 14] = [
    section("server", true, server),
    section("clients", true, clients),
    section("memory", true, super::memory::memory),
    section("persistence", true, persistence),
    section("stats", true, stats),
    section("replication", true, replication),
    section("cpu", true, cpu),
    section("modules", true, |_, out| out.push_str("# Modules\r\n")),
    section("commandstats", false, commandstats),
    section("errorstats", true, errorstats),
    section("latencystats", false, |_, out| out.push_str("# Latencystats\r\n")),
    section("cluster", true, |_, out| out.push_str("# Cluster\r\ncluster_enabled:0\r\n")),
    section("keyspace", true, keyspace),
    section("farkeep", true, farkeep),
];

/// The text for `INFO wanted…`; none wanted are the default ones. Unknown names are ignored, as Redis does.
pub fn format(info: &InfoSnapshot, wanted: &[&[u8]]) -> String {
    let asked = |name: &str| wanted.iter().any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
    let all = asked("all") || asked("everything");
    let default = wanted.is_empty() || asked("default");
    let mut text = String::with_capacity(8 * 1024);
    for section in &SECTIONS {
        if all || (default && section.by_default) || asked(section.name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            (section.write)(info, &mut text);
        }
    }
    text
}

/// Writes `name:value` lines. Writing into a `String` cannot fail.
macro_rules! fields {
    ($out:expr, $($name:literal : $value:expr),* $(,)?) => {
        {
            $( let _ = write!($out, concat!($name, ":{}\r\n"), $value); )*
        }
    };
}
pub(super) use fields;

fn server(info: &InfoSnapshot, out: &mut String) {
    let server = &info.server;
    out.push_str("# Server\r\n");
    fields!(out,
        "redis_version": crate::REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": "0",
        "redis_mode": "standalone",
        "os": server.os,
        "arch_bits": usize::BITS,
        "monotonic_clock": "POSIX clock_gettime",
        "multiplexing_api": "epoll",
        "atomicvar_api": "c11-builtin",
        "gcc_version": "0.0.0",
        "process_id": server.process_id,
        "process_supervised": "no",
        "run_id": server.run_id,
        "tcp_port": server.tcp_port,
        "server_time_usec": server.server_time_us,
        "uptime_in_seconds": server.uptime_s,
        "uptime_in_days": server.uptime_s / 86_400,
        "hz": 10,
        "configured_hz": 10,
        "lru_clock": (server.server_time_us / 1_000_000) & 0x00ff_ffff,
        "executable": server.executable,
        "config_file": server.config_file,
        "io_threads_active": i32::from(server.io_threads > 1),
    );
}

fn clients(info: &InfoSnapshot, out: &mut String) {
    let clients = &info.clients;
    out.push_str("# Clients\r\n");
    fields!(out,
        "connected_clients": clients.connected,
        "cluster_connections": 0,
        "maxclients": clients.max,
        "client_recent_max_input_buffer": clients.max_input_bytes,
        "client_recent_max_output_buffer": clients.max_output_bytes,
        "blocked_clients": clients.blocked,
        "tracking_clients": 0,
        "clients_in_timeout_table": 0,
    );
}

/// There is no snapshot file and no append-only file; what is durable is in the section Farkeep.
fn persistence(info: &InfoSnapshot, out: &mut String) {
    out.push_str("# Persistence\r\n");
    fields!(out,
        "loading": i32::from(info.engine.loading),
        "async_loading": 0,
        "current_cow_peak": 0,
        "current_cow_size": 0,
        "current_cow_size_age": 0,
        "current_fork_perc": "0.00",
        "current_save_keys_processed": 0,
        "current_save_keys_total": 0,
        "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": info.server.started_at_s,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "rdb_saves": 0,
        "rdb_last_cow_size": 0,
        "rdb_last_load_keys_expired": 0,
        "rdb_last_load_keys_loaded": 0,
        "aof_enabled": 0,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_rewrites": 0,
        "aof_rewrites_consecutive_failures": 0,
        "aof_last_write_status": if info.engine.failure.is_empty() { "ok" } else { "err" },
        "aof_last_cow_size": 0,
        "module_fork_in_progress": 0,
        "module_fork_last_cow_size": 0,
    );
}

fn stats(info: &InfoSnapshot, out: &mut String) {
    let (stats, engine) = (&info.stats, &info.engine);
    let kbps = |bytes_per_s: u64| format!("{:.2}", bytes_per_s as f64 / 1024.0);
    out.push_str("# Stats\r\n");
    fields!(out,
        "total_connections_received": stats.connections,
        "total_commands_processed": stats.commands,
        "instantaneous_ops_per_sec": stats.commands_per_s,
        "total_net_input_bytes": stats.input_bytes,
        "total_net_output_bytes": stats.output_bytes,
        "total_net_repl_input_bytes": engine.received_bytes,
        "total_net_repl_output_bytes": engine.shipped_bytes,
        "instantaneous_input_kbps": kbps(stats.input_bytes_per_s),
        "instantaneous_output_kbps": kbps(stats.output_bytes_per_s),
        "instantaneous_input_repl_kbps": "0.00",
        "instantaneous_output_repl_kbps": "0.00",
        "rejected_connections": stats.rejected_connections,
        "sync_full": engine.walks.syncs,
        "sync_partial_ok": engine.resumes,
        "sync_partial_err": engine.resumes_refused,
        "expired_keys": engine.expired_keys,
        "expired_stale_perc": "0.00",
        "expired_time_cap_reached_count": 0,
        "expire_cycle_cpu_milliseconds": 0,
        "evicted_keys": 0,
        "evicted_clients": 0,
        "total_eviction_exceeded_time": 0,
        "current_eviction_exceeded_time": 0,
        "keyspace_hits": engine.keyspace_hits,
        "keyspace_misses": engine.keyspace_misses,
        "pubsub_channels": engine.pubsub_channels,
        "pubsub_patterns": engine.pubsub_patterns,
        "pubsubshard_channels": engine.pubsub_shard_channels,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "active_defrag_hits": 0,
        "active_defrag_misses": 0,
        "active_defrag_key_hits": 0,
        "active_defrag_key_misses": 0,
        "total_active_defrag_time": 0,
        "current_active_defrag_time": 0,
        "tracking_total_keys": 0,
        "tracking_total_items": 0,
        "tracking_total_prefixes": 0,
        "unexpected_error_replies": 0,
        "total_error_replies": stats.error_replies,
        "dump_payload_sanitizations": 0,
        "total_reads_processed": stats.reads,
        "total_writes_processed": stats.writes,
        "io_threaded_reads_processed": 0,
        "io_threaded_writes_processed": 0,
        "reply_buffer_shrinks": 0,
        "reply_buffer_expands": 0,
    );
}

/// Sentinel reads this section: `role` comes before a follower's fields, and `slave_repl_offset` and a
/// follower's `offset` are its `durable_lsn`, so that a choice by offset is the choice of the most advanced
/// log.
fn replication(info: &InfoSnapshot, out: &mut String) {
    let engine = &info.engine;
    let good = |out: &mut String| {
        if let Some(good) = engine.good_followers {
            fields!(out, "min_slaves_good_slaves": good);
        }
    };
    out.push_str("# Replication\r\n");
    match &engine.role {
        RoleInfo::Leader { followers, .. } => {
            fields!(out, "role": "master", "connected_slaves": followers.len());
            good(out);
            for (at, follower) in followers.iter().enumerate() {
                let _ = write!(
                    out,
                    "slave{at}:ip={},port={},state={},offset={},lag={}\r\n",
                    follower.ip,
                    follower.port,
                    match (follower.online, follower.syncing) {
                        (true, false) => "online",
                        (true, true) => "send_bulk",
                        (false, _) => "wait_bgsave",
                    },
                    follower.durable_lsn,
                    follower.silent_s,
                );
            }
        }
        RoleInfo::Follower(link) => {
            let seconds = |value: Option<u64>| value.map_or(-1, |seconds| seconds as i64);
            fields!(out,
                "role": "slave",
                "master_host": link.host,
                "master_port": link.port,
                "master_link_status": if link.up { "up" } else { "down" },
                "master_last_io_seconds_ago": seconds(link.silent_s),
                "master_sync_in_progress": i32::from(link.syncing),
                "slave_read_repl_offset": engine.durable_lsn,
                "slave_repl_offset": engine.durable_lsn,
            );
            if let Some((settled, image, _)) = link.sync.filter(|_| link.syncing) {
                // How long the image is, the leader says with the first step of the session.
                let percent = if image == 0 { 0.0 } else { settled as f64 * 100.0 / image as f64 };
                fields!(out,
                    "master_sync_total_bytes": image,
                    "master_sync_read_bytes": settled,
                    "master_sync_left_bytes": image.saturating_sub(settled),
                    "master_sync_perc": format!("{percent:.2}"),
                    "master_sync_last_io_seconds_ago": link.sync_silent_s,
                );
            }
            if !link.up {
                fields!(out, "master_link_down_since_seconds": seconds(link.down_s));
            }
            fields!(out,
                "slave_priority": link.priority,
                "slave_read_only": 1,
                "replica_announced": i32::from(link.announced),
                "connected_slaves": 0,
            );
            good(out);
        }
    }
    fields!(out,
        "master_failover_state": engine.failover_state,
        "master_replid": engine.replid,
        "master_replid2": or_zeros(&engine.previous_replid),
        "master_repl_offset": engine.durable_lsn,
        "second_repl_offset": engine.reign_start_lsn.map_or(-1, |lsn| lsn as i64 + 1),
        "repl_backlog_active": 1,
        "repl_backlog_size": engine.log_len_bytes,
        "repl_backlog_first_byte_offset": engine.oldest_lsn + 1,
        "repl_backlog_histlen": engine.durable_lsn.saturating_sub(engine.oldest_lsn),
    );
}

fn or_zeros(replid: &str) -> &str {
    if replid.is_empty() { "0000000000000000000000000000000000000000" } else { replid }
}

fn cpu(info: &InfoSnapshot, out: &mut String) {
    let process = &info.process;
    let seconds = |value: f64| format!("{value:.6}");
    out.push_str("# CPU\r\n");
    fields!(out,
        "used_cpu_sys": seconds(process.cpu_sys_s),
        "used_cpu_user": seconds(process.cpu_user_s),
        "used_cpu_sys_children": seconds(0.0),
        "used_cpu_user_children": seconds(0.0),
        "used_cpu_sys_main_thread": seconds(process.cpu_sys_main_s),
        "used_cpu_user_main_thread": seconds(process.cpu_user_main_s),
    );
}

/// Execution times are not measured per command: a clock read costs as much as a short command.
fn commandstats(info: &InfoSnapshot, out: &mut String) {
    out.push_str("# Commandstats\r\n");
    for command in &info.commands {
        let _ = write!(
            out,
            "cmdstat_{}:calls={},usec=0,usec_per_call=0.00,rejected_calls={},failed_calls={}\r\n",
            command.name, command.calls, command.rejected, command.failed,
        );
    }
}

fn errorstats(info: &InfoSnapshot, out: &mut String) {
    out.push_str("# Errorstats\r\n");
    for (code, count) in &info.errors {
        let _ = write!(out, "errorstat_{code}:count={count}\r\n");
    }
}

fn keyspace(info: &InfoSnapshot, out: &mut String) {
    out.push_str("# Keyspace\r\n");
    for db in info.engine.databases.iter().filter(|db| db.keys > 0) {
        let _ = write!(
            out,
            "db{}:keys={},expires={},avg_ttl={}\r\n",
            db.index, db.keys, db.expires, db.avg_ttl_ms
        );
    }
}

fn farkeep(info: &InfoSnapshot, out: &mut String) {
    let (stats, engine) = (&info.stats, &info.engine);
    out.push_str("# Farkeep\r\n");
    fields!(out,
        "farkeep_version": env!("CARGO_PKG_VERSION"),
        "farkeep_pool": engine.pool,
        "farkeep_log": engine.log,
        "farkeep_dataset_id": engine.dataset_id,
        "farkeep_node_id": engine.node_id,
        "farkeep_durability": engine.durability,
        "farkeep_durability_reason": engine.durability_reason,
        "farkeep_epoch": engine.epoch,
        "farkeep_epoch_shown": engine.epoch_shown,
        "farkeep_log_epoch": engine.log_epoch,
        "farkeep_log_end_lsn": engine.log_end_lsn,
        "farkeep_replid": engine.replid,
        "farkeep_oldest_lsn": engine.oldest_lsn,
        "farkeep_checkpoint_lsn": engine.checkpoint_lsn,
        "farkeep_applied_lsn": engine.applied_lsn,
        "farkeep_committed_lsn": engine.committed_lsn,
        "farkeep_durable_lsn": engine.durable_lsn,
        "farkeep_appended_lsn": engine.appended_lsn,
        "farkeep_checkpoint_distance_bytes": engine.appended_lsn.saturating_sub(engine.checkpoint_lsn),
        "farkeep_image_bytes": engine.image_len_bytes,
        "farkeep_image_used_bytes": engine.image_used_bytes,
        "farkeep_log_bytes": engine.log_len_bytes,
        "farkeep_log_used_bytes": engine.log_used_bytes,
        "farkeep_private_pages": engine.private_pages,
        "farkeep_redo_bytes_total": engine.redo_bytes,
        "farkeep_transactions_total": engine.transactions,
        "farkeep_turns_total": stats.turns,
        "farkeep_held_replies_total": stats.held_replies,
        "farkeep_held_replies_failed": stats.held_failed,
        "farkeep_log_full_waits": stats.log_full_waits,
        "farkeep_published_lost": stats.published_lost,
        "farkeep_http_port": info.http.1,
        "farkeep_http_bind": info.http.0,
        "farkeep_syncs_total": engine.walks.syncs,
        "farkeep_sync_bytes_total": engine.walks.sync_bytes,
        "farkeep_scrubs_total": engine.walks.scrubs,
        "farkeep_scrub_mismatches_total": engine.walks.scrub_mismatches,
        "farkeep_last_scrub_time_ms": engine.walks.last_scrub_unix_ms,
        "farkeep_rdma_device": engine.rdma_device,
        "farkeep_rdma_unusable": engine.rdma_unusable,
        "farkeep_failure": engine.failure,
    );
    fields!(out, "farkeep_promised_epoch": engine.promised_epoch);
    for (at, (epoch, replid, start_lsn)) in engine.reigns.iter().enumerate() {
        let _ = write!(out, "farkeep_reign{at}:epoch={epoch},replid={replid},start_lsn={start_lsn}\r\n");
    }
    farkeep_role(engine, out);
}

/// The steps of a write on its way to a follower.
pub const STAGES: [&str; 3] = ["posted", "durable", "applied"];

/// Milliseconds, to the microsecond.
fn ms(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

fn stage(report: &StageReport) -> String {
    format!(
        "count={},p50_ms={},p99_ms={},max_ms={}",
        report.recent_count,
        ms(report.p50_us),
        ms(report.p99_us),
        ms(report.max_us)
    )
}

/// How far behind a follower is at each step. `lag_ms` is that of the durable one, as `lag_bytes` is.
fn lags(follower: &FollowerInfo) -> String {
    let mut text = format!(",lag_ms={}", ms(follower.lag[1].us));
    for (name, lag) in STAGES.iter().zip(&follower.lag) {
        let _ = write!(text, ",{name}_lag_bytes={},{name}_lag_ms={}", lag.bytes, ms(lag.us));
    }
    let at_least = follower.lag.iter().any(|lag| lag.at_least);
    let _ = write!(text, ",lag_at_least={}", i32::from(at_least));
    text
}

fn farkeep_role(engine: &EngineInfo, out: &mut String) {
    match &engine.role {
        RoleInfo::Leader { followers, .. } => {
            fields!(out,
                "farkeep_role": "leader",
                "farkeep_sync_followers": engine.sync_followers,
                "farkeep_followers_in_reach": engine.followers_in_reach,
                "farkeep_followers_wanted": engine.followers_wanted,
                "farkeep_degraded": i32::from(engine.degraded),
                "farkeep_refusing": i32::from(engine.refusing),
                "farkeep_uncommitted_bytes": engine.times.uncommitted.bytes,
                "farkeep_uncommitted_ms": ms(engine.times.uncommitted.us),
                // Unknown is not 0: without a follower, nobody else holds what the next one would lack.
                "farkeep_at_risk_bytes": engine.times.at_risk.map_or_else(String::new, |lag| lag.bytes.to_string()),
                "farkeep_at_risk_ms": engine.times.at_risk.map_or_else(String::new, |lag| ms(lag.us)),
                "farkeep_commit_times": stage(&engine.times.committed),
                "farkeep_local_durable_times": stage(&engine.times.durable),
            );
            for (at, follower) in followers.iter().enumerate() {
                let _ = write!(
                    out,
                    "farkeep_follower{at}:address={}:{},state={},fabric={},mode={},durable_lsn={},applied_lsn={},checkpoint_lsn={},\
                     lag_bytes={},node_id={},silent_ms={},posted_lsn={}{}\r\n",
                    follower.ip,
                    follower.port,
                    follower.state,
                    follower.fabric,
                    follower.mode,
                    follower.durable_lsn,
                    follower.applied_lsn,
                    follower.checkpoint_lsn,
                    engine.appended_lsn.saturating_sub(follower.durable_lsn),
                    follower.node_id,
                    follower.silent_ms,
                    follower.posted_lsn,
                    lags(follower),
                );
                for (name, report) in STAGES.iter().zip(&follower.stages) {
                    let _ = write!(out, "farkeep_follower{at}_{name}_times:{}\r\n", stage(report));
                }
                let _ = write!(out, "farkeep_follower{at}_fabric_reason:{}\r\n", follower.fabric_reason);
                if let Some(walk) = &follower.walk {
                    let _ = write!(
                        out,
                        "farkeep_follower{at}_walk:purpose={},image_bytes={},settled_bytes={},sent_bytes={},differing={},\
                         elapsed_ms={},rate_bytes_s={},eta_s={}\r\n",
                        walk.purpose,
                        walk.image_bytes,
                        walk.settled_bytes,
                        walk.sent_bytes,
                        walk.differing,
                        walk.elapsed_ms,
                        walk.rate(),
                        walk.eta_s().map_or(-1, |eta| eta as i64),
                    );
                }
            }
        }
        RoleInfo::Follower(link) => fields!(out,
            "farkeep_role": "follower",
            "farkeep_mid_sync": i32::from(link.sync.is_some()),
            "farkeep_sync_settled_bytes": link.sync.map_or(0, |(settled, _, _)| settled),
            "farkeep_sync_image_bytes": link.sync.map_or(0, |(_, image, _)| image),
            "farkeep_sync_received_bytes": link.sync.map_or(0, |(_, _, received)| received),
            "farkeep_fabric": link.fabric,
            "farkeep_fabric_reason": link.fabric_reason,
            "farkeep_rdma_mode": link.mode.0,
            "farkeep_rdma_mode_reason": link.mode.1,
            "farkeep_link_down_reason": link.down_reason,
            "farkeep_fenced": i32::from(link.fenced),
            "farkeep_leader_sync_followers": link.leaders_sync_followers,
            "farkeep_peers": link.peers.join(","),
        ),
    }
}
