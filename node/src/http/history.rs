//! The figures of the last six hours, in three resolutions, in bounded memory.
//!
//! A point of a coarser resolution keeps the worst of what lags and the mean of what flows, so that a spike of a second is still seen
//! after hours.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::status::Status;

/// A resolution: its name, seconds per point, points.
struct Resolution {
    name: &'static str,
    step_s: u64,
    points: usize,
}

const RESOLUTIONS: [Resolution; 3] = [
    Resolution { name: "5m", step_s: 1, points: 300 },
    Resolution { name: "1h", step_s: 10, points: 360 },
    Resolution { name: "6h", step_s: 60, points: 360 },
];

/// Followers of which a point keeps figures.
const MAX_FOLLOWERS: usize = 16;

/// What a follower was like.
#[derive(Clone, Copy, Debug, Default)]
struct FollowerPoint {
    durable_lag_us: u64,
    applied_lag_us: u64,
    durable_lag_bytes: u64,
}

/// What the node was like for a while.
#[derive(Clone, Debug, Default)]
struct Point {
    at_s: u64,
    samples: u64,
    commands: u64,
    redo_bytes: u64,
    commit_p50_us: u64,
    commit_p99_us: u64,
    commit_max_us: u64,
    uncommitted_us: u64,
    log_used_bytes: u64,
    in_reach: u64,
    followers: Vec<(String, FollowerPoint)>,
}

impl Point {
    fn of(status: &Status) -> Self {
        let commit = status.commit.as_ref();
        let followers = status.followers.iter().take(MAX_FOLLOWERS).map(|follower| {
            let [_, durable, applied] = &follower.stages;
            let point = FollowerPoint {
                durable_lag_us: durable.lag_us,
                applied_lag_us: applied.lag_us,
                durable_lag_bytes: durable.lag_bytes,
            };
            (follower.name.clone(), point)
        });
        Self {
            at_s: status.at_ms / 1000,
            samples: 1,
            commands: status.rates.commands_per_s,
            redo_bytes: status.rates.redo_bytes_per_s,
            commit_p50_us: commit.map_or(0, |commit| commit.p50_us),
            commit_p99_us: commit.map_or(0, |commit| commit.p99_us),
            commit_max_us: commit.map_or(0, |commit| commit.max_us),
            uncommitted_us: status.uncommitted.us.unwrap_or(0),
            log_used_bytes: status.log.used_bytes,
            in_reach: status.followers_in_reach as u64,
            followers: followers.collect(),
        }
    }

    /// Flows add up and are divided when they are shown; of the rest, the worst counts.
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.commands += other.commands;
        self.redo_bytes += other.redo_bytes;
        self.commit_p50_us = self.commit_p50_us.max(other.commit_p50_us);
        self.commit_p99_us = self.commit_p99_us.max(other.commit_p99_us);
        self.commit_max_us = self.commit_max_us.max(other.commit_max_us);
        self.uncommitted_us = self.uncommitted_us.max(other.uncommitted_us);
        self.log_used_bytes = self.log_used_bytes.max(other.log_used_bytes);
        self.in_reach = self.in_reach.min(other.in_reach);
        for (name, point) in &other.followers {
            if let Some((_, mine)) = self.followers.iter_mut().find(|(other, _)| other == name) {
                mine.durable_lag_us = mine.durable_lag_us.max(point.durable_lag_us);
                mine.applied_lag_us = mine.applied_lag_us.max(point.applied_lag_us);
                mine.durable_lag_bytes = mine.durable_lag_bytes.max(point.durable_lag_bytes);
            } else if self.followers.len() < MAX_FOLLOWERS {
                self.followers.push((name.clone(), *point));
            }
        }
    }
}

/// The points of all resolutions.
#[derive(Debug, Default)]
pub struct History {
    rings: [VecDeque<Point>; RESOLUTIONS.len()],
}

/// The figures of a range, one array per figure.
#[derive(Debug, Default, Serialize)]
pub struct Series {
    step_s: u64,
    /// Unix time in seconds.
    at_s: Vec<u64>,
    commands_per_s: Vec<u64>,
    redo_bytes_per_s: Vec<u64>,
    commit_p50_us: Vec<u64>,
    commit_p99_us: Vec<u64>,
    commit_max_us: Vec<u64>,
    uncommitted_us: Vec<u64>,
    log_used_bytes: Vec<u64>,
    followers_in_reach: Vec<u64>,
    /// By follower; `null` where it was not there.
    followers: BTreeMap<String, FollowerSeries>,
}

/// A follower's figures.
#[derive(Debug, Default, Serialize)]
pub struct FollowerSeries {
    durable_lag_us: Vec<Option<u64>>,
    applied_lag_us: Vec<Option<u64>>,
    durable_lag_bytes: Vec<Option<u64>>,
}

impl History {
    /// Takes a sample in.
    pub fn add(&mut self, status: &Status) {
        let sample = Point::of(status);
        for (resolution, ring) in RESOLUTIONS.iter().zip(&mut self.rings) {
            let at_s = sample.at_s / resolution.step_s * resolution.step_s;
            match ring.back_mut() {
                // A clock that was set back does not tear a hole.
                Some(last) if last.at_s >= at_s => last.add(&sample),
                _ => {
                    if ring.len() == resolution.points {
                        ring.pop_front();
                    }
                    ring.push_back(Point { at_s, ..sample.clone() });
                }
            }
        }
    }

    /// The figures of `5m`, `1h` or `6h`.
    pub fn series(&self, range: &str) -> Option<Series> {
        let at = RESOLUTIONS.iter().position(|resolution| resolution.name == range)?;
        let ring = &self.rings[at];
        let mut series = Series { step_s: RESOLUTIONS[at].step_s, ..Series::default() };
        for point in ring {
            for (name, _) in &point.followers {
                series.followers.entry(name.clone()).or_default();
            }
        }
        for point in ring {
            series.at_s.push(point.at_s);
            series.commands_per_s.push(point.commands / point.samples);
            series.redo_bytes_per_s.push(point.redo_bytes / point.samples);
            series.commit_p50_us.push(point.commit_p50_us);
            series.commit_p99_us.push(point.commit_p99_us);
            series.commit_max_us.push(point.commit_max_us);
            series.uncommitted_us.push(point.uncommitted_us);
            series.log_used_bytes.push(point.log_used_bytes);
            series.followers_in_reach.push(point.in_reach);
            for (name, follower) in &mut series.followers {
                let there = point.followers.iter().find(|(other, _)| other == name).map(|(_, point)| point);
                follower.durable_lag_us.push(there.map(|point| point.durable_lag_us));
                follower.applied_lag_us.push(there.map(|point| point.applied_lag_us));
                follower.durable_lag_bytes.push(there.map(|point| point.durable_lag_bytes));
            }
        }
        Some(series)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status::{FollowerStatus, Status};

    fn sample(at_s: u64, commands_per_s: u64, lag_us: Option<u64>) -> Status {
        let mut status = Status { at_ms: at_s * 1000, ..Status::default() };
        status.rates.commands_per_s = commands_per_s;
        if let Some(lag_us) = lag_us {
            let mut follower = FollowerStatus { name: "b:1".to_owned(), ..FollowerStatus::default() };
            follower.stages[1].lag_us = lag_us;
            status.followers.push(follower);
        }
        status
    }

    #[test]
    fn six_hours_take_a_bounded_number_of_points() {
        let mut history = History::default();
        for at_s in 0..7 * 3600 {
            history.add(&sample(at_s, 1, None));
        }
        let lens = ["5m", "1h", "6h"].map(|range| history.series(range).unwrap().at_s.len());
        assert_eq!(lens, [300, 360, 360]);
        assert!(history.series("1y").is_none());
    }

    #[test]
    fn a_coarse_point_keeps_the_worst_lag_and_the_mean_rate() {
        let mut history = History::default();
        for (at_s, rate, lag_us) in [(600, 10, Some(5)), (601, 20, Some(900)), (602, 30, None)] {
            history.add(&sample(at_s, rate, lag_us));
        }
        let coarse = history.series("6h").unwrap();
        assert_eq!(coarse.commands_per_s, [20]);
        assert_eq!(coarse.followers["b:1"].durable_lag_us, [Some(900)]);
        let fine = history.series("5m").unwrap();
        assert_eq!(fine.followers["b:1"].durable_lag_us, [Some(5), Some(900), None], "unknown is not 0");
    }
}
