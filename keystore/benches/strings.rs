//! What a command costs, transaction included and log append excluded, over a million keys of 16 bytes with
//! values of 64.
//!
//! Besides times it prints what a write costs in redo bytes and a key in image bytes.

#[expect(dead_code, reason = "not every helper is needed here")]
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use support::Store;

const KEYS: u64 = 1 << 20;

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Scatters a counter over the keys.
fn scattered(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44
}

fn strings(criterion: &mut Criterion) {
    let mut store = Store::new(8 << 30, false);
    let mut reply = Vec::new();
    let value = [b'x'; 64];
    let (log_before, image_before) = (store.log.appended, store.heap.used_bytes());
    for number in 0..KEYS {
        store.run_into(&[b"SET", &key(number), &value], &mut reply, true);
        reply.clear();
    }
    println!(
        "SET new: {} redo bytes and {} image bytes ({} of image length) per key",
        (store.log.appended - log_before) / KEYS,
        (store.heap.used_bytes() - image_before) / KEYS,
        store.heap.view().image_len() / KEYS,
    );
    let mut group = criterion.benchmark_group("strings");
    let mut counter = 0;
    group.bench_function("GET", |bencher| {
        bencher.iter(|| {
            counter += 1;
            store.run_into(&[b"GET", &key(scattered(counter))], &mut reply, true);
            black_box(&reply);
            reply.clear();
        });
    });
    group.bench_function("GET, 16 at a time with prefetching", |bencher| {
        bencher.iter_custom(|iterations| {
            let start = std::time::Instant::now();
            for _ in 0..iterations.div_ceil(16) {
                let keys: [[u8; 16]; 16] = std::array::from_fn(|n| key(scattered(counter + n as u64)));
                counter += 16;
                let view = store.heap.view();
                let hashes = keys.map(|key| store.ks.prefetch(view, 0, &key));
                hashes.iter().for_each(|&hash| store.ks.prefetch_entry(view, 0, hash));
                for key in &keys {
                    store.run_into(&[b"GET", key], &mut reply, true);
                }
                black_box(&reply);
                reply.clear();
            }
            start.elapsed()
        });
    });
    let (log_before, counter_before) = (store.log.appended, counter);
    group.bench_function("SET overwriting", |bencher| {
        bencher.iter(|| {
            counter += 1;
            let mut value = value;
            value[..8].copy_from_slice(&counter.to_be_bytes());
            value[56..].copy_from_slice(&counter.to_be_bytes());
            store.run_into(&[b"SET", &key(scattered(counter)), &value], &mut reply, true);
            reply.clear();
        });
    });
    println!(
        "SET overwriting: {} redo bytes",
        (store.log.appended - log_before) / (counter - counter_before)
    );
    group.bench_function("SET overwriting, 16 at a time with prefetching", |bencher| {
        bencher.iter_custom(|iterations| {
            let start = std::time::Instant::now();
            for _ in 0..iterations.div_ceil(16) {
                let keys: [[u8; 16]; 16] = std::array::from_fn(|n| key(scattered(counter + n as u64)));
                let view = store.heap.view();
                let hashes = keys.map(|key| store.ks.prefetch(view, 0, &key));
                hashes.iter().for_each(|&hash| store.ks.prefetch_entry(view, 0, hash));
                for key in &keys {
                    counter += 1;
                    let mut value = value;
                    value[..8].copy_from_slice(&counter.to_be_bytes());
                    value[56..].copy_from_slice(&counter.to_be_bytes());
                    store.run_into(&[b"SET", key, &value], &mut reply, true);
                }
                reply.clear();
            }
            start.elapsed()
        });
    });
    let mut next = KEYS;
    group.bench_function("SET new", |bencher| {
        bencher.iter(|| {
            next += 1;
            store.run_into(&[b"SET", &key(next), &value], &mut reply, true);
            reply.clear();
        });
    });
    // One key, in the caches: what is left is instructions.
    group.bench_function("GET of one key", |bencher| {
        bencher.iter(|| {
            store.run_into(&[b"GET", &key(1)], &mut reply, true);
            black_box(&reply);
            reply.clear();
        });
    });
    group.bench_function("SET of one key", |bencher| {
        bencher.iter(|| {
            counter += 1;
            let mut value = value;
            value[..8].copy_from_slice(&counter.to_be_bytes());
            store.run_into(&[b"SET", &key(1), &value], &mut reply, true);
            reply.clear();
        });
    });
    group.bench_function("INCR", |bencher| {
        bencher.iter(|| {
            store.run_into(&[b"INCR", b"counter"], &mut reply, true);
            reply.clear();
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(500));
    targets = strings
}
criterion_main!(benches);
