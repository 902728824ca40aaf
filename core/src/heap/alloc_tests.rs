//! What the allocator promises, case by case.

use std::sync::atomic::Ordering;

use super::double::{MemSource, Replica, formatted};
use super::*;

/// A small generator, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

fn alloc(heap: &mut Heap, log: &mut Replica, len: usize) -> Offset {
    let mut txn = heap.txn();
    let at = txn.alloc(len).unwrap();
    txn.commit(log).unwrap();
    at
}

fn free(heap: &mut Heap, log: &mut Replica, at: Offset) {
    let mut txn = heap.txn();
    txn.free(at);
    txn.commit(log).unwrap();
}

fn assert_sound(heap: &Heap, blocks: &[(Offset, usize)]) {
    let findings = verify(heap.view(), blocks.iter().copied());
    assert!(findings.is_empty(), "{findings:?}");
}

/// Bytes in runs that are not free: what allocated blocks, headers and partly filled slabs take.
fn occupied(heap: &Heap) -> u64 {
    let view = heap.view();
    let (mut page, mut pages) = (0, 0);
    while page < alloc::extent::top(view) {
        let desc = view.desc(page);
        if desc.kind() != Some(alloc::desc::Kind::Free) {
            pages += u64::from(desc.len);
        }
        page += desc.len;
    }
    pages * PAGE_LEN
}

#[test]
fn a_small_allocation_costs_a_byte_of_bitmap_in_the_log() {
    let (mut heap, mut log) = formatted(1 << 26);
    for len in [16, 64, 100, 1000] {
        let mut blocks = Vec::new();
        let mut redo = (0, 0);
        for _ in 0..10_000 {
            blocks.push(alloc(&mut heap, &mut log, len));
            redo.0 += log.last_len;
        }
        let mut random = Random(7);
        while !blocks.is_empty() {
            let at = blocks.swap_remove(random.below(blocks.len()));
            free(&mut heap, &mut log, at);
            redo.1 += log.last_len;
        }
        let (alloc, free) = (redo.0 as f64 / 1e4, redo.1 as f64 / 1e4);
        println!("{len} bytes: {alloc:.1} redo bytes an allocation, {free:.1} a free in random order");
        assert!(alloc < 20.0 && free < 25.0, "{len} bytes: {alloc:.1}, {free:.1}");
    }
}

#[test]
fn replacing_blocks_in_random_order_stays_cheap_in_the_log() {
    let (mut heap, mut log) = formatted(1 << 26);
    let mut blocks: Vec<Offset> = (0..10_000).map(|_| alloc(&mut heap, &mut log, 100)).collect();
    let mut random = Random(3);
    let mut redo = 0;
    for _ in 0..50_000 {
        let index = random.below(blocks.len());
        let mut txn = heap.txn();
        let at = txn.alloc(100).unwrap();
        txn.free(blocks[index]);
        txn.commit(&mut log).unwrap();
        redo += log.last_len;
        blocks[index] = at;
    }
    let redo = redo as f64 / 5e4;
    println!("{redo:.1} redo bytes a replaced block");
    assert!(redo < 60.0, "{redo:.1}");
    let blocks: Vec<_> = blocks.into_iter().map(|at| (at, 100)).collect();
    assert_sound(&heap, &blocks);
    assert!(heap.footprint_bytes() * 100 < heap.used_bytes() * 115 + (1 << 20), "holes: {heap:?}");
}

#[test]
fn footprint_stays_near_the_live_bytes_when_all_values_change_size_again_and_again() {
    let (mut heap, mut log) = formatted(1 << 30);
    let mut random = Random(11);
    let mut blocks: Vec<(Offset, usize)> = vec![(Offset::NULL, 0); 4000];
    let mut most_live = 0;
    for round in 0..20 {
        // Sizes wander between tens of bytes and tens of kilobytes; each round rewrites all values in another order.
        let base = [40, 3000, 200, 9000, 20_000, 64, 1500, 500, 30_000, 100][round % 10];
        for index in (1..blocks.len()).rev() {
            blocks.swap(index, random.below(index + 1));
        }
        for block in &mut blocks {
            let len = base + random.below(base);
            let mut txn = heap.txn();
            let at = txn.alloc(len).unwrap();
            if !block.0.is_null() {
                txn.free(block.0);
            }
            *block = (at, len);
            txn.commit(&mut log).unwrap();
        }
        let live = blocks.iter().map(|&(_, len)| len as u64).sum::<u64>();
        most_live = most_live.max(live);
        let (used, occupied, footprint) = (heap.used_bytes(), occupied(&heap), heap.footprint_bytes());
        println!("round {round}: live {live}, used {used}, occupied {occupied}, footprint {footprint}");
        assert_sound(&heap, &blocks);
        assert!(used < live + live / 4 + 100_000, "rounding up");
        assert!(occupied < live + live / 3 + (3 << 20), "occupied {occupied}, live {live}");
        assert!(
            footprint < most_live + most_live / 2 + (3 << 20),
            "footprint {footprint}, most live {most_live}"
        );
    }
    for (at, _) in blocks.drain(..) {
        free(&mut heap, &mut log, at);
    }
    assert!(heap.used_bytes() == 0);
    // The descriptors' tables and one empty slab a class.
    println!("occupied when empty: {}", occupied(&heap));
    assert!(occupied(&heap) < 3 << 20);
    log.assert_same_bytes(heap.view());
}

#[test]
fn freeing_everything_in_any_order_leaves_one_run_to_allocate_from() {
    let (mut heap, mut log) = formatted(64 << 20);
    let mut blocks: Vec<Offset> =
        (1..150).map(|pages| alloc(&mut heap, &mut log, pages % 40 * 4096 + 15_000)).collect();
    let mut random = Random(5);
    while !blocks.is_empty() {
        let at = blocks.swap_remove(random.below(blocks.len()));
        free(&mut heap, &mut log, at);
    }
    let before = heap.view().image_len();
    assert!(before > 14 << 20);
    let at = alloc(&mut heap, &mut log, 13 << 20);
    assert_eq!(heap.view().image_len(), before, "the space freed is used again");
    assert_sound(&heap, &[(at, 13 << 20)]);
}

#[test]
fn a_block_of_half_a_gigabyte_is_contiguous() {
    let (mut heap, mut log) = formatted(1 << 30);
    let small = alloc(&mut heap, &mut log, 100);
    let mut txn = heap.txn();
    let at = txn.alloc(512 << 20).unwrap();
    txn.write(at.add((512 << 20) - 5), b"there");
    txn.free(small);
    drop(txn);
    let mut heap = heap;
    let mut txn = heap.txn();
    let at = txn.alloc((512 << 20) + 1).unwrap();
    assert!(txn.usable_len(at) > 512 << 20);
    assert_eq!(txn.bytes(at, 512 << 20).len(), 512 << 20);
}

#[test]
fn beyond_the_limit_is_out_of_memory_and_nothing_has_changed() {
    let (mut heap, mut log) = formatted(8 << 20);
    let mut blocks = Vec::new();
    loop {
        let mut txn = heap.txn();
        match txn.alloc(100_000) {
            Ok(at) => blocks.push((at, 100_000)),
            Err(error) => {
                assert!(
                    matches!(error, HeapError::OutOfMemory { wanted: 100_000, limit } if limit == 8 << 20)
                );
                assert!(txn.is_empty());
                break;
            }
        }
        txn.commit(&mut log).unwrap();
    }
    assert!(blocks.len() > 75, "{} blocks", blocks.len());
    assert_sound(&heap, &blocks);
    free(&mut heap, &mut log, blocks.pop().unwrap().0);
    blocks.push((alloc(&mut heap, &mut log, 100_000), 100_000));
    assert_sound(&heap, &blocks);
}

#[test]
fn a_full_file_system_is_an_error_and_service_goes_on_with_what_is_there() {
    let source = MemSource::new(1 << 30);
    let mut heap = Heap::open(source.clone(), 0).unwrap();
    let mut log = Replica::default();
    let mut txn = heap.txn();
    Heap::format(&mut txn, [9; 16]).unwrap();
    txn.commit(&mut log).unwrap();
    // There is room for a little more, but not for a whole step of growth.
    source.space.store((4 << 20) + 8192, Ordering::Relaxed);
    let mut txn = heap.txn();
    assert!(matches!(txn.alloc(5 << 20), Err(HeapError::NoSpace { .. })));
    assert!(txn.is_empty() && txn.image_len() == 4 << 20);
    let mut count = 0;
    while txn.alloc(4096 * 4).is_ok() {
        count += 1;
    }
    assert_eq!(count, ((4 << 20) + 8192 - 17 * 4096) / (4096 * 4));
    txn.commit(&mut log).unwrap();
    log.assert_same_bytes(heap.view());
}

#[test]
fn growth_is_taken_back_with_its_transaction() {
    let (mut heap, mut log) = formatted(1 << 30);
    let before = heap.view().image_len();
    let mut txn = heap.txn();
    let at = txn.alloc(64 << 20).unwrap();
    txn.init(at.add(32 << 20), b"beyond the old end");
    assert!(txn.image_len() > before);
    drop(txn);
    assert_eq!(heap.view().image_len(), before);
    let at = alloc(&mut heap, &mut log, 64 << 20);
    log.assert_same_bytes(heap.view());
    assert_sound(&heap, &[(at, 64 << 20)]);
}

#[test]
fn growth_is_due_before_the_image_is_used_up_and_names_the_length_it_will_get() {
    let (mut heap, mut log) = formatted(1 << 30);
    assert_eq!(heap.growth_due(), None);
    alloc(&mut heap, &mut log, 3 << 20);
    let due = heap.growth_due().unwrap();
    alloc(&mut heap, &mut log, 2 << 20);
    assert_eq!(heap.view().image_len(), due);
}

#[test]
fn an_empty_heap_of_a_given_size_is_the_same_on_every_node() {
    let (_, one) = formatted(1 << 24);
    let (_, other) = formatted(1 << 30);
    assert!(one.image == other.image);
}

#[test]
fn used_bytes_lag_little_after_a_restart_and_are_exact_once_counted() {
    let (mut heap, mut log) = formatted(1 << 26);
    for len in [100, 20_000].repeat(1000) {
        alloc(&mut heap, &mut log, len);
    }
    let used = heap.used_bytes();
    assert_eq!(used, 1000 * (112 + 20_480));
    let len = heap.view().image_len();
    let mut heap = Heap::open(MemSource::with_image(1 << 26, log.image.clone()), len).unwrap();
    assert!(used.abs_diff(heap.used_bytes()) < 64 << 10);
    let mut turns = 0;
    while !heap.recount_used(100) {
        turns += 1;
    }
    assert!(turns > 5, "bounded work a turn");
    assert_eq!(heap.used_bytes(), used);
}

#[test]
fn the_image_may_grow_through_many_descriptor_tables() {
    let (mut heap, mut log) = formatted(1 << 30);
    let mut blocks = Vec::new();
    for _ in 0..50 {
        blocks.push((alloc(&mut heap, &mut log, 9 << 20), 9 << 20));
        blocks.push((alloc(&mut heap, &mut log, 14_000), 14_000));
    }
    assert_sound(&heap, &blocks);
    log.assert_same_bytes(heap.view());
}

mod damage {
    use super::*;

    fn findings_after(damage: impl FnOnce(&mut Txn<'_>, Offset)) -> String {
        let (mut heap, mut log) = formatted(1 << 26);
        let mut blocks: Vec<_> = (0..200).map(|_| (alloc(&mut heap, &mut log, 100), 100)).collect();
        let runs: Vec<_> = (0..6).map(|_| alloc(&mut heap, &mut log, 50_000)).collect();
        for (index, at) in runs.into_iter().enumerate() {
            match index % 2 {
                0 => free(&mut heap, &mut log, at),
                _ => blocks.push((at, 50_000)),
            }
        }
        assert_sound(&heap, &blocks);
        let mut txn = heap.txn();
        damage(&mut txn, blocks[20].0);
        let findings = verify(&txn, blocks);
        findings.iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn a_leak_is_found() {
        let mut leaked = Offset::NULL;
        let found = findings_after(|txn, _| leaked = txn.alloc(100).unwrap());
        assert_eq!(
            found,
            format!("{leaked}: leak: block of 112 bytes is allocated, but nothing leads to it\n")
        );
    }

    #[test]
    fn two_owners_are_found() {
        let (mut heap, mut log) = formatted(1 << 26);
        let (one, other) = (alloc(&mut heap, &mut log, 100), alloc(&mut heap, &mut log, 50_000));
        let found = verify(heap.view(), [(one, 1), (other, 1), (one, 1), (other, 1)]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|finding| finding.what.contains("two owners")));
    }

    #[test]
    fn a_block_longer_than_its_capacity_is_found() {
        let (mut heap, mut log) = formatted(1 << 26);
        let at = alloc(&mut heap, &mut log, 100);
        let found = verify(heap.view(), [(at, 113)]);
        assert!(found[0].what.contains("overlaps"), "{found:?}");
    }

    #[test]
    fn a_reachable_block_that_is_free_is_found() {
        let found = findings_after(|txn, at| {
            alloc::free(txn, at);
        });
        assert!(found.contains("no allocated block"), "{found}");
    }

    #[test]
    fn broken_links_are_found() {
        for bin in 1..alloc::extent::BINS {
            let found = findings_after(|txn, _| txn.put(superblock::bin_at(bin), &40u32));
            assert!(found.contains(&format!("bin {bin} leads to page 40")), "{found}");
        }
        let found = findings_after(|txn, _| txn.put(superblock::partial_at(6), &0u32));
        assert!(found.contains("on its list false, says true"), "{found}");
        let found = findings_after(|txn, _| txn.put(superblock::bin_at(13), &0u32));
        assert!(found.contains("free run in no bin"), "{found}");
    }

    #[test]
    fn any_damaged_byte_of_the_allocator_yields_findings_or_nothing_but_no_panic() {
        // Superblock behind the identity, then the descriptors of the pages in use, then a slab's header.
        let mut random = Random(99);
        for round in 0..600 {
            let byte = random.below(256) as u8;
            findings_after(|txn, at| {
                let start = match round % 3 {
                    0 => Offset::new(32 + random.below(1200) as u64),
                    1 => txn.desc_at(0).add(random.below(120 * 16) as u64),
                    _ => Offset::new(at.get() - at.get() % 4096).add(random.below(64) as u64),
                };
                txn.put(start, &byte);
            });
        }
    }
}

/// A log that takes everything and copies nothing.
struct Sink(u64);

impl RedoSink for Sink {
    fn append(&mut self, _: &View, ranges: &[Range]) -> Result<Lsn, CommitError> {
        self.0 += ranges.len() as u64;
        Ok(Lsn::new(self.0))
    }

    fn appended(&self) -> Lsn {
        Lsn::new(self.0)
    }
}

/// CPU time of this thread, which others on the machine disturb less than the clock.
fn cpu_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Run with `cargo test --release -p farkeep-core timing -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn timing_of_a_transaction_the_size_of_a_set() {
    for keys in [1_000, 1_000_000] {
        let (mut heap, _) = formatted(1 << 30);
        let mut log = Sink(1 << 40);
        let mut blocks = vec![Offset::NULL; keys];
        let mut txn = heap.txn();
        let slots = txn.alloc(8 * keys).unwrap();
        let counts = txn.alloc(64).unwrap();
        txn.commit(&mut log).unwrap();
        let mut random = Random(1);
        let mut time = |what: &str,
                        heap: &mut Heap,
                        log: &mut Sink,
                        step: &mut dyn FnMut(&mut Txn<'_>, usize, usize)| {
            let rounds = 2_000_000.max(keys);
            let start = cpu_ns();
            for round in 0..rounds {
                let key = if what.starts_with("new") { round % keys } else { random.below(keys) };
                let mut txn = heap.txn();
                step(&mut txn, key, round);
                txn.commit(log).unwrap();
            }
            println!("{keys} keys, {what}: {} ns", (cpu_ns() - start) / rounds as u64);
        };
        time("new or replaced in order", &mut heap, &mut log, &mut |txn, key, round| {
            let at = txn.alloc(104).unwrap();
            txn.init(at, &[round as u8 | 1; 104]);
            txn.put(slots.add(8 * key as u64), &at);
            txn.put(counts, &(round as u64 + 1));
            txn.put(counts.add(24), &(round as u32 + 1));
            if !blocks[key].is_null() {
                txn.free(blocks[key]);
            }
            blocks[key] = at;
        });
        for block in &mut blocks {
            if block.is_null() {
                let mut txn = heap.txn();
                *block = txn.alloc(104).unwrap();
                txn.commit(&mut log).unwrap();
            }
        }
        time("replaced at random", &mut heap, &mut log, &mut |txn, key, round| {
            let at = txn.alloc(104).unwrap();
            txn.init(at, &[round as u8 | 1; 104]);
            txn.put(slots.add(8 * key as u64), &at);
            txn.put(counts, &(round as u64 + 1));
            txn.put(counts.add(24), &(round as u32 + 1));
            txn.free(std::mem::replace(&mut blocks[key], at));
        });
        time("overwritten in place at random", &mut heap, &mut log, &mut |txn, key, round| {
            txn.write(blocks[key].add(40), &[round as u8; 64]);
            txn.put(blocks[key].add(8), &(round as u64));
        });
        time("empty", &mut heap, &mut log, &mut |_, _, _| {});
    }
}
