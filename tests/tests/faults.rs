//! Random faults on real processes. `cargo xtask faults` is its door.

use std::path::Path;
use std::time::Instant;

use farkeep_tests::{faults, seed};

/// Fresh seeds of an ordinary run.
const SEEDS: u64 = 4;

#[test]
fn no_acknowledged_write_is_lost_and_nothing_read_is_undone_whatever_befalls_the_nodes() {
    let evidence = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut total = faults::Report::default();
    let mut failed = Vec::new();
    for seed in seed::seeds(SEEDS) {
        let started = Instant::now();
        match faults::run(seed, evidence) {
            Ok(report) => {
                println!("seed {seed}: {report:?} in {:.1} s", started.elapsed().as_secs_f32());
                total.add(&report);
            }
            Err(failure) => {
                eprintln!(
                    "seed {seed} fails; again with: cargo xtask faults --seed {seed} (FARKEEP_TRACE=1 tells the story, which is \
                     in {})\n{}",
                    failure.evidence.display(),
                    failure.what
                );
                failed.push(seed);
            }
        }
    }
    println!("in all: {total:?}");
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}
