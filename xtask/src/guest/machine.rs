//! A machine with NVDIMMs that can be switched on, cut off from power and switched on again, and the guest that runs on it.
//!
//! The NVDIMMs are files in the machine's run directory and outlive the guest: killing QEMU is a power cut after which the
//! next boot finds what was stored. (Not what was *flushed*: the files are page cache of the host, which survives. Lost
//! cache lines are the crash double's business, in `farkeep_core::pmem`.)
//!
//! QEMU dies with the thread that switched it on (`PR_SET_PDEATHSIG`), so a guest must not outlive that thread; and the
//! guest turns itself off when the pipe to its agent closes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::frame::Request;
use super::image::{Image, cache_dir};
use super::initrd;
use super::nvdimm;
use super::rundir::RunDir;
use super::running::{Error, Finished, Port, Running, shell};
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
        let (port, ready) = Port::new(input, output);
        let guest = Guest {
            child,
            port,
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
    port: Port,
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
        self.port.start(request)
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
