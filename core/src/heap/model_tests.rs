//! The heap against a model: random allocations, frees, stores, savepoints, rollbacks, full logs and restarts, after
//! which every block holds what the model says, the replayed image equals the view (I5), and the allocator is sound.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::double::{MemSource, Replica, formatted};
use super::*;

const MAX_LEN: u64 = 64 << 20;

#[derive(Clone, Debug)]
enum Op {
    Alloc { len: usize, seed: u8 },
    Free { pick: usize },
    Write { pick: usize, from: usize, len: usize, seed: u8 },
    Init { pick: usize, len: usize, seed: u8 },
    Zero { pick: usize, from: usize, len: usize },
    Copy { pick: usize, to: usize },
    Savepoint,
    RollbackTo { pick: usize },
    Commit,
    CommitFullLog,
    Abandon,
    Restart,
}

fn len() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 0..300usize, 3 => 300..20_000usize, 1 => 20_000..300_000usize]
}

fn op() -> impl Strategy<Value = Op> {
    let index = any::<usize>;
    prop_oneof![
        12 => (len(), any::<u8>()).prop_map(|(len, seed)| Op::Alloc { len, seed }),
        8 => index().prop_map(|pick| Op::Free { pick }),
        6 => (index(), index(), len(), any::<u8>())
            .prop_map(|(pick, from, len, seed)| Op::Write { pick, from, len, seed }),
        3 => (index(), len(), any::<u8>()).prop_map(|(pick, len, seed)| Op::Init { pick, len, seed }),
        2 => (index(), index(), len()).prop_map(|(pick, from, len)| Op::Zero { pick, from, len }),
        2 => (index(), index()).prop_map(|(pick, to)| Op::Copy { pick, to }),
        2 => Just(Op::Savepoint),
        2 => index().prop_map(|pick| Op::RollbackTo { pick }),
        6 => Just(Op::Commit),
        1 => Just(Op::CommitFullLog),
        1 => Just(Op::Abandon),
        1 => Just(Op::Restart),
    ]
}

/// Block content by offset; `None` for a byte never stored to.
type Blocks = BTreeMap<Offset, Vec<Option<u8>>>;

/// Few different values, so that stores often meet bytes that are there already.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|index| if index % 7 == 0 { seed % 4 } else { 1 }).collect()
}

fn pick(blocks: &Blocks, pick: usize) -> Option<Offset> {
    if blocks.is_empty() { None } else { blocks.keys().nth(pick % blocks.len()).copied() }
}

fn store(block: &mut [Option<u8>], from: usize, bytes: &[u8]) {
    for (to, from) in block[from..].iter_mut().zip(bytes) {
        *to = Some(*from);
    }
}

fn check(heap: &Heap, log: &Replica, blocks: &Blocks) {
    for (&at, content) in blocks {
        let bytes = heap.view().bytes(at, content.len());
        for (index, (byte, expected)) in bytes.iter().zip(content).enumerate() {
            assert!(expected.is_none_or(|expected| expected == *byte), "byte {index} of the block at {at}");
        }
    }
    log.assert_same_bytes(heap.view());
    let reachable = blocks.iter().map(|(&at, content)| (at, content.len()));
    let findings = verify(heap.view(), reachable);
    assert!(findings.is_empty(), "{findings:?}");
    let usable = blocks.keys().map(|&at| heap.view().usable_len(at) as u64).sum::<u64>();
    if heap.used.is_exact() {
        assert_eq!(heap.used_bytes(), usable);
    }
}

/// Does the operations up to the next one that ends the transaction; returns that one, and how many were consumed.
fn run_txn(txn: &mut Txn<'_>, blocks: &mut Blocks, ops: &mut impl Iterator<Item = Op>) -> Option<Op> {
    let mut savepoints = Vec::new();
    let mut fresh: Vec<Offset> = Vec::new();
    for op in ops {
        match op {
            Op::Alloc { len, seed } => match txn.alloc(len) {
                Ok(at) => {
                    assert!(at.get().is_multiple_of(16) && txn.usable_len(at) >= len);
                    let bytes = pattern(seed, len / 2);
                    txn.init(at, &bytes);
                    let mut content = vec![None; len];
                    store(&mut content, 0, &bytes);
                    assert!(blocks.insert(at, content).is_none(), "block handed out twice");
                    fresh.push(at);
                }
                Err(error) => assert!(matches!(error, HeapError::OutOfMemory { .. })),
            },
            Op::Free { pick: index } => {
                if let Some(at) = pick(blocks, index) {
                    txn.free(at);
                    blocks.remove(&at);
                }
            }
            Op::Write { pick: index, from, len, seed } => {
                if let Some(at) = pick(blocks, index) {
                    let content = blocks.get_mut(&at).unwrap();
                    let from = from % (content.len() + 1);
                    let bytes = pattern(seed, len.min(content.len() - from));
                    txn.write(at.add(from as u64), &bytes);
                    store(content, from, &bytes);
                }
            }
            Op::Init { pick: index, len, seed } => {
                let Some(&at) = fresh.get(index % fresh.len().max(1)) else { continue };
                let Some(content) = blocks.get_mut(&at) else { continue };
                let bytes = pattern(seed, len.min(content.len()));
                txn.init(at, &bytes);
                store(content, 0, &bytes);
            }
            Op::Zero { pick: index, from, len } => {
                if let Some(at) = pick(blocks, index) {
                    let content = blocks.get_mut(&at).unwrap();
                    let from = from % (content.len() + 1);
                    let len = len.min(content.len() - from);
                    txn.zero(at.add(from as u64), len);
                    content[from..from + len].fill(Some(0));
                }
            }
            Op::Copy { pick: index, to } => {
                if let (Some(at), Some(to)) = (pick(blocks, index), pick(blocks, to)) {
                    let len = blocks[&at].len().min(blocks[&to].len());
                    let moved = blocks[&at][..len].to_vec();
                    txn.copy(at, to, len);
                    blocks.get_mut(&to).unwrap()[..len].copy_from_slice(&moved);
                }
            }
            Op::Savepoint => savepoints.push((txn.savepoint(), blocks.clone(), fresh.clone())),
            Op::RollbackTo { pick: index } => {
                if !savepoints.is_empty() {
                    savepoints.truncate(index % savepoints.len() + 1);
                    let (savepoint, was, was_fresh) = savepoints.last().unwrap();
                    txn.rollback_to(savepoint);
                    blocks.clone_from(was);
                    fresh.clone_from(was_fresh);
                }
            }
            end => return Some(end),
        }
    }
    None
}

fn run(ops: Vec<Op>) {
    let (mut heap, mut log) = formatted(MAX_LEN);
    let mut committed = Blocks::new();
    let mut ops = ops.into_iter();
    loop {
        let mut blocks = committed.clone();
        let mut txn = heap.txn();
        let end = run_txn(&mut txn, &mut blocks, &mut ops);
        match end {
            Some(Op::Commit) | None => {
                txn.commit(&mut log).unwrap();
                committed = blocks;
            }
            Some(Op::CommitFullLog) => {
                log.full = true;
                let empty = txn.is_empty();
                assert_eq!(txn.commit(&mut log).is_ok(), empty);
                log.full = false;
            }
            Some(Op::Restart) => {
                drop(txn);
                let len = log.image.len() as u64;
                heap = Heap::open(MemSource::with_image(MAX_LEN, log.image.clone()), len).unwrap();
            }
            _ => drop(txn),
        }
        heap.recount_used(2);
        // After a rollback the view may hold zeros that only the next commit will bring into the image.
        if !heap.scratch.has_repairs() {
            check(&heap, &log, &committed);
        }
        if end.is_none() {
            break;
        }
    }
    let mut txn = heap.txn();
    for &at in committed.keys() {
        txn.free(at);
    }
    txn.set_root(1, Offset::new(16));
    txn.commit(&mut log).unwrap();
    check(&heap, &log, &Blocks::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_agrees_with_the_model(ops in prop::collection::vec(op(), 1..150)) {
        run(ops);
    }
}
