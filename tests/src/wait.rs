//! Waiting for a condition, with a deadline that names what did not happen.

use std::time::{Duration, Instant};

/// How long a test waits for what should happen at once on an idle machine. Generous, because CI machines are not idle.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(2);

/// Polls `condition` until it holds. Panics after [`PATIENCE`], naming `what`.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(holds_within(PATIENCE, condition), "waited {} s in vain for: {what}", PATIENCE.as_secs());
}

/// Polls `condition` until it holds or `limit` has passed, and says which.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(INTERVAL);
    }
}
