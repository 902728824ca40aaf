//! Writers that know what was acknowledged to them, and the check that it is still there.
//!
//! Every writer counts upwards and writes its count into *cells*: a string key, a field of a hash, two keys in one MULTI/EXEC,
//! a counter. Of each cell the [`Ledger`] knows the last count that was acknowledged and the last that was sent. Whatever
//! happened to the servers since, the cell must hold a count between the two: less is a lost acknowledged write, more is a
//! write nobody made. Two cells written in one transaction must be equal.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Client, Value, encode};

/// How many cells of each kind a writer has.
const CELLS: u64 = 40;

/// How long a writer rests after a refusal, so that it does not spin while a follower is away.
const REST: Duration = Duration::from_millis(1);

/// What is known of one cell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// The last count whose write was acknowledged; 0 if none was.
    pub acked: u64,
    /// The last count whose write was sent.
    pub sent: u64,
}

/// Where a cell is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// A string key that holds the count.
    Key(String),
    /// A hash and its field.
    Field(String, String),
    /// Two string keys written in one transaction.
    Twins(String, String),
    /// A counter that each write raises by one.
    Counter(String),
}

/// What writers know of their cells.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    cells: BTreeMap<Cell, Known>,
    /// Errors that writers were told, with how often.
    pub errors: BTreeMap<String, u64>,
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// Starts `writers` connections to `port`. `round` sets the writers of one round apart from those of an earlier one: their
    /// counts are larger, their counters other ones.
    pub fn start(port: u16, writers: u64, round: u64) -> Self {
        Self::roaming(&[port], writers, round)
    }

    /// As [`Load::start`], for writers that go on at another port where they are told `-READONLY`, as clients do.
    pub fn roaming(ports: &[u16], writers: u64, round: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writers = (0..writers)
            .map(|number| {
                let writer = Writer {
                    ports: ports.to_vec(),
                    number,
                    round,
                    generation: 0,
                    count: round * 1_000_000_000,
                    counted: 0,
                    stop: Arc::clone(&stop),
                    acknowledged: Arc::clone(&acknowledged),
                    ledger: Ledger::default(),
                };
                std::thread::spawn(move || writer.run())
            })
            .collect();
        Self { stop, acknowledged, writers }
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `more` further writes are acknowledged.
    #[track_caller]
    pub fn wait_for_more(&self, more: u64) {
        let target = self.acknowledged() + more;
        crate::wait::until("writes to be acknowledged", || self.acknowledged() >= target);
    }

    /// Ends the writers (those whose server is gone have ended already) and returns what they know.
    pub fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        for writer in self.writers {
            all.merge(writer.join().expect("a writer does not panic"));
        }
        all
    }
}

impl Ledger {
    /// Adds what later writers know.
    pub fn merge(&mut self, later: Self) {
        for (cell, known) in later.cells {
            let entry = self.cells.entry(cell).or_default();
            entry.acked = entry.acked.max(known.acked);
            entry.sent = entry.sent.max(known.sent);
        }
        for (text, count) in later.errors {
            *self.errors.entry(text).or_default() += count;
        }
    }

    /// How many cells there are.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Panics with everything that `client`'s server has lost, invented or torn.
    #[track_caller]
    pub fn assert_kept_by(&self, what: &str, client: &mut Client) {
        let mut wrong = Vec::new();
        for (cell, known) in &self.cells {
            match cell.read(client) {
                Ok(value) if known.acked <= value && value <= known.sent => {}
                Ok(value) => wrong.push(format!(
                    "{cell:?}: holds {value}, acknowledged {}, sent {}",
                    known.acked, known.sent
                )),
                Err(why) => wrong.push(format!("{cell:?}: {why}")),
            }
        }
        let shown = wrong.len().min(20);
        assert!(
            wrong.is_empty(),
            "{what}: {} of {} cells are wrong:\n{}",
            wrong.len(),
            self.cells.len(),
            wrong[..shown].join("\n")
        );
    }

    /// Takes what is there now as what must be there: cells of earlier rounds do not change any more.
    pub fn settle(&mut self, client: &mut Client) {
        for (cell, known) in &mut self.cells {
            if let Ok(value) = cell.read(client) {
                *known = Known { acked: value, sent: known.sent };
            }
        }
    }
}

impl Cell {
    /// The count that the cell holds; 0 where there is nothing.
    fn read(&self, client: &mut Client) -> Result<u64, String> {
        match self {
            Self::Key(key) | Self::Counter(key) => read_count(client, &["GET", key]),
            Self::Field(key, field) => read_count(client, &["HGET", key, field]),
            Self::Twins(left, right) => {
                let (one, two) = (read_count(client, &["GET", left])?, read_count(client, &["GET", right])?);
                if one == two { Ok(one) } else { Err(format!("a torn transaction: {one} and {two}")) }
            }
        }
    }

    /// Appends the commands that write `count`; returns how many replies there will be.
    fn write(&self, count: u64, out: &mut Vec<u8>) -> usize {
        let count = count.to_string();
        match self {
            Self::Key(key) => encode(&["SET", key, &count], out),
            Self::Counter(key) => encode(&["INCR", key], out),
            Self::Field(key, field) => encode(&["HSET", key, field, &count], out),
            Self::Twins(left, right) => {
                // Commands that are not the keystore's stand between the two, and do not cut the transaction.
                encode(&["MULTI"], out);
                encode(&["SET", left, &count], out);
                encode(&["PING"], out);
                encode(&["SELECT", "0"], out);
                encode(&["SET", right, &count], out);
                encode(&["EXEC"], out);
                return 6;
            }
        }
        1
    }
}

fn read_count(client: &mut Client, args: &[&str]) -> Result<u64, String> {
    match client.try_command(args) {
        Ok(Value::Bulk(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            text.parse().map_err(|_| format!("holds {text:?}, which nobody wrote"))
        }
        Ok(value) if value.is_null() => Ok(0),
        Ok(other) => Err(format!("{args:?} answers {other:?}")),
        Err(error) => Err(format!("{args:?}: {error}")),
    }
}

struct Writer {
    /// Where to write; if there are several, the first one that takes writes.
    ports: Vec<u16>,
    number: u64,
    round: u64,
    generation: u64,
    count: u64,
    counted: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    ledger: Ledger,
}

impl Writer {
    /// Writes until told to stop or until nobody listens any more. A connection that the server closed is opened again: that is
    /// how a node answers a write of which it cannot say whether it will last.
    fn run(mut self) -> Ledger {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(client) = Client::connect(self.ports[0]) else {
                if self.ports.len() == 1 {
                    break;
                }
                self.ports.rotate_left(1);
                std::thread::sleep(REST);
                continue;
            };
            if let Err(error) = self.write_on(client) {
                *self.ledger.errors.entry(format!("connection: {}", error.kind())).or_default() += 1;
                // Whether an unanswered increment happened is unknown.
                self.next_counter();
            }
        }
        self.ledger
    }

    fn write_on(&mut self, mut client: Client) -> io::Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            self.count += 1;
            let cell = self.next_cell();
            let count = match cell {
                Cell::Counter(_) => {
                    self.counted += 1;
                    self.counted
                }
                _ => self.count,
            };
            let mut bytes = Vec::new();
            let replies = cell.write(count, &mut bytes);
            self.ledger.cells.entry(cell.clone()).or_default().sent = count;
            client.send_raw(&bytes)?;
            let mut refusal = None;
            for _ in 0..replies {
                let reply = client.reply()?;
                let inner = reply
                    .elements()
                    .and_then(|items| items.iter().find_map(|item| item.error().map(str::to_owned)));
                refusal = refusal.or_else(|| reply.error().map(str::to_owned)).or(inner);
                // An aborted transaction answers null.
                if reply.is_null() {
                    refusal = refusal.or_else(|| Some("null".into()));
                }
            }
            match refusal {
                None => self.acknowledge(cell, count),
                Some(text) => {
                    self.refused(&cell, &text);
                    std::thread::sleep(REST);
                    if text.contains("READONLY") && self.ports.len() > 1 {
                        self.ports.rotate_left(1);
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn acknowledge(&mut self, cell: Cell, count: u64) {
        self.ledger.cells.entry(cell).or_default().acked = count;
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// A refused write may or may not have happened.
    fn refused(&mut self, cell: &Cell, text: &str) {
        let text: String = text.chars().take(60).collect();
        *self.ledger.errors.entry(text).or_default() += 1;
        if matches!(cell, Cell::Counter(_)) {
            self.next_counter();
        }
    }

    /// A counter that may lack an increment says nothing about the ones after it: go on with another one.
    fn next_counter(&mut self) {
        self.counted = 0;
        self.generation += 1;
    }

    fn next_cell(&self) -> Cell {
        let (writer, round, generation) = (self.number, self.round, self.generation);
        let slot = (self.count / 4) % CELLS;
        match self.count % 4 {
            0 => Cell::Key(format!("w{writer}:{slot}")),
            1 => Cell::Field(format!("w{writer}:hash"), format!("f{slot}")),
            2 => Cell::Twins(format!("w{writer}:left:{slot}"), format!("w{writer}:right:{slot}")),
            _ => Cell::Counter(format!("w{writer}:counter:{round}:{generation}")),
        }
    }
}
