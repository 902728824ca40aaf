//! The tests that need a guest: `cargo xtask guest --suite [WORD...]`.
//!
//! They are ordinary Rust tests, anywhere in the workspace, marked `#[ignore]` because they cannot run just anywhere, and known
//! by their names. A test whose name, or whose module's, begins with `guest_` runs in a guest that has everything ([`super`]
//! says what); all of them share one guest, one after another, so each clears away what it leaves on the persistent memory. A
//! test `pair_...` runs on this machine and boots what it needs itself, with [`super::Pair`].
//!
//! Every test is a process of its own with a time limit of its own. A guest that does not survive a test is replaced by a new one.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::machine::{AGENT_VARIABLE, NUMBER_ALONE};
use super::{Error, Event, Guest, Image, Machine, Network, Request, RunDir};
use crate::phase::{Outcome, cargo, run, target_dir};

/// How long the suite may take, building excluded, when nobody says.
pub const SUITE_LIMIT: Duration = Duration::from_secs(480);

/// How often a test is run before it counts as failed.
const ATTEMPTS: u32 = 2;

/// How long one test may take.
const TEST_LIMIT: Duration = Duration::from_secs(180);

/// How long a killed test may take to be gone before its guest is given up.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Builds the workspace's tests and runs those of the guest whose names contain one of `words`, or all.
///
/// # Errors
/// A test fails, there is none, the time is over, or there is no guest to be had.
pub fn run_suite(words: &[String], limit: Duration) -> Outcome {
    let image = Arc::new(Image::get()?);
    run(&mut cargo(&["build", "--release", "--package", "farkeep"]))?;
    let mut tests = Vec::new();
    for binary in test_binaries()? {
        tests.extend(binary.tests()?);
    }
    tests.retain(|test| words.is_empty() || words.iter().any(|word| test.name.contains(word)));
    if tests.is_empty() {
        return Err("no test of the guest has such a name".into());
    }
    let (in_guest, on_host): (Vec<Test>, Vec<Test>) =
        tests.into_iter().partition(|test| test.place == Place::InGuest);
    let mut report = Report::new(limit);
    if !in_guest.is_empty() {
        let mut runner = GuestRunner::new(image)?;
        for test in &in_guest {
            report.judge(test, |until| runner.run(test, until));
        }
    }
    for test in &on_host {
        report.judge(test, |until| run_on_host(test, until));
    }
    report.finish(limit)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    InGuest,
    OnHost,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Test {
    binary: PathBuf,
    package_dir: PathBuf,
    name: String,
    place: Place,
}

impl fmt::Display for Test {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = self.binary.file_name().unwrap_or_default().to_string_lossy();
        // cargo's hash says nothing to a reader.
        let binary = binary.rsplit_once('-').map_or(&*binary, |(name, _)| name);
        write!(out, "{binary} {}", self.name)
    }
}

impl Test {
    fn argv(&self) -> Vec<String> {
        let binary = self.binary.display().to_string();
        vec![binary, "--exact".into(), self.name.clone(), "--nocapture".into(), "--include-ignored".into()]
    }
}

/// The end of a test.
struct Verdict {
    passed: bool,
    output: String,
}

/// How the suite goes.
struct Report {
    deadline: Instant,
    passed: usize,
    /// They passed when they were run once more: in an emulated machine on a busy one, a peer's deadline passes at times.
    flaky: Vec<String>,
    failed: Vec<String>,
    /// There was no time left for these.
    not_run: usize,
}

impl Report {
    fn new(limit: Duration) -> Self {
        Self {
            deadline: Instant::now() + limit,
            passed: 0,
            flaky: Vec::new(),
            failed: Vec::new(),
            not_run: 0,
        }
    }

    /// Runs one test, once more if it fails, and says how it went; a failed one with all that it printed.
    fn judge(&mut self, test: &Test, mut run: impl FnMut(Instant) -> Result<Verdict, Error>) {
        for attempt in 1..=ATTEMPTS {
            let start = Instant::now();
            if start >= self.deadline {
                self.not_run += 1;
                return;
            }
            let verdict = run(self.deadline.min(start + TEST_LIMIT));
            let took = start.elapsed().as_secs_f64();
            let output = match verdict {
                Ok(Verdict { passed: true, .. }) => {
                    self.passed += 1;
                    if attempt > 1 {
                        self.flaky.push(test.to_string());
                    }
                    return println!("    ok {took:6.1} s  {test}");
                }
                Ok(Verdict { output, .. }) => output,
                Err(error) => error.to_string(),
            };
            println!("FAILED {took:6.1} s  {test}\n{output}");
        }
        self.failed.push(test.to_string());
    }

    fn finish(self, limit: Duration) -> Outcome {
        println!("guest: {} passed, {} failed, {} not run", self.passed, self.failed.len(), self.not_run);
        if !self.flaky.is_empty() {
            println!("guest: passed only when run once more: {}", self.flaky.join(", "));
        }
        let mut complaints = Vec::new();
        if !self.failed.is_empty() {
            complaints.push(format!("failed in the guest: {}", self.failed.join(", ")));
        }
        if self.not_run > 0 {
            complaints.push(format!(
                "{} tests not run within {} s (cargo xtask guest --timeout SECONDS --suite)",
                self.not_run,
                limit.as_secs()
            ));
        }
        if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
    }
}

/// The guest that the `guest_` tests share.
struct GuestRunner {
    image: Arc<Image>,
    dir: Arc<RunDir>,
    /// One after the other; a guest that was given up leaves its machine's files behind until the end.
    machines: usize,
    guest: Option<Guest>,
}

impl GuestRunner {
    fn new(image: Arc<Image>) -> Result<Self, String> {
        Ok(Self { image, dir: Arc::new(RunDir::new()?), machines: 0, guest: None })
    }

    fn run(&mut self, test: &Test, deadline: Instant) -> Result<Verdict, Error> {
        let guest = match self.guest.take() {
            Some(guest) => guest,
            None => self.boot(deadline)?,
        };
        let env = [
            ("PATH".into(), std::env::var("PATH").unwrap_or_default()),
            ("RUST_BACKTRACE".into(), "1".into()),
            ("FARKEEP_BIN".into(), release_binary().display().to_string()),
        ];
        let request = Request {
            argv: test.argv(),
            env: env.into(),
            cwd: test.package_dir.display().to_string(),
            memlock_kib: None,
        };
        let running = guest.start(&request)?;
        let mut output = String::new();
        let ended = loop {
            match running.next(deadline) {
                Ok(Event::Stdout(bytes) | Event::Stderr(bytes)) => {
                    output.push_str(&String::from_utf8_lossy(&bytes));
                }
                Ok(Event::Exit(code)) => break Ok(code),
                Ok(Event::NotStarted(why)) => break Err(Error::Command(why)),
                Err(error) => break Err(error),
            }
        };
        match ended {
            Ok(code) => {
                self.guest = Some(guest);
                Ok(Verdict { passed: code == 0, output })
            }
            Err(Error::TimedOut(_)) => {
                // If it can be killed, the next test may have the guest.
                running.signal("KILL")?;
                if running.wait(KILL_LIMIT).is_ok() {
                    self.guest = Some(guest);
                }
                Err(Error::TimedOut(format!("it did not end in time; it wrote\n{output}")))
            }
            Err(error) => Err(Error::Command(format!("{error}; it wrote\n{output}\n{}", guest.console()))),
        }
    }

    fn boot(&mut self, deadline: Instant) -> Result<Guest, Error> {
        self.machines += 1;
        let name = format!("guest{}", self.machines);
        let machine =
            Machine::new(self.image.clone(), self.dir.clone(), &name, NUMBER_ALONE, Network::Alone)?;
        let guest = machine.power_on(deadline)?;
        println!("guest: booted in {:.1} s", guest.booted_in().as_secs_f64());
        Ok(guest)
    }
}

/// A `pair_` test. It dies with us, and its guests with it.
fn run_on_host(test: &Test, deadline: Instant) -> Result<Verdict, Error> {
    let unavailable = |error: std::io::Error| Error::Unavailable(format!("cannot start {test}: {error}"));
    // The build of the tests may have replaced the file we were started from; this link leads to what runs.
    let agent = format!("/proc/{}/exe", std::process::id());
    let (mut output, into) = std::io::pipe().map_err(unavailable)?;
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(test.argv())
        .current_dir(&test.package_dir)
        .env(AGENT_VARIABLE, agent)
        .env("FARKEEP_BIN", release_binary())
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(into.try_clone().map_err(unavailable)?)
        .stderr(into)
        .spawn()
        .map_err(unavailable)?;
    let (announce, ended) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = output.read_to_end(&mut bytes);
        // Whoever waited may have given up.
        let _ = announce.send((read.is_ok(), String::from_utf8_lossy(&bytes).into_owned()));
    });
    let written = ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    // Its output has ended, so it has, or its time has.
    if written.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(unavailable)?;
    match written {
        Ok((_, output)) => Ok(Verdict { passed: status.success(), output }),
        Err(_) => {
            let (_, output) = ended.recv_timeout(KILL_LIMIT).unwrap_or_default();
            Err(Error::TimedOut(format!("it did not end in time; it wrote\n{output}")))
        }
    }
}

fn release_binary() -> PathBuf {
    target_dir().join("release/farkeep")
}

/// A compiled test binary.
#[derive(Debug, PartialEq, Eq)]
struct TestBinary {
    path: PathBuf,
    package_dir: PathBuf,
}

impl TestBinary {
    fn tests(&self) -> Result<Vec<Test>, String> {
        let output = Command::new(&self.path)
            .args(["--list", "--format", "terse"])
            .current_dir(&self.package_dir)
            .output()
            .map_err(|error| format!("cannot list the tests of {}: {error}", self.path.display()))?;
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(tests_in(&listing)
            .map(|(name, place)| Test {
                binary: self.path.clone(),
                package_dir: self.package_dir.clone(),
                name,
                place,
            })
            .collect())
    }
}

/// The tests of the guest in what `--list --format terse` prints.
fn tests_in(listing: &str) -> impl Iterator<Item = (String, Place)> {
    listing.lines().filter_map(|line| {
        let path = line.strip_suffix(": test")?;
        let begins = |prefix: &str| path.split("::").any(|name| name.starts_with(prefix));
        let place = if begins("guest_") {
            Place::InGuest
        } else if begins("pair_") {
            Place::OnHost
        } else {
            return None;
        };
        Some((path.to_owned(), place))
    })
}

/// Builds the workspace's tests as nextest does, so that nothing is built twice, and says where they are.
fn test_binaries() -> Result<Vec<TestBinary>, String> {
    let mut command =
        cargo(&["test", "--quiet", "--no-run", "--workspace", "--tests", "--message-format=json"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot build the tests: {error}"))?;
    if !output.status.success() {
        return Err("the tests do not compile (cargo test --no-run --workspace)".into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(test_binary_in).collect())
}

/// The test binary that a line of cargo's JSON announces, if it does.
fn test_binary_in(line: &str) -> Option<TestBinary> {
    // The target says whether it has tests, the profile whether this is the binary that runs them.
    let (_, profile) = line.split_once(r#""profile":{"#)?;
    let (profile, _) = profile.split_once('}')?;
    if !line.contains(r#""reason":"compiler-artifact""#) || !profile.contains(r#""test":true"#) {
        return None;
    }
    let path = PathBuf::from(json_string(line, "executable")?);
    let manifest = json_string(line, "manifest_path")?;
    Some(TestBinary { path, package_dir: Path::new(&manifest).parent()?.to_owned() })
}

/// The value of a member that is a string. cargo writes no blanks between tokens, and of the escapes a path needs only these.
fn json_string(line: &str, member: &str) -> Option<String> {
    let start = line.find(&format!("\"{member}\":\""))? + member.len() + 4;
    let mut value = String::new();
    let mut chars = line[start..].chars();
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => value.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\' | '/'))?),
            plain => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARTIFACT: &str = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/tests#farkeep-tests@0.1.0","manifest_path":"/x/a \"b\"/Cargo.toml","target":{"kind":["test"],"name":"guest","test":true},"profile":{"opt_level":"0","debuginfo":1,"test":true},"features":[],"filenames":["/x/t/guest-1f"],"executable":"/x/t/guest-1f","fresh":true}"#;

    #[test]
    fn a_test_binary_is_found_in_cargos_messages() {
        let expected = TestBinary { path: "/x/t/guest-1f".into(), package_dir: "/x/a \"b\"".into() };
        assert_eq!(test_binary_in(ARTIFACT), Some(expected));
    }

    #[test]
    fn what_is_no_test_binary_is_passed_over() {
        // The binary itself, built for its integration tests.
        let ordinary = ARTIFACT.replace(r#"1,"test":true}"#, r#"1,"test":false}"#);
        assert_eq!(test_binary_in(&ordinary), None);
        assert_eq!(test_binary_in(&ARTIFACT.replace(r#""/x/t/guest-1f","fresh"#, r#"null,"fresh"#)), None);
        assert_eq!(test_binary_in(r#"{"reason":"build-finished","success":true}"#), None);
    }

    #[test]
    fn only_names_that_begin_so_are_tests_of_the_guest() {
        let listing = "rdma::tests::guest_a_write_arrives: test\nguest_over_rdma::it_ends: test\npair_a_power_cut: test\n\
                       guests_are_welcome: test\nrepair_guest_room: test\nguest_speed: benchmark\n";
        let found: Vec<(String, Place)> = tests_in(listing).collect();
        assert_eq!(
            found,
            [
                ("rdma::tests::guest_a_write_arrives".to_owned(), Place::InGuest),
                ("guest_over_rdma::it_ends".to_owned(), Place::InGuest),
                ("pair_a_power_cut".to_owned(), Place::OnHost),
            ]
        );
    }
}
