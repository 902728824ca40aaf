//! When two replies count as the same.
//!
//! The rule is: the same bytes. The exceptions are few, each for something that Redis itself does not promise, and each is
//! as narrow as it can be:
//! - times to live and points in time may differ by [`TIME_TOLERANCE_MS`];
//! - the order of keys and of the fields of a hash that the oracle holds as a hash table;
//! - random picks, which must be members;
//! - ids of connections and sizes in memory, of which only the type is compared.

use super::run::Side;
use crate::client::{Value, parse};

/// By how much two servers may disagree about a time, because a command reaches one after the other.
const TIME_TOLERANCE_MS: i64 = 2_000;

/// What the comparison must know about a connection: which database it is in and what it has queued.
#[derive(Debug, Default)]
pub struct Session {
    db: usize,
    queued: Option<Vec<Vec<Vec<u8>>>>,
}

impl Session {
    /// Whether a MULTI is open.
    pub fn in_multi(&self) -> bool {
        self.queued.is_some()
    }

    /// Whether an EXEC now would set an expiry so short that it passes while the stream runs.
    pub fn sets_brief_expiry(&self) -> bool {
        self.queued.iter().flatten().any(|args| is_brief(args))
    }

    /// Follows what a command did to the connection, judged by the oracle's reply.
    pub fn after(&mut self, args: &[Vec<u8>], reply: &[u8]) {
        let Some(name) = args.first().map(|name| name.to_ascii_uppercase()) else { return };
        if reply.starts_with(b"+QUEUED") {
            if let Some(queued) = &mut self.queued {
                queued.push(args.to_vec());
            }
            return;
        }
        match name.as_slice() {
            b"MULTI" if reply.starts_with(b"+OK") => self.queued = Some(Vec::new()),
            b"DISCARD" if reply.starts_with(b"+OK") => self.queued = None,
            b"RESET" if reply.starts_with(b"+RESET") => *self = Self::default(),
            b"SELECT" if reply.starts_with(b"+OK") => self.db = database(args).unwrap_or(self.db),
            b"EXEC"
                if !reply.starts_with(b"-ERR EXEC without") && !reply.starts_with(b"-ERR wrong number") =>
            {
                let queued = self.queued.take().unwrap_or_default();
                let replies = parse(reply).elements().unwrap_or_default();
                for (args, reply) in queued.iter().zip(replies) {
                    if args[0].eq_ignore_ascii_case(b"SELECT") && reply.is_ok() {
                        self.db = database(args).unwrap_or(self.db);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Whether a command sets an expiry that passes while the stream runs: a few milliseconds.
pub fn is_brief(args: &[Vec<u8>]) -> bool {
    let brief = |arg: Option<&Vec<u8>>| arg.is_some_and(|arg| matches!(arg.as_slice(), b"1" | b"2" | b"5"));
    let named = |name: &[u8]| args.first().is_some_and(|arg| arg.eq_ignore_ascii_case(name));
    ((named(b"PEXPIRE") || named(b"PSETEX")) && brief(args.get(2)))
        || args.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(b"PX") && brief(pair.get(1)))
}

fn database(args: &[Vec<u8>]) -> Option<usize> {
    std::str::from_utf8(args.get(1)?).ok()?.parse().ok()
}

/// Both servers, for questions about what a reply may contain.
pub struct Asker<'a> {
    pub oracle: &'a mut Side,
    pub subject: &'a mut Side,
}

/// Whether the replies of both servers to `args` are the same.
///
/// `asker` is `None` where other commands ran before the replies could be compared, so that the servers' present state says
/// nothing about them.
pub fn same(
    asker: Option<&mut Asker<'_>>,
    session: &Session,
    args: &[Vec<u8>],
    oracle: &[u8],
    subject: &[u8],
) -> bool {
    if oracle == subject {
        return true;
    }
    let (left, right) = (parse(oracle), parse(subject));
    let is_exec = args.first().is_some_and(|name| name.eq_ignore_ascii_case(b"EXEC"));
    match (&session.queued, &left, &right) {
        (Some(queued), Value::Array(lefts), Value::Array(rights)) if is_exec => {
            lefts.len() == rights.len()
                && lefts.len() == queued.len()
                && queued.iter().zip(lefts.iter().zip(rights)).all(|(args, (left, right))| {
                    // What it ran on may be gone by now, so order is forgiven without asking.
                    left == right || alike(None, session, args, left, right)
                })
        }
        _ => alike(asker, session, args, &left, &right),
    }
}

fn alike(
    asker: Option<&mut Asker<'_>>,
    session: &Session,
    args: &[Vec<u8>],
    left: &Value,
    right: &Value,
) -> bool {
    let name = args.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    let subcommand = args.get(1).map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    match name.as_slice() {
        b"TTL" | b"EXPIRETIME" => near(left, right, TIME_TOLERANCE_MS / 1000),
        b"PTTL" | b"PEXPIRETIME" => near(left, right, TIME_TOLERANCE_MS),
        b"KEYS" => sorted(left) == sorted(right),
        b"HGETALL" | b"HKEYS" | b"HVALS" => {
            same_kind(left, right)
                && sorted_pairs(&name, left) == sorted_pairs(&name, right)
                && is_table(asker, session, args)
        }
        // One turn of an iteration is the same only if it is a whole one; `Step::Scan` compares those that are not.
        b"SCAN" | b"HSCAN" if !is_whole_iteration(&name, args) => same_kind(left, right),
        b"SCAN" | b"HSCAN" => match (left, right) {
            (Value::Array(left), Value::Array(right)) => {
                left.len() == 2
                    && right.len() == 2
                    && left[0] == right[0]
                    && sorted(&left[1]) == sorted(&right[1])
            }
            _ => false,
        },
        b"RANDOMKEY" => match (left, right) {
            (Value::Bulk(_), Value::Bulk(key)) => asker
                .is_none_or(|asker| asker.subject.ask(session.db, &[b"EXISTS", key]) == Some(Value::Int(1))),
            _ => false,
        },
        b"HRANDFIELD" => random_fields(asker, session, args, left, right),
        b"TIME" | b"LASTSAVE" => same_kind(left, right),
        // Both measure a key that has expired and is still there; which of them still has it depends on who looked at it.
        b"MEMORY" if subcommand == b"USAGE" => {
            [left, right].iter().all(|value| value.int().is_some() || value.is_null())
        }
        // A node keeps no time of last use.
        b"OBJECT" if subcommand == b"IDLETIME" => matches!((left, right), (Value::Int(_), Value::Int(_))),
        b"OBJECT" if subcommand == b"REFCOUNT" => matches!((left, right), (Value::Int(_), Value::Int(_))),
        b"CLIENT" if subcommand == b"ID" => matches!((left, right), (Value::Int(_), Value::Int(_))),
        b"CLIENT" if subcommand == b"INFO" || subcommand == b"LIST" => same_kind(left, right),
        b"COMMAND" if args.len() == 1 => same_kind(left, right),
        b"HELLO" => without_id(left) == without_id(right),
        _ => false,
    }
}

/// Whether a SCAN or HSCAN starts at 0 and asks for more than there can be.
fn is_whole_iteration(name: &[u8], args: &[Vec<u8>]) -> bool {
    let cursor_at = if name == b"SCAN" { 1 } else { 2 };
    args.get(cursor_at).is_some_and(|cursor| cursor == b"0")
        && args.windows(2).any(|pair| pair[0].eq_ignore_ascii_case(b"COUNT") && pair[1].starts_with(b"10000"))
}

/// Whether the oracle holds the hash as a hash table, whose order means nothing. Without an asker it is believed.
fn is_table(asker: Option<&mut Asker<'_>>, session: &Session, args: &[Vec<u8>]) -> bool {
    let (Some(asker), Some(key)) = (asker, args.get(1)) else { return true };
    let encoding = asker.oracle.ask(session.db, &[b"OBJECT", b"ENCODING", key]);
    encoding.and_then(|value| value.text()).is_some_and(|text| text == "hashtable")
}

fn random_fields(
    asker: Option<&mut Asker<'_>>,
    session: &Session,
    args: &[Vec<u8>],
    left: &Value,
    right: &Value,
) -> bool {
    let shape = match (left, right) {
        (Value::Bulk(_), Value::Bulk(_)) => true,
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same_kind(left, right))
        }
        _ => false,
    };
    let (true, Some(asker), Some(key)) = (shape, asker, args.get(1)) else { return shape };
    let Some(all) = asker.subject.ask(session.db, &[b"HGETALL", key]).and_then(|all| all.elements()) else {
        return false;
    };
    let known = |value: &Value| all.contains(value);
    match right {
        Value::Bulk(_) => known(right),
        Value::Array(items) => items.iter().all(|item| match item {
            Value::Array(pair) => pair.iter().all(known),
            other => known(other),
        }),
        _ => false,
    }
}

fn near(left: &Value, right: &Value, tolerance: i64) -> bool {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => {
            *left >= 0 && *right >= 0 && left.abs_diff(*right) <= tolerance.unsigned_abs()
        }
        _ => false,
    }
}

fn same_kind(left: &Value, right: &Value) -> bool {
    std::mem::discriminant(left) == std::mem::discriminant(right)
}

fn sorted(value: &Value) -> Option<Vec<Value>> {
    let mut items = value.elements()?;
    items.sort();
    Some(items)
}

/// As [`sorted`], keeping the fields of a RESP2 HGETALL with their values.
fn sorted_pairs(name: &[u8], value: &Value) -> Option<Vec<Vec<Value>>> {
    let width = if name == b"HGETALL" { 2 } else { 1 };
    let mut pairs: Vec<Vec<Value>> = value.elements()?.chunks(width).map(<[Value]>::to_vec).collect();
    pairs.sort();
    Some(pairs)
}

/// HELLO's reply with the connection's id blanked.
fn without_id(value: &Value) -> Option<Vec<Value>> {
    let mut items = value.elements()?;
    let id = items.iter().position(|item| *item == Value::Bulk(b"id".to_vec()))?;
    *items.get_mut(id + 1)? = Value::Int(0);
    Some(items)
}
