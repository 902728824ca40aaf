//! Cutting a failing stream down: delta debugging over its steps, then over the arguments of what is left.

use std::time::{Duration, Instant};

use super::Step;
use super::run::{Bench, Mismatch};

/// How often a stream is run in search of a shorter one, ...
const MAX_RUNS: usize = 600;
/// ... and for how long: a long stream of brief expiries takes seconds, and a test that is ended for its time shows nothing at all.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The shortest stream found in which replies still differ, and how they differ there. `first` is the difference seen when all
/// of `steps` ran.
pub fn minimise(bench: &mut Bench, mut steps: Vec<Step>, first: Mismatch) -> (Vec<Step>, Mismatch) {
    steps.truncate(first.index + 1);
    let mut best = Best { bench, steps, mismatch: first, runs: 0, since: Instant::now() };
    let half = best.steps.len() / 2;
    best.remove_steps(half);
    best.simplify_arguments();
    // A step whose arguments could go may be one that could go itself.
    best.remove_steps(1);
    (best.steps, best.mismatch)
}

struct Best<'a> {
    bench: &'a mut Bench,
    steps: Vec<Step>,
    mismatch: Mismatch,
    runs: usize,
    since: Instant,
}

impl Best<'_> {
    /// Runs a candidate, and keeps it if replies still differ in it.
    fn accepts(&mut self, mut candidate: Vec<Step>) -> bool {
        if candidate.is_empty() || self.is_over() {
            return false;
        }
        self.runs += 1;
        match self.bench.run(&candidate) {
            Some(mismatch) => {
                candidate.truncate(mismatch.index + 1);
                self.steps = candidate;
                self.mismatch = mismatch;
                true
            }
            None => false,
        }
    }

    fn is_over(&self) -> bool {
        self.runs >= MAX_RUNS || self.since.elapsed() >= MAX_TIME
    }

    /// Removes runs of `chunk` steps, then of half as many, down to single ones.
    fn remove_steps(&mut self, mut chunk: usize) {
        while chunk > 0 {
            let mut at = 0;
            let mut removed_any = false;
            while at < self.steps.len() && !self.is_over() {
                let end = (at + chunk).min(self.steps.len());
                let mut shorter = self.steps.clone();
                shorter.drain(at..end);
                if self.accepts(shorter) {
                    removed_any = true;
                } else {
                    at = end;
                }
            }
            if chunk > 1 {
                chunk /= 2;
            } else if !removed_any {
                break;
            }
        }
    }

    /// Drops arguments from the end and shortens long ones, as long as replies still differ.
    fn simplify_arguments(&mut self) {
        let mut index = 0;
        while index < self.steps.len() {
            if let Step::Pipeline { connection, commands } = &self.steps[index] {
                let connection = *connection;
                let singles = commands.iter().map(|args| Step::Command { connection, args: args.clone() });
                let mut candidate = self.steps.clone();
                candidate.splice(index..=index, singles);
                if self.accepts(candidate) {
                    continue;
                }
            }
            while let Some(shorter) = self.without_last_argument(index) {
                if !self.accepts(shorter) {
                    break;
                }
            }
            for at in 0.. {
                let Some(shorter) = self.with_short_argument(index, at) else { break };
                if let Some(shorter) = shorter {
                    self.accepts(shorter);
                }
            }
            index += 1;
        }
    }

    fn without_last_argument(&self, index: usize) -> Option<Vec<Step>> {
        let mut steps = self.steps.clone();
        let Step::Command { args, .. } = steps.get_mut(index)? else { return None };
        if args.len() < 2 {
            return None;
        }
        args.pop();
        Some(steps)
    }

    /// `None` when there is no such argument, `Some(None)` when it is short already.
    fn with_short_argument(&self, index: usize, at: usize) -> Option<Option<Vec<Step>>> {
        let mut steps = self.steps.clone();
        let Step::Command { args, .. } = steps.get_mut(index)? else { return None };
        let arg = args.get_mut(at)?;
        if arg.len() <= 8 {
            return Some(None);
        }
        arg.truncate(arg.len() / 4);
        Some(Some(steps))
    }
}
