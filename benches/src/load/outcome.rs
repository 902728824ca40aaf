//! What came of a run.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Latencies are kept from 100 ns …
const SHORTEST_NS: u64 = 100;
/// … to 100 s, …
const LONGEST_NS: u64 = 100_000_000_000;
/// … exact to three decimal digits.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Distinct error texts that are told apart; further ones count as [`ErrorTally::OTHER`].
const ERROR_TEXTS_MAX: usize = 16;

/// Error replies by their text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorTally(BTreeMap<String, u64>);

impl ErrorTally {
    /// Stands for all texts beyond the first few.
    pub const OTHER: &'static str = "(other errors)";

    pub(super) fn add(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text).into_owned();
        let full = self.0.len() >= ERROR_TEXTS_MAX;
        let text = if full && !self.0.contains_key(&text) { Self::OTHER.to_owned() } else { text };
        *self.0.entry(text).or_default() += 1;
    }

    /// All error replies.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Each text and how often it came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(text, &count)| (text.as_str(), count))
    }
}

/// The measured part of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Requests that ended, errors included.
    pub requests: u64,
    /// From the start of measuring to the last reply.
    pub elapsed: Duration,
    /// Request latencies in nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// Replies that were errors. A request with a second command can have two.
    pub errors: ErrorTally,
    /// Null replies: GETs of keys that do not exist.
    pub nulls: u64,
    /// CPU time that the generator itself took, user and system.
    pub client_cpu: Duration,
}

impl Outcome {
    pub(super) fn new() -> Self {
        let latency_ns = Histogram::new_with_bounds(SHORTEST_NS, LONGEST_NS, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that the histogram accepts");
        Self {
            requests: 0,
            elapsed: Duration::ZERO,
            latency_ns,
            errors: ErrorTally::default(),
            nulls: 0,
            client_cpu: Duration::ZERO,
        }
    }

    /// Adds another run's, as if the two were one with a pause in it that does not count.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.elapsed += other.elapsed;
        self.latency_ns += &other.latency_ns;
        for (text, count) in &other.errors.0 {
            *self.errors.0.entry(text.clone()).or_default() += count;
        }
        self.nulls += other.nulls;
        self.client_cpu += other.client_cpu;
    }

    /// Requests per second.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that `percent` of the requests did not exceed, in milliseconds.
    #[must_use]
    pub fn latency_ms(&self, percent: f64) -> f64 {
        self.latency_ns.value_at_percentile(percent) as f64 / 1e6
    }

    /// CPU time of the generator per request, in microseconds.
    #[must_use]
    pub fn client_us_per_request(&self) -> f64 {
        self.client_cpu.as_secs_f64() * 1e6 / (self.requests.max(1) as f64)
    }

    /// Everything, for machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "requests": self.requests,
            "seconds": self.elapsed.as_secs_f64(),
            "requests_per_second": self.throughput(),
            "p50_ms": self.latency_ms(50.0),
            "p99_ms": self.latency_ms(99.0),
            "p999_ms": self.latency_ms(99.9),
            "max_ms": self.latency_ns.max() as f64 / 1e6,
            "mean_ms": self.latency_ns.mean() / 1e6,
            "errors": self.errors.0,
            "nulls": self.nulls,
            "client_us_per_request": self.client_us_per_request(),
        })
    }
}
