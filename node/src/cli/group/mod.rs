//! The commands about a running group: who leads, who follows, how far everybody is, and who is to lead.
//!
//! All of them are clients of ordinary nodes and know only what INFO says.

pub mod discover;
mod failover;
mod show;
pub mod sync;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::Output;
use discover::{Address, Group, Login};

pub use failover::{FailoverArguments, failover};
pub use show::{why_down, why_refused};

/// Between two looks of `--watch`.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Not done: acknowledged writes could be lost, and nobody said that this is all right.
const WOULD_LOSE: u8 = 3;
/// There is a leader, but something is not as it should be.
const UNHEALTHY: u8 = 4;
/// There is no leader, or more than one.
const LEADERLESS: u8 = 5;

/// What `--help` of these commands ends with.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; or (status) all is well, but for a follower that is being synchronised while no write waits for it
  1  not done, for the reason that was printed; nothing has changed unless it says so
  2  the command line is wrong
  3  not done: acknowledged writes could be lost, and neither --force nor an answer at the terminal allowed it
  4  (status, failover) there is a leader, but fewer followers than there should be
  5  (status) there is no leader, or more than one";

/// Which group, and how to get in.
#[derive(Debug, Args)]
pub struct GroupArguments {
    /// Any node of the group; the others are found from it. May be given several times.
    #[arg(short = 'n', long = "node", value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    nodes: Vec<Address>,
    /// The password of the nodes.
    #[arg(short = 'a', long, env = "FARKEEP_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// The user, if it is not the default one.
    #[arg(long)]
    user: Option<String>,
}

impl GroupArguments {
    fn login(&self) -> Login {
        Login { user: self.user.clone(), password: self.password.clone() }
    }

    /// All nodes that can be found.
    ///
    /// # Errors
    /// When none of them answers.
    pub fn discover(&self) -> Result<Group> {
        Group::discover(&self.nodes, &self.login())
    }
}

/// A look at a group.
#[derive(Debug, Args)]
pub struct ShowArguments {
    #[command(flatten)]
    group: GroupArguments,
    /// Look again every second, until interrupted.
    #[arg(short, long)]
    watch: bool,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What there is to see of a group: lines for people, the same for scripts, and the exit code.
#[derive(Debug)]
struct Shown {
    table: String,
    json: serde_json::Value,
    code: u8,
}

/// `farkeep topology`
///
/// # Errors
/// When no node answers.
pub fn topology(arguments: &ShowArguments) -> Result<ExitCode> {
    show(arguments, show::topology)
}

/// `farkeep status`
///
/// # Errors
/// When no node answers.
pub fn status(arguments: &ShowArguments) -> Result<ExitCode> {
    show(arguments, show::status)
}

/// `farkeep history`
///
/// # Errors
/// When no node answers.
pub fn history(arguments: &ShowArguments) -> Result<ExitCode> {
    show(arguments, show::history)
}

/// `farkeep lag`
///
/// # Errors
/// When no node answers.
pub fn lag(arguments: &ShowArguments) -> Result<ExitCode> {
    show(arguments, show::lag)
}

/// Looks at a group again and again, also once the nodes that were named are gone.
#[derive(Debug)]
pub struct Lookout<'a> {
    arguments: &'a GroupArguments,
    /// Who answered the last time.
    answered: Vec<Address>,
}

impl<'a> Lookout<'a> {
    /// Nobody has been looked at yet.
    pub fn new(arguments: &'a GroupArguments) -> Self {
        Self { arguments, answered: Vec::new() }
    }

    /// All nodes that can be found.
    ///
    /// # Errors
    /// When neither one that was named nor one that answered the last time does.
    pub fn look(&mut self) -> Result<Group> {
        let named = self.arguments.discover();
        let group = match named {
            Err(_) if !self.answered.is_empty() => {
                let nodes = [&self.arguments.nodes[..], &self.answered].concat();
                Group::discover(&nodes, &self.arguments.login())?
            }
            named => named?,
        };
        self.answered = group.nodes.iter().map(|node| node.address.clone()).collect();
        Ok(group)
    }
}

fn show(arguments: &ShowArguments, judge: fn(&Group) -> Shown) -> Result<ExitCode> {
    let mut lookout = Lookout::new(&arguments.group);
    let mut shown = judge(&lookout.look()?);
    loop {
        let mut out = std::io::stdout().lock();
        if arguments.watch && arguments.output == Output::Table && out.is_terminal() {
            // Home, and clear what follows.
            write!(out, "\x1b[H\x1b[J")?;
        }
        let text = arguments.output.render(&shown.table, &shown.json, arguments.watch);
        let written = writeln!(out, "{text}").and_then(|()| out.flush());
        super::note_written(&written);
        let read = written.is_ok();
        drop(out);
        // Without a reader there is nothing to watch for.
        if !arguments.watch || !read {
            return Ok(ExitCode::from(shown.code));
        }
        shown = loop {
            std::thread::sleep(WATCH_PERIOD);
            match lookout.look() {
                Ok(group) => break judge(&group),
                // They may come back.
                Err(error) => eprintln!("farkeep: {}", super::one_line(&error)),
            }
        };
    }
}
