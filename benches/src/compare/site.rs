//! Where servers keep their files: a temporary directory on memory or on a disk.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::bars::Plan;

/// Where shared memory is mounted on every Linux.
const TMPFS: &str = "/dev/shm";

/// What the files lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// Memory: stands in for PMem.
    Tmpfs,
    /// A file system on a disk.
    Disk,
}

impl Medium {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Disk => "disk",
        }
    }

    /// The directory in which a [`Site`] is made.
    pub fn root(self, plan: &Plan) -> &Path {
        match self {
            Self::Tmpfs => Path::new(TMPFS),
            Self::Disk => &plan.disk_root,
        }
    }
}

/// A temporary directory on a medium; gone when dropped. Contenders that live in it must be dropped before it.
#[derive(Debug)]
pub struct Site {
    pub medium: Medium,
    dir: TempDir,
}

impl Site {
    pub fn new(medium: Medium, plan: &Plan) -> anyhow::Result<Self> {
        let root = medium.root(plan);
        let dir = tempfile::Builder::new()
            .prefix("farkeep-bench-")
            .tempdir_in(root)
            .with_context(|| format!("cannot make a directory in {}", root.display()))?;
        Ok(Self { medium, dir })
    }

    /// An empty directory of that name.
    pub fn make_dir(&self, name: &str) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

/// Cargo's target directory: two levels above this binary.
pub fn target_dir() -> anyhow::Result<PathBuf> {
    let binary = std::env::current_exe().context("cannot tell where this binary is")?;
    let dir =
        binary.ancestors().nth(2).context("this binary is not in a target directory; say --disk-dir")?;
    Ok(dir.to_owned())
}
