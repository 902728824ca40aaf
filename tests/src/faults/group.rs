//! A leader and its followers as processes, the paths between them, and the operator who looks after them.
//!
//! The operator believes one node to be the leader and promotes by the rule for `n` followers and `sync-followers k`: take
//! `n - k + 1` of the followers away from the leader, so that it can acknowledge nothing more, and promote the one whose log
//! ends last: the highest `farkeep_log_epoch` first, then the highest `farkeep_log_end_lsn`. With `sync-followers 1` these
//! are all. One that is in the middle of a delta sync holds no usable dataset, and nothing that the others lack: it counts, and is not promoted.

use std::path::Path as FilePath;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::clients::Shared;
use super::proxy::{Direction, Path};
use super::schedule::{FollowerFault, Schedule};
use crate::client::{Client, Value};
use crate::server::{Server, ServerBuilder, StartFailure};
use crate::{binary, logs, wait};

/// How long the operator waits for what should take a moment. Beyond it the run has failed: something is stuck.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long the operator waits for a follower to take over by a transaction before looking for another way.
const TRANSACTION_LIMIT: Duration = Duration::from_secs(20);
/// `farkeep failover` did nothing, since acknowledged writes could be lost.
const WOULD_LOSE: i32 = 3;

/// Something that did not come about in time, or should not have.
#[derive(Debug)]
pub struct Trouble(pub String);

/// The outcome of what an operator does.
pub type Outcome<T = ()> = Result<T, Trouble>;

/// See the module's documentation.
#[derive(Debug)]
pub struct Group {
    /// The processes.
    pub nodes: Vec<Server>,
    /// `paths[i][j]`: by which node i follows node j.
    paths: Vec<Vec<Path>>,
    /// By which the nodes reach each other where they go by what a node announces of itself.
    doors: Vec<Path>,
    /// Leads nowhere: who follows this follows nobody.
    nowhere: Path,
    /// Who leads, as far as the operator knows.
    leader: usize,
    frozen: Vec<bool>,
    dead: Vec<bool>,
    /// See [`Schedule::as_configured`].
    as_configured: bool,
    /// Somebody was started again as it was configured at first, and may have a role by now in which the operator does not know it.
    astray: bool,
}

impl Group {
    /// Starts nodes of which the first leads, and waits until the others follow it.
    pub fn start(schedule: &Schedule) -> Outcome<Self> {
        let Schedule { nodes: count, log_size_mb, sync_max_rate_mb, scrub_interval_s, .. } = schedule;
        let ports: Vec<u16> = (0..*count).map(|_| crate::server::free_port()).collect();
        let doors: Vec<Path> = ports.iter().map(|&port| Path::to(port)).collect();
        let paths: Vec<Vec<Path>> =
            (0..*count).map(|_| ports.iter().map(|&port| Path::to(port)).collect()).collect();
        let nowhere = Path::to(1);
        nowhere.cut();
        let mut nodes = Vec::new();
        for (at, &port) in ports.iter().enumerate() {
            let mut builder = ServerBuilder::farkeep()
                .port(port)
                .args(&format!("--sync-followers 1 --log-size {log_size_mb}mb"))
                .args(&format!("--sync-max-rate {sync_max_rate_mb}mb --scrub-interval {scrub_interval_s}"))
                .args("--repl-timeout 1 --commit-timeout 1000 --log-full-timeout 2000")
                .args(&format!(
                    "--replica-announce-ip 127.0.0.1 --replica-announce-port {}",
                    doors[at].port()
                ))
                // Their whole life is trouble; what is wrong in a log is looked for in the end.
                .expect_log("");
            if at > 0 {
                builder = builder.directive("replicaof", &format!("127.0.0.1 {}", paths[at][0].port()));
            }
            nodes.push(builder.try_start().map_err(|failure| {
                Trouble(format!("node {at} does not start ({:?}):\n{}", failure.status, failure.log))
            })?);
        }
        let group = Self {
            nodes,
            paths,
            doors,
            nowhere,
            leader: 0,
            frozen: vec![false; *count],
            dead: vec![false; *count],
            as_configured: schedule.as_configured,
            astray: false,
        };
        group.wait_until_whole()?;
        Ok(group)
    }

    /// The ports at which clients reach the nodes.
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Server::port).collect()
    }

    /// Who leads, as far as the operator knows.
    pub fn leader(&self) -> usize {
        self.leader
    }

    /// The nodes that follow, or should.
    pub fn followers(&self) -> Vec<usize> {
        self.all().filter(|&at| at != self.leader).collect()
    }

    /// All nodes.
    pub fn all(&self) -> std::ops::Range<usize> {
        0..self.nodes.len()
    }

    /// Something befalls a node that follows.
    pub fn hit(&mut self, at: usize, fault: FollowerFault) {
        let path = &self.paths[at][self.leader];
        match fault {
            FollowerFault::Kill => self.kill(at),
            FollowerFault::Freeze => self.freeze(at),
            FollowerFault::Cut => path.cut(),
            FollowerFault::Mute => path.stall(Direction::Forth),
            FollowerFault::Deaf => path.stall(Direction::Back),
            FollowerFault::Slow(by_ms) => path.delay(Duration::from_millis(by_ms)),
        }
    }

    /// kill -9.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].kill();
        (self.dead[at], self.frozen[at]) = (true, false);
    }

    /// SIGSTOP.
    pub fn freeze(&mut self, at: usize) {
        if !self.dead[at] && !self.frozen[at] {
            self.nodes[at].freeze();
            self.frozen[at] = true;
        }
    }

    /// Cuts a node off from the others, but not from its clients.
    pub fn isolate(&self, at: usize) {
        for other in self.all() {
            self.paths[other][at].cut();
            self.paths[at][other].cut();
        }
        self.doors[at].cut();
    }

    /// Makes every path whole.
    pub fn heal_paths(&self) {
        for path in self.paths.iter().flatten().chain(&self.doors) {
            path.heal();
        }
    }

    /// Lets a node go on, or starts it again: in the role in which the operator knows it, or, if it is to be `believing`, as the
    /// leader. In a run in which nodes are started as they were configured at first, they are.
    pub fn revive(&mut self, at: usize, believing: bool) -> Outcome {
        if std::mem::take(&mut self.frozen[at]) {
            self.nodes[at].thaw();
        }
        if self.dead[at] {
            let first = self.as_configured.then_some(0);
            let leader = first.unwrap_or(self.leader);
            if at == leader || (believing && first.is_none()) {
                self.nodes[at].lead();
            } else {
                self.nodes[at].follow(self.paths[at][leader].port());
            }
            self.astray |= self.as_configured;
            let mut started = self.nodes[at].try_restart();
            if let Err(StartFailure { log, .. }) = &started
                && self.as_configured
                && log.contains("it can only go on following; start it as a follower")
            {
                self.nodes[at].follow(self.nowhere.port());
                started = self.nodes[at].try_restart();
            }
            started.map_err(|failure| {
                Trouble(format!("node {at} does not start again ({:?})", failure.status))
            })?;
            self.dead[at] = false;
        }
        Ok(())
    }

    /// Whether a node is neither dead nor frozen.
    pub fn is_well(&self, at: usize) -> bool {
        !self.dead[at] && !self.frozen[at]
    }

    /// Takes all followers away from the leader and promotes the one whose log ends last. Returns whom; `None` if all are in the
    /// middle of a delta sync.
    pub fn promote(&mut self, shared: &Shared) -> Outcome<Option<usize>> {
        let followers = self.followers();
        for &at in &followers {
            self.revive(at, false)?;
            self.follow_port(at, self.nowhere.port())?;
        }
        let Some(best) = self.longest(&followers)? else { return Ok(None) };
        self.command(best, &["REPLICAOF", "NO", "ONE"])?;
        self.lead(best, shared);
        Ok(Some(best))
    }

    /// Of some nodes, the one whose log ends last; `None` if all are in the middle of a delta sync.
    fn longest(&self, nodes: &[usize]) -> Outcome<Option<usize>> {
        let mut ranks = Vec::new();
        for &at in nodes {
            let mut client = self.client(at)?;
            if number(&mut client, "farkeep_mid_sync")? == 1 {
                continue;
            }
            ranks.push((
                number(&mut client, "farkeep_log_epoch")?,
                number(&mut client, "farkeep_log_end_lsn")?,
                at,
            ));
        }
        Ok(ranks.into_iter().max().map(|(.., at)| at))
    }

    /// Whether nodes that are started again may have roles in which the operator does not know them.
    pub fn goes_astray(&self) -> bool {
        self.as_configured
    }

    /// Whether nodes may have roles in which the operator does not know them.
    pub fn is_astray(&self) -> bool {
        self.astray
    }

    /// Gives every node its role anew, whatever it believes: nobody follows anybody, and then the one leads whose log ends last. All
    /// are asked, so it holds all that was acknowledged. Waits until the others follow it: before, they know nothing of its reign, and one that
    /// is started as it was configured could serve another.
    pub fn muster(&mut self, shared: &Shared) -> Outcome<usize> {
        self.heal_paths();
        for at in self.all() {
            self.revive(at, false)?;
            self.follow_port(at, self.nowhere.port())?;
        }
        let all: Vec<usize> = self.all().collect();
        let best = self
            .longest(&all)?
            .ok_or_else(|| Trouble("all nodes are in the middle of a delta sync".to_owned()))?;
        self.command(best, &["REPLICAOF", "NO", "ONE"])?;
        self.lead(best, shared);
        for at in self.followers() {
            self.follow(at)?;
        }
        self.astray = false;
        self.wait_until_whole()?;
        Ok(best)
    }

    /// Promotes a follower that nobody follows; whether it is one. It is not if it is in the middle of a delta sync.
    pub fn promote_rival(&mut self, at: usize) -> Outcome<bool> {
        self.revive(at, false)?;
        match self.command(at, &["REPLICAOF", "NO", "ONE"]) {
            Err(Trouble(why)) if why.contains("in the middle of a synchronisation") => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Makes the group whole and has the leader hand over by FAILOVER. Returns to whom.
    pub fn hand_over(&mut self, shared: &Shared) -> Outcome<usize> {
        self.heal_paths();
        for at in self.all() {
            self.revive(at, false)?;
        }
        if self.astray {
            self.muster(shared)?;
        }
        self.wait_until_whole()?;
        let old = self.leader;
        self.command(old, &["FAILOVER", "TIMEOUT", "10000"])?;
        self.wait(&format!("node {old} to hand over"), || {
            self.nodes[old].info("replication", "master_failover_state") == "no-failover"
        })?;
        let successor = self.successor()?.ok_or_else(|| Trouble(format!("node {old} does not hand over")))?;
        self.lead(successor, shared);
        Ok(successor)
    }

    /// Asks `farkeep failover` for another leader. Returns whom it has promoted; `None` if it refuses to, since it cannot be sure
    /// that nothing is lost (nodes that were restarted do not remember how many there are).
    pub fn fail_over(&mut self, shared: &Shared) -> Outcome<Option<usize>> {
        let output = self.failover_command()?.output();
        let output = output.map_err(|error| Trouble(format!("farkeep failover: {error}")))?;
        // Nodes that were started as they were configured may lead already, or follow somebody whom nobody finds.
        if output.status.code() == Some(WOULD_LOSE) || (self.astray && !output.status.success()) {
            return Ok(None);
        }
        let promoted = self.successor()?.filter(|_| output.status.success());
        let promoted = promoted.ok_or_else(|| {
            let said = [output.stdout, output.stderr].concat();
            Trouble(format!("farkeep failover: {}\n{}", output.status, String::from_utf8_lossy(&said)))
        })?;
        self.lead(promoted, shared);
        Ok(Some(promoted))
    }

    /// `farkeep failover`, and a transaction on one of the followers `after` it was started. Returns who leads then, `None` if nobody does,
    /// and what became of the two.
    pub fn fail_over_twice(
        &mut self,
        preferred: usize,
        after: Duration,
        shared: &Shared,
    ) -> Outcome<(Option<usize>, String)> {
        let mut command = self.failover_command()?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| Trouble(format!("farkeep failover: {error}")))?;
        std::thread::sleep(after);
        // Either may fail, or lose its connection, because of the other.
        let to = self.followers()[preferred];
        let taken = self.try_promotion(to);
        let output =
            child.wait_with_output().map_err(|error| Trouble(format!("farkeep failover: {error}")))?;
        let said = [output.stdout, output.stderr].concat();
        let outcomes = format!(
            "the transaction on node {to}: {taken:?}; farkeep failover: {}\n{}",
            output.status,
            String::from_utf8_lossy(&said).trim_end()
        );
        let leading = self.successor()?;
        if let Some(leading) = leading {
            self.lead(leading, shared);
        }
        Ok((leading, outcomes))
    }

    fn failover_command(&mut self) -> Outcome<Command> {
        let mut command = Command::new(binary::farkeep());
        command.args(["failover", "--timeout", "20000"]);
        self.heal_paths();
        for at in self.followers() {
            self.revive(at, false)?;
            command.args(["--node", &format!("127.0.0.1:{}", self.nodes[at].port())]);
        }
        Ok(command)
    }

    /// Which of the followers leads by now: of several, the one with the latest reign.
    fn successor(&self) -> Outcome<Option<usize>> {
        let mut reigns = Vec::new();
        for at in self.followers() {
            if self.nodes[at].info("replication", "role") == "master" {
                reigns.push((number(&mut self.client(at)?, "farkeep_epoch")?, at));
            }
        }
        reigns.sort_unstable();
        if let [.., (one, _), (other, _)] = reigns[..]
            && one == other
        {
            return Err(Trouble(format!("two followers lead in epoch {one}")));
        }
        Ok(reigns.last().map(|&(_, at)| at))
    }

    /// Asks a follower to take over and does away with it soon `after`, or stops it for a while. Whether it has taken over nobody knows.
    pub fn promote_in_vain(&mut self, preferred: usize, after: Duration, kill: bool) -> Outcome {
        let to = self.followers()[preferred];
        self.revive(to, false)?;
        let mut client = self.client(to)?;
        client
            .send_raw(&promotion())
            .map_err(|error| Trouble(format!("node {to} does not read EXEC: {error}")))?;
        std::thread::sleep(after);
        if kill {
            self.kill(to);
        } else {
            self.freeze(to);
        }
        Ok(())
    }

    /// Promotes a follower by the transaction that Sentinel sends, preferably the one with this number among them. It may refuse: if too
    /// few of the others answer it, or if it has only just begun to follow. Then all are made to answer, and the others are told in turn. Returns whom;
    /// `None` if all are in the middle of a delta sync.
    pub fn promote_by_transaction(&mut self, preferred: usize, shared: &Shared) -> Outcome<Option<usize>> {
        let followers = self.followers();
        let deadline = Instant::now() + TRANSACTION_LIMIT;
        for attempt in preferred.. {
            let to = followers[attempt % followers.len()];
            self.revive(to, false)?;
            if self.try_promotion(to)? {
                self.lead(to, shared);
                return Ok(Some(to));
            }
            if Instant::now() > deadline {
                break;
            }
            for &at in &followers {
                self.revive(at, false)?;
            }
            let syncs = |at: usize| self.nodes[at].info("farkeep", "farkeep_mid_sync") == "1";
            if followers.iter().copied().all(syncs) {
                return Ok(None);
            }
            let untold = |at: usize| self.nodes[at].info("farkeep", "farkeep_peers").is_empty();
            if attempt > preferred && followers.iter().all(|&at| untold(at) || syncs(at)) {
                // The leader was lost before it had told them who follows it, or they do not know that one of them has led since, and they
                // rightly refuse: who else holds what is for the operator to say.
                return self.promote(shared);
            }
        }
        Err(Trouble("all followers refuse to be promoted".to_owned()))
    }

    fn try_promotion(&self, to: usize) -> Outcome<bool> {
        let mut client = self.client(to)?;
        let mut exec = || {
            client.send_raw(&promotion())?;
            client.reply()?;
            client.reply()?;
            client.reply()
        };
        let reply = exec().map_err(|error| Trouble(format!("node {to} does not answer EXEC: {error}")))?;
        Ok(reply.elements().is_some_and(|items| items.iter().all(Value::is_ok)))
    }

    fn lead(&mut self, at: usize, shared: &Shared) {
        self.leader = at;
        self.nodes[at].lead();
        shared.leader.store(at, Ordering::SeqCst);
    }

    /// Tells a node to follow the leader.
    pub fn follow(&mut self, at: usize) -> Outcome {
        let port = self.paths[at][self.leader].port();
        self.nodes[at].follow(port);
        self.follow_port(at, port)
    }

    fn follow_port(&self, at: usize, port: u16) -> Outcome {
        self.command(at, &["REPLICAOF", "127.0.0.1", &port.to_string()])
    }

    /// Waits until the leader acknowledges so many writes more.
    pub fn wait_for_writes(&self, more: u64, shared: &Shared) -> Outcome {
        let target = shared.acknowledged.load(Ordering::SeqCst) + more;
        self.wait("writes to be acknowledged", || shared.acknowledged.load(Ordering::SeqCst) >= target)
    }

    /// Waits until the leader has all others as its followers.
    pub fn wait_until_whole(&self) -> Outcome {
        for at in self.followers() {
            self.wait(&format!("node {at} to follow node {}", self.leader), || {
                self.nodes[at].info("replication", "master_link_status") == "up"
            })?;
        }
        let count = (self.nodes.len() - 1).to_string();
        self.wait("the leader to have its followers", || {
            self.nodes[self.leader].info("replication", "connected_slaves") == count
        })
    }

    /// Waits until all followers have applied all of the leader's log, while nobody writes.
    pub fn wait_until_applied(&self) -> Outcome {
        let lsn = |at: usize, field: &str| self.nodes[at].info("farkeep", field);
        for at in self.followers() {
            self.wait(&format!("node {at} to have applied all of the leader's log"), || {
                let appended = lsn(self.leader, "farkeep_appended_lsn");
                !appended.is_empty()
                    && lsn(self.leader, "farkeep_committed_lsn") == appended
                    && lsn(at, "farkeep_appended_lsn") == appended
                    && lsn(at, "farkeep_applied_lsn") == appended
            })?;
        }
        Ok(())
    }

    /// Stops all nodes and compares their pools: each sound, all images the same bytes.
    pub fn compare_pools(&mut self) -> Outcome {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let status = node.stop();
            if !status.success() {
                return Err(Trouble(format!("node {at} ends with {status}")));
            }
            node.verify_pool();
        }
        let image = |at: usize| {
            let path = self.nodes[at].pool().join("image");
            std::fs::read(&path).map_err(|error| Trouble(format!("{}: {error}", path.display())))
        };
        let ours = image(self.leader)?;
        for at in self.followers() {
            let theirs = image(at)?;
            let differs = ours.iter().zip(&theirs).position(|(one, two)| one != two);
            if let Some(offset) = differs {
                return Err(Trouble(format!(
                    "the images of nodes {} and {at} differ from offset {offset:#x} on, at equal LSN",
                    self.leader
                )));
            }
            // Whoever has been sent no record that needs them has not allocated the zeros at the end.
            let longer =
                if ours.len() > theirs.len() { &ours[theirs.len()..] } else { &theirs[ours.len()..] };
            if longer.iter().any(|byte| *byte != 0) {
                return Err(Trouble(format!(
                    "the images of nodes {} and {at} differ in length",
                    self.leader
                )));
            }
        }
        Ok(())
    }

    /// What the nodes' logs say that must not happen whatever befalls them.
    pub fn panics(&self) -> Vec<String> {
        let found = |(at, node): (usize, &Server)| {
            let log = node.log();
            let lines = log.lines().filter(|line| logs::is_failure(line));
            lines.map(|line| format!("node {at}: {line}")).collect::<Vec<_>>()
        };
        self.nodes.iter().enumerate().flat_map(found).collect()
    }

    /// How many lines of the nodes' logs contain a text. Unlike what INFO counts it outlives a node.
    pub fn logged(&self, text: &str) -> u64 {
        self.nodes.iter().map(|node| node.log().matches(text).count() as u64).sum()
    }

    /// Writes the nodes' logs, and what they say of themselves, into a directory.
    pub fn keep_evidence(&self, directory: &FilePath) -> std::io::Result<()> {
        for (at, node) in self.nodes.iter().enumerate() {
            std::fs::write(directory.join(format!("node-{at}.log")), node.log())?;
            if self.is_well(at)
                && let Ok(mut client) = Client::connect(node.port())
            {
                client.set_reply_timeout(Duration::from_secs(2));
                if let Some(text) = client.try_command(&["INFO"]).ok().and_then(|reply| reply.text()) {
                    std::fs::write(directory.join(format!("node-{at}.info")), text)?;
                }
            }
        }
        Ok(())
    }

    fn wait(&self, what: &str, condition: impl FnMut() -> bool) -> Outcome {
        if wait::holds_within(PATIENCE, condition) {
            return Ok(());
        }
        Err(Trouble(format!("waited {} s in vain for {what}", PATIENCE.as_secs())))
    }

    /// A connection to a node.
    pub fn client(&self, at: usize) -> Outcome<Client> {
        Client::connect(self.nodes[at].port())
            .map_err(|error| Trouble(format!("node {at} takes no connection: {error}")))
    }

    fn command(&self, at: usize, words: &[&str]) -> Outcome {
        match self.client(at)?.try_command(words) {
            Ok(reply) if reply.text().is_some_and(|text| text.starts_with("OK")) => Ok(()),
            Ok(other) => Err(Trouble(format!("node {at} answers {words:?} with {other:?}"))),
            Err(error) => Err(Trouble(format!("node {at} does not answer {words:?}: {error}"))),
        }
    }
}

/// The transaction that Sentinel promotes with.
fn promotion() -> Vec<u8> {
    let mut bytes = Vec::new();
    for words in [&["MULTI"][..], &["REPLICAOF", "NO", "ONE"], &["EXEC"]] {
        crate::client::encode(words, &mut bytes);
    }
    bytes
}

fn number(client: &mut Client, field: &str) -> Outcome<u64> {
    let text = client.try_info("farkeep", field).ok().flatten().unwrap_or_default();
    text.parse().map_err(|_| Trouble(format!("{field} is {text:?}")))
}
