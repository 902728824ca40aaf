//! The one door to every developer's and CI's command: `cargo xtask <door>`.
//!
//! The doors hold no logic of their own worth testing; they start cargo, nextest and the binaries with the right
//! arguments, say what they start and how long it took, and end with the first failure. What tests use too, the guest, is in
//! the library. `xtask` has no dependencies, so
//! that the first command a newcomer types does not begin with a long build.

mod ci;
mod doors;

use std::process::ExitCode;

use xtask::guest;

const USAGE: &str = "\
cargo xtask <door> [arguments]

  setup [demo|test|bench]       install the Debian packages and cargo tools that are missing
  ci                            everything CI runs, in CI's order
  sim [--seed N] [--count N]    the simulated cluster, with fresh seeds or a given one
  guest COMMAND... | --suite    a command, or the tests, that want an RDMA device and persistent memory (guest --help)
  faults [--seed N] [--count N] real processes under random kills, stops and cuts, with fresh seeds or a given one
  crash                         the crash double's sweeps and the kill -9 tests
  fuzz [TARGET] [--seconds N]   cargo-fuzz targets (needs nightly and cargo-fuzz)
  bench [arguments]             Farkeep beside redis-server
  demo [arguments]              a write survives the death of the leader
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let door = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let outcome = match door.as_str() {
        "setup" => doors::setup(&rest),
        "ci" => ci::run_all(),
        "guest" => return guest::door(&rest),
        "guest-agent" => return guest::agent_door(&rest),
        "sim" => doors::sim(&rest),
        "faults" => doors::faults(&rest),
        "crash" => doors::crash(),
        "fuzz" => doors::fuzz(&rest),
        "bench" => doors::bench(&rest),
        "demo" => doors::demo(&rest),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(format!("no door named '{other}'\n\n{USAGE}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
