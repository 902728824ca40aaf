//! Pools that are opened, killed and opened again.

use std::sync::Arc;

use farkeep_proto::redo::{RawHeader, crc32c};
use zerocopy::FromBytes;

use crate::chunk::is_zero;
use crate::heap::{Heap, Offset, RedoSink};
use crate::inspect::contents;
use crate::log::{Beginning, Claim, EpochHistory, Geometry, Position, Promise, Reign, Replid, Scanner};
use crate::lsn::{Epoch, Lsn};
use crate::pmem::crash::{CrashDouble, Medium};
use crate::pmem::domain::{Domain, Durability};
use crate::pool::{Pool, PoolOptions};
use crate::recover::{
    Leader, LeaderOptions, NEVER, RecoverError, SyncStart, begin_sync, check_kept, disown_reign,
    erase_record, join, open_follower, open_leader, promise, settle, survey, truncate,
};

pub(crate) fn options(domain: Domain) -> PoolOptions {
    PoolOptions {
        log_len: 8 * 4096,
        segment_len: 4096,
        max_image_len: Some(64 << 20),
        durability: Durability::Forced(domain),
        ..PoolOptions::new("/double", [1; 16])
    }
}

pub(crate) fn lead(pool: &Pool, number: u8) -> Leader {
    open_leader(pool, &LeaderOptions::new(Replid([number; 20]), Some([9; 16]))).unwrap()
}

/// Sets root 0 to `number` in a transaction that is padded by `padding` bytes of a block, and returns its end.
pub(crate) fn put(leader: &mut Leader, number: u64, padding: usize) -> Lsn {
    let mut txn = leader.heap.txn();
    if txn.image_len() == 0 {
        Heap::format(&mut txn, [9; 16]).unwrap();
    }
    if padding > 0 {
        let old = txn.root(1);
        if old != Offset::NULL {
            txn.free(old);
        }
        let block = txn.alloc(padding).unwrap();
        txn.init(block, &vec![(number as u8).wrapping_add(1); padding]);
        txn.set_root(1, block);
        txn.set_root(2, Offset::new(padding as u64));
    }
    txn.set_root(0, Offset::new(number));
    txn.commit(&mut leader.appender).unwrap()
}

#[test]
fn a_killed_leader_finds_everything_again_and_only_the_committed_part_in_the_image() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    let mut committed = Lsn::ZERO;
    for number in 1..=20 {
        committed = put(&mut leader, number, 100);
        leader.appender.persist();
        leader.appender.set_committed_hint(committed);
    }
    put(&mut leader, 21, 100);
    let durable = leader.appender.persist();
    put(&mut leader, 22, 100);
    drop((leader, pool));

    let double = double.crash(|| 1).unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let found = survey(pool.log());
    assert_eq!((found.end.lsn, found.committed, found.lost_committed), (durable, committed, None));
    let follower = open_follower(&pool).unwrap();
    assert_eq!(follower.view.root(0), Offset::new(20), "a follower reads what is committed");
    assert_eq!((follower.durable(), follower.replayer.applied()), (durable, committed));
    drop(follower);
    let mut leader = lead(&pool, 2);
    assert_eq!(leader.reign.epoch, Epoch::new(2));
    assert_eq!(leader.heap.view().root(0), Offset::new(21), "a leader goes on from what is durable");
    assert_eq!(leader.committed, committed);
    assert!(leader.reign_begun > durable);
    let end = put(&mut leader, 23, 0);
    leader.appender.persist();
    leader.replayer.run(end).unwrap();
    leader.replayer.checkpoint().unwrap();
    assert_eq!(pool.log().state().checkpoint.lsn, end);
}

#[test]
fn the_image_carries_on_through_many_laps_of_the_ring() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    for number in 1..=1000u64 {
        let end = put(&mut leader, number, number as usize % 900);
        leader.appender.persist();
        leader.appender.set_committed_hint(end);
        if number % 7 == 0 {
            while leader.replayer.step(end, 500).unwrap() {}
            leader.appender.set_floor(leader.replayer.checkpoint().unwrap());
            leader.heap.drop_private(end, 1 << 20).unwrap();
        }
        if number % 100 == 0 {
            drop(leader);
            leader = lead(&pool, number as u8);
            assert_eq!(leader.heap.view().root(0), Offset::new(number));
        }
    }
    let end = leader.appender.appended();
    assert!(end > Lsn::new(10 * 8 * 4096));
    leader.appender.persist();
    leader.replayer.run(end).unwrap();
    let len = leader.heap.view().image_len();
    assert_eq!(len, leader.replayer.image_len());
    let image = &double.memory(Medium::Image)[..len as usize];
    assert!(
        image == leader.heap.view().peek_bytes(Offset::NULL, len as usize),
        "equal LSN, equal bytes (I5)"
    );
}

/// Sends what the leader has appended behind the follower's end, as a fabric does.
fn ship(from: &Pool, to: &Pool, at: Lsn) {
    let end = from.log().appended();
    let (head, tail) = from.log().bytes(at, end);
    for (lsn, bytes) in [(at, head), (at + head.len() as u64, tail)] {
        let offset = to.log().window_offset(lsn);
        to.log().with_window_mut(offset, bytes.len(), |window| window.copy_from_slice(bytes));
        to.log().flush_window(offset, bytes.len());
    }
    to.log().fence();
    to.log().sync_window().unwrap();
}

#[test]
fn a_follower_is_filled_by_shipping_alone_and_promoted_and_the_old_leader_rejoins() {
    let doubles = [CrashDouble::new().unwrap(), CrashDouble::new().unwrap()];
    let small = PoolOptions { log_len: 4 * 4096, ..options(Domain::Pmem) };
    let first = Pool::on_double(&doubles[0], &options(Domain::Pmem)).unwrap();
    let mut second = Pool::on_double(&doubles[1], &small).unwrap();
    let mut leader = lead(&first, 1);
    second.adopt(first.dataset_id().unwrap(), first.log().geometry()).unwrap();
    assert_eq!(second.log().geometry(), first.log().geometry());
    join(&second, Lsn::ZERO, (*first.log().history()).clone()).unwrap();
    let mut follower = open_follower(&second).unwrap();
    for number in 1..=10 {
        put(&mut leader, number, 200);
    }
    ship(&first, &second, Lsn::ZERO);
    let shared = follower.tail.poll(second.log());
    assert_eq!(shared, leader.appender.appended());
    follower.replayer.run(shared).unwrap();
    follower.view.set_image_len(follower.replayer.image_len());
    assert_eq!(follower.view.root(0), Offset::new(10));
    follower.replayer.checkpoint().unwrap();

    // The leader goes on alone; what it appends now is never acknowledged.
    leader.appender.set_committed_hint(shared);
    for number in 11..=15 {
        put(&mut leader, number, 200);
    }
    leader.appender.persist();
    drop(follower);
    let promise = Promise { epoch: Epoch::new(1).next_promotion(), claim: Claim([2; Claim::LEN]) };
    let options = LeaderOptions { promise, promoted: true, ..LeaderOptions::new(Replid([9; 20]), None) };
    let mut promoted = open_leader(&second, &options).unwrap();
    assert_eq!(Promise::to(&promoted.reign), promise);
    assert_eq!(promoted.reign.start, shared);
    put(&mut promoted, 77, 200);
    promoted.appender.persist();

    drop(leader);
    let (ours, theirs) = (first.log().history(), second.log().history());
    let common = ours.common_point(first.log().durable(), &theirs, second.log().durable()).unwrap();
    assert_eq!(common, shared);
    join(&first, common, (*theirs).clone()).unwrap();
    let mut rejoined = open_follower(&first).unwrap();
    assert_eq!(rejoined.durable(), shared, "its own suffix is gone");
    ship(&second, &first, shared);
    let end = rejoined.tail.poll(first.log());
    assert_eq!(end, promoted.appender.appended());
    rejoined.replayer.run(end).unwrap();
    rejoined.view.set_image_len(rejoined.replayer.image_len());
    promoted.replayer.run(end).unwrap();
    let len = rejoined.view.image_len() as usize;
    assert_eq!(rejoined.view.root(0), Offset::new(77));
    assert!(doubles[0].memory(Medium::Image)[..len] == doubles[1].memory(Medium::Image)[..len], "I5");
}

#[test]
fn damage_in_the_committed_part_is_told_from_a_torn_tail() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    let mut ends = Vec::new();
    for number in 1..=12 {
        let end = put(&mut leader, number, 0);
        let durable = leader.appender.persist();
        leader.appender.set_committed_hint(durable);
        ends.push(end);
    }
    drop(leader);
    let damaged = pool.log().file_offset(ends[5]);
    pool.log().region().with_mut(damaged, 1, |byte| byte[0] ^= 1);
    let refused = open_leader(&pool, &LeaderOptions::new(Replid([2; 20]), None)).unwrap_err();
    assert!(
        matches!(refused, RecoverError::Damaged { end, committed } if end == ends[5] && committed == ends[10])
    );
    assert_eq!(open_follower(&pool).unwrap().durable(), ends[5], "a follower gets it again");
    pool.log().region().with_mut(damaged, 1, |byte| byte[0] ^= 1);
    let last = pool.log().file_offset(ends[10]);
    pool.log().region().with_mut(last, 1, |byte| byte[0] ^= 1);
    assert_eq!(survey(pool.log()).lost_committed, None, "the last record may have been torn");
    assert!(open_leader(&pool, &LeaderOptions::new(Replid([2; 20]), None)).is_ok());
}

/// A leader that has begun a reign behind a checkpoint in segment 5, and nothing of the ring overwritten.
fn lead_with_a_checkpoint_in_segment_5(double: &Arc<CrashDouble>) -> (Pool, Leader) {
    let pool = Pool::on_double(double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    let mut end = Lsn::ZERO;
    while end < Lsn::new(5 * 4096 + 1000) {
        end = put(&mut leader, end.get(), 300);
        leader.appender.persist();
        leader.appender.set_committed_hint(end);
    }
    leader.replayer.run(end).unwrap();
    assert_eq!(leader.replayer.checkpoint().unwrap(), end);
    drop((leader, pool));
    let pool = Pool::on_double(double, &options(Domain::Pmem)).unwrap();
    let leader = lead(&pool, 2);
    assert_eq!((pool.log().oldest(), pool.log().checked()), (Lsn::ZERO, end));
    (pool, leader)
}

#[test]
fn the_log_before_the_checkpoint_is_read_back_as_far_as_it_is_wanted() {
    let double = CrashDouble::new().unwrap();
    let (pool, mut leader) = lead_with_a_checkpoint_in_segment_5(&double);
    let log = pool.log();
    let check = |from, max_len| {
        check_kept(log, Lsn::new(from), max_len);
        (log.oldest().get(), log.checked().get())
    };
    assert_eq!(check(0, 1), (0, 5 * 4096), "a segment at least");
    assert_eq!(check(0, 4097), (0, 3 * 4096), "no more than was asked for, and the rest of a segment");
    assert_eq!(check(2 * 4096 + 1, u64::MAX), (0, 2 * 4096), "no further than it is wanted");
    assert_eq!(check(0, u64::MAX), (0, 0));
    // From now on the appender goes over it.
    while log.appended() < Lsn::new(9 * 4096) {
        let end = put(&mut leader, 1, 300);
        leader.appender.persist();
        leader.replayer.run(end).unwrap();
        leader.appender.set_floor(leader.replayer.checkpoint().unwrap());
    }
    assert_eq!(log.checked(), log.oldest());
    assert_eq!(log.oldest(), Lsn::new(2 * 4096));
}

#[test]
fn a_segment_of_which_a_power_cut_has_spared_only_the_first_header_is_not_kept() {
    let double = CrashDouble::new().unwrap();
    let (pool, leader) = lead_with_a_checkpoint_in_segment_5(&double);
    // What overwrites a segment reaches the medium in any order: here some of it has come, and its beginning has not.
    let at = pool.log().window_offset(Lsn::new(2 * 4096 + 2000));
    pool.log().with_window_mut(at, 8, |window| window.fill(0xee));
    drop(leader);
    let _leader = lead(&pool, 3);
    let log = pool.log();
    assert_eq!(log.oldest(), Lsn::ZERO, "by the headers all of it is there");
    check_kept(log, Lsn::new(3 * 4096), u64::MAX);
    assert_eq!((log.oldest(), log.checked()), (Lsn::ZERO, Lsn::new(3 * 4096)));
    check_kept(log, Lsn::ZERO, u64::MAX);
    assert_eq!((log.oldest(), log.checked()), (Lsn::new(3 * 4096), Lsn::new(3 * 4096)));
}

#[test]
fn a_segment_that_does_not_continue_the_one_before_ends_what_is_kept() {
    let double = CrashDouble::new().unwrap();
    let (pool, leader) = lead_with_a_checkpoint_in_segment_5(&double);
    drop(leader);
    let log = pool.log();
    // The last record of segment 3 becomes another one, right in itself: what follows it does not continue that.
    let first = Lsn::new(3 * 4096);
    let (header, _) = RawHeader::ref_from_prefix(log.segment_rest(first)).unwrap();
    let at = Position { lsn: first, crc: header.prev_crc.get(), epoch: Epoch::ZERO };
    let mut scanner = Scanner::new(log, at);
    let mut last = first;
    while scanner.next_start() < Lsn::new(4 * 4096) {
        last = scanner.next_start();
        scanner.next().unwrap();
    }
    let len = scanner.position().lsn.distance_from(last) as usize;
    log.with_window_mut(log.window_offset(last), len, |record| {
        *record.last_mut().unwrap() ^= 1;
        let crc = crc32c(&record[4..]);
        RawHeader::mut_from_prefix(record).unwrap().0.crc = crc.into();
    });
    let _leader = lead(&pool, 3);
    check_kept(log, Lsn::ZERO, u64::MAX);
    assert_eq!(log.oldest(), Lsn::new(4 * 4096));
}

#[test]
fn a_log_is_cut_only_between_transactions_and_not_before_the_checkpoint() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Disk)).unwrap();
    let mut leader = lead(&pool, 1);
    let ends: Vec<_> = (1..=6).map(|number| put(&mut leader, number, 40)).collect();
    pool.log().sync().unwrap();
    leader.replayer.run(ends[2]).unwrap();
    leader.replayer.checkpoint().unwrap();
    drop(leader);
    assert!(
        matches!(truncate(pool.log(), ends[1]), Err(RecoverError::Cut { limit, .. }) if limit == ends[2])
    );
    assert!(matches!(truncate(pool.log(), ends[3] + 8), Err(RecoverError::Cut { .. })));
    truncate(pool.log(), ends[4]).unwrap();
    let follower = open_follower(&pool).unwrap();
    assert_eq!(follower.durable(), ends[4]);
    drop(follower);
    let promised = Promise { epoch: Epoch::new(8).next_promotion(), claim: Claim([8; Claim::LEN]) };
    promise(pool.log(), promised).unwrap();
    for other in [
        Promise { epoch: Epoch::new(9), ..promised },
        Promise { claim: Claim([7; Claim::LEN]), ..promised },
        Promise { epoch: promised.epoch.next(), claim: Claim([7; Claim::LEN]) },
    ] {
        assert!(matches!(promise(pool.log(), other), Err(RecoverError::StaleEpoch { .. })), "{other:?}");
    }
    // The number that it has promised to is another node's, who may lead by it: it takes the next one, and keeps that.
    let reigns = [3, 4].map(|tag| lead(&pool, tag).reign);
    let first = promised.epoch.next_promotion().next();
    assert_eq!(reigns.map(|reign| reign.epoch), [first, first.next()]);
    assert_ne!(reigns[0].replid.claim(), promised.claim);
    assert_eq!(reigns[0].replid.claim(), reigns[1].replid.claim());
}

#[test]
fn a_reign_says_how_it_began_and_a_contested_one_stays_contested_until_it_is_settled() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let geometry = pool.log().geometry();
    let mut replid = 0xfe;
    let mut begin = |promise: Promise, promoted: bool| {
        replid ^= 0xff;
        let options =
            LeaderOptions { promise, promoted, ..LeaderOptions::new(Replid([replid; 20]), Some([1; 16])) };
        open_leader(&pool, &options).unwrap()
    };
    let nobodys = Promise::default();
    let mut leader = begin(nobodys, false);
    assert_eq!(leader.reign.beginning(), Beginning::Promoted, "the first of its dataset");
    put(&mut leader, 1, 40);
    leader.appender.persist();
    drop(leader);
    let leader = begin(nobodys, false);
    assert_eq!(leader.reign.beginning(), Beginning::Resumed);
    assert!(leader.reign.is_idle(&geometry, leader.reign_begun));
    drop(leader);
    // A follower has promised to somebody else's promotion.
    let above = Promise { epoch: Epoch::ZERO.next_promotion(), claim: Claim([5; Claim::LEN]) };
    for promise in [Promise { epoch: above.epoch.next(), ..above }, nobodys] {
        let leader = begin(promise, false);
        assert_eq!(leader.reign.beginning(), Beginning::Contested, "{promise:?}");
        assert_eq!(leader.reign.replid.claim(), above.claim);
    }
    let mut leader = begin(nobodys, false);
    let settled = settle(&mut leader.appender).unwrap();
    assert!(!leader.reign.is_idle(&geometry, settled));
    drop(leader);
    let leader = begin(nobodys, false);
    assert_eq!(leader.reign.beginning(), Beginning::Resumed);
    drop(leader);
    // It has followed, and so has promised nothing above, but others may hold more.
    let state = pool.log().state();
    join(&pool, pool.log().durable(), (*state.history).clone()).unwrap();
    for settles in [false, true] {
        let mut leader = begin(nobodys, false);
        assert_eq!(leader.reign.beginning(), Beginning::Contested);
        if settles {
            settle(&mut leader.appender).unwrap();
        }
        drop(leader);
        assert_eq!(pool.log().state().followed == Epoch::ZERO, settles);
    }
    assert_eq!(begin(nobodys, false).reign.beginning(), Beginning::Resumed);
    promise(pool.log(), Promise { epoch: Epoch::new(7 << 16), ..above }).unwrap();
    assert_eq!(begin(nobodys, false).reign.beginning(), Beginning::Contested, "it has promised");
    let promoted = Promise { epoch: Epoch::new(8 << 16), ..above };
    assert_eq!(begin(promoted, true).reign.beginning(), Beginning::Promoted);
}

#[test]
fn who_has_followed_and_got_nothing_does_not_lead_that_dataset() {
    let double = CrashDouble::new().unwrap();
    let mut pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let geometry = pool.log().geometry();
    promise(pool.log(), Promise { epoch: Epoch::new(1), claim: Claim::NONE }).unwrap();
    pool.adopt([6; 16], geometry).unwrap();
    let led = || open_leader(&pool, &LeaderOptions::new(Replid([4; 20]), None));
    assert!(matches!(led(), Err(RecoverError::Empty)), "it has not even joined");
    let mut history = EpochHistory::default();
    history.push(Reign { epoch: Epoch::new(1), replid: Replid([3; 20]), start: Lsn::ZERO });
    join(&pool, Lsn::ZERO, history).unwrap();
    assert!(matches!(led(), Err(RecoverError::Empty)));
    assert_eq!(pool.log().history().epoch(), Epoch::new(1), "no reign was begun");
}

#[test]
fn a_disowned_reign_leaves_what_was_before_it_and_the_promise() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    let committed = put(&mut leader, 1, 40);
    leader.appender.set_committed_hint(committed);
    let before = put(&mut leader, 2, 40);
    leader.appender.persist();
    drop(leader);
    disown_reign(&pool).unwrap();
    assert_eq!(survey(pool.log()).end.lsn, before, "there is no reign before the first one");
    let mut leader = lead(&pool, 2);
    assert!(put(&mut leader, 3, 40) > before);
    leader.appender.persist();
    drop(leader);
    disown_reign(&pool).unwrap();
    drop(pool);

    let double = double.crash(|| 0).unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let state = pool.log().state();
    assert_eq!((state.history.epoch(), state.promised.epoch), (Epoch::new(1), Epoch::new(2)));
    assert_eq!(open_follower(&pool).unwrap().durable(), before);
    let mut leader = lead(&pool, 3);
    assert_eq!((leader.reign.epoch, leader.reign.start), (Epoch::new(3), before));
    put(&mut leader, 4, 40);
    let end = leader.appender.persist();
    assert_eq!(
        survey(pool.log()).end.lsn,
        end,
        "nothing of the disowned reign is left behind the new one's records"
    );
}

#[test]
fn a_pool_of_another_dataset_or_geometry_is_not_taken_over() {
    let double = CrashDouble::new().unwrap();
    let mut pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    assert!(matches!(open_follower(&pool), Err(RecoverError::Blank)));
    drop(lead(&pool, 1));
    let geometry = pool.log().geometry();
    pool.adopt([9; 16], geometry).expect("its own dataset");
    assert!(pool.adopt([8; 16], geometry).is_err());
    assert!(pool.adopt([9; 16], Geometry::new(4 * 4096, 4096).unwrap()).is_err());
    assert!(Arc::strong_count(pool.log()) == 1);
}

#[test]
fn an_image_that_grew_after_the_checkpoint_is_opened_again() {
    let double = CrashDouble::new().unwrap();
    let options = PoolOptions { log_len: 64 << 20, segment_len: 1 << 20, ..options(Domain::Pmem) };
    let pool = Pool::on_double(&double, &options).unwrap();
    let mut leader = lead(&pool, 1);
    let first = put(&mut leader, 1, 100);
    leader.appender.persist();
    leader.replayer.run(first).unwrap();
    leader.replayer.checkpoint().unwrap();
    let at_checkpoint = leader.replayer.image_len();
    let grown = put(&mut leader, 2, 24 << 20);
    leader.appender.set_committed_hint(grown);
    put(&mut leader, 3, 0);
    leader.appender.persist();
    leader.replayer.run(grown).unwrap();
    assert!(leader.replayer.image_len() > at_checkpoint && pool.log().state().image_len == at_checkpoint);
    drop((leader, pool));

    // The process died, the machine did not: the image is as the replayer left it.
    let pool = Pool::on_double(&double, &options).unwrap();
    assert_eq!(contents(&pool).unwrap().view().root(0), Offset::new(3));
    let leader = lead(&pool, 2);
    assert_eq!(leader.heap.view().root(0), Offset::new(3));
}

#[test]
fn bytes_behind_the_frontier_stay_as_they_are_until_there_is_none() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    let end = put(&mut leader, 5, 12_000);
    leader.appender.persist();
    let at = leader.heap.view().root(1).get() + 5_000;
    leader.replayer.store_up_to(Some(at));
    leader.replayer.run(end).unwrap();
    assert_eq!(leader.replayer.chunk(at - 1, 2).unwrap(), [6, 0], "one range is cut where the frontier is");
    let behind = leader.replayer.image_len() - at;
    assert!(is_zero(leader.replayer.chunk(at, behind).unwrap()));
    leader.replayer.store_up_to(None);
    let end = put(&mut leader, 7, 12_000);
    leader.appender.persist();
    leader.replayer.run(end).unwrap();
    let block = leader.heap.view().root(1).get();
    assert_eq!(leader.replayer.chunk(block, 12_000).unwrap(), [8; 12_000]);
}

#[test]
fn a_crash_at_any_point_of_beginning_a_sync_leaves_the_old_pool_or_one_in_mid_sync() {
    let mut seen = [0; 2];
    for fuse in 0.. {
        let double = CrashDouble::new().unwrap();
        let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
        let mut leader = lead(&pool, 1);
        for number in 1..=20 {
            let committed = put(&mut leader, number, 100);
            leader.appender.persist();
            leader.appender.set_committed_hint(committed);
        }
        drop(leader);
        let promoted = Epoch::new(1).next_promotion();
        let at = Position { lsn: Lsn::new(1 << 20), crc: 7, epoch: promoted };
        let mut history = EpochHistory::default();
        history.push(Reign { epoch: promoted, replid: Replid([3; 20]), start: Lsn::new(4096) });
        double.set_fuse(double.points() + fuse);
        begin_sync(&pool, SyncStart { at, image_len: 8192, history }).unwrap();
        let whole = !double.blown();
        drop(pool);
        let double = double.crash(|| fuse.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7).unwrap();
        let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
        let mid_sync = pool.log().state().mid_sync;
        seen[usize::from(mid_sync)] += 1;
        let follower = open_follower(&pool).unwrap();
        if mid_sync {
            assert_eq!((follower.durable(), follower.replayer.applied()), (at.lsn, at.lsn));
            assert_eq!(follower.consistent_at, NEVER);
            assert_eq!(follower.replayer.image_len(), 8192);
            drop(follower);
            let refused = open_leader(&pool, &LeaderOptions::new(Replid([4; 20]), None));
            assert!(matches!(refused, Err(RecoverError::MidSync)));
        } else {
            assert_eq!(follower.view.root(0), Offset::new(19), "what is known to be committed is there");
        }
        if whole {
            assert!(mid_sync, "it returned");
            break;
        }
    }
    assert!(seen.iter().all(|&count| count > 0), "both outcomes were seen: {seen:?}");
}

#[test]
fn what_a_sync_leaves_as_it_is_survives_a_power_cut_behind_its_checkpoint() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    let end = put(&mut leader, 5, 12_000);
    leader.appender.persist();
    // Stored, and never written back before the sync begins.
    leader.replayer.run(end).unwrap();
    let (at, image_len) = (leader.replayer.position(), leader.replayer.image_len());
    let stored = leader.replayer.chunk(0, image_len).unwrap().to_vec();
    drop(leader);
    let history = EpochHistory::clone(&pool.log().history());
    begin_sync(&pool, SyncStart { at, image_len, history }).unwrap();
    let mut follower = open_follower(&pool).unwrap();
    follower.replayer.keep_chunk(0, image_len);
    follower.replayer.checkpoint_in_sync(image_len).unwrap();
    drop((follower, pool));
    // Nothing survives that does not have to.
    let double = double.crash(|| 1).unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let follower = open_follower(&pool).unwrap();
    assert!(follower.replayer.chunk(0, image_len).unwrap() == stored, "bytes were lost");
}

#[test]
fn cutting_off_nothing_behind_a_full_ring_spares_what_replaying_begins_with() {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    put(&mut leader, 1, 100);
    leader.appender.persist();
    let checkpoint = pool.log().checkpoint();
    // The follower's credit reaches a whole ring beyond its checkpoint, up to where the ring begins anew.
    let full = checkpoint + pool.log().geometry().ring_len();
    let first = pool.log().bytes(checkpoint, checkpoint + 64).0.to_vec();
    erase_record(pool.log(), full).unwrap();
    assert_eq!(pool.log().bytes(checkpoint, checkpoint + 64).0, first);
}
