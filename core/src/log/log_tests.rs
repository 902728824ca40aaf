//! Appender and scanner against each other, on a medium that can be damaged.

use std::sync::Arc;

use farkeep_proto::redo::{Range as RedoRange, chain_seed};

use super::Appender;
use super::geometry::Geometry;
use super::history::{Reign, Replid};
use super::ring::{LogIdentity, LogMap, file_len};
use super::scan::{Position, Scanner, Stop, Tail, ends_transaction};
use crate::heap::double::MemSource;
use crate::heap::{CommitError, Heap, Offset, Range, RangeKind, RedoSink};
use crate::lsn::{Epoch, Lsn};
use crate::pmem::crash::{CrashDouble, Medium};
use crate::pmem::domain::{Domain, Durability, detect};
use crate::pmem::map::Region;

const DATASET: [u8; 16] = [7; 16];

fn origin() -> Position {
    Position { lsn: Lsn::ZERO, crc: chain_seed(&DATASET), epoch: Epoch::ZERO }
}

fn log(ring_len: u64, segment_len: u64) -> Arc<LogMap> {
    let double = CrashDouble::new().unwrap();
    let file = double.file(Medium::Log);
    file.set_len(file_len(ring_len)).unwrap();
    let persistence = detect(&file, Durability::Forced(Domain::Pmem)).unwrap();
    let region = Region::map(file, file_len(ring_len), persistence, "log").unwrap();
    let geometry = Geometry::new(ring_len, segment_len).unwrap();
    let identity = LogIdentity { node_id: [1; 16], geometry };
    LogMap::format(&region, identity).unwrap();
    let head = region.bytes(0, 4096).to_vec();
    assert_eq!(LogIdentity::parse(&head).unwrap(), identity);
    let log = LogMap::open(region, identity).unwrap();
    log.update_state(|state| {
        state.dataset_id = DATASET;
        state.checkpoint = origin();
        let reign = Reign { epoch: Epoch::new(1), replid: Replid([1; 20]), start: Lsn::ZERO };
        Arc::make_mut(&mut state.history).push(reign);
    })
    .unwrap();
    Arc::new(log)
}

fn appender(log: &Arc<LogMap>) -> Appender {
    Appender::new(Arc::clone(log), origin(), Epoch::new(1), Lsn::ZERO, Lsn::ZERO)
}

/// A heap whose view holds `len` bytes that tell their own offset.
fn heap(len: u64) -> Heap {
    let mut heap = Heap::open(MemSource::new(len), 0).unwrap();
    heap.redo_grow(len).unwrap();
    for at in (0..len).step_by(8) {
        heap.redo_bytes(Offset::new(at), &at.to_le_bytes(), Lsn::ZERO);
    }
    heap
}

fn bytes(at: u64, len: u32) -> Range {
    Range { at: Offset::new(at), len, kind: RangeKind::Bytes }
}

type Found = (Vec<Lsn>, Vec<(u64, Vec<u8>)>, Stop);

/// What a scan finds: the ends of all whole transactions, and every byte that they store.
fn scan(log: &LogMap, from: Position) -> Found {
    let mut scanner = Scanner::new(log, from);
    let (mut ends, mut stores) = (Vec::new(), Vec::new());
    loop {
        match scanner.next() {
            Ok(record) => {
                for range in record.ranges() {
                    if let RedoRange::Bytes { offset, bytes } = range.unwrap() {
                        stores.push((offset, bytes.to_vec()));
                    }
                }
                if ends_transaction(&record) {
                    ends.push(scanner.position().lsn);
                }
            }
            Err(stop) => return (ends, stores, stop),
        }
    }
}

#[test]
fn a_scan_finds_what_was_appended_over_many_laps() {
    let log = log(4 * 4096, 4096);
    let heap = heap(1 << 20);
    let mut appender = appender(&log);
    let mut from = origin();
    for round in 0..400u64 {
        let ranges =
            [bytes(round * 8, 24), bytes(4096 + round * 8, (round % 300) as u32 + 1), bytes(65536, 3)];
        let end = appender.append(heap.view(), &ranges).unwrap();
        assert_eq!(end, appender.position().lsn);
        let (ends, stores, _) = scan(&log, from);
        assert_eq!(ends, [end], "round {round}");
        for (at, stored) in &stores {
            assert_eq!(heap.view().peek_bytes(Offset::new(*at), stored.len()), &stored[..]);
        }
        assert_eq!(
            stores.iter().map(|(_, stored)| stored.len() as u64).sum::<u64>(),
            24 + round % 300 + 1 + 3
        );
        appender.persist();
        assert_eq!(log.durable(), end);
        from = appender.position();
        appender.set_floor(end);
    }
    assert!(from.lsn > Lsn::new(5 * 4 * 4096), "the ring has wrapped");
}

#[test]
fn a_long_transaction_is_cut_at_segment_ends_and_comes_back_whole() {
    let log = log(64 * 4096, 4096);
    let heap = heap(1 << 20);
    let mut appender = appender(&log);
    let mut from = origin();
    for shift in 0..200u32 {
        let fill = Range { at: Offset::new(0), len: 1 << 20, kind: RangeKind::Fill };
        let ranges = [fill, bytes(8, 40 + shift), bytes(4096, 70_000), bytes(200_000, 1)];
        let end = appender.append(heap.view(), &ranges).unwrap();
        let (ends, stores, _) = scan(&log, from);
        assert_eq!(ends, [end], "one commit however many records");
        let mut joined: Vec<(u64, Vec<u8>)> = Vec::new();
        for (at, stored) in stores {
            match joined.last_mut() {
                Some((start, all)) if *start + all.len() as u64 == at => all.extend(stored),
                _ => joined.push((at, stored)),
            }
        }
        let extents: Vec<_> = joined.iter().map(|(at, stored)| (*at, stored.len() as u32)).collect();
        assert_eq!(extents, [(8, 40 + shift), (4096, 70_000), (200_000, 1)]);
        assert_eq!(joined[1].1, heap.view().peek_bytes(Offset::new(4096), 70_000));
        from = appender.position();
        appender.set_floor(end);
    }
}

#[test]
fn a_full_ring_refuses_and_nothing_is_overwritten() {
    let log = log(4 * 4096, 4096);
    let heap = heap(1 << 20);
    let mut appender = appender(&log);
    let mut ends = Vec::new();
    let full = loop {
        match appender.append(heap.view(), &[bytes(0, 500)]) {
            Ok(end) => ends.push(end),
            Err(error) => break error,
        }
    };
    assert!(matches!(full, CommitError::LogFull { wanted, .. } if wanted >= 540), "{full}");
    assert_eq!(scan(&log, origin()).0, ends);
    let too_large = appender.append(heap.view(), &[bytes(0, 3 * 4096)]).unwrap_err();
    assert!(matches!(too_large, CommitError::TooLarge { limit: 12288, .. }), "{too_large}");
    assert_eq!(scan(&log, origin()).0, ends, "no trace of either");
    appender.append_epoch_start().expect("a new reign is always possible");
    appender.set_floor(ends[4]);
    appender.append(heap.view(), &[bytes(0, 500)]).expect("room again");
}

#[test]
fn every_flipped_bit_ends_the_scan_before_the_damaged_record() {
    let log = log(4 * 4096, 4096);
    let heap = heap(1 << 16);
    let mut appender = appender(&log);
    let ends: Vec<_> = (0..12).map(|n| appender.append(heap.view(), &[bytes(n * 64, 33)]).unwrap()).collect();
    let last = ends.last().unwrap().get();
    for bit in (0..last * 8).step_by(7) {
        let at = log.file_offset(Lsn::new(bit / 8));
        let flip = || log.region().with_mut(at, 1, |byte| byte[0] ^= 1 << (bit % 8));
        flip();
        let (found, _, _) = scan(&log, origin());
        let whole = ends.iter().filter(|end| end.get() <= bit / 8).count();
        assert_eq!(found, &ends[..whole], "bit {bit}");
        flip();
    }
    assert_eq!(scan(&log, origin()).0, ends);
}

#[test]
fn the_suffix_of_a_dead_leader_never_validates() {
    let log = log(4 * 4096, 4096);
    let heap = heap(1 << 16);
    let mut old = appender(&log);
    let ends: Vec<_> = (0..8).map(|n| old.append(heap.view(), &[bytes(n * 64, 33)]).unwrap()).collect();
    let mut scanner = Scanner::new(&log, origin());
    while scanner.position().lsn < ends[3] {
        scanner.next().unwrap();
    }
    let common = scanner.position();
    log.update_state(|state| {
        let reign = Reign { epoch: Epoch::new(2), replid: Replid([2; 20]), start: common.lsn };
        Arc::make_mut(&mut state.history).push(reign);
    })
    .unwrap();
    let (found, _, stop) = scan(&log, origin());
    assert_eq!(found, &ends[..4]);
    assert!(matches!(stop, Stop::WrongReign { .. }), "{stop}");
    // The new reign's record is as long as the old one it overwrites, so that the old next one is in line.
    let mut new = Appender::new(Arc::clone(&log), common, Epoch::new(2), Lsn::ZERO, Lsn::ZERO);
    let end = new.append(heap.view(), &[bytes(40, 33)]).unwrap();
    assert_eq!(end, ends[4]);
    assert_eq!(scan(&log, origin()).0, &ends[..5]);
}

#[test]
fn a_tail_counts_whole_transactions_only() {
    let log = log(64 * 4096, 4096);
    let heap = heap(1 << 20);
    let mut appender = appender(&log);
    let mut tail = Tail::new(origin());
    let first = appender.append(heap.view(), &[bytes(0, 100)]).unwrap();
    appender.set_committed_hint(first);
    let second = appender.append(heap.view(), &[bytes(0, 20_000)]).unwrap();
    let commit_at = log.file_offset(Lsn::new(second.get() / 4096 * 4096));
    log.region().with_mut(commit_at, 1, |byte| byte[0] ^= 1);
    assert_eq!(tail.poll(&log), first);
    assert_eq!(tail.committed(), first, "the record in the middle has told");
    log.region().with_mut(commit_at, 1, |byte| byte[0] ^= 1);
    assert_eq!(tail.poll(&log), second);
}

#[test]
fn bytes_for_shipping_come_in_two_slices_at_the_wrap() {
    let log = log(4 * 4096, 4096);
    let heap = heap(1 << 16);
    let mut appender = appender(&log);
    loop {
        let from = appender.position().lsn;
        let end = appender.append(heap.view(), &[bytes(0, 900)]).unwrap();
        let (head, tail) = log.bytes(from, end);
        assert_eq!((head.len() + tail.len()) as u64, end.distance_from(from));
        if !tail.is_empty() {
            assert_eq!(tail, log.ring_bytes(0, tail.len()));
            break;
        }
        appender.set_floor(end);
    }
}
