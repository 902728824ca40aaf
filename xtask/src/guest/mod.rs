//! A guest with an RDMA device and persistent memory, for machines that have neither.
//!
//! Soft-RoCE (`rdma_rxe`) and NVDIMMs need a kernel that this machine may not run. QEMU emulates a computer with NVDIMMs,
//! boots a stock Debian kernel on it and shows it this machine's files, so that every binary built here runs there, on real
//! libibverbs, librpma, MAP_SYNC and devdax; only slower, because the processor is emulated too.
//!
//! [`image`] gets what it takes, [`initrd`] makes the disk the guest starts from, [`machine`] switches machines on and off
//! and runs commands in them, [`agent`] is their other end in the guest, [`frame`] what the two say to each other. [`door`] is
//! `cargo xtask guest`; tests use [`Machine`], [`Guest`] and [`Running`] directly.
//!
//! Nothing is left behind: QEMU dies with its owner, the run directory is removed by a watcher that outlives it, and only
//! the image stays, in `target/guest`.

pub mod agent;
mod args;
mod frame;
mod image;
mod initrd;
mod machine;
mod rundir;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use args::{Args, Work};
pub use frame::Request;
pub use image::{CACHE_VARIABLE, Image};
pub use machine::{
    AGENT_VARIABLE, BOOT_LIMIT, DEVDAX_COUNT, DEVDAX_LEN_MIB, Error, Event, FSDAX_LEN_MIB, Finished, Guest,
    Machine, Network, Running, shell,
};
pub use rundir::RunDir;

/// The door's exit code when the time is over, as `timeout` has it.
const TIMED_OUT: u8 = 124;
/// The door's exit code when there is no guest, as container tools have it.
const NO_GUEST: u8 = 125;
/// The number of a machine that is alone; the address that QEMU's own network gives.
const NUMBER_ALONE: u8 = 15;

/// `cargo xtask guest`: exits as the command does.
pub fn door(args: &[String]) -> ExitCode {
    if matches!(args.first().map(String::as_str), None | Some("help" | "-h" | "--help")) {
        println!("{}", args::USAGE);
        return ExitCode::SUCCESS;
    }
    let result = Args::parse(args).map_err(Error::Unavailable).and_then(|args| run(&args));
    match result {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(if matches!(error, Error::TimedOut(_)) { TIMED_OUT } else { NO_GUEST })
        }
    }
}

/// `xtask guest-agent PORT`, which only the guest calls.
pub fn agent_door(args: &[String]) -> ExitCode {
    let [port] = args else {
        eprintln!("xtask: guest-agent is started by the guest itself");
        return ExitCode::FAILURE;
    };
    match agent::serve(Path::new(port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("farkeep-guest: {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<i32, Error> {
    let image = Arc::new(Image::get().map_err(Error::Unavailable)?);
    let deadline = Instant::now() + args.timeout;
    match &args.work {
        Work::One(argv) => run_one(args, image, argv, deadline),
        Work::Pair(..) => Err(Error::Unavailable("pairs are not there yet".into())),
    }
}

fn run_one(args: &Args, image: Arc<Image>, argv: &[String], deadline: Instant) -> Result<i32, Error> {
    let dir = Arc::new(RunDir::new().map_err(Error::Unavailable)?);
    let guest = Machine::new(image, dir, "guest", NUMBER_ALONE, Network::Alone)?.power_on()?;
    eprintln!("guest: booted in {:.1} s", guest.booted_in().as_secs_f64());
    let running = guest.start(&request(args, argv)?)?;
    let result = loop {
        match running.next(deadline) {
            // Whoever reads our output may have gone; the command goes on.
            Ok(Event::Stdout(bytes)) => {
                drop(std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush()))
            }
            Ok(Event::Stderr(bytes)) => drop(std::io::stderr().write_all(&bytes)),
            Ok(Event::Exit(code)) => break Ok(code),
            Ok(Event::NotStarted(why)) => break Err(Error::Command(why)),
            Err(error) => break Err(in_time(error, args.timeout)),
        }
    };
    if args.verbose || matches!(result, Err(Error::Gone)) {
        eprint!("guest: the console says\n{}", guest.console());
    }
    result
}

fn in_time(error: Error, timeout: Duration) -> Error {
    match error {
        Error::TimedOut(_) => {
            Error::TimedOut(format!("the command did not end within {} s (--timeout)", timeout.as_secs()))
        }
        other => other,
    }
}

fn request(args: &Args, argv: &[String]) -> Result<Request, Error> {
    let cwd = std::env::current_dir()
        .map_err(|error| Error::Unavailable(format!("no current directory: {error}")))?
        .display()
        .to_string();
    let mut env: Vec<(String, String)> = std::env::vars().filter(|(name, _)| is_passed_on(name)).collect();
    env.extend(args.env.iter().cloned());
    Ok(Request { argv: argv.to_vec(), env, cwd, memlock_kib: args.memlock_kib })
}

/// The guest's own variables are not this machine's to set.
fn is_passed_on(name: &str) -> bool {
    let ours = ["FARKEEP_", "RUST_", "PROPTEST_", "NEXTEST_"].iter().any(|prefix| name.starts_with(prefix));
    (ours && !name.starts_with("FARKEEP_GUEST")) || name == "PATH"
}
