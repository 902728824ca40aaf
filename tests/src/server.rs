//! A server process that a test owns: Farkeep, redis-server or redis-sentinel.
//!
//! A [`Server`] has its own directory (under /dev/shm where there is one), its own port and its own log file; dropping it ends
//! the process whatever state it is in, and fails the test if Farkeep logged a warning or an error that the test did not
//! declare with [`ServerBuilder::expect_log`]. Only processes started here are ever signalled, by their id.
//!
//! A server can be killed and started again on the same port and directory, which is what crash tests are made of.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::{Client, Value};
use crate::{binary, logs, wait};

/// Test ports lie below the ephemeral range, so that no outgoing connection takes one between choosing and binding it.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How long a server may take to answer its first PING.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How long a server may take to stop when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Which program a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Farkeep,
    Redis,
    Sentinel,
}

/// How a server is to be started.
#[derive(Debug, Clone)]
pub struct ServerBuilder {
    kind: Kind,
    args: Vec<String>,
    port: Option<u16>,
    pool: Option<PathBuf>,
    config_lines: Option<String>,
    expected_log: Vec<String>,
}

/// A server that did not come up.
#[derive(Debug)]
pub struct StartFailure {
    /// How the process ended, or `None` if it was still running without answering.
    pub status: Option<ExitStatus>,
    /// All that it wrote.
    pub log: String,
}

/// A running (or killed, or stopped) server.
#[derive(Debug)]
pub struct Server {
    builder: ServerBuilder,
    port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl ServerBuilder {
    /// A Farkeep node on its own pool. Its log ring is small, so that tests turn it over; its pool claims to be PMem, so that
    /// on tmpfs it runs the same instructions as on the real thing.
    pub fn farkeep() -> Self {
        Self::new(Kind::Farkeep)
    }

    /// A redis-server without persistence.
    pub fn redis() -> Self {
        Self::new(Kind::Redis)
    }

    /// Starts a Farkeep node with a configuration file of its own, so that CONFIG REWRITE has something to write to.
    pub fn with_config_file(mut self) -> Self {
        self.config_lines.get_or_insert_default();
        self
    }

    /// A redis-sentinel with these configuration lines.
    pub fn sentinel(config_lines: &str) -> Self {
        Self { config_lines: Some(config_lines.to_owned()), ..Self::new(Kind::Sentinel) }
    }

    fn new(kind: Kind) -> Self {
        Self { kind, args: Vec::new(), port: None, pool: None, config_lines: None, expected_log: Vec::new() }
    }

    /// Appends directives, as words: `--sync-followers 1`. Later ones override the defaults.
    pub fn args(mut self, words: &str) -> Self {
        self.args.extend(words.split_ascii_whitespace().map(str::to_owned));
        self
    }

    /// Appends one directive whose value may contain blanks.
    pub fn directive(mut self, name: &str, value: &str) -> Self {
        self.args.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    /// Uses this port instead of a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Uses this pool instead of a fresh one in the server's directory.
    pub fn pool(mut self, path: &Path) -> Self {
        self.pool = Some(path.to_owned());
        self
    }

    /// Declares that log lines containing `text` are no surprise.
    pub fn expect_log(mut self, text: &str) -> Self {
        self.expected_log.push(text.to_owned());
        self
    }

    /// Starts the server and waits until it answers; panics with its log if it does not.
    #[track_caller]
    pub fn start(self) -> Server {
        let kind = self.kind;
        match self.try_start() {
            Ok(server) => server,
            Err(failure) => {
                panic!("{kind:?} did not start ({:?}); it wrote:\n{}", failure.status, failure.log)
            }
        }
    }

    /// Starts the server and waits until it answers or ends.
    pub fn try_start(self) -> Result<Server, StartFailure> {
        let port = self.port.unwrap_or_else(free_port);
        let mut server = Server { builder: self, port, dir: scratch_dir(), child: None };
        server.try_restart()?;
        Ok(server)
    }
}

impl ServerBuilder {
    /// Starts the process and waits for it to end by itself, which it must do soon; its failure as a value.
    #[track_caller]
    pub fn start_and_end(self) -> StartFailure {
        let port = self.port.unwrap_or_else(free_port);
        let mut server = Server { builder: self, port, dir: scratch_dir(), child: None };
        server.spawn_only();
        let mut status = None;
        let ended = wait::holds_within(START_LIMIT, || {
            status = server.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.is_some()
        });
        server.kill();
        assert!(ended, "the server neither refused nor ended:\n{}", server.log());
        // The caller judges its log.
        server.builder.expected_log.push(String::new());
        StartFailure { status, log: server.log() }
    }
}

impl Server {
    /// A Farkeep node with default test settings.
    #[track_caller]
    pub fn farkeep() -> Self {
        ServerBuilder::farkeep().start()
    }

    /// A redis-server with default test settings.
    #[track_caller]
    pub fn redis() -> Self {
        ServerBuilder::redis().start()
    }

    /// The port it serves.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Which program this is.
    pub fn kind(&self) -> Kind {
        self.builder.kind
    }

    /// Its directory; it goes when the server is dropped.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The pool of a Farkeep node.
    pub fn pool(&self) -> PathBuf {
        self.builder.pool.clone().unwrap_or_else(|| self.dir.path().join("pool"))
    }

    /// Where the configuration file of a Farkeep node is, if it has one.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("farkeep.conf")
    }

    /// The process id. Panics when it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// A new connection.
    #[track_caller]
    pub fn client(&self) -> Client {
        match Client::connect(self.port) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to port {}: {error}\n{}", self.port, self.log_tail()),
        }
    }

    /// One field of INFO through a new connection, empty where there is no such field or no answer.
    pub fn info(&self, section: &str, field: &str) -> String {
        Client::connect(self.port)
            .and_then(|mut client| client.try_info(section, field))
            .ok()
            .flatten()
            .unwrap_or_default()
    }

    /// Checks the pool of a node that does not run, as `farkeep pool verify` does; panics with what that finds.
    #[track_caller]
    pub fn verify_pool(&self) {
        assert!(self.child.is_none(), "still running");
        let output = Command::new(binary::farkeep()).args(["pool", "verify"]).arg(self.pool()).output();
        let output = output.expect("farkeep can be started");
        assert!(
            output.status.success(),
            "the pool of the node on port {} is not sound:\n{}{}",
            self.port,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// All that the server has written to standard output and standard error since it was first started.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Declares, while it runs, that log lines containing `text` are no surprise.
    pub fn expect_log(&mut self, text: &str) {
        self.builder.expected_log.push(text.to_owned());
    }

    /// From its next start on, leads instead of following.
    pub fn lead(&mut self) {
        let args = &mut self.builder.args;
        while let Some(at) = args.iter().position(|arg| arg == "--replicaof") {
            args.drain(at..(at + 2).min(args.len()));
        }
    }

    /// From its next start on, follows the leader at `port` instead of whom it followed before.
    pub fn follow(&mut self, port: u16) {
        self.lead();
        self.builder.args.extend(["--replicaof".to_owned(), format!("127.0.0.1 {port}")]);
    }

    /// kill -9, and waits until the process is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            logs::disturbed(self.port);
            child.kill().expect("a child can be killed");
            child.wait().expect("a killed child can be waited for");
        }
    }

    /// SIGSTOP: the process keeps its sockets and does nothing.
    pub fn freeze(&self) {
        logs::disturbed(self.port);
        self.signal(Signal::STOP);
        let status = format!("/proc/{}/stat", self.pid());
        wait::until("the process to be stopped", || {
            fs::read_to_string(&status)
                .is_ok_and(|text| text.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        });
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end; panics if it takes too long.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        logs::disturbed(self.port);
        self.signal(Signal::TERM);
        let mut status = None;
        let ended = wait::holds_within(STOP_LIMIT, || {
            status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.is_some()
        });
        assert!(ended, "the server did not stop on SIGTERM:\n{}", self.log_tail());
        self.child = None;
        status.expect("it ended")
    }

    /// Whether the process is there (frozen or not).
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts it again after [`Server::kill`] or [`Server::stop`], on the same port and pool.
    #[track_caller]
    pub fn restart(&mut self) {
        if let Err(failure) = self.try_restart() {
            panic!("no restart ({:?}); the log:\n{}", failure.status, failure.log);
        }
    }

    /// As [`Server::restart`], with failure as a value.
    pub fn try_restart(&mut self) -> Result<(), StartFailure> {
        assert!(self.child.is_none(), "still running");
        self.child = Some(self.spawn());
        let mut status = None;
        let answered = wait::holds_within(START_LIMIT, || {
            status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.is_some() || self.answers()
        });
        if answered && status.is_none() {
            return Ok(());
        }
        self.kill();
        Err(StartFailure { status, log: self.log() })
    }

    /// Starts the process and waits for nothing.
    pub fn spawn_only(&mut self) {
        assert!(self.child.is_none(), "still running");
        self.child = Some(self.spawn());
    }

    fn spawn(&self) -> Child {
        let dir = self.dir.path();
        let log =
            File::options().create(true).append(true).open(self.log_path()).expect("the log can be opened");
        let program = match self.builder.kind {
            Kind::Farkeep => binary::farkeep().to_owned(),
            Kind::Redis => binary::redis_server(),
            Kind::Sentinel => binary::redis_sentinel(),
        };
        let mut command = Command::new(program);
        let port = self.port.to_string();
        match self.builder.kind {
            Kind::Farkeep => {
                let pool = self.pool();
                command.arg("serve");
                if let Some(lines) = &self.builder.config_lines {
                    let path = self.config_file();
                    if !path.exists() {
                        fs::write(&path, lines).expect("farkeep.conf can be written");
                    }
                    command.arg(path);
                }
                command.args(["--port", &port, "--bind", "127.0.0.1"]);
                command.arg("--dir").arg(dir).arg("--pool").arg(pool);
                command.args(["--durability", "pmem", "--log-size", "64mb"]);
            }
            Kind::Redis => {
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
                command.arg("--dir").arg(dir);
            }
            Kind::Sentinel => {
                let path = dir.join("sentinel.conf");
                if !path.exists() {
                    let lines = self.builder.config_lines.as_deref().unwrap_or_default();
                    fs::write(
                        &path,
                        format!("port {port}\nbind 127.0.0.1\ndir {}\n{lines}\n", dir.display()),
                    )
                    .expect("sentinel.conf can be written");
                }
                command.arg(path);
            }
        }
        command.args(&self.builder.args);
        command.current_dir(dir).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        command.spawn().unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()))
    }

    /// Whether it answers PING, in whatever words: a password or a missing leader does not make it less alive.
    fn answers(&self) -> bool {
        let Ok(mut client) = Client::connect(self.port) else { return false };
        client.set_reply_timeout(Duration::from_secs(1));
        match client.try_command(&["PING"]) {
            Ok(Value::Error(text)) => !text.starts_with("LOADING"),
            Ok(_) => true,
            Err(_) => false,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("output.txt")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A process that ended by itself ended by a crash: nobody asked for it.
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        self.kill();
        if std::thread::panicking() {
            eprintln!(
                "---- {:?} on port {}, end of its log ----\n{}",
                self.builder.kind,
                self.port,
                self.log_tail()
            );
            return;
        }
        if let Some(status) = ended {
            panic!(
                "{:?} on port {} ended by itself (signal {:?}, code {:?}):\n{}",
                self.builder.kind,
                self.port,
                status.signal(),
                status.code(),
                self.log_tail()
            );
        }
        if self.builder.kind == Kind::Farkeep {
            let log = self.log();
            let lines = logs::unexpected(&log, &self.builder.expected_log);
            assert!(
                lines.is_empty(),
                "the node on port {} logged what nobody expected:\n{}",
                self.port,
                lines.join("\n")
            );
        }
    }
}

/// A port that is this test process's until it ends: nobody listens on it, and no other test process gets it, not even while
/// the server that has it is killed and started again.
///
/// Binding port 0 and closing it again would not do: between that and the server's own bind, and in every restart, the port
/// is anybody's. So ports are taken from below the ephemeral range, where the kernel gives out none, and each is locked by a
/// file of its own. The kernel lets go of the lock when the process ends, however it ends.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join("farkeep-test-ports");
    fs::create_dir_all(&locks).expect("a directory for the locks of test ports");
    let span = PORTS.end - PORTS.start;
    // Processes that start looking in different places seldom have to go on looking.
    let spread = u16::try_from((std::process::id() * 37) % u32::from(span)).expect("below the span");
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (spread.wrapping_add(step)) % span;
        let lock =
            File::options().create(true).truncate(false).write(true).open(locks.join(port.to_string()));
        let lock = lock.expect("the lock of a test port can be opened");
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            TAKEN.lock().expect("no holder panics").push(lock);
            return port;
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// A directory in memory where there is /dev/shm, else in the system's temporary directory.
pub fn scratch_dir() -> TempDir {
    let mut builder = tempfile::Builder::new();
    builder.prefix("farkeep-test-");
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { builder.tempdir_in(shm) } else { builder.tempdir() }.expect("a scratch directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `flock` is between open files, so another open of the same one stands for another process.
    #[test]
    fn a_port_stays_taken_while_nobody_listens_on_it() {
        let port = free_port();
        let path = std::env::temp_dir().join("farkeep-test-ports").join(port.to_string());
        let other = File::open(path).expect("the lock is there");
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        assert_ne!(free_port(), port);
    }
}
