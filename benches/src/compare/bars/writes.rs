//! Bars 1 and 3: durable writes on two nodes, their throughput, latency and CPU time.

use anyhow::Context;
use farkeep_benches::stop::Stop;
use serde_json::json;

use super::{PIPELINES, Plan, caption, of_kind, throughput_table};
use crate::client::{Answer, Client};
use crate::contender::{Contender, Kind};
use crate::report::{Bar, Bound, Findings};
use crate::rounds::{self, Case, Sample, Series};
use crate::site::{Medium, Site};
use crate::{bare, farkeep, redis};

/// Bar 3: CPU time per write beside the durable pair of redis-server.
const CPU_AT_MOST: f64 = 0.7;
/// Bar 3: the follower's CPU time beside the leader's over shm, as long as it does not replay: "close to zero".
const ONE_SIDED_CPU_AT_MOST: f64 = 0.05;
/// Bar 1: p99 beside the durable pair, on tmpfs.
const P99_AT_MOST: f64 = 0.5;

/// The fabric whose follower takes no part.
const SHM: &str = "shm";

/// What bar 1 asks for with one pipeline.
struct Needed {
    /// Throughput beside the durable pair.
    throughput: f64,
    /// Throughput beside redis-server without persistence and without replica: worth striving for.
    aim: Option<f64>,
}

fn needed(medium: Medium, pipeline: usize) -> Needed {
    match (medium, pipeline) {
        (Medium::Tmpfs, 1) => Needed { throughput: 2.2, aim: Some(1.0) },
        (Medium::Tmpfs, _) => Needed { throughput: 7.0, aim: Some(2.0) },
        (Medium::Disk, 1) => Needed { throughput: 1.5, aim: None },
        (Medium::Disk, _) => Needed { throughput: 3.0, aim: None },
    }
}

pub fn run(plan: &Plan, medium: Medium, stop: &Stop) -> anyhow::Result<Findings> {
    let site = Site::new(medium, plan)?;
    let contenders = start(&site, plan, stop)?;
    rounds::preload(&contenders, plan, stop)?;
    let mut findings = Findings {
        title: format!("Durable writes on two nodes, {}", medium.name()),
        tables: Vec::new(),
        bars: Vec::new(),
        figures: json!({}),
    };
    for pipeline in PIPELINES {
        let case = Case { set_percent: 100, pipeline };
        let all = rounds::interleaved(case, &contenders, plan, stop)?;
        findings.tables.push((caption(case, &all), throughput_table(&all)));
        findings.bars.extend(judge(&all, medium, case));
        findings.figures[case.name()] = all.iter().map(Series::to_json).collect();
    }
    if let Some(one_sided) = contenders.iter().find(|contender| contender.name.ends_with(SHM)) {
        findings.bars.push(share_without_replay(one_sided, plan, stop)?);
    }
    Ok(findings)
}

/// What the follower of a pair takes beside its leader while its replayer stands still: what durability costs it.
fn share_without_replay(pair: &Contender, plan: &Plan, stop: &Stop) -> anyhow::Result<Bar> {
    let follower = pair.follower.as_ref().context("a pair has a follower")?;
    let set_replay = |on: &str| Client::connect(follower.address)?.call(&["DEBUG", "SET-REPLAY", on]);
    anyhow::ensure!(set_replay("0")? == Answer::Status("OK".into()), "DEBUG SET-REPLAY is refused");
    let case = Case { set_percent: 100, pipeline: 1 };
    let all = rounds::interleaved(case, std::slice::from_ref(pair), plan, stop)?;
    set_replay("1")?;
    let share = all[0].median(|sample| sample.follower_us() / (sample.cpu_us() - sample.follower_us()));
    Ok(Bar {
        number: 3,
        what: format!("follower's CPU to leader's without replay, shm: {}", case.name()),
        measured: share,
        bound: Bound::AtMost(ONE_SIDED_CPU_AT_MOST),
        unit: "x",
        is_aim: false,
    })
}

fn start(site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Vec<Contender>> {
    let mut contenders = vec![
        redis::durable_pair(site, plan, stop)?,
        redis::everyday_pair(site, plan, stop)?,
        redis::alone("redis alone, nothing durable", redis::Persistence::Nothing, site, plan, stop)?,
    ];
    if site.medium == Medium::Tmpfs {
        contenders.push(bare::pair(site, stop)?);
    }
    if plan.farkeep.is_some() {
        contenders.push(farkeep::pair("tcp", site, plan, stop)?);
        if site.medium == Medium::Tmpfs {
            contenders.push(farkeep::pair(SHM, site, plan, stop)?);
        }
    }
    Ok(contenders)
}

fn judge(all: &[Series], medium: Medium, case: Case) -> Vec<Bar> {
    let mut bars = Vec::new();
    let farkeeps = || all.iter().filter(|series| series.kind == Kind::FarkeepPair);
    // The first pair is the one over tcp, and every bar but that on CPU is about it.
    let (Some(durable), Some(tcp)) = (of_kind(all, Kind::RedisDurablePair), farkeeps().next()) else {
        return bars;
    };
    let needed = needed(medium, case.pipeline);
    let throughput = |sample: &Sample| sample.outcome.throughput();
    let mut bar = |number, what: &str, measured, bound, is_aim| {
        let what = format!("{what}: {}, {}", case.name(), medium.name());
        bars.push(Bar { number, what, measured, bound, unit: "x", is_aim });
    };
    bar(
        1,
        "throughput to durable redis pair",
        tcp.ratio_to(durable, throughput),
        Bound::AtLeast(needed.throughput),
        false,
    );
    if let (Some(aim), Some(alone)) = (needed.aim, of_kind(all, Kind::RedisAlone)) {
        let ratio = tcp.ratio_to(alone, throughput);
        bar(1, "throughput to redis alone", ratio, Bound::AtLeast(aim), true);
    }
    if medium == Medium::Tmpfs {
        let p99 = tcp.ratio_to(durable, |sample| sample.outcome.latency_ms(99.0));
        bar(1, "p99 to durable redis pair", p99, Bound::AtMost(P99_AT_MOST), false);
        for farkeep in farkeeps() {
            let cpu = farkeep.ratio_to(durable, Sample::cpu_us);
            bar(3, &format!("CPU of {} to redis pair", farkeep.name), cpu, Bound::AtMost(CPU_AT_MOST), false);
        }
    }
    bars
}
