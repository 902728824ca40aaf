//! The follower's process, and the leader's handle on it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use farkeep_core::log::ring::{LogIdentity, file_len};
use farkeep_core::log::{Geometry, LogMap};
use farkeep_core::lsn::Lsn;
use farkeep_core::pmem::domain::{Durability, dax_device, detect};
use farkeep_core::pmem::map::Region;
use farkeep_fabric::rdma::{Endpoint, Mode, Source, connect, probe};
use farkeep_fabric::window::Reported;
use farkeep_fabric::{LogWindow, RemoteWindow, tcp};
use farkeep_proto::control::{FabricOffer, RdmaWindow};

use crate::leader::Link;

/// The ring of both logs.
pub const RING_LEN: u64 = 32 << 20;
const SESSION: u64 = 1;
/// Longer than connecting takes.
const CONNECTS_WITHIN: Duration = Duration::from_secs(20);

/// How a follower is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// RDMA; a flush suffices.
    Apm,
    /// RDMA; the agent persists.
    Gpspm,
    /// TCP.
    Tcp,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Apm => "apm",
            Self::Gpspm => "gpspm",
            Self::Tcp => "tcp",
        }
    }
}

/// An empty log at `path`: a devdax device, or a file that is made.
pub fn log_at(path: &Path) -> anyhow::Result<Arc<LogMap>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    let len = match dax_device(&file)? {
        Some(device) => device.len,
        None => {
            let len = file_len(RING_LEN);
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len)?;
            len
        }
    };
    let geometry = Geometry::new(RING_LEN, 1 << 20).context("no such ring")?;
    let persistence = detect(&file, Durability::Auto)?;
    let region = Region::map(Arc::new(file), len, persistence, "log")?;
    let identity = LogIdentity { node_id: [7; 16], geometry };
    LogMap::format(&region, identity)?;
    Ok(Arc::new(LogMap::open(region, identity)?))
}

fn reported() -> Reported {
    Reported { durable: Lsn::ZERO, applied: Lsn::ZERO, checkpoint: Lsn::ZERO }
}

/// Serves one leader. Says on its first line how it is reached, and ends with its standard input.
pub fn run(kind: Kind, path: &Path) -> anyhow::Result<()> {
    let log = log_at(path)?;
    let mut window = LogWindow::new(Arc::clone(&log));
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let say = |line: String| -> anyhow::Result<()> {
        println!("{line}");
        Ok(std::io::stdout().flush()?)
    };
    let mode = match kind {
        Kind::Apm => Mode::Apm,
        Kind::Gpspm => Mode::Gpspm,
        Kind::Tcp => {
            let listener = TcpListener::bind("0.0.0.0:0")?;
            say(listener.local_addr()?.port().to_string())?;
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            let Err(end) = tcp::serve(socket.as_fd(), &mut window, |_, _| reported());
            bail!(end)
        }
    };
    let device = probe(None, None)?;
    let mut endpoint = Endpoint::listen(&device, 0)?;
    let mut session = endpoint.open(SESSION, &log, mode)?;
    let descriptor: String = session.window().descriptor.iter().map(|byte| format!("{byte:02x}")).collect();
    say(format!("{} {descriptor} {}", endpoint.address(), session.window().window_len))?;
    loop {
        if session.turn(&mut window, None)?.is_some_and(|burst| burst.batch_ended) {
            session.acknowledge(reported())?;
        }
    }
}

/// The leader's handle on a follower: its process dies with it.
pub struct Follower {
    child: Child,
    /// Its window.
    pub link: Link,
}

impl Follower {
    /// Starts one and connects to it.
    pub fn start(kind: Kind, path: &Path, source: &Source) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            // It has no use for one, but it is the same command line.
            .args(["--leader-log", "-"])
            .arg("--follower-log")
            .arg(path)
            .args(["follow", kind.name()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let window: Box<dyn RemoteWindow> = match (kind, &words[..]) {
            (Kind::Tcp, [port]) => {
                // The address that RDMA uses, so that both take the same way.
                let socket = TcpStream::connect((source.device().address(), port.parse()?))?;
                socket.set_nodelay(true)?;
                Box::new(tcp::Remote::new(tcp::Socket::new(socket)))
            }
            (Kind::Apm | Kind::Gpspm, [address, descriptor, window_len]) => {
                let bytes =
                    (0..descriptor.len()).step_by(2).map(|i| u8::from_str_radix(&descriptor[i..i + 2], 16));
                let offer = FabricOffer { address: (*address).to_owned(), ..FabricOffer::default() };
                let window = RdmaWindow {
                    descriptor: bytes.collect::<Result<_, _>>()?,
                    window_len: window_len.parse()?,
                    mode: kind.name().to_owned(),
                };
                Box::new(connect(source, &offer, &window, SESSION, CONNECTS_WITHIN)?)
            }
            _ => bail!("the follower says {line:?}"),
        };
        Ok(Self { child, link: Link::new(window) })
    }

    /// Processor time that its threads have taken, in nanoseconds.
    pub fn cpu_ns(&self) -> anyhow::Result<u64> {
        cpu_ns(&self.child.id().to_string())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It ends with its input; if it has ended already there is nothing to do.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Processor time of all threads of a process, in nanoseconds.
pub fn cpu_ns(pid: &str) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let word = text.split_whitespace().next().context("an empty schedstat")?;
        sum += word.parse::<u64>()?;
    }
    Ok(sum)
}
