//! Counters of the process for INFO, each a relaxed atomic.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// How many samples the instantaneous rates are averaged over.
const SAMPLES: usize = 16;

/// The counters.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused for `maxclients`.
    pub rejected_connections: AtomicU64,
    /// Commands executed.
    pub commands: AtomicU64,
    /// Bytes read from clients.
    pub input_bytes: AtomicU64,
    /// Bytes written to clients.
    pub output_bytes: AtomicU64,
    /// Keys removed because they expired.
    pub expired_keys: AtomicU64,
    /// Error replies.
    pub error_replies: AtomicU64,
    /// Turns of all workers.
    pub turns: AtomicU64,
    /// Reads and writes of sockets, one each per call.
    pub socket_reads: AtomicU64,
    /// Writes to client sockets.
    pub socket_writes: AtomicU64,
    /// Replies that were held for a commit.
    pub held_replies: AtomicU64,
    /// Replies that ended in an error because the commit did not come in time.
    pub held_failed: AtomicU64,
    /// Commands that had to wait for room in the log.
    pub log_full_waits: AtomicU64,
    /// Published messages that a follower was not told of because too many waited for it already.
    pub published_lost: AtomicU64,
    /// Times protocol errors closed a connection.
    pub protocol_errors: AtomicU64,
    rates: [Rate; 3],
    errors: Mutex<BTreeMap<String, u64>>,
}

/// Distinct error codes that are counted apart; what exceeds them is counted in the total only.
const MAX_ERROR_CODES: usize = 128;

#[derive(Debug, Default)]
struct Rate {
    last: AtomicU64,
    last_ms: AtomicU64,
    samples: [AtomicU64; SAMPLES],
    next: AtomicU64,
}

impl Rate {
    fn sample(&self, total: u64, now_ms: u64) {
        let elapsed = now_ms.saturating_sub(self.last_ms.swap(now_ms, Ordering::Relaxed));
        let delta = total.saturating_sub(self.last.swap(total, Ordering::Relaxed));
        if elapsed == 0 || elapsed > 60_000 {
            return;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed) as usize % SAMPLES;
        self.samples[at].store(delta * 1000 / elapsed, Ordering::Relaxed);
    }

    fn mean(&self) -> u64 {
        self.samples.iter().map(|sample| sample.load(Ordering::Relaxed)).sum::<u64>() / SAMPLES as u64
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

/// Adds to a counter that is only changed under the engine's lock; cheaper than [`add`].
pub fn add_locked(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// Reads a counter.
pub fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Stats {
    /// Takes one sample of the rates; called about ten times a second.
    pub fn sample(&self, now_ms: u64) {
        for (rate, total) in self.rates.iter().zip([&self.commands, &self.input_bytes, &self.output_bytes]) {
            rate.sample(get(total), now_ms);
        }
    }

    /// Commands, input bytes and output bytes a second, averaged over the last samples.
    pub fn instantaneous(&self) -> [u64; 3] {
        [self.rates[0].mean(), self.rates[1].mean(), self.rates[2].mean()]
    }

    /// Counts an error reply by its code, the first word of `text`.
    pub fn count_error(&self, text: &str) {
        add(&self.error_replies, 1);
        let code = text.split(' ').next().unwrap_or_default();
        let mut errors = self.errors.lock();
        if let Some(count) = errors.get_mut(code) {
            *count += 1;
        } else if errors.len() < MAX_ERROR_CODES {
            errors.insert(code.to_owned(), 1);
        }
    }

    /// Error replies by code.
    pub fn errors(&self) -> Vec<(String, u64)> {
        self.errors.lock().iter().map(|(code, count)| (code.clone(), *count)).collect()
    }

    /// CONFIG RESETSTAT.
    pub fn reset(&self) {
        self.errors.lock().clear();
        for counter in [
            &self.connections,
            &self.rejected_connections,
            &self.commands,
            &self.input_bytes,
            &self.output_bytes,
            &self.expired_keys,
            &self.error_replies,
            &self.turns,
            &self.socket_reads,
            &self.socket_writes,
            &self.held_replies,
            &self.held_failed,
            &self.log_full_waits,
            &self.published_lost,
            &self.protocol_errors,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}
