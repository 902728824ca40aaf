//! Execution: a command that passed its checks, or all commands of a MULTI.
//!
//! What a data command stores, it stores through a transaction of the log, and one function, `transact`, opens and
//! commits it: for a lone command, and for all data commands of an EXEC together. A transaction that finds no room in
//! the log leaves no trace, neither in the image nor in the session, so that the same command can be run again.
//!
//! An EXEC that writes is done in two passes. The first runs the data commands, in order, in the one transaction; of the
//! commands in between it knows only how two of them bear on those that follow, the database that SELECT chooses and the
//! protocol that HELLO does, and leaves gaps where their replies belong. Once the transaction is committed, the second pass
//! runs the node's own commands, in order, and fills the gaps. So all data commands of a MULTI survive a crash, or none
//! does, and no command of the node, which could not be taken back, is run for a transaction that comes to nothing. What
//! such a command sees or changes is the state after the last data command, also when it stands before it.

use std::sync::atomic::Ordering;

use farkeep_core::heap::CommitError;
use farkeep_core::lsn::Lsn;
use farkeep_keystore::command::Handler;
use farkeep_keystore::command::table::{ReadHandler, WriteHandler};
use farkeep_keystore::{CommandError, ReadCtx, WriteCtx};
use farkeep_proto::resp::Encoder;

use super::{Call, Entry, Flow, Run, connection, not_here, replication, subcommand, transactions};
use crate::config::Config;
use crate::node::Node;
use crate::stats;
use crate::worker::connection::{Blocked, Multi, Obstacle, Queued};

impl Entry {
    /// What runs it with these arguments; `None` for the node's own commands.
    fn data_handler(&self, argv: &[&[u8]]) -> Option<Result<DataHandler, CommandError>> {
        Some(match self.run {
            Run::Node(_) => return None,
            Run::Read(handler) => Ok(DataHandler::Read(handler)),
            Run::Write(handler) => Ok(DataHandler::Write(handler)),
            Run::Container => {
                subcommand::resolve(self.spec, argv).and_then(|command| match command.handler {
                    Handler::Read(handler) => Ok(DataHandler::Read(handler)),
                    Handler::Write(handler) => Ok(DataHandler::Write(handler)),
                    Handler::Node => Err(not_here(self.spec, argv)),
                })
            }
        })
    }

    /// Counts an execution, as Redis does: of what was executed, not of what was queued or refused.
    fn count_call(&self, node: &Node) {
        stats::add_locked(&node.stats.commands, 1);
        stats::add_locked(&self.calls, 1);
    }
}

#[derive(Clone, Copy)]
enum DataHandler {
    Read(ReadHandler),
    Write(WriteHandler),
}

/// Executes a command that passed its checks, outside MULTI. Where it stalls, nothing has happened.
pub(super) fn run(call: &mut Call<'_>, entry: &'static Entry, argv: &[&[u8]]) -> Flow {
    let result = match (entry.run, entry.data_handler(argv)) {
        (Run::Node(function), _) => {
            entry.count_call(call.node);
            return function(call, argv);
        }
        (_, Some(Ok(DataHandler::Read(handler)))) => run_read(call, handler, argv),
        (_, Some(Ok(DataHandler::Write(handler)))) => match run_write(call, handler, argv) {
            Ok(stall @ Flow::Stall(_)) => return stall,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        },
        (_, Some(Err(error))) => Err(error),
        (_, None) => unreachable!("only the node's own commands have no data handler"),
    };
    entry.count_call(call.node);
    if let Err(error) = result {
        count_failure(call, entry, &error);
        call.reply().error(&error.to_string());
    }
    Flow::Continue
}

fn count_failure(call: &Call<'_>, entry: &Entry, error: &CommandError) {
    entry.failed.fetch_add(1, Ordering::Relaxed);
    call.node.stats.count_error(&error.to_string());
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
    let resp3 = call.session.resp3;
    transact(call, |ctx, out| handler(ctx, argv, &mut Encoder::new(out, resp3)))
}

/// Runs `body` in a transaction of the log and commits what it stored. When it stalls or fails, in `body` or at the
/// commit, nothing has been stored and `out` is as it was before.
fn transact(
    call: &mut Call<'_>,
    body: impl FnOnce(&mut WriteCtx<'_, '_>, &mut Vec<u8>) -> Result<(), CommandError>,
) -> Result<Flow, CommandError> {
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
    let result = body(&mut ctx, call.out);
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

/// Tells a client that the log had no room for its command for too long.
pub fn give_up_log_wait(call: &mut Call<'_>) {
    transactions::end(call);
    call.error(
        "OOM the redo log is full: a follower or the replayer is too far behind; nothing was written, try again",
    );
}

/// Runs the queued commands of a MULTI; `writes` says whether there is a writing one among them.
pub(super) fn run_exec(call: &mut Call<'_>, writes: bool) -> Flow {
    call.session.in_exec = true;
    let flow = run_transaction(call, writes);
    call.session.in_exec = false;
    flow
}

fn run_transaction(call: &mut Call<'_>, writes: bool) -> Flow {
    let Some(multi) = call.session.multi.take() else { return Flow::Continue };
    let start = call.out.len();
    call.reply().array(multi.queued.len());
    if !writes {
        let flow =
            multi.queued.iter().fold(Flow::Continue, |flow, queued| flow.then(run_queued(call, queued)));
        transactions::end(call);
        return flow;
    }
    let mut done = DataPass::new(call);
    match transact(call, |ctx, out| done.run(ctx, out, &multi)) {
        Ok(stall @ Flow::Stall(_)) => {
            call.out.truncate(start);
            call.session.multi = Some(multi);
            stall
        }
        Ok(_) => {
            let flow = fill_gaps(call, &multi, done);
            transactions::end(call);
            flow
        }
        Err(error) => {
            call.out.truncate(start);
            transactions::end(call);
            call.error(&format!("EXECABORT Transaction discarded because of: {error}"));
            Flow::Continue
        }
    }
}

/// The first pass over an EXEC, and what it leaves to be done once the data commands are committed.
struct DataPass<'a> {
    config: &'a Config,
    authenticated: bool,
    resp3: bool,
    /// Where in the output the reply of which of the node's own commands belongs.
    gaps: Vec<(usize, usize)>,
    /// The data commands that failed, by index.
    failed: Vec<(usize, CommandError)>,
}

impl<'a> DataPass<'a> {
    fn new(call: &Call<'a>) -> Self {
        let (config, session) = (call.config, &*call.session);
        Self {
            config,
            authenticated: session.authenticated,
            resp3: session.resp3,
            gaps: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Runs the data commands. A failed one leaves no trace but its error; the others go on, as in Redis.
    fn run(
        &mut self,
        ctx: &mut WriteCtx<'_, '_>,
        out: &mut Vec<u8>,
        multi: &Multi,
    ) -> Result<(), CommandError> {
        for (index, queued) in multi.queued.iter().enumerate() {
            let argv = queued.argv();
            let Some(handler) = queued.entry.data_handler(&argv) else {
                self.gaps.push((out.len(), index));
                self.look_ahead(queued.entry.spec.name, &argv, ctx);
                continue;
            };
            let resp3 = self.resp3;
            let (start, mark, savepoint) = (out.len(), ctx.ks.signals.mark(), ctx.txn.savepoint());
            let result = match handler {
                Ok(DataHandler::Write(handler)) => handler(ctx, &argv, &mut Encoder::new(out, resp3)),
                Ok(DataHandler::Read(handler)) => {
                    handler(&mut ctx.read(), &argv, &mut Encoder::new(out, resp3))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                ctx.txn.rollback_to(&savepoint);
                ctx.ks.signals.truncate(mark);
                out.truncate(start);
                Encoder::new(out, resp3).error(&error.to_string());
                self.failed.push((index, error));
            }
        }
        Ok(())
    }

    /// Notes how one of the node's own commands bears on the data commands behind it.
    fn look_ahead(&mut self, name: &str, argv: &[&[u8]], ctx: &mut WriteCtx<'_, '_>) {
        let Self { config, authenticated, resp3, .. } = self;
        match name {
            "select" => ctx.db = connection::selected(argv, config.databases).unwrap_or(ctx.db),
            "hello" => *resp3 = connection::negotiated(argv, config, *authenticated).unwrap_or(*resp3),
            _ => {}
        }
    }
}

/// The second pass: runs the node's own commands and puts their replies where they belong.
fn fill_gaps(call: &mut Call<'_>, multi: &Multi, done: DataPass<'_>) -> Flow {
    for queued in &multi.queued {
        if !matches!(queued.entry.run, Run::Node(_)) {
            queued.entry.count_call(call.node);
        }
    }
    for (index, error) in &done.failed {
        count_failure(call, multi.queued[*index].entry, error);
    }
    let Some(&(first, _)) = done.gaps.first() else { return Flow::Continue };
    let replies = call.out.split_off(first);
    let mut flow = Flow::Continue;
    let mut next = 0;
    for (at, index) in done.gaps {
        call.out.extend_from_slice(&replies[next..at - first]);
        next = at - first;
        flow = flow.then(run_queued(call, &multi.queued[index]));
    }
    call.out.extend_from_slice(&replies[next..]);
    flow
}

/// Runs one queued command by itself.
fn run_queued(call: &mut Call<'_>, queued: &Queued) -> Flow {
    match run(call, queued.entry, &queued.argv()) {
        Flow::Block(Blocked::Wait(wait)) => {
            // Inside a transaction nothing blocks: the counts reached so far are the answer.
            let reached = call.engine.wait_counts(wait.lsn);
            replication::reply_wait(&wait, reached, call.out);
            Flow::Continue
        }
        flow => flow,
    }
}

impl Flow {
    /// What remains of this and then `next`: the last one that is not just going on.
    fn then(self, next: Flow) -> Flow {
        match next {
            Flow::Continue => self,
            next => next,
        }
    }
}
