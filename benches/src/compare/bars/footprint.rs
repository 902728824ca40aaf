//! Bar 4: what a key costs in the log and in the image, beside what it costs redis-server in memory.

use anyhow::Context;
use farkeep_benches::load::{self, Workload};
use farkeep_benches::stop::Stop;
use serde_json::json;

use super::Plan;
use crate::client::Client;
use crate::contender::Contender;
use crate::report::{Bar, Bound, Findings, show, table};
use crate::site::{Medium, Site};
use crate::{farkeep, redis};

/// Log bytes of a SET that makes a key.
const NEW_KEY_AT_MOST: f64 = 256.0;
/// Log bytes of a SET that overwrites.
const OVERWRITE_AT_MOST: f64 = 160.0;
/// Image bytes per key beside redis-server's resident memory per key.
const IMAGE_AT_MOST: f64 = 1.0;

/// Bytes per SET or per key.
struct Footprint {
    /// Of the replication stream, for a key that was not there.
    log_new: f64,
    /// Of the replication stream, for a key that was.
    log_overwrite: f64,
    /// Of the data itself: the image, or resident memory.
    stored: f64,
}

pub fn run(plan: &Plan, stop: &Stop) -> anyhow::Result<Findings> {
    let site = Site::new(Medium::Tmpfs, plan)?;
    let theirs = measure_redis(&site, plan, stop)?;
    let mut table = table(&["bytes", "log, new key", "log, overwrite", "stored per key"], &[1, 2, 3]);
    let mut add = |name: &str, footprint: &Footprint| {
        table.add_row([
            name.to_owned(),
            show(footprint.log_new, ""),
            show(footprint.log_overwrite, ""),
            show(footprint.stored, ""),
        ]);
    };
    add("redis (replication stream, RSS)", &theirs);
    let mut bars = Vec::new();
    let mut figures = json!({ "redis": theirs.to_json() });
    if plan.farkeep.is_some() {
        let ours = measure_farkeep(&site, plan, stop)?;
        add("farkeep (redo log, image)", &ours);
        figures["farkeep"] = ours.to_json();
        let bar = |what: &str, measured, at_most, unit| Bar {
            number: 4,
            what: what.to_owned(),
            measured,
            bound: Bound::AtMost(at_most),
            unit,
            is_aim: false,
        };
        bars.push(bar("redo bytes of a SET, new key", ours.log_new, NEW_KEY_AT_MOST, "B"));
        bars.push(bar("redo bytes of a SET, overwrite", ours.log_overwrite, OVERWRITE_AT_MOST, "B"));
        bars.push(bar("image per key to redis RSS", ours.stored / theirs.stored, IMAGE_AT_MOST, "x"));
    }
    let caption = format!("{} keys of 16 bytes, values of {} bytes", plan.keys, plan.value_len);
    Ok(Findings { title: "Bytes".into(), tables: vec![(caption, table)], bars, figures })
}

/// redis-server counts an offset only while it feeds a replica, so its stream is measured on a pair; and its memory on a
/// server alone, where no buffer towards a replica adds to it.
fn measure_redis(site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Footprint> {
    let pair = redis::everyday_pair(site, plan, stop)?;
    let streamed = measure(&pair, plan, stop, |_| Ok(0))?;
    drop(pair);
    let alone = redis::alone("redis alone", redis::Persistence::Nothing, site, plan, stop)?;
    let empty = alone.leader.child.rss_bytes()?;
    let resident =
        measure(&alone, plan, stop, |redis| Ok(redis.leader.child.rss_bytes()?.saturating_sub(empty)))?;
    Ok(Footprint { stored: resident.stored, ..streamed })
}

fn measure_farkeep(site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Footprint> {
    let farkeep = farkeep::alone(site, plan, stop)?;
    let used = |farkeep: &Contender| {
        Client::connect(farkeep.leader.address)?.info_number("farkeep", "farkeep_image_used_bytes")
    };
    let empty = used(&farkeep)?;
    measure(&farkeep, plan, stop, |farkeep| Ok(used(farkeep)?.saturating_sub(empty)))
}

/// Sets every key once, asks `stored` for what that took, and overwrites each key once.
fn measure(
    contender: &Contender,
    plan: &Plan,
    stop: &Stop,
    stored: impl Fn(&Contender) -> anyhow::Result<u64>,
) -> anyhow::Result<Footprint> {
    let mut client = Client::connect(contender.leader.address)?;
    let mut offset = || client.info_number("replication", "master_repl_offset");
    let new_keys = plan.workload(contender.leader.address).preload();
    let start = offset()?;
    load::run(&new_keys, stop).context("new keys")?;
    let after_new = offset()?;
    let stored = stored(contender)?;
    load::run(&Workload { seed: new_keys.seed + 1, ..new_keys }, stop).context("overwriting")?;
    let after_overwrite = offset()?;
    let per_key = |bytes: u64| bytes as f64 / plan.keys as f64;
    Ok(Footprint {
        log_new: per_key(after_new - start),
        log_overwrite: per_key(after_overwrite - after_new),
        stored: per_key(stored),
    })
}

impl Footprint {
    fn to_json(&self) -> serde_json::Value {
        json!({
            "log_bytes_new_key": self.log_new,
            "log_bytes_overwrite": self.log_overwrite,
            "stored_bytes_per_key": self.stored,
        })
    }
}
