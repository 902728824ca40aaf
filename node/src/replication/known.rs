//! The followers that a leader has had in its reign, also those that went: any of them may hold what a failover must not lose.

use std::collections::BTreeMap;

use farkeep_core::lsn::Lsn;
use farkeep_leader::Leader;
use farkeep_proto::control::PeerAddress;

use super::address_of;

/// A follower that has been gone for so long, and of whose log the others hold all that matters, is not coming back.
const FORGET_MS: u64 = 60_000;
/// Followers of which is kept why they were lost.
const MAX_REASONS: usize = 64;

/// Them all.
#[derive(Debug, Default)]
pub struct Known {
    followers: Vec<Follower>,
    /// Why those were lost that are gone, by their names.
    why_lost: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Follower {
    node_id: Vec<u8>,
    address: PeerAddress,
    /// Since when it has been gone, and where the log ended then.
    gone: Option<(u64, Lsn)>,
}

impl Known {
    /// Those of a group that had followers at these addresses.
    pub fn of(addresses: Vec<PeerAddress>) -> Self {
        let follower = |address| Follower { node_id: Vec::new(), address, gone: None };
        Self { followers: addresses.into_iter().map(follower).collect(), why_lost: BTreeMap::new() }
    }

    /// Where they are.
    pub fn addresses(&self) -> impl Iterator<Item = &PeerAddress> {
        self.followers.iter().map(|follower| &follower.address)
    }

    /// Those that were lost, by name, and why.
    pub fn lost(&self) -> impl Iterator<Item = (&str, &str)> {
        self.why_lost.iter().map(|(name, reason)| (name.as_str(), reason.as_str()))
    }

    /// One of them is lost.
    pub fn note_lost(&mut self, name: &str, reason: &str) {
        if self.why_lost.len() == MAX_REASONS {
            self.why_lost.pop_first();
        }
        self.why_lost.insert(name.to_owned(), reason.to_owned());
    }

    /// Takes note of who is there and who is gone. Those that are gone are forgotten when they are not likely to come back and whatever was
    /// acknowledged because of them is elsewhere.
    pub fn note(&mut self, leader: &Leader, now_ms: u64) {
        for follower in leader.followers() {
            self.why_lost.remove(&follower.name());
            let there =
                Follower { node_id: follower.node_id.clone(), address: address_of(follower), gone: None };
            let same = |known: &Follower| known.node_id == there.node_id || known.address == there.address;
            match self.followers.iter_mut().find(|known| same(known)) {
                Some(known) => *known = there,
                None => self.followers.push(there),
            }
        }
        let sync = leader.config().sync_followers.max(1);
        self.followers.retain_mut(|known| {
            if leader.followers().any(|follower| follower.node_id == known.node_id) {
                return true;
            }
            let (since_ms, end) = *known.gone.get_or_insert((now_ms, leader.appended()));
            now_ms.saturating_sub(since_ms) < FORGET_MS || leader.followers_durable_at(end) < sync
        });
    }
}
