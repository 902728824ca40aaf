//! What CI runs, in the order in which a failure is cheapest to find.

use std::time::Duration;

use crate::doors;
use xtask::guest;
use xtask::phase::{Outcome, cargo, has_cargo_subcommand, phase, run, target_dir};

/// All phases; the first that fails ends the run.
pub fn run_all() -> Outcome {
    phase("format", || run(&mut cargo(&["fmt", "--all", "--check"])))?;
    phase("lints", || run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])))?;
    phase("licences and advisories", dependencies)?;
    phase("release build", || run(&mut cargo(&["build", "--release", "--package", "farkeep"])))?;
    phase("unit and model tests", || nextest("not package(farkeep-tests)", "fail"))?;
    phase("documentation tests", || run(&mut cargo(&["test", "--quiet", "--workspace", "--doc"])))?;
    phase("differential tests against redis-server", || {
        nextest("package(farkeep-tests) & binary(differential)", "fail")
    })?;
    phase("real clients, crashes, bad input", || {
        nextest("package(farkeep-tests) - binary(differential) - binary(simulation)", "fail")
    })?;
    phase("simulated cluster, fresh seeds", || doors::sim(&[]))?;
    phase("RDMA and persistent memory, in the guest", in_guest)
}

/// How long the guest's suite may take here. It takes a third of that on two quiet processors; a machine with less to spare is no
/// reason to call the code broken.
const GUEST_LIMIT: Duration = Duration::from_secs(1500);

/// The guest's suite, where there is a guest to be had: its kernel and its QEMU come from a Debian mirror.
fn in_guest() -> Outcome {
    match guest::Image::get() {
        Ok(_) => guest::run_suite(&[], GUEST_LIMIT),
        Err(why) => {
            println!("skipped: there is no guest to be had: {why}");
            Ok(())
        }
    }
}

/// Nextest over the whole workspace with a filter, against the release binary built by an earlier phase. `no_tests` says
/// what a filter that selects nothing means.
pub fn nextest(filter: &str, no_tests: &str) -> Outcome {
    let no_tests = format!("--no-tests={no_tests}");
    let args = ["nextest", "run", "--workspace", "--profile", "ci", &no_tests, "-E", filter];
    run(cargo(&args).env("FARKEEP_BIN", target_dir().join("release/farkeep")))
}

/// `cargo deny`, where it is installed. Building it takes minutes, so CI builds it only when asked to with
/// `FARKEEP_CI_DENY=1`. The advisory database comes over the network; without it the other checks still run.
fn dependencies() -> Outcome {
    if !has_cargo_subcommand("deny") {
        if std::env::var_os("FARKEEP_CI_DENY").is_none_or(|value| value != "1") {
            println!("skipped: cargo-deny is not installed (FARKEEP_CI_DENY=1 installs it)");
            return Ok(());
        }
        run(&mut cargo(&["install", "cargo-deny", "--locked", "--quiet"]))?;
    }
    let fetched = cargo(&["deny", "fetch", "db"]).output().is_ok_and(|output| output.status.success());
    if fetched {
        run(&mut cargo(&["deny", "check"]))
    } else {
        println!("the advisory database cannot be fetched: checking licences, bans and sources only");
        run(&mut cargo(&["deny", "check", "licenses", "bans", "sources"]))
    }
}
