use std::fs;
use std::sync::Arc;

use farkeep_core::heap::Heap;
use farkeep_core::log::Replid;
use farkeep_core::pool::{Pool, PoolOptions};
use farkeep_core::recover::{LeaderOptions, open_leader};
use farkeep_keystore::{Handler, Keystore, WriteCtx, lookup};
use farkeep_proto::resp::Encoder;
use tempfile::TempDir;

use super::{describe, look, verify_contents};

const RING_LEN_BYTES: u64 = 4 << 20;

/// A pool with two transactions, the first of which is known to be committed, and the node gone.
fn pool() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let pool = open(&dir);
    let mut leader = open_leader(&pool, &LeaderOptions::new(Replid([7; 20]), Some([9; 16]))).unwrap();
    let mut txn = leader.heap.txn();
    Heap::format(&mut txn, [9; 16]).unwrap();
    let mut ks = Keystore::format(&mut txn, 16, 1).unwrap();
    let end = txn.commit(&mut leader.appender).unwrap();
    leader.appender.set_committed_hint(end);
    let mut txn = leader.heap.txn();
    let Some(Handler::Write(set)) = lookup(b"set").map(|set| set.handler) else { panic!("SET writes") };
    let mut ctx = WriteCtx { txn: &mut txn, ks: &mut ks, db: 0, now_ms: 1 };
    set(&mut ctx, &[b"set", b"key", b"value"], &mut Encoder::new(&mut Vec::new(), false)).unwrap();
    txn.commit(&mut leader.appender).unwrap();
    leader.appender.persist();
    pool.log().sync().unwrap();
    dir
}

fn open(dir: &TempDir) -> Arc<Pool> {
    let options = PoolOptions { log_len: RING_LEN_BYTES, ..PoolOptions::new(dir.path(), [5; 16]) };
    Arc::new(Pool::open(&options).unwrap())
}

/// Every byte of every file in the pool.
fn contents(dir: &TempDir) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn inspection_tells_who_the_pool_is_and_changes_nothing() {
    let dir = pool();
    let before = contents(&dir);
    let found = look(dir.path(), None).unwrap();
    let report = describe(&found).json();
    assert_eq!(report["pool"]["dataset_id"], "09".repeat(16));
    assert_eq!(report["pool"]["node_id"], "05".repeat(16));
    assert!(report["pool"]["in_use_by"].is_null());
    assert_eq!(report["log"]["ring_len_bytes"], RING_LEN_BYTES);
    assert_eq!(report["watermarks"]["redo_transactions"], 3, "with the reign's beginning");
    assert_eq!(report["epochs"]["reigns"][0]["replid"], "07".repeat(20));
    assert_eq!(found.findings(), Vec::<String>::new());
    assert_eq!(contents(&dir), before);
}

#[test]
fn pool_in_use_is_said_to_be() {
    let dir = pool();
    let node = open(&dir);
    assert_eq!(look(dir.path(), None).unwrap().in_use_by, Some(std::process::id().to_string()));
    drop(node);
    assert_eq!(look(dir.path(), None).unwrap().in_use_by, None);
}

#[test]
fn what_is_no_pool_is_named_and_not_made_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = look(dir.path(), None).unwrap_err().to_string();
    assert!(error.contains("is no pool"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::write(dir.path().join("log"), b"#!/bin/sh\n".repeat(1000)).unwrap();
    let error = format!("{:#}", look(dir.path(), None).unwrap_err());
    assert!(error.contains("not a farkeep log"), "{error}");
}

#[test]
fn missing_image_is_found() {
    let dir = pool();
    // The next start checkpoints what the first one left, so that the log's state speaks of an image.
    drop(open_leader(&open(&dir), &LeaderOptions::new(Replid([8; 20]), None)).unwrap());
    fs::remove_file(dir.path().join("image")).unwrap();
    let found = look(dir.path(), None).unwrap().findings();
    assert!(found.len() == 1 && found[0].starts_with("the image is 0 bytes long"), "{found:?}");
}

#[test]
fn sound_pool_has_its_keys_counted_and_a_leaked_block_is_found() {
    let dir = pool();
    let before = contents(&dir);
    let mut findings = Vec::new();
    let checked = verify_contents(&look(dir.path(), None).unwrap(), &mut findings).unwrap();
    assert_eq!((checked.keys, findings.as_slice()), (1, [].as_slice()));
    assert_eq!(without_pid(contents(&dir)), without_pid(before));

    let node = open(&dir);
    let mut leader = open_leader(&node, &LeaderOptions::new(Replid([8; 20]), None)).unwrap();
    let mut txn = leader.heap.txn();
    txn.alloc(100).unwrap();
    txn.commit(&mut leader.appender).unwrap();
    leader.appender.persist();
    drop((leader, node));
    verify_contents(&look(dir.path(), None).unwrap(), &mut findings).unwrap();
    assert!(findings.len() == 1 && findings[0].starts_with("allocator: "), "{findings:?}");
}

/// The lock file names the last process that had the pool.
fn without_pid(mut files: Vec<(String, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
    files.retain(|(name, _)| name != "lock");
    files
}
