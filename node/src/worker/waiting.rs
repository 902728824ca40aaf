//! What waits: replies for a commit, commands for the log, WAIT for followers.

use std::sync::atomic::Ordering;

use farkeep_core::lsn::Lsn;

use super::connection::{Blocked, Obstacle};
use super::{Worker, mark};
use crate::commands::{self, Call, Flow, replication};
use crate::engine::Engine;
use crate::stats;

/// What a client is told that waited for followers when this node stopped leading: Redis's words.
const UNBLOCKED: &str =
    "-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";

impl Worker {
    /// Enters a connection's last reply into the queue of held ones if it is held for longer than `was_held` said before.
    pub(super) fn note_held(&mut self, at: usize, was_held: Option<Lsn>) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        if let Some(until) = connection.output.held_until()
            && was_held != Some(until)
        {
            self.tally.held += 1;
            self.held.push(self.now.ms, until, (at, connection.session.client.id));
        }
    }

    /// Lets go what is committed.
    pub(super) fn release_held(&mut self) {
        let Self { held, connections, flushable, committed, .. } = self;
        held.release(*committed, |(at, id)| {
            if let Some(connection) = connections.get_mut(at)
                && connection.session.client.id == id
            {
                connection.output.release(*committed);
                mark(flushable, at);
            }
        });
    }

    /// Ends every reply that has been held for longer than `commit-timeout` with an error that claims nothing.
    pub(super) fn fail_overdue_held(&mut self, error: &str) {
        let Some(before_ms) = self.now.ms.checked_sub(self.config.commit_timeout_ms) else { return };
        let mut failed = Vec::new();
        self.held.expire(before_ms, |token| failed.push(token));
        self.fail_held(&failed, error);
    }

    /// Ends every held reply with an error that claims nothing.
    pub(super) fn fail_all_held(&mut self, error: &str) {
        let mut failed = Vec::new();
        self.held.fail_all(|token| failed.push(token));
        self.fail_held(&failed, error);
    }

    fn fail_held(&mut self, failed: &[(usize, u64)], error: &str) {
        stats::add(&self.node.stats.held_failed, failed.len() as u64);
        for &(at, id) in failed {
            if let Some(connection) = self.connections.get_mut(at)
                && connection.session.client.id == id
            {
                connection.output.fail_held(error.as_bytes());
                connection.close_after_flush = true;
                mark(&mut self.flushable, at);
            }
        }
    }

    pub(super) fn resume_blocked(&mut self, engine: &mut Engine) {
        if self.blocked.is_empty() {
            return;
        }
        let blocked = std::mem::take(&mut self.blocked);
        let mut again = false;
        for at in blocked {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            let Some(reason) = connection.blocked.take() else { continue };
            let resumed = match &reason {
                Blocked::Retry { argv, obstacle } => self.retry(engine, at, argv, *obstacle),
                Blocked::Wait(wait) => {
                    let reached = engine.wait_counts(wait.lsn);
                    let late = wait.deadline_ms.is_some_and(|deadline| self.now.ms >= deadline);
                    let enough = replication::is_reached(wait, reached);
                    if enough || late || connection.session.client.unblocked.swap(false, Ordering::Relaxed) {
                        replication::reply_wait(wait, reached, connection.output.buffer());
                        true
                    } else {
                        false
                    }
                }
            };
            let Some(connection) = self.connections.get_mut(at) else { continue };
            if resumed {
                connection.session.client.blocked.store(false, Ordering::Relaxed);
                mark(&mut self.flushable, at);
                self.execute(engine, at);
                self.deliver(engine);
                again = true;
            } else {
                connection.blocked = Some(reason);
                self.blocked.push(at);
            }
        }
        if again {
            engine.end_turn(&self.node, self.now);
            self.committed = engine.committed();
        }
    }

    /// Tries a command again that could not be executed. Returns whether it is done with.
    pub(super) fn retry(
        &mut self,
        engine: &mut Engine,
        at: usize,
        argv: &[Vec<u8>],
        obstacle: Obstacle,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(at) else { return true };
        if matches!(obstacle, Obstacle::LogFull { .. }) {
            engine.make_room(&self.node, self.now);
        }
        let config = self.node.config();
        connection.output.begin_turn();
        let was_held = connection.output.held_until();
        let start = connection.output.position();
        let mut hold = Lsn::ZERO;
        let borrowed: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        let mut call = Call {
            node: &self.node,
            config: &config,
            engine,
            session: &mut connection.session,
            out: connection.output.buffer(),
            now: self.now,
            hold: &mut hold,
        };
        let flow = match commands::dispatch(&mut call, &borrowed) {
            Flow::Stall(_) => match obstacle {
                Obstacle::LogFull { deadline_ms } if self.now.ms >= deadline_ms => {
                    commands::execute::give_up_log_wait(&mut call);
                    // This reply tells nothing of what the command read before it found no room.
                    *call.hold = Lsn::ZERO;
                    Flow::Continue
                }
                _ => return false,
            },
            flow => flow,
        };
        self.after_command(engine, at, start, hold, flow);
        self.note_held(at, was_held);
        true
    }

    /// Ends every WAIT and WAITAOF, as Redis does: what they wait for cannot happen here any more.
    pub(super) fn unblock_waits(&mut self) {
        for at in std::mem::take(&mut self.blocked) {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            if !matches!(connection.blocked, Some(Blocked::Wait(_))) {
                self.blocked.push(at);
                continue;
            }
            connection.blocked = None;
            connection.session.client.blocked.store(false, Ordering::Relaxed);
            // Where a held reply has just failed, that was the last word.
            if !connection.close_after_flush {
                connection.output.buffer().extend_from_slice(UNBLOCKED.as_bytes());
                connection.close_after_flush = true;
            }
            mark(&mut self.flushable, at);
        }
    }
}
