//! What remembering when what was appended costs a turn of the leader's loop that appends, with one follower: one entry, and one time
//! recorded at each of the five stages. Prints nanoseconds per turn, the median of many rounds.
//!
//! Run with `cargo bench -p farkeep-leader --bench lag`.

use std::hint::black_box;
use std::time::Instant;

use farkeep_core::lsn::Lsn;
use farkeep_leader::lag::{Clock, FollowerStages};

const ROUNDS: usize = 200;
const TURNS: u64 = 4096;

fn main() {
    let (mut clock, mut follower) = (Clock::new(Lsn::ZERO), FollowerStages::default());
    let mut turn = 0_u64;
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..TURNS {
                step(&mut clock, &mut follower, turn);
                turn += 1;
            }
            start.elapsed().as_nanos() as f64 / TURNS as f64
        })
        .collect();
    black_box((&clock, &follower));
    rounds.sort_by(f64::total_cmp);
    println!("lag: {:.1} ns per turn", rounds[ROUNDS / 2]);
}

fn step(clock: &mut Clock, follower: &mut FollowerStages, turn: u64) {
    let [from, to] = [turn, turn + 1].map(|turn| Lsn::new(turn * 100));
    clock.appends.set_now(turn * 20);
    clock.appends.append(to);
    clock.appends.set_now(turn * 20 + 7);
    clock.durable.advance(&clock.appends, from, to);
    follower.posted.advance(&clock.appends, from, to);
    clock.appends.set_now(turn * 20 + 15);
    follower.durable.advance(&clock.appends, from, to);
    follower.applied.advance(&clock.appends, from, to);
    clock.committed.advance(&clock.appends, from, to);
}
