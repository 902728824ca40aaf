//! The sampler: one look at the engine four times a second, shared by everybody who looks at this node.
//!
//! However many pages are open and however often they ask, the engine's lock is taken [`PERIOD`] by [`PERIOD`] for as long as an INFO
//! takes. What takes two looks (trends, what came and went) is found here by comparing with the look before; that is also where most of the
//! event log comes from, so that no other part of the node has to know of it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::history::History;
use super::peers::Pages;
use super::status::{Distance, FollowerStatus, LastFailover, LostFollower, Status, WalkStatus};
use super::verdict::{self, Verdict};
use crate::commands::info::snapshot::{InfoSnapshot, RoleInfo};
use crate::commands::info::{self, farkeep_section};
use crate::events::{Events, Level};
use crate::node::Node;

/// How often the node is looked at.
pub const PERIOD: Duration = Duration::from_millis(250);
/// Looks between two samples that are sent out, unless something has happened. Each makes every page draw itself anew: on a small
/// machine a few pages at twice this rate took a tenth of the leader's throughput.
const LOOKS_PER_SAMPLE: u64 = 4;
/// What trends are taken over.
const TREND_US: u64 = 5_000_000;
/// Lost followers that are remembered.
const MAX_LOST: usize = 16;

/// What everybody sees.
#[derive(Debug, Default)]
pub struct Sample {
    /// The status, ...
    pub status: Status,
    /// ... as JSON, ...
    pub json: Bytes,
    /// ... and what else INFO says.
    pub snapshot: InfoSnapshot,
}

/// A quantity over the last seconds.
#[derive(Debug, Default)]
struct Trend(VecDeque<(u64, u64)>);

impl Trend {
    /// Adds what is so at `us` and returns the change per second.
    fn add(&mut self, us: u64, value: u64) -> i64 {
        // A quantity that starts anew (another reign) has no trend yet.
        self.0.push_back((us, value));
        while self.0.len() > 2 && self.0[0].0 + TREND_US < us {
            self.0.pop_front();
        }
        let (since, before) = self.0[0];
        let elapsed = us.saturating_sub(since);
        if elapsed == 0 {
            return 0;
        }
        ((i128::from(value) - i128::from(before)) * 1_000_000 / i128::from(elapsed)) as i64
    }
}

/// A follower as of the last look.
#[derive(Debug)]
struct Seen {
    status: FollowerStatus,
    lag: Trend,
    joined_ms: u64,
}

/// A walk over a follower's image has begun or ended since the last look.
fn note_walk(events: &Events, seen: &Seen, follower: &FollowerStatus) {
    let purpose = |walk: &Option<WalkStatus>| walk.as_ref().map(|walk| walk.purpose);
    let (before, now) = (&seen.status.walk, &follower.walk);
    if purpose(before) == purpose(now) {
        return;
    }
    if let Some(walk) = before {
        let kind = if walk.purpose == "sync" { "sync" } else { "scrub" };
        let text =
            format!("the {kind} of {} is over: {} bytes had to be sent", follower.name, walk.sent_bytes);
        events.note_timed(Level::Info, kind, text, Some(walk.elapsed_ms));
    }
    if let Some(walk) = now {
        let kind = if walk.purpose == "sync" { "sync" } else { "scrub" };
        events.note(
            Level::Info,
            kind,
            format!("a {kind} of {} begins: {} bytes", follower.name, walk.image_bytes),
        );
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Sampler {
    node: Arc<Node>,
    pages: Pages,
    sender: watch::Sender<Arc<Sample>>,
    looks: u64,
    /// The last event that a sample has told of.
    told: u64,
    redo: Trend,
    followers: BTreeMap<String, Seen>,
    lost: Vec<LostFollower>,
    role: &'static str,
    epoch: String,
    leader: String,
    verdict: Option<(Verdict, u64)>,
    link_down_ms: Option<u64>,
    mismatches: u64,
}

impl Sampler {
    /// A sampler, and what sees its samples.
    pub fn new(node: Arc<Node>, pages: Pages) -> (Self, watch::Receiver<Arc<Sample>>) {
        let (sender, receiver) = watch::channel(Arc::default());
        let sampler = Self {
            node,
            pages,
            sender,
            looks: 0,
            told: 0,
            redo: Trend::default(),
            followers: BTreeMap::new(),
            lost: Vec::new(),
            role: "",
            epoch: String::new(),
            leader: String::new(),
            verdict: None,
            link_down_ms: None,
            mismatches: 0,
        };
        (sampler, receiver)
    }

    /// Looks at the node until it stops.
    pub async fn run(mut self, history: Arc<Mutex<History>>) {
        let mut interval = tokio::time::interval(PERIOD);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.node.stopping.load(Ordering::Acquire) {
            interval.tick().await;
            let (status, snapshot) = self.look();
            history.lock().add(&status);
            if self.looks.is_multiple_of(LOOKS_PER_SAMPLE) || status.last_event != self.told {
                self.told = status.last_event;
                // The status is plain data: it can be written as JSON.
                let json = serde_json::to_vec(&status).unwrap_or_default().into();
                self.sender.send_replace(Arc::new(Sample { status, json, snapshot }));
            }
            self.looks += 1;
        }
    }

    fn look(&mut self) -> (Status, InfoSnapshot) {
        let node = Arc::clone(&self.node);
        let config = node.config();
        let now = node.now();
        let engine = node.engine.lock().info(&node, now);
        let (refusing, degraded, loading) = (engine.refusing, engine.degraded, engine.loading);
        let snapshot = info::collect(&node, &config, engine);
        let mut status = Status::new(&snapshot, &config, now.unix_ms, farkeep_section(&snapshot));
        if status.name.starts_with(':') {
            status.name = format!("127.0.0.1{}", status.name);
        }
        self.note_role(&status);
        self.note_link(&status);
        self.note_mismatches(&status);
        let lost = match &snapshot.engine.role {
            RoleInfo::Leader { lost, .. } => lost.as_slice(),
            RoleInfo::Follower(_) => &[],
        };
        self.follow_up(&mut status, now.us, lost);
        status.verdict = verdict::judge(&status, refusing, degraded, loading);
        self.note_verdict(&status);
        status.last_failover = node.events.latest_of("failover").map(|event| LastFailover {
            at_ms: event.at_ms,
            took_ms: event.took_ms,
            text: event.text,
        });
        status.last_event = node.events.latest();
        (status, snapshot)
    }

    fn note_role(&mut self, status: &Status) {
        let events = &self.node.events;
        let leader = status.link.as_ref().map_or_else(String::new, |link| link.leader.clone());
        if self.role.is_empty() {
            let text = match status.role {
                "leader" => format!("started as leader in epoch {}", status.epoch),
                _ => format!("started as follower of {leader}"),
            };
            events.note(Level::Info, "node", text);
        } else if status.role != self.role {
            self.lost.clear();
            self.followers.clear();
            self.redo = Trend::default();
            if status.role == "leader" {
                let took_ms = self.link_down_ms.map(|since| status.at_ms.saturating_sub(since));
                let text = format!("took over from {} in epoch {}", self.leader, status.epoch);
                events.note_timed(Level::Warning, "failover", text, took_ms);
            } else {
                events.note(Level::Warning, "role", format!("steps down, follows {leader}"));
            }
        } else if leader != self.leader {
            events.note(Level::Info, "role", format!("follows {leader} instead of {}", self.leader));
        } else if status.epoch != self.epoch {
            events.note(Level::Info, "role", format!("epoch {} begins", status.epoch));
        }
        self.role = status.role;
        self.epoch.clone_from(&status.epoch);
        self.leader = leader;
    }

    fn note_link(&mut self, status: &Status) {
        match &status.link {
            Some(link) if link.up || link.syncing => self.link_down_ms = None,
            Some(_) => {
                self.link_down_ms.get_or_insert(status.at_ms);
            }
            None => self.link_down_ms = None,
        }
    }

    /// What walks over the image have found.
    fn note_mismatches(&mut self, status: &Status) {
        let found = status.walks.scrub_mismatches;
        if found > self.mismatches {
            let text = format!(
                "{} chunks of followers were not what the leader's are; they were repaired",
                found - self.mismatches
            );
            self.node.events.note(Level::Critical, "scrub", text);
        }
        self.mismatches = found;
    }

    /// Fills in what takes a second look, and notes what has come and gone.
    fn follow_up(&mut self, status: &mut Status, now_us: u64, lost: &[(String, String)]) {
        let events = &self.node.events;
        let appended = status.log_lsns().1;
        let rate = self.redo.add(now_us, appended).max(0) as u64;
        status.rates.redo_bytes_per_s = rate;
        status.log.holds_s = (rate > 0).then(|| status.log.len_bytes / rate.max(1));
        let at_ms = status.at_ms;
        for follower in &mut status.followers {
            self.lost.retain(|lost| lost.node_id != follower.node_id);
            let seen = self.followers.entry(follower.node_id.clone()).or_insert_with(|| {
                let why = if follower.fabric_reason.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", follower.fabric_reason)
                };
                let text = format!("{} joins over {}{why}", follower.name, follower.fabric);
                events.note(Level::Info, "follower", text);
                Seen { status: follower.clone(), lag: Trend::default(), joined_ms: at_ms }
            });
            if seen.status.fabric != follower.fabric {
                let worse = seen.status.fabric == "rdma";
                let level = if worse { Level::Warning } else { Level::Info };
                let why = if follower.fabric_reason.is_empty() {
                    String::new()
                } else {
                    format!(": {}", follower.fabric_reason)
                };
                events.note(
                    level,
                    "fabric",
                    format!(
                        "{} goes on over {} instead of {}{why}",
                        follower.name, follower.fabric, seen.status.fabric
                    ),
                );
            }
            if follower.state == "streaming" && seen.status.state != "streaming" {
                let took = at_ms.saturating_sub(seen.joined_ms);
                events.note_timed(
                    Level::Info,
                    "follower",
                    format!("{} is up to date", follower.name),
                    Some(took),
                );
            }
            note_walk(events, seen, follower);
            let change = seen.lag.add(now_us, follower.stages[1].lag_bytes);
            follower.catch_up_bytes_per_s = -change;
            let behind = follower.stages[1].lag_bytes;
            if behind > 0 && change < 0 {
                follower.catch_up_s = Some(behind / change.unsigned_abs());
            }
            seen.status = follower.clone();
        }
        self.note_lost(status, lost);
        self.complete_lost(status, rate);
        let pages = self.pages.lock();
        for follower in &mut status.followers {
            follower.page = pages.get(&follower.name).cloned();
        }
        for lost in &mut status.lost {
            lost.page = pages.get(&lost.name).cloned();
        }
        if let Some(link) = &mut status.link {
            link.page = pages.get(&link.leader).cloned();
        }
    }

    fn note_lost(&mut self, status: &Status, reasons: &[(String, String)]) {
        let there: Vec<&str> = status.followers.iter().map(|follower| follower.node_id.as_str()).collect();
        let gone: Vec<String> =
            self.followers.keys().filter(|id| !there.contains(&id.as_str())).cloned().collect();
        for id in gone {
            let Some(seen) = self.followers.remove(&id) else { continue };
            let durable_lsn = seen.status.stages[1].lsn;
            let name = seen.status.name;
            let why = reasons.iter().find(|(lost, _)| *lost == name).map_or("", |(_, why)| why);
            let mut text = format!("lost {name}, which held everything up to LSN {durable_lsn}");
            if !why.is_empty() {
                text = format!("{text}: {why}");
            }
            self.node.events.note(Level::Warning, "follower", text);
            if self.lost.len() == MAX_LOST {
                self.lost.remove(0);
            }
            self.lost.push(LostFollower {
                name,
                node_id: id,
                why: why.to_owned(),
                durable_lsn,
                since_ms: status.at_ms,
                ..LostFollower::default()
            });
        }
    }

    fn complete_lost(&mut self, status: &mut Status, rate: u64) {
        let (oldest, appended, committed) = status.log_lsns();
        for lost in &mut self.lost {
            lost.behind_bytes = appended.saturating_sub(lost.durable_lsn);
            lost.needs_sync = lost.durable_lsn < oldest;
            let left = (lost.durable_lsn + status.log.len_bytes).saturating_sub(appended);
            lost.needs_sync_s = (rate > 0 && !lost.needs_sync).then(|| left / rate.max(1));
        }
        status.lost.clone_from(&self.lost);
        // Nobody is in reach, but somebody was, and held this much.
        if status.role == "leader"
            && status.at_risk.bytes.is_none()
            && let Some(best) = self.lost.iter().max_by_key(|lost| lost.durable_lsn)
        {
            let bytes = committed.saturating_sub(best.durable_lsn);
            let us = if bytes == 0 { 0 } else { status.at_ms.saturating_sub(best.since_ms) * 1000 };
            status.at_risk = Distance { bytes: Some(bytes), us: Some(us) };
        }
    }

    /// Every change for the better or worse is an event; it says how long the time before lasted if that was none to be proud of.
    fn note_verdict(&mut self, status: &Status) {
        let now = &status.verdict;
        match &self.verdict {
            Some((before, _)) if before.state == now.state => {}
            Some((before, since_ms)) => {
                let lasted = status.at_ms.saturating_sub(*since_ms);
                let (text, took_ms) = if before.level == Level::Info {
                    (format!("{}: {}", now.state, now.text), None)
                } else {
                    (format!("{}: {}, after having been {}", now.state, now.text, before.state), Some(lasted))
                };
                self.node.events.note_timed(now.level, "redundancy", text, took_ms);
                self.verdict = Some((now.clone(), status.at_ms));
            }
            None => self.verdict = Some((now.clone(), status.at_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_is_the_change_per_second_of_the_last_seconds_only() {
        let mut trend = Trend::default();
        assert_eq!(trend.add(0, 1_000), 0);
        assert_eq!(trend.add(1_000_000, 3_000), 2_000);
        assert_eq!(trend.add(2_000_000, 1_000), 0);
        for second in 3..30 {
            trend.add(second * 1_000_000, 500);
        }
        assert_eq!(trend.add(30_000_000, 500), 0);
        assert_eq!(trend.add(31_000_000, 0), -100);
    }
}
