//! What a node has promised, and to whose promotion.
//!
//! A promotion is a round of Paxos, and a promise what an acceptor gives in its first phase. Where `sync-followers` is more than half of the
//! followers, two promotions can be made by nodes that know nothing of each other (Howard, Malkhi and Spiegelman, "Flexible Paxos:
//! Quorum Intersection Revisited", 2016), and so take the same number. As in Paxos no two rounds may be taken for one: a promise therefore names the
//! promotion, and a node takes part in no other one of that number. Whoever commits anything needs a node that has promised to each of the
//! others, so of the promotions of one number at most one ever commits; the other ones' leaders find that out from the first such node that
//! comes, and begin a reign of a higher number.

use std::fmt;

use super::history::{Reign, Replid};
use crate::lsn::Epoch;

/// Tells two promotions of the same number apart: random bytes, with which the replids of all its reigns begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Claim(pub [u8; Claim::LEN]);

impl Claim {
    /// Its length in bytes.
    pub const LEN: usize = 8;
    /// No promotion's.
    pub const NONE: Claim = Claim([0; Claim::LEN]);

    /// The claim in its hexadecimal digits; `None` if it is none.
    pub fn parse(text: &str) -> Option<Claim> {
        let is_one = text.len() == 2 * Claim::LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| is_one)?;
        Some(Claim(number.to_be_bytes())).filter(|claim| *claim != Claim::NONE)
    }

    /// The claim in a message, where [`Claim::NONE`] is no bytes at all; `None` if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Claim> {
        if bytes.is_empty() { Some(Claim::NONE) } else { bytes.try_into().ok().map(Claim) }
    }
}

/// In hexadecimal.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl Replid {
    /// The promotion to which the reign belongs.
    pub fn claim(&self) -> Claim {
        let (claim, _) = self.0.split_first_chunk().expect("a replid is longer than a claim");
        Claim(*claim)
    }

    /// The same for a reign of this promotion.
    #[must_use]
    pub fn of(mut self, claim: Claim) -> Replid {
        self.0[..Claim::LEN].copy_from_slice(&claim.0);
        self
    }
}

/// What a node has promised: to take part in no earlier epoch than this one (I11), and in no other promotion of that number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Promise {
    /// The lowest epoch.
    pub epoch: Epoch,
    /// Whose promotion that number is; [`Claim::NONE`]: anybody's.
    pub claim: Claim,
}

impl Promise {
    /// The promise that goes with following, or leading, this reign.
    pub fn to(reign: &Reign) -> Promise {
        Promise { epoch: reign.epoch, claim: reign.replid.claim() }
    }

    /// Whether who has promised this may promise the other one.
    pub fn admits(&self, other: Promise) -> bool {
        let later = other.epoch.promotions() > self.epoch.promotions();
        later || other.epoch >= self.epoch && (self.claim == Claim::NONE || self.claim == other.claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_promotions_of_one_number_a_promise_admits_its_own() {
        let third = Epoch::new(2 << 16).next_promotion();
        let promise = |epoch, claim| Promise { epoch, claim: Claim([claim; Claim::LEN]) };
        let given = promise(third.next(), 1);
        assert!(given.admits(given) && given.admits(promise(third.next().next(), 1)), "a restart of its own");
        assert!(!given.admits(promise(third, 1)), "an earlier reign of its own");
        assert!(!given.admits(promise(third.next(), 2)), "a twin");
        assert!(!given.admits(promise(third.next().next(), 2)), "a restart of a twin");
        assert!(given.admits(promise(third.next_promotion(), 2)));
        assert!(!given.admits(promise(Epoch::new(2 << 16).next(), 1)), "an earlier promotion");
        let anybodys = Promise { epoch: third, claim: Claim::NONE };
        assert!(anybodys.admits(promise(third, 2)) && !anybodys.admits(promise(Epoch::new(3), 2)));
    }

    #[test]
    fn the_reigns_of_a_promotion_share_the_beginning_of_their_replids() {
        let (first, second) = (Replid([7; 20]), Replid([9; 20]));
        let restarted = second.of(first.claim());
        assert_eq!(restarted.claim(), first.claim());
        assert_ne!(restarted, first);
        assert_ne!(second.claim(), first.claim());
        assert_eq!(Claim::from_bytes(&first.claim().0), Some(first.claim()));
        assert_eq!(first.to_string()[..16], first.claim().to_string());
        let claim = Claim([0, 0xab, 3, 4, 5, 6, 7, 0xff]);
        assert_eq!(Claim::parse(&claim.to_string()), Some(claim));
        for text in ["", "0000000000000000", "+0ab03040506070f", "00ab0304050607f", "00ab0304050607ff0"] {
            assert_eq!(Claim::parse(text), None, "{text}");
        }
        assert_eq!((Claim::from_bytes(&[]), Claim::from_bytes(&[1; 7])), (Some(Claim::NONE), None));
    }
}
