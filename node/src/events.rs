//! The event log: what happened to this node that an operator wants to see on a time line.
//!
//! Role changes, failovers and their phases, followers that come and go, fabrics that change, times without redundancy, actions that
//! somebody took by HTTP. Bounded and in memory: a restart begins a new one, the process's log has the rest.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;

use crate::node::unix_ms;

/// Events that are remembered.
const MAX_EVENTS: usize = 512;
/// Longest text of one, in bytes.
const MAX_TEXT_BYTES: usize = 400;

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be, or better than before.
    Info,
    /// Something is less safe, or less fast, than it was.
    Warning,
    /// Writes are refused, or what was acknowledged is at risk.
    Critical,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Its number, one more than that of the event before it.
    pub seq: u64,
    /// Unix time in ms.
    pub at_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// What kind it is: `role`, `failover`, `phase`, `follower`, `link`, `fabric`, `redundancy`, `sync`, `scrub`, `action`, `node`.
    pub kind: &'static str,
    /// For people.
    pub text: String,
    /// How long it took, or lasted until now, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// The event log.
#[derive(Debug, Default)]
pub struct Events {
    log: Mutex<VecDeque<Event>>,
    /// The phase of a change of the leader that runs.
    phase: Mutex<Option<Phase>>,
}

/// A phase of a change of the leader. Times are the node's microseconds.
#[derive(Debug)]
struct Phase {
    name: &'static str,
    since_us: u64,
    /// When the first phase began.
    began_us: u64,
}

impl Events {
    /// Notes an event that takes no time.
    pub fn note(&self, level: Level, kind: &'static str, text: impl Into<String>) {
        self.note_timed(level, kind, text, None);
    }

    /// Notes an event that took `took_ms`.
    pub fn note_timed(
        &self,
        level: Level,
        kind: &'static str,
        text: impl Into<String>,
        took_ms: Option<u64>,
    ) {
        let mut text = text.into();
        if text.len() > MAX_TEXT_BYTES {
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        }
        let mut log = self.log.lock();
        let seq = log.back().map_or(1, |last| last.seq + 1);
        if log.len() == MAX_EVENTS {
            log.pop_front();
        }
        log.push_back(Event { seq, at_ms: unix_ms(), level, kind, text, took_ms });
    }

    /// A change of the leader enters its next phase, or is over (`None`). The phase before becomes an event, and at the end all of them
    /// together.
    pub fn phase(&self, now_us: u64, next: Option<&'static str>) {
        let mut running = self.phase.lock();
        if running.as_ref().map(|phase| phase.name) == next {
            return;
        }
        let before = running.take();
        let began_us = before.as_ref().map_or(now_us, |phase| phase.began_us);
        *running = next.map(|name| Phase { name, since_us: now_us, began_us });
        drop(running);
        let Some(phase) = before else { return };
        let ms_since = |us: u64| Some(now_us.saturating_sub(us) / 1000);
        self.note_timed(Level::Info, "phase", phase.name, ms_since(phase.since_us));
        if next.is_none() {
            let text = "the change of the leader is over; so long writes waited here";
            self.note_timed(Level::Info, "failover", text, ms_since(phase.began_us));
        }
    }

    /// Events behind the one numbered `seq`, oldest first.
    pub fn after(&self, seq: u64) -> Vec<Event> {
        self.log.lock().iter().filter(|event| event.seq > seq).cloned().collect()
    }

    /// The number of the latest event; 0 if there is none.
    pub fn latest(&self) -> u64 {
        self.log.lock().back().map_or(0, |event| event.seq)
    }

    /// The latest event of a kind.
    pub fn latest_of(&self, kind: &str) -> Option<Event> {
        self.log.lock().iter().rev().find(|event| event.kind == kind).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_latest_events_are_kept_and_their_numbers_go_on() {
        let events = Events::default();
        for at in 0..MAX_EVENTS as u64 + 10 {
            events.note(Level::Info, "node", format!("event {at}"));
        }
        let all = events.after(0);
        assert_eq!(all.len(), MAX_EVENTS);
        assert_eq!((all[0].seq, events.latest()), (11, MAX_EVENTS as u64 + 10));
        assert_eq!(events.after(events.latest() - 1).len(), 1);
        assert!(events.after(events.latest()).is_empty());
    }

    #[test]
    fn each_phase_of_a_change_takes_its_time_and_the_change_that_of_all() {
        let events = Events::default();
        events.phase(1_000, Some("one"));
        events.phase(3_000, Some("one"));
        events.phase(6_000, Some("two"));
        events.phase(9_000, None);
        events.phase(10_000, None);
        let told: Vec<_> =
            events.after(0).into_iter().map(|event| (event.kind, event.text, event.took_ms)).collect();
        assert_eq!(told.len(), 3);
        assert_eq!(told[0], ("phase", "one".to_owned(), Some(5)));
        assert_eq!(told[1], ("phase", "two".to_owned(), Some(3)));
        assert_eq!((told[2].0, told[2].2), ("failover", Some(8)));
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_two_characters() {
        let events = Events::default();
        events.note(Level::Info, "node", "ü".repeat(MAX_TEXT_BYTES));
        assert_eq!(events.latest_of("node").map(|event| event.text.len()), Some(MAX_TEXT_BYTES));
    }
}
