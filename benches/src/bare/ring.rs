//! The mapped file that both sides write.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use farkeep_core::pmem::domain::{Domain, Durability, detect};
use farkeep_core::pmem::map::Region;

/// Bytes of the ring.
pub const RING_LEN: u64 = 64 << 20;

/// Maps the file at `path`, treated as PMem whatever it lies on.
pub fn open(path: &Path) -> anyhow::Result<Region> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RING_LEN)
        .with_context(|| format!("no space for {}", path.display()))?;
    let persistence = detect(&file, Durability::Forced(Domain::Pmem))?;
    Ok(Region::map(Arc::new(file), RING_LEN, persistence, "ring")?)
}
