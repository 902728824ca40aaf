//! How far a follower is, and how far it may replay.
//!
//! `durable_lsn` is always the end of the last transaction that validates in the persistent log; bytes that were
//! written behind it are not talked about. What is committed the follower learns from three sources that agree by construction: records
//! carry what was committed when they were appended, the tail cell says it of the moment, heartbeats say it again.
//! The image may go as far as the lower of the two (I2).

use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_fabric::window::Reported;
use farkeep_proto::control;
use farkeep_proto::window::TailCell;

/// A follower's positions: `checkpoint <= applied <= committed <= durable` (I1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Everything before it is persistent in the image.
    pub checkpoint: Lsn,
    /// Everything before it is stored into the image.
    pub applied: Lsn,
    /// Everything before it is known to be committed, and held here.
    pub committed: Lsn,
    /// Everything before it is validated and persistent in the log; the end of a transaction.
    pub durable: Lsn,
}

impl Progress {
    #[track_caller]
    pub(crate) fn assert_ordered(&self) {
        assert!(
            self.checkpoint <= self.applied
                && self.applied <= self.committed
                && self.committed <= self.durable,
            "watermarks out of order: {self:?}"
        );
    }

    /// As it goes into an acknowledgement.
    pub fn reported(&self) -> Reported {
        Reported { durable: self.durable, applied: self.applied, checkpoint: self.checkpoint }
    }

    /// As it goes into a message.
    pub fn message(&self) -> control::Progress {
        control::Progress {
            durable_lsn: self.durable.get(),
            applied_lsn: self.applied.get(),
            checkpoint_lsn: self.checkpoint.get(),
        }
    }
}

/// Positions together with what the leader has said.
#[derive(Debug)]
pub(crate) struct Bookkeeping {
    progress: Progress,
    /// The highest `committed_lsn` that anybody has told; may be ahead of what is held.
    told: Lsn,
}

impl Bookkeeping {
    pub(crate) fn new(progress: Progress) -> Self {
        progress.assert_ordered();
        Self { progress, told: progress.committed }
    }

    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    fn settle(&mut self) {
        self.progress.committed = self.progress.committed.max(self.told.min(self.progress.durable));
        self.progress.assert_ordered();
    }

    pub(crate) fn scanned(&mut self, durable: Lsn, committed: Lsn) {
        assert!(
            durable >= self.progress.durable,
            "the log's end went back to {durable} from {:?}",
            self.progress
        );
        self.progress.durable = durable;
        self.told = self.told.max(committed);
        self.settle();
    }

    pub(crate) fn told(&mut self, committed: Lsn) {
        self.told = self.told.max(committed);
        self.settle();
    }

    pub(crate) fn tail_cell(&mut self, cell: TailCell, epoch: Epoch) {
        // A cell of another epoch is what an earlier leader left there.
        if cell.epoch == epoch.get() {
            self.told(Lsn::new(cell.committed_lsn));
        }
    }

    pub(crate) fn replayed(&mut self, applied: Lsn, checkpoint: Lsn) {
        self.progress.applied = self.progress.applied.max(applied);
        self.progress.checkpoint = self.progress.checkpoint.max(checkpoint);
        self.progress.assert_ordered();
    }

    /// The log may have been cut off, and the replayer started over. What was told about records that are gone was
    /// told by a leader that is gone.
    pub(crate) fn reopened(&mut self, progress: Progress) {
        let known = self.progress.committed;
        assert!(
            progress.durable >= known,
            "a committed record was cut off: {progress:?}, known up to {known}"
        );
        self.progress = Progress { committed: progress.committed.max(known), ..progress };
        self.told = self.progress.committed;
        self.progress.assert_ordered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book(committed: u64, durable: u64) -> Bookkeeping {
        let committed = Lsn::new(committed);
        Bookkeeping::new(Progress { committed, durable: Lsn::new(durable), ..Progress::default() })
    }

    #[test]
    fn replay_goes_no_further_than_what_is_both_held_and_committed() {
        let mut book = book(100, 200);
        book.told(Lsn::new(300));
        assert_eq!(book.progress().committed, Lsn::new(200), "told more than it holds");
        book.scanned(Lsn::new(250), Lsn::new(120));
        assert_eq!(book.progress().committed, Lsn::new(250));
        book.scanned(Lsn::new(400), Lsn::new(250));
        assert_eq!(book.progress().committed, Lsn::new(300), "holds more than is committed");
    }

    #[test]
    fn a_tail_cell_of_another_epoch_is_ignored() {
        let mut book = book(100, 200);
        let cell = TailCell { epoch: 3, appended_lsn: 200, committed_lsn: 200 };
        book.tail_cell(cell, Epoch::new(4));
        assert_eq!(book.progress().committed, Lsn::new(100));
        book.tail_cell(cell, Epoch::new(3));
        assert_eq!(book.progress().committed, Lsn::new(200));
    }

    #[test]
    fn what_was_told_about_a_cut_suffix_is_forgotten_and_what_is_committed_is_not() {
        let mut book = book(100, 200);
        book.told(Lsn::new(500));
        assert_eq!(book.progress().committed, Lsn::new(200));
        let cut = Progress { committed: Lsn::new(80), durable: Lsn::new(200), ..Progress::default() };
        book.reopened(cut);
        book.scanned(Lsn::new(600), Lsn::new(90));
        assert_eq!(book.progress().committed, Lsn::new(200));
    }

    #[test]
    #[should_panic(expected = "a committed record was cut off")]
    fn a_committed_record_is_never_cut_off() {
        book(100, 200).reopened(Progress { durable: Lsn::new(99), ..Progress::default() });
    }
}
