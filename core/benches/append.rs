//! What a transaction costs on its way through the log: append, persist, replay. Prints nanoseconds per transaction,
//! the median of many rounds.
//!
//! Run with `cargo bench -p farkeep-core --bench append`. The pool lies on tmpfs (`/dev/shm`) with pmem instructions.

use std::hint::black_box;
use std::time::Instant;

use farkeep_core::heap::{Heap, Offset, Range, RangeKind, RedoSink};
use farkeep_core::log::Replid;
use farkeep_core::pool::{Pool, PoolOptions};
use farkeep_core::recover::{LeaderOptions, open_leader};

/// The ranges of a SET of a new key: entry, index bucket, bitmap, counters.
const SET: [(u64, u32); 5] = [(8 << 20, 104), (1 << 20, 8), (2 << 20, 8), (64 << 10, 8), (128, 4)];
const ROUNDS: u64 = 200;
const BATCH: u64 = 4096;

fn main() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let options = PoolOptions {
        durability: "pmem".parse().expect("a domain"),
        ..PoolOptions::new(dir.path(), [1; 16])
    };
    let pool = Pool::open(&options).expect("a pool");
    let mut leader =
        open_leader(&pool, &LeaderOptions::new(Replid([1; 20]), Some([2; 16]))).expect("a leader");
    let mut txn = leader.heap.txn();
    Heap::format(&mut txn, [2; 16]).expect("room");
    txn.alloc(64 << 20).expect("room");
    txn.commit(&mut leader.appender).expect("room");

    let populated = Instant::now();
    pool.log().populate().expect("memory for the ring");
    println!("populating a ring of 256 MiB: {:.1} ms", populated.elapsed().as_secs_f64() * 1e3);

    for batch_len in [1u64, 16, 256] {
        let mut rounds: [Vec<f64>; 4] = Default::default();
        for round in 0..ROUNDS {
            let (mut append_ns, mut persist_ns) = (0, 0);
            for batch in 0..BATCH / batch_len {
                let started = Instant::now();
                for number in 0..batch_len {
                    let shift = ((round * BATCH + batch * batch_len + number) * 128) % (16 << 20);
                    let ranges = SET.map(|(at, len)| {
                        let at = if len == 104 { at + shift } else { at };
                        Range { at: Offset::new(at), len, kind: RangeKind::Bytes }
                    });
                    black_box(leader.appender.append(leader.heap.view(), black_box(&ranges)).expect("room"));
                }
                let appended = Instant::now();
                black_box(leader.appender.persist());
                append_ns += (appended - started).as_nanos();
                persist_ns += appended.elapsed().as_nanos();
            }
            let end = leader.appender.appended();
            leader.appender.set_committed_hint(end);
            let started = Instant::now();
            leader.replayer.run(end).expect("a whole log");
            let replayed = Instant::now();
            let checkpoint = leader.replayer.checkpoint().expect("a checkpoint");
            leader.appender.set_floor(checkpoint);
            let spent =
                [append_ns, persist_ns, (replayed - started).as_nanos(), replayed.elapsed().as_nanos()];
            for (all, ns) in rounds.iter_mut().zip(spent) {
                all.push(ns as f64 / BATCH as f64);
            }
        }
        let [append, persist, replay, checkpoint] = rounds.map(median);
        println!(
            "batches of {batch_len:>3}: append {append:6.1} ns, persist {persist:6.1} ns, replay {replay:6.1} ns, \
             checkpoint {checkpoint:6.1} ns"
        );
    }
}

/// The median shrugs off the rounds in which another process had the core.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
