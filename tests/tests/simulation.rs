//! The simulated cluster, over fresh seeds. `cargo xtask sim` is its door.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

use farkeep_tests::{seed, sim};

/// Fresh seeds of an ordinary run.
const SEEDS: u64 = 200;

#[test]
fn no_acknowledged_write_is_lost_and_equal_positions_mean_equal_bytes() {
    let seeds = seed::seeds(SEEDS);
    let started = seeds.start;
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    // A cluster lives in one thread; several clusters at a time are nobody's business.
    let totals = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| run_some(&next, seeds.end))).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    let mut total = sim::Report::default();
    for report in totals {
        match report {
            Ok(report) => total.add(&report),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    println!("seeds from {started}: {total:?}");
}

/// Runs seeds until there are none left; the first that fails ends all.
fn run_some(next: &AtomicU64, end: u64) -> sim::Report {
    let mut total = sim::Report::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return total;
        }
        match catch_unwind(|| sim::run(seed)) {
            Ok(report) => total.add(&report),
            Err(panic) => {
                next.store(end, Ordering::Relaxed);
                eprintln!(
                    "seed {seed} fails; again with: cargo xtask sim --seed {seed} (FARKEEP_TRACE=1 tells the story)"
                );
                std::panic::resume_unwind(panic);
            }
        }
    }
}
