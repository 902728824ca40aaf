//! Pools in directories: what is made, what is refused, and that what is refused is left alone.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use crate::arbitrary::{recover_arbitrary, recover_pieces};
use crate::heap::{Heap, Offset};
use crate::inspect::{contents, inspect};
use crate::log::Replid;
use crate::log::ring::LogFileError;
use crate::lsn::{Epoch, Lsn};
use crate::pmem::crash::{CrashDouble, Medium};
use crate::pmem::domain::{Domain, Durability};
use crate::pool::{Pool, PoolError, PoolOptions};
use crate::recover::{LeaderOptions, open_follower, open_leader};
use crate::recover_tests::{lead, options, put};

fn small(path: &Path) -> PoolOptions {
    PoolOptions {
        log_len: 64 * 4096,
        segment_len: 4096,
        max_image_len: Some(64 << 20),
        ..PoolOptions::new(path, [7; 16])
    }
}

#[test]
fn a_pool_in_a_directory_is_there_again_after_reopening() {
    for durability in ["auto", "pmem", "disk"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/pool");
        let options = PoolOptions { durability: durability.parse().unwrap(), ..small(&path) };
        let pool = Pool::open(&options).unwrap();
        let mut leader = lead(&pool, 1);
        for number in 1..=50 {
            let end = put(&mut leader, number, 100);
            leader.appender.persist();
            leader.appender.set_committed_hint(pool.log().sync().unwrap().min(end));
        }
        drop((leader, pool));
        let report = inspect(&path, None).unwrap();
        assert_eq!((report.findings(), report.in_use_by.as_deref()), (Vec::new(), None));
        assert_eq!(report.survey.unwrap().transactions, 51);
        assert!(report.to_string().contains("epoch 0.1"), "{report}");
        let pool = Pool::open(&options).unwrap();
        assert_eq!(pool.node_id(), [7; 16]);
        assert_eq!(lead(&pool, 2).heap.view().root(0), Offset::new(50));
    }
}

#[test]
fn looking_at_the_contents_shows_what_only_the_log_holds_and_stores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open(&small(dir.path())).unwrap();
    let mut leader = lead(&pool, 1);
    for number in 1..=50 {
        put(&mut leader, number, 100);
        leader.appender.persist();
    }
    drop(leader);
    pool.log().sync().unwrap();
    let files = || ["image", "log"].map(|name| fs::read(dir.path().join(name)).unwrap());
    let before = files();
    let heap = contents(&pool).unwrap();
    assert_eq!(heap.view().root(0), Offset::new(50));
    drop(heap);
    assert!(files() == before, "neither file is stored to");
}

#[test]
fn a_pool_in_use_names_the_process_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open(&small(dir.path())).unwrap();
    let refused = Pool::open(&small(dir.path())).unwrap_err().to_string();
    let expected = format!("pool {} is in use by pid {}", dir.path().display(), std::process::id());
    assert_eq!(refused, expected);
    assert_eq!(inspect(dir.path(), None).unwrap().in_use_by, Some(std::process::id().to_string()));
    drop(pool);
    Pool::open(&small(dir.path())).unwrap();
}

/// Opening must fail with an error that satisfies `expected`, and leave the log as it is.
fn refused(dir: &Path, expected: fn(&PoolError) -> bool) {
    let before = fs::read(dir.join("log")).unwrap();
    let error = Pool::open(&small(dir)).unwrap_err();
    assert!(expected(&error), "{error:?}");
    assert!(fs::read(dir.join("log")).unwrap() == before, "{error}: the log was touched");
}

#[test]
fn foreign_damaged_and_future_logs_are_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    drop(lead(&Pool::open(&small(dir.path())).unwrap(), 1));
    let log = OpenOptions::new().read(true).write(true).open(dir.path().join("log")).unwrap();
    let mut head = [0; 16384];
    log.read_exact_at(&mut head, 0).unwrap();
    let with = |at: u64, bytes: &[u8], expected: fn(&PoolError) -> bool| {
        log.write_all_at(bytes, at).unwrap();
        refused(dir.path(), expected);
        log.write_all_at(&head, 0).unwrap();
    };
    with(0, b"SQLite f", |error| {
        matches!(error, PoolError::Log { source: LogFileError::Foreign { .. }, .. })
    });
    with(8, &[9, 0, 0, 0], |error| {
        error.to_string().ends_with("log format version 9; this build reads version 1")
    });
    with(48, &[1], |error| matches!(error, PoolError::Log { source: LogFileError::Damaged { .. }, .. }));
    with(4096, &[0xee; 8192], |error| {
        matches!(error, PoolError::Log { source: LogFileError::Damaged { .. }, .. })
    });
    let len = log.metadata().unwrap().len();
    log.set_len(len - 4096).unwrap();
    refused(dir.path(), |error| {
        matches!(error, PoolError::Log { source: LogFileError::Truncated { .. }, .. })
    });
    log.set_len(len).unwrap();
    Pool::open(&small(dir.path())).unwrap();
}

#[test]
fn an_image_without_its_log_or_shorter_than_its_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let pool = Pool::open(&small(dir.path())).unwrap();
    let mut leader = lead(&pool, 1);
    let end = put(&mut leader, 1, 100);
    leader.appender.persist();
    pool.log().sync().unwrap();
    leader.replayer.run(end).unwrap();
    leader.replayer.checkpoint().unwrap();
    drop((leader, pool));
    fs::rename(dir.path().join("log"), dir.path().join("elsewhere")).unwrap();
    assert!(matches!(Pool::open(&small(dir.path())), Err(PoolError::ImageWithoutLog { .. })));
    fs::rename(dir.path().join("elsewhere"), dir.path().join("log")).unwrap();
    OpenOptions::new().write(true).open(dir.path().join("image")).unwrap().set_len(4096).unwrap();
    refused(dir.path(), |error| matches!(error, PoolError::Image { found: 4096, .. }));
    assert_eq!(inspect(dir.path(), None).unwrap().findings().len(), 1);
}

/// Two pools of one make: every length fits, and only the name of the dataset tells them apart.
#[test]
fn an_image_of_another_dataset_is_refused_with_both_names_and_not_touched() {
    let dirs = [1u8, 2].map(|dataset| {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::open(&small(dir.path())).unwrap();
        let options = LeaderOptions::new(Replid([1; 20]), Some([dataset; 16]));
        let mut leader = open_leader(&pool, &options).unwrap();
        let mut txn = leader.heap.txn();
        Heap::format(&mut txn, [dataset; 16]).unwrap();
        let end = txn.commit(&mut leader.appender).unwrap();
        leader.appender.persist();
        pool.log().sync().unwrap();
        leader.replayer.run(end).unwrap();
        leader.replayer.checkpoint().unwrap();
        dir
    });
    let path = dirs[0].path();
    fs::copy(dirs[1].path().join("image"), path.join("image")).unwrap();
    let files = || ["image", "log"].map(|name| fs::read(path.join(name)).unwrap());
    let before = files();
    let pool = Pool::open(&small(path)).unwrap();
    let options = LeaderOptions::new(Replid([2; 20]), None);
    for error in [
        open_leader(&pool, &options).map(drop).unwrap_err(),
        open_follower(&pool).map(drop).unwrap_err(),
        contents(&pool).map(drop).unwrap_err(),
    ] {
        let expected = format!(
            "the image belongs to dataset {}, its log to dataset {}",
            "02".repeat(16),
            "01".repeat(16)
        );
        assert_eq!(error.to_string(), expected);
    }
    drop(pool);
    assert!(before == files());
}

#[test]
fn a_log_that_does_not_fit_leaves_nothing_behind() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = PoolOptions { log_len: 1 << 46, segment_len: 1 << 20, ..small(dir.path()) };
    let error = Pool::open(&options).unwrap_err();
    assert!(matches!(error, PoolError::NoSpace { .. } | PoolError::Io { .. }), "{error:?}");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["lock"]);
    let odd = PoolOptions { segment_len: 5000, ..small(dir.path()) };
    assert!(matches!(Pool::open(&odd), Err(PoolError::Geometry { .. })));
}

#[test]
fn a_follower_takes_over_dataset_and_geometry_of_its_leader_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let leader_options = small(&dir.path().join("a"));
    let leader = Pool::open(&leader_options).unwrap();
    drop(lead(&leader, 1));
    let options = PoolOptions { log_len: 8 * 4096, ..small(&dir.path().join("b")) };
    let mut pool = Pool::open(&options).unwrap();
    pool.adopt(leader.dataset_id().unwrap(), leader.log().geometry()).unwrap();
    drop(pool);
    let pool = Pool::open(&options).unwrap();
    assert_eq!(pool.dataset_id(), leader.dataset_id());
    assert_eq!(pool.log().geometry(), leader.log().geometry());
    assert_eq!(open_follower(&pool).unwrap().durable(), Lsn::ZERO);
}

/// A pool with some transactions, checkpointed and not.
fn sample() -> (Vec<u8>, Vec<u8>) {
    let double = CrashDouble::new().unwrap();
    let pool = Pool::on_double(&double, &options(Domain::Pmem)).unwrap();
    let mut leader = lead(&pool, 1);
    for number in 1..=14 {
        let end = put(&mut leader, number, 300);
        leader.appender.persist();
        leader.appender.set_committed_hint(end);
        if number == 9 {
            leader.replayer.run(end).unwrap();
            leader.replayer.checkpoint().unwrap();
        }
    }
    assert_eq!(leader.reign.epoch, Epoch::new(1));
    drop((leader, pool));
    (double.memory(Medium::Log), double.memory(Medium::Image))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn recovery_from_flipped_bits_never_panics(
        flips in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), 0u8..8), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        mend in any::<bool>(),
    ) {
        let (mut log, image) = sample();
        let ring = log.len() - 4096 - 8 * 4096;
        for (part, index, bit) in flips {
            let (from, len) = [(0, 128), (4096, 256), (8192, 4104), (ring, 6 * 4096)][part];
            log[from + index.index(len)] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            log.truncate(cut.index(log.len()));
        }
        recover_arbitrary(&log, &image, mend);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn recovery_from_any_pieces_never_panics(data in prop::collection::vec(any::<u8>(), 0..800)) {
        recover_pieces(&data);
    }
}

#[test]
fn forcing_a_domain_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let options = PoolOptions { durability: Durability::Forced(Domain::Volatile), ..small(dir.path()) };
    assert_eq!(Pool::open(&options).unwrap().domain(), Domain::Volatile);
}
