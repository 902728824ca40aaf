//! The differential engine: one random stream of commands goes to two servers, and every reply must be the same bytes.
//!
//! The *oracle* is Debian's redis-server, the *subject* is Farkeep. A stream is generated from a seed ([`generate`]), run on both
//! ([`run`]), and each pair of replies is compared ([`compare`]): byte for byte, except where Redis itself promises no order or
//! no exact time. When they differ, the stream is cut down to the few commands that are needed for the difference
//! ([`minimise`]) and shown as one would type it into redis-cli.

mod compare;
mod generate;
mod minimise;
mod run;

use std::fmt;

use crate::client::{quote, show_command};

pub use generate::{Flavour, stream};
pub use run::{Bench, Mismatch};

/// One thing done on one of a stream's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A command with its one reply.
    Command { connection: usize, args: Vec<Vec<u8>> },
    /// Several commands written at once, then their replies.
    Pipeline { connection: usize, commands: Vec<Vec<Vec<u8>>> },
    /// Bytes that need not be a command (inline, malformed), then all replies up to a marker's or to the end of the connection.
    Raw { connection: usize, bytes: Vec<u8> },
    /// A whole SCAN or HSCAN iteration from cursor 0: each server's collected elements are compared as a set. The cursor goes in
    /// place of the argument at `cursor_at`.
    Scan { connection: usize, args: Vec<Vec<u8>>, cursor_at: usize },
    /// The connection is closed and opened again.
    Reconnect { connection: usize },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { connection, args } => write!(out, "[{connection}] {}", show_command(args)),
            Self::Pipeline { connection, commands } => {
                let commands: Vec<String> = commands.iter().map(|args| show_command(args)).collect();
                write!(out, "[{connection}] pipelined: {}", commands.join("; "))
            }
            Self::Raw { connection, bytes } => write!(out, "[{connection}] raw bytes: {}", quote(bytes)),
            Self::Scan { connection, args, .. } => {
                write!(out, "[{connection}] iterate: {}", show_command(args))
            }
            Self::Reconnect { connection } => write!(out, "[{connection}] reconnect"),
        }
    }
}

/// A difference, with the shortest stream found that shows it.
#[derive(Debug)]
pub struct Finding {
    pub seed: u64,
    pub flavour: Flavour,
    pub steps: Vec<Step>,
    pub mismatch: Mismatch,
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "replies differ (seed {}, {:?}); the shortest stream that shows it:",
            self.seed, self.flavour
        )?;
        for step in &self.steps {
            writeln!(out, "    {step}")?;
        }
        writeln!(out, "  oracle:  {}", self.mismatch.oracle)?;
        writeln!(out, "  subject: {}", self.mismatch.subject)
    }
}

impl Finding {
    /// What makes two findings the same for a reader: the command whose replies differ, and how.
    pub fn signature(&self) -> String {
        let last = self.steps.last();
        let name = match last {
            Some(Step::Command { args, .. } | Step::Scan { args, .. }) => args
                .first()
                .map(|name| String::from_utf8_lossy(name).to_ascii_uppercase())
                .unwrap_or_default(),
            Some(Step::Pipeline { .. }) => "pipeline".into(),
            Some(Step::Raw { .. }) => "raw".into(),
            _ => "other".into(),
        };
        let kind = |text: &str| text.chars().take(12).filter(|c| !c.is_ascii_digit()).collect::<String>();
        format!("{name} {} {}", kind(&self.mismatch.oracle), kind(&self.mismatch.subject))
    }
}

/// Runs the streams of `seeds`, each `len` steps long, and returns what differed, minimised: at most `max_findings`, no two with
/// the same signature.
pub fn explore(
    bench: &mut Bench,
    flavour: Flavour,
    seeds: impl Iterator<Item = u64>,
    len: usize,
    max_findings: usize,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for seed in seeds {
        let steps = stream(seed, len, flavour);
        let Some(first) = bench.run(&steps) else { continue };
        let (steps, mismatch) = minimise::minimise(bench, steps, first);
        let finding = Finding { seed, flavour, steps, mismatch };
        if findings.iter().all(|known| known.signature() != finding.signature()) {
            findings.push(finding);
        }
        if findings.len() >= max_findings {
            break;
        }
    }
    findings
}
