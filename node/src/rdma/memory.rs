//! What a leader remembers of followers whose RDMA has failed.
//!
//! After a failure a follower's sessions run over tcp for a while, which doubles with every further failure, so that a link that
//! comes and goes does not take every session along. When the time is over, a session over tcp is asked to try; it goes on undisturbed
//! until the attempt has succeeded. A link that has held for [`HELD_MS`] is a good one, and its next failure the first.

use std::collections::HashMap;

/// The pause after the first failure.
const FIRST_PAUSE_MS: u64 = 1_000;
/// The longest pause.
const LONGEST_PAUSE_MS: u64 = 60_000;
/// A link that has been up for so long does not count as failing.
const HELD_MS: u64 = 60_000;
/// Followers that are remembered; those whose pause ends first are forgotten.
const MAX_REMEMBERED: usize = 128;

#[derive(Debug)]
struct Failing {
    failures: u32,
    until_ms: u64,
    why: String,
    /// Since when a link is up again.
    up_since_ms: Option<u64>,
}

/// The memory of one reign, by node id.
#[derive(Debug, Default)]
pub struct Memory {
    by_node: HashMap<Vec<u8>, Failing>,
}

impl Memory {
    /// A link could not be made, or broke.
    pub fn failed(&mut self, node_id: &[u8], now_ms: u64, why: &str) {
        if self.by_node.len() >= MAX_REMEMBERED && !self.by_node.contains_key(node_id) {
            let first =
                self.by_node.iter().min_by_key(|(_, failing)| failing.until_ms).map(|(id, _)| id.clone());
            first.map(|id| self.by_node.remove(&id));
        }
        let failing = self.by_node.entry(node_id.to_vec()).or_insert_with(|| Failing {
            failures: 0,
            until_ms: 0,
            why: String::new(),
            up_since_ms: None,
        });
        if failing.up_since_ms.take().is_some_and(|since| now_ms.saturating_sub(since) >= HELD_MS) {
            failing.failures = 0;
        }
        let pause_ms = (FIRST_PAUSE_MS << failing.failures.min(16)).min(LONGEST_PAUSE_MS);
        failing.failures = failing.failures.saturating_add(1);
        failing.until_ms = now_ms + pause_ms;
        why.clone_into(&mut failing.why);
    }

    /// A link is up.
    pub fn up(&mut self, node_id: &[u8], now_ms: u64) {
        if let Some(failing) = self.by_node.get_mut(node_id) {
            failing.up_since_ms = Some(now_ms);
        }
    }

    /// Why this follower's RDMA is not used at the moment.
    pub fn reason(&self, node_id: &[u8], now_ms: u64) -> Option<String> {
        let failing = self.by_node.get(node_id).filter(|failing| failing.up_since_ms.is_none())?;
        let left_ms = failing.until_ms.checked_sub(now_ms).filter(|&left| left > 0)?;
        Some(format!("{}, tried again in {} s", failing.why, left_ms.div_ceil(1000)))
    }

    /// Whether a session over tcp should be asked to try. Whoever was never known to fail need not be.
    pub fn is_due(&self, node_id: &[u8], now_ms: u64) -> bool {
        self.by_node
            .get(node_id)
            .is_some_and(|failing| failing.up_since_ms.is_none() && now_ms >= failing.until_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_every_failure_up_to_a_minute() {
        let mut memory = Memory::default();
        assert_eq!((memory.reason(b"a", 0), memory.is_due(b"a", 0)), (None, false), "never failed");
        let mut now_ms = 5;
        for pause_s in [1, 2, 4, 8, 16, 32, 60, 60] {
            memory.failed(b"a", now_ms, "the connection broke");
            let reason = format!("the connection broke, tried again in {pause_s} s");
            assert_eq!(memory.reason(b"a", now_ms), Some(reason));
            now_ms += pause_s * 1000 - 1;
            assert!(!memory.is_due(b"a", now_ms) && memory.reason(b"a", now_ms).is_some());
            now_ms += 1;
            assert!(memory.is_due(b"a", now_ms) && memory.reason(b"a", now_ms).is_none());
        }
        assert!(!memory.is_due(b"b", now_ms), "nobody else's failure");
    }

    #[test]
    fn a_link_that_held_for_a_minute_begins_anew_and_one_that_did_not_goes_on() {
        let mut memory = Memory::default();
        memory.failed(b"a", 0, "x");
        memory.up(b"a", 1_000);
        assert_eq!((memory.reason(b"a", 1_000), memory.is_due(b"a", 9_000)), (None, false), "it is up");
        memory.failed(b"a", 10_000, "x");
        assert_eq!(memory.reason(b"a", 10_000).unwrap(), "x, tried again in 2 s");
        memory.up(b"a", 12_000);
        memory.failed(b"a", 72_000, "x");
        assert_eq!(memory.reason(b"a", 72_000).unwrap(), "x, tried again in 1 s");
    }

    #[test]
    fn only_so_many_followers_are_remembered() {
        let mut memory = Memory::default();
        for number in 0..2 * MAX_REMEMBERED as u64 {
            memory.failed(&number.to_le_bytes(), number, "x");
        }
        assert_eq!(memory.by_node.len(), MAX_REMEMBERED);
        assert!(memory.reason(&(2 * MAX_REMEMBERED as u64 - 1).to_le_bytes(), 300).is_some());
    }
}
