//! The command table: what `COMMAND` reports, and which function a name leads to.
//!
//! The data lies in one file per family. Facts (arity, flags, keys, ACL categories) are Redis 7.0's, because
//! client libraries and proxies route by them; the summaries are our own. Commands about connections and the
//! server itself are in the table too, with [`Handler::Node`]: the keystore knows that they exist, the node
//! knows what they do.

mod bits;
mod generic;
mod hashes;
mod node;
mod pubsub;
mod strings;

use std::sync::LazyLock;

use farkeep_proto::resp::Encoder;

use crate::error::CommandError;
use crate::keystore::{ReadCtx, WriteCtx};

/// What a reading command is carried out by.
pub type ReadHandler = fn(&mut ReadCtx<'_>, &[&[u8]], &mut Encoder<'_>) -> Result<(), CommandError>;
/// What a writing command is carried out by.
pub type WriteHandler = fn(&mut WriteCtx<'_, '_>, &[&[u8]], &mut Encoder<'_>) -> Result<(), CommandError>;

/// Who carries a command out.
#[derive(Clone, Copy)]
pub enum Handler {
    /// The keystore, without changing anything: also on a follower.
    Read(ReadHandler),
    /// The keystore, in a transaction: only on a leader.
    Write(WriteHandler),
    /// The node. The keystore refuses to run it.
    Node,
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Read(_) => "Read",
            Self::Write(_) => "Write",
            Self::Node => "Node",
        })
    }
}

/// A set of properties of a command: bits of [`flag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

/// The properties a command may have, in the order in which `COMMAND` names them.
pub mod flag {
    /// `write`
    pub const WRITE: u32 = 1;
    /// `readonly`
    pub const READONLY: u32 = 1 << 1;
    /// `denyoom`
    pub const DENYOOM: u32 = 1 << 2;
    /// `admin`
    pub const ADMIN: u32 = 1 << 3;
    /// `pubsub`
    pub const PUBSUB: u32 = 1 << 4;
    /// `noscript`
    pub const NOSCRIPT: u32 = 1 << 5;
    /// `blocking`
    pub const BLOCKING: u32 = 1 << 6;
    /// `loading`
    pub const LOADING: u32 = 1 << 7;
    /// `stale`
    pub const STALE: u32 = 1 << 8;
    /// `skip_monitor`
    pub const SKIP_MONITOR: u32 = 1 << 9;
    /// `skip_slowlog`
    pub const SKIP_SLOWLOG: u32 = 1 << 10;
    /// `asking`
    pub const ASKING: u32 = 1 << 11;
    /// `fast`
    pub const FAST: u32 = 1 << 12;
    /// `no_auth`
    pub const NO_AUTH: u32 = 1 << 13;
    /// `may_replicate`
    pub const MAY_REPLICATE: u32 = 1 << 14;
    /// `no_mandatory_keys`
    pub const NO_MANDATORY_KEYS: u32 = 1 << 15;
    /// `no_async_loading`
    pub const NO_ASYNC_LOADING: u32 = 1 << 16;
    /// `no_multi`
    pub const NO_MULTI: u32 = 1 << 17;
    /// `movablekeys`
    pub const MOVABLEKEYS: u32 = 1 << 18;
    /// `allow_busy`
    pub const ALLOW_BUSY: u32 = 1 << 19;

    pub(super) const NAMES: [&str; 20] = [
        "write",
        "readonly",
        "denyoom",
        "admin",
        "pubsub",
        "noscript",
        "blocking",
        "loading",
        "stale",
        "skip_monitor",
        "skip_slowlog",
        "asking",
        "fast",
        "no_auth",
        "may_replicate",
        "no_mandatory_keys",
        "no_async_loading",
        "no_multi",
        "movablekeys",
        "allow_busy",
    ];
}

impl Flags {
    /// Whether the command has this property, a bit of [`flag`].
    #[inline]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The names of the properties.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        named(self.0, &flag::NAMES)
    }
}

/// The ACL categories a command is in: bits of [`acl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Categories(pub u32);

/// ACL categories, in the order in which `ACL CAT` names them.
pub mod acl {
    /// `@keyspace`
    pub const KEYSPACE: u32 = 1;
    /// `@read`
    pub const READ: u32 = 1 << 1;
    /// `@write`
    pub const WRITE: u32 = 1 << 2;
    /// `@set`
    pub const SET: u32 = 1 << 3;
    /// `@sortedset`
    pub const SORTEDSET: u32 = 1 << 4;
    /// `@list`
    pub const LIST: u32 = 1 << 5;
    /// `@hash`
    pub const HASH: u32 = 1 << 6;
    /// `@string`
    pub const STRING: u32 = 1 << 7;
    /// `@bitmap`
    pub const BITMAP: u32 = 1 << 8;
    /// `@hyperloglog`
    pub const HYPERLOGLOG: u32 = 1 << 9;
    /// `@geo`
    pub const GEO: u32 = 1 << 10;
    /// `@stream`
    pub const STREAM: u32 = 1 << 11;
    /// `@pubsub`
    pub const PUBSUB: u32 = 1 << 12;
    /// `@admin`
    pub const ADMIN: u32 = 1 << 13;
    /// `@fast`
    pub const FAST: u32 = 1 << 14;
    /// `@slow`
    pub const SLOW: u32 = 1 << 15;
    /// `@blocking`
    pub const BLOCKING: u32 = 1 << 16;
    /// `@dangerous`
    pub const DANGEROUS: u32 = 1 << 17;
    /// `@connection`
    pub const CONNECTION: u32 = 1 << 18;
    /// `@transaction`
    pub const TRANSACTION: u32 = 1 << 19;
    /// `@scripting`
    pub const SCRIPTING: u32 = 1 << 20;

    /// The categories' names, without the `@`, by bit.
    pub const NAMES: [&str; 21] = [
        "keyspace",
        "read",
        "write",
        "set",
        "sortedset",
        "list",
        "hash",
        "string",
        "bitmap",
        "hyperloglog",
        "geo",
        "stream",
        "pubsub",
        "admin",
        "fast",
        "slow",
        "blocking",
        "dangerous",
        "connection",
        "transaction",
        "scripting",
    ];
}

impl Categories {
    /// Whether the command is in this category, a bit of [`acl`].
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }

    /// The names of the categories, without the `@`.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        named(self.0, &acl::NAMES)
    }
}

fn named(bits: u32, names: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    names.iter().enumerate().filter(move |(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name)
}

/// Where some of a command's keys are: the argument `index`, and from there to `last` (counted from it;
/// negative: from the end) every `step`-th.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// What happens to them, in Redis's words, separated by spaces.
    pub flags: &'static str,
    /// A remark, or nothing.
    pub notes: &'static str,
    /// The first one.
    pub index: i32,
    /// The last one, relative to the first; negative: relative to the end.
    pub last: i32,
    /// The distance between two.
    pub step: i32,
}

/// A command, or a subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// The name in lower case; a subcommand's is `parent|name`.
    pub name: &'static str,
    /// Number of words, the name (or names) included; negative: at least so many.
    pub arity: i32,
    /// Its properties.
    pub flags: Flags,
    /// The first argument that is a key, 0 for none.
    pub first_key: i32,
    /// The last argument that is a key; negative: counted from the end.
    pub last_key: i32,
    /// The distance between two keys.
    pub step: i32,
    /// Its ACL categories.
    pub categories: Categories,
    /// Hints for clients and proxies.
    pub tips: &'static [&'static str],
    /// Where its keys are, in detail.
    pub key_specs: &'static [KeySpec],
    /// What comes as its second word, if it is only a container.
    pub subcommands: &'static [Self],
    /// The group in the documentation.
    pub group: &'static str,
    /// The version of Redis that had it first.
    pub since: &'static str,
    /// What it costs.
    pub complexity: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Who carries it out.
    pub handler: Handler,
}

/// Begins an entry of the table.
const fn command(name: &'static str, arity: i32, flags: u32, categories: u32) -> Command {
    Command {
        name,
        arity,
        flags: Flags(flags),
        first_key: 0,
        last_key: 0,
        step: 0,
        categories: Categories(categories),
        tips: &[],
        key_specs: &[],
        subcommands: &[],
        group: "",
        since: "",
        complexity: "",
        summary: "",
        handler: Handler::Node,
    }
}

const fn key(flags: &'static str, index: i32, last: i32, step: i32) -> KeySpec {
    KeySpec { flags, notes: "", index, last, step }
}

const fn noted_key(flags: &'static str, notes: &'static str, index: i32, last: i32, step: i32) -> KeySpec {
    KeySpec { flags, notes, index, last, step }
}

impl Command {
    const fn keys(mut self, first: i32, last: i32, step: i32, specs: &'static [KeySpec]) -> Self {
        (self.first_key, self.last_key, self.step, self.key_specs) = (first, last, step, specs);
        self
    }

    const fn about(
        mut self,
        group: &'static str,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
    ) -> Self {
        (self.group, self.since, self.complexity, self.summary) = (group, since, complexity, summary);
        self
    }

    const fn tips(mut self, tips: &'static [&'static str]) -> Self {
        self.tips = tips;
        self
    }

    const fn read(mut self, handler: ReadHandler) -> Self {
        self.handler = Handler::Read(handler);
        self
    }

    const fn write(mut self, handler: WriteHandler) -> Self {
        self.handler = Handler::Write(handler);
        self
    }

    const fn subcommands(mut self, subcommands: &'static [Self]) -> Self {
        self.subcommands = subcommands;
        self
    }

    /// Whether a request of `words` words, the name included, has the right number of them.
    #[inline]
    pub const fn takes(&self, words: usize) -> bool {
        if self.arity >= 0 {
            words == self.arity as usize
        } else {
            words >= self.arity.unsigned_abs() as usize
        }
    }

    /// Whether it may change the keystore.
    #[inline]
    pub const fn is_write(&self) -> bool {
        self.flags.has(flag::WRITE)
    }

    /// The subcommand called `name`, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Self> {
        let prefix = self.name.len() + 1;
        self.subcommands.iter().find(|sub| sub.name.as_bytes()[prefix..].eq_ignore_ascii_case(name))
    }

    /// The positions of the keys among `words` words, the name being number 0. For a container this is empty:
    /// ask the subcommand.
    pub fn key_positions(&self, words: usize) -> impl Iterator<Item = usize> + use<> {
        let last = if self.last_key < 0 {
            words as i64 + i64::from(self.last_key)
        } else {
            i64::from(self.last_key)
        };
        let first = if self.first_key > 0 { i64::from(self.first_key) } else { last + 1 };
        (first..=last.min(words as i64 - 1))
            .step_by(self.step.max(1) as usize)
            .map(|position| position as usize)
    }
}

/// All commands, family by family.
pub fn all() -> impl Iterator<Item = &'static Command> {
    [strings::TABLE, bits::TABLE, hashes::TABLE, generic::TABLE, node::TABLE, pubsub::TABLE]
        .into_iter()
        .flatten()
}

const BUCKETS: usize = 1024;

/// Open addressing over the names; at most a quarter full.
static NAMES: LazyLock<Box<[Option<&'static Command>; BUCKETS]>> = LazyLock::new(|| {
    let mut names: Box<[Option<&'static Command>; BUCKETS]> = Box::new([None; BUCKETS]);
    for command in all() {
        let mut place = place_of(command.name.as_bytes());
        while names[place].is_some() {
            place = (place + 1) % BUCKETS;
        }
        names[place] = Some(command);
    }
    names
});

/// Where to begin looking for a name, the same for both cases of its letters.
#[inline]
fn place_of(name: &[u8]) -> usize {
    let mut hash = name.len() as u64;
    for chunk in name.chunks(8) {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let folded = u64::from_le_bytes(word) | 0x2020_2020_2020_2020;
        hash = (hash ^ folded).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }
    (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize % BUCKETS
}

/// The command called `name`, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    if name.len() > 32 {
        return None;
    }
    let names = &**NAMES;
    let mut place = place_of(name);
    while let Some(command) = names[place] {
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        place = (place + 1) % BUCKETS;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_in_any_case() {
        for command in all() {
            assert_eq!(lookup(command.name.as_bytes()).map(|found| found.name), Some(command.name));
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(lookup(upper.as_bytes()).map(|found| found.name), Some(command.name));
        }
        for unknown in ["", "gett", "ge", "get\0", "\u{200}", "averyveryverylongnamethatnocommandhas"] {
            assert!(lookup(unknown.as_bytes()).is_none(), "{unknown:?}");
        }
    }

    #[test]
    fn what_writes_says_so() {
        fn check(command: &Command) {
            match command.handler {
                Handler::Read(_) => assert!(!command.is_write(), "{}", command.name),
                Handler::Write(_) => {
                    assert!(command.is_write() || command.name == "debug", "{}", command.name)
                }
                Handler::Node => {}
            }
            assert!(!command.summary.is_empty() && !command.since.is_empty(), "{}", command.name);
            command.subcommands.iter().for_each(check);
        }
        all().for_each(check);
    }

    #[test]
    fn key_positions_follow_first_last_and_step() {
        let positions =
            |name: &str, words| lookup(name.as_bytes()).unwrap().key_positions(words).collect::<Vec<_>>();
        assert_eq!(positions("get", 2), [1]);
        assert_eq!(positions("mset", 5), [1, 3]);
        assert_eq!(positions("mget", 4), [1, 2, 3]);
        assert_eq!(positions("bitop", 5), [2, 3, 4]);
        assert_eq!(positions("dbsize", 1), [0usize; 0]);
    }
}
