//! What a log must know before its first record can be believed, and how that survives.
//!
//! The state says where replaying starts and what the first record there continues, which reigns may have written
//! what, and what the node has promised. It changes rarely (a checkpoint, a new reign) and lies in two slots that
//! are written in turn; a crash in the middle of an update leaves the other slot.

use std::sync::Arc;

use farkeep_proto::logfile::{MAX_REIGNS, RawReign, RawState, STATE_LEN, STATE_MID_SYNC};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::history::{EpochHistory, Reign, Replid};
use super::promise::{Claim, Promise};
use super::scan::Position;
use crate::lsn::{Epoch, Lsn};

/// The persistent state of a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// The dataset in the pool; all zero as long as there is none.
    pub dataset_id: [u8; 16],
    /// Everything before it is persistent in the image. Replaying starts here.
    pub checkpoint: Position,
    /// The ring is known to hold nothing usable before this position.
    pub oldest: Lsn,
    /// What this node has promised.
    pub promised: Promise,
    /// The epoch of the last reign that this node has followed and has not been promoted, or settled a reign of its own, above since: of that
    /// reign others may hold more than this node, whatever was committed of it. `Epoch::ZERO`: none.
    pub followed: Epoch,
    /// The image is in the middle of a delta sync and of no use by itself (I10).
    pub mid_sync: bool,
    /// Length of the image at the checkpoint, in bytes.
    pub image_len: u64,
    /// Where a delta sync stood.
    pub sync_cursor: u64,
    /// The reigns that may have written to the log.
    pub history: Arc<EpochHistory>,
}

impl LogState {
    /// Whether the pool holds no dataset yet.
    pub fn is_blank(&self) -> bool {
        self.dataset_id == [0; 16]
    }

    /// What this node can promise to a promotion that wants at least this: more, if it has promised somebody else that number already.
    pub fn next_promise(&self, wanted: Promise) -> Promise {
        let above = || self.promised.epoch.max(self.history.epoch()).next_promotion();
        let next = self.promised_to(wanted.claim).map_or_else(above, |promise| promise.epoch);
        Promise { epoch: next.max(wanted.epoch), claim: wanted.claim }
    }

    /// What this node has promised, if that was to this promotion and nobody has reigned by it here.
    pub fn promised_to(&self, claim: Claim) -> Option<Promise> {
        let stands = claim != Claim::NONE && self.promised.epoch > self.history.epoch();
        Some(self.promised).filter(|promised| stands && promised.claim == claim)
    }

    /// The state as it lies in a slot.
    pub(super) fn to_raw(&self, seq: u64) -> RawState {
        let mut raw = RawState::new_zeroed();
        raw.history_len = (self.history.reigns().len() as u32).into();
        raw.seq = seq.into();
        raw.dataset_id = self.dataset_id;
        raw.checkpoint_lsn = self.checkpoint.lsn.get().into();
        raw.checkpoint_crc = self.checkpoint.crc.into();
        raw.checkpoint_epoch = self.checkpoint.epoch.get().into();
        raw.oldest_lsn = self.oldest.get().into();
        raw.promised_epoch = self.promised.epoch.get().into();
        raw.promised_claim = self.promised.claim.0;
        raw.followed_epoch = self.followed.get().into();
        raw.flags = if self.mid_sync { STATE_MID_SYNC } else { 0 }.into();
        raw.image_len = self.image_len.into();
        raw.sync_cursor = self.sync_cursor.into();
        for (slot, reign) in raw.history.iter_mut().zip(self.history.reigns()) {
            *slot = RawReign {
                epoch: reign.epoch.get().into(),
                replid: reign.replid.0,
                start_lsn: reign.start.get().into(),
            };
        }
        raw.crc = raw.checksum().into();
        raw
    }

    /// The state in a slot and its sequence number; `None` if the slot is torn or makes no sense.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<(u64, LogState)> {
        let (raw, _) = RawState::read_from_prefix(bytes).ok()?;
        if raw.crc.get() != raw.checksum() || raw.flags.get() & !STATE_MID_SYNC != 0 {
            return None;
        }
        let reigns = raw.history.get(..raw.history_len.get() as usize)?;
        let reigns = reigns.iter().map(|reign| Reign {
            epoch: Epoch::new(reign.epoch.get()),
            replid: Replid(reign.replid),
            start: Lsn::new(reign.start_lsn.get()),
        });
        let state = LogState {
            dataset_id: raw.dataset_id,
            checkpoint: Position {
                lsn: Lsn::new(raw.checkpoint_lsn.get()),
                crc: raw.checkpoint_crc.get(),
                epoch: Epoch::new(raw.checkpoint_epoch.get()),
            },
            oldest: Lsn::new(raw.oldest_lsn.get()),
            promised: Promise {
                epoch: Epoch::new(raw.promised_epoch.get()),
                claim: Claim(raw.promised_claim),
            },
            followed: Epoch::new(raw.followed_epoch.get()),
            mid_sync: raw.flags.get() & STATE_MID_SYNC != 0,
            image_len: raw.image_len.get(),
            sync_cursor: raw.sync_cursor.get(),
            history: Arc::new(EpochHistory::new(reigns.collect())?),
        };
        state.is_plausible().then_some((raw.seq.get(), state))
    }

    /// Whether a log can be in it. What cannot be is not believed when it is read, so it must not be written.
    pub(super) fn is_plausible(&self) -> bool {
        let positions = [self.checkpoint.lsn, self.oldest, Lsn::new(self.image_len)];
        let epochs = [self.promised.epoch, self.followed, self.history.epoch(), self.checkpoint.epoch];
        positions.iter().all(|position| position.is_believable())
            && epochs.iter().all(|epoch| epoch.get() < u32::MAX)
            && self.oldest <= self.checkpoint.lsn
    }
}

/// The valid state with the higher sequence number, out of the bytes of the two slots.
pub(super) fn newest(slots: [&[u8]; 2]) -> Option<(u64, LogState)> {
    let [a, b] = slots.map(LogState::from_bytes);
    match (a, b) {
        (Some(a), Some(b)) => Some(if a.0 > b.0 { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// Bytes of a raw state, for storing.
pub(super) fn as_bytes(raw: &RawState) -> &[u8] {
    raw.as_bytes()
}

const _: () = assert!(STATE_LEN == size_of::<RawState>() && MAX_REIGNS == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lsn: u64) -> LogState {
        let mut history = EpochHistory::default();
        history.push(Reign { epoch: Epoch::new(7), replid: Replid([9; 20]), start: Lsn::new(40) });
        LogState {
            dataset_id: [5; 16],
            checkpoint: Position { lsn: Lsn::new(lsn), crc: 77, epoch: Epoch::new(7) },
            oldest: Lsn::new(8),
            promised: Promise { epoch: Epoch::new(9), claim: Claim([4; 8]) },
            followed: Epoch::new(6),
            mid_sync: true,
            image_len: 1 << 20,
            sync_cursor: 3,
            history: Arc::new(history),
        }
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let raw = state(800).to_raw(12);
        assert_eq!(LogState::from_bytes(as_bytes(&raw)), Some((12, state(800))));
    }

    #[test]
    fn a_promotion_is_promised_the_same_number_again_and_everybody_else_a_higher_one() {
        let (mine, theirs) = (Claim([1; Claim::LEN]), Claim([2; Claim::LEN]));
        let to = |epoch: Epoch, claim| Promise { epoch, claim };
        let mut state = state(800);
        let first = state.next_promise(to(Epoch::ZERO, mine));
        assert_eq!(first, to(Epoch::new(9).next_promotion(), mine));
        state.promised = first;
        let later = first.epoch.next_promotion();
        assert_eq!(state.next_promise(to(Epoch::ZERO, mine)), first);
        assert_eq!(state.next_promise(to(later, mine)), to(later, mine));
        assert_eq!(state.next_promise(to(Epoch::ZERO, theirs)), to(later, theirs));
        assert_eq!(
            state.next_promise(to(later.next_promotion(), theirs)),
            to(later.next_promotion(), theirs)
        );
        // It has led: the promotion is over.
        let mut history = EpochHistory::default();
        history.push(Reign { epoch: first.epoch, replid: Replid([1; 20]), start: Lsn::new(40) });
        state.history = Arc::new(history);
        assert_eq!(state.next_promise(to(Epoch::ZERO, mine)), to(later, mine));
    }

    #[test]
    fn a_torn_slot_leaves_the_other_one() {
        let (old, new) = (state(800).to_raw(12), state(900).to_raw(13));
        assert_eq!(newest([as_bytes(&old), as_bytes(&new)]).unwrap().1, state(900));
        assert_eq!(newest([as_bytes(&new), as_bytes(&old)]).unwrap().1, state(900));
        for cut in (8..STATE_LEN).step_by(8) {
            let mut torn = as_bytes(&new).to_vec();
            torn[cut..].fill(0xee);
            assert_eq!(newest([as_bytes(&old), &torn]).unwrap().1, state(800), "cut at {cut}");
        }
        assert_eq!(newest([&[0; STATE_LEN], &[0; STATE_LEN]]), None, "zeroes are no state");
    }
}
