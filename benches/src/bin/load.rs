//! `farkeep-load`: the load generator as a command.

#![forbid(unsafe_code)]

use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use farkeep_benches::load::{self, KeyOrder, Limit, Outcome, Workload};
use farkeep_benches::stop::Stop;

/// Closed-loop load for a Redis-compatible server: throughput and latency of SET, GET or a mixture.
#[derive(Debug, Parser)]
#[command(name = "farkeep-load", version)]
struct Options {
    /// The server's host.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The server's port.
    #[arg(short, long, default_value_t = 6379)]
    port: u16,
    /// The server's password.
    #[arg(short = 'a', long)]
    password: Option<String>,
    /// Connections that are open and busy.
    #[arg(short, long, default_value_t = 50)]
    connections: usize,
    /// Requests that travel together on a connection.
    #[arg(short = 'P', long, default_value_t = 1)]
    pipeline: usize,
    /// SETs in 100 requests; the others are GETs.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=100))]
    sets: u32,
    /// Distinct keys.
    #[arg(short = 'r', long, default_value_t = 1_000_000)]
    keys: u64,
    /// Bytes of a key.
    #[arg(long, default_value_t = 16)]
    key_len: usize,
    /// Bytes of a value.
    #[arg(short = 'd', long, default_value_t = 64)]
    value_len: usize,
    /// Keys in order instead of at random.
    #[arg(long)]
    sequential: bool,
    /// A second command that belongs to every request and to its latency, such as "WAIT 1 0".
    #[arg(long)]
    then: Option<String>,
    /// Set every key once before anything is measured.
    #[arg(long)]
    preload: bool,
    /// End after this many requests instead of after `--seconds`.
    #[arg(short = 'n', long)]
    requests: Option<u64>,
    /// End after this many seconds.
    #[arg(short, long, default_value_t = 5.0, conflicts_with = "requests")]
    seconds: f64,
    /// Seconds at the start that are not measured.
    #[arg(short, long, default_value_t = 0.0)]
    warmup: f64,
    /// Fixes the keys and values that are sent.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn workload(&self) -> anyhow::Result<Workload> {
        let address = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {}", self.host))?
            .next()
            .with_context(|| format!("{} has no address", self.host))?;
        let seconds = Duration::try_from_secs_f64(self.seconds).context("--seconds")?;
        Ok(Workload {
            address,
            password: self.password.clone(),
            connections: self.connections,
            pipeline: self.pipeline,
            set_percent: self.sets,
            keys: self.keys,
            order: if self.sequential { KeyOrder::Sequential } else { KeyOrder::Uniform },
            key_len: self.key_len,
            value_len: self.value_len,
            then: self.then.as_ref().map(|words| words.split_whitespace().map(str::to_owned).collect()),
            limit: self.requests.map_or(Limit::Time(seconds), Limit::Requests),
            warmup: Duration::try_from_secs_f64(self.warmup).context("--warmup")?,
            seed: self.seed,
        })
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let stop = Stop::on_signals().context("cannot watch for signals")?;
    let workload = options.workload()?;
    if options.preload {
        load::run(&workload.preload(), &stop).context("preload")?;
    }
    let outcome = load::run(&workload, &stop)?;
    if options.json {
        println!("{}", outcome.to_json());
    } else {
        print_text(&outcome);
    }
    let clean = outcome.errors.total() == 0;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_text(outcome: &Outcome) {
    println!(
        "{} requests in {:.2} s: {:.0} per second",
        outcome.requests,
        outcome.elapsed.as_secs_f64(),
        outcome.throughput()
    );
    println!(
        "latency in ms: p50 {:.3}  p99 {:.3}  p999 {:.3}  max {:.3}",
        outcome.latency_ms(50.0),
        outcome.latency_ms(99.0),
        outcome.latency_ms(99.9),
        outcome.latency_ns.max() as f64 / 1e6
    );
    println!("generator: {:.2} us of CPU per request", outcome.client_us_per_request());
    if outcome.nulls > 0 {
        println!("{} replies said that there is no such key", outcome.nulls);
    }
    for (text, count) in outcome.errors.iter() {
        println!("{count} errors: {text}");
    }
}
