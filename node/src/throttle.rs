//! Saying the same thing once, not at every attempt.

/// How long the same reason is not worth another line in the log, in ms.
const SILENCE_MS: u64 = 30_000;
/// Different reasons that are remembered.
const REMEMBERED: usize = 16;

/// Remembers what was said lately. Reasons that differ in their numbers only are the same.
#[derive(Debug, Default)]
pub struct Throttle {
    said: Vec<(String, u64)>,
}

impl Throttle {
    /// Whether `reason` is news at `now_ms`; if so, it is not for the next while.
    pub fn is_news(&mut self, now_ms: u64, reason: &str) -> bool {
        let shape: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
        self.said.retain(|(_, said_ms)| now_ms.saturating_sub(*said_ms) < SILENCE_MS);
        if self.said.iter().any(|(other, _)| *other == shape) {
            return false;
        }
        if self.said.len() == REMEMBERED {
            self.said.remove(0);
        }
        self.said.push((shape, now_ms));
        true
    }

    /// Everything is news again.
    pub fn forget(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_reason_is_news_once_in_thirty_seconds_whatever_its_numbers() {
        let mut throttle = Throttle::default();
        assert!(throttle.is_news(1_000, "silent for 1000 ms"));
        assert!(!throttle.is_news(2_000, "silent for 1001 ms"));
        assert!(throttle.is_news(2_000, "refused"));
        assert!(!throttle.is_news(30_999, "silent for 7 ms"));
        assert!(throttle.is_news(31_000, "silent for 7 ms"));
        throttle.forget();
        assert!(throttle.is_news(31_001, "silent for 7 ms"));
    }
}
