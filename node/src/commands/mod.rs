//! From a parsed command to its execution: lookup, the checks every command gets, and the transaction
//! around it.
//!
//! Data commands are the keystore's: a read handler gets a view, a write handler a transaction, so which of
//! the two a command is decides what it can do. The node's own commands (connections, transactions,
//! configuration, replication) are functions over [`Call`].

pub mod client;
pub mod command;
pub mod connection;
pub mod info;
pub mod replication;
pub mod server;
pub mod subcommand;
pub mod transactions;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use farkeep_core::heap::CommitError;
use farkeep_core::lsn::Lsn;
use farkeep_keystore::command::table::{Categories, Flags, ReadHandler, WriteHandler, acl, flag};
use farkeep_keystore::command::{Command, Handler};
use farkeep_keystore::{CommandError, ReadCtx, WriteCtx};
use farkeep_proto::resp::Encoder;
use hashbrown::HashMap;

use crate::config::Config;
use crate::engine::Engine;
use crate::node::Node;
use crate::replication::ControlPeer;
use crate::stats;
use crate::worker::Now;
use crate::worker::connection::{Blocked, Obstacle, Queued, Session};

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
    pub node: &'a Node,
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

    /// Whether the keystore runs it.
    fn is_data(&self) -> bool {
        !matches!(self.run, Run::Node(_))
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

/// The commands by which a follower turns a connection into its own.
static REPLICATION: &[(Command, NodeFn)] = &[
    (internal("farkeep.replicate", 1), replication::replicate),
    (internal("farkeep.window", 2), replication::window),
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
        "farkeep.replicate" => replication::replicate,
        "farkeep.window" => replication::window,
        "hello" => connection::hello,
        "info" => info::info,
        "multi" => transactions::multi,
        "ping" => connection::ping,
        "quit" => connection::quit,
        "replicaof" | "slaveof" => replication::replicaof,
        "reset" => connection::reset,
        "role" => replication::role,
        "select" => connection::select,
        "shutdown" => server::shutdown,
        "time" => server::time,
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
    stats::add_locked(&call.node.stats.commands, 1);
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
    run(call, entry, argv)
}

/// The checks that precede execution and queueing alike, in Redis's order.
fn check(call: &mut Call<'_>, entry: &Entry, argv: &[&[u8]]) -> Result<(), String> {
    let spec = entry.spec;
    if !call.session.authenticated && !spec.flags.has(flag::NO_AUTH) {
        return Err("NOAUTH Authentication required.".to_owned());
    }
    subcommand::resolve(spec, argv).map_err(|error| error.reply())?;
    match call.engine.access().refusal(spec) {
        Some(refusal) => Err(refusal.to_owned()),
        None => Ok(()),
    }
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

/// Executes a command that passed its checks, outside MULTI.
fn run(call: &mut Call<'_>, entry: &'static Entry, argv: &[&[u8]]) -> Flow {
    stats::add_locked(&entry.calls, 1);
    let result = match entry.run {
        Run::Node(function) => return function(call, argv),
        Run::Container => match subcommand::resolve(entry.spec, argv).map(|command| command.handler) {
            Ok(Handler::Read(handler)) => run_read(call, handler, argv),
            Ok(_) => Err(not_here(entry.spec, argv)),
            Err(error) => Err(error),
        },
        Run::Read(handler) => run_read(call, handler, argv),
        Run::Write(handler) => match run_write(call, handler, argv) {
            Ok(flow) => return flow,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = result {
        entry.failed.fetch_add(1, Ordering::Relaxed);
        call.error(&error.to_string());
    }
    Flow::Continue
}

/// A text for what a transaction that did not commit means to the client, or a stall.
fn not_committed(error: &CommitError, deadline_ms: u64) -> Result<Flow, CommandError> {
    match error {
        CommitError::LogFull { .. } => Ok(Flow::Stall(Obstacle::LogFull { deadline_ms })),
        CommitError::TooLarge { wanted, limit } => Err(CommandError::owned(format!(
            "ERR transaction too large: it needs {wanted} bytes of redo log, at most {limit} fit (log-size)"
        ))),
        other => Err(CommandError::owned(format!("MISCONF {other}"))),
    }
}

fn run_read(call: &mut Call<'_>, handler: ReadHandler, argv: &[&[u8]]) -> Result<(), CommandError> {
    let start = call.out.len();
    let track = call.config.read_commit && call.engine.has_uncommitted();
    let (view, ks) = call.engine.read_parts()?;
    if track {
        view.start_tracking();
    }
    let mut ctx = ReadCtx { view, ks, db: call.session.db, now_ms: call.now.unix_ms };
    let result = handler(&mut ctx, argv, &mut Encoder::new(call.out, call.session.resp3));
    if track {
        *call.hold = (*call.hold).max(view.take_dependency());
    }
    if result.is_err() {
        call.out.truncate(start);
    }
    result
}

fn run_write(call: &mut Call<'_>, handler: WriteHandler, argv: &[&[u8]]) -> Result<Flow, CommandError> {
    let start = call.out.len();
    let track = call.config.read_commit && call.engine.has_uncommitted();
    let deadline_ms = call.now.ms + call.config.log_full_timeout_ms;
    let (heap, appender, ks) = call.engine.write_parts()?;
    let mark = ks.signals.mark();
    let mut txn = heap.txn();
    if track {
        txn.start_tracking();
    }
    let mut ctx = WriteCtx { txn: &mut txn, ks, db: call.session.db, now_ms: call.now.unix_ms };
    let result = handler(&mut ctx, argv, &mut Encoder::new(call.out, call.session.resp3));
    let dependency = if track { txn.take_dependency() } else { Lsn::ZERO };
    // What a failed command read is in its error, so that waits as well.
    *call.hold = (*call.hold).max(dependency);
    if let Err(error) = result {
        drop(txn);
        ks.signals.truncate(mark);
        call.out.truncate(start);
        return Err(error);
    }
    if txn.is_empty() {
        // Nothing differs from before, but a watched key counts as touched.
        drop(txn);
        call.engine.deliver_signals();
        return Ok(Flow::Continue);
    }
    match txn.commit(appender) {
        Ok(end) => {
            *call.hold = end;
            call.session.last_write = end;
            call.engine.deliver_signals();
            Ok(Flow::Continue)
        }
        Err(error) => {
            ks.signals.truncate(mark);
            call.out.truncate(start);
            not_committed(&error, deadline_ms)
        }
    }
}

/// Tells a client that the log had no room for its command for too long.
pub fn give_up_log_wait(call: &mut Call<'_>) {
    transactions::end(call);
    call.error(
        "OOM the redo log is full: a follower or the replayer is too far behind; nothing was written, try again",
    );
}

/// Runs the queued commands of a MULTI. Each run of data commands is one transaction; a command of the node between two
/// of them cuts the MULTI, which breaks its atomicity when a later part does not fit the log or a crash comes between.
pub(crate) fn run_exec(call: &mut Call<'_>, writes: bool) -> Flow {
    let Some(multi) = call.session.multi.take() else { return Flow::Continue };
    let start = call.out.len();
    let mut end_flow = Flow::Continue;
    call.reply().array(multi.queued.len());
    let mut next = 0;
    while next < multi.queued.len() {
        // The longest run of data commands shares one transaction; the node's own commands stand between.
        let data = multi.queued[next..].iter().take_while(|queued| queued.entry.is_data()).count();
        if data == 0 {
            let queued = &multi.queued[next];
            let argv: Vec<&[u8]> = queued.argv.iter().map(Vec::as_slice).collect();
            match run(call, queued.entry, &argv) {
                Flow::Continue => {}
                Flow::Block(Blocked::Wait(wait)) => {
                    // Inside a transaction nothing blocks: the counts reached so far are the answer.
                    let reached = call.engine.wait_counts(wait.lsn);
                    let out = &mut *call.out;
                    replication::reply_wait(&wait, reached, out);
                }
                flow => end_flow = flow,
            }
            next += 1;
            continue;
        }
        match run_exec_data(call, &multi.queued[next..next + data], writes) {
            Ok(stall @ Flow::Stall(_)) => {
                call.out.truncate(start);
                call.session.multi = Some(multi);
                return stall;
            }
            Ok(_) => {}
            Err(error) => {
                call.out.truncate(start);
                transactions::end(call);
                call.error(&format!("EXECABORT Transaction discarded because of: {error}"));
                return Flow::Continue;
            }
        }
        next += data;
    }
    transactions::end(call);
    end_flow
}

fn run_exec_data(call: &mut Call<'_>, queued: &[Queued], writes: bool) -> Result<Flow, CommandError> {
    let resp3 = call.session.resp3;
    let track = call.config.read_commit && call.engine.has_uncommitted();
    let db = call.session.db;
    let now_ms = call.now.unix_ms;
    if !writes {
        for queued in queued {
            let argv: Vec<&[u8]> = queued.argv.iter().map(Vec::as_slice).collect();
            run(call, queued.entry, &argv);
        }
        return Ok(Flow::Continue);
    }
    let deadline_ms = call.now.ms + call.config.log_full_timeout_ms;
    let (heap, appender, ks) = call.engine.write_parts()?;
    let first_mark = ks.signals.mark();
    let mut txn = heap.txn();
    if track {
        txn.start_tracking();
    }
    for queued in queued {
        stats::add_locked(&queued.entry.calls, 1);
        let argv: Vec<&[u8]> = queued.argv.iter().map(Vec::as_slice).collect();
        let (start, mark, savepoint) = (call.out.len(), ks.signals.mark(), txn.savepoint());
        let mut encoder = Encoder::new(call.out, resp3);
        let result = match queued.entry.run {
            Run::Write(handler) => {
                handler(&mut WriteCtx { txn: &mut txn, ks, db, now_ms }, &argv, &mut encoder)
            }
            Run::Read(handler) => handler(&mut ReadCtx { view: &txn, ks, db, now_ms }, &argv, &mut encoder),
            Run::Container => {
                match subcommand::resolve(queued.entry.spec, &argv).map(|command| command.handler) {
                    Ok(Handler::Read(handler)) => {
                        handler(&mut ReadCtx { view: &txn, ks, db, now_ms }, &argv, &mut encoder)
                    }
                    Ok(_) => Err(not_here(queued.entry.spec, &argv)),
                    Err(error) => Err(error),
                }
            }
            Run::Node(_) => Ok(()),
        };
        if let Err(error) = result {
            queued.entry.failed.fetch_add(1, Ordering::Relaxed);
            txn.rollback_to(&savepoint);
            ks.signals.truncate(mark);
            call.out.truncate(start);
            Encoder::new(call.out, resp3).error(&error.to_string());
        }
    }
    let dependency = if track { txn.take_dependency() } else { Lsn::ZERO };
    if txn.is_empty() {
        drop(txn);
        call.engine.deliver_signals();
        *call.hold = (*call.hold).max(dependency);
        return Ok(Flow::Continue);
    }
    match txn.commit(appender) {
        Ok(end) => {
            *call.hold = end;
            call.session.last_write = end;
            call.engine.deliver_signals();
            Ok(Flow::Continue)
        }
        Err(error) => {
            ks.signals.truncate(first_mark);
            not_committed(&error, deadline_ms)
        }
    }
}
