//! `farkeep demo`: a leader and a follower on this machine, a stream of writes, a kill -9, and a look at what
//! is left.
//!
//! Everything here is a client of two ordinary nodes: processes of this same program, over TCP, with pools in
//! a temporary directory. Nothing is simulated and nothing is waited for by the clock, only by conditions
//! with a limit. The nodes die and the pools go with the demo, however it ends.

mod check;
mod process;
mod writer;

use std::fs::File;
use std::io::{BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use farkeep_proto::resp::client::Reply;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::client::Client;
use check::Verdict;
use process::Node;
use writer::{Progress, Record, WRITERS};

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);
/// How long followers may take to join.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How long a promoted follower may take to accept a write.
const PROMOTE_LIMIT: Duration = Duration::from_secs(5);
/// The pools need about so much; less room in /dev/shm sends them to the temporary directory.
const ROOM_BYTES: u64 = 1 << 30;
/// Longest stream of writes.
const MAX_SECONDS: u64 = 60;

/// Arguments of `farkeep demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// The leader is killed at a random moment of the second half of so many seconds of writing.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: u64,
    /// It is killed after so many acknowledged writes at the latest.
    #[arg(long, default_value_t = 500_000)]
    writes: u64,
}

/// Set by Ctrl-C.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot handle signals")?;
        }
        Ok(Self(flag))
    }

    /// # Errors
    /// Once Ctrl-C was pressed.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted; the nodes are stopped and their pools removed")
        }
        Ok(())
    }
}

/// Waits for a condition, with a limit.
///
/// # Errors
/// When the limit is over, or whatever the condition fails with.
pub fn wait_until(
    what: &str,
    limit: Duration,
    interrupt: &Interrupt,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    while !condition()? {
        interrupt.check()?;
        if start.elapsed() > limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(start.elapsed())
}

/// Runs the demo; the exit code is 0 only if everything that was acknowledged is there.
///
/// # Errors
/// When a node cannot be started or does not do what it has to.
pub fn demo(arguments: &DemoArguments) -> Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let dir =
        tempfile::Builder::new().prefix("farkeep-demo-").tempdir_in(place()).context("no place for pools")?;
    let mut leader = Node::new("leader", dir.path())?;
    let mut follower = Node::new("follower", dir.path())?;
    let told = tell(arguments, dir.path(), &mut leader, &mut follower, &interrupt);
    if told.is_err() && interrupt.check().is_ok() {
        eprint!("{}{}", leader.log_tail(), follower.log_tail());
    }
    told
}

/// /dev/shm if it is there and has room, else the temporary directory.
fn place() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(shm).map_or(0, |stat| stat.f_bavail * stat.f_frsize);
    if room >= ROOM_BYTES { shm.to_owned() } else { std::env::temp_dir() }
}

/// The story, chapter by chapter.
fn tell(
    arguments: &DemoArguments,
    dir: &Path,
    leader: &mut Node,
    follower: &mut Node,
    interrupt: &Interrupt,
) -> Result<ExitCode> {
    say!(
        "Farkeep demo: the leader of two nodes is killed while it takes writes. Nothing it acknowledged is lost.\n"
    );
    say!(
        "1. A leader starts on port {}, a follower on port {}; their pools are in {}.",
        leader.port,
        follower.port,
        dir.display()
    );
    say!(
        "   Their dashboards are at http://127.0.0.1:{}/ and http://127.0.0.1:{}/.",
        leader.http_port,
        follower.http_port
    );
    let mut to_leader = leader.start(&["--sync-followers", "1"], interrupt)?;
    let leader_port = leader.port.to_string();
    let mut to_follower =
        follower.start(&["--sync-followers", "1", "--replicaof", "127.0.0.1", &leader_port], interrupt)?;
    let took =
        wait_until("the follower to be in sync", JOIN_LIMIT, interrupt, || accepts_a_write(&mut to_leader))?;
    let durability = to_leader.info("farkeep", "farkeep_durability")?;
    let fabric = to_follower.info("farkeep", "farkeep_fabric").unwrap_or_default();
    say!("   In sync after {}, fabric {fabric}, durability {durability}{}.", ms(took), caveat(&durability));
    say!("   sync-followers is 1: the leader says OK only when the follower holds the write durably, too.\n");

    say!(
        "2. {WRITERS} connections write as fast as they can. At a moment nobody knows, the leader gets a kill -9."
    );
    let (records, killed_at) = write_and_kill(arguments, leader, interrupt)?;
    drop(to_leader);
    let acknowledged: u64 = records.iter().map(Record::acknowledged_count).sum();
    let in_flight: u64 = records.iter().map(Record::in_flight).sum();
    say!("   The leader is dead. It had acknowledged {} writes.", grouped(acknowledged));
    say!(
        "   {} more were in flight: their clients got no answer, so they may or may not be there.\n",
        grouped(in_flight)
    );

    say!("3. The follower is promoted: REPLICAOF NO ONE.");
    to_follower.must(&["REPLICAOF", "NO", "ONE"])?;
    if let Reply::Error(text) = to_follower.call(&["SET", "demo:alone", "1"])? {
        say!("   It still owes every client a second copy and has no follower, so it refuses a write:");
        say!("     {}", String::from_utf8_lossy(&text));
    }
    say!("   To go on alone is an operator's decision. We take it: CONFIG SET sync-followers 0.");
    to_follower.must(&["CONFIG", "SET", "sync-followers", "0"])?;
    wait_until("the new leader to accept a write", PROMOTE_LIMIT, interrupt, || {
        accepts_a_write(&mut to_follower)
    })?;
    say!("   First write accepted {} after the kill.\n", ms(killed_at.elapsed()));

    say!("4. Is every acknowledged write there?");
    let verdict = verify(&mut to_follower, &records, acknowledged, interrupt)?;
    if !report(&verdict) {
        return Ok(ExitCode::FAILURE);
    }
    say!();

    say!("5. The dead leader comes back with its old pool, as a follower of the new leader.");
    let follower_port = follower.port.to_string();
    let mut to_returned =
        leader.start(&["--sync-followers", "1", "--replicaof", "127.0.0.1", &follower_port], interrupt)?;
    to_follower.must(&["CONFIG", "SET", "sync-followers", "1"])?;
    let took = wait_until("the old leader to be in sync", JOIN_LIMIT, interrupt, || {
        Ok(accepts_a_write(&mut to_follower)? && same_position(&mut to_follower, &mut to_returned)?)
    })?;
    say!(
        "   In sync after {}: it dropped what it alone had in its log, and took what it had missed.",
        ms(took)
    );
    say!("   sync-followers is 1 again.");
    let verdict = verify(&mut to_returned, &records, acknowledged, interrupt)?;
    if !report(&verdict) {
        return Ok(ExitCode::FAILURE);
    }
    let keys = to_follower.must(&["DBSIZE"])?;
    if to_returned.must(&["DBSIZE"])? != keys {
        say!("   But the two nodes do not have the same number of keys. That is a bug.");
        return Ok(ExitCode::FAILURE);
    }
    compare_images(leader, follower, &mut to_follower, &mut to_returned, interrupt)?;
    say!("\nNothing that was acknowledged is lost. The nodes are stopped and their pools removed.");
    Ok(ExitCode::SUCCESS)
}

/// Whether the node takes a write now and acknowledges it.
fn accepts_a_write(client: &mut Client) -> Result<bool> {
    match client.call(&["SET", "demo:ready", "yes"])? {
        Reply::Error(text) if text.starts_with(b"NOREPLICAS") || text.starts_with(b"READONLY") => Ok(false),
        Reply::Error(text) => Err(anyhow!("a write was refused: {}", text.escape_ascii())),
        _ => Ok(true),
    }
}

/// Whether the follower has applied everything its leader has appended.
fn same_position(leader: &mut Client, follower: &mut Client) -> Result<bool> {
    let appended = leader.info("farkeep", "farkeep_appended_lsn")?;
    Ok(follower.info("replication", "master_link_status")? == "up"
        && follower.info("farkeep", "farkeep_replid")? == leader.info("farkeep", "farkeep_replid")?
        && follower.info("farkeep", "farkeep_applied_lsn")? == appended)
}

/// Lets connections write until the moment comes, kills the leader and collects what the connections know.
fn write_and_kill(
    arguments: &DemoArguments,
    leader: &mut Node,
    interrupt: &Interrupt,
) -> Result<(Vec<Record>, Instant)> {
    let limit = Duration::from_secs(arguments.seconds);
    let share = 0.5 + 0.5 * random_share()?;
    let (kill_after, kill_at_count) = (limit.mul_f64(share), (arguments.writes as f64 * share) as u64);
    let progress = Arc::new(Progress::default());
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        writers.push(writer::start(number, Client::connect_here(leader.port)?, &progress));
    }
    let bar = bar(limit.as_millis() as u64, "   [{bar:40}] {msg}");
    let start = Instant::now();
    let outcome = watch(&bar, &progress, &writers, start, interrupt, |elapsed, count| {
        elapsed >= kill_after || count >= kill_at_count
    });
    let killed_at = outcome.and_then(|()| leader.kill());
    progress.stop.store(true, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let count = progress.acknowledged.load(Ordering::Relaxed);
    bar.finish_and_clear();
    let mut records = Vec::new();
    for writer in writers {
        records.push(writer.join().map_err(|_| anyhow!("a writing connection has failed"))?);
    }
    if let Some(text) = records.iter().find_map(|record| record.refusal.as_ref()) {
        bail!("the leader refused a write: {text}");
    }
    let killed_at = killed_at?;
    say!(
        "   kill -9 after {:.2} s, at {} writes a second.",
        elapsed.as_secs_f64(),
        grouped(per_second(count, elapsed))
    );
    Ok((records, killed_at))
}

/// Moves the bar until `over`, or until no connection writes any more.
fn watch(
    bar: &ProgressBar,
    progress: &Progress,
    writers: &[JoinHandle<Record>],
    start: Instant,
    interrupt: &Interrupt,
    over: impl Fn(Duration, u64) -> bool,
) -> Result<()> {
    loop {
        interrupt.check()?;
        let (elapsed, count) = (start.elapsed(), progress.acknowledged.load(Ordering::Relaxed));
        bar.set_position(elapsed.as_millis() as u64);
        bar.set_message(format!(
            "{} acknowledged, {} a second",
            grouped(count),
            grouped(per_second(count, elapsed))
        ));
        if over(elapsed, count) || writers.iter().all(JoinHandle::is_finished) {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

fn verify(client: &mut Client, records: &[Record], count: u64, interrupt: &Interrupt) -> Result<Verdict> {
    let bar = bar(count, "   [{bar:40}] {human_pos} of {human_len} looked up");
    let verdict = check::check(client, records, &bar, interrupt)?;
    bar.finish_and_clear();
    Ok(verdict)
}

/// Says what a check found; whether all is well.
fn report(verdict: &Verdict) -> bool {
    if verdict.lost == 0 {
        say!("   All {} acknowledged writes are there, with the right values.", grouped(verdict.checked));
        return true;
    }
    say!(
        "   {} of {} acknowledged writes are NOT there. That is a bug.",
        grouped(verdict.lost),
        grouped(verdict.checked)
    );
    for name in &verdict.named {
        say!("     {name}");
    }
    false
}

/// Once both have checkpointed everything, the two images must be the same, byte for byte.
fn compare_images(
    a: &Node,
    b: &Node,
    to_b: &mut Client,
    to_a: &mut Client,
    interrupt: &Interrupt,
) -> Result<()> {
    let checkpointed = |client: &mut Client| -> Result<bool> {
        Ok(client.info("farkeep", "farkeep_checkpoint_lsn")?
            == client.info("farkeep", "farkeep_appended_lsn")?)
    };
    wait_until("both images to hold everything", JOIN_LIMIT, interrupt, || {
        Ok(checkpointed(to_a)? && checkpointed(to_b)? && same_position(to_b, to_a)?)
    })?;
    if let Some(at) = first_difference(&a.image(), &b.image())? {
        bail!("the two images differ at byte {at}, although both hold everything: that is a bug");
    }
    say!("   The images of the two nodes are the same, byte for byte.");
    Ok(())
}

/// The first byte in which two files differ; the shorter one counts as zeroes up to the other's length.
fn first_difference(a: &Path, b: &Path) -> Result<Option<u64>> {
    const CHUNK_BYTES: usize = 1 << 20;
    let open = |path: &Path| File::open(path).map(BufReader::new).with_context(|| path.display().to_string());
    let (mut a, mut b) = (open(a)?, open(b)?);
    let mut at = 0;
    loop {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        (&mut a).take(CHUNK_BYTES as u64).read_to_end(&mut left)?;
        (&mut b).take(CHUNK_BYTES as u64).read_to_end(&mut right)?;
        let len = left.len().max(right.len());
        if len == 0 {
            return Ok(None);
        }
        left.resize(len, 0);
        right.resize(len, 0);
        if let Some(offset) = left.iter().zip(&right).position(|(left, right)| left != right) {
            return Ok(Some(at + offset as u64));
        }
        at += len as u64;
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar(len: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    if !std::io::stdout().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
        return bar;
    }
    bar.set_draw_target(ProgressDrawTarget::stdout());
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar
}

fn caveat(durability: &str) -> &'static str {
    if durability == "volatile" {
        " (memory of this machine: it survives a kill -9, but not a power cut)"
    } else {
        ""
    }
}

/// Between 0 and 1.
fn random_share() -> Result<f64> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random numbers from the kernel: {error}"))?;
    Ok(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

fn per_second(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64().max(0.001)) as u64
}

fn ms(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}

/// 1234567 as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn images_of_different_length_are_equal_if_the_rest_is_zero() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&a, [1, 2, 3, 0, 0]).unwrap();
        std::fs::write(&b, [1, 2, 3]).unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), None);
        std::fs::write(&b, [1, 2, 4]).unwrap();
        assert_eq!(first_difference(&a, &b).unwrap(), Some(2));
    }

    #[test]
    fn condition_that_never_comes_is_named() {
        let interrupt = Interrupt(Arc::new(AtomicBool::new(false)));
        let error = wait_until("the tide", Duration::ZERO, &interrupt, || Ok(false)).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for the tide, in vain");
        interrupt.0.store(true, Ordering::Relaxed);
        let error = wait_until("the tide", Duration::from_secs(9), &interrupt, || Ok(false)).unwrap_err();
        assert!(error.to_string().starts_with("interrupted"));
    }
}
