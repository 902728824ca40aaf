//! The rounds, and what comes of them.

use comfy_table::{CellAlignment, Table, presets};
use farkeep_fabric::rdma::{Source, probe};
use hdrhistogram::Histogram;

use crate::Options;
use crate::bare::Bare;
use crate::follower::{Follower, Kind, cpu_ns, log_at};
use crate::leader::{BATCH_LEN, DEPTH, Leader};

/// One contender's figures, a value for each round.
#[derive(Default)]
struct Series {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    mib_s: Vec<f64>,
}

impl Series {
    fn latencies(&mut self, latencies: &Histogram<u64>) {
        self.p50_us.push(latencies.value_at_quantile(0.5) as f64 / 1e3);
        self.p99_us.push(latencies.value_at_quantile(0.99) as f64 / 1e3);
    }
}

const BARE_SLEEP: usize = 0;
const BARE_SPIN: usize = 1;
const APM_SLEEP: usize = 2;
const APM_SPIN: usize = 3;
const GPSPM: usize = 4;
const TCP: usize = 5;
const NAMES: [&str; 6] = [
    "bare librpma, asleep",
    "bare librpma, spinning",
    "rdma apm, asleep",
    "rdma apm, spinning",
    "rdma gpspm, asleep",
    "tcp, asleep",
];

/// Runs everything and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let device = probe(None, None)?;
    let log = log_at(&options.leader_log)?;
    let source = Source::new(&device, &log);
    println!(
        "device {} at {}; leader's log on {}",
        device.name(),
        device.address(),
        log.region().persistence()
    );
    if let Some(why) = source.staged() {
        println!("batches are copied: {why}");
    }
    let bare = Bare::new(device.address(), &options.follower_log)?;
    let mut leader = Leader::new(log);
    let (bytes, commits) = (options.bytes, options.commits);
    let mut series: [Series; 6] = Default::default();
    for _ in 0..options.rounds {
        for (at, sleep) in [(BARE_SLEEP, true), (BARE_SPIN, false)] {
            let (p50, p99) = bare.latency(Leader::record_len(bytes), commits, sleep)?;
            series[at].p50_us.push(p50 / 1e3);
            series[at].p99_us.push(p99 / 1e3);
        }
        let mib = (1 << 20) as f64;
        series[BARE_SLEEP].mib_s.push(bare.throughput(BATCH_LEN, options.batches, DEPTH)? / mib);
        let contenders: [(Kind, &[(usize, bool)]); 3] = [
            (Kind::Apm, &[(APM_SLEEP, true), (APM_SPIN, false)]),
            (Kind::Gpspm, &[(GPSPM, true)]),
            (Kind::Tcp, &[(TCP, true)]),
        ];
        for (kind, ways) in contenders {
            let mut follower = Follower::start(kind, &options.follower_log, &source)?;
            for &(at, sleep) in ways {
                series[at].latencies(&leader.latency(&mut follower.link, bytes, commits, sleep)?);
            }
            let took = leader.throughput(&mut follower.link, options.batches)?;
            let moved = BATCH_LEN as f64 * f64::from(options.batches);
            series[ways[0].0].mib_s.push(moved / took.as_secs_f64() / mib);
        }
    }
    print(&series, options);

    let mut follower = Follower::start(Kind::Apm, &options.follower_log, &source)?;
    let (leaders, followers) = (cpu_ns("self")?, follower.cpu_ns()?);
    leader.latency(&mut follower.link, bytes, options.cpu_commits, true)?;
    let (leaders, followers) = (cpu_ns("self")? - leaders, follower.cpu_ns()? - followers);
    let share = followers as f64 / leaders as f64;
    println!(
        "\n{} commits in apm took {:.1} ms of the leader's processor time and {:.3} ms of the follower's",
        options.cpu_commits,
        leaders as f64 / 1e6,
        followers as f64 / 1e6
    );

    let p50 = |at: usize| series[at].p50_us.as_slice();
    println!();
    bar("commit p50, apm / bare librpma, both asleep", ratio(p50(APM_SLEEP), p50(BARE_SLEEP)), 1.3, true);
    bar("commit p50, apm / bare librpma, both spinning", ratio(p50(APM_SPIN), p50(BARE_SPIN)), 1.3, true);
    bar("commit p50, apm / tcp", ratio(p50(APM_SLEEP), p50(TCP)), 0.5, true);
    bar("follower's processor time / leader's, apm", share, 0.01, true);
    let mib_s = |at: usize| series[at].mib_s.as_slice();
    bar("batches of 1 MiB, apm / bare librpma", ratio(mib_s(APM_SLEEP), mib_s(BARE_SLEEP)), 0.9, false);
    Ok(())
}

fn print(series: &[Series; 6], options: &Options) {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "p50 us", "p99 us", "1 MiB batches, MiB/s"]);
    let show =
        |values: &[f64]| if values.is_empty() { String::new() } else { format!("{:.1}", median(values)) };
    for (name, series) in NAMES.iter().zip(series) {
        table.add_row([(*name).to_owned(), show(&series.p50_us), show(&series.p99_us), show(&series.mib_s)]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!(
        "\nCommits of {} bytes (records of {}), {} in each of {} rounds; medians of the rounds\n{table}",
        options.bytes,
        Leader::record_len(options.bytes),
        options.commits,
        options.rounds
    );
}

fn bar(what: &str, found: f64, limit: f64, at_most: bool) {
    let holds = if at_most { found <= limit } else { found >= limit };
    let sign = if at_most { "at most" } else { "at least" };
    println!("{} {what}: {found:.3} ({sign} {limit})", if holds { "holds " } else { "FAILS " });
}

/// The median of the rounds' ratios.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
