//! What happens to the group, and when: all of it decided by the seed before the run begins.

use crate::sim::Rng;

/// What befalls one of the followers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowerFault {
    /// kill -9.
    Kill,
    /// SIGSTOP.
    Freeze,
    /// Its path to the leader is cut.
    Cut,
    /// What it sends arrives nowhere, and it hears its leader.
    Mute,
    /// It hears nothing, and what it sends arrives.
    Deaf,
    /// Everything arrives late by so many ms.
    Slow(u64),
}

/// What befalls the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaderFault {
    /// kill -9, and started again as the leader.
    Restart,
    /// SIGSTOP and SIGCONT, while nobody does anything about it.
    Doze,
    /// kill -9; a follower is promoted.
    Kill,
    /// SIGSTOP; a follower is promoted; SIGCONT.
    Freeze,
    /// Its followers are cut off from it, clients are not; a follower is promoted.
    Isolate,
    /// Nothing: all is well, and it hands over by FAILOVER.
    HandOver,
    /// kill -9, and `farkeep failover` finds it another leader.
    KillForFailover,
    /// kill -9, and `farkeep failover` and a transaction look for another leader at once.
    KillForTwo,
    /// kill -9; a follower is killed while it is being promoted, and another one is promoted.
    KillWithSuccessor,
    /// kill -9; a follower is stopped while it is being promoted, goes on when another one is, or is about to be.
    KillAndFreezeSuccessor,
    /// Nothing; a follower is promoted beside it, by somebody who believes it dead, or who wants another leader.
    Forsake,
    /// Nothing; a follower is promoted beside it, takes what writes it can, and is told to follow it again.
    Rival,
    /// All three nodes are killed and started again.
    KillAll,
}

/// What becomes of a leader that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// It is told whom to follow as soon as it can hear it.
    Told,
    /// It comes back believing that it leads, and is told after so many ms.
    Believing(u64),
}

/// A follower's fault: which one (of those who follow at the time), and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// The first or the second of those that follow.
    pub follower: usize,
    /// What befalls it.
    pub fault: FollowerFault,
    /// How long before the next thing happens.
    pub lasts_ms: u64,
}

/// A part of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Writes to be acknowledged before anything happens.
    pub quiet_writes: u64,
    /// Then so much time.
    pub quiet_ms: u64,
    /// What befalls a follower first, if anything.
    pub hit: Option<Hit>,
    /// What befalls the leader while that lasts, if anything.
    pub leader: Option<LeaderFault>,
    /// How long the leader's trouble lasts before something is done about it.
    pub leader_ms: u64,
    /// Bytes of long values written while the follower's trouble lasts, if any: more than a small ring holds.
    pub flood_bytes: u64,
    /// If a follower is promoted: not by the operator's rule but as Sentinel does it, inside a transaction, and just this one.
    pub by_transaction: Option<usize>,
    /// If something befalls a promotion: so long after it was asked for.
    pub promotion_ms: u64,
    /// What becomes of a leader that was replaced.
    pub back: Return,
}

/// All that happens in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// How many nodes there are, the leader among them.
    pub nodes: usize,
    /// Of every node.
    pub log_size_mb: u64,
    /// Of every node: what a leader sends in delta syncs, per second. 0 is no limit.
    pub sync_max_rate_mb: u64,
    /// Of every node: seconds between two scrubs. 0 is never.
    pub scrub_interval_s: u64,
    /// Whoever is started again is started with the configuration that it had at first, not in the role that it had last.
    pub as_configured: bool,
    /// Writers that follow the leader.
    pub writers: usize,
    /// One after the other.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// The schedule of a seed; every other one has the smallest ring there is, and two of eight have four nodes.
    pub fn new(seed: u64, rng: &mut Rng) -> Self {
        let writers = rng.between(2, 5) as usize;
        let count = rng.between(4, 7);
        // Then whoever is away for a while needs a delta sync.
        let small = seed % 2 == 1;
        let steps = (0..count).map(|_| Step::new(rng, small)).collect();
        Self {
            nodes: if seed / 2 % 4 == 3 { 4 } else { 3 },
            log_size_mb: if small { 4 } else { 64 },
            // Slow enough for what befalls the nodes to befall them in the middle of one.
            sync_max_rate_mb: if rng.chance(50) { rng.between(2, 12) } else { 0 },
            scrub_interval_s: u64::from(rng.chance(40)),
            as_configured: rng.chance(40),
            writers,
            steps,
        }
    }
}

impl Step {
    fn new(rng: &mut Rng, small_ring: bool) -> Self {
        let quiet_writes = if rng.chance(75) { rng.between(20, 300) } else { 0 };
        let quiet_ms = rng.below(60);
        let hit = rng.chance(65).then(|| Hit::new(rng));
        let leader = (hit.is_none() || rng.chance(50)).then(|| {
            [
                LeaderFault::Restart,
                LeaderFault::Doze,
                LeaderFault::Kill,
                LeaderFault::Kill,
                LeaderFault::Freeze,
                LeaderFault::Freeze,
                LeaderFault::Isolate,
                LeaderFault::Forsake,
                LeaderFault::Forsake,
                LeaderFault::KillAll,
                LeaderFault::HandOver,
                LeaderFault::KillForFailover,
                LeaderFault::KillForTwo,
                LeaderFault::KillWithSuccessor,
                LeaderFault::KillAndFreezeSuccessor,
                LeaderFault::Rival,
            ][rng.index(16)]
        });
        let leader_ms = if rng.chance(70) { rng.below(80) } else { rng.below(700) };
        let back = if rng.chance(50) { Return::Told } else { Return::Believing(rng.below(250)) };
        let by_transaction = rng.chance(60).then(|| rng.index(2));
        let promotion_ms = if rng.chance(80) { rng.below(12) } else { rng.below(120) };
        let flood_bytes = if small_ring && rng.chance(60) { rng.between(3 << 20, 9 << 20) } else { 0 };
        Self {
            quiet_writes,
            quiet_ms,
            hit,
            leader,
            leader_ms,
            flood_bytes,
            by_transaction,
            promotion_ms,
            back,
        }
    }
}

impl Hit {
    fn new(rng: &mut Rng) -> Self {
        let slow = FollowerFault::Slow(rng.between(1, 40));
        let faults = [
            FollowerFault::Kill,
            FollowerFault::Kill,
            FollowerFault::Freeze,
            FollowerFault::Freeze,
            FollowerFault::Cut,
            FollowerFault::Mute,
            FollowerFault::Deaf,
            slow,
        ];
        // A leader gives up a silent follower after a second here; some faults last longer.
        let lasts_ms = if rng.chance(80) { rng.below(200) } else { rng.between(300, 1300) };
        Self { follower: rng.index(2), fault: faults[rng.index(faults.len())], lasts_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_one_schedule() {
        for seed in 0..50 {
            assert_eq!(Schedule::new(seed, &mut Rng::new(seed)), Schedule::new(seed, &mut Rng::new(seed)));
        }
        assert_ne!(Schedule::new(1, &mut Rng::new(1)), Schedule::new(3, &mut Rng::new(3)));
    }
}
