//! The doors other than `ci`.

use crate::ci::nextest;
use xtask::phase::{Outcome, cargo, command, has_cargo_subcommand, root, run, target_dir};

/// How many fresh seeds `sim` runs when nobody says.
const DEFAULT_SIM_SEEDS: u64 = 2000;

/// How many fault runs `faults` makes when nobody says.
const DEFAULT_FAULT_RUNS: u64 = 20;

/// Installs what is missing; see `scripts/setup`.
pub fn setup(args: &[String]) -> Outcome {
    let purpose = args.first().map_or("test", String::as_str);
    run(&mut command(root().join("scripts/setup"), &[purpose]))
}

/// The seeded cluster. A failing test prints its seed and this door's command line that replays it.
pub fn sim(args: &[String]) -> Outcome {
    let (seed, count) = seeds("sim", args, DEFAULT_SIM_SEEDS)?;
    run(cargo(&[
        "nextest",
        "run",
        "--package",
        "farkeep-tests",
        "--profile",
        "ci",
        "--no-tests=fail",
        "-E",
        "binary(simulation)",
    ])
    .env("FARKEEP_SEED", seed.to_string())
    .env("FARKEEP_SEEDS", count.to_string()))
}

/// Real processes under random faults. A failing run prints its seed and this door's command line that replays it.
pub fn faults(args: &[String]) -> Outcome {
    let (seed, count) = seeds("faults", args, DEFAULT_FAULT_RUNS)?;
    build_release()?;
    // Cargo's own runner: a few hundred runs take longer than nextest lets one test take.
    run(cargo(&["test", "--quiet", "--package", "farkeep-tests", "--test", "faults", "--", "--nocapture"])
        .env("FARKEEP_BIN", target_dir().join("release/farkeep"))
        .env("FARKEEP_SEED", seed.to_string())
        .env("FARKEEP_SEEDS", count.to_string()))
}

/// The crash double's sweeps in the crates, then kill -9 of real processes.
pub fn crash() -> Outcome {
    build_release()?;
    nextest("(test(crash) - package(farkeep-tests)) + (package(farkeep-tests) & binary(crash))", "fail")
}

/// One fuzz target, or all of them in turn.
pub fn fuzz(args: &[String]) -> Outcome {
    let flags = Flags::parse(args, &["--seconds"])?;
    let seconds = flags.number("--seconds")?.unwrap_or(60);
    if !has_cargo_subcommand("fuzz") {
        return Err(
            "cargo-fuzz is missing: cargo install cargo-fuzz --locked; rustup toolchain install nightly"
                .into(),
        );
    }
    let listed =
        cargo(&["fuzz", "list"]).output().map_err(|error| format!("cannot list fuzz targets: {error}"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let targets: Vec<&str> = if flags.words.is_empty() {
        listed.lines().collect()
    } else {
        flags.words.iter().map(String::as_str).collect()
    };
    let limit = format!("-max_total_time={seconds}");
    for target in targets {
        // cargo-fuzz needs nightly; `+nightly` is understood by rustup's proxy, not by the cargo that started us.
        run(&mut command("cargo", &["+nightly", "fuzz", "run", target, "--", &limit]))?;
    }
    Ok(())
}

/// Farkeep beside redis-server.
pub fn bench(args: &[String]) -> Outcome {
    run(&mut cargo(&["build", "--release", "--package", "farkeep", "--package", "farkeep-benches"]))?;
    run(command(target_dir().join("release/farkeep-compare"), &[]).args(args))
}

/// The demonstration that the binary itself brings.
pub fn demo(args: &[String]) -> Outcome {
    build_release()?;
    run(command(target_dir().join("release/farkeep"), &["demo"]).args(args))
}

fn build_release() -> Outcome {
    run(&mut cargo(&["build", "--release", "--package", "farkeep"]))
}

/// Which seeds a door is to run: the one that is named, those from it on, or so many fresh ones. Says how to run them again.
fn seeds(door: &str, args: &[String], fresh: u64) -> Result<(u64, u64), String> {
    let flags = Flags::parse(args, &["--seed", "--count"])?;
    let named = flags.number("--seed")?;
    let seed = named.unwrap_or_else(fresh_seed);
    let count = flags.number("--count")?.unwrap_or(if named.is_some() { 1 } else { fresh });
    println!(
        "seeds {seed} .. {} (cargo xtask {door} --seed {seed} --count {count})",
        seed.saturating_add(count)
    );
    Ok((seed, count))
}

/// A seed nobody chose: the clock's nanoseconds are enough, for it is printed.
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) << 20 ^ now.as_secs()
}

/// `--name value` flags and plain words.
struct Flags {
    values: Vec<(String, String)>,
    words: Vec<String>,
}

impl Flags {
    fn parse(args: &[String], known: &[&str]) -> Result<Self, String> {
        let mut flags = Self { values: Vec::new(), words: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                flags.words.push(arg.clone());
            } else if known.contains(&arg.as_str()) {
                let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
                flags.values.push((arg.clone(), value.clone()));
            } else {
                return Err(format!("unknown flag {arg}; known here: {}", known.join(" ")));
            }
        }
        Ok(flags)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        match self.values.iter().find(|(flag, _)| flag == name) {
            None => Ok(None),
            Some((_, value)) => value.parse().map(Some).map_err(|_| format!("{name} {value}: not a number")),
        }
    }
}
