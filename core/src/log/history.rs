//! Who wrote which part of the stream.
//!
//! An epoch is one leader's reign; a log's *epoch history* lists the reigns that have written to it and where each
//! began. It is persistent before the first record of a new reign is, and it decides two things: which records may
//! be believed (at every LSN, those of the reign that the history names, so that pushing a reign is also what
//! truncates the suffix of the one before it), and where two logs part ([`EpochHistory::common_point`]).

use std::fmt;

use farkeep_proto::logfile::MAX_REIGNS;
use farkeep_proto::redo::HEADER_LEN;

use super::{Claim, Geometry};
use crate::lsn::{Epoch, Lsn};

/// The random bytes that tell two reigns of the same number apart; in hexadecimal, Redis's `master_replid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Replid(pub [u8; 20]);

impl fmt::Display for Replid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Replid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replid({self})")
    }
}

/// How a reign begins. Its replid says so, and with it the history of whoever holds its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beginning {
    /// A dataset's first reign, or one that somebody was promoted to: enough others have promised, and its first record counts.
    Promoted,
    /// A leader goes on after a restart, and asks nobody. What counts is its second record, which waits until enough followers have
    /// joined; see [`Reign::is_idle`].
    Resumed,
    /// As [`Beginning::Resumed`], where somebody else may lead: more followers have to join.
    Contested,
}

impl Beginning {
    /// The bits of a replid that say it, in the byte behind the claim.
    const MASK: u8 = 0xc0;

    fn bits(self) -> u8 {
        match self {
            Beginning::Promoted => 0,
            Beginning::Resumed => 0x80,
            Beginning::Contested => 0xc0,
        }
    }
}

impl Replid {
    /// The same for a reign that begins like this.
    #[must_use]
    pub fn beginning(mut self, how: Beginning) -> Replid {
        let byte = &mut self.0[Claim::LEN];
        *byte = *byte & !Beginning::MASK | how.bits();
        self
    }
}

/// One leader's reign.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Reign {
    /// Its number.
    pub epoch: Epoch,
    /// What tells it from another reign of the same number.
    pub replid: Replid,
    /// Where its first record begins.
    pub start: Lsn,
}

impl Reign {
    /// How it began.
    pub fn beginning(&self) -> Beginning {
        match self.replid.0[Claim::LEN] & Beginning::MASK {
            0x80 => Beginning::Resumed,
            0xc0 => Beginning::Contested,
            _ => Beginning::Promoted,
        }
    }

    /// Whether nobody was promoted to it, and it has nothing but its first record in a log that ends, or that the next reign begins, at `end`. Such
    /// a record is never committed, and makes its log no more advanced ([`EpochHistory::standing`]): a node that its configuration calls a leader
    /// begins a reign at each start, of a higher number than the one in which others may go on. The second record is written when as many
    /// followers have joined as it takes to lead, which is the first phase of Paxos.
    pub fn is_idle(&self, geometry: &Geometry, end: Lsn) -> bool {
        self.beginning() != Beginning::Promoted && self.holds_at_most(1, geometry, end)
    }

    /// Whether it has no more than so many records that store nothing, in a log that ends at `end`.
    fn holds_at_most(&self, records: u64, geometry: &Geometry, end: Lsn) -> bool {
        end <= geometry.record_start(self.start) + records * HEADER_LEN as u64
    }
}

/// The reigns of a log, oldest first: epochs rise, starts never fall. Only the last [`MAX_REIGNS`] are remembered.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochHistory {
    reigns: Vec<Reign>,
}

impl EpochHistory {
    /// The history of these reigns; `None` if their order is impossible.
    pub fn new(reigns: Vec<Reign>) -> Option<EpochHistory> {
        let ordered =
            reigns.windows(2).all(|pair| pair[0].epoch < pair[1].epoch && pair[0].start <= pair[1].start);
        (ordered && reigns.len() <= MAX_REIGNS).then_some(EpochHistory { reigns })
    }

    /// The reigns, oldest first.
    pub fn reigns(&self) -> &[Reign] {
        &self.reigns
    }

    /// The latest reign.
    pub fn current(&self) -> Option<&Reign> {
        self.reigns.last()
    }

    /// The latest epoch; [`Epoch::ZERO`] if there has been none.
    pub fn epoch(&self) -> Epoch {
        self.current().map_or(Epoch::ZERO, |reign| reign.epoch)
    }

    /// Adds a reign. Panics unless its epoch is higher than all before and it starts no earlier than the last.
    pub fn push(&mut self, reign: Reign) {
        if let Some(last) = self.current() {
            assert!(
                last.epoch < reign.epoch && last.start <= reign.start,
                "reign {reign:?} cannot follow {last:?}"
            );
        }
        if self.reigns.len() == MAX_REIGNS {
            self.reigns.remove(0);
        }
        self.reigns.push(reign);
    }

    /// The epoch whose records may lie at `lsn`, and where that ceases to hold (`None`: nowhere). The epoch is
    /// `None` before the first reign that is remembered.
    pub fn epoch_at(&self, lsn: Lsn) -> (Option<Epoch>, Option<Lsn>) {
        let next = self.reigns.partition_point(|reign| reign.start <= lsn);
        let epoch = next.checked_sub(1).map(|index| self.reigns[index].epoch);
        (epoch, self.reigns.get(next).map(|reign| reign.start))
    }

    /// How far a log with this history is that ends at `end` with a record of the epoch `last`, to be compared with others: the epoch and the
    /// end of the last record that counts. The first record of an idle reign ([`Reign::is_idle`]) does not; that of a reign that
    /// somebody was promoted to settles what is behind it, and does.
    pub fn standing(&self, geometry: &Geometry, last: Epoch, end: Lsn) -> (Epoch, Lsn) {
        let (mut epoch, mut end) = (last, end);
        for reign in self.reigns.iter().rev().filter(|reign| reign.epoch <= last) {
            epoch = reign.epoch;
            if end > reign.start && !reign.is_idle(geometry, end) {
                break;
            }
            end = end.min(reign.start);
        }
        (epoch, end)
    }

    /// Whether a log with this history that ends at `end` holds nothing behind `from` but the records that reigns begin with: the first one,
    /// and the second one of those that nobody was promoted to. None of them stores anything.
    pub fn has_only_begun(&self, geometry: &Geometry, from: Lsn, end: Lsn) -> bool {
        let mut end = end;
        for reign in self.reigns.iter().rev() {
            if end <= from {
                break;
            }
            let records = if reign.beginning() == Beginning::Promoted { 1 } else { 2 };
            if reign.start < from || !reign.holds_at_most(records, geometry, end) {
                return false;
            }
            end = end.min(reign.start);
        }
        end <= from
    }

    /// The last position up to which two logs of the same dataset, which end at `end` and `other_end`, hold the same
    /// bytes. `None` if too much has been forgotten to tell.
    pub fn common_point(&self, end: Lsn, other: &EpochHistory, other_end: Lsn) -> Option<Lsn> {
        let reach = |history: &EpochHistory, index: usize, end: Lsn| {
            history.reigns.get(index + 1).map_or(end, |next| next.start.min(end))
        };
        for (index, reign) in self.reigns.iter().enumerate().rev() {
            if let Some(other_index) = other.reigns.iter().position(|candidate| candidate == reign) {
                return Some(reach(self, index, end).min(reach(other, other_index, other_end)));
            }
        }
        // Two logs without a common reign agree on the empty prefix, but that only serves a log that is empty.
        (end == Lsn::ZERO || other_end == Lsn::ZERO).then_some(Lsn::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(reigns: &[(u32, u8, u64)]) -> EpochHistory {
        let reign = |&(epoch, replid, start): &(u32, u8, u64)| Reign {
            epoch: Epoch::new(epoch),
            replid: Replid([replid; 20]),
            start: Lsn::new(start),
        };
        EpochHistory::new(reigns.iter().map(reign).collect()).unwrap()
    }

    fn begun(reigns: &[(u32, Beginning, u64)]) -> EpochHistory {
        let reign = |&(epoch, how, start): &(u32, Beginning, u64)| Reign {
            epoch: Epoch::new(epoch),
            replid: Replid([0xff; 20]).beginning(how),
            start: Lsn::new(start),
        };
        EpochHistory::new(reigns.iter().map(reign).collect()).unwrap()
    }

    fn common(a: &[(u32, u8, u64)], a_end: u64, b: &[(u32, u8, u64)], b_end: u64) -> Option<u64> {
        let point = history(a).common_point(Lsn::new(a_end), &history(b), Lsn::new(b_end));
        assert_eq!(
            point,
            history(b).common_point(Lsn::new(b_end), &history(a), Lsn::new(a_end)),
            "symmetric"
        );
        point.map(Lsn::get)
    }

    #[test]
    fn two_logs_part_where_one_of_them_got_another_leader() {
        let leader = [(1, 1, 0), (3, 3, 400)];
        assert_eq!(common(&leader, 900, &[(1, 1, 0)], 300), Some(300), "a follower behind");
        assert_eq!(
            common(&leader, 900, &[(1, 1, 0)], 500),
            Some(400),
            "an ex-leader with a suffix of its own"
        );
        assert_eq!(
            common(&leader, 900, &[(1, 1, 0), (2, 2, 350)], 500),
            Some(350),
            "a zombie's reign in between"
        );
        assert_eq!(common(&leader, 900, &leader, 700), Some(700));
        assert_eq!(common(&leader, 900, &[], 0), Some(0), "an empty follower");
        assert_eq!(common(&leader, 900, &[(1, 9, 0)], 100), None, "same numbers, another leader");
        assert_eq!(common(&[(1, 1, 0), (2, 2, 400)], 450, &[(1, 1, 0), (2, 9, 420)], 450), Some(400));
    }

    #[test]
    fn the_history_names_the_epoch_of_every_position() {
        let history = history(&[(1, 1, 0), (2, 2, 400), (5, 5, 400)]);
        let at = |lsn| history.epoch_at(Lsn::new(lsn));
        assert_eq!(at(399), (Some(Epoch::new(1)), Some(Lsn::new(400))));
        assert_eq!(at(400), (Some(Epoch::new(5)), None));
    }

    #[test]
    fn only_the_latest_reigns_are_remembered() {
        let mut history = EpochHistory::default();
        for number in 1..=70u32 {
            history.push(Reign {
                epoch: Epoch::new(number),
                replid: Replid::default(),
                start: Lsn::new(8 * u64::from(number)),
            });
        }
        assert_eq!(history.reigns().len(), MAX_REIGNS);
        assert_eq!(history.epoch_at(Lsn::new(8)), (None, Some(Lsn::new(56))));
    }

    #[test]
    fn idle_reigns_make_a_log_no_more_advanced() {
        let geometry = Geometry::new(8 * 4096, 4096).unwrap();
        let of = |reigns: &[(u32, Beginning, u64)], last: u32, end: u64| {
            let (epoch, end) = begun(reigns).standing(&geometry, Epoch::new(last), Lsn::new(end));
            (epoch.get(), end.get())
        };
        use Beginning::{Contested, Promoted, Resumed};
        let reigns = [(1, Promoted, 0), (6, Promoted, 1000)];
        assert_eq!(of(&reigns, 6, 1400), (6, 1400));
        assert_eq!(of(&reigns, 6, 1032), (6, 1032), "the first record of a promotion counts");
        // Started as a leader twice, and nobody came.
        let twice = [(1, Promoted, 0), (6, Promoted, 1000), (7, Resumed, 1200), (8, Contested, 1232)];
        assert_eq!(of(&twice, 8, 1264), (6, 1200));
        assert_eq!(of(&twice, 8, 1296), (8, 1296), "a record more");
        assert_eq!(of(&twice, 7, 1232), (6, 1200), "the last reign is only known of");
        let promoted = [(1, Promoted, 0), (6, Promoted, 1000), (7, Resumed, 1200), (8, Promoted, 1232)];
        assert_eq!(of(&promoted, 8, 1264), (8, 1264));
        let unseen = [(1, Promoted, 0), (6, Promoted, 1200), (7, Resumed, 1200)];
        assert_eq!(of(&unseen, 7, 1232), (1, 1200), "it has no record of 6");
        // The first record of a reign does not fit into the segment any more.
        assert_eq!(of(&[(1, Promoted, 0), (6, Promoted, 1000), (7, Resumed, 4080)], 7, 4128), (6, 4080));
        assert_eq!(of(&[], 0, 0), (0, 0));
    }

    #[test]
    fn a_log_has_only_begun_if_reigns_stored_nothing() {
        use Beginning::{Contested, Promoted, Resumed};
        let geometry = Geometry::new(8 * 4096, 4096).unwrap();
        let history = begun(&[
            (1, Promoted, 0),
            (6, Promoted, 1000),
            (7, Resumed, 1032),
            (8, Contested, 1096),
            (9, Promoted, 1128),
        ]);
        let has_only_begun =
            |from: u64, end: u64| history.has_only_begun(&geometry, Lsn::new(from), Lsn::new(end));
        assert!(has_only_begun(1000, 1160));
        assert!(has_only_begun(1032, 1096));
        assert!(!has_only_begun(1000, 1168), "a promoted leader's second record");
        assert!(!has_only_begun(990, 1160), "records of the reign before");
        assert!(has_only_begun(1160, 1160) && has_only_begun(1200, 1160), "nothing at all");
        assert!(!EpochHistory::default().has_only_begun(&geometry, Lsn::new(0), Lsn::new(32)));
    }
}
