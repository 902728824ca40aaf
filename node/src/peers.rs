//! Who else follows, kept beside image and log.
//!
//! A follower that is restarted when its leader is gone has to know whom to ask before it is promoted, and a leader that is restarted has to
//! tell those who come back of those who do not. What another leader has said is not believed: who belongs to its group may have
//! changed since.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use farkeep_proto::control::{PeerAddress, Peers, Remembered};
use prost::Message as _;

use crate::config::LeaderAddress;

const NAME: &str = "peers";

/// What the pool in `directory` remembers of a leader's followers.
pub fn of_leader(directory: &Path, leader: &LeaderAddress) -> Peers {
    let remembered = load(directory);
    if remembered.leader == Some(address(leader)) { remembered.peers } else { Peers::default() }
}

/// The followers that the pool in `directory` remembers, but for this node itself: a leader's own, or those of the leader before.
pub fn others(directory: &Path) -> Vec<PeerAddress> {
    let Peers { followers, yourself, .. } = load(directory).peers;
    followers.into_iter().filter(|peer| Some(peer) != yourself.as_ref()).collect()
}

/// How many of a group's followers it takes to lead it where it may have another leader: so many that of those who are left too few follow that one
/// for it to acknowledge anything, and that one of these holds whatever it has acknowledged. 0 where it acknowledges without any.
pub fn quorum(followers: usize, sync_followers: usize) -> usize {
    if sync_followers == 0 { 0 } else { followers.saturating_sub(sync_followers) }
}

/// The [`quorum`] of the group that the pool in `directory` remembers.
pub fn remembered_quorum(directory: &Path) -> usize {
    let Peers { followers, sync_followers, .. } = load(directory).peers;
    // Of another leader's followers this node is one, and he will be one of this node's.
    quorum(followers.len(), sync_followers as usize)
}

fn load(directory: &Path) -> Remembered {
    let bytes = fs::read(directory.join(NAME)).unwrap_or_default();
    Remembered::decode(&bytes[..]).unwrap_or_else(|error| {
        tracing::warn!(%error, "what the pool remembers of other followers makes no sense");
        Remembered::default()
    })
}

/// Remembers what a leader has said, or what this node knows as the leader. After a crash the pool remembers this or what it did
/// before. Failure is told in the log: it makes nothing wrong that is not about to be promoted.
pub fn save(directory: &Path, leader: Option<&LeaderAddress>, peers: &Peers) {
    let remembered = Remembered { leader: leader.map(address), peers: peers.clone() };
    if let Err(error) = write(directory, &remembered.encode_to_vec()) {
        tracing::warn!(%error, "the pool does not remember the other followers");
    }
}

fn write(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = directory.join("peers.new");
    let mut file = File::create(&written)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&written, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

fn address(leader: &LeaderAddress) -> PeerAddress {
    PeerAddress { host: leader.host.clone(), port: leader.port.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_leader_said_is_remembered_for_that_leader_and_nonsense_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let leader = |port| LeaderAddress { host: "l".to_owned(), port };
        let peer = |port| PeerAddress { host: "f".to_owned(), port };
        assert_eq!(of_leader(directory.path(), &leader(1)), Peers::default());
        let peers = Peers { followers: vec![peer(7), peer(8)], sync_followers: 1, yourself: Some(peer(7)) };
        save(directory.path(), Some(&leader(1)), &peers);
        assert_eq!(of_leader(directory.path(), &leader(1)), peers);
        assert_eq!(of_leader(directory.path(), &leader(2)), Peers::default());
        assert_eq!((others(directory.path()), remembered_quorum(directory.path())), (vec![peer(8)], 1));
        save(directory.path(), None, &peers);
        assert_eq!(remembered_quorum(directory.path()), 1, "its own followers");
        fs::write(directory.path().join(NAME), [0xff; 9]).unwrap();
        assert_eq!(others(directory.path()), []);
    }
}
