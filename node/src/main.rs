//! The `farkeep` binary: a node, and the tools for it.

#![forbid(unsafe_code)]

mod alarm;
mod cli;
mod clients;
mod commands;
mod config;
mod engine;
mod events;
mod http;
mod link;
mod log_writer;
mod node;
mod peers;
mod pubsub;
mod rdma;
mod replayer;
mod replication;
mod runtime;
mod spare;
mod stats;
mod throttle;
mod walk;
mod watch;
mod worker;

/// The version of Redis whose behaviour is the reference; tools parse it out of INFO and HELLO.
pub const REDIS_VERSION: &str = "7.0.15";

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::run()
}
