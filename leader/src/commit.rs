//! Which LSN is committed.
//!
//! `committed_lsn` is the highest *transaction end* that is durable here and on as many followers as are required.
//! Followers may hold any prefix of the log, also one that ends inside a transaction, so the ends are kept here,
//! one for each turn of the loop in which something was appended. A new reign begins with an empty list and
//! its first mark is the end of its `EPOCH_START` record, or of the one that settles it. That is all it takes for the rule that an earlier epoch's tail counts as
//! committed only once that record is: there is no earlier mark to commit to.

use std::collections::VecDeque;

use farkeep_core::lsn::Lsn;

/// Transaction ends that are kept. If a group falls behind by more turns than this, the latest ones are merged, which
/// delays their commit to the end of the last and changes nothing else.
const MAX_MARKS: usize = 1 << 16;

#[derive(Debug)]
pub(crate) struct CommitPoint {
    committed: Lsn,
    marks: VecDeque<Lsn>,
}

impl CommitPoint {
    pub(crate) fn new(committed: Lsn) -> Self {
        Self { committed, marks: VecDeque::new() }
    }

    pub(crate) fn committed(&self) -> Lsn {
        self.committed
    }

    /// A transaction of this reign ends at `lsn`, behind all earlier ones.
    pub(crate) fn mark(&mut self, lsn: Lsn) {
        let last = self.marks.back().copied().unwrap_or(self.committed);
        assert!(last <= lsn, "appended_lsn went back from {last} to {lsn}");
        if last == lsn {
            return;
        }
        if self.marks.len() == MAX_MARKS {
            self.marks.pop_back();
        }
        self.marks.push_back(lsn);
    }

    /// Everything before `lsn`, a transaction's end, is known to have been committed, by this leader or one before it.
    pub(crate) fn learn(&mut self, lsn: Lsn) {
        self.committed = self.committed.max(lsn);
        while self.marks.front().is_some_and(|&mark| mark <= self.committed) {
            self.marks.pop_front();
        }
    }

    /// Everything before `held` is held by enough nodes: commits the transactions that end there or before. Says
    /// whether any did.
    pub(crate) fn advance(&mut self, held: Lsn) -> bool {
        let before = self.committed;
        while let Some(&mark) = self.marks.front()
            && mark <= held
        {
            self.committed = mark;
            self.marks.pop_front();
        }
        self.committed > before
    }
}

/// The highest position that at least `wanted` of `positions` have reached; `None` when there are not as many.
/// `positions` is reordered.
pub(crate) fn kth_best(positions: &mut [Lsn], wanted: usize) -> Option<Lsn> {
    let index = wanted.checked_sub(1)?;
    if index >= positions.len() {
        return None;
    }
    let (_, kth, _) = positions.select_nth_unstable_by(index, |a, b| b.cmp(a));
    Some(*kth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsns(values: &[u64]) -> Vec<Lsn> {
        values.iter().copied().map(Lsn::new).collect()
    }

    #[test]
    fn the_kth_best_is_what_k_followers_have_reached() {
        assert_eq!(kth_best(&mut lsns(&[10, 30, 20]), 1), Some(Lsn::new(30)));
        assert_eq!(kth_best(&mut lsns(&[10, 30, 20]), 2), Some(Lsn::new(20)));
        assert_eq!(kth_best(&mut lsns(&[10, 30, 20]), 3), Some(Lsn::new(10)));
        assert_eq!(kth_best(&mut lsns(&[10, 30, 20]), 4), None);
        assert_eq!(kth_best(&mut lsns(&[5, 5]), 2), Some(Lsn::new(5)));
    }

    #[test]
    fn a_position_inside_a_transaction_commits_only_what_ended_before() {
        let mut point = CommitPoint::new(Lsn::new(100));
        point.mark(Lsn::new(200));
        point.mark(Lsn::new(300));
        assert!(!point.advance(Lsn::new(199)));
        assert!(point.advance(Lsn::new(250)));
        assert_eq!(point.committed(), Lsn::new(200));
        assert!(!point.advance(Lsn::new(120)), "committed_lsn never goes back");
        assert_eq!(point.committed(), Lsn::new(200));
    }

    #[test]
    fn an_earlier_tail_is_committed_only_with_the_first_record_of_the_reign() {
        // Recovered: committed up to 100, durable up to 180. The EPOCH_START record is 180..216.
        let mut point = CommitPoint::new(Lsn::new(100));
        point.mark(Lsn::new(216));
        assert!(
            !point.advance(Lsn::new(180)),
            "everybody holds the old tail, but not the new reign's record"
        );
        assert!(point.advance(Lsn::new(216)));
        assert_eq!(point.committed(), Lsn::new(216));
    }
}
