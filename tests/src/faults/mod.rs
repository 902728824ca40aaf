//! Real processes under random faults, with clients that know what they were told.
//!
//! A leader and two followers, or three in a run of four, with `sync-followers 1`, on memory; between every two of them a path that can be cut, stalled and
//! slowed down ([`proxy`]). In every other run the log is as small as it may be, so that whoever was away needs a delta sync, and what
//! befalls the nodes next befalls them in the middle of one. In two of five whoever is started again is started as it was configured at first,
//! whatever has become of its role. A [`schedule`] made from a seed kills, freezes, cuts off, floods and promotes, while [`clients`] write and read on
//! every node. In the end everything is healed, and then
//!
//! * no acknowledged write is lost, no refused one has happened, nothing is undone that anybody has read ([`history`]);
//! * the followers hold what the leader holds, and all images are the same bytes;
//! * no scrub has found anything; every pool is sound, and no node has failed an assertion.
//!
//! A seed decides what happens, to whom, in which order and after how long a pause; what the scheduler and the network make of it, it does not.
//! A seed that failed once may have to be run a few times to fail again.

pub mod clients;
mod group;
pub mod history;
pub mod proxy;
mod schedule;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clients::{Clients, Shared};
use group::{Group, Outcome, Trouble};
use history::{Fate, History};
use schedule::{LeaderFault, Return, Schedule, Step};

use crate::sim::Rng;
use crate::wait;

/// How long a flood may take.
const FLOOD_LIMIT: Duration = Duration::from_secs(3);

/// Wrong things that are told.
const TOLD: usize = 20;

/// What a run has seen.
#[derive(Debug, Default, Clone, Copy)]
pub struct Report {
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Writes that were refused.
    pub refused: u64,
    /// Writes whose fate nobody knows.
    pub unknown: u64,
    /// Values that were read.
    pub read: u64,
    /// Keys that were looked at in the end.
    pub keys: u64,
    /// Promotions.
    pub promotions: u64,
    /// Promotions by FAILOVER.
    pub handovers: u64,
    /// Promotions by `farkeep failover`.
    pub failovers: u64,
    /// Followers promoted beside a leader that went on, and told to follow it again.
    pub rivals: u64,
    /// Promotions that were asked for in two ways at once.
    pub at_once: u64,
    /// Promotions that somebody was killed or stopped in.
    pub in_vain: u64,
    /// Delta syncs that followers have begun, anew or where the last one ended.
    pub syncs_begun: u64,
    /// Delta syncs that have ended well.
    pub syncs: u64,
    /// Scrubs that found nothing. There are no others: nobody damages an image.
    pub scrubs: u64,
}

impl Report {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.read += other.read;
        self.keys += other.keys;
        self.promotions += other.promotions;
        self.handovers += other.handovers;
        self.failovers += other.failovers;
        self.rivals += other.rivals;
        self.at_once += other.at_once;
        self.in_vain += other.in_vain;
        self.syncs_begun += other.syncs_begun;
        self.syncs += other.syncs;
        self.scrubs += other.scrubs;
    }
}

/// A run that has failed.
#[derive(Debug)]
pub struct Failure {
    /// What was wrong.
    pub what: String,
    /// Where the nodes' logs and the story of the run are.
    pub evidence: PathBuf,
}

/// Runs one seed. What a failure leaves behind goes into `evidence`.
///
/// # Errors
/// When a promise was broken, or something did not come about.
pub fn run(seed: u64, evidence: &Path) -> Result<Report, Failure> {
    let mut rng = Rng::new(seed);
    let schedule = Schedule::new(seed, &mut rng);
    let mut story = Story { started: Instant::now(), lines: Vec::new() };
    story.tell(format!("seed {seed}: {schedule:?}"));
    let mut group = None;
    let outcome = Group::start(&schedule).and_then(|started| {
        let group = group.insert(started);
        Run { group, report: Report::default(), story: &mut story }.all(&schedule, rng.number())
    });
    outcome.map_err(|Trouble(what)| {
        story.tell(what.clone());
        let directory = evidence.join(format!("faults-{seed}"));
        let kept = std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join("story.txt"), story.lines.join("\n")))
            .and_then(|()| group.as_ref().map_or(Ok(()), |group| group.keep_evidence(&directory)));
        if let Err(error) = kept {
            eprintln!("the evidence in {} is incomplete: {error}", directory.display());
        }
        Failure { what, evidence: directory }
    })
}

/// What the operator did, and when.
struct Story {
    started: Instant,
    lines: Vec<String>,
}

impl Story {
    fn tell(&mut self, line: String) {
        let line = format!("{:>6} ms  {line}", self.started.elapsed().as_millis());
        if std::env::var_os("FARKEEP_TRACE").is_some() {
            println!("{line}");
        }
        self.lines.push(line);
    }
}

struct Run<'a> {
    group: &'a mut Group,
    report: Report,
    story: &'a mut Story,
}

impl Run<'_> {
    fn all(&mut self, schedule: &Schedule, seed: u64) -> Outcome<Report> {
        let clients = Clients::start(&self.group.ports(), schedule.writers, clients::PAUSE, seed);
        self.story.tell(format!(
            "the clients' clock begins {} ms before the story's",
            i128::from(clients.shared.now_ms()) - self.story.started.elapsed().as_millis() as i128
        ));
        let mut outcome = Ok(());
        for step in &schedule.steps {
            outcome = self.step(step, &clients.shared);
            if outcome.is_err() {
                break;
            }
        }
        let outcome = outcome.and_then(|()| self.heal(&clients.shared));
        let history = clients.stop();
        match outcome {
            Ok(()) => self.judge(&history),
            Err(Trouble(what)) => Err(Trouble(format!("{what}\n{}", self.losses(&history)))),
        }
    }

    /// What the leader lacks of what clients know, when a run got stuck: that is often why.
    fn losses(&self, history: &History) -> String {
        let look = || -> Outcome<Vec<String>> {
            let mut client = self.group.client(self.group.leader())?;
            client.set_reply_timeout(Duration::from_secs(5));
            // Alone it would hold its answers until a follower comes.
            let found = client
                .try_command(&["CONFIG", "SET", "sync-followers", "0"])
                .and_then(|_| history.disagreements(&mut client));
            found.map_err(|error| Trouble(format!("node {} stops answering: {error}", self.group.leader())))
        };
        match look() {
            Ok(wrong) if wrong.is_empty() => "the leader holds what it must hold".to_owned(),
            Ok(wrong) => {
                let shown = &wrong[..wrong.len().min(TOLD)];
                format!("{} things are wrong on the leader:\n{}", wrong.len(), shown.join("\n"))
            }
            Err(Trouble(why)) => why,
        }
    }

    fn step(&mut self, step: &Step, shared: &Shared) -> Outcome {
        self.group.wait_for_writes(step.quiet_writes, shared)?;
        pause(step.quiet_ms);
        if let Some(hit) = step.hit {
            let at = self.group.followers()[hit.follower];
            self.story.tell(format!("node {at}: {:?}", hit.fault));
            self.group.hit(at, hit.fault);
            pause(hit.lasts_ms);
        }
        if step.flood_bytes > 0 {
            self.flood(step.flood_bytes, shared);
        }
        if let Some(fault) = step.leader {
            self.leader_fault(fault, step, shared)?;
        }
        self.group.heal_paths();
        for at in self.group.all() {
            self.group.revive(at, false)?;
        }
        if self.group.is_astray() {
            // Until then they do what their configuration says.
            pause(step.leader_ms);
            let leader = self.group.muster(shared)?;
            self.story.tell(format!("node {leader} leads, the others are told to follow"));
        }
        Ok(())
    }

    /// Long values, until the leader's ring has gone round, or nobody acknowledges them.
    fn flood(&mut self, bytes: u64, shared: &Shared) {
        shared.begin_flood(bytes);
        let whole = wait::holds_within(FLOOD_LIMIT, || !shared.floods());
        shared.end_flood();
        let size = if whole { "all" } else { "a part" };
        self.story.tell(format!("a flood of {bytes} bytes, {size} of it acknowledged"));
    }

    fn leader_fault(&mut self, fault: LeaderFault, step: &Step, shared: &Shared) -> Outcome {
        let old = self.group.leader();
        self.story.tell(format!("node {old}, the leader: {fault:?}"));
        match fault {
            LeaderFault::Restart
            | LeaderFault::Kill
            | LeaderFault::KillForFailover
            | LeaderFault::KillForTwo
            | LeaderFault::KillWithSuccessor
            | LeaderFault::KillAndFreezeSuccessor => self.group.kill(old),
            LeaderFault::Doze | LeaderFault::Freeze => self.group.freeze(old),
            LeaderFault::Isolate => self.group.isolate(old),
            LeaderFault::Forsake | LeaderFault::HandOver => {}
            LeaderFault::Rival => return self.rival(step),
            LeaderFault::KillAll => self.group.all().for_each(|at| self.group.kill(at)),
        }
        pause(step.leader_ms);
        let preferred = step.by_transaction.unwrap_or(0);
        let promotion = Duration::from_millis(step.promotion_ms);
        let best = match fault {
            LeaderFault::Restart | LeaderFault::Doze | LeaderFault::KillAll | LeaderFault::Rival => {
                return self.group.revive(old, true);
            }
            LeaderFault::HandOver => {
                let successor = self.group.hand_over(shared)?;
                self.report.handovers += 1;
                Some(successor)
            }
            LeaderFault::KillForFailover => match self.group.fail_over(shared)? {
                Some(promoted) => {
                    self.report.failovers += 1;
                    Some(promoted)
                }
                None => self.group.promote(shared)?,
            },
            LeaderFault::KillForTwo => {
                self.report.at_once += 1;
                let (leading, outcomes) = self.group.fail_over_twice(preferred, promotion, shared)?;
                self.story.tell(outcomes);
                match leading {
                    Some(leading) => Some(leading),
                    None => self.group.promote(shared)?,
                }
            }
            LeaderFault::KillWithSuccessor | LeaderFault::KillAndFreezeSuccessor => {
                let kill = fault == LeaderFault::KillWithSuccessor;
                self.group.promote_in_vain(preferred, promotion, kill)?;
                self.report.in_vain += 1;
                pause(step.promotion_ms);
                self.group.promote_by_transaction(1 - preferred, shared)?
            }
            LeaderFault::Kill | LeaderFault::Freeze | LeaderFault::Isolate | LeaderFault::Forsake => {
                match step.by_transaction {
                    Some(preferred) => self.group.promote_by_transaction(preferred, shared)?,
                    None => self.group.promote(shared)?,
                }
            }
        };
        let Some(best) = best else { return self.lead_on(old) };
        self.story.tell(format!("node {best} is promoted"));
        self.report.promotions += 1;
        if fault == LeaderFault::HandOver {
            return self.group.followers().into_iter().try_for_each(|at| self.group.follow(at));
        }
        for other in self.group.followers().into_iter().filter(|&at| at != old) {
            self.group.revive(other, false)?;
            self.group.follow(other)?;
        }
        self.bring_back(old, step.back)
    }

    /// A follower leads nobody for a while. It can acknowledge nothing, so it can follow again, and nothing is lost.
    fn rival(&mut self, step: &Step) -> Outcome {
        if self.group.goes_astray() {
            // Who goes by whose log ends last must not come across the log of a rival.
            return Ok(());
        }
        let at = self.group.followers()[step.by_transaction.unwrap_or(0)];
        if self.group.promote_rival(at)? {
            pause(step.leader_ms);
            self.group.follow(at)?;
            self.story.tell(format!("node {at} was promoted as well and is told to follow again"));
            self.report.rivals += 1;
        }
        Ok(())
    }

    /// Nobody else holds a whole dataset, so the leader has to go on.
    fn lead_on(&mut self, old: usize) -> Outcome {
        self.story.tell(format!("nobody can be promoted, node {old} leads on"));
        self.group.heal_paths();
        self.group.revive(old, true)?;
        for at in self.group.followers() {
            self.group.follow(at)?;
        }
        Ok(())
    }

    /// What becomes of the leader that was replaced.
    fn bring_back(&mut self, old: usize, back: Return) -> Outcome {
        match back {
            Return::Told => {
                self.group.heal_paths();
                self.group.revive(old, false)?;
            }
            Return::Believing(for_ms) => {
                self.group.revive(old, true)?;
                pause(for_ms);
                self.group.heal_paths();
            }
        }
        self.group.follow(old)?;
        self.story.tell(format!("node {old} is told to follow"));
        Ok(())
    }

    /// Ends all faults and waits until the group is whole.
    fn heal(&mut self, shared: &Shared) -> Outcome {
        self.story.tell("all faults end".to_owned());
        self.group.wait_for_writes(50, shared)?;
        self.group.wait_until_whole()
    }

    fn judge(&mut self, history: &History) -> Outcome<Report> {
        self.story.tell("the clients have stopped".to_owned());
        self.group.wait_until_applied()?;
        let mut wrong = history.wrong.clone();
        for at in self.group.all() {
            let found = self.group.client(at).map(|mut client| history.disagreements(&mut client))?;
            let found = found.map_err(|error| Trouble(format!("node {at} stops answering: {error}")))?;
            wrong.extend(found.into_iter().map(|what| format!("on node {at}, in the end: {what}")));
        }
        wrong.extend(self.group.panics());
        let mismatches = self.group.logged("a scrub has found and repaired chunks");
        if mismatches > 0 {
            wrong.push(format!("{mismatches} scrubs found images that differ, and nobody has damaged any"));
        }
        if !wrong.is_empty() {
            let count = wrong.len();
            wrong.truncate(TOLD);
            return Err(Trouble(format!("{count} things are wrong:\n{}", wrong.join("\n"))));
        }
        self.group.compare_pools()?;
        self.story.tell("all is well".to_owned());
        Ok(Report {
            acknowledged: history.count(Fate::Acknowledged),
            refused: history.count(Fate::Refused),
            unknown: history.count(Fate::Unknown),
            read: history.count(Fate::Read),
            keys: history.keys() as u64,
            syncs_begun: self.group.logged("a delta sync begins"),
            syncs: self.group.logged("a delta sync has ended"),
            scrubs: self.group.logged("a scrub has ended: the images are the same"),
            ..self.report
        })
    }
}

fn pause(for_ms: u64) {
    std::thread::sleep(Duration::from_millis(for_ms));
}
