//! Waiting for a condition.

use std::time::{Duration, Instant};

use anyhow::bail;
use farkeep_benches::stop::Stop;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Looks at `condition` until it holds.
///
/// # Errors
/// `condition` failed, `limit` passed, or somebody asked to stop.
pub fn until(
    what: &str,
    limit: Duration,
    stop: &Stop,
    condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    until_polling(POLL, what, limit, stop, condition)
}

/// As [`until`], for a condition whose looking at takes a while.
pub fn until_polling(
    poll: Duration,
    what: &str,
    limit: Duration,
    stop: &Stop,
    mut condition: impl FnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !condition()? {
        if stop.requested() {
            bail!("interrupted");
        }
        if begun.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        std::thread::sleep(poll);
    }
    Ok(())
}
