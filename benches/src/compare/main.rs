//! `farkeep-compare`: Farkeep beside redis-server, as tables. This is what `make bench` runs.
//!
//! Everything happens on one machine and in one run: contenders are started side by side, driven in turn, round after
//! round, and a bar is judged by the median of the rounds' ratios. A machine that is busy or throttled for a while then
//! slows both sides alike instead of deciding who wins.
//!
//! A crash or ctrl-c leaves nothing behind: each server is a [`child::Child`] that ends with its guard, each directory a
//! temporary one. A bar that fails to run does not keep the others from running; it is named at the end.

#![forbid(unsafe_code)]

mod bare;
mod bars;
mod child;
mod client;
mod contender;
mod farkeep;
mod machine;
mod redis;
mod report;
mod rounds;
mod site;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use farkeep_benches::stop::Stop;

use crate::bars::Plan;
use crate::report::Report;
use crate::site::Medium;

/// Farkeep beside redis-server: throughput, latency, CPU, log and memory per key, restart, joining, failover.
#[derive(Debug, Parser)]
#[command(name = "farkeep-compare", version)]
struct Options {
    /// A rough picture in a minute instead of figures to rely on.
    #[arg(long)]
    quick: bool,
    /// Only these parts, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Seconds of each single measurement.
    #[arg(long)]
    seconds: Option<f64>,
    /// How often each contender is measured in turn.
    #[arg(long)]
    rounds: Option<usize>,
    /// The farkeep binary.
    #[arg(long, env = "FARKEEP_BIN")]
    farkeep: Option<PathBuf>,
    /// The redis-server binary.
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
    /// Leave Farkeep out: what the rivals do on this machine.
    #[arg(long)]
    rivals_only: bool,
    /// Where the comparisons on a disk put their files; by default cargo's target directory.
    #[arg(long)]
    disk_dir: Option<PathBuf>,
    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// A part of the comparison, named for the bars it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Durable writes on two nodes, throughput and latency; on tmpfs and on a disk.
    Bar1,
    /// Reads, and durable writes of one node.
    Bar2,
    /// CPU time per write.
    Bar3,
    /// Log bytes per write, image bytes per key.
    Bar4,
    /// Restart after kill -9.
    Bar5,
    /// A follower's first sync under load.
    Bar6,
    /// Failover, planned and after kill -9.
    Bar7,
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn plan(&self) -> anyhow::Result<Plan> {
        let mut plan = if self.quick { Plan::quick() } else { Plan::thorough() };
        if let Some(seconds) = self.seconds {
            plan.measure = std::time::Duration::try_from_secs_f64(seconds).context("--seconds")?;
        }
        if let Some(rounds) = self.rounds {
            anyhow::ensure!(rounds > 0, "--rounds must be at least 1");
            plan.rounds = rounds;
        }
        plan.redis_server.clone_from(&self.redis_server);
        plan.farkeep = if self.rivals_only { None } else { Some(self.farkeep_binary()?) };
        plan.disk_root = match &self.disk_dir {
            Some(dir) => dir.clone(),
            None => site::target_dir()?,
        };
        Ok(plan)
    }

    /// The binary asked for, or the one cargo put beside this one.
    fn farkeep_binary(&self) -> anyhow::Result<PathBuf> {
        let binary = match &self.farkeep {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("farkeep"),
        };
        anyhow::ensure!(
            binary.is_file(),
            "there is no farkeep binary at {}: `cargo build --release --package farkeep`, or say --farkeep PATH",
            binary.display()
        );
        // Contenders are started elsewhere.
        Ok(std::path::absolute(binary)?)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let stop = Stop::on_signals().context("cannot watch for signals")?;
    let plan = options.plan()?;
    let mut report = Report::new(machine::describe(&plan)?);
    if !options.json {
        report.print_machine();
    }
    let mut run = |name: &str, part: &dyn Fn(&Plan, &Stop) -> anyhow::Result<report::Findings>| {
        if stop.requested() {
            return;
        }
        match part(&plan, &stop) {
            Ok(findings) => {
                if !options.json {
                    findings.print();
                }
                report.add(findings);
            }
            Err(error) => report.fail(name, &error),
        }
    };
    if options.wants(Part::Bar1) || options.wants(Part::Bar3) {
        run("writes on two nodes, tmpfs", &|plan, stop| bars::writes::run(plan, Medium::Tmpfs, stop));
    }
    if options.wants(Part::Bar1) {
        run("writes on two nodes, disk", &|plan, stop| bars::writes::run(plan, Medium::Disk, stop));
    }
    if options.wants(Part::Bar2) {
        run("one node", &bars::single::run);
    }
    if options.wants(Part::Bar4) {
        run("bytes", &bars::footprint::run);
    }
    if options.wants(Part::Bar5) {
        run("restart", &bars::restart::run);
    }
    if options.wants(Part::Bar6) {
        run("joining", &bars::join::run);
    }
    if options.wants(Part::Bar7) && !options.rivals_only {
        run("failover", &bars::failover::run);
    }
    if options.json {
        println!("{:#}", report.to_json());
    } else {
        report.print_bars();
    }
    Ok(if report.complete() && !stop.requested() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
