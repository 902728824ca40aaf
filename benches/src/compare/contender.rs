//! What is compared: one server, or a leader with its follower, running and ready.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use farkeep_benches::stop::Stop;

use crate::child::Child;
use crate::client::{Answer, Client};
use crate::wait;

/// A server must answer, and a follower have its link up, within this time.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A follower may be this far behind after a run that did not wait for it.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(120);

/// Servers at rest take less than a tenth of a core for this long; a clock tick of /proc is shorter than that.
const QUIET_FOR: Duration = Duration::from_millis(200);
/// A server that works longer in the background is left to it.
const QUIET_WITHIN: Duration = Duration::from_secs(10);

/// A running server.
#[derive(Debug)]
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Waits until the server answers PING.
    pub fn wait_ready(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let Self { child, address } = self;
        wait::until("the server answers PING", READY_WITHIN, stop, || {
            child.check_alive()?;
            let Ok(mut client) = Client::connect(*address) else { return Ok(false) };
            Ok(matches!(client.call(&["PING"]), Ok(Answer::Status(pong)) if pong == "PONG"))
        })
        .with_context(|| format!("output of the server:\n{}", self.child.output_tail()))
    }
}

/// CPU time by role.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub leader: Duration,
    pub follower: Duration,
}

impl Cpu {
    pub fn since(self, earlier: Self) -> Self {
        Self {
            leader: self.leader.saturating_sub(earlier.leader),
            follower: self.follower.saturating_sub(earlier.follower),
        }
    }

    pub fn total(self) -> Duration {
        self.leader + self.follower
    }
}

/// Which side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// redis-server, primary and replica, durable on both before a write is acknowledged.
    RedisDurablePair,
    /// redis-server, primary and asynchronous replica, synced each second.
    RedisEverydayPair,
    /// One redis-server.
    RedisAlone,
    /// The bare loop, leader and follower: the limit of the TCP path.
    BareLoop,
    /// Farkeep, leader and one synchronous follower.
    FarkeepPair,
    /// One Farkeep.
    FarkeepAlone,
}

/// One side of a comparison.
#[derive(Debug)]
pub struct Contender {
    pub kind: Kind,
    pub name: String,
    pub leader: Server,
    pub follower: Option<Server>,
    /// The command that makes a write of this contender as safe as it can be, if its own reply does not.
    pub then: Option<Vec<String>>,
}

impl Contender {
    /// Waits until the follower's link is up and the leader counts it.
    pub fn wait_linked(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let Some(follower) = &mut self.follower else { return Ok(()) };
        let mut to_leader = Client::connect(self.leader.address)?;
        let mut to_follower = Client::connect(follower.address)?;
        wait::until("the follower's link is up", READY_WITHIN, stop, || {
            follower.child.check_alive()?;
            let link = to_follower.info("replication", "master_link_status")?;
            let first = to_leader.info("replication", "slave0")?;
            Ok(link.as_deref() == Some("up") && first.is_some_and(|line| line.contains("state=online")))
        })
        .with_context(|| format!("output of the follower:\n{}", follower.child.output_tail()))
    }

    /// Waits until the follower has all that the leader has and neither works any more, so that what a run left to be
    /// done in the background is counted as its cost and not paid by the next contender.
    pub fn settle(&self, stop: &Stop) -> anyhow::Result<()> {
        self.wait_caught_up(stop)?;
        let begun = Instant::now();
        let mut busy_until = self.cpu()?.total();
        let quiet = || -> anyhow::Result<bool> {
            thread::sleep(QUIET_FOR);
            let taken = self.cpu()?.total();
            let idle = taken.saturating_sub(busy_until) < QUIET_FOR / 10;
            busy_until = taken;
            Ok(idle || begun.elapsed() > QUIET_WITHIN)
        };
        wait::until("the servers have nothing left to do", QUIET_WITHIN * 2, stop, quiet)?;
        if begun.elapsed() > QUIET_WITHIN {
            eprintln!("  {} does not come to rest; it disturbs what is measured next", self.name);
        }
        Ok(())
    }

    fn wait_caught_up(&self, stop: &Stop) -> anyhow::Result<()> {
        let Some(follower) = self.follower.as_ref().filter(|_| self.kind != Kind::BareLoop) else {
            return Ok(());
        };
        let mut to_leader = Client::connect(self.leader.address)?;
        let mut to_follower = Client::connect(follower.address)?;
        wait::until("the follower has caught up", CAUGHT_UP_WITHIN, stop, || {
            let leader = to_leader.info_number("replication", "master_repl_offset")?;
            let follower = to_follower.info_number("replication", "slave_repl_offset")?;
            Ok(follower >= leader)
        })
    }

    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let follower = match &self.follower {
            Some(follower) => follower.child.cpu()?,
            None => Duration::ZERO,
        };
        Ok(Cpu { leader: self.leader.child.cpu()?, follower })
    }
}

/// An address on this host that nobody listens on.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?)
}
