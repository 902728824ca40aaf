//! A machine with NVDIMMs that can be switched on, cut off from power and switched on again, and the guest that runs on it.
//!
//! The NVDIMMs are files in the machine's run directory and outlive the guest: killing QEMU is a power cut after which the
//! next boot finds what was stored. (Not what was *flushed*: the files are page cache of the host, which survives. Lost
//! cache lines are the crash double's business, in `farkeep_core::pmem`.)
//!
//! QEMU dies with the thread that switched it on (`PR_SET_PDEATHSIG`), so a guest must not outlive that thread; and the
//! guest turns itself off when the pipe to its agent closes.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::frame::{self, Kind, Request};
use super::image::{Image, cache_dir};
use super::initrd;
use super::nvdimm;
use super::rundir::RunDir;
use crate::phase::{root, target_dir};

/// The guest's DRAM.
const DRAM_MIB: u64 = 2048;
/// Address space beyond what is plugged in, for QEMU aligns each NVDIMM.
const ALIGNMENT_ROOM_MIB: u64 = 4096;
/// The number of a machine that is alone; the address that QEMU's own network gives.
pub(super) const NUMBER_ALONE: u8 = 15;
/// The guest's processors.
const PROCESSORS: usize = 2;
/// A guest that is not ready after this has failed. It takes seconds; a machine that is busy with other work takes more.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// What the kernel is told: where its console is, and to leave out what takes time under emulation.
const KERNEL_WORDS: &[&str] = &[
    "console=ttyS0",
    "panic=-1",
    "quiet",
    "mitigations=off",
    "random.trust_cpu=on",
    "cryptomgr.notests",
    "init_on_alloc=0",
    "nokaslr",
    "no5lvl",
    "audit=0",
    "apparmor=0",
    // An emulated processor may be off the real one for longer than a watchdog likes.
    "nowatchdog",
    "tsc=reliable",
    "rcupdate.rcu_expedited=1",
];

/// Names the `xtask` binary that becomes the agent, for owners that are not `xtask` themselves.
pub const AGENT_VARIABLE: &str = "FARKEEP_XTASK";

/// Why a guest did not do what was asked of it.
#[derive(Debug)]
pub enum Error {
    /// What a guest is made of cannot be had, or a file of it cannot be written.
    Unavailable(String),
    /// QEMU ended or the guest was not ready in time; with the end of its console.
    NotBooted(String),
    /// The command could not be started in the guest, or ended without what was waited for.
    Command(String),
    /// The guest ended before the command did.
    Gone,
    /// What was waited for did not come in time.
    TimedOut(String),
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unavailable(why) | Error::Command(why) => out.write_str(why),
            Error::NotBooted(why) => write!(out, "the guest did not boot: {why}"),
            Error::Gone => out.write_str("the guest ended before the command did"),
            Error::TimedOut(what) => write!(out, "timed out: {what}"),
        }
    }
}

impl std::error::Error for Error {}

/// What a machine's network card is plugged into.
#[derive(Clone, Debug)]
pub enum Network {
    /// QEMU's own network: the guest sees nobody but itself and the outside world.
    Alone,
    /// A datagram socket that stands for a cable; the names are relative to the run directory.
    Wire {
        /// This end.
        local: String,
        /// The other end.
        remote: String,
        /// The number of the machine there.
        peer: u8,
    },
}

/// A machine that can be switched on.
#[derive(Clone, Debug)]
pub struct Machine {
    image: Arc<Image>,
    dir: Arc<RunDir>,
    name: String,
    number: u8,
    network: Network,
    /// Its NVDIMMs are to be formatted.
    is_blank: bool,
}

impl Machine {
    /// A machine with new NVDIMMs, formatted and empty. `name` is its host name and tells its files from those of others in the same
    /// directory; `number` is the last part of its address, 10.0.2.`number`.
    ///
    /// # Errors
    /// Its files cannot be made.
    pub fn new(
        image: Arc<Image>,
        dir: Arc<RunDir>,
        name: &str,
        number: u8,
        network: Network,
    ) -> Result<Machine, Error> {
        let machine = Machine { image, dir, name: name.to_owned(), number, network, is_blank: false };
        for nvdimm in 0..nvdimm::COUNT {
            nvdimm::copy(&machine.image, nvdimm, &machine.nvdimm_path(nvdimm))?;
        }
        Ok(machine)
    }

    /// A machine whose NVDIMMs have never been written; it formats them when it is switched on.
    pub(super) fn blank(image: Arc<Image>, dir: Arc<RunDir>) -> Result<Machine, Error> {
        let (name, number) = ("blank".to_owned(), NUMBER_ALONE);
        let machine = Machine { image, dir, name, number, network: Network::Alone, is_blank: true };
        for nvdimm in 0..nvdimm::COUNT {
            let path = machine.nvdimm_path(nvdimm);
            nvdimm::make_blank(nvdimm, &path).map_err(|error| unwritable(&path, &error))?;
        }
        Ok(machine)
    }

    /// The file behind one of its NVDIMMs.
    pub(super) fn nvdimm_path(&self, number: usize) -> PathBuf {
        self.dir.path().join(self.nvdimm(number))
    }

    /// The address of its `eth0` and `rxe0`.
    pub fn address(&self) -> String {
        address(self.number)
    }

    /// Boots a guest on the machine's NVDIMMs, as they are, and waits until it takes commands.
    ///
    /// # Errors
    /// It does not boot before the deadline.
    pub fn power_on(&self, deadline: Instant) -> Result<Guest, Error> {
        self.start()?.ready(deadline)
    }

    /// Starts to boot, as [`power_on`](Self::power_on), and leaves the waiting for later.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(&self) -> Result<Booting, Error> {
        let started = Instant::now();
        let dir = self.dir.path();
        let agent = dir.join("agent");
        if !agent.exists() {
            install_agent(&agent)?;
        }
        if let Network::Wire { local, .. } = &self.network {
            // What the last guest left there; not being there is as well.
            let _ = fs::remove_file(dir.join(local));
        }
        let disk = initrd::build(&self.image, &self.settings(&agent)).map_err(Error::Unavailable)?;
        let disk_path = dir.join(self.file("initrd"));
        fs::write(&disk_path, disk).map_err(|error| unwritable(&disk_path, &error))?;
        let log_path = dir.join(self.file("qemu.log"));
        let log = File::create(&log_path).map_err(|error| unwritable(&log_path, &error))?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.image.qemu)
            .args(self.arguments())
            .envs(self.image.environment())
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| Error::Unavailable(format!("cannot start setpriv: {error}")))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are pipes");
        };
        let sessions = Arc::new(Mutex::new(Sessions::default()));
        let (announce, ready) = mpsc::channel();
        thread::spawn({
            let sessions = sessions.clone();
            move || receive(output, &sessions, announce)
        });
        let guest = Guest {
            child,
            input: Arc::new(Mutex::new(input)),
            sessions,
            next_session: AtomicU32::new(1),
            console: dir.join(self.file("console.log")),
            booted_in: Duration::ZERO,
            _dir: self.dir.clone(),
        };
        Ok(Booting { guest, ready, started, log_path })
    }

    fn file(&self, what: &str) -> String {
        format!("{}.{what}", self.name)
    }

    fn nvdimm(&self, number: usize) -> String {
        self.file(&format!("nvdimm{number}"))
    }

    fn settings(&self, agent: &Path) -> Vec<(&'static str, String)> {
        vec![
            (
                "visible",
                visible_paths().map(|path| path.display().to_string()).collect::<Vec<_>>().join("\n"),
            ),
            ("agent", agent.display().to_string()),
            ("host_name", self.name.clone()),
            ("address", self.address()),
            (
                "peer",
                match self.network {
                    Network::Alone => String::new(),
                    Network::Wire { peer, .. } => address(peer),
                },
            ),
            ("devdax_count", nvdimm::DEVDAX_COUNT.to_string()),
            ("format", if self.is_blank { "yes" } else { "no" }.to_owned()),
        ]
    }

    fn arguments(&self) -> Vec<String> {
        let mut words: Vec<String> = Vec::new();
        let mut add = |option: &str, value: String| words.extend([option.to_owned(), value]);
        for data in ["usr/share/qemu", "usr/share/seabios"] {
            add("-L", self.image.root.join(data).display().to_string());
        }
        add("-machine", "q35,nvdimm=on".into());
        // KVM hangs in some virtual machines that offer it; emulation works everywhere.
        add("-accel", "tcg,thread=multi".into());
        add("-cpu", "max".into());
        add("-smp", PROCESSORS.to_string());
        let most_mib = DRAM_MIB + (0..nvdimm::COUNT).map(nvdimm::len_mib).sum::<u64>() + ALIGNMENT_ROOM_MIB;
        add("-m", format!("{DRAM_MIB}M,slots={},maxmem={most_mib}M", nvdimm::COUNT));
        add("-display", "none".into());
        add("-kernel", self.image.kernel().display().to_string());
        add("-initrd", self.file("initrd"));
        add("-append", KERNEL_WORDS.join(" "));
        add("-serial", format!("file:{}", self.file("console.log")));
        for (tag, path) in [("host", Path::new("/")), ("image", &self.image.root)] {
            // A comma in a value is doubled.
            let path = path.display().to_string().replace(',', ",,");
            let how = "security_model=none,readonly=on,multidevs=remap";
            add("-virtfs", format!("local,path={path},mount_tag={tag},{how}"));
        }
        add("-chardev", "stdio,id=agent,signal=off".into());
        add("-device", "virtio-serial-pci".into());
        add("-device", "virtserialport,chardev=agent,name=farkeep".into());
        add(
            "-netdev",
            match &self.network {
                Network::Alone => "user,id=net".into(),
                Network::Wire { local, remote, .. } => format!(
                    "dgram,id=net,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
                ),
            },
        );
        add("-device", format!("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:fa:00:{:02x}", self.number));
        for nvdimm in 0..nvdimm::COUNT {
            // No label area: with one the namespace would be misaligned.
            add(
                "-object",
                format!(
                    "memory-backend-file,id=mem{nvdimm},share=on,mem-path={},size={}M",
                    self.nvdimm(nvdimm),
                    nvdimm::len_mib(nvdimm)
                ),
            );
            add("-device", format!("nvdimm,id=nv{nvdimm},memdev=mem{nvdimm}"));
        }
        words.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned));
        words
    }
}

/// A guest that cannot be used yet. Dropping it cuts its power.
#[derive(Debug)]
pub struct Booting {
    guest: Guest,
    ready: Receiver<()>,
    started: Instant,
    log_path: PathBuf,
}

impl Booting {
    /// Waits until it takes commands.
    ///
    /// # Errors
    /// It ends, or it is not ready before the deadline or within [`BOOT_LIMIT`].
    pub fn ready(mut self, deadline: Instant) -> Result<Guest, Error> {
        let limit = deadline.min(self.started + BOOT_LIMIT).saturating_duration_since(Instant::now());
        let why = match self.ready.recv_timeout(limit) {
            Ok(()) => {
                self.guest.booted_in = self.started.elapsed();
                return Ok(self.guest);
            }
            Err(why) => why,
        };
        self.guest.kill();
        match why {
            RecvTimeoutError::Timeout if deadline < self.started + BOOT_LIMIT => {
                Err(Error::TimedOut("the guest did not boot".into()))
            }
            RecvTimeoutError::Timeout => Err(Error::NotBooted(format!(
                "not ready after {} s\n{}",
                BOOT_LIMIT.as_secs(),
                self.guest.console()
            ))),
            RecvTimeoutError::Disconnected => {
                let log = fs::read_to_string(&self.log_path).unwrap_or_default();
                Err(Error::NotBooted(format!("QEMU ended\n{}{log}", self.guest.console())))
            }
        }
    }
}

/// A running guest. Dropping it cuts its power.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    input: Arc<Mutex<ChildStdin>>,
    sessions: Arc<Mutex<Sessions>>,
    next_session: AtomicU32,
    console: PathBuf,
    booted_in: Duration,
    /// The files QEMU has open stay named while it runs.
    _dir: Arc<RunDir>,
}

impl Guest {
    /// From the order to boot to the first command that could be run.
    pub fn booted_in(&self) -> Duration {
        self.booted_in
    }

    /// QEMU's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the kernel and the preparation of the guest wrote.
    pub fn console(&self) -> String {
        fs::read(&self.console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Starts a command; several may run side by side.
    ///
    /// # Errors
    /// The guest is gone. That the command cannot be started shows when it is waited for.
    pub fn start(&self, request: &Request) -> Result<Running, Error> {
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let (sender, events) = mpsc::channel();
        {
            let mut sessions = lock(&self.sessions);
            if sessions.closed {
                return Err(Error::Gone);
            }
            sessions.open.insert(session, sender);
        }
        let running = Running { session, events, input: self.input.clone(), output: String::new(), read: 0 };
        running.send(Kind::Run, &request.encode())?;
        Ok(running)
    }

    /// Runs a shell script to its end.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`Running::wait`].
    pub fn shell(&self, script: &str, limit: Duration) -> Result<Finished, Error> {
        self.start(&shell(script))?.wait(limit)
    }

    /// Cuts the power: QEMU is killed, and gone when this returns.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A request that runs a script in bash, in the root directory, with a plain environment.
pub fn shell(script: &str) -> Request {
    Request {
        argv: ["/bin/bash", "-c", script].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())],
        cwd: "/".into(),
        memlock_kib: None,
    }
}

/// What a command did.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes of its standard output.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It ended with this code, or by signal n: 128 + n.
    Exit(i32),
    /// It could not be started.
    NotStarted(String),
}

/// A command's end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; 128 + n for signal n.
    pub code: i32,
    /// What it wrote, standard output and error mixed as they came.
    pub output: String,
}

/// A command that was started. Dropping it does not end it.
#[derive(Debug)]
pub struct Running {
    session: u32,
    events: Receiver<Event>,
    input: Arc<Mutex<ChildStdin>>,
    output: String,
    /// Up to where `wait_for_line` has looked.
    read: usize,
}

impl Running {
    /// The next thing it does.
    ///
    /// # Errors
    /// The deadline passes, or the guest is gone.
    pub fn next(&self, deadline: Instant) -> Result<Event, Error> {
        self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())).map_err(
            |why| match why {
                RecvTimeoutError::Timeout => Error::TimedOut("the command did not end".into()),
                RecvTimeoutError::Disconnected => Error::Gone,
            },
        )
    }

    /// Waits until it has written a line that contains `wanted`, and answers that line. Lines before it are passed over for
    /// good.
    ///
    /// # Errors
    /// The limit passes, the command ends without that line, or the guest is gone.
    pub fn wait_for_line(&mut self, wanted: &str, limit: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(len) = self.output[self.read..].find('\n') {
                let line = self.output[self.read..self.read + len].to_owned();
                self.read += len + 1;
                if line.contains(wanted) {
                    return Ok(line);
                }
            }
            let missing = |why: &str| format!("no line with '{wanted}' {why}; so far:\n{}", self.output);
            match self.next(deadline) {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                    self.output.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(Event::Exit(code)) => {
                    return Err(Error::Command(missing(&format!("before it ended with {code}"))));
                }
                Ok(Event::NotStarted(why)) => return Err(Error::Command(why)),
                Err(Error::TimedOut(_)) => {
                    return Err(Error::TimedOut(missing(&format!("within {} s", limit.as_secs()))));
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The limit passes, it could not be started, or the guest is gone.
    pub fn wait(mut self, limit: Duration) -> Result<Finished, Error> {
        let deadline = Instant::now() + limit;
        loop {
            match self.next(deadline) {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                    self.output.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(Event::Exit(code)) => return Ok(Finished { code, output: self.output }),
                Ok(Event::NotStarted(why)) => return Err(Error::Command(why)),
                Err(Error::TimedOut(_)) => {
                    let so_far = format!("not ended within {} s; so far:\n{}", limit.as_secs(), self.output);
                    return Err(Error::TimedOut(so_far));
                }
                Err(other) => return Err(other),
            }
        }
    }

    /// Sends a signal (`TERM`, `KILL`, `STOP`, ...) to the command and what it started.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn signal(&self, name: &str) -> Result<(), Error> {
        self.send(Kind::Signal, name.as_bytes())
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> Result<(), Error> {
        frame::write(&mut *lock(&self.input), self.session, kind, payload).map_err(|_| Error::Gone)
    }
}

#[derive(Debug, Default)]
struct Sessions {
    open: HashMap<u32, Sender<Event>>,
    /// The guest is gone: whoever waits is told so by a closed channel.
    closed: bool,
}

fn receive(output: ChildStdout, sessions: &Mutex<Sessions>, ready: Sender<()>) {
    let mut output = BufReader::new(output);
    let mut ready = Some(ready);
    let ended: io::Result<()> = loop {
        let frame = match frame::read(&mut output) {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let event = match frame.kind {
            Kind::Ready => {
                // The owner may have given up waiting.
                let _ = ready.take().map(|ready| ready.send(()));
                continue;
            }
            Kind::Stdout => Event::Stdout(frame.payload),
            Kind::Stderr => Event::Stderr(frame.payload),
            Kind::Exit => Event::Exit(exit_code(&frame.payload)),
            Kind::NotStarted => Event::NotStarted(String::from_utf8_lossy(&frame.payload).into_owned()),
            Kind::Run | Kind::Signal => continue,
        };
        let mut sessions = lock(sessions);
        let is_last = matches!(event, Event::Exit(_) | Event::NotStarted(_));
        if let Some(session) = sessions.open.get(&frame.session) {
            // Whoever dropped the command does not want to know.
            let _ = session.send(event);
        }
        if is_last {
            sessions.open.remove(&frame.session);
        }
    };
    if let Err(error) = ended
        && error.kind() == io::ErrorKind::InvalidData
    {
        eprintln!("guest: {error}");
    }
    let mut sessions = lock(sessions);
    sessions.closed = true;
    sessions.open.clear();
}

fn exit_code(payload: &[u8]) -> i32 {
    payload.first_chunk::<4>().map_or(-1, |bytes| i32::from_le_bytes(*bytes))
}

fn address(number: u8) -> String {
    format!("10.0.2.{number}")
}

/// What a command in the guest has to see even if it lies below `/tmp`.
fn visible_paths() -> impl Iterator<Item = PathBuf> {
    let here = std::env::current_dir().ok();
    here.into_iter().chain([root(), target_dir(), cache_dir()]).filter_map(|path| fs::canonicalize(path).ok())
}

/// A copy, because a build during the guest's life would replace the binary under its feet.
fn install_agent(at: &Path) -> Result<(), Error> {
    let itself =
        std::env::current_exe().is_ok_and(|path| path.file_stem().is_some_and(|name| name == "xtask"));
    let source = match std::env::var_os(AGENT_VARIABLE) {
        Some(path) => PathBuf::from(path),
        // The link leads to the running binary even if its file has been replaced.
        None if itself => PathBuf::from("/proc/self/exe"),
        None => target_dir().join("debug/xtask"),
    };
    fs::copy(&source, at).and_then(|_| fs::set_permissions(at, fs::Permissions::from_mode(0o755))).map_err(
        |error| {
            Error::Unavailable(format!("no agent from {}: {error} (cargo build -p xtask)", source.display()))
        },
    )
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("cannot write {}: {error}", path.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
