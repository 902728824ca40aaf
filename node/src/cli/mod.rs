//! The command line.
//!
//! Everything a person sees on a terminal is decided here. A failure is one line on standard error, which
//! says what went wrong, where, and what to do about it, and the exit code 1.

/// Prints a line to standard output. If nobody reads it any more (`… | head`), that is no error; whatever else goes wrong is told in
/// the end ([`note_written`]).
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        $crate::cli::note_written(&writeln!(std::io::stdout().lock(), $($text)*));
    }};
}

mod advice;
mod check;
pub mod client;
mod daemon;
mod demo;
mod group;
pub mod log;
mod pool;
mod serve;
mod shell;
mod top;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Args, CommandFactory, Parser, Subcommand};

/// A Redis-compatible store whose every acknowledged write is durable on two machines.
#[derive(Debug, Parser)]
#[command(name = "farkeep", version = VERSION, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What `farkeep version` says.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (speaks Redis 7.0.15)");

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node: [FILE|-] [--DIRECTIVE VALUE…]…
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArguments),
    /// Watch writes survive the death of a leader, on this machine, in a few seconds.
    Demo(demo::DemoArguments),
    /// Give a group another leader.
    ///
    /// While the leader answers, it hands over: clients see a pause, and nothing is lost. Otherwise the followers that answer are
    /// taken away from it, and the most advanced one is promoted.
    #[command(after_help = group::EXIT_CODES)]
    Failover(group::FailoverArguments),
    /// Show the nodes of a group and who follows whom.
    #[command(after_help = group::EXIT_CODES)]
    Topology(group::ShowArguments),
    /// Say whether a group is well, and if not, why.
    #[command(after_help = group::EXIT_CODES)]
    Status(group::ShowArguments),
    /// Show the reigns that the nodes' logs have seen.
    #[command(after_help = group::EXIT_CODES)]
    History(group::ShowArguments),
    /// Show how far each follower is behind its leader.
    #[command(after_help = group::EXIT_CODES)]
    Lag(group::ShowArguments),
    /// Watch a group in the terminal; `q` quits.
    Top(top::TopArguments),
    /// Say in one line how a node is, for monitoring: exit code 0 well, 1 warning, 2 critical, 3 unknown.
    Check(check::CheckArguments),
    /// Look at a pool that no node is using.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Print completions for a shell.
    Completions(shell::CompletionsArguments),
    /// Print the manual page, or write all of them.
    Man(shell::ManArguments),
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// A configuration file (redis.conf syntax), `-` for standard input, then directives with two dashes
    /// before them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FILE | --DIRECTIVE VALUE")]
    directives: Vec<OsString>,
}

const SERVE_HELP: &str = "\
Directives are those of redis.conf, in the file or as flags; a flag wins. Farkeep's own:
  pool DIR                            where image and log live (default: ./pool)
  log PATH                            the log, if not in the pool: a file, or a device such as /dev/dax0.0
  log-size BYTES                      length of the log's ring (default: 256mb)
  sync-followers N                    a write is acknowledged once N followers hold it durably
  on-follower-loss refuse|degrade     with too few followers: refuse writes, or go on alone
  read-commit yes|no                  whether a read waits until what it read is committed
  fabric auto|rdma|tcp|shm            how the log travels to this node as a follower
  durability auto|pmem|disk|volatile  what makes a byte persistent here
  io-threads N                        I/O workers
  http-port N                         dashboard and metrics on http://127.0.0.1:N/ (default: 0, nowhere)

Examples:
  farkeep serve --port 7777 --pool /mnt/pmem0/farkeep --sync-followers 1
  farkeep serve --port 7778 --pool /mnt/pmem1/farkeep --replicaof 127.0.0.1 7777
  farkeep serve /etc/farkeep.conf --loglevel verbose";

#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// Show what a pool is and how far its watermarks are.
    Inspect(PoolArguments),
    /// Check every record and every structure of a pool; exit code 1 if anything is wrong.
    Verify(PoolArguments),
}

#[derive(Debug, Args)]
struct PoolArguments {
    /// The pool's directory.
    path: PathBuf,
    /// The log, if it is not in the pool.
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Lines for people.
    Table,
    /// One JSON object; when it is watched, one on each line.
    Json,
    /// One YAML 1.2 document.
    Yaml,
}

impl Output {
    /// What there is to print, as a text without the last line's end. `repeated`: it is one of several.
    fn render(self, table: &str, value: &serde_json::Value, repeated: bool) -> String {
        match self {
            Self::Table => table.trim_end().to_owned(),
            Self::Json if repeated => value.to_string(),
            Self::Json => format!("{value:#}"),
            Self::Yaml => {
                let text = serde_yaml_ng::to_string(value).expect("what can be JSON can be YAML");
                format!("{}{}", if repeated { "---\n" } else { "" }, text.trim_end())
            }
        }
    }
}

/// Why something that was to be printed was not, for the first time.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Something was written to standard output, or could not be.
fn note_written(written: &io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        UNWRITTEN.get_or_init(|| error.to_string());
    }
}

/// Runs the command line; the process's exit code. Who asked for something and did not get all of it is told so.
pub fn run() -> ExitCode {
    let code = run_command();
    match UNWRITTEN.get() {
        None => code,
        Some(why) => {
            eprintln!("farkeep: standard output could not be written: {why}");
            if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code }
        }
    }
}

fn run_command() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve::serve(&arguments.directives),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Failover(arguments) => group::failover(&arguments),
        Command::Topology(arguments) => group::topology(&arguments),
        Command::Status(arguments) => group::status(&arguments),
        Command::History(arguments) => group::history(&arguments),
        Command::Lag(arguments) => group::lag(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Check(arguments) => Ok(check::check(&arguments)),
        Command::Completions(arguments) => Ok(shell::completions(&arguments, Arguments::command())),
        Command::Man(arguments) => shell::man(&arguments, Arguments::command()),
        Command::Pool(PoolCommand::Inspect(arguments)) => pool::inspect(&arguments),
        Command::Pool(PoolCommand::Verify(arguments)) => pool::verify(&arguments),
        Command::Version => {
            say!("farkeep {VERSION}");
            Ok(ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("farkeep: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error, its causes and what to do about it, on one line. A cause whose text the line already has is not
/// said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string().replace('\n', " ");
        if !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
    }
    if let Some(advice) = advice::advice(error) {
        line.push_str("; ");
        line.push_str(advice);
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn parse(words: &[&str]) -> Arguments {
        Arguments::try_parse_from(words).unwrap()
    }

    #[test]
    fn command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn serve_hands_every_word_on_as_it_is() {
        let words =
            ["a.conf", "--port", "1", "--save", "", "--bind", "::1", "-", "--rename-command", "KEYS", ""];
        let command_line: Vec<&str> = ["farkeep", "serve"].into_iter().chain(words).collect();
        let Command::Serve(arguments) = parse(&command_line).command else { panic!("serve was given") };
        assert_eq!(arguments.directives, words);
        let Command::Serve(arguments) = parse(&["farkeep", "serve", "--port", "1"]).command else {
            panic!("serve was given")
        };
        assert_eq!(arguments.directives, ["--port", "1"]);
    }

    #[test]
    fn every_output_says_the_same() {
        let value = serde_json::json!({ "name": "10", "at": [1, null] });
        let render = |output: Output, repeated| output.render("name 10\n", &value, repeated);
        assert_eq!(render(Output::Table, false), "name 10");
        assert_eq!(render(Output::Json, true), r#"{"at":[1,null],"name":"10"}"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&render(Output::Json, false)).unwrap(), value);
        assert_eq!(render(Output::Yaml, false), "at:\n- 1\n- null\nname: '10'");
        assert!(render(Output::Yaml, true).starts_with("---\nat:"));
        assert_eq!(serde_yaml_ng::from_str::<serde_json::Value>(&render(Output::Yaml, true)).unwrap(), value);
    }

    #[test]
    fn errors_are_one_line_that_repeats_nothing() {
        let error =
            anyhow::anyhow!("No space left").context("pool /x: No space left").context("cannot\nstart");
        assert_eq!(one_line(&error), "cannot start: pool /x: No space left");
        let error = Err::<(), _>(io::Error::other("b")).context("a").unwrap_err();
        assert_eq!(one_line(&error), "a: b");
    }
}
