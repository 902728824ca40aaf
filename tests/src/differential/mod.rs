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

impl Finding {}

/// What a finding is about.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Command(Vec<u8>),
    Raw(Vec<u8>),
}

impl Subject {
    /// What the last of `steps` is about.
    fn of(steps: &[Step]) -> Self {
        match steps.last() {
            Some(Step::Command { args, .. } | Step::Scan { args, .. }) => Self::Command(name(args)),
            Some(Step::Pipeline { commands, .. }) => {
                Self::Command(commands.last().map_or_else(Vec::new, |args| name(args)))
            }
            Some(Step::Raw { bytes, .. }) => Self::Raw(bytes.clone()),
            _ => Self::Command(Vec::new()),
        }
    }

    fn is_in(&self, step: &Step) -> bool {
        // A container that differs by itself differs with every subcommand.
        let covers = |known: &[u8], args: &[Vec<u8>]| {
            let name = name(args);
            known == name || (known.ends_with(b" ") && name.starts_with(known))
        };
        match (self, step) {
            (Self::Command(known), Step::Command { args, .. } | Step::Scan { args, .. }) => {
                covers(known, args)
            }
            (Self::Command(known), Step::Pipeline { commands, .. }) => {
                commands.iter().any(|args| covers(known, args))
            }
            (Self::Raw(known), Step::Raw { bytes, .. }) => known == bytes,
            _ => false,
        }
    }
}

/// The command's name, and its subcommand's where it has some.
fn name(args: &[Vec<u8>]) -> Vec<u8> {
    const CONTAINERS: &[&[u8]] = &[b"CLIENT", b"CONFIG", b"COMMAND", b"OBJECT", b"MEMORY"];
    let mut name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    if CONTAINERS.contains(&name.as_slice()) {
        name.push(b' ');
        name.extend(args.get(1).map(|name| name.to_ascii_uppercase()).unwrap_or_default());
    }
    name
}

/// Runs the streams of `seeds`, each `len` steps long, and returns what differed, minimised: at most `max_findings`. What a
/// finding is about is left out of the streams after it, and of the rest of its own.
pub fn explore(
    bench: &mut Bench,
    flavour: Flavour,
    seeds: impl Iterator<Item = u64>,
    len: usize,
    max_findings: usize,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut left_out: Vec<Subject> = Vec::new();
    for seed in seeds {
        let mut steps = stream(seed, len, flavour);
        loop {
            steps.retain(|step| left_out.iter().all(|subject| !subject.is_in(step)));
            if findings.len() >= max_findings {
                return findings;
            }
            let Some(first) = bench.run(&steps) else { break };
            // Cutting down may end at another difference than it began with: both are left out from here on.
            left_out.push(Subject::of(&steps[..=first.index]));
            let (steps, mismatch) = minimise::minimise(bench, steps.clone(), first);
            left_out.push(Subject::of(&steps));
            findings.push(Finding { seed, flavour, steps, mismatch });
        }
    }
    findings
}
