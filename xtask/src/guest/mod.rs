//! A guest with an RDMA device and persistent memory, for machines that have neither.
//!
//! Soft-RoCE (`rdma_rxe`) and NVDIMMs need a kernel that this machine may not run. QEMU emulates a computer with NVDIMMs,
//! boots a stock Debian kernel on it and shows it this machine's files, so that every binary built here runs there, on real
//! libibverbs, librpma, MAP_SYNC and devdax; only slower, because the processor is emulated too.
//!
//! [`image`] gets what it takes, [`nvdimm`] formats the persistent memory, [`initrd`] makes the disk a guest starts from.
//! [`machine`] switches machines on and off, [`pair`] joins two of them by a wire, [`running`] runs commands, [`agent`] is the
//! other end in the guest, [`frame`] what the two say to each other. [`suite`] runs tests, [`door`] is `cargo xtask guest`;
//! tests use [`Machine`], [`Guest`] and [`Running`] directly.
//!
//! Nothing is left behind: QEMU dies with its owner, the run directory is removed by a watcher that outlives it, and only
//! the image stays, in `target/guest`.

pub mod agent;
mod args;
mod frame;
mod image;
mod initrd;
mod machine;
mod nvdimm;
mod pair;
mod rundir;
mod running;
mod suite;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use args::{Args, Work};
pub use frame::Request;
pub use image::{CACHE_VARIABLE, Image};
use machine::NUMBER_ALONE;
pub use machine::{AGENT_VARIABLE, BOOT_LIMIT, Booting, Guest, Machine, Network};
pub use nvdimm::{DEVDAX_COUNT, DEVDAX_LEN_MIB, FSDAX_LEN_MIB};
pub use pair::Pair;
pub use rundir::RunDir;
pub use running::{Error, Event, Finished, Running, shell};
pub use suite::{SUITE_LIMIT, run_suite};

/// The door's exit code when the time is over, as `timeout` has it.
const TIMED_OUT: u8 = 124;
/// The door's exit code when there is no guest, as container tools have it.
const NO_GUEST: u8 = 125;

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
    if let Work::Suite(words) = &args.work {
        return Ok(match run_suite(words, args.timeout) {
            Ok(()) => 0,
            Err(why) => {
                eprintln!("xtask: {why}");
                1
            }
        });
    }
    let image = Arc::new(Image::get().map_err(Error::Unavailable)?);
    let deadline = Instant::now() + args.timeout;
    match &args.work {
        Work::One(argv) => run_one(args, image, argv, deadline),
        Work::Pair(a, b) => run_pair(args, image, a, b, deadline),
        Work::Suite(_) => unreachable!("handled above"),
    }
    .map_err(|error| match error {
        Error::TimedOut(what) => {
            Error::TimedOut(format!("{what} within {} s (--timeout)", args.timeout.as_secs()))
        }
        other => other,
    })
}

fn run_one(args: &Args, image: Arc<Image>, argv: &[String], deadline: Instant) -> Result<i32, Error> {
    let dir = Arc::new(RunDir::new().map_err(Error::Unavailable)?);
    let guest = Machine::new(image, dir, "guest", NUMBER_ALONE, Network::Alone)?.power_on(deadline)?;
    eprintln!("guest: booted in {:.1} s", guest.booted_in().as_secs_f64());
    let running = guest.start(&request(args, argv)?)?;
    let result = follow(&running, deadline, print);
    if args.verbose || matches!(result, Err(Error::Gone)) {
        eprint!("guest: the console says\n{}", guest.console());
    }
    result
}

/// Ends when B ends, with its exit code; or when A fails, with A's.
fn run_pair(
    args: &Args,
    image: Arc<Image>,
    a: &[String],
    b: &[String],
    deadline: Instant,
) -> Result<i32, Error> {
    let pair = Pair::new(image)?;
    let guests = pair.power_on(deadline)?;
    let booted_in = guests.0.booted_in().max(guests.1.booted_in());
    eprintln!("guest: both booted in {:.1} s", booted_in.as_secs_f64());
    let a = guests.0.start(&request(args, a)?)?;
    let b = guests.1.start(&request(args, b)?)?;
    thread::scope(|scope| {
        let (announce, ends) = mpsc::channel();
        for (name, running) in [("a", a), ("b", b)] {
            let announce = announce.clone();
            scope.spawn(move || {
                let mut lines = [PrefixedLines::new(name), PrefixedLines::new(name)];
                let result = follow(&running, deadline, |to_stderr, bytes| {
                    print(to_stderr, &lines[usize::from(to_stderr)].push(bytes));
                });
                print(false, &lines[0].finish());
                print(true, &lines[1].finish());
                // The other one's end may have been enough.
                let _ = announce.send((name, result));
            });
        }
        drop(announce);
        let result = loop {
            match ends.recv() {
                Ok(("a", Ok(0))) => {}
                Ok((name, Ok(code))) => {
                    if name == "a" {
                        eprintln!("guest: a ended with {code}");
                    }
                    break Ok(code);
                }
                Ok((_, Err(error))) => break Err(error),
                Err(_) => break Err(Error::Gone),
            }
        };
        if args.verbose || matches!(result, Err(Error::Gone)) {
            eprint!("guest: a's console says\n{}", guests.0.console());
            eprint!("guest: b's console says\n{}", guests.1.console());
        }
        // Whoever is still followed ends with its guest.
        drop(guests);
        result
    })
}

/// Hands on what a command prints, and whether to standard error, until it ends.
fn follow(running: &Running, deadline: Instant, mut sink: impl FnMut(bool, &[u8])) -> Result<i32, Error> {
    loop {
        match running.next(deadline)? {
            Event::Stdout(bytes) => sink(false, &bytes),
            Event::Stderr(bytes) => sink(true, &bytes),
            Event::Exit(code) => return Ok(code),
            Event::NotStarted(why) => return Err(Error::Command(why)),
        }
    }
}

/// Whoever reads our output may have gone; the command goes on.
fn print(to_stderr: bool, bytes: &[u8]) {
    let _ = if to_stderr {
        std::io::stderr().write_all(bytes)
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    };
}

/// Cuts a stream into whole lines and says whose they are.
struct PrefixedLines {
    name: &'static str,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

impl PrefixedLines {
    fn new(name: &'static str) -> Self {
        Self { name, partial: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.partial.extend(piece);
            if piece.ends_with(b"\n") {
                self.put(&mut out);
            }
        }
        out
    }

    fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.partial.is_empty() {
            self.partial.push(b'\n');
            self.put(&mut out);
        }
        out
    }

    fn put(&mut self, out: &mut Vec<u8>) {
        out.extend(self.name.bytes());
        out.extend(b"| ");
        out.append(&mut self.partial);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_whose_they_are_however_they_are_cut() {
        let mut lines = PrefixedLines::new("a");
        let mut out = Vec::new();
        for piece in ["on", "e\ntwo\n\nth", "", "ree"] {
            out.extend(lines.push(piece.as_bytes()));
        }
        assert_eq!(out, b"a| one\na| two\na| \n");
        assert_eq!(lines.finish(), b"a| three\n");
        assert_eq!(lines.finish(), b"");
    }

    #[test]
    fn a_guests_own_variables_are_not_passed_on() {
        for (name, passed) in [
            ("FARKEEP_SEED", true),
            ("RUST_BACKTRACE", true),
            ("PATH", true),
            ("FARKEEP_GUEST", false),
            ("FARKEEP_GUEST_FSDAX", false),
            ("HOME", false),
            ("LD_LIBRARY_PATH", false),
        ] {
            assert_eq!(is_passed_on(name), passed, "{name}");
        }
    }
}
