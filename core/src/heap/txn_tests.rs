//! What a transaction promises, case by case. The model test in `model_tests` mixes the cases.

use super::double::{Replica, formatted};
use super::*;

fn block(heap: &mut Heap, log: &mut Replica, bytes: &[u8]) -> Offset {
    let mut txn = heap.txn();
    let at = txn.alloc(bytes.len()).unwrap();
    txn.init(at, bytes);
    txn.commit(log).unwrap();
    at
}

#[test]
fn a_committed_transaction_is_in_the_view_and_in_the_replayed_image() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, b"hello");
    let mut txn = heap.txn();
    txn.set_root(3, at);
    txn.put(at.add(1), &u16::from_le_bytes(*b"oo"));
    txn.commit(&mut log).unwrap();
    assert_eq!(heap.view().bytes(heap.view().root(3), 5), b"hoolo");
    log.assert_same_bytes(heap.view());
}

#[test]
fn dropping_a_transaction_takes_everything_back() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[7; 300]);
    let (appended, used) = (log.appended(), heap.used_bytes());
    let mut txn = heap.txn();
    txn.write(at, &[1; 100]);
    txn.write(at.add(50), &[2; 100]);
    txn.zero(at.add(120), 100);
    txn.copy(at, at.add(200), 100);
    txn.free(at);
    let other = txn.alloc(10_000).unwrap();
    txn.init(other, &[9; 10_000]);
    txn.set_root(0, other);
    assert_eq!(txn.bytes(at.add(49), 2), [1, 2]);
    drop(txn);
    assert_eq!(heap.view().bytes(at, 300), [7; 300]);
    assert_eq!(heap.view().root(0), Offset::NULL);
    assert_eq!((log.appended(), heap.used_bytes()), (appended, used));
}

#[test]
fn what_a_rollback_leaves_in_free_memory_never_differs_from_the_replayed_image() {
    let (mut heap, mut log) = formatted(1 << 24);
    let mut txn = heap.txn();
    let at = txn.alloc(256).unwrap();
    txn.init(at, &[0xab; 256]);
    drop(txn);
    // The same memory, the same bytes: were the leftovers still there, the store would be taken for none.
    let mut txn = heap.txn();
    assert_eq!(txn.alloc(256).unwrap(), at);
    txn.init(at, &[0xab; 128]);
    txn.commit(&mut log).unwrap();
    log.assert_same_bytes(heap.view());
}

#[test]
fn pages_awaiting_repair_are_not_dropped() {
    let (mut heap, mut log) = formatted(1 << 24);
    let mut txn = heap.txn();
    let at = txn.alloc(256).unwrap();
    txn.init(at, &[0xab; 256]);
    drop(txn);
    assert!(heap.private_bytes() > 0);
    assert_eq!(heap.drop_private(log.appended(), 1 << 30).unwrap(), 0);
    block(&mut heap, &mut log, b"carries the repair");
    assert!(heap.drop_private(log.appended(), 1 << 30).unwrap() > 0);
    assert_eq!(heap.private_bytes(), 0);
}

#[test]
fn savepoints_nest() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, b"0000");
    let mut txn = heap.txn();
    txn.write(at, b"1");
    let outer = txn.savepoint();
    txn.write(at.add(1), b"2");
    let inner = txn.savepoint();
    txn.write(at, b"333");
    let gone = txn.alloc(64).unwrap();
    txn.init(gone, &[3; 64]);
    txn.rollback_to(&inner);
    assert_eq!(txn.bytes(at, 4), b"1200");
    txn.write(at.add(2), b"4");
    txn.rollback_to(&inner);
    assert_eq!(txn.bytes(at, 4), b"1200");
    txn.write(at.add(3), b"5");
    txn.rollback_to(&outer);
    assert_eq!(txn.bytes(at, 4), b"1000");
    txn.commit(&mut log).unwrap();
    assert_eq!(heap.view().bytes(at, 4), b"1000");
    log.assert_same_bytes(heap.view());
}

#[test]
fn a_fill_that_continued_an_earlier_one_is_taken_back_without_it() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[7; 200]);
    let mut txn = heap.txn();
    txn.zero(at, 100);
    let savepoint = txn.savepoint();
    txn.zero(at.add(100), 100);
    txn.rollback_to(&savepoint);
    txn.commit(&mut log).unwrap();
    assert_eq!(heap.view().bytes(at.add(99), 2), [0, 7]);
    log.assert_same_bytes(heap.view());
}

#[test]
fn a_rollback_leaves_dependencies_as_they_were() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[7; 200]);
    let end = log.appended();
    let mut txn = heap.txn();
    txn.write(at, b"never");
    drop(txn);
    heap.view().start_tracking();
    heap.view().bytes(at, 1);
    assert_eq!(heap.view().take_dependency(), end);
}

#[test]
fn init_after_a_savepoint_into_a_block_allocated_before_it_is_taken_back() {
    let (mut heap, mut log) = formatted(1 << 24);
    let mut txn = heap.txn();
    let at = txn.alloc(64).unwrap();
    txn.init(at, &[1; 64]);
    let savepoint = txn.savepoint();
    txn.init(at, &[2; 64]);
    txn.rollback_to(&savepoint);
    assert_eq!(txn.bytes(at, 64), [1; 64]);
    txn.commit(&mut log).unwrap();
    log.assert_same_bytes(heap.view());
}

#[test]
fn a_block_freed_in_a_transaction_is_not_handed_out_in_it() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[5; 64]);
    let mut txn = heap.txn();
    txn.free(at);
    assert_ne!(txn.alloc(64).unwrap(), at);
    txn.commit(&mut log).unwrap();
    log.assert_same_bytes(heap.view());
}

#[test]
#[should_panic(expected = "not an allocated block")]
fn freeing_twice_panics() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[5; 64]);
    let mut txn = heap.txn();
    txn.free(at);
    txn.free(at);
    let _ = txn.commit(&mut log);
}

#[test]
fn storing_what_is_there_appends_nothing() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[5; 64]);
    let appended = log.appended();
    let mut txn = heap.txn();
    txn.write(at, &[5; 64]);
    txn.put(at, &0x0505_0505_u32);
    assert!(txn.is_empty());
    assert_eq!(txn.commit(&mut log).unwrap(), appended);
    assert_eq!(log.appended(), appended);
}

#[test]
fn only_the_bytes_that_differ_travel() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[5; 64]);
    let mut txn = heap.txn();
    txn.put(at.add(8), &0x0505_0505_0605_0505_u64);
    txn.commit(&mut log).unwrap();
    assert_eq!(log.last, [Range { at: at.add(11), len: 1, kind: RangeKind::Bytes }]);
}

#[test]
fn a_long_zero_travels_as_a_fill_and_bytes_stored_into_it_survive() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[5; 20_000]);
    let mut txn = heap.txn();
    txn.write(at.add(100), b"before");
    txn.zero(at, 20_000);
    txn.write(at.add(9_000), b"after");
    txn.commit(&mut log).unwrap();
    assert!(log.last_len < 100, "{} bytes for a fill", log.last_len);
    assert_eq!(heap.view().bytes(at.add(100), 6), [0; 6]);
    assert_eq!(heap.view().bytes(at.add(9_000), 5), b"after");
    log.assert_same_bytes(heap.view());
}

#[test]
fn a_full_log_rolls_the_transaction_back_and_it_can_be_done_again() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[5; 64]);
    log.full = true;
    let mut txn = heap.txn();
    txn.write(at, b"new");
    txn.free(at);
    assert!(matches!(txn.commit(&mut log), Err(CommitError::LogFull { .. })));
    assert_eq!(heap.view().bytes(at, 3), [5; 3]);
    log.full = false;
    let mut txn = heap.txn();
    txn.write(at, b"new");
    txn.free(at);
    txn.commit(&mut log).unwrap();
    log.assert_same_bytes(heap.view());
}

#[test]
fn a_read_depends_on_the_last_transaction_that_stored_to_its_pages() {
    let (mut heap, mut log) = formatted(1 << 24);
    let old = block(&mut heap, &mut log, &[1; 8000]);
    let new = block(&mut heap, &mut log, &[2; 8000]);
    let mut txn = heap.txn();
    txn.write(old.add(6000), b"x");
    let end = txn.commit(&mut log).unwrap();
    let view = heap.view();
    view.start_tracking();
    view.peek_bytes(old, 8000);
    assert_eq!(view.take_dependency(), Lsn::ZERO, "peeking is no dependency");
    view.start_tracking();
    view.bytes(old, 8000);
    assert_eq!(view.take_dependency(), end);
    view.start_tracking();
    view.get::<u64>(new.add(5000));
    assert!(view.take_dependency() < end);
    view.bytes(old, 8000);
    assert_eq!(view.take_dependency(), Lsn::ZERO, "tracking has stopped");
}

#[test]
fn adjacent_private_pages_are_dropped_in_one_run() {
    let source = double::MemSource::new(1 << 24);
    let mut heap = Heap::open(source.clone(), 0).unwrap();
    let mut log = Replica::default();
    let mut txn = heap.txn();
    Heap::format(&mut txn, [9; 16]).unwrap();
    let at = txn.alloc(40 * 4096).unwrap();
    txn.init(at, &vec![1; 40 * 4096]);
    let end = txn.commit(&mut log).unwrap();
    let private = heap.private_bytes();
    assert!(private >= 40 * 4096);
    assert_eq!(heap.drop_private(end, u64::MAX).unwrap(), private);
    let dropped = source.dropped.lock().unwrap();
    assert!(dropped.len() <= 3, "{dropped:?}");
    assert_eq!(dropped.iter().map(|&(_, len)| len).sum::<u64>(), private);
}

#[test]
fn an_image_that_is_not_ours_is_refused() {
    let source = double::MemSource::new(1 << 24);
    assert!(matches!(Heap::open(source, 8192), Err(HeapError::Foreign { what: "magic", .. })));
}

#[test]
fn redone_ranges_are_read_back_and_are_dependencies() {
    let (mut heap, mut log) = formatted(1 << 24);
    let at = block(&mut heap, &mut log, &[1; 64]);
    heap.redo_bytes(at, b"again", Lsn::new(1_000_000));
    heap.redo_fill(at.add(32), 32, Lsn::new(1_000_064));
    heap.redo_done().unwrap();
    heap.view().start_tracking();
    assert_eq!(heap.view().bytes(at, 5), b"again");
    assert_eq!(heap.view().take_dependency(), Lsn::new(1_000_064));
    assert_eq!(heap.view().bytes(at.add(32), 32), [0; 32]);
}
