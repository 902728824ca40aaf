//! Taking over from a leader that is still there.
//!
//! Sentinel's manual failover promotes a follower while its leader goes on: with two followers and `sync-followers 1`, leader
//! and the other follower can acknowledge writes that the promoted one does not have. So a follower that is promoted inside a
//! transaction, as only Sentinel does it, first asks its leader to stand down. The leader takes no write from then on and says
//! where its log ends; the follower waits until it holds all of that, is promoted, and tells the leader, which becomes its
//! follower at once. Nothing acknowledged is lost, and nobody but the two had to be asked.
//!
//! A leader that does not answer in [`ANSWER_LIMIT_MS`] is taken for dead, and the promotion is one like any other. A leader
//! that stood down and hears no more of it leads on after [`STAND_DOWN_MS`]. Nothing on the way is persistent: who crashes
//! meanwhile is what it was before. Only the outcome is: the former leader writes whom it follows into its configuration file.
//!
//! A lone `REPLICAOF NO ONE` asks nobody: who wants to detach a follower does not want to stop its leader.

use anyhow::{Context, Result, bail};
use farkeep_core::heap::RedoSink;
use farkeep_core::lsn::Lsn;
use farkeep_leader::FollowerId;

use super::Engine;
use super::report::LinkState;
use super::role::Role;
use crate::config;
use crate::node::Node;
use crate::replication::LeaderAddress;
use crate::worker::Now;

/// How long a leader may take to answer.
const ANSWER_LIMIT_MS: u64 = 500;
/// How long the end of the leader's log may take to arrive after it was asked.
const ARRIVAL_LIMIT_MS: u64 = 3000;
/// A request that nobody has looked at for so long belongs to an earlier attempt.
const FORGOTTEN_MS: u64 = 300;
/// How long a leader stands down for a follower that does not take over. Longer than the follower waits.
const STAND_DOWN_MS: u64 = 5000;

/// A follower's request to its leader to stand down.
#[derive(Debug)]
pub struct Handover {
    asked_at_ms: u64,
    looked_at_ms: u64,
    /// The link has sent it.
    pub sent: bool,
    /// Where the leader's log ends, once it has said so.
    pub end: Option<Lsn>,
}

/// For whom a leader has stood down.
#[derive(Debug)]
pub(super) struct StoodDown {
    /// The session in which it was asked to.
    id: FollowerId,
    /// Whom to follow once that one has taken over.
    successor: LeaderAddress,
    /// It leads on from then on, in the node's ms.
    until_ms: u64,
}

impl Engine {
    /// Whether a promotion has to wait for the leader to hand over; asks it to when called first.
    pub fn awaits_handover(&self, node: &Node, now: Now) -> bool {
        if self.is_leader() {
            return false;
        }
        let mut guard = node.followership();
        let Some(follows) = &mut *guard else { return false };
        if self.link_state(node, follows) != LinkState::Up {
            return false;
        }
        let durable = follows.machine.progress().durable;
        match &mut follows.handover {
            Some(handover) if now.ms < handover.looked_at_ms + FORGOTTEN_MS => {
                handover.looked_at_ms = now.ms;
                let waited_ms = now.ms.saturating_sub(handover.asked_at_ms);
                match handover.end {
                    None => waited_ms < ANSWER_LIMIT_MS,
                    Some(end) => durable < end && waited_ms < ARRIVAL_LIMIT_MS,
                }
            }
            handover => {
                *handover =
                    Some(Handover { asked_at_ms: now.ms, looked_at_ms: now.ms, sent: false, end: None });
                node.link.raise();
                true
            }
        }
    }

    /// A follower asks this leader to stand down: no write is taken any more. Returns the end of the log.
    ///
    /// # Errors
    /// When this node does not lead.
    pub fn stand_down(&mut self, now: Now, id: FollowerId, successor: LeaderAddress) -> Result<Lsn> {
        let Role::Leader(leading) = &mut self.role else { bail!("this node is not the leader") };
        let end = leading.appender.appended();
        tracing::info!(follower = %successor, %end, "standing down for a follower that is to be promoted");
        leading.stood_down = Some(StoodDown { id, successor, until_ms: now.ms + STAND_DOWN_MS });
        Ok(end)
    }

    /// Leads on if the follower for which this leader stood down has not taken over in time.
    pub(super) fn stand_up(&mut self, now: Now) {
        if let Role::Leader(leading) = &mut self.role
            && leading.stood_down.as_ref().is_some_and(|stood_down| now.ms >= stood_down.until_ms)
        {
            leading.stood_down = None;
            tracing::warn!("the follower for which this leader stood down did not take over; leading on");
        }
    }

    /// Whether this leader has stood down for a follower and not heard whether that took over.
    pub fn stands_down(&self) -> bool {
        matches!(&self.role, Role::Leader(leading) if leading.stood_down.is_some())
    }

    /// The follower has taken over: this node follows it.
    ///
    /// # Errors
    /// When the pool cannot be opened as a follower's.
    pub fn handed_over(&mut self, node: &Node, now: Now, id: FollowerId) -> Result<()> {
        // What it has acknowledged last lets replies go that are still held.
        self.poll_windows(node, now);
        let Role::Leader(leading) = &mut self.role else { bail!("this node is not the leader") };
        // Its window has closed, so the session may be over already.
        let stood_down = leading.stood_down.take().context("this leader has not stood down")?;
        if stood_down.id != id {
            bail!("this leader has stood down for somebody else");
        }
        let successor = stood_down.successor;
        tracing::info!(leader = %successor, "a follower has taken over");
        self.follow(node, successor)?;
        // Sentinel rewrites the files of those that it told to follow, and finds that this node needs no telling.
        if let Some(path) = &node.config_file
            && let Err(error) = config::rewrite(&node.config(), path)
        {
            tracing::warn!(%error, path = %path.display(), "the new role could not be written into the configuration file");
        }
        Ok(())
    }
}
