//! What a read depends on (I7): no client may be told of a write whose transaction is not committed, be it by
//! a value, be it by its absence.

#[expect(dead_code, reason = "not every helper is needed here")]
mod support;

use std::collections::VecDeque;

use farkeep_core::Lsn;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::Store;

/// The LSN that the reply to a read waits for.
fn dependency(store: &mut Store, line: &str) -> (String, Lsn) {
    store.heap.view().start_tracking();
    let reply = store.say(line);
    (reply, store.heap.view().take_dependency())
}

fn end(store: &Store) -> Lsn {
    Lsn::new(store.log.appended)
}

#[test]
fn a_read_depends_on_the_write_it_shows() {
    let mut store = Store::new(64 << 20, false);
    for (write, reads) in [
        (
            "SET k v",
            &["GET k", "EXISTS k", "KEYS *", "SCAN 0", "DBSIZE", "RANDOMKEY", "STRLEN k", "TYPE k"][..],
        ),
        ("APPEND k v", &["GET k", "STRLEN k"]),
        ("EXPIRE k 100", &["TTL k"]),
        ("RENAME k l", &["GET k", "GET l"]),
        ("HSET h f v", &["HGET h f", "HGETALL h", "HLEN h"]),
        ("HDEL h f", &["HGET h f", "EXISTS h", "DBSIZE"]),
        ("MOVE l 1", &["GET l"]),
        ("SWAPDB 0 1", &["GET l", "GET nothing"]),
        ("DEL l", &["GET l", "KEYS *"]),
        ("MSET a 1 b 2", &["MGET a b"]),
        ("FLUSHDB", &["GET a", "DBSIZE", "SCAN 0", "KEYS *", "RANDOMKEY"]),
    ] {
        store.say(write);
        let written = end(&store);
        for read in reads {
            let (reply, depends) = dependency(&mut store, read);
            assert_eq!(depends, written, "{read} after {write} says {reply:?}");
        }
    }
}

#[test]
fn a_missing_key_depends_on_its_removal_however_the_table_changes_behind_it() {
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut store = Store::new(64 << 20, false);
        // The keys removed last, and when: the next splits and merges are the ones that may take them
        // elsewhere.
        let mut removed: VecDeque<(u32, Lsn)> = VecDeque::new();
        let mut there: Vec<u32> = Vec::new();
        for step in 0..4000u32 {
            let grows = step % 2000 < 1000;
            if random.random_bool(if grows { 0.8 } else { 0.2 }) {
                store.say(&format!("SET key:{step} x"));
                there.push(step);
            } else if !there.is_empty() {
                let gone = there.swap_remove(random.random_range(0..there.len()));
                store.say(&format!("DEL key:{gone}"));
                removed.push_back((gone, end(&store)));
                if removed.len() > 8 {
                    removed.pop_front();
                }
            }
            for &(number, removed_at) in &removed {
                let (reply, depends) = dependency(&mut store, &format!("GET key:{number}"));
                assert_eq!(reply, "$-1\r\n");
                assert!(depends >= removed_at, "seed {seed}, step {step}: {depends:?} < {removed_at:?}");
            }
        }
    }
}

#[test]
fn most_reads_do_not_depend_on_a_write_elsewhere() {
    let mut store = Store::new(64 << 20, false);
    for number in 0..20_000 {
        store.say(&format!("SET key:{number} {}", "v".repeat(64)));
    }
    let before = end(&store);
    for number in 0..10 {
        store.say(&format!("SET new:{number} v"));
    }
    let held =
        (0..20_000).filter(|number| dependency(&mut store, &format!("GET key:{number}")).1 > before).count();
    assert!(held < 4000, "{held} of 20000 reads wait for 10 writes of other keys");
}
