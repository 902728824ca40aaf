//! The rival: redis-server, alone or as a pair.

use std::ffi::OsString;
use std::path::Path;

use farkeep_benches::stop::Stop;

use crate::bars::Plan;
use crate::child::Child;
use crate::contender::{Contender, Kind, Server, free_address};
use crate::site::Site;

/// What redis-server keeps of a write beyond memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// An append-only file, synced before the reply: what Farkeep always promises.
    Always,
    /// An append-only file, synced each second.
    EverySecond,
    /// Nothing, unless a snapshot is asked for by SAVE.
    Nothing,
}

/// `appendfsync always` on both sides and `WAIT 1 0` with every write: the only way to have in Redis what every write of
/// a Farkeep pair has.
pub fn durable_pair(site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Contender> {
    let mut pair =
        pair(Kind::RedisDurablePair, "redis pair, always + WAIT", Persistence::Always, site, plan, stop)?;
    pair.then = Some(["WAIT", "1", "0"].map(str::to_owned).to_vec());
    Ok(pair)
}

/// What most people run: an asynchronous replica, each side syncing once a second.
pub fn everyday_pair(site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Contender> {
    pair(Kind::RedisEverydayPair, "redis pair, everysec, async", Persistence::EverySecond, site, plan, stop)
}

/// One server.
pub fn alone(
    name: &str,
    persistence: Persistence,
    site: &Site,
    plan: &Plan,
    stop: &Stop,
) -> anyhow::Result<Contender> {
    let dir = site.make_dir(&name.replace([' ', ',', '+'], "-"))?;
    let leader = start(persistence, &dir, None, plan, stop)?;
    Ok(Contender { kind: Kind::RedisAlone, name: name.to_owned(), leader, follower: None, then: None })
}

fn pair(
    kind: Kind,
    name: &str,
    persistence: Persistence,
    site: &Site,
    plan: &Plan,
    stop: &Stop,
) -> anyhow::Result<Contender> {
    let mut pair = alone(name, persistence, site, plan, stop)?;
    pair.kind = kind;
    let dir = site.make_dir(&format!("{}-follower", name.replace([' ', ',', '+'], "-")))?;
    pair.follower = Some(start(persistence, &dir, Some(&pair.leader), plan, stop)?);
    pair.wait_linked(stop)?;
    Ok(pair)
}

/// Starts redis-server in `dir`, on the files that are there.
pub fn start(
    persistence: Persistence,
    dir: &Path,
    leader: Option<&Server>,
    plan: &Plan,
    stop: &Stop,
) -> anyhow::Result<Server> {
    let mut server = launch(persistence, dir, leader, plan)?;
    server.wait_ready(stop)?;
    Ok(server)
}

/// As [`start`], without waiting for anything.
pub fn launch(
    persistence: Persistence,
    dir: &Path,
    leader: Option<&Server>,
    plan: &Plan,
) -> anyhow::Result<Server> {
    let address = free_address()?;
    let mut args = directives(&[
        ("port", &address.port().to_string()),
        ("bind", "127.0.0.1"),
        ("save", ""),
        // An append-only file rewritten during a run would cost Redis a fork and its copies: left out in its favour.
        ("auto-aof-rewrite-percentage", "0"),
        ("repl-diskless-sync-delay", "0"),
        ("client-output-buffer-limit", "replica 0 0 0"),
    ]);
    args.extend(match persistence {
        Persistence::Always => directives(&[("appendonly", "yes"), ("appendfsync", "always")]),
        Persistence::EverySecond => directives(&[("appendonly", "yes"), ("appendfsync", "everysec")]),
        Persistence::Nothing => directives(&[("appendonly", "no")]),
    });
    if let Some(leader) = leader {
        args.extend(directives(&[("replicaof", &format!("127.0.0.1 {}", leader.address.port()))]));
    }
    Ok(Server { child: Child::start(&plan.redis_server, &args, dir)?, address })
}

fn directives(pairs: &[(&str, &str)]) -> Vec<OsString> {
    pairs
        .iter()
        .flat_map(|(name, value)| {
            let words: Vec<&str> = if value.is_empty() { vec![""] } else { value.split(' ').collect() };
            std::iter::once(OsString::from(format!("--{name}"))).chain(words.into_iter().map(OsString::from))
        })
        .collect()
}
