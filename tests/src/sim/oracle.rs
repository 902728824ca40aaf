//! What must hold, whatever happens.
//!
//! The oracle knows every transaction that any leader ever appended, as a tree: a [`Position`] (LSN and chained
//! checksum) names a log up to there, its parent is the log before that transaction. It knows what the working view
//! looked like after each, and which of them some leader has called committed. That is enough to check
//!
//! - **I12**: two logs are never both called committed, and whoever leads has everything that ever was in its log;
//! - **I2**: an image holds exactly what a committed transaction left, byte for byte;
//! - **I5**: so equal `applied_lsn` means equal bytes, on whatever nodes;
//! - **I1**: watermarks in order, and never back within a life and an epoch.

use std::collections::{BTreeMap, HashMap};

use farkeep_core::chunk;
use farkeep_core::heap::{Offset, View};
use farkeep_core::log::Position;
use farkeep_core::lsn::{Epoch, Lsn, Watermarks};

type Key = (Lsn, u32);

fn key(position: Position) -> Key {
    (position.lsn, position.crc)
}

#[derive(Debug)]
struct State {
    parent: Key,
    image: u64,
}

/// Everything that is known about a run.
#[derive(Debug, Default)]
pub struct Oracle {
    states: HashMap<Key, State>,
    /// Transaction ends that a leader has called committed.
    committed: BTreeMap<Lsn, u32>,
    /// What each node last said of itself, as long as it lives.
    last: HashMap<usize, (Epoch, Watermarks)>,
    /// Writes that were acknowledged to clients.
    pub acknowledged: u64,
}

/// The bytes of an image as a number.
pub fn fingerprint(view: &View) -> u64 {
    chunk::hash(view.peek_bytes(Offset::NULL, view.image_len() as usize))
}

impl Oracle {
    /// A leader has appended a transaction behind `parent`, and this is its working view now.
    pub fn appended(&mut self, parent: Position, end: Position, view: &View) {
        self.leaves(parent, end, fingerprint(view));
    }

    /// A leader has appended a record that stores nothing. Its working view may hold what an aborted transaction has left, which
    /// the next one repairs.
    pub fn marked(&mut self, parent: Position, end: Position) {
        self.leaves(parent, end, self.states[&key(parent)].image);
    }

    fn leaves(&mut self, parent: Position, end: Position, image: u64) {
        let state = State { parent: key(parent), image };
        // Only the first record of a reign, which stores nothing, can be the same in two logs.
        if let Some(before) = self.states.insert(key(end), state) {
            assert_eq!((before.parent, before.image), (key(parent), image), "{end:?} was appended twice");
        }
    }

    /// A leader whose log ends at `end` calls everything up to `committed` committed.
    pub fn committed(&mut self, node: usize, end: Position, committed: Lsn) {
        let mut at = key(end);
        while let Some(state) = self.states.get(&at) {
            let (lsn, crc) = at;
            if lsn <= committed {
                match self.committed.get(&lsn) {
                    Some(&known) if known == crc => return,
                    Some(_) => {
                        panic!("I12: node {node} calls {at:?} committed, another log is committed there")
                    }
                    None => {}
                }
                let ahead = self.committed.range(lsn..).next();
                assert!(ahead.is_none(), "I12: node {node} calls {at:?} committed, but {ahead:?} is");
                let behind = self.committed.range(..lsn).next_back();
                if behind.is_none_or(|(&below, _)| below <= state.parent.0) {
                    self.descends(node, state.parent);
                }
                self.newly_committed(at, state.parent);
                return;
            }
            at = state.parent;
        }
    }

    /// Marks `at` and all its ancestors that are not marked yet.
    fn newly_committed(&mut self, mut at: Key, mut parent: Key) {
        loop {
            match self.committed.insert(at.0, at.1) {
                Some(known) if known == at.1 => return,
                Some(_) => panic!("I12: two logs are committed at LSN {}", at.0),
                None => {}
            }
            let Some(state) = self.states.get(&parent) else { return };
            (at, parent) = (parent, state.parent);
        }
    }

    /// Whether the log that ends at `end` holds everything that was ever called committed.
    fn descends(&self, node: usize, end: Key) {
        let Some((&lsn, &crc)) = self.committed.last_key_value() else { return };
        let mut at = end;
        while at.0 > lsn {
            let Some(state) = self.states.get(&at) else { break };
            at = state.parent;
        }
        assert_eq!(
            at,
            (lsn, crc),
            "I12: node {node} leads with a log up to {end:?} and lacks what is committed"
        );
    }

    /// A node begins to lead: its log ended at `end`, and its reign's first record ends at `begun`. One that was not promoted may lack
    /// something, as long as it commits nothing.
    pub fn leads(&mut self, node: usize, promoted: bool, end: Position, begun: Position, view: &View) {
        if promoted {
            self.descends(node, key(end));
        }
        if let Some(state) = self.states.get(&key(end)) {
            assert_eq!(
                fingerprint(view),
                state.image,
                "node {node}'s working view at {end:?} is not what was written"
            );
        }
        self.appended(end, begun, view);
    }

    /// A node's image is at `applied`.
    pub fn image(&self, node: usize, applied: Position, image: &View) {
        if applied.lsn == Lsn::ZERO {
            return;
        }
        assert_eq!(
            self.committed.get(&applied.lsn),
            Some(&applied.crc),
            "I2: node {node}'s image is at {applied:?}, which nobody has called committed"
        );
        let state = &self.states[&key(applied)];
        assert_eq!(fingerprint(image), state.image, "I5: node {node}'s image at {applied:?} has other bytes");
    }

    /// A node says where it stands.
    pub fn stands(&mut self, node: usize, epoch: Epoch, now: Watermarks) {
        now.assert_ordered();
        if let Some((last_epoch, last)) = self.last.insert(node, (epoch, now))
            && last_epoch == epoch
        {
            let pairs = [
                ("checkpoint", last.checkpoint, now.checkpoint),
                ("applied", last.applied, now.applied),
                ("committed", last.committed, now.committed),
                ("durable", last.durable, now.durable),
                ("appended", last.appended, now.appended),
            ];
            for (name, last, now) in pairs {
                assert!(
                    last <= now,
                    "I1: node {node}'s {name}_lsn went back from {last} to {now} in epoch {epoch}"
                );
            }
        }
    }

    /// A node's life has ended, or its log was cut: its next watermarks may be lower.
    pub fn forget(&mut self, node: usize) {
        self.last.remove(&node);
    }

    /// The end of what is committed.
    pub fn committed_end(&self) -> Lsn {
        self.committed.last_key_value().map_or(Lsn::ZERO, |(&lsn, _)| lsn)
    }
}
