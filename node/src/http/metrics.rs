//! `/metrics`: the figures for Prometheus, in the OpenMetrics text format.
//!
//! Where redis_exporter has a name for the same thing, it is that name, so that dashboards and alerts for Redis go on working; the rest
//! is called `farkeep_…`. docs/metrics.md describes every one of them, and a test sees to it that it does. What is unknown is left out
//! and never 0.

use std::fmt;
use std::sync::Arc;

use farkeep_leader::lag::{LAST_BUCKET, StageReport};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::sample::Sample;
use super::status::Status;
use crate::commands::info::snapshot::InfoSnapshot;

/// The text.
///
/// # Errors
/// Never, as long as a `String` can be written to.
pub fn text(sample: &Arc<Sample>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures(Arc::clone(sample))));
    let mut text = String::with_capacity(32 * 1024);
    encode_registry(&mut text, &registry)?;
    text.push_str("# EOF\n");
    Ok(text)
}

#[derive(Debug)]
struct Figures(Arc<Sample>);

type Labels = Vec<(&'static str, String)>;

/// Writes metrics one after the other.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, [(Vec::new(), value)])
    }

    fn known(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        self.gauges(name, help, value.map(|value| (Vec::new(), value)))
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.family(name, help, values, ConstGauge::new)
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.counters(name, help, [(Vec::new(), value)])
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.family(name, help, values, ConstCounter::new)
    }

    /// A metric once for each set of labels; nothing at all if there is none.
    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
        metric: impl Fn(f64) -> M,
    ) -> fmt::Result {
        let mut values = values.into_iter().map(|(labels, value)| (labels, metric(value))).peekable();
        let Some((_, first)) = values.peek() else { return Ok(()) };
        let mut family = self.0.encode_descriptor(name, help, None, first.metric_type())?;
        for (labels, metric) in values {
            if labels.is_empty() {
                return metric.encode(family);
            }
            metric.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn histograms<'r>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, &'r StageReport)>,
    ) -> fmt::Result {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, report) in values {
            let mut buckets: Vec<(f64, u64)> = (0..=LAST_BUCKET)
                .map(|power| ((1_u64 << power) as f64 / 1e6, report.buckets[power]))
                .collect();
            buckets.push((f64::INFINITY, report.buckets[LAST_BUCKET + 1]));
            let (sum, count) = (seconds(report.sum_us), report.buckets.iter().sum());
            if labels.is_empty() {
                family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            } else {
                family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn on(condition: bool) -> f64 {
    f64::from(u8::from(condition))
}

fn label(name: &'static str, value: impl Into<String>) -> Labels {
    vec![(name, value.into())]
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Writer(encoder);
        let Sample { status, snapshot, .. } = &*self.0;
        redis(&mut out, status, snapshot)?;
        redis_replication(&mut out, status, snapshot)?;
        node(&mut out, status, snapshot)?;
        lag(&mut out, status)?;
        walks(&mut out, status)?;
        pool(&mut out, status, snapshot)
    }
}

/// What redis_exporter calls so.
fn redis(out: &mut Writer<'_>, status: &Status, snapshot: &InfoSnapshot) -> fmt::Result {
    let InfoSnapshot { server, clients, stats, engine, process, .. } = snapshot;
    out.gauge("redis_up", "The node answers.", 1.0)?;
    let role = if status.role == "leader" { "master" } else { "slave" };
    let instance = vec![
        ("role", role.to_owned()),
        ("redis_version", crate::REDIS_VERSION.to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("run_id", server.run_id.clone()),
        ("tcp_port", server.tcp_port.to_string()),
        ("os", server.os.clone()),
        ("maxmemory_policy", snapshot.maxmemory_policy.clone()),
    ];
    out.gauges("redis_instance_info", "What the node is.", [(instance, 1.0)])?;
    out.gauge("redis_uptime_in_seconds", "Seconds since the start.", server.uptime_s as f64)?;
    out.gauge("redis_start_time_seconds", "Unix time of the start.", server.started_at_s as f64)?;
    out.gauge("redis_process_id", "Process id.", f64::from(server.process_id))?;
    out.gauge("redis_connected_clients", "Client connections.", clients.connected as f64)?;
    out.gauge("redis_blocked_clients", "Connections that wait inside a command.", clients.blocked as f64)?;
    out.gauge("redis_config_maxclients", "Most client connections at a time.", clients.max as f64)?;
    out.counter("redis_connections_received", "Connections accepted.", stats.connections as f64)?;
    out.counter("redis_rejected_connections", "Connections refused.", stats.rejected_connections as f64)?;
    out.counter("redis_commands_processed", "Commands executed.", stats.commands as f64)?;
    let calls = snapshot.commands.iter().map(|command| (label("cmd", &command.name), command.calls as f64));
    out.counters("redis_commands", "Commands executed, by name.", calls)?;
    let errors = snapshot.errors.iter().map(|(code, count)| (label("err", code), *count as f64));
    out.counters("redis_errors", "Error replies, by code.", errors)?;
    out.counter("redis_net_input_bytes", "Bytes read from clients.", stats.input_bytes as f64)?;
    out.counter("redis_net_output_bytes", "Bytes written to clients.", stats.output_bytes as f64)?;
    out.counter("redis_keyspace_hits", "Reads that found their key.", engine.keyspace_hits as f64)?;
    out.counter("redis_keyspace_misses", "Reads that did not.", engine.keyspace_misses as f64)?;
    out.counter("redis_expired_keys", "Keys removed because they expired.", engine.expired_keys as f64)?;
    out.counter("redis_cpu_sys_seconds", "CPU time in the kernel.", process.cpu_sys_s)?;
    out.counter("redis_cpu_user_seconds", "CPU time in user mode.", process.cpu_user_s)?;
    out.gauge("redis_memory_used_bytes", "Bytes of the image in use.", engine.image_used_bytes as f64)?;
    out.gauge("redis_memory_used_rss_bytes", "Resident set of the process.", process.rss_bytes as f64)?;
    out.gauge("redis_memory_max_bytes", "maxmemory, 0 for none.", snapshot.maxmemory_bytes as f64)?;
    let databases = || engine.databases.iter().map(|db| (label("db", format!("db{}", db.index)), db));
    out.gauges("redis_db_keys", "Keys.", databases().map(|(labels, db)| (labels, db.keys as f64)))?;
    let expiring = databases().map(|(labels, db)| (labels, db.expires as f64));
    out.gauges("redis_db_keys_expiring", "Keys with an expiry.", expiring)?;
    out.gauge(
        "redis_pubsub_channels",
        "Channels that somebody subscribes to.",
        engine.pubsub_channels as f64,
    )?;
    out.gauge(
        "redis_pubsub_patterns",
        "Patterns that somebody subscribes to.",
        engine.pubsub_patterns as f64,
    )?;
    out.gauge("redis_loading_dump_file", "The node cannot serve yet.", on(engine.loading))
}

/// A name's address and port.
fn address(name: &str) -> (&str, &str) {
    name.rsplit_once(':').unwrap_or((name, ""))
}

/// What redis_exporter says about replication.
fn redis_replication(out: &mut Writer<'_>, status: &Status, snapshot: &InfoSnapshot) -> fmt::Result {
    let engine = &snapshot.engine;
    out.gauge("redis_master_repl_offset", "The end of what is durable here.", engine.durable_lsn as f64)?;
    out.gauge("redis_connected_slaves", "Followers with a session.", status.followers.len() as f64)?;
    let slaves = || {
        status.followers.iter().map(|follower| {
            let (ip, port) = address(&follower.name);
            let state = if follower.online { "online" } else { "wait_bgsave" };
            (
                vec![
                    ("slave_ip", ip.to_owned()),
                    ("slave_port", port.to_owned()),
                    ("slave_state", state.to_owned()),
                ],
                follower,
            )
        })
    };
    let offsets = slaves().map(|(labels, follower)| (labels, follower.stages[1].lsn as f64));
    out.gauges("redis_connected_slave_offset_bytes", "What is durable on a follower.", offsets)?;
    let silences = slaves().map(|(labels, follower)| (labels, follower.silent_ms as f64 / 1000.0));
    out.gauges("redis_connected_slave_lag_seconds", "Since a follower was last heard of.", silences)?;
    if let Some(link) = &status.link {
        let (host, port) = address(&link.leader);
        let labels = vec![("master_host", host.to_owned()), ("master_port", port.to_owned())];
        out.gauges("redis_master_link_up", "The link to the leader is up.", [(labels.clone(), on(link.up))])?;
        let silence = link.silent_s.map(|silent_s| (labels.clone(), silent_s as f64));
        out.gauges("redis_master_last_io_seconds_ago", "Since the leader was last heard of.", silence)?;
        out.gauges(
            "redis_master_sync_in_progress",
            "The image is being filled.",
            [(labels, on(link.syncing))],
        )?;
        out.gauge("redis_slave_repl_offset", "What is durable here.", engine.durable_lsn as f64)?;
    }
    Ok(())
}

/// The node as a whole.
fn node(out: &mut Writer<'_>, status: &Status, snapshot: &InfoSnapshot) -> fmt::Result {
    let (engine, stats) = (&snapshot.engine, &snapshot.stats);
    let info = vec![
        ("version", status.version.to_owned()),
        ("role", status.role.to_owned()),
        ("durability", engine.durability.clone()),
        ("dataset_id", status.dataset_id.clone()),
        ("node_id", status.node_id.clone()),
    ];
    out.gauges("farkeep_info", "What the node is.", [(info, 1.0)])?;
    let verdict = vec![("state", status.verdict.state.to_owned())];
    out.gauges(
        "farkeep_verdict",
        "0 as it should be, 1 warning, 2 critical.",
        [(verdict, status.verdict.level as u8 as f64)],
    )?;
    out.gauge("farkeep_leader", "The node leads.", on(status.role == "leader"))?;
    out.gauge("farkeep_epoch", "The present reign.", f64::from(engine.epoch))?;
    out.gauge("farkeep_failed", "The node has stopped writing.", on(!engine.failure.is_empty()))?;
    if status.role == "leader" {
        out.gauge(
            "farkeep_sync_followers",
            "Followers on which a write must be durable.",
            engine.sync_followers as f64,
        )?;
        out.gauge(
            "farkeep_followers_in_reach",
            "Followers that can confirm writes.",
            engine.followers_in_reach as f64,
        )?;
        out.gauge(
            "farkeep_followers_lost",
            "Followers of this reign that are gone.",
            status.lost.len() as f64,
        )?;
        out.gauge("farkeep_degraded", "Writes go on with fewer followers than wanted.", on(engine.degraded))?;
        out.gauge("farkeep_writes_refused", "Writes are refused: too few followers.", on(engine.refusing))?;
    }
    out.counter("farkeep_transactions", "Transactions appended.", engine.transactions as f64)?;
    out.counter("farkeep_redo_bytes", "Bytes appended to the log.", engine.redo_bytes as f64)?;
    out.counter("farkeep_held_replies", "Replies that were held for a commit.", stats.held_replies as f64)?;
    out.counter(
        "farkeep_unconfirmed_replies",
        "Held replies that ended in an error.",
        stats.held_failed as f64,
    )?;
    out.counter(
        "farkeep_log_full_waits",
        "Commands that waited for room in the log.",
        stats.log_full_waits as f64,
    )?;
    out.counter(
        "farkeep_published_lost",
        "Published messages that a follower was not told of.",
        stats.published_lost as f64,
    )
}

/// How far behind everything is.
fn lag(out: &mut Writer<'_>, status: &Status) -> fmt::Result {
    let us = |us: Option<u64>| us.map(seconds);
    out.known(
        "farkeep_at_risk_bytes",
        "Acknowledged, and on no follower.",
        status.at_risk.bytes.map(|bytes| bytes as f64),
    )?;
    out.known("farkeep_at_risk_seconds", "Age of the oldest of it.", us(status.at_risk.us))?;
    out.known(
        "farkeep_uncommitted_bytes",
        "Appended, and not committed.",
        status.uncommitted.bytes.map(|bytes| bytes as f64),
    )?;
    out.known("farkeep_uncommitted_seconds", "Age of the oldest of it.", us(status.uncommitted.us))?;
    let stages = || {
        status.followers.iter().flat_map(|follower| {
            follower.stages.iter().map(move |stage| {
                (vec![("follower", follower.name.clone()), ("stage", stage.stage.to_owned())], stage)
            })
        })
    };
    let bytes = stages().map(|(labels, stage)| (labels, stage.lag_bytes as f64));
    out.gauges("farkeep_follower_lag_bytes", "Appended, and not so far on a follower.", bytes)?;
    let times = stages().map(|(labels, stage)| (labels, seconds(stage.lag_us)));
    out.gauges("farkeep_follower_lag_seconds", "Age of the oldest of it.", times)?;
    let reports = stages().map(|(labels, stage)| (labels, &stage.times.report));
    out.histograms("farkeep_follower_stage_seconds", "From append to a stage on a follower.", reports)?;
    let fabrics = status.followers.iter().map(|follower| {
        let labels = vec![
            ("follower", follower.name.clone()),
            ("fabric", follower.fabric.clone()),
            ("mode", follower.mode.to_owned()),
            ("state", follower.state.to_owned()),
        ];
        (labels, on(follower.online))
    });
    out.gauges("farkeep_follower_info", "A follower's window is open.", fabrics)?;
    let commit = status.commit.iter().map(|times| (Vec::new(), &times.report));
    out.histograms("farkeep_commit_seconds", "From append to commit.", commit)?;
    let local = status.local_durable.iter().map(|times| (Vec::new(), &times.report));
    out.histograms("farkeep_local_durable_seconds", "From append to durable here.", local)?;
    let unapplied = status.link.as_ref().map(|link| link.unapplied_bytes as f64);
    out.known("farkeep_unapplied_bytes", "Durable here, and not in the image yet.", unapplied)
}

/// Delta syncs and scrubs.
fn walks(out: &mut Writer<'_>, status: &Status) -> fmt::Result {
    let walks = &status.walks;
    out.counter("farkeep_syncs", "Delta syncs that have ended.", walks.syncs as f64)?;
    out.counter("farkeep_sync_bytes", "Bytes that they sent.", walks.sync_bytes as f64)?;
    out.counter("farkeep_scrubs", "Scrubs that have ended, one for each follower.", walks.scrubs as f64)?;
    out.counter(
        "farkeep_scrub_mismatches",
        "Chunks that a scrub found to differ, and repaired.",
        walks.scrub_mismatches as f64,
    )?;
    let last = walks.last_scrub_ms.map(|ms| ms as f64 / 1000.0);
    out.known("farkeep_last_scrub_time_seconds", "Unix time of the end of the last scrub.", last)?;
    let running = status.followers.iter().filter_map(|follower| {
        let walk = follower.walk.as_ref()?;
        let labels = vec![("follower", follower.name.clone()), ("purpose", walk.purpose.to_owned())];
        Some((labels, walk.settled_bytes as f64 / walk.image_bytes.max(1) as f64))
    });
    out.gauges("farkeep_walk_ratio", "How much of a follower's image a sync or scrub has settled.", running)
}

/// Pool and log.
fn pool(out: &mut Writer<'_>, status: &Status, snapshot: &InfoSnapshot) -> fmt::Result {
    let engine = &snapshot.engine;
    let marks = [
        ("oldest", engine.oldest_lsn),
        ("checkpoint", engine.checkpoint_lsn),
        ("applied", engine.applied_lsn),
        ("committed", engine.committed_lsn),
        ("durable", engine.durable_lsn),
        ("appended", engine.appended_lsn),
    ];
    let marks = marks.map(|(name, lsn)| (label("mark", name), lsn as f64));
    out.gauges("farkeep_lsn", "Positions in the log.", marks)?;
    out.gauge("farkeep_log_bytes", "Length of the log's ring.", engine.log_len_bytes as f64)?;
    out.gauge("farkeep_log_used_bytes", "What somebody still needs of it.", engine.log_used_bytes as f64)?;
    let holds = status.log.holds_s.map(|holds_s| holds_s as f64);
    out.known(
        "farkeep_log_holds_seconds",
        "After so long a lost follower needs a sync, as things go.",
        holds,
    )?;
    out.gauge(
        "farkeep_checkpoint_distance_bytes",
        "Log that a restart would replay.",
        status.pool.checkpoint_distance_bytes as f64,
    )?;
    out.gauge("farkeep_image_bytes", "Length of the image.", engine.image_len_bytes as f64)?;
    out.gauge(
        "farkeep_dirty_bytes",
        "DRAM of pages that differ from the image.",
        status.pool.dirty_bytes as f64,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::commands::info::snapshot::{CommandInfo, DbInfo};
    use crate::http::status::{Distance, FollowerStatus, LinkStatus, StageStatus, Times, WalkStatus};

    /// A node that has something to say under every name.
    fn everything() -> Arc<Sample> {
        let mut snapshot = InfoSnapshot {
            commands: vec![CommandInfo { name: "set".into(), calls: 3, ..CommandInfo::default() }],
            errors: vec![("ERR".into(), 1)],
            ..InfoSnapshot::default()
        };
        snapshot.engine.databases.push(DbInfo { index: 0, keys: 2, ..DbInfo::default() });
        let mut report = StageReport { sum_us: 1_500, ..StageReport::default() };
        report.buckets[0] = 1;
        report.buckets[11] = 1;
        let times = Times { report, ..Times::default() };
        let stage = StageStatus { stage: "durable", times: times.clone(), ..StageStatus::default() };
        let follower = FollowerStatus {
            name: "b\"\\\n:2".into(),
            stages: [stage.clone(), stage.clone(), stage],
            walk: Some(WalkStatus { purpose: "sync", ..WalkStatus::default() }),
            ..FollowerStatus::default()
        };
        let known = Distance { bytes: Some(1), us: Some(2) };
        let mut status = Status {
            role: "leader",
            at_risk: known,
            uncommitted: known,
            commit: Some(times.clone()),
            local_durable: Some(times),
            followers: vec![follower],
            link: Some(LinkStatus { leader: "a:1".into(), silent_s: Some(1), ..LinkStatus::default() }),
            ..Status::default()
        };
        status.log.holds_s = Some(9);
        status.walks.last_scrub_ms = Some(9);
        Arc::new(Sample { status, snapshot, json: Default::default() })
    }

    fn families(text: &str) -> BTreeSet<&str> {
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
    }

    #[test]
    fn every_metric_is_documented_and_every_documented_metric_is_there() {
        let text = text(&everything()).unwrap();
        let page = include_str!("../../../docs/metrics.md");
        // A counter's samples end in `_total`, and so does its name in the document.
        let counters: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let named: BTreeSet<String> = families(&text)
            .into_iter()
            .map(|name| if counters.contains(name) { format!("{name}_total") } else { name.to_owned() })
            .collect();
        let documented: BTreeSet<String> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .map(str::to_owned)
            .collect();
        assert_eq!(named, documented);
    }

    /// What packaging/ asks Prometheus for.
    #[test]
    fn alerts_and_dashboard_name_only_metrics_that_there_are() {
        let page = include_str!("../../../docs/metrics.md");
        let names: BTreeSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let rules = include_str!("../../../packaging/prometheus/farkeep.rules.yml");
        let grafana = include_str!("../../../packaging/grafana/farkeep.json");
        let of_word = |text: &'static str| {
            text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                .filter(|word| word.starts_with("farkeep_") || word.starts_with("redis_"))
                .map(|word| word.strip_suffix("_bucket").unwrap_or(word))
        };
        let unknown: BTreeSet<&str> =
            of_word(rules).chain(of_word(grafana)).filter(|word| !names.contains(word)).collect();
        assert_eq!(unknown, BTreeSet::new());
        assert!(of_word(rules).count() > 10);
    }

    #[test]
    fn buckets_add_up_and_labels_are_escaped() {
        let text = text(&everything()).unwrap();
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        has("farkeep_commit_seconds_bucket{le=\"0.000001\"} 1");
        has("farkeep_commit_seconds_bucket{le=\"0.002048\"} 2");
        has("farkeep_commit_seconds_bucket{le=\"+Inf\"} 2");
        has("farkeep_commit_seconds_count 2");
        has("farkeep_commit_seconds_sum 0.0015");
        assert!(text.contains(r#"follower="b\"\\\n:2""#), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        let text = text(&Arc::default()).unwrap();
        for name in [
            "farkeep_at_risk_bytes",
            "farkeep_log_holds_seconds",
            "farkeep_follower_lag_seconds",
            "redis_master_link_up",
        ] {
            assert!(!families(&text).contains(name), "{name}");
        }
    }
}
