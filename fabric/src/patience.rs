//! How long to look for a completion before sleeping until it is announced.
//!
//! Over RDMA a flush is back within microseconds, which is less than it takes to fall asleep and be woken. So whoever waits
//! for one looks for a while first. Where that is in vain again and again, because the link is slow or the processor is
//! needed elsewhere, it looks for less and less time, down to none, and tries again now and then.

use std::time::Duration;

/// The longest that is looked for.
const LONGEST: Duration = Duration::from_micros(50);
/// Less than this is not worth looking for.
const SHORTEST: Duration = Duration::from_micros(5);
/// Waits without a look, once looking has proved vain, before it is tried again.
const TRY_AGAIN_AFTER: u32 = 256;

/// The patience of one waiter.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    limit: Duration,
    skipped: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { limit: LONGEST, skipped: 0 }
    }
}

impl Patience {
    /// How long to look this time; zero says not at all.
    pub fn limit(&mut self) -> Duration {
        if self.limit.is_zero() {
            self.skipped += 1;
            if self.skipped >= TRY_AGAIN_AFTER {
                *self = Self::default();
            }
        }
        self.limit
    }

    /// What came of looking: something was `found` within the limit or not.
    pub fn looked(&mut self, found: bool) {
        self.limit = match self.limit / 2 {
            _ if found => LONGEST,
            half if half < SHORTEST => Duration::ZERO,
            half => half,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_in_vain_ends_soon_and_is_tried_again_now_and_then() {
        let mut patience = Patience::default();
        let mut looked = Duration::ZERO;
        let waits = 10 * u32::from(u8::MAX);
        for _ in 0..waits {
            let limit = patience.limit();
            if !limit.is_zero() {
                looked += limit;
                patience.looked(false);
            }
        }
        assert!(looked >= 9 * LONGEST && looked < waits * LONGEST / 50, "{looked:?}");
    }

    #[test]
    fn whoever_finds_something_goes_on_looking() {
        let mut patience = Patience::default();
        patience.looked(false);
        assert!(patience.limit() < LONGEST);
        for _ in 0..1000 {
            patience.looked(true);
            assert_eq!(patience.limit(), LONGEST);
        }
    }
}
