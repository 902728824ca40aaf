//! A directory for as long as a guest lives, removed whatever way its owner ends.
//!
//! A destructor does not run in a process that is killed. So a small shell waits on a pipe that only the owner holds: when
//! the owner ends, be it by SIGKILL, the pipe closes and the shell removes the directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::image::cache_dir;

/// Ignores what a terminal sends to its whole process group: it has to outlive those who do not.
const WATCH: &str = r#"trap "" HUP INT QUIT TERM; read -r _; rm -rf -- "$1""#;

/// A directory that goes away with its owner.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    watch: Child,
}

impl RunDir {
    /// A new, empty directory below the cache.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<RunDir, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = cache_dir().join("run").join(format!("{}-{number}", std::process::id()));
        let failed = |error: std::io::Error| format!("cannot make {}: {error}", path.display());
        fs::create_dir_all(&path).map_err(failed)?;
        // The agent is started from here: the guest needs an absolute path.
        let path = fs::canonicalize(&path).map_err(failed)?;
        let watch = Command::new("/bin/sh")
            .args(["-c", WATCH, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start /bin/sh: {error}"))?;
        Ok(RunDir { path, watch })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // The end of the pipe is what it waits for; after that the directory is gone.
        drop(self.watch.stdin.take());
        let _ = self.watch.wait();
    }
}
