//! Steps of a walk, taken on a pool whose power may fail.

use std::sync::Arc;

use farkeep_core::chunk::{self, Patch};
use farkeep_core::heap::Heap;
use farkeep_core::log::{EpochHistory, Replid};
use farkeep_core::pmem::crash::CrashDouble;
use farkeep_core::pmem::domain::{Domain, Durability};
use farkeep_core::pool::{Pool, PoolOptions};
use farkeep_core::recover::{LeaderOptions, SyncStart, begin_sync, open_follower, open_leader};
use farkeep_follower::take_step;
use farkeep_proto::control::{Chunk, ChunkOutcome, ChunkStep};
use farkeep_proto::window::staging_at;

fn open(double: &Arc<CrashDouble>) -> Pool {
    let options = PoolOptions {
        log_len: 8 * 4096,
        segment_len: 4096,
        max_image_len: Some(64 << 20),
        durability: Durability::Forced(Domain::Pmem),
        ..PoolOptions::new("/double", [1; 16])
    };
    Pool::on_double(double, &options).unwrap()
}

/// A pool in the middle of a sync whose image was stored before, and never written back.
fn pool_in_mid_sync(double: &Arc<CrashDouble>) -> Pool {
    let pool = open(double);
    let mut leader = open_leader(&pool, &LeaderOptions::new(Replid([1; 20]), Some([9; 16]))).unwrap();
    let mut txn = leader.heap.txn();
    Heap::format(&mut txn, [9; 16]).unwrap();
    let block = txn.alloc(12_000).unwrap();
    txn.init(block, &[7; 12_000]);
    let end = txn.commit(&mut leader.appender).unwrap();
    leader.appender.persist();
    leader.replayer.run(end).unwrap();
    let (at, image_len) = (leader.replayer.position(), leader.replayer.image_len());
    drop(leader);
    let history = EpochHistory::clone(&pool.log().history());
    begin_sync(&pool, SyncStart { at, image_len, history }).unwrap();
    pool
}

#[test]
fn a_chunk_that_was_patched_survives_a_power_cut_behind_its_checkpoint_with_all_of_its_blocks() {
    let double = CrashDouble::new().unwrap();
    let pool = pool_in_mid_sync(&double);
    let mut follower = open_follower(&pool).unwrap();
    let replayer = &mut follower.replayer;
    let len = replayer.image_len();
    let mut leaders = replayer.chunk(0, len).unwrap().to_vec();
    leaders[5000] ^= 1;

    let compare = Chunk {
        step: ChunkStep::Compare.into(),
        len: len as u32,
        hash: chunk::hash(&leaders),
        image_len: len,
        ..Chunk::default()
    };
    let (outcome, described) = take_step(&compare, replayer, pool.log(), false).unwrap();
    assert_eq!(outcome, ChunkOutcome::Differs);
    let Patch { blocks, bytes } = Patch::of(&leaders, &described);
    assert_eq!(bytes, leaders[4096..5120]);

    let stored = Chunk { step: ChunkStep::Stored.into(), slot: 2, blocks, ..compare };
    let mut stage = |bytes: &[u8]| {
        pool.log().with_window_mut(staging_at(2), bytes.len(), |slot| slot.copy_from_slice(bytes));
        take_step(&stored, replayer, pool.log(), false).unwrap().0
    };
    assert_eq!(stage(&vec![0; bytes.len()]), ChunkOutcome::Torn, "not what makes it the leader's");
    assert_eq!(stage(&bytes), ChunkOutcome::Taken);
    replayer.checkpoint_in_sync(len).unwrap();
    drop((follower, pool));

    // Nothing survives that does not have to.
    let double = double.crash(|| 1).unwrap();
    let pool = open(&double);
    let follower = open_follower(&pool).unwrap();
    assert!(follower.replayer.chunk(0, len).unwrap() == leaders, "bytes were lost");
}

#[test]
fn a_chunk_beyond_the_images_end_is_not_stored() {
    let double = CrashDouble::new().unwrap();
    let pool = pool_in_mid_sync(&double);
    let mut follower = open_follower(&pool).unwrap();
    let replayer = &mut follower.replayer;
    let len = replayer.image_len();
    let mut take = |step: ChunkStep| {
        let chunk =
            Chunk { step: step.into(), offset: len, len: 4096, image_len: len + 4096, ..Chunk::default() };
        take_step(&chunk, replayer, pool.log(), false).unwrap().0
    };
    assert_eq!(take(ChunkStep::Compare), ChunkOutcome::Differs);
    assert_eq!(take(ChunkStep::Zero), ChunkOutcome::Differs);
    assert_eq!(take(ChunkStep::Stored), ChunkOutcome::Torn);
}
