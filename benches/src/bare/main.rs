//! `farkeep-bare-loop`: how fast a durable write on two nodes can be on this machine over TCP, with nothing in the way.
//!
//! The way of a write is Farkeep's, stripped of everything that makes it a key-value store: one thread and one epoll
//! loop, our RESP decoder and our redo record, a store of key and value into a table without index or allocator, the
//! record into a mapped ring, write-back and fence, and once per turn of the loop one send of the new bytes to the
//! follower, which receives them straight into its own ring, persists, and answers with how far it has got. On that the
//! leader releases the replies it held. What Farkeep adds to this is Farkeep's own cost; what this costs is the kernel's.
//!
//! It answers PING and SET, keeps nothing, recovers nothing, and trusts its peer.

#![forbid(unsafe_code)]

mod follower;
mod leader;
mod ring;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// The bare loop: the limit of the TCP path, to compare with.
#[derive(Debug, Parser)]
#[command(name = "farkeep-bare-loop", version)]
struct Options {
    /// A file for the ring; made if missing.
    #[arg(long)]
    ring: PathBuf,
    /// Where to listen.
    #[arg(long)]
    port: u16,
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Take SETs; with a follower, acknowledge them once it has them.
    Lead {
        /// The follower's port.
        #[arg(long)]
        follower: Option<u16>,
    },
    /// Take one leader's ring bytes.
    Follow,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let ring = ring::open(&options.ring)?;
    let here = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match options.role {
        Role::Lead { follower } => leader::run(ring, here(options.port), follower.map(here)),
        Role::Follow => follower::run(&ring, here(options.port)),
    }
}
