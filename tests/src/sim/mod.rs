//! A whole cluster in one thread, under one seed, with faults.
//!
//! A leader and one to three followers, made of the real parts: pools (on the crash double, which forgets what was
//! never persisted), heaps, logs, replayers, the leader's and the follower's state machine, the tcp fabric's two ends
//! and the simulated one-sided fabric. Simulated are the wires between them, the clock, the clients and the operator,
//! who restarts what has crashed and now and then promotes the most advanced follower, also while the old leader is
//! still alive somewhere. Others may come up as leaders that nobody has promoted, and be followed.
//!
//! A seed decides everything: the size of the group, its configuration, each transaction's bytes, when what arrives, what
//! breaks, which cache lines survive. After each step the [`oracle`] holds every node against the invariants. A run that
//! fails prints its seed; the same seed fails the same way again, and `FARKEEP_TRACE=1` tells the story.

mod cluster;
mod node;
mod oracle;
mod rng;
mod wire;
mod workload;

pub use cluster::{Cluster, Report};
pub use rng::Rng;

use farkeep_core::pmem::domain::Domain;
use farkeep_leader::{Config, OnFollowerLoss};

use node::Plan;

/// Runs one seed. Panics if an invariant is violated.
pub fn run(seed: u64) -> Report {
    let mut rng = Rng::new(seed);
    let followers = rng.between(1, 3) as usize;
    let segment_len = 4096 << rng.below(2);
    let plan = Plan {
        ring_len: segment_len * if rng.chance(75) { rng.between(5, 8) } else { 64 },
        segment_len,
        followers,
        domain: if rng.chance(8) { Domain::Disk } else { Domain::Pmem },
        leader: Config {
            sync_followers: rng.between(1, followers as u64) as usize,
            on_follower_loss: OnFollowerLoss::Refuse,
            chunk_len: [16 << 10, 64 << 10, 256 << 10][rng.index(3)],
            ..Config::default()
        },
        room: [u64::MAX, 700, 100][rng.index(3)],
        faults_per_mille: [5, 20, 60, 120][rng.index(4)],
    };
    let steps = rng.between(300, 3000);
    let trace = std::env::var_os("FARKEEP_TRACE").is_some();
    let mut cluster = Cluster::new(rng, plan, followers + 1, trace);
    for _ in 0..steps {
        cluster.step();
    }
    cluster.settle()
}
