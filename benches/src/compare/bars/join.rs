//! Joining: a follower's first sync while clients write without a pause.
//!
//! The load runs in slices, so that the leader's memory can be looked at between two; what is said of the time "before" and
//! "meanwhile" is said of all slices of that time together. The clock of the sync runs from just before the follower's
//! process is started until its link is up.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use farkeep_benches::load::{self, Limit, Outcome, Workload};
use farkeep_benches::stop::Stop;
use serde_json::{Value, json};

use super::{Plan, fill};
use crate::client::Client;
use crate::contender::Server;
use crate::redis::Persistence;
use crate::report::{Bar, Bound, Findings, show, table};
use crate::rounds::median;
use crate::site::{Medium, Site};
use crate::{farkeep, redis, wait};

/// Connections that write.
const WRITERS: usize = 20;
/// Bytes of a value.
const VALUE_LEN: usize = 256;
/// One stretch of load.
const SLICE: Duration = Duration::from_millis(500);
/// Load before the follower comes, in slices.
const SLICES_BEFORE: usize = 8;
/// A sync that takes longer is given up.
const SYNC_WITHIN: Duration = Duration::from_secs(300);
/// How often the follower is asked.
const POLL: Duration = Duration::from_millis(20);

/// Throughput meanwhile, of that before.
const THROUGHPUT_AT_LEAST: f64 = 0.85;
/// p99 meanwhile, of that before.
const P99_AT_MOST: f64 = 2.0;
/// MiB by which the leader's private memory may grow.
const MEMORY_AT_MOST: f64 = 64.0;
/// redis-server's time, of ours.
const FASTER_AT_LEAST: f64 = 3.0;

/// One first sync.
struct Joining {
    seconds: f64,
    before: Outcome,
    meanwhile: Outcome,
    memory_growth_mib: f64,
}

/// Has a contender's follower join its leader.
type Join = fn(&Plan, &Stop) -> anyhow::Result<Joining>;

impl Joining {
    fn throughput_ratio(&self) -> f64 {
        self.meanwhile.throughput() / self.before.throughput()
    }

    fn p99_ratio(&self) -> f64 {
        self.meanwhile.latency_ms(99.0) / self.before.latency_ms(99.0)
    }

    fn to_json(&self) -> Value {
        json!({
            "seconds": self.seconds,
            "before": self.before.to_json(),
            "meanwhile": self.meanwhile.to_json(),
            "memory_growth_mib": self.memory_growth_mib,
        })
    }
}

pub fn run(plan: &Plan, stop: &Stop) -> anyhow::Result<Findings> {
    let columns = [
        "first sync under load",
        "sync s",
        "SET/s",
        "meanwhile",
        "x",
        "p99 ms",
        "meanwhile",
        "x",
        "MiB more",
    ];
    let numbers: Vec<usize> = (1..columns.len()).collect();
    let mut table = table(&columns, &numbers);
    let mut figures = json!({});
    let mut measured = Vec::new();
    let mut contenders: Vec<(&str, Join)> = vec![("redis", join_redis)];
    if plan.farkeep.is_some() {
        contenders.push(("farkeep", join_farkeep));
    }
    for (name, join_once) in contenders {
        let mut joinings = Vec::with_capacity(plan.joins);
        for round in 0..plan.joins {
            eprintln!("  joining | {name} | round {} of {}", round + 1, plan.joins);
            joinings.push(join_once(plan, stop).with_context(|| name.to_owned())?);
        }
        let middle = |figure: &dyn Fn(&Joining) -> f64| median(joinings.iter().map(figure).collect());
        table.add_row([
            name.to_owned(),
            show(middle(&|joining| joining.seconds), ""),
            show(middle(&|joining| joining.before.throughput()), ""),
            show(middle(&|joining| joining.meanwhile.throughput()), ""),
            show(middle(&Joining::throughput_ratio), "x"),
            show(middle(&|joining| joining.before.latency_ms(99.0)), ""),
            show(middle(&|joining| joining.meanwhile.latency_ms(99.0)), ""),
            show(middle(&Joining::p99_ratio), "x"),
            show(middle(&|joining| joining.memory_growth_mib), ""),
        ]);
        figures[name] = joinings.iter().map(Joining::to_json).collect();
        measured.push((
            middle(&|joining| joining.seconds),
            middle(&Joining::throughput_ratio),
            middle(&Joining::p99_ratio),
            middle(&|joining| joining.memory_growth_mib),
        ));
    }
    let bar = |what: &str, measured, bound, unit| Bar {
        number: 6,
        what: what.to_owned(),
        measured,
        bound,
        unit,
        is_aim: false,
    };
    let mut bars = Vec::new();
    if let [(redis_seconds, ..), (seconds, throughput, p99, memory)] = measured[..] {
        bars.push(bar(
            "leader's throughput during a first sync",
            throughput,
            Bound::AtLeast(THROUGHPUT_AT_LEAST),
            "x",
        ));
        bars.push(bar("leader's p99 during a first sync", p99, Bound::AtMost(P99_AT_MOST), "x"));
        bars.push(bar("leader's memory for a first sync", memory, Bound::AtMost(MEMORY_AT_MOST), "MiB"));
        bars.push(bar(
            "redis's first sync to ours",
            redis_seconds / seconds,
            Bound::AtLeast(FASTER_AT_LEAST),
            "x",
        ));
    }
    let caption = format!("{} keys, values of {VALUE_LEN} bytes, {WRITERS} writers, tmpfs", plan.join_keys);
    Ok(Findings { title: "Joining".into(), tables: vec![(caption, table)], bars, figures })
}

fn join_redis(plan: &Plan, stop: &Stop) -> anyhow::Result<Joining> {
    let site = Site::new(Medium::Tmpfs, plan)?;
    let leader = redis::start(Persistence::Nothing, &site.make_dir("leader")?, None, plan, stop)?;
    let follower_dir = site.make_dir("follower")?;
    join(&leader, plan, stop, || redis::launch(Persistence::Nothing, &follower_dir, Some(&leader), plan))
}

fn join_farkeep(plan: &Plan, stop: &Stop) -> anyhow::Result<Joining> {
    let site = Site::new(Medium::Tmpfs, plan)?;
    let leader = farkeep::alone(&site, plan, stop)?.leader;
    let follower_dir = site.make_dir("follower")?;
    let replicaof = format!("127.0.0.1 {}", leader.address.port());
    let flags = ["--sync-followers", "0", "--replicaof", &replicaof];
    join(&leader, plan, stop, || farkeep::launch(&follower_dir, site.medium, &flags, plan))
}

fn join(
    leader: &Server,
    plan: &Plan,
    stop: &Stop,
    start_follower: impl FnOnce() -> anyhow::Result<Server>,
) -> anyhow::Result<Joining> {
    let writers = Workload {
        connections: WRITERS,
        keys: plan.join_keys,
        value_len: VALUE_LEN,
        limit: Limit::Time(SLICE),
        ..plan.workload(leader.address)
    };
    fill(&writers, stop)?;
    let slice = |seed| load::run(&Workload { seed, ..writers.clone() }, stop).context("load");
    // The first slice warms up.
    let _ = slice(1)?;
    let mut before = slice(2)?;
    for seed in 3..2 + SLICES_BEFORE as u64 {
        before.add(&slice(seed)?);
    }
    let memory_before = leader.child.private_bytes()?;
    let mut memory = memory_before;
    let begun = Instant::now();
    let mut follower = start_follower()?;
    let joined_after = OnceLock::new();
    let meanwhile = std::thread::scope(|scope| {
        let poller = scope.spawn(|| {
            let joined = wait_linked(&mut follower, stop);
            joined_after.set(begun.elapsed()).expect("set once");
            joined
        });
        let mut meanwhile = slice(100)?;
        while joined_after.get().is_none() {
            memory = memory.max(leader.child.private_bytes()?);
            meanwhile.add(&slice(100 + meanwhile.requests)?);
        }
        poller.join().unwrap_or_else(|_| bail!("the poller panicked"))?;
        anyhow::Ok(meanwhile)
    })?;
    ensure!(meanwhile.errors.total() == 0, "writers got errors: {:?}", meanwhile.errors);
    let seconds = joined_after.get().context("it has joined")?.as_secs_f64();
    let memory_growth_mib = memory.saturating_sub(memory_before) as f64 / f64::from(1 << 20);
    Ok(Joining { seconds, before, meanwhile, memory_growth_mib })
}

fn wait_linked(follower: &mut Server, stop: &Stop) -> anyhow::Result<()> {
    let Server { child, address } = follower;
    wait::until_polling(POLL, "the follower has joined", SYNC_WITHIN, stop, || {
        child.check_alive()?;
        let Ok(mut client) = Client::connect(*address) else { return Ok(false) };
        let link = client.info("replication", "master_link_status");
        Ok(matches!(link, Ok(Some(status)) if status == "up"))
    })
    .with_context(|| format!("output of the follower:\n{}", child.output_tail()))
}
