//! Random transactions: blocks of all sizes come, change and go, now and then one is rolled back.

use farkeep_core::heap::{Heap, HeapError, Offset, Txn, View};

use super::rng::Rng;

/// Cells of the table that the blocks hang on.
const CELLS: u64 = 24;
const CELL_LEN: u64 = 16;
const TABLE_ROOT: usize = 0;

/// Fills a new dataset's image with a superblock and an empty table.
pub fn found(txn: &mut Txn<'_>, dataset_id: [u8; 16]) -> Result<(), HeapError> {
    Heap::format(txn, dataset_id)?;
    let len = (CELLS * CELL_LEN) as usize;
    let table = txn.alloc(len)?;
    txn.init(table, &vec![0; len]);
    txn.set_root(TABLE_ROOT, table);
    Ok(())
}

/// A cell: where its block lies and how long it is.
fn cell(view: &View, index: u64) -> (Offset, Offset, usize) {
    let at = view.root(TABLE_ROOT).add(index * CELL_LEN);
    let [block, len] = view.get::<[u64; 2]>(at);
    (at, Offset::new(block), len as usize)
}

/// One transaction's worth of changes.
pub fn change(txn: &mut Txn<'_>, rng: &mut Rng) -> Result<(), HeapError> {
    for _ in 0..rng.between(1, 3) {
        let (at, block, len) = cell(txn, rng.below(CELLS));
        match rng.below(8) {
            0..4 => replace(txn, rng, at, block)?,
            4 if len > 0 => {
                txn.free(block);
                txn.put(at, &[0u64; 2]);
            }
            5 if len > 1 => {
                let from = rng.index(len);
                txn.zero(block.add(from as u64), rng.index(len - from) + 1);
            }
            6 if len > 8 => txn.copy(block, block.add((len / 2) as u64), len / 2),
            _ if len > 0 => {
                let from = rng.index(len);
                let mut bytes = vec![0; rng.index(len - from) + 1];
                rng.fill(&mut bytes);
                txn.write(block.add(from as u64), &bytes);
            }
            _ => replace(txn, rng, at, block)?,
        }
    }
    Ok(())
}

fn replace(txn: &mut Txn<'_>, rng: &mut Rng, at: Offset, old: Offset) -> Result<(), HeapError> {
    // Mostly small; now and then longer than a segment, so that a transaction is cut into several records.
    let len = if rng.chance(8) { rng.between(1000, 9000) } else { rng.between(1, 200) } as usize;
    let block = txn.alloc(len)?;
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    txn.init(block, &bytes);
    if old != Offset::NULL {
        txn.free(old);
    }
    txn.put(at, &[block.get(), len as u64]);
    Ok(())
}
