//! Positions in the redo stream and the order in which a node's watermarks must stand.
//!
//! An [`Lsn`] is a byte position in the endless logical redo stream of a dataset; it is what Redis calls the
//! replication offset. An [`Epoch`] numbers one leader's reign. Both are newtypes with checked arithmetic, so that
//! a length is never taken for a position and an overflow stops the node instead of corrupting a pool.
//! Nothing here is stored by itself: the structures that hold LSNs on the media say where and how.

use std::fmt;
use std::ops::Add;

/// A byte position in the logical redo stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// The start of the stream: where a dataset's first record, the one that formats the heap, begins.
    pub const ZERO: Lsn = Lsn(0);

    /// The position `bytes` bytes after the start of the stream.
    pub const fn new(bytes: u64) -> Lsn {
        Lsn(bytes)
    }

    /// Nothing overflows in the first sum that it goes into. No log gets this far.
    pub const fn is_believable(self) -> bool {
        self.0 < 1 << 62
    }

    /// The number of bytes before this position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes from `earlier` to `self`. Panics if `earlier` lies behind `self`: whoever asks has
    /// mixed up two watermarks.
    #[track_caller]
    pub fn distance_from(self, earlier: Lsn) -> u64 {
        match self.0.checked_sub(earlier.0) {
            Some(bytes) => bytes,
            None => panic!("LSN {self} lies before LSN {earlier}, from which a distance was asked"),
        }
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    /// The position `bytes` further on. Panics on overflow.
    #[track_caller]
    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0.checked_add(bytes).expect("an LSN overflowed 64 bits"))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({})", self.0)
    }
}

/// Where restarts are counted from by who was promoted.
const PROMOTED: u32 = 0x8000;

/// The number of one leader's reign. A higher epoch always wins.
///
/// The upper 16 bits count promotions and the lower 16 the restarts of the node that was promoted. A leader that restarts
/// begins a new reign without asking anybody, and must not outrank a node that others have been fenced for meanwhile
/// by doing so: only a promotion, which knows what enough other nodes have promised, goes to the next count. So does a leader that takes in a follower
/// which has promised to a promotion; it has to ask as many others before its reign counts. The one who is promoted begins in the upper half of the
/// restarts ([`Epoch::of_the_promoted`]), and who goes on above somebody's promise in the lower one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u32);

impl Epoch {
    /// Before any reign: no record bears it.
    pub const ZERO: Epoch = Epoch(0);

    /// The epoch with this number.
    pub const fn new(number: u32) -> Epoch {
        Epoch(number)
    }

    /// The epoch's number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// What another node says can be one: there is room above it for more promotions than there will be.
    pub const fn is_believable(self) -> bool {
        self.promotions() < 0xf000
    }

    /// How many promotions came before, as far as whoever began it knew.
    pub const fn promotions(self) -> u32 {
        self.0 >> 16
    }

    /// The first epoch of the next promotion. Panics on overflow.
    #[track_caller]
    pub fn next_promotion(self) -> Epoch {
        let promotions = self.promotions().checked_add(1).filter(|&count| count <= 0xffff);
        Epoch(promotions.expect("an epoch overflowed 32 bits") << 16)
    }

    /// In which the one who is promoted begins to reign.
    pub const fn of_the_promoted(self) -> Epoch {
        Epoch(self.0 & 0xffff_0000 | PROMOTED | 1)
    }

    /// The epoch after this one: what a leader that restarts reigns in. Panics on overflow.
    #[track_caller]
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("an epoch overflowed 32 bits"))
    }
}

/// `promotions.restarts`: two numbers that people can compare, where the one number is 98,305 after the first promotion. With `<` before it:
/// of nobody who was promoted, but above what somebody has promised.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (promotions, restarts) = (self.promotions(), self.0 & 0xffff);
        let below = if promotions > 0 && restarts > 0 && restarts < PROMOTED { "<" } else { "" };
        f.pad(&format!("{below}{promotions}.{}", restarts & !PROMOTED))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// Where a node stands. The fields are declared in the order in which they must stand (invariant I1):
/// `oldest <= checkpoint <= applied <= committed <= durable <= appended`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watermarks {
    /// The first position the ring still holds.
    pub oldest: Lsn,
    /// Everything before it is persistent in the image; recovery starts here.
    pub checkpoint: Lsn,
    /// Everything before it is visible in the image.
    pub applied: Lsn,
    /// Everything before it survives the loss of any one node that the configuration promises to survive.
    pub committed: Lsn,
    /// Everything before it is persistent in the local log.
    pub durable: Lsn,
    /// Everything before it is written into the local log's memory.
    pub appended: Lsn,
}

impl Watermarks {
    /// Panics, naming both, if two neighbouring watermarks stand in the wrong order (I1).
    #[track_caller]
    pub fn assert_ordered(&self) {
        let order = [
            ("oldest", self.oldest),
            ("checkpoint", self.checkpoint),
            ("applied", self.applied),
            ("committed", self.committed),
            ("durable", self.durable),
            ("appended", self.appended),
        ];
        for pair in order.windows(2) {
            let ((lower, low), (upper, high)) = (pair[0], pair[1]);
            assert!(low <= high, "watermarks out of order: {lower}_lsn {low} > {upper}_lsn {high}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsns: [u64; 6]) -> Watermarks {
        let [oldest, checkpoint, applied, committed, durable, appended] = lsns.map(Lsn::new);
        Watermarks { oldest, checkpoint, applied, committed, durable, appended }
    }

    #[test]
    fn watermarks_may_be_equal_or_rise() {
        at([0; 6]).assert_ordered();
        at([1, 2, 2, 3, 4, 9]).assert_ordered();
    }

    #[test]
    #[should_panic(expected = "committed_lsn 5 > durable_lsn 4")]
    fn committed_beyond_durable_is_refused() {
        at([1, 2, 3, 5, 4, 9]).assert_ordered();
    }

    #[test]
    fn a_restart_never_outranks_a_promotion() {
        let leader = Epoch::ZERO.next();
        let promise = leader.next_promotion();
        assert!((0..1000).fold(promise, |epoch, _| epoch.next()) < promise.of_the_promoted());
        let promoted = promise.of_the_promoted();
        assert!((0..1000).fold(leader, |epoch, _| epoch.next()) < promoted);
        assert!(promoted.next() < promoted.next_promotion());
    }

    #[test]
    fn an_epoch_is_shown_as_promotions_and_restarts() {
        let promise = Epoch::ZERO.next().next_promotion();
        let promoted = promise.of_the_promoted();
        assert_eq!((promoted.get(), promoted.to_string().as_str()), (98_305, "1.1"));
        assert_eq!(promoted.next().to_string(), "1.2");
        assert_eq!([promise, promise.next()].map(|epoch| epoch.to_string()), ["1.0", "<1.1"]);
        assert_eq!(format!("{:<5}|{promoted:?}", Epoch::ZERO.next()), "0.1  |Epoch(1.1)");
    }

    #[test]
    fn distance_undoes_add() {
        let lsn = Lsn::new(40) + 24;
        assert_eq!(lsn.get(), 64);
        assert_eq!(lsn.distance_from(Lsn::new(40)), 24);
    }

    #[test]
    #[should_panic(expected = "lies before")]
    fn a_negative_distance_is_refused() {
        Lsn::new(1).distance_from(Lsn::new(2));
    }
}
