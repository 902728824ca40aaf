//! `farkeep failover`: gives a group another leader.
//!
//! While the leader answers, it is told to hand over (FAILOVER), and nothing can be lost. When it does not, it may still live
//! where this program cannot see it. So first every follower that answers is *fenced*: from then on the old leader gets no
//! acknowledgement out of it, and where its log ends is final. Then the most advanced of them is promoted, and the others follow
//! it. With n followers and `sync-followers` k, any n-k+1 of them leave the leader k-1 at most, which is too few to acknowledge
//! anything, and at least one of them holds any given acknowledged write; so the most advanced one holds them all. With fewer,
//! or with `sync-followers 0`, nobody can know, and one is asked before anything is done.
//!
//! Several runs, which two people or a script and a person may well start at once, take turns ([`turn`]). Besides, before
//! a node is told anything it is looked at: one that somebody else has promoted, or told whom to follow, is left alone.
//! Who finds that the group has got a leader without him waits for that one to take writes, and says who it is. After a while he
//! helps: whoever still follows nobody that leads is told to follow that one; and if nobody leads, each having stopped the other,
//! he begins anew.

mod planned;
#[cfg(test)]
mod tests;
mod turn;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use farkeep_core::log::Claim;
use farkeep_proto::resp::client::Reply;

use super::discover::{Address, Group, Login, Node};
use super::show::{refuses_writes, why_contested};
use super::{GroupArguments, WOULD_LOSE};
use crate::cli::client::Client;
use crate::commands::info::human;
use crate::engine::new_claim;
use turn::{Turn, look};

/// Between two looks at whether it is done.
const LOOK: Duration = Duration::from_millis(2);
/// How long a promotion or a fence may take: it replays what the image lacks.
const PROMOTE_LIMIT: Duration = Duration::from_secs(30);
/// How long somebody else who gives the group a leader is left to it.
const OTHERS_LIMIT: Duration = Duration::from_secs(1);

/// Arguments of `farkeep failover`.
#[derive(Debug, Args)]
pub struct FailoverArguments {
    #[command(flatten)]
    group: GroupArguments,
    /// Who is to lead; otherwise the most advanced follower.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<Address>,
    /// Go on where acknowledged writes could be lost, without asking.
    #[arg(short = 'y', long, visible_alias = "yes")]
    force: bool,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long it may take, in ms.
    #[arg(long, value_name = "MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

/// Runs it.
///
/// # Errors
/// When there is nobody to promote, or it does not come about in time.
pub fn failover(arguments: &FailoverArguments) -> Result<ExitCode> {
    let started = Instant::now();
    let group = arguments.group.discover()?;
    let run = Run {
        arguments,
        login: arguments.group.login(),
        started,
        asked: Cell::default(),
        group: &group,
        claim: new_claim(),
    };
    match group.leaders().as_slice() {
        [] => run.unplanned(),
        [leader] => match why_contested(leader) {
            None => run.planned(leader),
            Some(why) => bail!(
                "{} leads because its configuration says so: {why}. If none does, have it follow one of its followers, and run this again",
                leader.announced()
            ),
        },
        [first, second, ..] => bail!(
            "both {} and {} lead: tell the one to be given up to follow the other (REPLICAOF)",
            first.announced(),
            second.announced()
        ),
    }
}

struct Run<'a> {
    arguments: &'a FailoverArguments,
    login: Login,
    started: Instant,
    /// How long somebody at the terminal took to answer.
    asked: Cell<Duration>,
    group: &'a Group,
    /// What this run's promotion is told by.
    claim: Claim,
}

/// Where a follower's log ends.
type Position = (u64, u64);

/// A follower that the old leader gets nothing out of any more.
struct Fenced<'a> {
    node: &'a Node,
    client: Client,
    position: Position,
    /// The number that it has promised to this run's promotion.
    promised: u64,
}

impl Run<'_> {
    fn deadline(&self) -> Instant {
        self.started + self.asked.get() + Duration::from_millis(self.arguments.timeout)
    }

    /// Waits until `condition` gives a value.
    fn wait<T>(&self, what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        loop {
            if let Some(value) = condition()? {
                return Ok(value);
            }
            if Instant::now() >= self.deadline() {
                bail!("waited {} ms for {what}, in vain", self.arguments.timeout);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether to go on although `what` could happen.
    fn may_lose(&self, what: &str) -> Result<bool> {
        say!("{what}");
        if self.arguments.force || self.arguments.dry_run {
            return Ok(true);
        }
        if !std::io::stdin().is_terminal() {
            eprintln!(
                "farkeep: not done, since acknowledged writes could be lost; --force goes on all the same"
            );
            return Ok(false);
        }
        print!("Go on all the same? [y/N] ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        let asked = Instant::now();
        std::io::stdin().lock().read_line(&mut answer)?;
        self.asked.set(self.asked.get() + asked.elapsed());
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }

    /// No leader answers.
    fn unplanned(&self) -> Result<ExitCode> {
        let mut followers: Vec<&Node> = self.group.followers().collect();
        followers.sort_by_key(|node| std::cmp::Reverse(place(node, node.position())));
        let known = self.known_followers();
        let sync =
            followers.iter().map(|node| node.info.number("farkeep_leader_sync_followers")).max().unwrap_or(0);
        let sync = usize::try_from(sync).unwrap_or(usize::MAX);
        say!("No leader answers.");
        for node in &followers {
            say!(
                "  follower {} has epoch {}, durable up to {}{}",
                node.announced(),
                node.info.text("farkeep_epoch_shown"),
                node.durable(),
                if node.is_mid_sync() { ", in the middle of a delta sync" } else { "" }
            );
        }
        let first = *followers.first().context("no follower answers either")?;
        let wanted = match &self.arguments.to {
            Some(to) => self.group.find(to).ok_or_else(|| anyhow!("{to} does not answer"))?,
            None => first,
        };
        if wanted.is_mid_sync() {
            bail!(
                "{} is in the middle of a delta sync and cannot lead: let the old leader come back, or name another one",
                wanted.announced()
            );
        }
        if !self.may_promote(known.len(), sync, followers.len(), first, wanted)? {
            return Ok(ExitCode::from(WOULD_LOSE));
        }
        if self.arguments.dry_run {
            say!("Would promote {}; the others would follow it.", wanted.announced());
            return Ok(ExitCode::SUCCESS);
        }
        let mut turn = Turn::take(self, &followers)?;
        if turn.has_come_too_late() {
            drop(turn);
            return self.led_by_another();
        }
        let mut fenced = self.fence(&followers);
        let settled = self.settle(&mut fenced, known.len(), sync, followers.len());
        let outcome = match settled {
            Ok(Some(chosen)) => self.promote(fenced, chosen, sync)?,
            other => {
                release(fenced);
                if turn.has_come_too_late() { None } else { Some(other.map(|_| ExitCode::from(WOULD_LOSE))?) }
            }
        };
        drop(turn);
        outcome.map_or_else(|| self.led_by_another(), Ok)
    }

    /// Somebody else has given the group a leader meanwhile: waits for that one to take writes, and says who it is. See the module's
    /// documentation for what becomes of one that does not.
    fn led_by_another(&self) -> Result<ExitCode> {
        let nodes: Vec<Address> = self.group.nodes.iter().map(|node| node.address.clone()).collect();
        let since = Instant::now();
        let mut told = BTreeSet::new();
        let what = "the leader that somebody else has chosen meanwhile to take writes";
        let (leader, group) = self.wait(what, || {
            // While roles change, a node may be too busy to answer in time.
            let group = Group::discover(&nodes, &self.login).unwrap_or_default();
            let leaders = group.leaders();
            Ok(match (leaders.as_slice(), since.elapsed() >= OTHERS_LIMIT) {
                ([leader], _) if !refuses_writes(leader) => Some((Some((*leader).clone()), group)),
                ([leader], true) if self.has_been_promoted(leader) => {
                    self.gather(&group, leader, &mut told);
                    None
                }
                ([], true) if !group.nodes.is_empty() => Some((None, group)),
                _ => None,
            })
        })?;
        let Some(leader) = leader else {
            say!("Nobody has taken over after all; once more.");
            let asked = self.asked.clone();
            return Run { login: self.login.clone(), asked, group: &group, ..*self }.unplanned();
        };
        say!("{} leads: somebody else has seen to that meanwhile. It takes writes.", leader.announced());
        match &self.arguments.to {
            Some(to) if leader.address != *to && leader.announced() != to => {
                bail!("{} leads instead of {to}; run it again to have it hand over", leader.announced())
            }
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    /// Whether a node that leads now is one that followed when it was found; not, say, the old leader that has come back.
    fn has_been_promoted(&self, leader: &Node) -> bool {
        let id = leader.info.text("farkeep_node_id");
        self.group.followers().any(|node| node.info.text("farkeep_node_id") == id)
    }

    /// Has those follow this leader that follow somebody who does not lead, or nobody; each is told once.
    fn gather(&self, group: &Group, leader: &Node, told: &mut BTreeSet<Address>) {
        let name = leader.announced();
        for node in group.followers() {
            let follows_it = node.leader().is_some_and(|its| its == *name || its == leader.address);
            if follows_it || !told.insert(node.address.clone()) {
                continue;
            }
            let follow = || {
                self.login.connect(&node.address)?.must(&["REPLICAOF", &name.host, &name.port.to_string()])
            };
            match follow() {
                Ok(_) => {
                    say!("{} is told to follow {name}, which somebody else has promoted.", node.announced())
                }
                Err(error) => eprintln!("farkeep: {} does not follow {name}: {error:#}", node.announced()),
            }
        }
    }

    /// All followers that anybody has told of, and those that answer.
    fn known_followers(&self) -> BTreeSet<Address> {
        let told = self.group.followers().flat_map(|node| {
            let peers = node.info.text("farkeep_peers").split(',').map(str::to_owned).collect::<Vec<_>>();
            peers.into_iter().filter_map(|peer| peer.parse().ok())
        });
        let told: BTreeSet<Address> = told.collect();
        let own = self.group.followers().map(|node| node.announced().clone());
        told.into_iter().chain(own).collect()
    }

    /// Whether it may be done, as far as that can be told beforehand.
    fn may_promote(
        &self,
        known: usize,
        sync: usize,
        answer: usize,
        first: &Node,
        wanted: &Node,
    ) -> Result<bool> {
        let needed = (known + 1).saturating_sub(sync);
        let told = self.group.followers().any(|node| !node.info.text("farkeep_peers").is_empty());
        let surely = if !told {
            self.may_lose(
                "No follower that answers remembers how many there are. Acknowledged writes could be lost if one that does not \
                 answer has more.",
            )?
        } else if sync == 0 {
            self.may_lose(
                "sync-followers is 0: what the leader acknowledged and had not yet sent to any follower would be lost.",
            )?
        } else if answer < needed {
            self.may_lose(&format!(
                "{answer} of {known} followers answer; with sync-followers {sync} it takes {needed} to be sure that the \
                 most advanced one is among them. Acknowledged writes could be lost."
            ))?
        } else {
            say!(
                "{answer} of {known} followers answer, sync-followers is {sync}: nothing acknowledged is lost."
            );
            true
        };
        let less = first.position() > wanted.position();
        Ok(surely
            && (!less
                || self.may_lose(&format!(
                    "{} is less advanced than {}: {} of log would be lost.",
                    wanted.announced(),
                    first.announced(),
                    human(first.durable().saturating_sub(wanted.durable()))
                ))?))
    }

    /// Takes the followers away from the old leader.
    fn fence<'n>(&self, followers: &[&'n Node]) -> Vec<Fenced<'n>> {
        let mut fenced = Vec::new();
        for &node in followers {
            let fence = || -> Result<Fenced<'n>> {
                let mut client = self.login.connect(&node.address)?;
                client.set_patience(PROMOTE_LIMIT)?;
                let mut fenced = Fenced { node, client, position: (0, 0), promised: 0 };
                fenced.promise(0, self.claim)?;
                Ok(fenced)
            };
            match fence() {
                Ok(follower) => fenced.push(follower),
                Err(error) => {
                    eprintln!(
                        "farkeep: {} cannot be fenced: {}",
                        node.announced(),
                        crate::cli::one_line(&error)
                    );
                }
            }
        }
        // All must have promised the same number.
        let highest = fenced.iter().map(|follower| follower.promised).max().unwrap_or(0);
        fenced.retain_mut(|follower| {
            let promised = follower.raise(highest, self.claim);
            if let Err(error) = &promised {
                eprintln!("farkeep: {} cannot be fenced: {error:#}", follower.node.announced());
            }
            promised.is_ok()
        });
        fenced
    }

    /// Now that positions are final, who is to lead; its index. `None`: nobody, since something could be lost.
    fn settle(
        &self,
        fenced: &mut [Fenced<'_>],
        known: usize,
        sync: usize,
        asked: usize,
    ) -> Result<Option<usize>> {
        if fenced.is_empty() {
            bail!("no follower could be fenced");
        }
        if sync > 0 && fenced.len() < asked && fenced.len() < (known + 1).saturating_sub(sync) {
            let text = format!("Only {} of {known} followers could be fenced.", fenced.len());
            if !self.may_lose(&text)? {
                return Ok(None);
            }
        }
        fenced.sort_by_key(|follower| std::cmp::Reverse(place(follower.node, follower.position)));
        let Some(to) = &self.arguments.to else { return Ok(Some(0)) };
        let at = fenced
            .iter()
            .position(|follower| follower.node.address == *to || follower.node.known_as.as_ref() == Some(to))
            .ok_or_else(|| anyhow!("{to} could not be fenced"))?;
        let (best, chosen) = (&fenced[0], &fenced[at]);
        let foreseen = best.node.position() > chosen.node.position();
        if best.position > chosen.position && !foreseen {
            let text = format!("{to} is less advanced than {} after all.", best.node.announced());
            if !self.may_lose(&text)? {
                return Ok(None);
            }
        }
        Ok(Some(at))
    }

    /// Promotes this one of those that are fenced, and has the others follow it; `None`: somebody else has done something else.
    fn promote(&self, mut fenced: Vec<Fenced<'_>>, chosen: usize, sync: usize) -> Result<Option<ExitCode>> {
        let mut leader = fenced.remove(chosen);
        let name = leader.node.announced().clone();
        if !leader.is_still_fenced() {
            fenced.push(leader);
            release(fenced);
            return Ok(None);
        }
        if let Err(error) = leader.client.must(&["FARKEEP.PROMOTE", &self.claim.to_string()]) {
            fenced.push(leader);
            release(fenced);
            return Err(error
                .context(format!("{name} could not be promoted; everybody follows the old leader again")));
        }
        let port = name.port.to_string();
        let mut follow = 0;
        for follower in &mut fenced {
            if !follower.is_still_fenced() {
                let node = follower.node.announced();
                eprintln!("farkeep: {node} is left alone: somebody else has told it meanwhile what to be");
                follower.let_go();
                continue;
            }
            match follower.client.must(&["REPLICAOF", &name.host, &port]) {
                Ok(_) => follow += 1,
                Err(error) => eprintln!("farkeep: {} does not follow: {error:#}", follower.node.announced()),
            }
        }
        let led_ms = self.started.elapsed().as_millis();
        // Who has a configuration file keeps its role over a restart.
        for node in std::iter::once(&mut leader).chain(&mut fenced) {
            if let Err(error) = node.client.call(&["CONFIG", "REWRITE"]) {
                eprintln!("farkeep: {} may lose its role with a restart: {error}", node.node.announced());
            }
        }
        say!("{name} leads after {led_ms} ms; {follow} of {} others follow it.", fenced.len());
        if fenced.len() < sync {
            say!(
                "With sync-followers {sync} it takes writes once {} more followers are there: bring one back, or lower it with \
                 CONFIG SET sync-followers.",
                sync - fenced.len()
            );
            advise_old_leader(&name);
            return Ok(Some(ExitCode::SUCCESS));
        }
        let leads = self.wait("the new leader to have its followers", || {
            let now = look(leader.node, &mut leader.client)?;
            Ok((!now.leads() || now.takes_writes()).then(|| now.leads()))
        })?;
        if !leads {
            say!("{name} does not lead any more.");
            return Ok(None);
        }
        say!("It takes writes after {} ms.", self.started.elapsed().as_millis());
        advise_old_leader(&name);
        Ok(Some(ExitCode::SUCCESS))
    }
}

impl Fenced<'_> {
    /// Has it promise to the promotion of this claim, at least this number.
    fn promise(&mut self, at_least: u64, claim: Claim) -> Result<()> {
        let Reply::Array(items) =
            self.client.must(&["FARKEEP.FENCE", &at_least.to_string(), &claim.to_string()])?
        else {
            bail!("FARKEEP.FENCE was answered with something else")
        };
        let [Reply::Int(epoch), Reply::Int(end), Reply::Int(promised)] = items.as_slice() else {
            bail!("FARKEEP.FENCE was answered with something else")
        };
        (self.position, self.promised) = ((*epoch as u64, *end as u64), *promised as u64);
        Ok(())
    }

    /// Has it promise this number, if it has promised less.
    fn raise(&mut self, number: u64, claim: Claim) -> Result<()> {
        if self.promised < number {
            self.promise(number, claim)?;
        }
        ensure!(self.promised == number, "somebody else has fenced it meanwhile");
        Ok(())
    }

    /// Whether it is as this run has left it. Who does not answer is not.
    fn is_still_fenced(&mut self) -> bool {
        look(self.node, &mut self.client).is_ok_and(|now| now.is_still_fenced(self.node))
    }

    /// Who is fenced follows whom it names: the old leader again, or another one that it was told of before this run fenced it.
    fn let_go(&mut self) {
        let let_go = look(self.node, &mut self.client).and_then(|now| {
            if let Some(leader) = now.fenced_from() {
                self.client.must(&["REPLICAOF", &leader.host, &leader.port.to_string()])?;
            }
            Ok(())
        });
        if let Err(error) = let_go {
            eprintln!(
                "farkeep: {} is still fenced, tell it whom to follow (REPLICAOF): {error}",
                self.node.announced()
            );
        }
    }
}

/// What is left to do: the old leader could not be told, and its file says that it leads.
fn advise_old_leader(leader: &Address) {
    say!(
        "When the old leader comes back: REPLICAOF {} {} there, and CONFIG REWRITE if it has a configuration file, which still \
         says otherwise.",
        leader.host,
        leader.port
    );
}

/// Nobody is promoted.
fn release(fenced: Vec<Fenced<'_>>) {
    fenced.into_iter().for_each(|mut follower| follower.let_go());
}

/// The order in which followers are preferred: those that hold a whole dataset, then the most advanced, then the one with the lower
/// priority that is not 0, as Sentinel sees it. Where all that is the same the address decides, so that everybody prefers the same one.
///
/// Who is in the middle of a delta sync may well have the longest log, but no image to go with it. It still counts among the n-k+1: it is
/// there because the leader's ring has gone past what it once acknowledged, which takes k others that hold all of that.
fn place(node: &Node, position: Position) -> impl Ord {
    let priority = match node.info.number("slave_priority") {
        0 => u64::MAX,
        priority => priority,
    };
    (!node.is_mid_sync(), position, std::cmp::Reverse((priority, node.announced().clone())))
}
