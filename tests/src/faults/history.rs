//! What clients know of every key, and whether a server still agrees.
//!
//! A key has one writer, which writes *versions* 1, 2, 3, … of it, one at a time: the next version is written only when the fate
//! of the one before is known, so a key whose last write has an unknown fate is left alone for good. A deletion is a version,
//! too. So of a key there are, at any time, at most two values it may have: the version that was acknowledged last, and the one
//! whose fate is unknown. A version that anybody has read is as good as acknowledged: it may not be undone.
//!
//! A write that was refused (a follower's READONLY, a leader's NOREPLICAS) has not happened and must never be seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::client::{Client, Value, encode};

/// Keys read in one go at the end.
const BATCH: usize = 500;

/// Wrong keys that are told in full.
const TOLD: usize = 5;

/// How an attempt to write, or to read, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happened.
    Acknowledged,
    /// It did not happen, and never will.
    Refused,
    /// Nobody knows.
    Unknown,
    /// It was read.
    Read,
}

/// One thing that a client knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When it was known, in ms since the run began.
    pub at_ms: u64,
    /// The node that said it, or did not.
    pub node: usize,
    /// Which version.
    pub version: u64,
    /// The version is that there is no such key.
    pub removed: bool,
    /// How it ended.
    pub fate: Fate,
}

/// What is known of one key.
#[derive(Debug, Clone, Default)]
struct Known {
    events: Vec<Event>,
}

/// What a number of clients know.
#[derive(Debug, Clone, Default)]
pub struct History {
    keys: BTreeMap<String, Known>,
    /// Pairs of keys that were written by one transaction each: both have the same version.
    twins: Vec<(String, String)>,
    /// What was found wrong while it happened.
    pub wrong: Vec<String>,
}

/// Keys whose name begins so have long values.
pub const BULK: &str = "bulk";

/// The value that stands for a version of a key. It names the key, so that a value under the wrong one is noticed, and is of
/// many lengths. A long one names its version all along, so that a page of it which is another version's is noticed as well.
pub fn value(key: &str, version: u64) -> String {
    let head = format!("{version}:{key}:");
    let len = (version * 31 % 200) as usize;
    if key.starts_with(BULK) { head.repeat(600 + 5 * len) } else { head + &".".repeat(len) }
}

/// The version that a value stands for.
fn version_of(key: &str, found: &str) -> Option<u64> {
    let version = found.split(':').next()?.parse().ok()?;
    // A counter holds nothing but its number.
    (found == value(key, version) || found.bytes().all(|byte| byte.is_ascii_digit())).then_some(version)
}

/// The version that a reply to GET shows; 0 where there is nothing.
pub fn version_read(key: &str, reply: &Value) -> Result<u64, String> {
    match reply {
        Value::Bulk(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            version_of(key, &text).ok_or_else(|| format!("{key} holds {text:.300?}, which nobody wrote"))
        }
        reply if reply.is_null() => Ok(0),
        other => Err(format!("GET {key} answers {other:?}")),
    }
}

impl History {
    /// Notes what became of an attempt on a key.
    pub fn note(&mut self, key: &str, event: Event) {
        match self.keys.get_mut(key) {
            Some(known) => known.events.push(event),
            None => drop(self.keys.insert(key.to_owned(), Known { events: vec![event] })),
        }
    }

    /// Notes that two keys are written together.
    pub fn note_twins(&mut self, left: &str, right: &str) {
        self.twins.push((left.to_owned(), right.to_owned()));
    }

    /// Adds what others know.
    pub fn merge(&mut self, other: Self) {
        for (key, known) in other.keys {
            self.keys.entry(key).or_default().events.extend(known.events);
        }
        self.twins.extend(other.twins);
        self.wrong.extend(other.wrong);
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// How often attempts ended so.
    pub fn count(&self, fate: Fate) -> u64 {
        let events = self.keys.values().flat_map(|known| &known.events);
        events.filter(|event| event.fate == fate).count() as u64
    }

    /// When writes were acknowledged, and by which node, in order.
    pub fn acknowledgements(&self) -> Vec<(u64, usize)> {
        let events = self.keys.values().flat_map(|known| &known.events);
        let acknowledged = events.filter(|event| event.fate == Fate::Acknowledged);
        let mut times: Vec<_> = acknowledged.map(|event| (event.at_ms, event.node)).collect();
        times.sort_unstable();
        times
    }

    /// Panics with everything that `client`'s server has lost, invented or undone.
    #[track_caller]
    pub fn assert_kept_by(&self, what: &str, client: &mut Client) {
        let mut wrong = self.wrong.clone();
        wrong.extend(self.disagreements(client).expect("the server answers"));
        let count = wrong.len();
        wrong.truncate(20);
        assert!(wrong.is_empty(), "{what}: {count} things are wrong:\n{}", wrong.join("\n"));
    }

    /// What clients knew before the end, and what a server says at the end: everything that does not fit, in words.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn disagreements(&self, client: &mut Client) -> std::io::Result<Vec<String>> {
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        let mut wrong = Vec::new();
        let mut keys = self.keys.iter().peekable();
        while keys.peek().is_some() {
            let batch: Vec<_> = keys.by_ref().take(BATCH).collect();
            let mut bytes = Vec::new();
            for (key, _) in &batch {
                encode(&["GET", key], &mut bytes);
            }
            client.send_raw(&bytes)?;
            for (key, known) in batch {
                let reply = client.reply()?;
                let verdict = version_read(key, &reply).and_then(|version| {
                    found.insert(key, version);
                    known.judge(version)
                });
                if let Err(why) = verdict {
                    let history = if wrong.len() < TOLD { known.tell() } else { String::new() };
                    wrong.push(format!("{key}: {why}{history}"));
                }
            }
        }
        for (left, right) in &self.twins {
            let (one, two) = (found.get(left.as_str()), found.get(right.as_str()));
            if one != two {
                wrong.push(format!("a torn transaction: {left} is {one:?}, {right} is {two:?}"));
            }
        }
        Ok(wrong)
    }
}

impl Known {
    /// Whether the key may hold this version (0: there is no such key).
    fn judge(&self, found: u64) -> Result<(), String> {
        let of = |fate: Fate| self.events.iter().filter(move |event| event.fate == fate);
        let removed =
            |version: u64| self.events.iter().any(|event| event.version == version && event.removed);
        let acknowledged = of(Fate::Acknowledged).map(|event| event.version).max().unwrap_or(0);
        let unknown = of(Fate::Unknown).map(|event| event.version).max().filter(|&at| at > acknowledged);
        let read = of(Fate::Read).map(|event| event.version).max().unwrap_or(0);
        // Of a version without a value one sees only that there is nothing.
        let shows = |version: u64| if removed(version) { 0 } else { version };
        let least = acknowledged.max(read);
        let may_be = |version: u64| version >= least && shows(version) == found;
        if may_be(acknowledged) || unknown.is_some_and(may_be) {
            return Ok(());
        }
        let what = if found == 0 { "is not there".to_owned() } else { format!("is at version {found}") };
        let unknown = unknown.map_or_else(String::new, |at| format!(", version {at} has an unknown fate"));
        Err(format!("{what}; version {acknowledged} was acknowledged, version {read} was read{unknown}"))
    }

    /// Its history, one line for each event.
    fn tell(&self) -> String {
        let mut events = self.events.clone();
        events.sort_by_key(|event| event.at_ms);
        let mut text = String::new();
        let skipped = events.len().saturating_sub(12);
        for event in &events[skipped..] {
            let Event { at_ms, node, version, removed, fate } = event;
            let what = if *removed { " (removed)" } else { "" };
            write!(text, "\n    {at_ms:>6} ms  node {node}  version {version}{what}  {fate:?}")
                .expect("a string grows");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(events: &[(u64, bool, Fate)]) -> Known {
        let event = |&(version, removed, fate)| Event { at_ms: 0, node: 0, version, removed, fate };
        Known { events: events.iter().map(event).collect() }
    }

    #[test]
    fn a_key_holds_what_was_acknowledged_last_or_what_has_an_unknown_fate() {
        use Fate::{Acknowledged, Refused, Unknown};
        let key = known(&[(1, false, Acknowledged), (2, false, Acknowledged), (3, false, Unknown)]);
        assert!(key.judge(1).is_err() && key.judge(0).is_err() && key.judge(4).is_err());
        assert!(key.judge(2).is_ok() && key.judge(3).is_ok());
        let refused = known(&[(1, false, Acknowledged), (2, false, Refused)]);
        assert!(refused.judge(2).is_err(), "a refused write is seen");
        let never = known(&[(1, false, Unknown)]);
        assert!(never.judge(0).is_ok() && never.judge(1).is_ok());
    }

    #[test]
    fn what_was_read_may_not_be_undone() {
        use Fate::{Acknowledged, Read, Unknown};
        let key = known(&[(1, false, Acknowledged), (2, false, Unknown), (2, false, Read)]);
        assert!(key.judge(2).is_ok());
        assert!(key.judge(1).is_err());
    }

    #[test]
    fn a_removed_key_does_not_come_back() {
        use Fate::{Acknowledged, Unknown};
        let removed = known(&[(1, false, Acknowledged), (2, true, Acknowledged)]);
        assert!(removed.judge(0).is_ok());
        assert!(removed.judge(1).is_err());
        let perhaps = known(&[(1, false, Acknowledged), (2, true, Unknown)]);
        assert!(perhaps.judge(0).is_ok() && perhaps.judge(1).is_ok());
    }

    #[test]
    fn a_value_under_another_key_is_no_version() {
        assert_eq!(version_of("a", &value("a", 7)), Some(7));
        assert_eq!(version_of("a", &value("b", 7)), None);
        assert_eq!(version_of("a", "12"), Some(12));
    }
}
