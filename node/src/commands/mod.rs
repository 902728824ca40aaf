//! From a parsed command to its execution: lookup and the checks every command gets.
//!
//! Data commands are the keystore's: a read handler gets a view, a write handler a transaction, so which of
//! the two a command is decides what it can do. The node's own commands (connections, transactions,
//! configuration, replication) are functions over [`Call`]. [`execute`] runs both.

pub mod client;
pub mod command;
pub mod connection;
pub mod execute;
pub mod info;
pub mod pubsub;
pub mod replication;
pub mod server;
pub mod subcommand;
pub mod transactions;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use farkeep_core::lsn::Lsn;
use farkeep_keystore::CommandError;
use farkeep_keystore::command::table::{Categories, Flags, ReadHandler, WriteHandler, acl, flag};
use farkeep_keystore::command::{Command, Handler};
use farkeep_proto::resp::Encoder;
use hashbrown::HashMap;

use crate::config::Config;
use crate::engine::{Access, Engine};
use crate::node::Node;
use crate::replication::ControlPeer;
use crate::worker::Now;
use crate::worker::connection::{Blocked, Multi, Obstacle, Queued, Session};

/// Longest command name that is looked up; anything longer is unknown.
const MAX_NAME_BYTES: usize = 32;

/// What a connection does after a command.
#[derive(Debug)]
pub enum Flow {
    /// Goes on.
    Continue,
    /// Closes once the reply is sent.
    Close,
    /// Executes the same command again when this is out of the way.
    Stall(Obstacle),
    /// Waits inside the command.
    Block(Blocked),
    /// Turns into a follower's control channel.
    Control(ControlPeer),
    /// Turns into the window connection of this session.
    Window(u64),
}

/// Everything one command may touch.
#[derive(Debug)]
pub struct Call<'a> {
    /// The process.
    pub node: &'a Arc<Node>,
    /// The configuration at the start of the turn.
    pub config: &'a Config,
    /// The engine, held for the turn.
    pub engine: &'a mut Engine,
    /// The connection's protocol state.
    pub session: &'a mut Session,
    /// Where the reply goes.
    pub out: &'a mut Vec<u8>,
    /// Time of the turn.
    pub now: Now,
    /// Log position the reply depends on.
    pub hold: &'a mut Lsn,
}

impl Entry {
    /// CONFIG RESETSTAT.
    pub fn reset(&self) {
        for counter in [&self.calls, &self.failed, &self.rejected] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

impl Call<'_> {
    /// An encoder in the connection's protocol version.
    pub fn reply(&mut self) -> Encoder<'_> {
        Encoder::new(self.out, self.session.resp3)
    }

    /// Writes an error reply; `text` starts with its code.
    pub fn error(&mut self, text: &str) {
        self.node.stats.count_error(text);
        self.reply().error(text);
    }
}

/// COMMAND: what this server answers to.
fn command_about_commands(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let mut table: Vec<(&[u8], &'static Command)> = entries()
        .map(|(name, entry)| (name, entry.spec))
        .filter(|(_, spec)| spec.group != REPLICATION_GROUP)
        .collect();
    table.sort_by_key(|(_, spec)| spec.name);
    let start = call.out.len();
    if let Err(error) = command::reply(&table, argv, &mut call.reply()) {
        call.out.truncate(start);
        call.error(&error.reply());
    }
    Flow::Continue
}

/// A function behind one of the node's own commands.
pub type NodeFn = fn(&mut Call<'_>, &[&[u8]]) -> Flow;

/// A command with what runs it.
#[derive(Debug)]
pub struct Entry {
    /// Name, arity, flags, keys.
    pub spec: &'static Command,
    run: Run,
    /// Calls so far, for INFO commandstats.
    pub calls: AtomicU64,
    /// Calls that ended in an error.
    pub failed: AtomicU64,
    /// Calls refused before execution.
    pub rejected: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
enum Run {
    Read(ReadHandler),
    Write(WriteHandler),
    Node(NodeFn),
    /// What its second word says.
    Container,
}

/// Not for clients, and so not told by COMMAND.
const REPLICATION_GROUP: &str = "farkeep";

/// What an operator says to this node alone, and the commands by which a follower turns a connection into its own and by which
/// failovers fence them and have them come.
static REPLICATION: &[(Command, NodeFn)] = &[
    (internal("farkeep", -2), replication::farkeep),
    (internal("farkeep.replicate", 1), replication::replicate),
    (internal("farkeep.window", 2), replication::window),
    (internal("farkeep.fence", -1), replication::fence),
    (internal("farkeep.promote", 2), replication::promote),
    (internal("farkeep.muster", 5), replication::muster),
    (internal("farkeep.dismiss", 2), replication::dismiss),
    (internal("farkeep.records", 3), replication::records),
];

const fn internal(name: &'static str, arity: i32) -> Command {
    Command {
        name,
        arity,
        flags: Flags(flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::NO_MULTI),
        first_key: 0,
        last_key: 0,
        step: 0,
        categories: Categories(acl::ADMIN | acl::DANGEROUS),
        tips: &[],
        key_specs: &[],
        subcommands: &[],
        group: REPLICATION_GROUP,
        since: "",
        complexity: "",
        summary: "",
        handler: Handler::Node,
    }
}

/// What runs one of the node's own commands.
fn node_function(name: &str) -> Option<NodeFn> {
    Some(match name {
        "auth" => connection::auth,
        "client" => client::client,
        "command" => command_about_commands,
        "config" => server::config,
        "debug" => server::debug,
        "discard" => transactions::discard,
        "echo" => connection::echo,
        "exec" => transactions::exec,
        "failover" => replication::failover,
        "farkeep.dismiss" => replication::dismiss,
        "farkeep.fence" => replication::fence,
        "farkeep.muster" => replication::muster,
        "farkeep.promote" => replication::promote,
        "farkeep.records" => replication::records,
        "farkeep.replicate" => replication::replicate,
        "farkeep.window" => replication::window,
        "hello" => connection::hello,
        "info" => info::info,
        "multi" => transactions::multi,
        "ping" => connection::ping,
        "psubscribe" => pubsub::psubscribe,
        "publish" => pubsub::publish,
        "pubsub" => pubsub::pubsub,
        "punsubscribe" => pubsub::punsubscribe,
        "quit" => connection::quit,
        "replicaof" | "slaveof" => replication::replicaof,
        "reset" => connection::reset,
        "role" => replication::role,
        "select" => connection::select,
        "shutdown" => server::shutdown,
        "spublish" => pubsub::spublish,
        "ssubscribe" => pubsub::ssubscribe,
        "subscribe" => pubsub::subscribe,
        "sunsubscribe" => pubsub::sunsubscribe,
        "time" => server::time,
        "unsubscribe" => pubsub::unsubscribe,
        "unwatch" => transactions::unwatch,
        "wait" => replication::wait,
        "waitaof" => replication::waitaof,
        "watch" => transactions::watch,
        _ => return None,
    })
}

static TABLE: OnceLock<HashMap<Vec<u8>, &'static Entry, foldhash::fast::FixedState>> = OnceLock::new();

/// Builds the command table, with `rename-command` applied. Called once, before the first connection.
///
/// # Errors
/// A rename of a command that does not exist, or to a name already taken.
pub fn init(renames: &[(String, String)]) -> Result<(), String> {
    let mut table = HashMap::with_hasher(foldhash::fast::FixedState::default());
    for spec in farkeep_keystore::command::all() {
        let run = match spec.handler {
            Handler::Read(handler) => Run::Read(handler),
            Handler::Write(handler) => Run::Write(handler),
            Handler::Node => match node_function(spec.name) {
                Some(function) => Run::Node(function),
                None if !spec.subcommands.is_empty() => Run::Container,
                None => continue,
            },
        };
        table.insert(upper(spec.name), entry(spec, run));
    }
    for (spec, run) in REPLICATION {
        table.insert(upper(spec.name), entry(spec, Run::Node(*run)));
    }
    for (from, to) in renames {
        let Some(entry) = table.remove(&upper(from)) else {
            return Err(format!("No such command in rename-command: '{from}'"));
        };
        if !to.is_empty() && table.insert(upper(to), entry).is_some() {
            return Err(format!("Target command name already exists: '{to}'"));
        }
    }
    let _ = TABLE.set(table);
    Ok(())
}

fn entry(spec: &'static Command, run: Run) -> &'static Entry {
    let zero = || AtomicU64::new(0);
    Box::leak(Box::new(Entry { spec, run, calls: zero(), failed: zero(), rejected: zero() }))
}

fn upper(name: &str) -> Vec<u8> {
    name.to_ascii_uppercase().into_bytes()
}

/// Every command by its present name.
pub fn entries() -> impl Iterator<Item = (&'static [u8], &'static Entry)> {
    TABLE.get().into_iter().flat_map(|table| table.iter().map(|(name, entry)| (name.as_slice(), *entry)))
}

/// Finds a command by name, whatever its case.
pub fn lookup(name: &[u8]) -> Option<&'static Entry> {
    if name.len() > MAX_NAME_BYTES {
        return None;
    }
    let mut upper = [0u8; MAX_NAME_BYTES];
    let upper = &mut upper[..name.len()];
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    TABLE.get()?.get(&*upper).copied()
}

/// Checks and executes one command, appending its reply.
pub fn dispatch(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    let Some(entry) = lookup(argv[0]) else {
        if is_http(argv[0]) {
            let client = &call.session.client.peer;
            tracing::info!(%client, "a client speaks HTTP; this may be an attack by way of a browser, closing");
            return Flow::Close;
        }
        refuse_in_multi(call);
        call.node.stats.count_error("ERR");
        call.reply().error_bytes(&unknown_command(argv));
        return Flow::Continue;
    };
    call.session.last_command = Some(entry.spec);
    if let Err(refusal) = check(call, entry, argv) {
        entry.rejected.fetch_add(1, Ordering::Relaxed);
        refuse_in_multi(call);
        call.error(&refusal);
        return Flow::Continue;
    }
    if call.session.multi.is_some() && !transactions::runs_inside_multi(entry.spec.name) {
        return transactions::queue(call, entry, argv);
    }
    if call.node.pausing() && call.node.pauses(entry.spec, call.now, call.session) {
        return Flow::Stall(Obstacle::Pause);
    }
    execute::run(call, entry, argv)
}

/// The checks that precede execution and queueing alike, in Redis's order.
fn check(call: &mut Call<'_>, entry: &Entry, argv: &[&[u8]]) -> Result<(), String> {
    let spec = entry.spec;
    if !call.session.authenticated && !spec.flags.has(flag::NO_AUTH) {
        return Err("NOAUTH Authentication required.".to_owned());
    }
    let command = subcommand::resolve(spec, argv).map_err(|error| error.reply())?;
    let access = call.engine.access();
    let refusal = access.refusal(spec).map(str::to_owned);
    let kept_back =
        || (withholds(call, access) && !command.flags.has(flag::STALE)).then(|| MASTERDOWN.to_owned());
    // That there is nothing to read yet is found last.
    let refusal = match access {
        Access::Loading => pubsub::refusal(call, command).or_else(kept_back).or(refusal),
        _ => refusal.or_else(|| pubsub::refusal(call, command)).or_else(kept_back),
    };
    refusal.map_or(Ok(()), Err)
}

const MASTERDOWN: &str = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";

/// Whether this node follows, has no link with its leader, and is not to show what may be out of date. The link counts as up
/// where INFO says so: clients are served, and the window takes the log.
fn withholds(call: &Call<'_>, access: Access) -> bool {
    let is_down = || match access {
        Access::ReadOnly => !call.node.window_is_open(),
        Access::Loading => true,
        Access::ReadWrite | Access::NoReplicas | Access::Failed => false,
    };
    !call.config.replica_serve_stale_data && is_down()
}

/// Why the commands of a MULTI, all of which passed their checks when they were queued, may not run now, if they may not.
fn exec_refusal(call: &Call<'_>, multi: &Multi) -> Option<&'static str> {
    let access = call.engine.access();
    let refusal = multi.queued.iter().find_map(|queued| access.refusal(queued.entry.spec));
    let may_be_stale = |queued: &Queued| {
        subcommand::resolve(queued.entry.spec, &queued.argv())
            .is_ok_and(|command| command.flags.has(flag::STALE))
    };
    refusal
        .or_else(|| (withholds(call, access) && !multi.queued.iter().all(may_be_stale)).then_some(MASTERDOWN))
}

/// A subcommand that the table knows and this server does not have.
fn not_here(container: &Command, argv: &[&[u8]]) -> CommandError {
    let word = argv.get(1).copied().unwrap_or_default();
    CommandError::unknown_subcommand(&container.name.to_ascii_uppercase(), word)
}

/// Words that begin lines of HTTP requests: a browser that was made to talk to this port.
fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:")
}

fn refuse_in_multi(call: &mut Call<'_>) {
    if let Some(multi) = &mut call.session.multi {
        multi.refused = true;
    }
}

/// Redis's refusal of a command it does not have. It prints arguments as C strings, which a NUL ends.
fn unknown_command(argv: &[&[u8]]) -> Vec<u8> {
    const SHOWN_BYTES: usize = 128;
    let shown = |word: &[u8], room: usize| {
        let end = word.iter().position(|&byte| byte == 0).unwrap_or(word.len());
        word[..end.min(room)].to_vec()
    };
    let mut text = b"ERR unknown command '".to_vec();
    text.extend(shown(argv[0], SHOWN_BYTES));
    text.extend_from_slice(b"', with args beginning with: ");
    let args_at = text.len();
    for arg in &argv[1..] {
        let used = text.len() - args_at;
        if used >= SHOWN_BYTES {
            break;
        }
        text.push(b'\'');
        text.extend(shown(arg, SHOWN_BYTES - used));
        text.extend_from_slice(b"' ");
    }
    text
}
