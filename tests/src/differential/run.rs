//! Running a stream on both servers, step by step, and stopping at the first pair of replies that differ.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use super::Step;
use super::compare::{self, Session};
use crate::client::{Client, Value, encode, parse, quote};

/// How long a reply may take before the two servers count as differing.
const REPLY_LIMIT: Duration = Duration::from_secs(4);

/// How long a stream rests after a command that sets a brief expiry: longer than the longest of them, so that both servers see
/// the key as expired.
const PAUSE: Duration = Duration::from_millis(12);

/// The marker that ends a raw step.
const MARKER: &[u8] = b"end-of-raw-step";

/// Two servers under comparison, and the connections of the current stream.
#[derive(Debug)]
pub struct Bench {
    oracle: Side,
    subject: Side,
    sessions: BTreeMap<usize, Session>,
}

/// Where two servers differed.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// Which step of the stream.
    pub index: usize,
    /// What the oracle answered, readable.
    pub oracle: String,
    /// What the subject answered, readable.
    pub subject: String,
}

/// One server's side of a stream.
#[derive(Debug)]
pub struct Side {
    port: u16,
    connections: BTreeMap<usize, Client>,
    control: Client,
}

/// What a server sent in answer to one step. The connection's end is part of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub replies: Vec<Vec<u8>>,
    pub ending: Option<String>,
}

impl Side {
    fn connect(port: u16) -> io::Result<Self> {
        Ok(Self { port, connections: BTreeMap::new(), control: control(port)? })
    }

    fn reset(&mut self) -> io::Result<()> {
        self.connections.clear();
        let flushed = match self.control.try_command(&["FLUSHALL"]) {
            Ok(value) => value,
            Err(_) => {
                self.control = control(self.port)?;
                self.control.try_command(&["FLUSHALL"])?
            }
        };
        if flushed.is_ok() { Ok(()) } else { Err(io::Error::other(format!("FLUSHALL: {flushed:?}"))) }
    }

    fn connection(&mut self, number: usize) -> io::Result<&mut Client> {
        if !self.connections.contains_key(&number) {
            let client = Client::connect(self.port)?;
            client.set_reply_timeout(REPLY_LIMIT);
            self.connections.insert(number, client);
        }
        Ok(self.connections.get_mut(&number).expect("just inserted"))
    }

    /// Sends `bytes` on a connection and reads `count` replies, or as many as come before the connection ends.
    fn exchange(&mut self, number: usize, bytes: &[u8], count: usize) -> Answer {
        self.exchange_until(number, bytes, |replies| replies.len() >= count)
    }

    fn exchange_until(&mut self, number: usize, bytes: &[u8], enough: impl Fn(&[Vec<u8>]) -> bool) -> Answer {
        let mut replies = Vec::new();
        let mut talk = || -> io::Result<()> {
            let client = self.connection(number)?;
            // A server may close before it has read all of it; what it said before still counts.
            let sent = client.send_raw(bytes);
            while !enough(&replies) {
                match client.reply_raw() {
                    Ok(reply) => replies.push(reply),
                    Err(error) => return Err(sent.err().unwrap_or(error)),
                }
            }
            Ok(())
        };
        let ending = talk().err().map(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "closed".to_owned()
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no reply".to_owned(),
            _ => error.to_string(),
        });
        if ending.is_some() {
            self.connections.remove(&number);
        }
        Answer { replies, ending }
    }

    /// A question on a connection of our own, in database `db`; RESP2, never part of the stream.
    pub fn ask(&mut self, db: usize, args: &[&[u8]]) -> Option<Value> {
        self.control.try_command(&["SELECT", &db.to_string()]).ok()?;
        self.control.try_command(args).ok()
    }
}

fn control(port: u16) -> io::Result<Client> {
    let mut client = Client::connect(port)?;
    // Removal by the active cycle would make counts depend on time; both servers know this switch.
    let switched = client.try_command(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"])?;
    if switched.is_ok() {
        Ok(client)
    } else {
        Err(io::Error::other(format!("DEBUG SET-ACTIVE-EXPIRE 0: {switched:?}")))
    }
}

impl Bench {
    /// Puts two servers side by side. Both must allow DEBUG to local clients.
    pub fn new(oracle_port: u16, subject_port: u16) -> io::Result<Self> {
        Ok(Self {
            oracle: Side::connect(oracle_port)?,
            subject: Side::connect(subject_port)?,
            sessions: BTreeMap::new(),
        })
    }

    /// Runs a stream on empty databases and fresh connections; returns the first difference.
    #[track_caller]
    pub fn run(&mut self, steps: &[Step]) -> Option<Mismatch> {
        self.sessions.clear();
        self.oracle.reset().expect("the oracle can be reset");
        if let Err(error) = self.subject.reset() {
            return Some(Mismatch {
                index: 0,
                oracle: "empty".into(),
                subject: format!("cannot be emptied: {error}"),
            });
        }
        for (index, step) in steps.iter().enumerate() {
            // A connection that ended in an earlier step begins anew.
            let oracle = &self.oracle;
            self.sessions.retain(|connection, _| oracle.connections.contains_key(connection));
            if let Some((oracle, subject)) = self.step(step) {
                return Some(Mismatch { index, oracle, subject });
            }
        }
        None
    }

    fn step(&mut self, step: &Step) -> Option<(String, String)> {
        match step {
            Step::Command { connection, args } => self.commands(*connection, std::slice::from_ref(args)),
            Step::Pipeline { connection, commands } => self.commands(*connection, commands),
            Step::Raw { connection, bytes } => self.raw(*connection, bytes),
            Step::Scan { connection, args, cursor_at } => self.scan(*connection, args, *cursor_at),
            Step::Reconnect { connection } => {
                self.oracle.connections.remove(connection);
                self.subject.connections.remove(connection);
                self.sessions.remove(connection);
                None
            }
        }
    }

    fn commands(&mut self, connection: usize, commands: &[Vec<Vec<u8>>]) -> Option<(String, String)> {
        let mut bytes = Vec::new();
        for args in commands {
            encode(args, &mut bytes);
        }
        let oracle = self.oracle.exchange(connection, &bytes, commands.len());
        let subject = self.subject.exchange(connection, &bytes, commands.len());
        if oracle.ending != subject.ending || oracle.replies.len() != subject.replies.len() {
            return Some((show(&oracle), show(&subject)));
        }
        let session = self.sessions.entry(connection).or_default();
        let mut rest = false;
        for (args, (left, right)) in commands.iter().zip(oracle.replies.iter().zip(&subject.replies)) {
            let mut asker = compare::Asker { oracle: &mut self.oracle, subject: &mut self.subject };
            let asker = (commands.len() == 1).then_some(&mut asker);
            if !compare::same(asker, session, args, left, right) {
                return Some((show_reply(left), show_reply(right)));
            }
            let is_exec = args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC"));
            rest |= if is_exec { session.sets_brief_expiry() } else { compare::is_brief(args) };
            session.after(args, left);
        }
        if rest {
            std::thread::sleep(PAUSE);
        }
        if oracle.ending.is_some() {
            self.sessions.remove(&connection);
        }
        None
    }

    /// Outside of MULTI only: there the marker would be queued, and so would commands that the session does not see.
    fn raw(&mut self, connection: usize, bytes: &[u8]) -> Option<(String, String)> {
        if self.sessions.get(&connection).is_some_and(Session::in_multi) {
            return None;
        }
        let mut bytes = bytes.to_vec();
        encode(&[b"ECHO".as_slice(), MARKER], &mut bytes);
        let ended = |replies: &[Vec<u8>]| {
            replies.last().is_some_and(|reply| reply.windows(MARKER.len()).any(|window| window == MARKER))
        };
        let oracle = self.oracle.exchange_until(connection, &bytes, ended);
        let subject = self.subject.exchange_until(connection, &bytes, ended);
        if oracle.ending.is_some() {
            self.sessions.remove(&connection);
        }
        (oracle != subject).then(|| (show(&oracle), show(&subject)))
    }

    fn scan(&mut self, connection: usize, args: &[Vec<u8>], cursor_at: usize) -> Option<(String, String)> {
        if self.sessions.get(&connection).is_some_and(Session::in_multi) {
            return None;
        }
        let oracle = collect(&mut self.oracle, connection, args, cursor_at);
        let subject = collect(&mut self.subject, connection, args, cursor_at);
        (oracle != subject).then(|| (format!("{oracle:?}"), format!("{subject:?}")))
    }
}

/// All elements of an iteration, as a set of pairs for HSCAN and of keys for SCAN; or the error.
fn collect(
    side: &mut Side,
    connection: usize,
    args: &[Vec<u8>],
    cursor_at: usize,
) -> Result<BTreeSet<Vec<String>>, String> {
    let pair = if args[0].eq_ignore_ascii_case(b"HSCAN") { 2 } else { 1 };
    let mut args = args.to_vec();
    let mut found = BTreeSet::new();
    args[cursor_at] = b"0".to_vec();
    // Far more turns than any stream has elements: a cursor that never ends is a difference too.
    for _ in 0..10_000 {
        let mut bytes = Vec::new();
        encode(&args, &mut bytes);
        let answer = side.exchange(connection, &bytes, 1);
        let Some(reply) = answer.replies.first() else { return Err(show(&answer)) };
        let Value::Array(parts) = parse(reply) else { return Err(show_reply(reply)) };
        let [Value::Bulk(cursor), elements] = parts.as_slice() else { return Err(show_reply(reply)) };
        let elements = elements.elements().ok_or_else(|| show_reply(reply))?;
        for element in elements.chunks(pair) {
            found.insert(element.iter().map(|value| format!("{value:?}")).collect());
        }
        if cursor == b"0" {
            return Ok(found);
        }
        args[cursor_at].clone_from(cursor);
    }
    Err("the iteration does not end".into())
}

fn show(answer: &Answer) -> String {
    let mut parts: Vec<String> = answer.replies.iter().map(|reply| show_reply(reply)).collect();
    parts.extend(answer.ending.iter().map(|ending| format!("<{ending}>")));
    parts.join(" ")
}

fn show_reply(raw: &[u8]) -> String {
    const LONGEST: usize = 400;
    let text = quote(raw);
    if text.len() <= LONGEST {
        return text;
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start}… ({} bytes)", raw.len())
}
