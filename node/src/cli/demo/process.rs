//! A node of the demo: a process of this same program, its pool and its log.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Interrupt, wait_until};
use crate::cli::client::Client;
use crate::cli::serve::STOP_WITH_PARENT;

/// How long a node may take to serve.
const START_LIMIT: Duration = Duration::from_secs(5);

/// Lines of a node's log that are shown when the demo fails.
const SHOWN_LOG_LINES: usize = 12;

/// A node. Dropping it kills the process.
#[derive(Debug)]
pub struct Node {
    name: &'static str,
    dir: PathBuf,
    /// Where it listens.
    pub port: u16,
    /// Where its dashboard is.
    pub http_port: u16,
    child: Option<Child>,
}

impl Node {
    /// A node that has not been started, with its pool to be in `parent`.
    ///
    /// # Errors
    /// When its directory cannot be made or there is no free port.
    pub fn new(name: &'static str, parent: &Path) -> Result<Self> {
        let dir = parent.join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // The ports are free now and were given by the kernel, which does not give them again soon.
        let sockets = [TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?];
        let [port, http_port] = [sockets[0].local_addr()?.port(), sockets[1].local_addr()?.port()];
        Ok(Self { name, dir, port, http_port, child: None })
    }

    /// The image in its pool.
    pub fn image(&self) -> PathBuf {
        self.dir.join("pool/image")
    }

    /// Starts the process and waits until it answers.
    ///
    /// # Errors
    /// When it ends or stays silent.
    pub fn start(&mut self, directives: &[&str], interrupt: &Interrupt) -> Result<Client> {
        let dir = self.dir.clone();
        let path = |name: &str| dir.join(name);
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command
            .args(["serve", "--port", &self.port.to_string(), "--bind", "127.0.0.1", "--log-size", "64mb"])
            .args(["--http-port", &self.http_port.to_string()])
            .arg("--dir")
            .arg(&self.dir)
            .arg("--pool")
            .arg(path("pool"))
            .arg("--logfile")
            .arg(path("log.txt"))
            .args(directives)
            .env(STOP_WITH_PARENT, "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(path("stderr.txt"))?)
            // A group of its own: Ctrl-C is for the demo, which then ends its nodes itself.
            .process_group(0);
        self.child = Some(command.spawn().with_context(|| format!("cannot start the {}", self.name))?);
        let mut client = None;
        wait_until(&format!("the {} to serve", self.name), START_LIMIT, interrupt, || {
            if let Some(status) = self.ended()? {
                let said = fs::read_to_string(path("stderr.txt")).unwrap_or_default();
                bail!("the {} could not start ({status}): {}", self.name, said.trim());
            }
            client = Client::connect_here(self.port).ok();
            Ok(match &mut client {
                Some(client) => client.call(&["PING"]).is_ok(),
                None => false,
            })
        })?;
        client.context("the node serves, but nobody is connected to it")
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// `kill -9`, and waits until the kernel has cleaned up. Returns when the signal was sent.
    ///
    /// # Errors
    /// When it had ended already.
    pub fn kill(&mut self) -> Result<Instant> {
        if let Some(status) = self.ended()? {
            bail!("the {} has ended before it was killed ({status})", self.name);
        }
        let mut child = self.child.take().context("a node that was never started cannot be killed")?;
        let at = Instant::now();
        child.kill()?;
        child.wait()?;
        Ok(at)
    }

    /// The end of its log, for a person who wants to know why the demo failed.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log.txt")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(SHOWN_LOG_LINES)..];
        format!("The end of the {}'s log:\n  {}\n", self.name, tail.join("\n  "))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
