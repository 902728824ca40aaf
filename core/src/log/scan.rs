//! Believing the log, record by record (I4).
//!
//! A scan starts at a [`Position`], the end of a record that is known to be right, and goes on as long as the bytes
//! at each place are the record that belongs there: checksum, own LSN, checksum of the predecessor, an epoch that
//! does not fall and is the one which the history names for this place. Where that stops is the end of the log.
//! The scan cannot tell a torn tail from damage in the middle; who knows that a position was durable can, and says so.

use std::sync::Arc;

use farkeep_proto::redo::{Flags, Invalid, Malformed, Record, validate};

use super::history::EpochHistory;
use super::ring::LogMap;
use crate::lsn::{Epoch, Lsn};

/// The end of a record, and what its successor must fit to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// Where the record ends.
    pub lsn: Lsn,
    /// The record's checksum.
    pub crc: u32,
    /// The record's epoch.
    pub epoch: Epoch,
}

/// Why a scan went no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stop {
    /// The bytes are not the record that belongs there. The normal end of a log.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A record of a reign that did not write this part of the log: a dead leader's suffix.
    #[error("record of epoch {found} in the part of the log written in epoch {expected}")]
    WrongReign {
        /// The record's epoch.
        found: Epoch,
        /// The epoch that the history names.
        expected: Epoch,
    },
    /// The record is what its writer built, but this version does not understand it.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Walks through the records of a log from a known position.
#[derive(Debug)]
pub struct Scanner<'a> {
    log: &'a LogMap,
    history: Arc<EpochHistory>,
    at: Position,
    /// The epoch that records must have, and up to where that is so.
    reign: Option<Epoch>,
    reign_end: Option<Lsn>,
}

impl<'a> Scanner<'a> {
    /// A scan of `log` from `at`.
    pub fn new(log: &'a LogMap, at: Position) -> Scanner<'a> {
        let history = log.history();
        let (reign, reign_end) = history.epoch_at(log.geometry().record_start(at.lsn));
        Scanner { log, history, at, reign, reign_end }
    }

    /// The end of the last record that was believed.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Where the next record would have to begin.
    pub fn next_start(&self) -> Lsn {
        self.log.geometry().record_start(self.at.lsn)
    }

    /// The next record, or why there is none. After a stop the scan may be tried again at the same place, when more
    /// may have arrived.
    #[expect(
        clippy::should_implement_trait,
        reason = "a scan that stopped can go on, and says why it stopped"
    )]
    #[inline]
    pub fn next(&mut self) -> Result<Record<'a>, Stop> {
        let start = self.next_start();
        let record = validate(self.log.segment_rest(start), start.get(), self.at.crc, self.at.epoch.get())?;
        if self.reign_end.is_some_and(|end| start >= end) {
            (self.reign, self.reign_end) = self.history.epoch_at(start);
        }
        let found = Epoch::new(record.epoch());
        if let Some(expected) = self.reign
            && found != expected
        {
            return Err(Stop::WrongReign { found, expected });
        }
        record.flags()?;
        self.at = Position { lsn: Lsn::new(record.end_lsn()), crc: record.crc(), epoch: found };
        Ok(record)
    }
}

/// Whether a record that a scanner has let pass ends a transaction.
#[inline]
pub(crate) fn ends_transaction(record: &Record<'_>) -> bool {
    record.flags().is_ok_and(|flags| flags.contains(Flags::COMMIT))
}

/// The moving end of a log that somebody else writes to: what a follower holds.
///
/// The caller makes the bytes persistent before it looks, or knows that they are; then [`Tail::end`] is durable.
#[derive(Debug, Clone)]
pub struct Tail {
    at: Position,
    end: Position,
    committed: Lsn,
}

impl Tail {
    /// A tail that is known to reach `end`, the end of a transaction.
    pub fn new(end: Position) -> Tail {
        Tail { at: end, end, committed: Lsn::ZERO }
    }

    /// Validates what has arrived since the last call and returns the end of the last whole transaction, which from
    /// then on is the log's `appended_lsn` and `durable_lsn`.
    pub fn poll(&mut self, log: &LogMap) -> Lsn {
        let mut scanner = Scanner::new(log, self.at);
        while let Ok(record) = scanner.next() {
            if let Some(committed) = record.committed_lsn() {
                self.committed = self.committed.max(Lsn::new(committed));
            }
            if ends_transaction(&record) {
                self.end = scanner.position();
            }
        }
        self.at = scanner.position();
        log.set_appended(self.end.lsn);
        log.set_durable(self.end.lsn);
        self.end.lsn
    }

    /// The end of the last whole transaction.
    pub fn end(&self) -> Position {
        self.end
    }

    /// The highest `committed_lsn` that a record has told so far.
    pub fn committed(&self) -> Lsn {
        self.committed
    }
}
