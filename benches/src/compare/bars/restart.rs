//! Bar 5: from kill -9 back to full service.
//!
//! The clock runs from just before the process is started until a SET and a GET of a key from before the kill have both
//! been answered as they should. The prober tries again without a pause; what it costs is part of the figure.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use farkeep_benches::load::{self, Workload};
use farkeep_benches::stop::Stop;
use serde_json::json;

use super::{Plan, fill};
use crate::client::{Answer, Client};
use crate::contender::Server;
use crate::redis::Persistence;
use crate::report::{Bar, Bound, Findings, show, table};
use crate::rounds::median;
use crate::site::{Medium, Site};
use crate::{farkeep, redis};

/// Restart within this many milliseconds, whatever the number of keys.
const WITHIN_MS: f64 = 300.0;
/// Twice the keys may take this much longer: nothing but noise.
const TWICE_THE_KEYS_AT_MOST: f64 = 1.25;
/// A server that takes longer is given up.
const SERVICE_WITHIN: Duration = Duration::from_secs(300);
/// A key that is set to prove that writes are served.
const PROBE_KEY: &str = "restart-probe";

pub fn run(plan: &Plan, stop: &Stop) -> anyhow::Result<Findings> {
    let mut table = table(&["restart after kill -9, ms", "keys", "median", "longest"], &[1, 2, 3]);
    let mut figures = json!({});
    let mut add = |name: &str, keys: u64, times_ms: &[f64]| {
        let middle = median(times_ms.to_vec());
        let longest = times_ms.iter().copied().fold(0.0, f64::max);
        table.add_row([name.to_owned(), keys.to_string(), show(middle, ""), show(longest, "")]);
        figures[format!("{name}, {keys} keys")] = json!(times_ms);
        middle
    };
    let mut bars = Vec::new();
    let mut medians = Vec::new();
    for keys in plan.restart_keys {
        for (name, snapshot) in [("redis, append-only file", false), ("redis, snapshot", true)] {
            eprintln!("  restart | {keys} keys | {name}");
            let time =
                restart_redis(snapshot, keys, plan, stop).with_context(|| format!("{name}, {keys} keys"))?;
            add(name, keys, &[time]);
        }
        if plan.farkeep.is_some() {
            eprintln!("  restart | {keys} keys | farkeep");
            let times = restart_farkeep(keys, plan, stop).with_context(|| format!("farkeep, {keys} keys"))?;
            let middle = add("farkeep", keys, &times);
            medians.push(middle);
            bars.push(Bar {
                number: 5,
                what: format!("restart with {keys} keys"),
                measured: middle,
                bound: Bound::AtMost(WITHIN_MS),
                unit: "ms",
                is_aim: false,
            });
        }
    }
    if let [some, twice] = medians[..] {
        bars.push(Bar {
            number: 5,
            what: "restart with twice the keys, to restart with fewer".into(),
            measured: twice / some,
            bound: Bound::AtMost(TWICE_THE_KEYS_AT_MOST),
            unit: "x",
            is_aim: false,
        });
    }
    let caption = format!("keys of 16 bytes, values of {} bytes, tmpfs", plan.restart_value_len);
    Ok(Findings { title: "Restart".into(), tables: vec![(caption, table)], bars, figures })
}

fn restart_redis(snapshot: bool, keys: u64, plan: &Plan, stop: &Stop) -> anyhow::Result<f64> {
    let site = Site::new(Medium::Tmpfs, plan)?;
    let dir = site.make_dir("redis")?;
    let persistence = if snapshot { Persistence::Nothing } else { Persistence::EverySecond };
    let mut server = redis::start(persistence, &dir, None, plan, stop)?;
    fill(&workload(&server, keys, plan), stop)?;
    if snapshot {
        let saved = Client::connect(server.address)?.call(&["SAVE"])?;
        ensure!(saved == Answer::Status("OK".into()), "SAVE answered {saved:?}");
    }
    server.child.kill()?;
    let begun = Instant::now();
    let server = redis::launch(persistence, &dir, None, plan)?;
    time_to_service(server, begun, keys, plan, stop).map(|(_, time_ms)| time_ms)
}

fn restart_farkeep(keys: u64, plan: &Plan, stop: &Stop) -> anyhow::Result<Vec<f64>> {
    let site = Site::new(Medium::Tmpfs, plan)?;
    let dir = site.make_dir("farkeep")?;
    let flags = ["--sync-followers", "0"];
    let mut server = farkeep::launch(&dir, site.medium, &flags, plan)?;
    server.wait_ready(stop)?;
    fill(&workload(&server, keys, plan), stop)?;
    let mut times_ms = Vec::with_capacity(plan.restarts);
    for _ in 0..plan.restarts {
        server.child.kill()?;
        let begun = Instant::now();
        let launched = farkeep::launch(&dir, site.medium, &flags, plan)?;
        let (running, time_ms) = time_to_service(launched, begun, keys, plan, stop)?;
        times_ms.push(time_ms);
        server = running;
        // The next kill finds a log with work in it, as a crash in mid-service would.
        let overwrites = Workload { limit: load::Limit::Time(plan.measure), ..workload(&server, keys, plan) };
        load::run(&overwrites, stop).context("load before the next kill")?;
    }
    Ok(times_ms)
}

fn workload(server: &Server, keys: u64, plan: &Plan) -> Workload {
    Workload { keys, value_len: plan.restart_value_len, ..plan.workload(server.address) }
}

/// Asks until SET and GET are both served; the time since `begun` in milliseconds.
fn time_to_service(
    mut server: Server,
    begun: Instant,
    keys: u64,
    plan: &Plan,
    stop: &Stop,
) -> anyhow::Result<(Server, f64)> {
    let known_key = format!("key:{:012}", keys - 1);
    loop {
        if let Ok(mut client) = Client::connect(server.address) {
            while begun.elapsed() < SERVICE_WITHIN && !stop.requested() {
                let Ok(set) = client.call(&["SET", PROBE_KEY, "served"]) else { break };
                if set != Answer::Status("OK".into()) {
                    continue;
                }
                let got = client.call(&["GET", &known_key])?;
                let time_ms = begun.elapsed().as_secs_f64() * 1e3;
                let whole =
                    matches!(&got, Answer::Bulk(Some(value)) if value.len() == plan.restart_value_len);
                ensure!(whole, "{known_key} did not survive: {got:?}");
                return Ok((server, time_ms));
            }
        }
        server.child.check_alive()?;
        ensure!(!stop.requested(), "interrupted");
        if begun.elapsed() >= SERVICE_WITHIN {
            bail!(
                "not in service after {} s; it said:\n{}",
                SERVICE_WITHIN.as_secs(),
                server.child.output_tail()
            );
        }
    }
}
