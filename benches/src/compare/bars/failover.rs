//! Failover: how long clients that write have to wait for the next leader, and what is lost.
//!
//! One leader and two followers; every write is durable on one of them before it is acknowledged. Clients write one key after the
//! other, and go to the next node with a key that one did not take. The pause of a planned failover is the longest time between two
//! acknowledgements of a client. After a kill -9 the clock runs from just before `farkeep failover` is started until a write is
//! acknowledged. In the end every acknowledged key is read.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use farkeep_benches::load::Workload;
use farkeep_benches::stop::Stop;
use serde_json::json;

use super::{Plan, fill};
use crate::client::{Answer, Client};
use crate::contender::Server;
use crate::report::{Bar, Bound, Findings, show, table};
use crate::rounds::median;
use crate::site::{Medium, Site};
use crate::{farkeep, wait};

/// Clients that write.
const WRITERS: usize = 2;
/// Followers of the leader.
const FOLLOWERS: usize = 2;
/// Bytes of a value of the data that is there.
const VALUE_LEN: usize = 256;
/// Load before and after each failover.
const LOAD: Duration = Duration::from_millis(500);
/// Anything that takes longer is given up.
const WITHIN: Duration = Duration::from_secs(120);

/// Milliseconds that a client waits in a planned failover.
const PAUSE_AT_MOST: f64 = 50.0;
/// Milliseconds from the command to the first accepted write.
const COMMAND_AT_MOST: f64 = 200.0;

pub fn run(plan: &Plan, stop: &Stop) -> anyhow::Result<Findings> {
    ensure!(plan.farkeep.is_some(), "Farkeep was left out of this run");
    let site = Site::new(Medium::Tmpfs, plan)?;
    let mut group = Group::start(&site, plan, stop)?;
    let writing = Writing { nodes: Mutex::new(group.addresses()), ..Writing::default() };
    let found = std::thread::scope(|scope| {
        let writing = &writing;
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || writing.write(writer))).collect();
        let measured = measure(&mut group, writing, plan, stop);
        writing.done.store(true, Ordering::Relaxed);
        let joined = writers.into_iter().map(|writer| writer.join().or_else(|_| bail!("a writer panicked")));
        let acknowledged = joined.collect::<anyhow::Result<Vec<u64>>>()?;
        anyhow::Ok((measured?, acknowledged))
    });
    let ((pauses, commands, surprises), acknowledged) = found?;
    let lost = group.count_lost(&acknowledged)?;
    Ok(findings(plan, &pauses, &commands, &surprises, acknowledged.iter().sum(), lost))
}

type Measured = (Vec<f64>, Vec<f64>, Vec<String>);

/// Pauses of planned failovers, times of failovers after a kill, and what surprised clients in the planned ones.
fn measure(group: &mut Group, writing: &Writing, plan: &Plan, stop: &Stop) -> anyhow::Result<Measured> {
    let (mut pauses, mut commands) = (Vec::new(), Vec::new());
    for round in 0..plan.failovers {
        eprintln!("  failover | planned | round {} of {}", round + 1, plan.failovers);
        std::thread::sleep(LOAD);
        let seen = locked(&writing.acks).len();
        group.hand_over(stop)?;
        let handed_over = Instant::now();
        std::thread::sleep(LOAD);
        wait::until("every client writes again", WITHIN, stop, || {
            Ok(writing.all_wrote_since(seen, handed_over))
        })?;
        let longest = locked(&writing.acks)[seen..].iter().map(|ack| ack.waited).max();
        pauses.push(longest.context("nothing was written")?.as_secs_f64() * 1e3);
    }
    let surprises = locked(&writing.surprises).clone();
    for round in 0..plan.failovers {
        eprintln!("  failover | after kill -9 | round {} of {}", round + 1, plan.failovers);
        std::thread::sleep(LOAD);
        group.nodes[0].child.kill()?;
        let seen = locked(&writing.acks).len();
        let begun = Instant::now();
        group.fail_over(plan)?;
        let first = || locked(&writing.acks)[seen..].iter().map(|ack| ack.at).find(|&at| at > begun);
        wait::until("a write is accepted", WITHIN, stop, || Ok(first().is_some()))?;
        commands.push(first().map_or(f64::NAN, |at| (at - begun).as_secs_f64() * 1e3));
        // Another node in the place of the one that is gone.
        group.launch(plan, stop)?;
        group.wait_online(stop)?;
        *locked(&writing.nodes) = group.addresses();
    }
    Ok((pauses, commands, surprises))
}

fn findings(
    plan: &Plan,
    pauses: &[f64],
    commands: &[f64],
    surprises: &[String],
    acknowledged: u64,
    lost: u64,
) -> Findings {
    let mut table = table(&["failover, ms", "median", "longest"], &[1, 2]);
    let mut bars = Vec::new();
    let mut bar = |what: &str, measured, at_most, unit| {
        let bound = Bound::AtMost(at_most);
        bars.push(Bar { number: 7, what: what.into(), measured, bound, unit, is_aim: false });
    };
    for (name, times, at_most) in [
        ("planned: longest pause of a client", pauses, PAUSE_AT_MOST),
        ("farkeep failover after kill -9: first accepted write", commands, COMMAND_AT_MOST),
    ] {
        let longest = times.iter().copied().fold(0.0, f64::max);
        table.add_row([name.to_owned(), show(median(times.to_vec()), ""), show(longest, "")]);
        bar(name, longest, at_most, "ms");
    }
    bar("planned: errors other than redirects", surprises.len() as f64, 0.0, "");
    bar("acknowledged writes that are lost", lost as f64, 0.0, "");
    Findings {
        title: "Failover".into(),
        tables: vec![(
            format!(
                "{} keys, values of {VALUE_LEN} bytes, {WRITERS} writers, {FOLLOWERS} followers, tmpfs; {acknowledged} writes \
                 acknowledged meanwhile",
                plan.join_keys
            ),
            table,
        )],
        bars,
        figures: json!({
            "pauses_ms": pauses, "commands_ms": commands, "surprises": surprises,
            "acknowledged": acknowledged, "lost": lost,
        }),
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three nodes. The first one leads.
struct Group<'a> {
    site: &'a Site,
    nodes: Vec<Server>,
    /// Directories made so far.
    dirs: usize,
}

impl<'a> Group<'a> {
    fn start(site: &'a Site, plan: &Plan, stop: &Stop) -> anyhow::Result<Self> {
        let mut group = Self { site, nodes: Vec::new(), dirs: 0 };
        for _ in 0..=FOLLOWERS {
            group.launch(plan, stop)?;
        }
        group.wait_online(stop)?;
        let data = plan.workload(group.nodes[0].address);
        fill(&Workload { keys: plan.join_keys, value_len: VALUE_LEN, ..data }, stop)?;
        Ok(group)
    }

    /// One more node, with an empty pool.
    fn launch(&mut self, plan: &Plan, stop: &Stop) -> anyhow::Result<()> {
        self.dirs += 1;
        let dir = self.site.make_dir(&format!("node-{}", self.dirs))?;
        let mut flags = vec!["--sync-followers", "1"];
        let leader = self.nodes.first().map(|leader| format!("127.0.0.1 {}", leader.address.port()));
        flags.extend(leader.iter().flat_map(|leader| ["--replicaof", leader]));
        let mut node = farkeep::launch(&dir, self.site.medium, &flags, plan)?;
        node.wait_ready(stop)?;
        self.nodes.push(node);
        Ok(())
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    fn wait_online(&self, stop: &Stop) -> anyhow::Result<()> {
        let mut client = Client::connect(self.nodes[0].address)?;
        wait::until("all followers are online", WITHIN, stop, || {
            for follower in 0..FOLLOWERS {
                let line = client.info("replication", &format!("slave{follower}"))?;
                if !line.is_some_and(|line| line.contains("state=online")) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Has the leader hand over to the next node.
    fn hand_over(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let port = self.nodes[1].address.port().to_string();
        let begun = Client::connect(self.nodes[0].address)?.call(&["FAILOVER", "TO", "127.0.0.1", &port])?;
        ensure!(begun == Answer::Status("OK".into()), "FAILOVER answered {begun:?}");
        self.nodes.rotate_left(1);
        wait::until("the next node leads", WITHIN, stop, || leads(&self.nodes[0]))?;
        self.wait_online(stop)
    }

    /// Has the command make one of the others the leader; the first node has been killed.
    fn fail_over(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let binary = plan.farkeep.as_deref().context("Farkeep was left out of this run")?;
        let any = self.nodes[1].address.to_string();
        let output = Command::new(binary).args(["failover", "-n", &any, "--yes"]).output()?;
        if !output.status.success() {
            bail!("farkeep failover: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        self.nodes.remove(0);
        let leading = self.nodes.iter().map(leads).collect::<anyhow::Result<Vec<bool>>>()?;
        let leader =
            leading.iter().position(|&leads| leads).context("no node leads after farkeep failover")?;
        self.nodes.rotate_left(leader);
        Ok(())
    }

    /// Acknowledged writes that the leader does not have.
    fn count_lost(&self, acknowledged: &[u64]) -> anyhow::Result<u64> {
        let mut client = Client::connect(self.nodes[0].address)?;
        let mut lost = 0;
        for (writer, &acknowledged) in acknowledged.iter().enumerate() {
            for index in 0..acknowledged {
                let found = client.call(&["GET", &key(writer, index)])?;
                lost += u64::from(found != Answer::Bulk(Some(index.to_string().into_bytes())));
            }
        }
        Ok(lost)
    }
}

fn leads(node: &Server) -> anyhow::Result<bool> {
    let role = Client::connect(node.address)?.info("replication", "role")?;
    Ok(role.is_some_and(|role| role == "master"))
}

fn key(writer: usize, index: u64) -> String {
    format!("failover:{writer}:{index}")
}

/// A write that was acknowledged.
struct Ack {
    writer: usize,
    at: Instant,
    /// Since the same client's write before.
    waited: Duration,
}

/// What the clients share.
#[derive(Default)]
struct Writing {
    nodes: Mutex<Vec<SocketAddr>>,
    acks: Mutex<Vec<Ack>>,
    /// Answers that were neither OK nor a redirect, and lost connections.
    surprises: Mutex<Vec<String>>,
    done: AtomicBool,
}

impl Writing {
    /// Whether each client has had a write acknowledged after `since`; the first `seen` ones are older.
    fn all_wrote_since(&self, seen: usize, since: Instant) -> bool {
        let acks = locked(&self.acks);
        (0..WRITERS).all(|writer| acks[seen..].iter().any(|ack| ack.writer == writer && ack.at > since))
    }

    /// Writes keys in their order, each until it is acknowledged, and returns how many there are.
    fn write(&self, writer: usize) -> u64 {
        let (mut index, mut node, mut client) = (0, 0, None);
        let mut before = Instant::now();
        while !self.done.load(Ordering::Relaxed) {
            let answer = match &mut client {
                None => {
                    let nodes = locked(&self.nodes).clone();
                    client = Client::connect(nodes[node % nodes.len()]).ok();
                    node += usize::from(client.is_none());
                    continue;
                }
                Some(client) => client.call(&["SET", &key(writer, index), &index.to_string()]),
            };
            match answer {
                Ok(Answer::Status(status)) if status == "OK" => {
                    let at = Instant::now();
                    locked(&self.acks).push(Ack { writer, at, waited: at - before });
                    (before, index) = (at, index + 1);
                    continue;
                }
                Ok(Answer::Error(error)) if error.starts_with("READONLY") => {}
                Ok(answer) => locked(&self.surprises).push(format!("{answer:?}")),
                Err(error) => locked(&self.surprises).push(format!("{error:#}")),
            }
            client = None;
            node += 1;
        }
        index
    }
}
