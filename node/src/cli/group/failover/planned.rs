//! A leader that answers hands over.
//!
//! It is told with FAILOVER, which it carries out by itself: whoever told it and goes away does not end it. So what it is
//! told has a TIMEOUT of what is left of this command's time, and this command stays until the leader has come to an end.
//! With FORCE that is a little after the TIMEOUT, which is when the leader acts. Should it not come to one, the order is
//! taken back (FAILOVER ABORT). What is reported in the end is who leads, never what was expected.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use farkeep_proto::resp::client::Reply;

use super::super::UNHEALTHY;
use super::super::discover::{Address, Fields, Group, Node};
use super::super::show::why_down;
use super::super::sync::Progress;
use super::{LOOK, Run, turn};
use crate::cli::client::Client;
use crate::commands::info::human;

/// How long after its TIMEOUT a leader may take to end a handover: an offer that is out then waits half a second for its answer.
const END_LIMIT: Duration = Duration::from_secs(1);
/// How long a handover may take that it is too late to abort: a leader stands down for 5 s, and its writes wait 3 s for a link.
const OUTCOME_LIMIT: Duration = Duration::from_secs(9);

/// What the old leader says of itself.
struct Standing {
    under_way: bool,
    leads: bool,
    follows: String,
    has_link: bool,
    /// Why it has none, or how far it is with getting one.
    why_not: String,
}

/// The old leader, as it is watched; the connection to it may have to be made anew.
struct Watched<'a> {
    run: &'a Run<'a>,
    leader: &'a Node,
    client: Option<Client>,
}

impl Watched<'_> {
    fn ask(&mut self, words: &[&str]) -> Result<Reply> {
        if self.client.is_none() {
            self.client = Some(self.run.login.connect(&self.leader.address)?);
        }
        let client = self.client.as_mut().expect("it was connected to just now");
        let reply = client.call(words);
        // A late answer would be taken for that to another question.
        if reply.is_err() {
            self.client = None;
        }
        Ok(reply?)
    }

    fn look(&mut self) -> Option<Standing> {
        let Ok(Reply::Bulk(text)) = self.ask(&["INFO", "replication", "farkeep"]) else { return None };
        let info = Fields::new(String::from_utf8_lossy(&text).into_owned());
        let why_not = Progress::of_follower(&info)
            .map_or_else(|| why_down(&info).to_owned(), |progress| progress.to_string());
        Some(Standing {
            under_way: info.text("master_failover_state") != "no-failover",
            leads: info.text("role") == "master",
            follows: format!("{}:{}", info.text("master_host"), info.text("master_port")),
            has_link: info.text("master_link_status") == "up",
            why_not,
        })
    }

    /// How it ended; `None` if it has not until then.
    fn end(&mut self, until: Instant) -> Option<Standing> {
        self.wait(until, |standing| !standing.under_way)
    }

    fn wait(&mut self, until: Instant, such: impl Fn(&Standing) -> bool) -> Option<Standing> {
        loop {
            if let Some(standing) = self.look().filter(&such) {
                return Some(standing);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Run<'_> {
    /// The leader answers: it hands over.
    pub(super) fn planned(&self, leader: &Node) -> Result<ExitCode> {
        let mut client = self.login.connect(&leader.address)?;
        // It was promoted a moment ago, and is still to get its followers.
        if turn::is_taken(&mut client) {
            say!("{} has just been promoted by another farkeep failover.", leader.announced());
            return self.led_by_another();
        }
        let target = self.show_followers(leader)?;
        let mut words = vec!["FAILOVER".to_owned()];
        if let Some(target) = &target {
            words.extend(["TO".to_owned(), target.host.clone(), target.port.to_string()]);
            if self.arguments.force {
                words.push("FORCE".to_owned());
            }
        }
        let left_ms = self.deadline().saturating_duration_since(Instant::now()).as_millis();
        words.extend(["TIMEOUT".to_owned(), left_ms.to_string()]);
        if self.arguments.dry_run {
            say!("Would tell it: {}. Nothing would be lost.", words.join(" "));
            return Ok(ExitCode::SUCCESS);
        }
        if left_ms == 0 {
            bail!(
                "finding the nodes has taken all of the {} ms; nothing has been done",
                self.arguments.timeout
            );
        }
        let mut watched = Watched { run: self, leader, client: Some(client) };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // Without an answer it may have been understood all the same.
        if let Ok(Reply::Error(text)) = watched.ask(&words) {
            bail!("{} was answered with: {}", words.join(" "), text.escape_ascii());
        }
        let mut end = watched.end(self.deadline() + END_LIMIT);
        let mut aborted = false;
        if end.is_none() {
            let reply = watched.ask(&["FAILOVER", "ABORT"]);
            aborted = matches!(reply, Ok(Reply::Simple(_)));
            // Too late to abort it, it has an outcome before long.
            end = watched.end(Instant::now() + if reply.is_ok() { OUTCOME_LIMIT } else { END_LIMIT });
        }
        match end {
            None => self.unheard_of(leader),
            Some(Standing { leads: true, .. }) if aborted => bail!(
                "{} leads on: it came to nothing in {} ms and was aborted",
                leader.announced(),
                self.arguments.timeout
            ),
            Some(Standing { leads: true, .. }) => {
                bail!("{} leads on; its log says why", leader.announced())
            }
            Some(standing) => {
                let took_ms = self.started.elapsed().as_millis();
                Ok(self.followed(&mut watched, standing, took_ms))
            }
        }
    }

    /// The leader follows its successor, as soon as it has got a link to it.
    fn followed(&self, watched: &mut Watched<'_>, standing: Standing, took_ms: u128) -> ExitCode {
        let (successor, name) = (standing.follows.clone(), watched.leader.announced());
        let linked = standing.has_link || watched.wait(self.deadline(), |now| now.has_link).is_some();
        if linked {
            say!("{successor} leads after {took_ms} ms; {name} follows it.");
            return ExitCode::SUCCESS;
        }
        let why_not = watched.look().map_or(standing.why_not, |now| now.why_not);
        say!(
            "{successor} leads after {took_ms} ms; {name} is to follow it, but has no link to it: {why_not}"
        );
        ExitCode::from(UNHEALTHY)
    }

    /// Why one of those that should follow does not, and what to do where a leader has come back that was replaced.
    fn why_alone(&self) -> String {
        let refused = self.group.followers().find_map(|node| {
            let why = node.info.text("farkeep_link_down_reason");
            why.contains("the leader refuses").then(|| format!("{} says: {why}", node.announced()))
        });
        refused.map_or_else(String::new, |refused| {
            format!("; {refused}. If this leader was replaced, have it follow one of them (REPLICAOF), and run this again")
        })
    }

    /// Says how far the followers are, and who is to lead if that was said.
    fn show_followers(&self, leader: &Node) -> Result<Option<Address>> {
        let end = leader.info.number("farkeep_appended_lsn");
        let lines = leader.info.lists("farkeep_follower");
        let mut lines: Vec<(Address, u64)> = lines
            .iter()
            .filter_map(|line| {
                Some((line.get("address")?.parse().ok()?, line.get("durable_lsn")?.parse().ok()?))
            })
            .collect();
        if lines.is_empty() {
            bail!("the leader {} has no followers{}", leader.announced(), self.why_alone());
        }
        say!("{} leads; its log ends at LSN {end}.", leader.announced());
        lines.sort_by_key(|(_, durable)| std::cmp::Reverse(*durable));
        for (address, durable) in &lines {
            say!(
                "  follower {address} is durable up to {durable}, {} behind",
                human(end.saturating_sub(*durable))
            );
        }
        let Some(to) = &self.arguments.to else { return Ok(None) };
        let known = self.group.find(to).map_or(to, Node::announced);
        if !lines.iter().any(|(address, _)| address == known) {
            bail!("{to} is no follower of {}", leader.announced());
        }
        Ok(Some(known.clone()))
    }

    /// The leader was told, and is silent since: the others may know what became of it.
    fn unheard_of(&self, leader: &Node) -> Result<ExitCode> {
        let nodes: Vec<Address> = self.group.nodes.iter().map(|node| node.address.clone()).collect();
        let group = Group::discover(&nodes, &self.login)?;
        if let [successor] = group.leaders().as_slice()
            && successor.announced() != leader.announced()
        {
            say!("{} leads, but {} does not answer any more.", successor.announced(), leader.announced());
            return Ok(ExitCode::from(UNHEALTHY));
        }
        bail!(
            "{} was told to hand over and does not answer any more; if it still can, it does so within the time that it was given \
             or leads on: see farkeep status",
            leader.announced()
        )
    }
}
