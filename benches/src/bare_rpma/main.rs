//! `farkeep-bare-rpma`: what one-sided writes into a follower's memory cost on this machine with nothing in the way.
//!
//! librpma called by hand, through `rpma-sys` and nothing else of Farkeep's: one process registers memory and waits for the
//! end, another writes and flushes. What Farkeep's fabric adds to this is Farkeep's own cost; what this costs is librpma's, the
//! kernel's and the card's.
//!
//! `serve` prints a line when it listens and ends with its first client. `latency` does one write and one persistent flush at a time
//! and waits for the flush: by looking at the queue all the time, or asleep on its descriptor. `throughput` keeps a few
//! writes with their flushes under way. Both print one line of numbers.

mod rpma;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use hdrhistogram::Histogram;

use rpma::{Client, Memory, Server};

/// Bare librpma: the limit of the RDMA path, to compare with.
#[derive(Debug, Parser)]
#[command(name = "farkeep-bare-rpma", version)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Let one client write into memory.
    Serve {
        /// Address of the RDMA device.
        #[arg(long)]
        address: String,
        /// Port to listen on.
        #[arg(long)]
        port: u16,
        /// A devdax device or a file of at least this length.
        #[arg(long)]
        memory: PathBuf,
        /// Bytes of it to register.
        #[arg(long, default_value_t = 16 << 20)]
        len: usize,
    },
    /// One write and one flush at a time: prints `p50_ns p99_ns`.
    Latency {
        #[command(flatten)]
        target: Target,
        /// Bytes of a write.
        #[arg(long, default_value_t = 256)]
        bytes: usize,
        /// How many are measured; a tenth as many go before.
        #[arg(long, default_value_t = 1000)]
        count: u32,
        /// How to wait for a completion.
        #[arg(long, value_enum, default_value_t = Wait::Sleep)]
        wait: Wait,
    },
    /// Several writes with their flushes under way: prints `bytes_per_second`.
    Throughput {
        #[command(flatten)]
        target: Target,
        /// Bytes of a write.
        #[arg(long, default_value_t = 1 << 20)]
        bytes: usize,
        /// How many.
        #[arg(long, default_value_t = 100)]
        count: u32,
        /// How many are under way at a time.
        #[arg(long, default_value_t = 8)]
        depth: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Target {
    /// Where the server listens.
    #[arg(long)]
    address: String,
    /// Its port.
    #[arg(long)]
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Look again at once.
    Spin,
    /// Sleep until the queue's descriptor is readable.
    Sleep,
}

fn main() -> anyhow::Result<()> {
    match Options::parse().role {
        Role::Serve { address, port, memory, len } => serve(&address, port, &memory, len),
        Role::Latency { target, bytes, count, wait } => {
            let mut client = Client::connect(&target.address, target.port, bytes)?;
            let latencies = latency(&mut client, bytes, count, wait == Wait::Sleep)?;
            println!("{} {}", latencies.value_at_quantile(0.5), latencies.value_at_quantile(0.99));
            Ok(())
        }
        Role::Throughput { target, bytes, count, depth } => {
            let mut client = Client::connect(&target.address, target.port, bytes)?;
            let took = throughput(&mut client, bytes, count, depth)?;
            println!("{:.0}", bytes as f64 * f64::from(count) / took.as_secs_f64());
            Ok(())
        }
    }
}

fn serve(address: &str, port: u16, memory: &Path, len: usize) -> anyhow::Result<()> {
    let file = File::options().read(true).write(true).open(memory);
    let file = file.with_context(|| format!("cannot open {}", memory.display()))?;
    let server = Server::listen(address, port, Memory::map(&file, len)?)?;
    println!("listening");
    std::io::stdout().flush()?;
    server.serve_one()
}

fn latency(client: &mut Client, bytes: usize, count: u32, sleep: bool) -> anyhow::Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    let warm_up = count / 10;
    for i in 0..warm_up + count {
        let at = client.place(i, bytes);
        let started = Instant::now();
        client.write_and_flush(at, bytes)?;
        client.complete(1, sleep)?;
        let took = started.elapsed();
        if i >= warm_up {
            latencies.record(took.as_nanos() as u64)?;
        }
    }
    Ok(latencies)
}

fn throughput(client: &mut Client, bytes: usize, count: u32, depth: u32) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let (mut posted, mut completed) = (0, 0);
    while completed < count {
        while posted < count && posted - completed < depth {
            let at = client.place(posted, bytes);
            client.write_and_flush(at, bytes)?;
            posted += 1;
        }
        completed += client.complete(1, true)?;
    }
    Ok(started.elapsed())
}
