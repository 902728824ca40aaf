//! Changing the leader while it is there.
//!
//! There are two occasions and one mechanism. The leader begins, told to by FAILOVER: writes wait, and as soon as a follower holds
//! the whole log and all of it is committed, it is *offered* the place. Or a follower begins, told to by Sentinel, which
//! promotes inside a transaction. Either way the follower *asks* the leader to stand down, and the leader *grants* that and says
//! where its log ends. The follower waits until it holds all of that, is promoted, and says that it has *taken* over. The former
//! leader follows it at once, and its other followers, which come back to it, it tells where the leader has *moved*. Nothing acknowledged is lost, although
//! with more followers than `sync-followers` leader and others could have gone on without the promoted one.
//!
//! A client sees a pause. Whatever writes waits, on the former leader until its link to the new one is up, on the new one until
//! it has the followers that an acknowledgement takes. What waited on the former leader is then refused with `-READONLY`, as in
//! Redis, and finds a leader that takes it.
//!
//! # What can go wrong
//!
//! An offer binds nobody: one that is not answered in [`OFFER_LIMIT_MS`] is void, because the follower takes over only upon a grant, and
//! a grant comes only upon a request. A grant binds the leader for [`STAND_DOWN_CRONS`], and is of use to the follower only for
//! [`ANSWER_LIMIT_MS`] + [`ARRIVAL_LIMIT_MS`] from its own request on, which came before the grant: however long either of them is
//! stopped meanwhile, the follower does not take over once the leader has begun to lead on. While a grant is out there is no other, whoever asks.
//!
//! A leader that a follower asks and that does not answer in [`SILENCE_LIMIT_MS`] is taken for dead: the follower asks its peers
//! ([`super::muster`]). Nothing on the way is persistent: who crashes meanwhile is what it was before. Only the outcome is: everyone writes whom it
//! follows into its configuration file.
//!
//! A lone `REPLICAOF NO ONE` asks nobody: who wants to detach a follower does not want to stop its leader.

use anyhow::{Context, Result, bail, ensure};
use farkeep_core::heap::RedoSink;
use farkeep_core::log::{Claim, Promise};
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_core::recover;
use farkeep_fabric::history;
use farkeep_follower::Link;
use farkeep_leader::{FollowerEntry, FollowerId, FollowerState};
use farkeep_proto::control::{self, Body, HandoverStep, Hello};

use super::Engine;
use super::report::LinkState;
use super::role::{Leading, Role, WINDOW_CLOSE_LIMIT};
use crate::config;
use crate::node::Node;
use crate::replication::LeaderAddress;
use crate::worker::Now;

/// How long a leader may take to answer.
const ANSWER_LIMIT_MS: u64 = 500;
/// How long a leader may be silent before a promotion that Sentinel wants goes on without it, which loses nothing either
/// ([`super::muster`]): it may be the leader's death that is the reason, and clients wait.
const SILENCE_LIMIT_MS: u64 = 200;
/// How long the end of the leader's log may take to arrive after it was asked.
const ARRIVAL_LIMIT_MS: u64 = 3000;
/// A request that nobody has looked at for so long belongs to an earlier attempt.
const FORGOTTEN_MS: u64 = 300;
/// How long a follower may take to answer an offer.
const OFFER_LIMIT_MS: u64 = 500;
/// How long a leader stands down for a follower that does not take over, in crons, of which there are ten a second. Longer than the
/// follower waits. Not counted by the clock: a leader that was stopped, and finds that time is up, may have the news that the
/// follower has taken over in a socket that it has yet to read.
const STAND_DOWN_CRONS: u32 = 50;
/// How long writes wait on a former leader for its link to the new one, and on a new leader for its followers. After that they
/// are answered as they are at any other time.
const SETTLE_LIMIT_MS: u64 = 3000;

/// A follower's request to its leader to stand down.
#[derive(Debug)]
pub struct Handover {
    asked_at_ms: u64,
    looked_at_ms: u64,
    /// The link has sent it.
    pub sent: bool,
    /// The leader has offered its place: this node takes it as soon as that is granted.
    pub offered: bool,
    /// Where the leader's log ends, once it has said so.
    pub end: Option<Lsn>,
    /// The leader stands down for somebody else.
    pub refused: bool,
    /// This node does not take over after all, and the leader is to be told.
    pub declined: bool,
}

impl Handover {
    /// Its number: what is granted must be this request and none before it, since what it is good for is counted from here on.
    pub fn request(&self) -> u64 {
        self.asked_at_ms
    }

    /// Whether clients wait for it to come to an end.
    pub fn is_pressing(&self, now_ms: u64) -> bool {
        now_ms < self.looked_at_ms + ANSWER_LIMIT_MS
    }

    /// Whether the leader has stood down for this node, which holds all that it must, and still does.
    pub fn is_granted(&self, now_ms: u64, durable: Lsn) -> bool {
        self.end.is_some_and(|end| durable >= end)
            && now_ms < self.asked_at_ms + ANSWER_LIMIT_MS + ARRIVAL_LIMIT_MS
    }

    /// A request that is to be sent.
    pub fn new(now_ms: u64, offered: bool) -> Self {
        Self {
            asked_at_ms: now_ms,
            looked_at_ms: now_ms,
            sent: false,
            offered,
            end: None,
            refused: false,
            declined: false,
        }
    }
}

/// Whether a follower may be promoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Succession {
    /// Now.
    Open,
    /// The leader has yet to hand over.
    Waits,
    /// Not at all, and why.
    Refused(String),
}

/// What FAILOVER asks for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who is to take over; whoever is first to hold the whole log if `None`.
    pub target: Option<LeaderAddress>,
    /// When time is up, the target takes over with what it has.
    pub force: bool,
    /// When time is up, in the node's ms.
    pub deadline_ms: Option<u64>,
}

/// A change of the leader that is under way. As long as there is one, writes wait.
#[derive(Debug)]
pub(super) struct HandingOver {
    /// FAILOVER's wishes; `None` if a follower began.
    order: Option<Order>,
    stage: Stage,
}

#[derive(Debug, Clone)]
enum Stage {
    /// The leader: for a follower to hold the whole log.
    WaitingForSync,
    /// The leader: for the follower's answer.
    Offered { id: FollowerId, forced: bool, until_ms: u64 },
    /// The leader: for the follower to take over. It leads on after so many crons.
    Granted { id: FollowerId, successor: LeaderAddress, crons_left: u32 },
    /// The former leader: for its link to the new one.
    Following { until_ms: u64 },
    /// The new leader: for its followers.
    Gathering { until_ms: u64 },
}

impl Stage {
    /// For the event log.
    fn shown(&self) -> &'static str {
        match self {
            Self::WaitingForSync => "writes waited for a follower to hold the whole log",
            Self::Offered { .. } => "writes waited for the follower's answer",
            Self::Granted { .. } => "writes waited for the follower to take over",
            Self::Following { .. } => "writes waited for the link to the new leader",
            Self::Gathering { .. } => "the new leader waited for its followers",
        }
    }
}

impl Engine {
    /// `master_failover_state`.
    pub fn failover_state(&self) -> &'static str {
        match &self.handing_over {
            Some(HandingOver { order: Some(_), stage: Stage::WaitingForSync }) => "waiting-for-sync",
            Some(HandingOver { order: Some(_), .. }) => "failover-in-progress",
            _ => "no-failover",
        }
    }

    /// Whether this node gives its place away because FAILOVER says so.
    pub fn fails_over(&self) -> bool {
        matches!(&self.handing_over, Some(HandingOver { order: Some(_), .. }))
    }

    /// FAILOVER: writes wait from here on.
    pub fn fail_over(&mut self, node: &Node, now: Now, order: Order) {
        tracing::info!(target = order.target.as_ref().map(tracing::field::display), "FAILOVER requested");
        self.hand_over(node, Some(order), Stage::WaitingForSync);
        self.advance_handover(node, now);
    }

    /// FAILOVER ABORT.
    ///
    /// # Errors
    /// When there is nothing to abort, or the follower may have taken over already.
    pub fn abort_failover(&mut self, node: &Node) -> Result<(), &'static str> {
        match &self.handing_over {
            Some(HandingOver { order: Some(_), stage: Stage::WaitingForSync | Stage::Offered { .. } }) => {
                tracing::info!("FAILOVER aborted");
                self.end_handover(node);
                Ok(())
            }
            Some(HandingOver { order: Some(_), .. }) => {
                Err("ERR The failover can not be aborted any more: the target may have taken over already.")
            }
            _ => Err("ERR No failover in progress."),
        }
    }

    fn hand_over(&mut self, node: &Node, order: Option<Order>, stage: Stage) {
        node.events.phase(node.now_us(), Some(stage.shown()));
        self.handing_over = Some(HandingOver { order, stage });
        node.pause_for_handover(true);
    }

    /// Writes need not wait any more.
    pub(super) fn end_handover(&mut self, node: &Node) {
        if self.handing_over.take().is_some() {
            node.events.phase(node.now_us(), None);
            node.pause_for_handover(false);
            node.wake_workers();
        }
    }

    fn lead_on(&mut self, node: &Node, why: &str) {
        tracing::warn!(why, "the handover comes to nothing; this leader leads on");
        self.end_handover(node);
    }

    /// Takes the next step of a change that is under way. To be called at the end of every turn, and as time passes.
    pub(super) fn advance_handover(&mut self, node: &Node, now: Now) {
        let Some(HandingOver { order, stage }) = &self.handing_over else { return };
        match (stage, &self.role) {
            (Stage::WaitingForSync, Role::Leader(_)) => {
                if let Some(order) = order.clone() {
                    self.offer_when_in_sync(node, now, &order);
                }
            }
            (Stage::Offered { id, forced, until_ms }, Role::Leader(leading)) => {
                let there = leading.machine.follower(*id).is_some();
                if *forced && now.ms >= *until_ms {
                    self.lead_on(node, "the target does not answer");
                } else if !there || now.ms >= *until_ms {
                    let order = order.clone();
                    self.hand_over(node, order, Stage::WaitingForSync);
                }
            }
            (Stage::Granted { crons_left, .. }, Role::Leader(_)) => {
                if *crons_left == 0 {
                    self.lead_on(node, "the follower for which this leader stood down did not take over");
                }
            }
            (Stage::Following { until_ms }, Role::Follower(_)) => {
                if now.ms >= *until_ms {
                    tracing::warn!("the link to the new leader is not up yet; writes wait no longer");
                    self.end_handover(node);
                }
            }
            (Stage::Gathering { until_ms }, Role::Leader(leading)) => {
                if leading.machine.can_write().is_ok() || now.ms >= *until_ms {
                    self.end_handover(node);
                }
            }
            // Somebody has changed the role by other means.
            _ => self.end_handover(node),
        }
    }

    /// A cron has come: a leader that stands down does so for one less.
    pub(super) fn count_down_handover(&mut self) {
        if let Some(HandingOver { stage: Stage::Granted { crons_left, .. }, .. }) = &mut self.handing_over {
            *crons_left = crons_left.saturating_sub(1);
        }
    }

    fn offer_when_in_sync(&mut self, node: &Node, now: Now, order: &Order) {
        let Role::Leader(leading) = &mut self.role else { return };
        let late = order.deadline_ms.is_some_and(|deadline| now.ms >= deadline);
        let Some((id, forced)) = leading.successor(order, late) else {
            if late {
                self.lead_on(node, "no follower held the whole log in time");
            }
            return;
        };
        let offer = control::Handover {
            session: id.session(),
            step: HandoverStep::Offer.into(),
            end_lsn: leading.machine.appended().get(),
            ..control::Handover::default()
        };
        leading.sessions.say_at_once(node, id, Body::Handover(offer));
        let stage = Stage::Offered { id, forced, until_ms: now.ms + OFFER_LIMIT_MS };
        self.hand_over(node, Some(order.clone()), stage);
    }

    /// Whether a promotion has to wait for the leader to hand over; asks it to when called first.
    pub fn succession(&self, node: &Node, now: Now) -> Succession {
        if self.is_leader() {
            return Succession::Open;
        }
        let mut guard = node.followership();
        let Some(follows) = &mut *guard else { return Succession::Open };
        if self.link_state(node, follows) != LinkState::Up {
            return Succession::Open;
        }
        let durable = follows.machine.progress().durable;
        match &mut follows.handover {
            Some(handover) if now.ms < handover.looked_at_ms + FORGOTTEN_MS => {
                handover.looked_at_ms = now.ms;
                let waited_ms = now.ms.saturating_sub(handover.asked_at_ms);
                let waits = match handover.end {
                    None => waited_ms < SILENCE_LIMIT_MS,
                    Some(end) => durable < end && waited_ms < ARRIVAL_LIMIT_MS,
                };
                match waits {
                    _ if handover.refused => {
                        follows.handover = None;
                        Succession::Refused("the leader hands over to another node".to_owned())
                    }
                    true => Succession::Waits,
                    false => Succession::Open,
                }
            }
            handover => {
                *handover = Some(Handover::new(now.ms, false));
                node.link.raise();
                Succession::Waits
            }
        }
    }

    /// A follower asks this leader to stand down. If it does, no write is executed any more, and the end of the log is returned: what the
    /// follower must hold. `None` if it does not: for somebody else it does already, or what it had `offered` is void by now.
    ///
    /// # Errors
    /// When this node does not lead.
    pub fn stand_down(
        &mut self,
        node: &Node,
        id: FollowerId,
        successor: LeaderAddress,
        offered: bool,
    ) -> Result<Option<Lsn>> {
        let Role::Leader(leading) = &self.role else { bail!("this node is not the leader") };
        let end = leading.appender.appended();
        let (order, end) = match &self.handing_over {
            None | Some(HandingOver { stage: Stage::Gathering { .. }, .. }) if !offered => (None, end),
            Some(HandingOver { order, stage: Stage::Offered { id: target, forced, .. } })
                if *target == id =>
            {
                (order.clone(), if *forced { Lsn::ZERO } else { end })
            }
            // It asks again: its first attempt was given up.
            Some(HandingOver { order, stage: Stage::Granted { id: granted, .. } }) if *granted == id => {
                (order.clone(), end)
            }
            _ => {
                tracing::warn!(follower = %successor, offered, "a follower may not take over now");
                return Ok(None);
            }
        };
        tracing::info!(follower = %successor, %end, "standing down for a follower that is to be promoted");
        self.hand_over(node, order, Stage::Granted { id, successor, crons_left: STAND_DOWN_CRONS });
        Ok(Some(end))
    }

    /// Whether this leader has stood down for a follower and not heard whether that took over.
    pub fn stands_down(&self) -> bool {
        matches!(&self.handing_over, Some(HandingOver { stage: Stage::Granted { .. }, .. }))
    }

    /// The leader has granted this node the place that it had offered: it is promoted.
    ///
    /// # Errors
    /// When it was granted too late, or the promotion fails.
    pub fn take_over(&mut self, node: &Node) -> Result<()> {
        if self.is_leader() {
            return Ok(());
        }
        {
            let mut guard = node.followership();
            let follows = guard.as_mut().context("this node does not follow any more")?;
            let durable = follows.machine.progress().durable;
            let handover = follows.handover.as_mut().filter(|handover| handover.offered);
            let handover = handover.context("the leader has offered nothing")?;
            let end = handover.end.context("the leader has granted nothing")?;
            let in_time = node.now().ms < handover.asked_at_ms + ANSWER_LIMIT_MS;
            let ready = self.keystore.is_some() && !self.pool.log().state().mid_sync;
            if !in_time || durable < end || !ready {
                handover.declined = true;
                node.link.raise();
                bail!("the leader's place was granted too late, or this node is not fit for it");
            }
        }
        self.promote(node, Claim::NONE)?;
        rewrite_config(node);
        Ok(())
    }

    /// The follower for which this leader has stood down does not take over.
    pub fn declined(&mut self, node: &Node, id: FollowerId) {
        if matches!(&self.handing_over, Some(HandingOver { stage: Stage::Granted { id: granted, .. }, .. }) if *granted == id)
        {
            self.lead_on(node, "the follower does not take over");
        }
    }

    /// This node has been promoted with the consent of its leader, which is about to follow it: writes wait for that.
    pub(super) fn gather(&mut self, node: &Node) {
        let until_ms = node.now().ms + SETTLE_LIMIT_MS;
        self.hand_over(node, None, Stage::Gathering { until_ms });
        self.advance_handover(node, node.now());
    }

    /// The follower has taken over: this node follows it, and so shall all others.
    ///
    /// # Errors
    /// When the pool cannot be opened as a follower's.
    pub fn handed_over(&mut self, node: &Node, now: Now, id: FollowerId) -> Result<()> {
        // What it has acknowledged last lets replies go that are still held.
        self.poll_windows(node, now);
        if !self.is_leader() {
            bail!("this node is not the leader");
        }
        // Its window has closed, so the session may be over already.
        let Some(HandingOver { order, stage: Stage::Granted { id: granted, successor, .. } }) =
            &self.handing_over
        else {
            bail!("this leader has not stood down")
        };
        if *granted != id {
            bail!("this leader has stood down for somebody else");
        }
        let (order, successor) = (order.clone(), successor.clone());
        tracing::info!(leader = %successor, "a follower has taken over");
        self.follow_successor(node, successor)?;
        self.hand_over(node, order, Stage::Following { until_ms: node.now().ms + SETTLE_LIMIT_MS });
        rewrite_config(node);
        Ok(())
    }

    /// Follows whom this node's own followers should follow as well.
    fn follow_successor(&mut self, node: &Node, successor: LeaderAddress) -> Result<()> {
        let ended = self.pool.log().state().history.epoch();
        self.follow(node, successor)?;
        self.moved = Some(ended);
        Ok(())
    }

    /// Whom a follower of this node should follow instead, if it has missed that the leader has moved: this node was told so, or the last
    /// reign that the follower knows has ended, and this node follows in a later one. Who knows that one comes because it was told to.
    /// And a node that is about to be promoted has no leader any more.
    pub fn moved_to(&self, node: &Node, hello: &Hello) -> Option<LeaderAddress> {
        let theirs = history::from_message(&hello.history)?;
        let ours = self.pool.log().history();
        let guard = node.followership();
        let follows = guard.as_ref().filter(|follows| !follows.fenced)?;
        let has_ended = |reign| ours.current() != Some(reign) && ours.reigns().contains(reign);
        let is_behind = follows.machine.link() == Link::Following && theirs.current().is_some_and(has_ended);
        let was_told = self.moved.is_some_and(|ended| theirs.epoch() <= ended);
        (was_told || is_behind).then(|| follows.leader.clone())
    }

    /// The leader has moved: this node follows the new one.
    ///
    /// # Errors
    /// When the pool cannot be opened as a follower's.
    pub fn move_to(&mut self, node: &Node, leader: LeaderAddress) -> Result<()> {
        if self.is_leader() || self.follows(node, &leader) {
            return Ok(());
        }
        self.follow_successor(node, leader)?;
        rewrite_config(node);
        Ok(())
    }

    /// The link may have come up; if so, what waits on a former leader waits no longer.
    pub(super) fn link_is_up(&mut self, node: &Node) {
        if matches!(&self.handing_over, Some(HandingOver { stage: Stage::Following { .. }, .. })) {
            self.end_handover(node);
        }
    }

    /// FARKEEP.FENCE: the leader gets no further acknowledgement out of this follower (I11), which follows nobody until it is told
    /// whom to follow, or restarted. It promises to a promotion that wants at least this epoch; how far its log is
    /// ([`Engine::position`]) is final. Returns the promise, and that.
    ///
    /// # Errors
    /// When this node does not follow, or the window could not be taken away from the leader.
    pub fn fence(&mut self, node: &Node, wanted: Promise) -> Result<(Promise, (Epoch, Lsn))> {
        ensure!(node.followership().is_some(), "this node does not follow");
        let promise = self.pool.log().state().next_promise(wanted);
        recover::promise(self.pool.log(), promise)?;
        Ok((promise, self.leave_leader(node)?))
    }

    /// Closes the window to the leader for as long as nobody says whom to follow, or this node restarts. What is returned is final
    /// till then.
    pub(super) fn leave_leader(&mut self, node: &Node) -> Result<(Epoch, Lsn)> {
        {
            let mut guard = node.followership();
            let follows = guard.as_mut().context("this node does not follow")?;
            follows.fence(node.now().ms);
        }
        node.link.raise();
        if !node.wait_for_window_closed(WINDOW_CLOSE_LIMIT) {
            node.stop();
            bail!("the window could not be taken away from the leader; the node stops");
        }
        node.followership().as_mut().context("this node does not follow")?.look();
        let (epoch, end) = self.position(node);
        tracing::info!(%epoch, %end, "fenced: following nobody until told whom");
        Ok((epoch, end))
    }
}

impl Leading {
    /// Who can take over now, and whether only because time is up and it is to do so with what it has. Whoever else does must hold the
    /// whole log, and all of it must be committed: then every client has been told what became of its writes.
    fn successor(&self, order: &Order, late: bool) -> Option<(FollowerId, bool)> {
        let end = self.machine.appended();
        let wanted = |follower: &&FollowerEntry| {
            let is = |target: &LeaderAddress| follower.address == target.host && follower.port == target.port;
            order.target.as_ref().is_none_or(is)
        };
        let in_sync =
            |follower: &&FollowerEntry| follower.state == FollowerState::Streaming && follower.durable >= end;
        let all_told = self.machine.committed() == end && self.appender.appended() == end;
        let first = self.machine.followers().filter(wanted).find(in_sync).filter(|_| all_told);
        let forced =
            || self.machine.followers().filter(wanted).find(|f| f.in_reach()).filter(|_| late && order.force);
        first.map(|follower| (follower.id, false)).or_else(|| forced().map(|follower| (follower.id, true)))
    }
}

/// Sentinel rewrites the files of those that it tells what to be. Here nobody else does.
pub fn rewrite_config(node: &Node) {
    if let Some(path) = &node.config_file
        && let Err(error) = config::rewrite(&node.config(), path)
    {
        tracing::warn!(%error, path = %path.display(), "the new role could not be written into the configuration file");
    }
}
