//! A server process that ends with its guard.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};

/// How much of a server's output is shown when it does not do what it should.
const OUTPUT_TAIL_LEN: usize = 2_000;

/// A started server. Dropping it kills the process, by its id, and waits for it.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    output: PathBuf,
}

impl Child {
    /// Starts `program` in `dir`; its output goes to a file there. It gets a process group of its own, so that ctrl-c on
    /// the terminal reaches only us.
    pub fn start(program: &Path, args: &[OsString], dir: &Path) -> anyhow::Result<Self> {
        let output = dir.join("output.txt");
        let file = File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
        let process = Command::new(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { process, output })
    }

    /// # Errors
    /// The process has ended; its last words are in the error.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!("the server ended ({status}); it said:\n{}", self.output_tail())),
        }
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    /// The end of what the process wrote.
    pub fn output_tail(&self) -> String {
        let bytes = fs::read(&self.output).unwrap_or_default();
        let start = bytes.len().saturating_sub(OUTPUT_TAIL_LEN);
        String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
    }

    /// CPU time taken so far by all its threads, user and system.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = self.proc_file("stat")?;
        ticks_in(&stat)
            .map(|ticks| {
                Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
            })
            .ok_or_else(|| anyhow!("cannot read utime and stime in '{stat}'"))
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> anyhow::Result<u64> {
        let statm = self.proc_file("statm")?;
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .context("no resident pages in statm")?;
        Ok(pages * rustix::param::page_size() as u64)
    }

    /// Memory in bytes that is backed by no file: this process's and its children's, pages that they share counted once. What a
    /// mapped pool takes is not in it, what a fork copies is.
    pub fn private_bytes(&self) -> anyhow::Result<u64> {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let own = self.proc_file("smaps_rollup")?;
        let forked = children
            .split_whitespace()
            // A child may be gone by now.
            .filter_map(|child| fs::read_to_string(format!("/proc/{child}/smaps_rollup")).ok());
        let kib: u64 =
            std::iter::once(own).chain(forked).filter_map(|rollup| anonymous_kib_in(&rollup)).sum();
        Ok(kib * 1024)
    }

    fn proc_file(&self, name: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{name}", self.process.id());
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The proportional share of anonymous memory in a smaps_rollup.
fn anonymous_kib_in(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss_Anon:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// utime + stime of a line of /proc/PID/stat. The command name, in parentheses, may itself hold spaces and parentheses.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_an_awkward_command_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 5 6 7 8 120 30 9 9 20 0 4 0 100";
        assert_eq!(ticks_in(stat), Some(150));
    }

    #[test]
    fn anonymous_memory_is_found_among_the_other_kinds() {
        let rollup =
            "55-7f ---p 0 00:00 0 [rollup]\nPss: 900 kB\nPss_Anon:             812 kB\nPss_File: 3 kB\n";
        assert_eq!(anonymous_kib_in(rollup), Some(812));
    }

    #[test]
    fn dropping_the_guard_ends_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let child = Child::start(Path::new("sleep"), &["600".into()], dir.path()).unwrap();
        let proc_dir = PathBuf::from(format!("/proc/{}", child.process.id()));
        assert!(proc_dir.exists());
        drop(child);
        assert!(!proc_dir.exists());
    }
}
