//! Walking keys that change under the walker.

#[expect(dead_code, reason = "not every helper is needed here")]
mod support;

use std::collections::HashSet;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::Store;

/// One call of SCAN: the next cursor, and the keys.
fn scan(store: &mut Store, cursor: &str) -> (String, Vec<String>) {
    let reply = store.say(&format!("SCAN {cursor} COUNT 20"));
    let lines: Vec<&str> = reply.split("\r\n").collect();
    let keys = lines[4..].chunks_exact(2).map(|pair| pair[1].to_owned()).collect();
    (lines[2].to_owned(), keys)
}

#[test]
fn a_scan_returns_what_is_there_all_along_while_the_table_grows_and_shrinks() {
    for seed in 0..12 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut store = Store::new(64 << 20, false);
        let (mut lowest, mut next) = (0, 0);
        for number in 0..random.random_range(1..400) {
            store.say(&format!("SET stays:{number} x"));
            next = number + 1;
        }
        let stays = next;
        let grows_first = random.random_bool(0.5);
        if !grows_first {
            (0..5000).for_each(|number| drop(store.say(&format!("SET passes:{number} x"))));
        }
        let mut passing = if grows_first { 0 } else { 5000 };
        let mut seen = HashSet::new();
        let (mut cursor, mut calls) = ("0".to_owned(), 0);
        loop {
            let (after, keys) = scan(&mut store, &cursor);
            seen.extend(keys);
            cursor = after;
            calls += 1;
            if cursor == "0" {
                break;
            }
            // Grow for a while, then shrink, or the other way round; now and then past a doubling.
            let growing = (calls / 8) % 2 == usize::from(!grows_first);
            for _ in 0..random.random_range(0..400) {
                if growing && passing < 8000 {
                    store.say(&format!("SET passes:{passing} x"));
                    passing += 1;
                } else if !growing && lowest < passing {
                    store.say(&format!("DEL passes:{lowest}"));
                    lowest += 1;
                }
            }
        }
        for number in 0..stays {
            assert!(
                seen.contains(&format!("stays:{number}")),
                "seed {seed}: stays:{number} was not returned"
            );
        }
    }
}

#[test]
fn a_scan_of_a_table_at_rest_returns_every_key_once() {
    let mut store = Store::new(64 << 20, false);
    for number in 0..3333 {
        store.say(&format!("SET key:{number} x"));
    }
    let mut seen = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let (after, keys) = scan(&mut store, &cursor);
        seen.extend(keys);
        cursor = after;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 3333);
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 3333);
}

#[test]
fn randomkey_is_fair() {
    let mut store = Store::new(64 << 20, false);
    const KEYS: usize = 200;
    for number in 0..KEYS {
        store.say(&format!("SET key:{number} x"));
    }
    let mut drawn = vec![0u32; KEYS];
    for _ in 0..KEYS * 200 {
        let reply = store.say("RANDOMKEY");
        let number = reply.split("\r\n").nth(1).unwrap().strip_prefix("key:").unwrap();
        drawn[number.parse::<usize>().unwrap()] += 1;
    }
    // 200 draws are expected of each, with a standard deviation of 14.
    assert!(drawn.iter().all(|count| (120..280).contains(count)), "{drawn:?}");
}
