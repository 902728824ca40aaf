//! How far behind everything is, in time.
//!
//! A distance in bytes says little to a person: is 40 KiB a millisecond or a minute? So the leader remembers *when*, by its own
//! monotonic clock, it appended what ends at which LSN ([`Appends`]), and a position that somebody acknowledges is looked up there. No
//! clocks of two machines are ever compared, so less than a millisecond is a true figure, and whoever has all that was appended is 0
//! behind, however long ago that was.
//!
//! Each step of a write on its way is a [`Stage`]: durable here, posted to a follower, durable there, applied there, committed. A
//! stage keeps the times from append to that step, of the last seconds as a histogram and of all time in powers of two.
//!
//! This module knows no clock: [`Clock`] is told the time in microseconds and never lets it go back. A restart of the leader, and a new
//! reign, forget all of this. What is recorded costs a few tens of nanoseconds per turn of the caller's loop, not per write: a turn is one
//! entry.

use std::collections::VecDeque;

use farkeep_core::lsn::Lsn;
use hdrhistogram::Histogram;

/// Entries that are remembered. When there are more, neighbours are merged: the further back, the coarser the times.
pub const MAX_APPENDS: usize = 4096;

/// What a histogram of recent times covers at least; at most, twice as much.
pub const WINDOW_US: u64 = 10_000_000;

/// Longest time that histograms tell from longer ones: ten minutes.
const LONGEST_US: u64 = 600_000_000;

/// Upper bounds of the buckets that count all times ever are 1 us, 2 us, 4 us, … up to this power of two (67 s); then there is one for
/// all the rest.
pub const LAST_BUCKET: usize = 26;

/// What was appended by one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Append {
    end: Lsn,
    at_us: u64,
}

/// A time that something lags behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Bytes appended that it does not have.
    pub bytes: u64,
    /// Age of the oldest of them in microseconds; 0 if there are none.
    pub us: u64,
    /// They are older than anything that is remembered: the age is at least this.
    pub at_least: bool,
}

/// The caller's clock, and when what was appended.
#[derive(Debug)]
pub struct Appends {
    now_us: u64,
    /// By LSN. Each covers the log from the end of the one before it.
    entries: VecDeque<Append>,
    /// Nothing is known of what lies before.
    known_from: Lsn,
    end: Lsn,
}

impl Appends {
    /// Begins with a log that ends at `end`, about whose past nothing is known.
    pub fn new(end: Lsn) -> Self {
        Self { now_us: 0, entries: VecDeque::with_capacity(MAX_APPENDS), known_from: end, end }
    }

    /// It is `now_us`. A time before one told earlier is ignored.
    pub fn set_now(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// The latest time told.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// What ends at `end` was appended now.
    pub fn append(&mut self, end: Lsn) {
        if end <= self.end {
            return;
        }
        self.end = end;
        match self.entries.back_mut() {
            Some(last) if last.at_us == self.now_us => last.end = end,
            _ => {
                if self.entries.len() == MAX_APPENDS {
                    self.merge();
                }
                self.entries.push_back(Append { end, at_us: self.now_us });
            }
        }
    }

    /// Halves the entries. The older time of two wins, so that a lag is never said to be less than it is.
    fn merge(&mut self) {
        for at in 0..self.entries.len() / 2 {
            let (first, second) = (self.entries[2 * at], self.entries[2 * at + 1]);
            self.entries[at] = Append { end: second.end, at_us: first.at_us };
        }
        self.entries.truncate(self.entries.len() / 2);
    }

    /// How far somebody lags at `now_us` who has everything before `position`.
    pub fn lag(&self, position: Lsn, now_us: u64) -> Lag {
        if position >= self.end {
            return Lag::default();
        }
        // Nothing appended since the reign began: all that is missing is older than that.
        let oldest = self.missing(position).next().map_or(0, |append| append.at_us);
        Lag {
            bytes: self.end.distance_from(position),
            us: now_us.max(self.now_us).saturating_sub(oldest),
            at_least: position < self.known_from,
        }
    }

    /// Entries that somebody lacks who has everything before `position`, oldest first.
    fn missing(&self, position: Lsn) -> impl Iterator<Item = &Append> {
        // Most positions are a few entries from the end.
        let near = self.entries.iter().rev().take(8).take_while(|append| append.end > position).count();
        let first = if near < 8 {
            self.entries.len() - near
        } else {
            self.entries.partition_point(|append| append.end <= position)
        };
        self.entries.range(first..)
    }
}

/// The times from append to one step.
pub struct Stage {
    /// Of the window that runs, and of the one before it.
    recent: [Histogram<u32>; 2],
    /// Of all time, by power of two.
    buckets: [u64; LAST_BUCKET + 2],
    sum_us: u64,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Thousands of empty buckets would say nothing.
        f.debug_struct("Stage").field("sum_us", &self.sum_us).finish_non_exhaustive()
    }
}

impl Default for Stage {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1, LONGEST_US, 2).expect("the bounds are in order");
        Self { recent: [empty(), empty()], buckets: [0; LAST_BUCKET + 2], sum_us: 0 }
    }
}

impl Stage {
    /// Whoever had everything before `from` now has everything before `to`.
    pub fn advance(&mut self, appends: &Appends, from: Lsn, to: Lsn) {
        if to <= from {
            return;
        }
        for append in appends.missing(from).take_while(|append| append.end <= to) {
            self.record(appends.now_us - append.at_us);
        }
    }

    fn record(&mut self, us: u64) {
        self.recent[0].saturating_record(us.max(1));
        // The first power of two that is not less.
        let bucket = us.max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[bucket.min(LAST_BUCKET + 1)] += 1;
        self.sum_us += us;
    }

    /// A window is over.
    fn rotate(&mut self) {
        self.recent.swap(0, 1);
        self.recent[0].reset();
    }

    /// The figures of now.
    pub fn report(&self) -> StageReport {
        // Two passes over a few hundred cells each would do, but an allocation of the sum is dearer than looking at both.
        let [running, before] = &self.recent;
        let count = running.len() + before.len();
        let mut report = StageReport {
            recent_count: count,
            max_us: running.max().max(before.max()),
            buckets: self.buckets,
            sum_us: self.sum_us,
            ..StageReport::default()
        };
        if count > 0 {
            let mut sum = running.clone();
            // Both have the same bounds.
            let _ = sum.add(before);
            report.p50_us = sum.value_at_quantile(0.5).min(report.max_us);
            report.p99_us = sum.value_at_quantile(0.99).min(report.max_us);
        }
        report
    }
}

/// What is to be said about a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageReport {
    /// Turns whose writes took the step in the last 10 to 20 seconds; the next three are about them.
    pub recent_count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
    /// Since the reign or session began: how many took at most 1, 2, 4, … microseconds and longer than the bucket before, the last without a bound.
    pub buckets: [u64; LAST_BUCKET + 2],
    /// The sum of all of them.
    pub sum_us: u64,
}

/// A follower's stages.
#[derive(Debug, Default)]
pub struct FollowerStages {
    /// Posted into its window.
    pub posted: Stage,
    /// Durable there, as far as the leader has been told.
    pub durable: Stage,
    /// Stored into its image, as far as the leader has been told.
    pub applied: Stage,
}

/// All that a leader measures that belongs to no follower.
#[derive(Debug)]
pub struct Clock {
    /// When what was appended.
    pub appends: Appends,
    /// Durable here.
    pub durable: Stage,
    /// Committed: what a client waits for.
    pub committed: Stage,
    window_began_us: u64,
}

impl Clock {
    /// Begins with a log that ends at `end`.
    pub fn new(end: Lsn) -> Self {
        Self {
            appends: Appends::new(end),
            durable: Stage::default(),
            committed: Stage::default(),
            window_began_us: 0,
        }
    }

    /// Begins a new window in all histograms if one is over.
    pub(crate) fn tick<'a>(&mut self, followers: impl Iterator<Item = &'a mut FollowerStages>) {
        let elapsed_us = self.appends.now_us.saturating_sub(self.window_began_us);
        if elapsed_us < WINDOW_US {
            return;
        }
        // After a long silence both windows are empty.
        let times = if elapsed_us < 2 * WINDOW_US { 1 } else { 2 };
        self.window_began_us = self.appends.now_us;
        let rotate = |stage: &mut Stage| (0..times).for_each(|_| stage.rotate());
        rotate(&mut self.durable);
        rotate(&mut self.committed);
        for follower in followers {
            rotate(&mut follower.posted);
            rotate(&mut follower.durable);
            rotate(&mut follower.applied);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(appends: &mut Appends, us: u64, end: u64) {
        appends.set_now(us);
        appends.append(Lsn::new(end));
    }

    #[test]
    fn a_position_lags_by_the_age_of_the_oldest_byte_that_it_lacks() {
        let mut appends = Appends::new(Lsn::new(100));
        at(&mut appends, 1_000, 200);
        at(&mut appends, 2_000, 300);
        appends.set_now(10_000);
        assert_eq!(appends.lag(Lsn::new(100), 0), Lag { bytes: 200, us: 9_000, at_least: false });
        // In the middle of what was appended at 2,000.
        assert_eq!(appends.lag(Lsn::new(250), 0), Lag { bytes: 50, us: 8_000, at_least: false });
        assert_eq!(appends.lag(Lsn::new(199), 0), Lag { bytes: 101, us: 9_000, at_least: false });
    }

    #[test]
    fn whoever_has_everything_is_not_behind_however_long_nothing_happens() {
        let mut appends = Appends::new(Lsn::new(100));
        at(&mut appends, 1_000, 200);
        appends.set_now(3_600_000_000);
        assert_eq!(appends.lag(Lsn::new(200), 0), Lag::default());
        assert_eq!(Appends::new(Lsn::new(7)).lag(Lsn::new(7), 9), Lag::default());
    }

    #[test]
    fn of_what_was_appended_before_the_reign_only_a_least_age_is_known() {
        let mut appends = Appends::new(Lsn::new(100));
        appends.set_now(500);
        assert_eq!(appends.lag(Lsn::new(40), 0), Lag { bytes: 60, us: 500, at_least: true });
        at(&mut appends, 1_000, 200);
        appends.set_now(4_000);
        assert!(appends.lag(Lsn::new(40), 0).at_least);
    }

    #[test]
    fn time_never_goes_back() {
        let mut appends = Appends::new(Lsn::ZERO);
        at(&mut appends, 5_000, 10);
        at(&mut appends, 4_000, 20);
        assert_eq!(appends.now_us(), 5_000);
        assert_eq!(appends.lag(Lsn::ZERO, 0).us, 0);
    }

    #[test]
    fn merging_never_understates_a_lag_and_keeps_the_number_of_entries_bounded() {
        let mut appends = Appends::new(Lsn::ZERO);
        for turn in 1..=10 * MAX_APPENDS as u64 {
            at(&mut appends, turn * 10, turn * 100);
        }
        assert!(appends.entries.len() <= MAX_APPENDS);
        let now = appends.now_us();
        for turn in (1..10 * MAX_APPENDS as u64).step_by(97) {
            // Who has all of the first `turn` turns lacks the next one's bytes.
            let age = now - (turn + 1) * 10;
            let lag = appends.lag(Lsn::new(turn * 100), 0);
            assert!(lag.us >= age, "turn {turn}: {} is less than {age}", lag.us);
            assert!(!lag.at_least);
        }
        // The latest is exact.
        assert_eq!(appends.lag(Lsn::new(appends.end.get() - 1), 0).us, 0);
    }

    #[test]
    fn a_step_is_recorded_once_for_every_turn_whose_bytes_took_all_of_it() {
        let mut appends = Appends::new(Lsn::ZERO);
        let mut stage = Stage::default();
        at(&mut appends, 1_000, 100);
        at(&mut appends, 2_000, 200);
        appends.set_now(2_500);
        stage.advance(&appends, Lsn::ZERO, Lsn::new(150));
        assert_eq!(stage.report().recent_count, 1);
        assert_eq!(stage.report().sum_us, 1_500);
        appends.set_now(2_600);
        stage.advance(&appends, Lsn::new(150), Lsn::new(200));
        let report = stage.report();
        assert_eq!((report.recent_count, report.sum_us), (2, 2_100));
        // 1,500 us and 600 us: up to 2,048 and up to 1,024.
        assert_eq!((report.buckets[11], report.buckets[10]), (1, 1));
        assert_eq!(report.max_us, 1_503, "the histogram has two significant digits");
    }

    #[test]
    fn recent_times_are_forgotten_after_two_windows_and_totals_are_not() {
        let mut clock = Clock::new(Lsn::ZERO);
        at(&mut clock.appends, 1_000, 100);
        clock.appends.set_now(2_000);
        clock.committed.advance(&clock.appends, Lsn::ZERO, Lsn::new(100));
        for (us, recent) in [(WINDOW_US, 1), (WINDOW_US * 3 / 2, 1), (2 * WINDOW_US, 0)] {
            clock.appends.set_now(us);
            clock.tick(std::iter::empty());
            assert_eq!(clock.committed.report().recent_count, recent, "at {us} us");
        }
        assert_eq!(clock.committed.report().sum_us, 1_000);
    }
}
