//! What a run does.

use std::net::SocketAddr;
use std::time::Duration;

/// Connections of a run when nobody says.
pub const DEFAULT_CONNECTIONS: usize = 50;
/// Distinct keys of a run when nobody says.
pub const DEFAULT_KEYS: u64 = 1_000_000;
/// Bytes of a key when nobody says.
pub const DEFAULT_KEY_LEN: usize = 16;
/// Bytes of a value when nobody says.
pub const DEFAULT_VALUE_LEN: usize = 64;

/// In which order the keys come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    /// Each key equally likely, independent of the one before.
    Uniform,
    /// Key 0, 1, 2, …, starting over after the last one. All connections together walk the keys once.
    Sequential,
}

/// When a run ends. The replies still due at that moment are waited for and count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// After this many requests.
    Requests(u64),
    /// After this much time.
    Time(Duration),
}

/// One run: who is asked, what, and how often.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The server.
    pub address: SocketAddr,
    /// Sent once on every connection, if set; an error reply ends the run.
    pub password: Option<String>,
    /// How many connections are open and busy at a time.
    pub connections: usize,
    /// How many requests travel together on a connection.
    pub pipeline: usize,
    /// How many of 100 requests are SETs; the others are GETs.
    pub set_percent: u32,
    /// How many distinct keys there are.
    pub keys: u64,
    /// In which order they come.
    pub order: KeyOrder,
    /// Bytes of each key: `key:` and zero-padded decimal digits.
    pub key_len: usize,
    /// Bytes of each value that is set.
    pub value_len: usize,
    /// A second command that belongs to every request, as its words.
    pub then: Option<Vec<String>>,
    /// When the run ends.
    pub limit: Limit,
    /// At the start of the run, this long is not measured. It counts against neither kind of limit's result.
    pub warmup: Duration,
    /// Fixes keys and values; equal seeds send equal bytes on one connection.
    pub seed: u64,
}

impl Workload {
    /// A SET workload over a million keys, endless until the caller sets a limit of its own.
    #[must_use]
    pub fn new(address: SocketAddr, limit: Limit) -> Self {
        Self {
            address,
            password: None,
            connections: DEFAULT_CONNECTIONS,
            pipeline: 1,
            set_percent: 100,
            keys: DEFAULT_KEYS,
            order: KeyOrder::Uniform,
            key_len: DEFAULT_KEY_LEN,
            value_len: DEFAULT_VALUE_LEN,
            then: None,
            limit,
            warmup: Duration::ZERO,
            seed: 1,
        }
    }

    /// Sets each of `self`'s keys once, as fast as the server allows: what must be there before a run is measured.
    #[must_use]
    pub fn preload(&self) -> Self {
        Self {
            pipeline: 64,
            set_percent: 100,
            order: KeyOrder::Sequential,
            then: None,
            limit: Limit::Requests(self.keys),
            warmup: Duration::ZERO,
            ..self.clone()
        }
    }
}
