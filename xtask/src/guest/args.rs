//! The command line of the guest's door.

use std::time::Duration;

use super::suite::SUITE_LIMIT;

/// How long everything may take when nobody says.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// What is said when the command line makes no sense.
pub const USAGE: &str = "\
cargo xtask guest [OPTIONS] [--] COMMAND...            run COMMAND in a guest with soft-RoCE and persistent memory
cargo xtask guest [OPTIONS] --pair A... -- B...        run A in one guest and B in another on the same wire; ends with B
cargo xtask guest [OPTIONS] --suite [WORD...]          run the tests that need a guest, or those whose names have such a word

  --timeout SECONDS      for everything, boot included (600; the suite 480, building excluded)
  --memlock KIB          limit on locked memory of the command, without CAP_IPC_LOCK (none)
  --env NAME=VALUE       a variable for the command; may be repeated. FARKEEP_*, RUST_* and PATH are passed on anyway
  --verbose              show the guest's console when it is done

The command runs in the current directory on a read-only view of this machine's files; what it writes is lost.
It finds in its environment: FARKEEP_GUEST=1, FARKEEP_GUEST_DEVDAX, FARKEEP_GUEST_DEVDAX2 (devices), FARKEEP_GUEST_FSDAX (a directory),
FARKEEP_GUEST_RDMA (the RDMA device), FARKEEP_GUEST_ADDRESS and, in a pair, FARKEEP_GUEST_PEER.
Exits as the command did; 124 if the time is over, 125 if there is no guest to be had.";

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// One command in one guest.
    One(Vec<String>),
    /// A command in each of two guests.
    Pair(Vec<String>, Vec<String>),
    /// The tests that need a guest; those whose names contain one of the words, or all.
    Suite(Vec<String>),
}

/// A parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// What to run.
    pub work: Work,
    /// For everything, boot included.
    pub timeout: Duration,
    /// See [`Request::memlock_kib`](super::frame::Request::memlock_kib).
    pub memlock_kib: Option<u64>,
    /// More variables for the command.
    pub env: Vec<(String, String)>,
    /// Show the console.
    pub verbose: bool,
}

impl Args {
    /// Options come first; the first word that is none, or `--`, begins the command.
    ///
    /// # Errors
    /// A sentence for the person at the terminal.
    pub fn parse(args: &[String]) -> Result<Args, String> {
        let mut parsed = Args {
            work: Work::One(Vec::new()),
            timeout: DEFAULT_TIMEOUT,
            memlock_kib: None,
            env: Vec::new(),
            verbose: false,
        };
        let (mut pair, mut suite) = (false, false);
        let mut timeout = None;
        let mut rest = args;
        while let Some((word, after)) = rest.split_first() {
            if !word.starts_with("--") {
                break;
            }
            rest = after;
            let mut value = || {
                let (value, after) = rest.split_first().ok_or_else(|| format!("{word} needs a value"))?;
                rest = after;
                Ok::<&String, String>(value)
            };
            match word.as_str() {
                "--" => break,
                "--pair" => pair = true,
                "--suite" => suite = true,
                "--verbose" => parsed.verbose = true,
                "--timeout" => timeout = Some(Duration::from_secs(number(word, value()?)?)),
                "--memlock" => parsed.memlock_kib = Some(number(word, value()?)?),
                "--env" => {
                    let pair = value()?;
                    let (name, value) =
                        pair.split_once('=').ok_or_else(|| format!("--env {pair}: not NAME=VALUE"))?;
                    parsed.env.push((name.to_owned(), value.to_owned()));
                }
                other => return Err(format!("unknown option {other}\n\n{USAGE}")),
            }
        }
        parsed.work = if pair && suite {
            return Err("either --pair or --suite".into());
        } else if suite {
            Work::Suite(rest.to_vec())
        } else if pair {
            let (a, b) = split_pair(rest).ok_or_else(|| format!("--pair needs A... -- B...\n\n{USAGE}"))?;
            Work::Pair(a, b)
        } else {
            Work::One(rest.to_vec())
        };
        parsed.timeout = timeout.unwrap_or(if suite { SUITE_LIMIT } else { DEFAULT_TIMEOUT });
        if parsed.work == Work::One(Vec::new()) {
            return Err(format!("no command\n\n{USAGE}"));
        }
        Ok(parsed)
    }
}

/// A's words and B's words: the first `--` between them parts them, so only B may have one of its own.
fn split_pair(words: &[String]) -> Option<(Vec<String>, Vec<String>)> {
    let at = words.iter().position(|word| word == "--")?;
    let (a, b) = (&words[..at], &words[at + 1..]);
    (!a.is_empty() && !b.is_empty()).then(|| (a.to_vec(), b.to_vec()))
}

fn number(option: &str, value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{option} {value}: not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Args, String> {
        Args::parse(&words(line))
    }

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_commands_own_options_are_left_alone() {
        for line in [&["ls", "--timeout", "--", "x"][..], &["--", "ls", "--timeout", "--", "x"]] {
            let args = parse(line).unwrap();
            assert_eq!(args.work, Work::One(words(&["ls", "--timeout", "--", "x"])));
            assert_eq!(args.timeout, DEFAULT_TIMEOUT);
        }
        assert_eq!(parse(&["--", "--version"]).unwrap().work, Work::One(words(&["--version"])));
    }

    #[test]
    fn options_are_understood_before_the_command() {
        let line =
            ["--timeout", "5", "--memlock", "64", "--env", "A=b=c", "--env", "D=", "--verbose", "true"];
        let args = parse(&line).unwrap();
        assert_eq!(args.timeout, Duration::from_secs(5));
        assert_eq!(args.memlock_kib, Some(64));
        assert_eq!(args.env, [("A".into(), "b=c".into()), ("D".into(), String::new())]);
        assert!(args.verbose);
        assert_eq!(args.work, Work::One(words(&["true"])));
    }

    #[test]
    fn a_pair_is_parted_at_the_first_dashes_behind_a() {
        let expected = Work::Pair(words(&["rping", "-s"]), words(&["sh", "-c", "x", "--", "y"]));
        let b = ["rping", "-s", "--", "sh", "-c", "x", "--", "y"];
        assert_eq!(parse(&[&["--pair"][..], &b].concat()).unwrap().work, expected);
        assert_eq!(parse(&[&["--pair", "--"][..], &b].concat()).unwrap().work, expected);
    }

    #[test]
    fn the_suite_has_a_limit_of_its_own() {
        let args = parse(&["--suite", "guest_a", "pair_b"]).unwrap();
        assert_eq!((args.work, args.timeout), (Work::Suite(words(&["guest_a", "pair_b"])), SUITE_LIMIT));
        assert_eq!(parse(&["--timeout", "9", "--suite"]).unwrap().timeout, Duration::from_secs(9));
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (line, reason) in [
            (&[][..], "no command"),
            (&["--"], "no command"),
            (&["--timeout"], "needs a value"),
            (&["--timeout", "soon", "true"], "not a number"),
            (&["--env", "A", "true"], "not NAME=VALUE"),
            (&["--loud", "true"], "unknown option"),
            (&["--pair", "--suite"], "either"),
            (&["--pair", "true"], "--pair needs"),
            (&["--pair", "true", "--"], "--pair needs"),
            (&["--pair", "--", "--", "true"], "--pair needs"),
        ] {
            let why = parse(line).unwrap_err();
            assert!(why.contains(reason), "{line:?}: {why}");
        }
    }
}
