//! The bars: what must be true of Farkeep beside redis-server, and how each is found out.

pub mod failover;
pub mod footprint;
pub mod join;
pub mod restart;
pub mod single;
pub mod writes;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use comfy_table::Table;
use farkeep_benches::load::{self, Limit, Workload};
use farkeep_benches::stop::Stop;

use crate::contender::Kind;
use crate::report::{show, table};
use crate::rounds::{Case, Sample, Series};

/// Pipelines with which every throughput is measured.
pub const PIPELINES: [usize; 2] = [1, 16];

/// How thoroughly, with what and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of one contender in one round.
    pub measure: Duration,
    /// Before each measurement.
    pub warmup: Duration,
    pub rounds: usize,
    pub connections: usize,
    pub keys: u64,
    pub value_len: usize,
    /// Keys in the two restarts: the second has twice as many.
    pub restart_keys: [u64; 2],
    /// Value length that makes the smaller restart's data about 1 GB.
    pub restart_value_len: usize,
    /// Restarts of Farkeep per number of keys.
    pub restarts: usize,
    /// Keys that a follower finds when it joins.
    pub join_keys: u64,
    /// How often one joins.
    pub joins: usize,
    /// Failovers of each kind.
    pub failovers: usize,
    pub redis_server: PathBuf,
    /// `None` leaves Farkeep out.
    pub farkeep: Option<PathBuf>,
    pub disk_root: PathBuf,
}

impl Plan {
    pub fn thorough() -> Self {
        Self {
            measure: Duration::from_secs(2),
            warmup: Duration::from_millis(500),
            rounds: 5,
            connections: 50,
            keys: 1_000_000,
            value_len: 64,
            restart_keys: [4_000_000, 8_000_000],
            restart_value_len: 200,
            restarts: 5,
            join_keys: 4_000_000,
            joins: 3,
            failovers: 5,
            redis_server: PathBuf::new(),
            farkeep: None,
            disk_root: PathBuf::new(),
        }
    }

    pub fn quick() -> Self {
        Self {
            measure: Duration::from_secs(1),
            warmup: Duration::from_millis(200),
            rounds: 1,
            keys: 200_000,
            restart_keys: [500_000, 1_000_000],
            restarts: 2,
            join_keys: 1_000_000,
            joins: 1,
            failovers: 2,
            ..Self::thorough()
        }
    }

    /// The keys and connections of this plan against one server.
    pub fn workload(&self, address: SocketAddr) -> Workload {
        Workload {
            connections: self.connections,
            keys: self.keys,
            value_len: self.value_len,
            ..Workload::new(address, Limit::Requests(self.keys))
        }
    }
}

/// Sets each of the workload's keys once.
pub fn fill(workload: &Workload, stop: &Stop) -> anyhow::Result<()> {
    let outcome = load::run(&workload.preload(), stop).context("filling")?;
    ensure!(outcome.errors.total() == 0, "filling got errors: {:?}", outcome.errors);
    Ok(())
}

/// The first series of that kind.
pub fn of_kind(all: &[Series], kind: Kind) -> Option<&Series> {
    all.iter().find(|series| series.kind == kind)
}

/// Above this share of the machine taken by strangers, figures say more about them.
const OTHERS_AT_MOST: f64 = 0.05;

/// What a table shows, and a warning if the machine was not ours.
pub fn caption(case: Case, all: &[Series]) -> String {
    let others = all.iter().map(|series| series.median(|sample| sample.others)).fold(0.0, f64::max);
    if others <= OTHERS_AT_MOST {
        return case.name();
    }
    format!("{} (NOT RELIABLE: other processes took {:.0} % of the machine)", case.name(), others * 100.0)
}

/// One row a contender; ratios are to the first one and, if it was measured, to the bare loop.
pub fn throughput_table(all: &[Series]) -> Table {
    let limit = of_kind(all, Kind::BareLoop);
    let mut header =
        vec!["", "requests/s", "x first", "p50 ms", "p99 ms", "p999 ms", "CPU us", "of it follower"];
    header.extend(limit.map(|_| "x bare loop"));
    let numbers: Vec<usize> = (1..header.len()).collect();
    let mut table = table(&header, &numbers);
    let throughput = |sample: &Sample| sample.outcome.throughput();
    for series in all {
        let ms = |percent: f64| show(series.median(|sample| sample.outcome.latency_ms(percent)), "");
        let mut row = vec![
            series.name.clone(),
            show(series.median(throughput), ""),
            show(series.ratio_to(&all[0], throughput), "x"),
            ms(50.0),
            ms(99.0),
            ms(99.9),
            show(series.median(Sample::cpu_us), ""),
            show(series.median(Sample::follower_us), ""),
        ];
        row.extend(limit.map(|limit| show(series.ratio_to(limit, throughput), "x")));
        table.add_row(row);
    }
    table
}
