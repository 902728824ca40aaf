//! Taking over.
//!
//! In two steps, because on a one-sided fabric bytes go on arriving until the window is closed: [`Follower::fence`] makes it
//! impossible for the old leader to get another acknowledgement out of this node; then the owner scans its log to the
//! end once more; then [`Follower::promote`] says what the new reign starts with. A crash between the two leaves a
//! follower that has promised to an epoch nobody reigns in, which is harmless: the next reign goes above it.

use farkeep_core::log::{Claim, Promise};
use farkeep_core::lsn::{Epoch, Lsn};

use crate::follower::{Action, Follower};

/// Why a node cannot take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromoteError {
    /// Its image is in the middle of a sync and of no use by itself (I10).
    #[error("this node is in the middle of a sync and cannot be promoted")]
    MidSync,
    /// It has not been fenced.
    #[error("this node has not been fenced, so its leader may still be acknowledging writes")]
    NotFenced,
    /// It has promised to another node's higher epoch since.
    #[error("this node has promised to epoch {0} meanwhile")]
    Outbid(Epoch),
}

/// What a new reign starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// What enough nodes have promised: the pool is to be opened as a leader's with at least this epoch, and this claim to its number
    /// (`core::recover::LeaderOptions`).
    pub promise: Promise,
    /// What is known to be committed. It may be more than the records say, from which recovery takes it. The rest of the
    /// log is committed once the reign's first record is.
    pub committed: Lsn,
}

impl Follower {
    /// The lowest epoch that a reign begun here may have.
    pub fn next_epoch(&self) -> Epoch {
        self.past.highest().next_promotion()
    }

    /// Leaves the old leader for good: promises, durably, closes the window, ends the session. Carry the
    /// actions out, scan the log to its end and report it with [`Follower::scanned`]; then this node's `durable_lsn`
    /// can be compared with others' and one of them be promoted.
    ///
    /// # Errors
    /// [`PromoteError::Outbid`] when this node has promised to a higher epoch already, or to this one before.
    pub fn fence(&mut self, epoch: Epoch, claim: Claim) -> Result<Vec<Action>, PromoteError> {
        if epoch <= self.past.highest() {
            return Err(PromoteError::Outbid(self.past.highest()));
        }
        self.past.promised = Promise { epoch, claim };
        self.detach();
        Ok(vec![Action::Promise(self.past.promised), Action::CloseWindow, Action::Disconnect])
    }

    /// What a reign begun here starts with. The owner drops what it has open, opens the pool as a leader's, and this
    /// machine is of no more use.
    ///
    /// # Errors
    /// [`PromoteError`]; the node then stays as it is.
    pub fn promote(&self) -> Result<Promotion, PromoteError> {
        if self.mid_sync {
            return Err(PromoteError::MidSync);
        }
        let promise = self.past.promised;
        let led = self.past.history.last().map_or(Epoch::ZERO, |reign| Epoch::new(reign.epoch));
        if !self.is_detached() || promise.epoch <= led {
            return Err(PromoteError::NotFenced);
        }
        let promise = Promise { epoch: promise.epoch.of_the_promoted(), ..promise };
        Ok(Promotion { promise, committed: self.progress().committed })
    }
}
