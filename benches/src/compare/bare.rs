//! The bare loop (`farkeep-bare-loop`) as a contender: what nobody on this machine can beat over TCP.

use std::ffi::OsString;

use anyhow::{Context, ensure};
use farkeep_benches::stop::Stop;

use crate::child::Child;
use crate::contender::{Contender, Kind, Server, free_address};
use crate::site::Site;

/// Cargo puts the binary beside this one when it builds the package.
const BINARY: &str = "farkeep-bare-loop";

/// A leader and its follower.
pub fn pair(site: &Site, stop: &Stop) -> anyhow::Result<Contender> {
    let follower = launch(site, "follower", &["follow"])?;
    let port = follower.address.port().to_string();
    let mut leader = launch(site, "leader", &["lead", "--follower", &port])?;
    leader.wait_ready(stop).context("the bare loop")?;
    Ok(Contender {
        kind: Kind::BareLoop,
        name: "bare loop pair (the limit)".into(),
        leader,
        follower: Some(follower),
        then: None,
    })
}

fn launch(site: &Site, role: &str, words: &[&str]) -> anyhow::Result<Server> {
    let binary = std::env::current_exe()?.with_file_name(BINARY);
    ensure!(binary.is_file(), "no {}: build the whole package", binary.display());
    let dir = site.make_dir(&format!("bare-{role}"))?;
    let address = free_address()?;
    let mut args: Vec<OsString> = vec!["--ring".into(), dir.join("ring").into_os_string()];
    args.extend(["--port".into(), address.port().to_string().into()]);
    args.extend(words.iter().map(OsString::from));
    Ok(Server { child: Child::start(&binary, &args, &dir)?, address })
}
