//! A small file system of a test's own, where the test may mount one.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::server::scratch_dir;

/// A tmpfs of limited size; unmounted when dropped.
#[derive(Debug)]
pub struct SmallFileSystem {
    dir: TempDir,
}

impl SmallFileSystem {
    /// Mounts one, or returns `None` where that is not allowed (not root, a sandbox): the test then says so and ends.
    pub fn mount(size_mib: u32) -> Option<Self> {
        let dir = scratch_dir();
        let options = format!("size={size_mib}m");
        run("mount", &["-t", "tmpfs", "-o", &options, "farkeep-test"], dir.path()).then_some(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes it read-only.
    pub fn forbid_writing(&self) {
        assert!(run("mount", &["-o", "remount,ro"], self.dir.path()), "a tmpfs can be remounted read-only");
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        run("umount", &["--lazy"], self.dir.path());
    }
}

fn run(program: &str, args: &[&str], path: &Path) -> bool {
    Command::new(program).args(args).arg(path).output().is_ok_and(|output| output.status.success())
}
