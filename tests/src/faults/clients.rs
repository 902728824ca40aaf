//! Clients that know what they were told.
//!
//! A *writer* goes where it believes the leader to be, or, pinned to a node, writes there whatever that node believes to be: a
//! leader that was replaced without knowing must not acknowledge anything to it. A *reader* reads, on one node, keys that
//! writers are at just now. All of them note what they learn in a [`History`]. What shows at once to be wrong (a counter that skips a step, a SET
//! that finds another version than the last) is noted as such.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::history::{BULK, Event, Fate, History, value, version_read};
use crate::client::{Client, Value, encode};
use crate::sim::Rng;

/// How long a client waits for an answer; then it takes the fate of its write for unknown.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long a client rests when it was refused or found nobody.
const REST: Duration = Duration::from_millis(2);
/// How long a writer rests after an acknowledged write, usually: the checker is to see many faults, not many keys.
pub const PAUSE: Duration = Duration::from_micros(300);
/// How many keys of its own a writer writes again and again.
const SLOTS: u64 = 8;
/// How many of those that follow them have long values, and are written only while there is a flood.
const BULK_SLOTS: u64 = 96;

/// Errors after which a command has not been executed and never will be.
const REFUSALS: &[&str] = &["READONLY", "NOREPLICAS", "LOADING", "MASTERDOWN", "EXECABORT"];

/// What all clients of a run share.
#[derive(Debug)]
pub struct Shared {
    /// The ports of the nodes.
    pub ports: Vec<u16>,
    /// Which node leads, as far as the operator knows.
    pub leader: AtomicUsize,
    /// How many writes were acknowledged.
    pub acknowledged: AtomicU64,
    /// How far each writer is, for readers to know what there is.
    positions: Vec<AtomicU64>,
    /// Bytes that the writers are still to write without rest: enough of them, and whoever is away needs a delta sync.
    flood: AtomicI64,
    pause: Duration,
    stop: AtomicBool,
    started: Instant,
}

/// Clients at work.
#[derive(Debug)]
pub struct Clients {
    /// What they share.
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<History>>,
}

impl Clients {
    /// Starts `writers` that follow the leader, and a pinned writer and a reader for every node. A writer rests for `pause`
    /// after an acknowledged write.
    pub fn start(ports: &[u16], writers: usize, pause: Duration, seed: u64) -> Self {
        let total = writers + ports.len();
        let shared = Arc::new(Shared {
            ports: ports.to_vec(),
            leader: AtomicUsize::new(0),
            acknowledged: AtomicU64::new(0),
            positions: (0..total).map(|_| AtomicU64::new(0)).collect(),
            flood: AtomicI64::new(0),
            pause,
            stop: AtomicBool::new(false),
            started: Instant::now(),
        });
        let mut rng = Rng::new(seed);
        let mut threads = Vec::new();
        for number in 0..total {
            let pinned = number.checked_sub(writers);
            let writer = Writer::new(&shared, number, pinned, Rng::new(rng.number()));
            threads.push(std::thread::spawn(move || writer.run()));
        }
        for node in 0..ports.len() {
            let reader = Reader {
                shared: Arc::clone(&shared),
                node,
                rng: Rng::new(rng.number()),
                history: History::default(),
            };
            threads.push(std::thread::spawn(move || reader.run()));
        }
        Self { shared, threads }
    }

    /// Ends them and returns what they know.
    pub fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut all = History::default();
        for thread in self.threads {
            all.merge(thread.join().expect("a client does not panic"));
        }
        all
    }
}

impl Shared {
    /// Waits until so many further writes are acknowledged.
    #[track_caller]
    pub fn wait_for_more(&self, more: u64) {
        let target = self.acknowledged.load(Ordering::SeqCst) + more;
        crate::wait::until("writes to be acknowledged", || {
            self.acknowledged.load(Ordering::SeqCst) >= target
        });
    }

    /// Time since the run began.
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Has the writers write so many bytes of long values.
    pub fn begin_flood(&self, bytes: u64) {
        self.flood.store(bytes as i64, Ordering::SeqCst);
    }

    /// Whether the writers have bytes left to write without rest.
    pub fn floods(&self) -> bool {
        self.flood.load(Ordering::SeqCst) > 0
    }

    /// Lets the writers rest again.
    pub fn end_flood(&self) {
        self.begin_flood(0);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// How an answer ends an attempt.
fn fate(reply: &Value) -> Fate {
    match reply.error() {
        None => Fate::Acknowledged,
        Some(text) if REFUSALS.iter().any(|word| text.starts_with(word)) && !text.contains("fate") => {
            Fate::Refused
        }
        Some(_) => Fate::Unknown,
    }
}

/// Keys of a writer: those that it writes once and those it writes again and again.
fn once(writer: usize, number: u64) -> String {
    format!("once:{writer}:{number}")
}

/// What a writer writes next.
#[derive(Debug, Clone)]
enum Attempt {
    /// A key that is written once.
    Once(String),
    /// The same, written together with another.
    Twins(String, String),
    /// One of the keys written before is removed.
    Remove(String),
    /// The next version of a slot.
    Again(usize),
    /// A counter's next step.
    Count,
}

/// A key that is written again and again, until the fate of a write is unknown.
#[derive(Debug)]
struct Slot {
    key: String,
    version: u64,
}

struct Writer {
    shared: Arc<Shared>,
    number: usize,
    pinned: Option<usize>,
    rng: Rng,
    history: History,
    count: u64,
    generation: u64,
    slots: Vec<Slot>,
    counter: Slot,
}

impl Writer {
    fn new(shared: &Arc<Shared>, number: usize, pinned: Option<usize>, rng: Rng) -> Self {
        let short = (0..SLOTS).map(|slot| Slot { key: format!("slot:{number}:{slot}:0"), version: 0 });
        let long = (0..BULK_SLOTS).map(|slot| Slot { key: format!("{BULK}:{number}:{slot}:0"), version: 0 });
        Self {
            shared: Arc::clone(shared),
            number,
            pinned,
            rng,
            history: History::default(),
            count: 0,
            generation: 0,
            slots: short.chain(long).collect(),
            counter: Slot { key: format!("counter:{number}:0"), version: 0 },
        }
    }

    fn run(mut self) -> History {
        while !self.shared.stopped() {
            let node = self.pinned.unwrap_or_else(|| self.shared.leader.load(Ordering::SeqCst));
            let Ok(client) = Client::connect(self.shared.ports[node]) else {
                std::thread::sleep(REST);
                continue;
            };
            client.set_reply_timeout(PATIENCE);
            self.write_at(node, client);
        }
        self.history
    }

    /// Writes at one node until the connection is of no more use, or another node leads.
    fn write_at(&mut self, node: usize, mut client: Client) {
        while !self.shared.stopped() {
            if self.pinned.is_none() && self.shared.leader.load(Ordering::SeqCst) != node {
                return;
            }
            let attempt = self.next();
            match self.attempt(node, &mut client, &attempt) {
                Ok(Fate::Acknowledged) => {
                    self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
                    if self.shared.floods() {
                        self.note_flood(&attempt);
                    } else {
                        std::thread::sleep(self.shared.pause);
                    }
                }
                Ok(Fate::Refused) => {
                    std::thread::sleep(if self.pinned.is_some() { 5 * REST } else { REST });
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn next(&mut self) -> Attempt {
        self.count += 1;
        self.shared.positions[self.number].store(self.count, Ordering::Relaxed);
        if self.pinned.is_none() && self.shared.floods() {
            return Attempt::Again((SLOTS + self.rng.below(BULK_SLOTS)) as usize);
        }
        match self.rng.below(10) {
            0 if self.count > 20 => Attempt::Remove(once(self.number, self.count - 1 - self.rng.below(10))),
            1 | 2 => Attempt::Twins(
                format!("left:{}:{}", self.number, self.count),
                format!("right:{}:{}", self.number, self.count),
            ),
            3 | 4 => Attempt::Again(self.rng.below(SLOTS) as usize),
            5 | 6 => Attempt::Count,
            _ => Attempt::Once(once(self.number, self.count)),
        }
    }

    /// One write less of a flood is to come.
    fn note_flood(&self, attempt: &Attempt) {
        if let Attempt::Again(slot) = attempt {
            let slot = &self.slots[*slot];
            let len = value(&slot.key, slot.version).len();
            self.shared.flood.fetch_sub(len as i64, Ordering::SeqCst);
        }
    }

    /// Tries one write and notes what became of it. An error is the connection's; what it leaves unknown is noted as well.
    fn attempt(&mut self, node: usize, client: &mut Client, attempt: &Attempt) -> io::Result<Fate> {
        match attempt {
            Attempt::Once(key) => {
                let reply = client.try_command(&["SET", key, &value(key, 1)]);
                Ok(self.judge(node, key, 1, false, reply.as_ref()))
            }
            Attempt::Remove(key) => {
                // Only what is known to be there is removed; of anything else one could not tell what is left.
                if client.try_command(&["EXISTS", key])?.int() != Some(1) {
                    return Ok(Fate::Refused);
                }
                self.note(node, key, 1, false, Fate::Read);
                let reply = client.try_command(&["DEL", key]);
                Ok(self.judge(node, key, 2, true, reply.as_ref()))
            }
            Attempt::Twins(left, right) => {
                self.history.note_twins(left, right);
                let reply = transact(client, left, right);
                self.judge(node, left, 1, false, reply.as_ref());
                Ok(self.judge(node, right, 1, false, reply.as_ref()))
            }
            Attempt::Again(slot) => {
                let (key, before) = (self.slots[*slot].key.clone(), self.slots[*slot].version);
                let reply = client.try_command(&["SET", &key, &value(&key, before + 1), "GET"]);
                if let Ok(reply) = &reply
                    && fate(reply) == Fate::Acknowledged
                {
                    self.expect(&key, node, "SET finds", before, version_read(&key, reply));
                }
                let fate = self.judge(node, &key, before + 1, false, reply.as_ref());
                match fate {
                    Fate::Acknowledged => self.slots[*slot].version += 1,
                    Fate::Unknown => {
                        let kind = if *slot < SLOTS as usize { "slot" } else { BULK };
                        self.slots[*slot] = self.fresh(kind);
                    }
                    _ => {}
                }
                Ok(fate)
            }
            Attempt::Count => {
                let (key, before) = (self.counter.key.clone(), self.counter.version);
                let reply = client.try_command(&["INCR", &key]);
                if let Ok(Value::Int(count)) = &reply {
                    self.expect(&key, node, "INCR answers", before + 1, Ok(*count as u64));
                }
                let fate = self.judge(node, &key, before + 1, false, reply.as_ref());
                match fate {
                    Fate::Acknowledged => self.counter.version += 1,
                    Fate::Unknown => self.counter = self.fresh("counter"),
                    _ => {}
                }
                Ok(fate)
            }
        }
    }

    /// A key that nobody has written yet, in the place of one that is left alone from now on.
    fn fresh(&mut self, kind: &str) -> Slot {
        self.generation += 1;
        Slot { key: format!("{kind}:{}:again:{}", self.number, self.generation), version: 0 }
    }

    fn expect(&mut self, key: &str, node: usize, what: &str, expected: u64, found: Result<u64, String>) {
        if found != Ok(expected) {
            let at_ms = self.shared.now_ms();
            self.history.wrong.push(format!(
                "{key} at {at_ms} ms on node {node}: {what} {found:?} where {expected} is the last version known"
            ));
        }
    }

    fn judge(
        &mut self,
        node: usize,
        key: &str,
        version: u64,
        removed: bool,
        reply: Result<&Value, &io::Error>,
    ) -> Fate {
        let fate = reply.map_or(Fate::Unknown, fate);
        self.note(node, key, version, removed, fate);
        fate
    }

    fn note(&mut self, node: usize, key: &str, version: u64, removed: bool, fate: Fate) {
        let at_ms = self.shared.now_ms();
        self.history.note(key, Event { at_ms, node, version, removed, fate });
    }
}

/// Writes version 1 of two keys in one transaction; the answer of EXEC, or the first error.
fn transact(client: &mut Client, left: &str, right: &str) -> io::Result<Value> {
    let mut bytes = Vec::new();
    encode(&["MULTI"], &mut bytes);
    encode(&["SET", left, &value(left, 1)], &mut bytes);
    encode(&["SET", right, &value(right, 1)], &mut bytes);
    encode(&["EXEC"], &mut bytes);
    client.send_raw(&bytes)?;
    let mut replies = Vec::new();
    for _ in 0..4 {
        replies.push(client.reply()?);
    }
    let exec = replies.pop().unwrap_or(Value::Null);
    // A refusal inside the transaction is one of all of it; a null would be an abort, and nobody watches here.
    let inner = exec.elements().and_then(|items| items.into_iter().find(|item| item.error().is_some()));
    Ok(inner.unwrap_or(exec))
}

struct Reader {
    shared: Arc<Shared>,
    node: usize,
    rng: Rng,
    history: History,
}

impl Reader {
    fn run(mut self) -> History {
        while !self.shared.stopped() {
            if let Ok(client) = Client::connect(self.shared.ports[self.node]) {
                client.set_reply_timeout(PATIENCE);
                // Whatever ends the connection, the next one is as good.
                drop(self.read_on(client));
            }
            std::thread::sleep(REST);
        }
        self.history
    }

    fn read_on(&mut self, mut client: Client) -> io::Result<()> {
        while !self.shared.stopped() {
            let writer = self.rng.index(self.shared.positions.len());
            let count = self.shared.positions[writer].load(Ordering::Relaxed);
            let (slot, back) = (self.rng.below(SLOTS), self.rng.below(3));
            let key = match self.rng.below(4) {
                0 => format!("slot:{writer}:{slot}:0"),
                1 => format!("counter:{writer}:0"),
                _ => once(writer, count.saturating_sub(back)),
            };
            let reply = client.try_command(&["GET", &key])?;
            if reply.error().is_some() {
                std::thread::sleep(5 * REST);
                continue;
            }
            match version_read(&key, &reply) {
                Ok(0) => {}
                Ok(version) => {
                    let at_ms = self.shared.now_ms();
                    let read = Event { at_ms, node: self.node, version, removed: false, fate: Fate::Read };
                    self.history.note(&key, read);
                }
                Err(why) => self.history.wrong.push(format!("on node {}: {why}", self.node)),
            }
            std::thread::sleep(REST);
        }
        Ok(())
    }
}
