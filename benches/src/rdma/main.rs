//! `farkeep-rdma-bench`: Farkeep's RDMA fabric beside bare librpma and beside TCP, in one run on one machine.
//!
//! A commit here is what it is in the node without the keystore: a record of 256 bytes is built in the leader's log, made
//! persistent there, posted into the follower's window, and durable when its ticket has completed. The follower is a
//! process of its own. The contenders take turns, round after round, and a bar is judged by the median of the rounds'
//! ratios: a busy neighbour slows all of them alike.
//!
//! It wants two devdax devices, or two files on tmpfs, and an RDMA device: `cargo xtask guest -- target/release/farkeep-rdma-bench`.

#![forbid(unsafe_code)]

mod bare;
mod follower;
mod leader;
mod report;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use follower::Kind;

/// The RDMA fabric beside bare librpma and TCP.
#[derive(Clone, Debug, Parser)]
#[command(name = "farkeep-rdma-bench", version)]
pub struct Options {
    /// The leader's log: a devdax device, or a file that is made.
    #[arg(long, env = "FARKEEP_GUEST_DEVDAX")]
    leader_log: PathBuf,
    /// The follower's.
    #[arg(long, env = "FARKEEP_GUEST_DEVDAX2")]
    follower_log: PathBuf,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Commits that are measured in a round.
    #[arg(long, default_value_t = 500)]
    commits: u32,
    /// Bytes of the value in a record.
    #[arg(long, default_value_t = 256)]
    bytes: usize,
    /// Batches of 1 MiB in a round.
    #[arg(long, default_value_t = 60)]
    batches: u32,
    /// Commits over which the follower's processor time is taken.
    #[arg(long, default_value_t = 10_000)]
    cpu_commits: u32,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// The follower's process.
    #[command(hide = true)]
    Follow {
        #[arg(value_enum)]
        kind: Kind,
    },
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match &options.role {
        Some(Role::Follow { kind }) => follower::run(*kind, &options.follower_log),
        None => report::run(&options),
    }
}
