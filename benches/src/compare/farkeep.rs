//! Our side: `farkeep serve`, alone or as a pair.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context;
use farkeep_benches::stop::Stop;

use crate::bars::Plan;
use crate::child::Child;
use crate::contender::{Contender, Kind, Server, free_address};
use crate::site::{Medium, Site};

/// A leader and one follower, every write acknowledged by both.
pub fn pair(fabric: &str, site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Contender> {
    let name = format!("farkeep pair, {fabric}");
    let leader_dir = site.make_dir(&format!("farkeep-{fabric}-leader"))?;
    let follower_dir = site.make_dir(&format!("farkeep-{fabric}-follower"))?;
    let leader_flags = ["--sync-followers", "1", "--fabric", fabric];
    let leader = start(&leader_dir, site.medium, &leader_flags, plan, stop)?;
    let replicaof = format!("127.0.0.1 {}", leader.address.port());
    let follower_flags = ["--sync-followers", "1", "--fabric", fabric, "--replicaof", &replicaof];
    let follower = start(&follower_dir, site.medium, &follower_flags, plan, stop)?;
    let mut pair = Contender { kind: Kind::FarkeepPair, name, leader, follower: Some(follower), then: None };
    pair.wait_linked(stop)?;
    Ok(pair)
}

/// One server whose writes are durable on itself.
pub fn alone(site: &Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Contender> {
    let dir = site.make_dir("farkeep-alone")?;
    let leader = start(&dir, site.medium, &["--sync-followers", "0"], plan, stop)?;
    Ok(Contender {
        kind: Kind::FarkeepAlone,
        name: "farkeep alone".into(),
        leader,
        follower: None,
        then: None,
    })
}

fn start(dir: &Path, medium: Medium, flags: &[&str], plan: &Plan, stop: &Stop) -> anyhow::Result<Server> {
    let mut server = launch(dir, medium, flags, plan)?;
    server.wait_ready(stop)?;
    Ok(server)
}

/// Starts `farkeep serve` on the pool in `dir`, without waiting for anything.
pub fn launch(dir: &Path, medium: Medium, flags: &[&str], plan: &Plan) -> anyhow::Result<Server> {
    let binary = plan.farkeep.as_deref().context("Farkeep was left out of this run")?;
    let address = free_address()?;
    let durability = match medium {
        Medium::Tmpfs => "pmem",
        Medium::Disk => "disk",
    };
    let port = address.port().to_string();
    let mut args: Vec<OsString> = [
        "serve",
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--enable-debug-command",
        "local",
        "--durability",
        durability,
        "--pool",
    ]
    .map(OsString::from)
    .to_vec();
    args.push(dir.join("pool").into_os_string());
    args.extend(flags.iter().map(OsString::from));
    Ok(Server { child: Child::start(binary, &args, dir)?, address })
}
