//! Promoting a follower when the leader does not answer: whom else to ask first.
//!
//! With more followers than `sync-followers`, fencing the one that is promoted is not enough (I11). The leader may only have been
//! stopped, or cut off from those who promote: with the others it goes on acknowledging, and what it acknowledges the new leader
//! does not have. And what it *has* acknowledged may be on one of the others only, although Sentinel has chosen this one: the offsets
//! that it compares are up to some seconds old, and priorities go before them.
//!
//! So a follower that is promoted inside a transaction, as only Sentinel does it, and whose leader has not handed over, first
//! *musters* its peers, whom the leader has named to it. Each of them leaves the leader for good (it promises, durably, to a later epoch
//! and to this promotion, and closes its window), says how far its log goes, and follows this node from then on. With `n` followers and `sync-followers k`,
//! any `n - k + 1` of them include one that holds whatever was acknowledged, and leave the leader fewer than `k`: so `n - k` answers are waited
//! for. If one of the peers' logs ends later (first the epoch of its last record counts, then its end), this node
//! fetches what it lacks. Only then does its reign begin. As a side effect the peers are there at once, and need not wait until a
//! sentinel has noticed the promotion and tells them.
//!
//! Why not let a leader that has lost a follower stop acknowledging, until it hears that the follower was not promoted? Because then
//! the loss of one follower would stop all writes, and to go on is what the second one is for.
//!
//! If too few answer, there is no promotion: the transaction is told so, this node goes back to its leader, those who came are
//! *dismissed* and do so too, and Sentinel tries again later. A dismissal names the coming that it ends: it may be late, and must not take away
//! who has come again since, and been counted. What only the absent hold would be lost otherwise. An operator who wants that says `REPLICAOF NO ONE`,
//! which asks nobody. Where `on-follower-loss` is `degrade`, who does not answer is not waited for either: that choice has been made.
//!
//! A crash on the way leaves followers that have promised to an epoch in which nobody reigns, or that follow somebody
//! who does not lead: harmless, and mended by the next one who tells them whom to follow.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use farkeep_core::log::Promise;
use farkeep_core::lsn::{Epoch, Lsn};
use farkeep_core::recover;
use farkeep_fabric::window::Window as _;
use farkeep_fabric::{LogWindow, history};
use farkeep_proto::control::{Holdings, PeerAddress};
use farkeep_proto::resp::client::Reply;
use prost::Message as _;

use super::handover::rewrite_config;
use super::{Engine, Succession, new_claim};
use crate::cli::client::Client;
use crate::config::{Config, OnFollowerLoss};
use crate::events::Level;
use crate::link::{Coming, Followership};
use crate::node::Node;
use crate::replication::LeaderAddress;
use crate::worker::Now;

/// How long peers may take to come.
const ANSWER_LIMIT: Duration = Duration::from_millis(1000);
/// How long one of them may be silent otherwise.
const PATIENCE: Duration = Duration::from_millis(1000);
/// How long it may be before one that was called answers after all.
const LATE_LIMIT: Duration = Duration::from_secs(60);
/// How much of a peer's log is asked for at a time.
pub const RECORDS_LEN_MAX: u64 = 1 << 20;
/// An outcome that nobody has asked for in so long belongs to an earlier attempt.
const FORGOTTEN_MS: u64 = 5000;

/// A muster under way, which ends by itself within seconds, or why the last one led to no promotion.
#[derive(Debug)]
pub(super) struct Muster {
    began_ms: u64,
    /// Why there is no promotion, once that is known.
    failed: Option<String>,
}

/// A peer that has come.
struct Come {
    client: Client,
    holdings: Holdings,
}

/// What a peer said, or why it said nothing.
type Answer = (PeerAddress, Result<Come, String>);

impl Come {
    fn rank(&self) -> (u32, u64) {
        (self.holdings.log_epoch, self.holdings.log_end_lsn)
    }

    /// It had promised a number that turned out to be too low.
    fn promise(&mut self, plan: &Plan, promise: Promise) -> Result<()> {
        self.holdings = have_come(&mut self.client, plan, promise)?;
        ensure!(
            self.holdings.promised_epoch == promise.epoch.get(),
            "a peer has promised to somebody else meanwhile"
        );
        Ok(())
    }
}

/// What this node has to know for it all.
#[derive(Clone)]
struct Plan {
    former: LeaderAddress,
    myself: PeerAddress,
    others: Vec<PeerAddress>,
    /// How many of the others have to come.
    needed: usize,
    config: Arc<Config>,
}

impl Engine {
    /// Whether a promotion that the leader has not granted may go on. When called first, it begins to muster the peers.
    pub fn muster(&mut self, node: &Arc<Node>, now: Now) -> Succession {
        if self.is_leader() {
            return Succession::Open;
        }
        if self.pool.log().state().mid_sync {
            // The others are better left with whom they follow.
            return Succession::Refused(refuse(node, "this node is in the middle of a delta sync"));
        }
        match self.mustering.take() {
            Some(muster) if muster.failed.is_none() => {
                self.mustering = Some(muster);
                return Succession::Waits;
            }
            Some(Muster { began_ms, failed: Some(why) }) if now.ms < began_ms + FORGOTTEN_MS => {
                return Succession::Refused(why);
            }
            _ => {}
        }
        let plan = match plan(node) {
            Ok(Some(plan)) => plan,
            Ok(None) => return Succession::Open,
            Err(why) => return Succession::Refused(refuse(node, why)),
        };
        self.mustering = Some(Muster { began_ms: now.ms, failed: None });
        let theirs = Arc::clone(node);
        let spawned =
            std::thread::Builder::new().name("muster".to_owned()).spawn(move || run(&theirs, &plan));
        if let Err(error) = spawned {
            self.mustering = None;
            let why = format!("no thread to ask the other followers: {error}");
            return Succession::Refused(refuse(node, &why));
        }
        Succession::Waits
    }

    /// FARKEEP.MUSTER: a peer is about to be promoted. This node leaves its leader for good, says what it holds, and follows the
    /// peer. Its configuration file goes on naming the leader that it had until the peer leads: nobody dismisses a node that was
    /// restarted.
    ///
    /// # Errors
    /// When it does not follow, or cannot be taken away from its leader.
    pub fn come_to(&mut self, node: &Node, successor: LeaderAddress, wanted: Promise) -> Result<Holdings> {
        ensure!(!self.is_leader(), "this node leads");
        let musters = self.mustering.as_ref().is_some_and(|muster| muster.failed.is_none());
        ensure!(!musters, "this node is about to be promoted itself");
        // None of the peers that it has come to since it lost its leader has led.
        let from = node
            .followership()
            .as_ref()
            .map(|follows| follows.coming.as_ref().map_or(&follows.leader, |coming| &coming.from).clone());
        let (promise, (epoch, end)) = self.fence(node, wanted)?;
        let durable = node.followership().as_ref().map(|follows| follows.machine.progress().durable);
        self.comings += 1;
        let log = self.pool.log();
        let state = log.state();
        let holdings = Holdings {
            log_epoch: epoch.get(),
            log_end_lsn: end.get(),
            durable_lsn: durable.context("this node does not follow any more")?.get(),
            oldest_lsn: log.oldest().get(),
            promised_epoch: promise.epoch.get(),
            history: history::to_message(&state.history),
            dataset_id: state.dataset_id.to_vec(),
            coming: self.comings,
        };
        self.follow(node, successor)?;
        if let Some(follows) = &mut *node.followership() {
            follows.coming = from.map(|from| Coming { number: self.comings, from });
        }
        Ok(holdings)
    }

    /// FARKEEP.DISMISS: the peer that this node has come to is not promoted, so it follows its leader again. Whether it does is returned: it
    /// does not if it was told otherwise since, or has come again, to this peer or to another one.
    ///
    /// # Errors
    /// When the pool cannot be opened again.
    pub fn go_back(&mut self, node: &Node, number: u64) -> Result<bool> {
        let from = match &*node.followership() {
            Some(Followership { coming: Some(coming), .. }) if coming.number == number => coming.from.clone(),
            _ => return Ok(false),
        };
        self.follow(node, from)?;
        rewrite_config(node);
        Ok(true)
    }

    /// FARKEEP.RECORDS: bytes of the log for a peer that is about to be promoted.
    ///
    /// # Errors
    /// When they are not there.
    pub fn records(&self, from: Lsn, to: Lsn) -> Result<(&[u8], &[u8])> {
        ensure!(!self.is_leader(), "this node leads");
        let log = self.pool.log();
        recover::check_kept(log, from, u64::MAX);
        ensure!(
            log.oldest() <= from && from <= to && to <= log.durable(),
            "the log holds LSN {} to {}",
            log.oldest(),
            log.durable()
        );
        ensure!(to.distance_from(from) <= RECORDS_LEN_MAX, "more than {RECORDS_LEN_MAX} bytes at a time");
        Ok(log.bytes(from, to))
    }

    /// Takes over what a peer holds and this node lacks: its history, and the bytes of its log from the last common point on.
    fn take_records(&mut self, node: &Node, theirs: &Holdings, from: Lsn, bytes: &[u8]) -> Result<()> {
        ensure!(is_fenced(node), "told otherwise meanwhile");
        *node.replayer.lock() = None;
        let history = history::from_message(&theirs.history).context("a peer's history is impossible")?;
        recover::continue_from(&self.pool, from, history)?;
        let log = self.pool.log();
        let (mut window, geometry) = (LogWindow::new(Arc::clone(log)), log.geometry());
        let head = (geometry.ring_len() - geometry.ring_offset(from)).min(bytes.len() as u64) as usize;
        for (at, part) in [(from, &bytes[..head]), (from + head as u64, &bytes[head..])] {
            if !part.is_empty() {
                window.write(log.window_offset(at), part);
            }
        }
        log.persist_stream(from, from + bytes.len() as u64)?;
        let (end, theirs) = (recover::survey(log).end.lsn, Lsn::new(theirs.durable_lsn));
        ensure!(
            end >= theirs,
            "a peer has sent its log up to LSN {theirs}, but it is valid only up to {end}"
        );
        Ok(())
    }

    /// From where on a peer's log is needed here.
    fn lacks_from(&self, node: &Node, theirs: &Holdings) -> Result<Lsn> {
        let log = self.pool.log();
        let state = log.state();
        ensure!(state.dataset_id[..] == theirs.dataset_id[..], "a peer holds another dataset");
        let progress = node.followership().as_ref().map(|follows| follows.machine.progress());
        let progress = progress.context("this node does not follow any more")?;
        let history = history::from_message(&theirs.history).context("a peer's history is impossible")?;
        let end = Lsn::new(theirs.durable_lsn);
        let common = state.history.common_point(progress.durable, &history, end).unwrap_or(Lsn::ZERO);
        let room = log.geometry().ring_len() - log.geometry().segment_len();
        ensure!(
            common >= progress.applied.max(state.checkpoint.lsn)
                && common.get() >= theirs.oldest_lsn
                && end.distance_from(state.checkpoint.lsn) <= room,
            "a peer's log ends later, at LSN {end}, and cannot be taken over: both are the same up to {common}, the \
             image here holds {}, the peer's log begins at {}",
            progress.applied,
            theirs.oldest_lsn
        );
        Ok(common)
    }
}

/// There is no promotion. Sentinel keeps to itself what it is answered, so the log and the events say why as well.
fn refuse(node: &Node, why: &str) -> String {
    let leader = node.followership().as_ref().map(|follows| follows.leader.to_string());
    tracing::warn!(why, leader, "a promotion is refused");
    node.events.note(Level::Critical, "role", format!("a promotion is refused: {why}"));
    why.to_owned()
}

/// Whom to muster; `None` where nobody has to be.
fn plan(node: &Node) -> Result<Option<Plan>, &'static str> {
    let guard = node.followership();
    let Some(follows) = guard.as_ref() else { return Ok(None) };
    // The leader stands down for this node, and tells the others.
    if follows.is_granted(node.now().ms) {
        return Ok(None);
    }
    let config = node.config();
    let Some(myself) = follows.peers.yourself.clone() else {
        // It has just joined, or never has: there may be others that know more.
        let why = "the leader has not said yet who else follows it";
        return if config.sync_followers == 0 { Ok(None) } else { Err(why) };
    };
    let known = follows.peers.followers.iter().filter(|peer| **peer != myself);
    let others: Vec<PeerAddress> = known.cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let sync = follows.peers.sync_followers as usize;
    if others.is_empty() || sync == 0 {
        return Ok(None);
    }
    let needed = match config.on_follower_loss {
        OnFollowerLoss::Refuse => (others.len() + 1).saturating_sub(sync),
        OnFollowerLoss::Degrade => 0,
    };
    Ok(Some(Plan { former: follows.leader.clone(), myself, others, needed, config }))
}

fn run(node: &Arc<Node>, plan: &Plan) {
    let (mut come, (answer, answers)) = (Vec::new(), channel());
    let outcome = promote(node, plan, &mut come, answer, &answers);
    let mut engine = node.engine.lock();
    match outcome {
        Ok(()) => engine.mustering = None,
        Err(error) => {
            let why = refuse(node, &format!("{error:#}"));
            if let Some(muster) = &mut engine.mustering {
                muster.failed = Some(why);
            }
            // It may have been told something else meanwhile.
            if is_fenced(node)
                && let Err(error) = engine.follow(node, plan.former.clone())
            {
                tracing::error!(error = format!("{error:#}"), "this node follows nobody");
            }
            let leads = engine.is_leader();
            drop(engine);
            if !leads {
                come.into_iter().for_each(dismiss);
            }
        }
    }
    node.wake_workers();
    // Who comes when nobody waits any more has come in vain, unless this node leads, or has called it again meanwhile: then it has come
    // anew, and is not dismissed by this.
    for late in answers.into_iter().filter_map(|(_, answer)| answer.ok()) {
        if !node.engine.lock().is_leader() {
            dismiss(late);
        }
    }
}

/// Whether this node still waits for what comes of the muster.
fn is_fenced(node: &Node) -> bool {
    node.followership().as_ref().is_some_and(|follows| follows.fenced)
}

fn promote(
    node: &Arc<Node>,
    plan: &Plan,
    come: &mut Vec<Come>,
    answer: Sender<Answer>,
    answers: &Receiver<Answer>,
) -> Result<()> {
    let (mut promise, mine) = {
        let mut engine = node.engine.lock();
        let claim = *engine.claim.get_or_insert_with(new_claim);
        // Promised when all have come: if they do not, its leader need not begin a reign anew for this node's sake.
        let promise = engine.pool.log().state().next_promise(Promise { epoch: Epoch::ZERO, claim });
        (promise, engine.leave_leader(node)?)
    };
    *come = call(plan, promise, answer, answers)?;
    // All must have promised the same number.
    let highest = come.iter().map(|peer| Epoch::new(peer.holdings.promised_epoch)).max();
    promise.epoch = promise.epoch.max(highest.unwrap_or_default());
    for peer in come.iter_mut().filter(|peer| peer.holdings.promised_epoch < promise.epoch.get()) {
        peer.promise(plan, promise)?;
    }
    let best = come.iter_mut().max_by_key(|peer| peer.rank());
    if let Some(best) = best
        && best.rank() > (mine.0.get(), mine.1.get())
    {
        let theirs = best.holdings.clone();
        let from = node.engine.lock().lacks_from(node, &theirs)?;
        let bytes = fetch(&mut best.client, from, Lsn::new(theirs.durable_lsn))?;
        node.engine.lock().take_records(node, &theirs, from, &bytes)?;
        tracing::info!(from = %from, to = theirs.durable_lsn, "took over from a peer what this node lacked");
    }
    let mut engine = node.engine.lock();
    ensure!(is_fenced(node), "told otherwise meanwhile");
    recover::promise(engine.pool.log(), promise)?;
    engine.promote(node, promise.claim)?;
    engine.claim = None;
    rewrite_config(node);
    Ok(())
}

/// Has the peers come. Returns those that did, if they are enough; if not, they are dismissed.
fn call(
    plan: &Plan,
    promise: Promise,
    answer: Sender<Answer>,
    answers: &Receiver<Answer>,
) -> Result<Vec<Come>> {
    for peer in &plan.others {
        let (peer, answer, plan) = (peer.clone(), Sender::clone(&answer), plan.clone());
        std::thread::Builder::new().name("muster-peer".to_owned()).spawn(move || {
            let said = ask(&peer, &plan, promise).map_err(|error| format!("{error:#}"));
            // Who listens does so until all have answered.
            drop(answer.send((peer, said)));
        })?;
    }
    drop(answer);
    let (come, missing) = gather(answers, &plan.others);
    tracing::info!(
        came = come.len(),
        needed = plan.needed,
        missing = missing.join("; "),
        "mustered the other followers"
    );
    if come.len() >= plan.needed {
        return Ok(come);
    }
    come.into_iter().for_each(dismiss);
    bail!(
        "too few of the other followers answer, and the leader could go on with them: {}",
        missing.join("; ")
    )
}

/// Waits for the answers of all these peers, or until time is up. Returns those who came, and why others did not.
fn gather(answers: &Receiver<Answer>, asked: &[PeerAddress]) -> (Vec<Come>, Vec<String>) {
    let deadline = Instant::now() + ANSWER_LIMIT;
    let mut silent: BTreeSet<&PeerAddress> = asked.iter().collect();
    let (mut come, mut missing) = (Vec::new(), Vec::new());
    while !silent.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        // Nobody is left to answer once all threads have ended, so this is the end as well.
        let Ok((peer, answer)) = answers.recv_timeout(left) else { break };
        silent.remove(&peer);
        match answer {
            Ok(peer) => come.push(peer),
            Err(why) => missing.push(format!("{}:{}: {why}", peer.host, peer.port)),
        }
    }
    missing.extend(silent.iter().map(|peer| format!("{}:{}: no answer in time", peer.host, peer.port)));
    (come, missing)
}

fn ask(peer: &PeerAddress, plan: &Plan, promise: Promise) -> Result<Come> {
    let config = &plan.config;
    let port = u16::try_from(peer.port).context("no port")?;
    let mut client = Client::connect(&peer.host, port, PATIENCE)?;
    match (&config.masterauth, &config.masteruser) {
        (Some(password), Some(user)) => drop(client.must(&["AUTH", user, password])?),
        (Some(password), None) => drop(client.must(&["AUTH", password])?),
        (None, _) => {}
    }
    // A peer that stands still answers when it goes on. Nobody waits for it by then, but it has come, and has to be sent back.
    client.set_patience(LATE_LIMIT)?;
    let holdings = have_come(&mut client, plan, promise)?;
    client.set_patience(PATIENCE)?;
    Ok(Come { client, holdings })
}

/// Has a peer come, or promise more than when it came first.
fn have_come(client: &mut Client, plan: &Plan, promise: Promise) -> Result<Holdings> {
    let (port, epoch) = (plan.myself.port.to_string(), promise.epoch.get().to_string());
    let claim = promise.claim.to_string();
    let Reply::Bulk(bytes) = client.must(&["FARKEEP.MUSTER", &plan.myself.host, &port, &epoch, &claim])?
    else {
        bail!("an answer of another kind")
    };
    Ok(Holdings::decode(&bytes[..])?)
}

/// The bytes of a peer's log.
fn fetch(client: &mut Client, from: Lsn, to: Lsn) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut at = from;
    while at < to {
        let until = to.min(at + RECORDS_LEN_MAX);
        let reply = client.must(&["FARKEEP.RECORDS", &at.get().to_string(), &until.get().to_string()])?;
        match reply {
            Reply::Bulk(part) if part.len() as u64 == until.distance_from(at) => {
                bytes.extend_from_slice(&part);
            }
            _ => return Err(anyhow!(io::Error::other("a peer sends something else than its log"))),
        }
        at = until;
    }
    Ok(bytes)
}

/// A peer that came in vain follows its leader again, by the address that it had for it: what a follower remembers of the
/// others is kept for that address, and without it the follower could not be promoted itself.
fn dismiss(mut peer: Come) {
    if let Err(error) = peer.client.must(&["FARKEEP.DISMISS", &peer.holdings.coming.to_string()]) {
        tracing::warn!(error = format!("{error:#}"), "a peer that came could not be sent back to the leader");
    }
}
