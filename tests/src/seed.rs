//! Seeds: fresh ones by default, a given one to replay a failure.
//!
//! `FARKEEP_SEED=n` fixes the first seed and `FARKEEP_SEEDS=count` says how many follow it. A test prints the seed it fails
//! with, and the command that replays it.

use std::time::{SystemTime, UNIX_EPOCH};

/// The seeds to run: `default_count` fresh ones, unless the environment says otherwise.
pub fn seeds(default_count: u64) -> std::ops::Range<u64> {
    let given = number("FARKEEP_SEED");
    let count = number("FARKEEP_SEEDS").unwrap_or(if given.is_some() { 1 } else { default_count });
    let first = given.unwrap_or_else(fresh);
    first..first.saturating_add(count)
}

/// A seed nobody chose.
pub fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (u64::from(now.subsec_nanos()) << 20) ^ now.as_secs() ^ (u64::from(std::process::id()) << 12)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}
