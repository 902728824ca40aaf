//! One `farkeep failover` at a time.
//!
//! Two that promote at once would each undo what the other does. They know nothing of each other but through the nodes,
//! and followers take no writes; what a follower does show to everybody is how its connections are called. So who is about
//! to fence calls a connection to each follower [`NAME`], node by node in the order of their ids, and looks whether
//! another one is called so. The one with the lower id goes first unless the other was there before (the one-bit algorithm
//! of Burns and Lamport): who sees a lower one takes its name back until that is gone, then who sees a higher one waits.
//! Whoever dies loses its connections, and with them its turn.
//!
//! This keeps runs apart, not Sentinel and people with redis-cli; and not runs that reach different followers. So each
//! step looks at its node first all the same.

use std::time::Instant;

use anyhow::{Result, bail};
use farkeep_proto::resp::client::Reply;

use super::super::discover::{Address, Fields, Node};
use super::super::show::refuses_writes;
use super::{LOOK, Run};
use crate::cli::client::Client;

/// What the connection of a run is called.
const NAME: &str = "farkeep-failover";
/// Who says nothing for longer is stopped, or its machine is gone; a step of a run takes 30 s at most.
const SILENCE_LIMIT_S: u64 = 60;

/// This run's turn, until it is dropped.
pub(super) struct Turn<'n> {
    nodes: Vec<(&'n Node, Client)>,
}

/// A connection of another run.
#[derive(Debug, PartialEq, Eq)]
struct Rival {
    id: i64,
    address: String,
}

/// The connections of other runs, out of CLIENT LIST.
fn rivals(list: &str, own: i64) -> Vec<Rival> {
    let rival = |line: &str| {
        let field = |name: &str| line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let id = field("id")?.parse().ok()?;
        let idle_s: u64 = field("idle")?.parse().ok()?;
        let is = field("name")? == NAME && id != own && idle_s <= SILENCE_LIMIT_S;
        is.then(|| Rival { id, address: field("addr").unwrap_or_default().to_owned() })
    };
    list.lines().filter_map(rival).collect()
}

fn rivals_at(client: &mut Client, own: i64) -> Result<Vec<Rival>> {
    let Reply::Bulk(list) = client.must(&["CLIENT", "LIST"])? else { bail!("CLIENT LIST is no text") };
    Ok(rivals(&String::from_utf8_lossy(&list), own))
}

/// Whether a run has its turn on this node or waits for it.
pub(super) fn is_taken(client: &mut Client) -> bool {
    // Ids begin at 1.
    rivals_at(client, 0).is_ok_and(|rivals| !rivals.is_empty())
}

impl<'n> Turn<'n> {
    /// Waits for this run's turn. Nodes that do not let it look are left out.
    ///
    /// # Errors
    /// When another run does not end in time.
    pub fn take(run: &Run<'_>, followers: &[&'n Node]) -> Result<Self> {
        let mut sorted = followers.to_vec();
        sorted.sort_by_key(|node| node.info.text("farkeep_node_id"));
        let mut turn = Self { nodes: Vec::new() };
        for node in sorted {
            let Ok(mut client) = run.login.connect(&node.address) else { continue };
            match take_at(&mut client, run.deadline()) {
                Ok(None) => turn.nodes.push((node, client)),
                Ok(Some(rival)) => bail!(
                    "another farkeep failover is at work on {}, from {}; nothing has been done. CLIENT KILL {} there ends it",
                    node.announced(),
                    rival.address,
                    rival.address
                ),
                Err(_) => {}
            }
        }
        Ok(turn)
    }

    /// Whether a follower has been promoted or told to follow somebody else since it was found.
    pub fn has_come_too_late(&mut self) -> bool {
        self.nodes
            .iter_mut()
            .any(|(node, client)| look(node, client).is_ok_and(|now| !now.is_as_it_was(node)))
    }
}

/// Waits for the turn at one node; if it does not come in time, whose it is.
fn take_at(client: &mut Client, deadline: Instant) -> Result<Option<Rival>> {
    let Reply::Int(own) = client.must(&["CLIENT", "ID"])? else { bail!("CLIENT ID is no number") };
    loop {
        client.must(&["CLIENT", "SETNAME", NAME])?;
        if !rivals_at(client, own)?.iter().any(|rival| rival.id < own) {
            break;
        }
        client.must(&["CLIENT", "SETNAME", ""])?;
        if let Some(rival) = wait_for(client, own, deadline, |rival| rival.id < own)? {
            return Ok(Some(rival));
        }
    }
    wait_for(client, own, deadline, |rival| rival.id > own)
}

/// Waits until no such rival is there; the one that still is when time is up.
fn wait_for(
    client: &mut Client,
    own: i64,
    deadline: Instant,
    such: impl Fn(&Rival) -> bool,
) -> Result<Option<Rival>> {
    loop {
        let rival = rivals_at(client, own)?.into_iter().find(&such);
        if rival.is_none() || Instant::now() >= deadline {
            return Ok(rival);
        }
        std::thread::sleep(LOOK);
    }
}

/// A node as it is now.
pub(super) struct Look(Node);

/// Looks at a node again.
///
/// # Errors
/// When it does not answer.
pub(super) fn look(node: &Node, client: &mut Client) -> Result<Look> {
    let info = Fields::new(client.info_text(&["replication", "farkeep"])?);
    Ok(Look(Node { info, ..node.clone() }))
}

impl Look {
    /// Whether it leads.
    pub fn leads(&self) -> bool {
        self.0.is_leader()
    }

    /// Whether it has the followers that a write takes.
    pub fn takes_writes(&self) -> bool {
        !refuses_writes(&self.0)
    }

    /// Whether it still follows whom it followed when it was found.
    pub fn is_as_it_was(&self, then: &Node) -> bool {
        !self.leads() && self.0.leader() == then.leader()
    }

    /// Whether it is fenced, and nobody has told it whom to follow since.
    pub fn is_still_fenced(&self, then: &Node) -> bool {
        self.is_as_it_was(then) && self.fenced_from().is_some()
    }

    /// Whom it names as its leader, if it is fenced.
    pub fn fenced_from(&self) -> Option<Address> {
        self.0.leader().filter(|_| self.0.info.number("farkeep_fenced") == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rivals_are_those_of_the_same_name_that_still_say_something() {
        let line = |id: i64, name: &str, idle: u64| {
            format!("id={id} addr=a:{id} laddr=b:1 fd=8 name={name} age=99 idle={idle} flags=N\n")
        };
        let list = [
            line(3, NAME, 0),
            line(4, "app", 0),
            line(5, NAME, 1),
            line(6, NAME, SILENCE_LIMIT_S + 1),
            line(7, "", 0),
        ];
        let found: Vec<String> = rivals(&list.concat(), 3).into_iter().map(|rival| rival.address).collect();
        assert_eq!(found, ["a:5"]);
    }
}
