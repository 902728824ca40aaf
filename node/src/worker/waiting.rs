//! What waits: replies for a commit, commands for the log, WAIT for followers.

use std::sync::atomic::Ordering;

use super::*;

impl Worker {
    /// Enters a connection's last reply into the queue of held ones if it is held for longer than `was_held` said before.
    pub(super) fn note_held(&mut self, at: usize, was_held: Option<Lsn>) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        if let Some(until) = connection.output.held_until()
            && was_held != Some(until)
        {
            self.tally.held += 1;
            let deadline_ms = self.now.ms + self.config.commit_timeout_ms;
            self.held.push_back((until, at, connection.session.client.id, deadline_ms));
        }
    }

    pub(super) fn release_held(&mut self) {
        while let Some(&(until, at, id, _)) = self.held.front() {
            if until > self.committed {
                break;
            }
            self.held.pop_front();
            if let Some(connection) = self.connections.get_mut(at)
                && connection.session.client.id == id
            {
                connection.output.release(self.committed);
                mark(&mut self.flushable, at);
            }
        }
    }

    /// Ends every held reply whose deadline passed, or all of them, with an error that claims nothing.
    pub(super) fn fail_held(&mut self, all: bool, error: &str) {
        while let Some(&(_, at, id, deadline_ms)) = self.held.front() {
            if !all && self.now.ms < deadline_ms {
                break;
            }
            self.held.pop_front();
            stats::add(&self.node.stats.held_failed, 1);
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
