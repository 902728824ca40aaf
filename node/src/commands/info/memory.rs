//! INFO's section Memory.
//!
//! What Redis calls used memory is here the part of the image in use: that is what `maxmemory` limits, and
//! what survives a restart. The process's resident set counts the pages of the image and of the log that it
//! touched too.

use std::fmt::Write;

use super::section::fields;
use super::snapshot::InfoSnapshot;

pub(super) fn memory(info: &InfoSnapshot, out: &mut String) {
    let (engine, process) = (&info.engine, &info.process);
    let used = engine.image_used_bytes;
    let peak = engine.image_used_peak_bytes.max(used);
    let image = engine.image_len_bytes;
    let rss = process.rss_bytes;
    let percent = |part: u64, whole: u64| format!("{:.2}%", part as f64 * 100.0 / whole.max(1) as f64);
    let ratio = |a: u64, b: u64| format!("{:.2}", if b == 0 { 0.0 } else { a as f64 / b as f64 });
    let surplus = |a: u64, b: u64| a as i64 - b as i64;
    out.push_str("# Memory\r\n");
    fields!(out,
        "used_memory": used,
        "used_memory_human": human(used),
        "used_memory_rss": rss,
        "used_memory_rss_human": human(rss),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_peak_perc": percent(used, peak),
        "used_memory_overhead": 0,
        "used_memory_startup": 0,
        "used_memory_dataset": used,
        "used_memory_dataset_perc": percent(used, used),
        "allocator_allocated": used,
        "allocator_active": image,
        "allocator_resident": image,
        "total_system_memory": process.system_memory_bytes,
        "total_system_memory_human": human(process.system_memory_bytes),
        "used_memory_lua": 0,
        "used_memory_vm_eval": 0,
        "used_memory_lua_human": human(0),
        "used_memory_scripts_eval": 0,
        "number_of_cached_scripts": 0,
        "number_of_functions": 0,
        "number_of_libraries": 0,
        "used_memory_vm_functions": 0,
        "used_memory_vm_total": 0,
        "used_memory_vm_total_human": human(0),
        "used_memory_functions": 0,
        "used_memory_scripts": 0,
        "used_memory_scripts_human": human(0),
        "maxmemory": info.maxmemory_bytes,
        "maxmemory_human": human(info.maxmemory_bytes),
        "maxmemory_policy": info.maxmemory_policy,
        "allocator_frag_ratio": ratio(image, used),
        "allocator_frag_bytes": surplus(image, used),
        "allocator_rss_ratio": ratio(image, image),
        "allocator_rss_bytes": 0,
        "rss_overhead_ratio": ratio(rss, image),
        "rss_overhead_bytes": surplus(rss, image),
        "mem_fragmentation_ratio": ratio(rss, used),
        "mem_fragmentation_bytes": surplus(rss, used),
        "mem_not_counted_for_evict": 0,
        "mem_replication_backlog": engine.log_len_bytes,
        "mem_total_replication_buffers": engine.log_len_bytes,
        "mem_clients_slaves": 0,
        "mem_clients_normal": info.clients.buffers_bytes,
        "mem_cluster_links": 0,
        "mem_aof_buffer": 0,
        "mem_allocator": "farkeep",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
    );
}

/// Redis's short form of a length: `512B`, `1.27M`.
pub fn human(bytes: u64) -> String {
    const UNITS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}
