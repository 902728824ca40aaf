//! INFO: gathering an [`InfoSnapshot`] and answering with its text.

mod memory;
mod section;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Call, Flow, entries};
use crate::clients::ClientKind;
use crate::config::Config;
use crate::node::Node;
use crate::stats;
use snapshot::{ClientsInfo, CommandInfo, EngineInfo, InfoSnapshot, ProcessInfo, ServerInfo, StatsInfo};

pub use memory::human;
pub use section::STAGES;

/// INFO [section …]
pub fn info(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let snapshot = collect(call.node, call.config, call.engine.info(call.node, call.now));
    let text = section::format(&snapshot, &argv[1..]);
    call.reply().verbatim("txt", text.as_bytes());
    Flow::Continue
}

/// The fields of the section Farkeep, by name.
pub fn farkeep_section(snapshot: &InfoSnapshot) -> std::collections::BTreeMap<String, String> {
    let text = section::format(snapshot, &[b"farkeep"]);
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Puts together what the engine says and what the rest of the process knows.
pub fn collect(node: &Node, config: &Config, engine: EngineInfo) -> InfoSnapshot {
    let mut commands: Vec<CommandInfo> = entries()
        .map(|(_, entry)| CommandInfo {
            name: entry.spec.name.to_owned(),
            calls: entry.calls.load(Ordering::Relaxed),
            rejected: entry.rejected.load(Ordering::Relaxed),
            failed: entry.failed.load(Ordering::Relaxed),
        })
        .filter(|command| command.calls + command.rejected + command.failed > 0)
        .collect();
    commands.sort_by(|a, b| a.name.cmp(&b.name));
    InfoSnapshot {
        server: server(node, config),
        clients: clients(node, config),
        process: process(),
        engine,
        stats: counters(node),
        http: (config.http_bind.to_string(), config.http_port),
        maxmemory_bytes: config.maxmemory,
        maxmemory_policy: config.maxmemory_policy.to_string(),
        commands,
        errors: node.stats.errors(),
    }
}

fn server(node: &Node, config: &Config) -> ServerInfo {
    let uname = rustix::system::uname();
    let os = [uname.sysname(), uname.release(), uname.machine()].map(|part| part.to_string_lossy()).join(" ");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ServerInfo {
        os,
        process_id: std::process::id(),
        run_id: node.run_id.clone(),
        tcp_port: config.port,
        server_time_us: now.as_micros() as i64,
        uptime_s: node.uptime_s(),
        started_at_s: (node.started_at_ms / 1000) as i64,
        executable: shown_path(std::env::current_exe().ok().as_deref()),
        config_file: shown_path(node.config_file.as_deref()),
        io_threads: node.workers.len(),
    }
}

fn shown_path(path: Option<&std::path::Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn clients(node: &Node, config: &Config) -> ClientsInfo {
    let mut info = ClientsInfo { max: config.maxclients, ..ClientsInfo::default() };
    for client in node.clients.all() {
        if client.kind() == ClientKind::Replica {
            continue;
        }
        let input = client.query_len_bytes.load(Ordering::Relaxed);
        let output = client.output_len_bytes.load(Ordering::Relaxed);
        info.connected += 1;
        info.max_input_bytes = info.max_input_bytes.max(input);
        info.max_output_bytes = info.max_output_bytes.max(output);
        info.blocked += usize::from(client.blocked.load(Ordering::Relaxed));
        info.buffers_bytes += input + output;
    }
    info
}

fn counters(node: &Node) -> StatsInfo {
    let stats = &node.stats;
    let [commands_per_s, input_bytes_per_s, output_bytes_per_s] = stats.instantaneous();
    StatsInfo {
        connections: stats::get(&stats.connections),
        commands: stats::get(&stats.commands),
        commands_per_s,
        input_bytes: stats::get(&stats.input_bytes),
        output_bytes: stats::get(&stats.output_bytes),
        input_bytes_per_s,
        output_bytes_per_s,
        rejected_connections: stats::get(&stats.rejected_connections),
        error_replies: stats::get(&stats.error_replies),
        reads: stats::get(&stats.socket_reads),
        writes: stats::get(&stats.socket_writes),
        turns: stats::get(&stats.turns),
        held_replies: stats::get(&stats.held_replies),
        held_failed: stats::get(&stats.held_failed),
        log_full_waits: stats::get(&stats.log_full_waits),
        published_lost: stats::get(&stats.published_lost),
    }
}

/// Reads what the kernel says; what cannot be read stays 0, since INFO must not fail for it.
fn process() -> ProcessInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu_user_s, cpu_sys_s) = cpu_seconds(&read("/proc/self/stat"));
    let (cpu_user_main_s, cpu_sys_main_s) = cpu_seconds(&read("/proc/thread-self/stat"));
    let page_len_bytes = rustix::param::page_size() as u64;
    let rss_pages = read("/proc/self/statm").split(' ').nth(1).and_then(|word| word.parse::<u64>().ok());
    let sysinfo = rustix::system::sysinfo();
    ProcessInfo {
        rss_bytes: rss_pages.unwrap_or(0) * page_len_bytes,
        system_memory_bytes: sysinfo.totalram * u64::from(sysinfo.mem_unit),
        cpu_sys_s,
        cpu_user_s,
        cpu_sys_main_s,
        cpu_user_main_s,
    }
}

/// User and system CPU time out of a `/proc/…/stat` line. The name in its second field may contain anything,
/// so fields are counted from its closing parenthesis.
fn cpu_seconds(stat: &str) -> (f64, f64) {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return (0.0, 0.0) };
    let mut times = fields.split(' ').skip(11).map(|field| {
        field.parse::<u64>().unwrap_or(0) as f64 / rustix::param::clock_ticks_per_second() as f64
    });
    (times.next().unwrap_or(0.0), times.next().unwrap_or(0.0))
}
