//! An I/O worker: one thread, one epoll, many connections.
//!
//! A *turn* is what happens between two waits, and it is the unit of group commit: read every readable
//! socket; take the engine; execute every complete command, each appending its redo record to the log in
//! memory; make the log persistent once; send the new bytes to the followers once; let the engine go; write
//! out the replies whose log position is committed. A follower's acknowledgement is just another readable
//! socket, so the replies it releases leave in the same loop, with no hop between threads.
//!
//! The loop is our own rather than a tokio runtime because the turn has to be a thing one can see: the one
//! persist, the one send and the one lock of a batch happen at its end.

pub mod connection;
mod deliver;
pub mod output;
pub mod poll;
mod sockets;
mod waiting;

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use farkeep_core::lsn::Lsn;
use farkeep_fabric::Patience;
use farkeep_keystore::KeyHash;
use farkeep_leader::HeldReplies;
use farkeep_proto::resp::{self, Decoded};
use slab::Slab;

use crate::clients::{Client, ClientKind};
use crate::commands::{self, Call, Flow};
use crate::config::Config;
use crate::engine::{Engine, TAIL_DELAY_MS};
use crate::node::{Message, Node};
use crate::stats;
use connection::{Blocked, Connection, Obstacle, Protocol, ReplyMode, Stream};
use poll::{Interest, Poll, Ready};

const WAKER: u64 = u64::MAX;
const LISTENERS: u64 = u64::MAX - 64;
/// Tokens from here up to the listeners are followers' windows.
const WINDOWS: u64 = 1 << 62;

/// What a client is told whose write was not committed in time.
const UNCONFIRMED: &str =
    "-NOREPLICAS the write was not confirmed by enough followers in time; its fate is unknown\r\n";
/// What a client is told whose write was not committed before this node stopped leading.
const DEMOTED: &str = "-UNBLOCKED the node is no longer the leader; the write's fate is unknown\r\n";
/// The cron runs ten times a second at least, where anything happens.
const CRON_PERIOD_MS: u64 = 100;
/// The same on a follower's worker to which nothing has happened since the last time. The longest wait.
const QUIET_CRON_PERIOD_MS: u64 = 1000;
/// Keys whose memory is asked for before the first of their commands is executed: what the nearest caches hold.
const LOOK_AHEAD_KEYS: usize = 64;
/// Commands of one connection that are looked at ahead.
const LOOK_AHEAD_COMMANDS: usize = 32;
/// How often a command that could not be executed is tried again.
const RETRY_PERIOD_MS: u64 = 1;
/// Replies are appended up to this much a turn before a connection lets others go first.
const OUTPUT_BURST_BYTES: usize = 1024 * 1024;

/// What is less than this is not worth looking at by the cron: no sensible soft limit is below it.
const OUTPUT_SOON_BYTES: usize = 16 * 1024;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// A worker's private state.
#[derive(Debug)]
pub struct Worker {
    node: Arc<Node>,
    index: usize,
    poll: Poll,
    listeners: Vec<Listener>,
    connections: Slab<Box<Connection>>,
    ready: Vec<Ready>,
    /// Connections with input to execute in this turn.
    runnable: Vec<usize>,
    /// Connections that may have something to send at the end of this turn.
    flushable: Vec<usize>,
    /// Who has a reply held: connection and client id.
    held: HeldReplies<(usize, u64)>,
    /// Connections that wait inside a command.
    blocked: Vec<usize>,
    /// Followers' control channels.
    controls: Vec<usize>,
    args: Vec<std::ops::Range<usize>>,
    /// Keys whose memory was asked for.
    ahead: Vec<(usize, KeyHash)>,
    /// A follower has acknowledged something.
    windows_ready: bool,
    /// This worker is the one to find what followers acknowledge over rdma.
    watches_rdma: bool,
    /// Such an acknowledgement is under way.
    expects_soon: bool,
    patience: Patience,
    next_cron_ms: u64,
    /// The configuration as of this turn.
    config: Arc<Config>,
    config_version: u64,
    /// Counted in this turn, added to the shared counters at its end.
    tally: Tally,
    /// The reign under which replies are held.
    reign: u64,
    committed: Lsn,
    now: Now,
    next_worker: usize,
}

/// What a turn counts, before it goes into the shared counters.
#[derive(Debug, Default)]
struct Tally {
    reads: u64,
    writes: u64,
    input_bytes: u64,
    output_bytes: u64,
    held: u64,
}

/// The time of a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Monotonic ms since the node started.
    pub ms: u64,
    /// The same in microseconds.
    pub us: u64,
    /// Unix time in ms.
    pub unix_ms: u64,
}

impl Worker {
    /// A worker; the one with index 0 owns the listeners.
    pub fn new(node: Arc<Node>, index: usize, listeners: Vec<Listener>) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.add(&node.workers[index].waker, WAKER, Interest::READ)?;
        for (at, listener) in listeners.iter().enumerate() {
            match listener {
                Listener::Tcp(socket) => poll.add(socket, LISTENERS + at as u64, Interest::READ)?,
                Listener::Unix(socket) => poll.add(socket, LISTENERS + at as u64, Interest::READ)?,
            }
        }
        Ok(Self {
            node: Arc::clone(&node),
            index,
            poll,
            listeners,
            connections: Slab::new(),
            ready: Vec::new(),
            runnable: Vec::new(),
            flushable: Vec::new(),
            held: HeldReplies::new(),
            blocked: Vec::new(),
            args: Vec::new(),
            ahead: Vec::new(),
            windows_ready: false,
            watches_rdma: false,
            expects_soon: false,
            patience: Patience::default(),
            controls: Vec::new(),
            next_cron_ms: 0,
            config: node.config(),
            config_version: node.config_version(),
            tally: Tally::default(),
            reign: 0,
            committed: Lsn::ZERO,
            now: Now::default(),
            next_worker: 0,
        })
    }

    /// Runs until the node stops.
    pub fn run(mut self) -> io::Result<()> {
        while !self.node.stopping.load(Ordering::Acquire) {
            self.ready.clear();
            self.wait()?;
            self.now = self.node.now();
            self.turn()?;
        }
        self.say_goodbye();
        Ok(())
    }

    /// Waits until there is something to do. What comes over rdma is looked for before it is slept for.
    fn wait(&mut self) -> io::Result<()> {
        let mut timeout_ms = self.timeout_ms();
        if self.watches_rdma {
            if self.expects_soon && timeout_ms > 0 {
                self.look_a_while()?;
            }
            if !self.ready.is_empty() {
                return Ok(());
            }
            if self.windows_ready || !self.node.engine.lock().rest_windows(self.index) {
                self.windows_ready = true;
                timeout_ms = 0;
            }
        }
        self.poll.wait(timeout_ms, &mut self.ready)
    }

    /// Looks for completions, for a short while; ends at once when there is something else to do.
    fn look_a_while(&mut self) -> io::Result<()> {
        let limit = self.patience.limit();
        let started = Instant::now();
        while started.elapsed() < limit {
            {
                let mut engine = self.node.engine.lock();
                engine.poll_windows(&self.node, self.now);
                self.windows_ready = engine.committed() > self.committed || !engine.expects_soon();
            }
            if self.windows_ready {
                break;
            }
            self.poll.wait(0, &mut self.ready)?;
            if !self.ready.is_empty() {
                // It has neither paid nor not.
                return Ok(());
            }
        }
        if !limit.is_zero() {
            self.patience.looked(self.windows_ready);
        }
        Ok(())
    }

    fn timeout_ms(&self) -> u64 {
        let mut timeout = self.next_cron_ms.saturating_sub(self.now.ms).min(QUIET_CRON_PERIOD_MS);
        if self.node.tail_pending.load(Ordering::Relaxed) {
            timeout = timeout.min(TAIL_DELAY_MS);
        }
        for &at in &self.blocked {
            let deadline_ms =
                match self.connections.get(at).and_then(|connection| connection.blocked.as_ref()) {
                    Some(Blocked::Wait(wait)) => wait.deadline_ms,
                    Some(Blocked::Retry { .. }) => Some(self.now.ms + RETRY_PERIOD_MS),
                    None => None,
                };
            timeout =
                deadline_ms.map_or(timeout, |deadline| timeout.min(deadline.saturating_sub(self.now.ms)));
        }
        timeout
    }

    fn turn(&mut self) -> io::Result<()> {
        if self.config_version != self.node.config_version() {
            self.config_version = self.node.config_version();
            self.config = self.node.config();
        }
        let mut woken = false;
        let ready = std::mem::take(&mut self.ready);
        for event in &ready {
            match event.token {
                WAKER => woken = true,
                token if token >= LISTENERS => self.accept((token - LISTENERS) as usize)?,
                token if token >= WINDOWS => self.windows_ready = true,
                token => self.connection_ready(token as usize, *event),
            }
        }
        self.ready = ready;
        if woken {
            self.node.workers[self.index].waker.drain();
            self.take_messages()?;
        }
        let quiet = self.ready.is_empty() && self.runnable.is_empty() && self.blocked.is_empty();
        if !quiet {
            self.next_cron_ms = self.next_cron_ms.min(self.now.ms + CRON_PERIOD_MS);
        }
        let cron = self.now.ms >= self.next_cron_ms;
        if woken
            || cron
            || self.windows_ready
            || !self.runnable.is_empty()
            || !self.blocked.is_empty()
            || self.node.tail_pending.load(Ordering::Relaxed)
        {
            self.locked_part(cron);
        }
        if self.node.workers[self.index].speak.swap(false, Ordering::AcqRel) {
            self.speak_to_followers();
        }
        if cron {
            let rests = quiet && self.held.is_empty() && self.follows_in_peace();
            self.next_cron_ms = self.now.ms + if rests { QUIET_CRON_PERIOD_MS } else { CRON_PERIOD_MS };
            self.cron();
        }
        self.release_held();
        self.flush();
        self.count();
        Ok(())
    }

    /// Whether this node follows, and nothing is about to change that. Whoever is about to wakes the workers.
    fn follows_in_peace(&self) -> bool {
        matches!(&*self.node.followership(), Some(follows) if follows.handover.is_none() && !follows.fenced)
    }

    fn count(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        let stats = &self.node.stats;
        stats::add(&stats.turns, 1);
        for (counter, count) in [
            (&stats.socket_reads, tally.reads),
            (&stats.socket_writes, tally.writes),
            (&stats.input_bytes, tally.input_bytes),
            (&stats.output_bytes, tally.output_bytes),
            (&stats.held_replies, tally.held),
        ] {
            if count > 0 {
                stats::add(counter, count);
            }
        }
    }

    /// Everything that needs the engine, in one go.
    fn locked_part(&mut self, cron: bool) {
        let node = Arc::clone(&self.node);
        let mut engine = node.engine.lock();
        engine.set_now(self.now);
        if self.reign != engine.reign() {
            // Positions of another reign say nothing about these replies.
            self.committed = self.committed.max(engine.committed_under(self.reign));
            self.release_held();
            self.reign = engine.reign();
            self.fail_all_held(DEMOTED);
            self.unblock_waits();
        }
        self.deliver(&mut engine);
        if self.windows_ready || cron {
            self.windows_ready = false;
            engine.poll_windows(&node, self.now);
        }
        let runnable = std::mem::take(&mut self.runnable);
        let mut rest = &runnable[..];
        while !rest.is_empty() {
            let group = self.look_ahead(&engine, rest);
            for &at in &rest[..group] {
                self.execute(&mut engine, at);
                self.deliver(&mut engine);
            }
            rest = &rest[group..];
        }
        self.runnable = runnable;
        self.runnable.clear();
        if cron && self.index == 0 {
            engine.cron(&node, self.now);
        }
        engine.end_turn(&node, self.now);
        self.committed = engine.committed();
        self.resume_blocked(&mut engine);
        self.deliver(&mut engine);
        engine.pubsub.wake_others(&node, Some(self.index));
        self.watches_rdma = engine.watch_windows(self.index, &self.poll, WINDOWS);
        self.expects_soon = self.watches_rdma && engine.expects_soon();
    }

    /// Asks the memory for what the next commands will touch, so that their cache misses overlap instead of following each
    /// other: first every key's bucket, then every key's entry. Returns how many of the connections were looked at.
    fn look_ahead(&mut self, engine: &Engine, runnable: &[usize]) -> usize {
        let Ok((view, keystore)) = engine.read_parts() else { return runnable.len() };
        self.ahead.clear();
        let mut group = 0;
        for &at in runnable {
            if self.ahead.len() >= LOOK_AHEAD_KEYS {
                break;
            }
            group += 1;
            let Some(connection) = self.connections.get_mut(at) else { continue };
            if connection.decode.is_mid_command() || !matches!(connection.protocol, Protocol::Resp) {
                continue;
            }
            let db = connection.session.db;
            let mut bytes = &mut connection.input[connection.parsed..];
            for _ in 0..LOOK_AHEAD_COMMANDS {
                // Inline commands are unescaped in place when decoded, which must happen once only.
                if bytes.first() != Some(&b'*') {
                    break;
                }
                let mut state = resp::DecodeState::default();
                let decoded = resp::decode(bytes, &mut self.args, &resp::Limits::default(), &mut state);
                let Ok(Decoded::Command { consumed }) = decoded else { break };
                if let Some(key) = self.args.get(1) {
                    self.ahead.push((db, keystore.prefetch(view, db, &bytes[key.clone()])));
                }
                bytes = &mut bytes[consumed..];
            }
        }
        for &(db, hash) in &self.ahead {
            keystore.prefetch_entry(view, db, hash);
        }
        group
    }

    fn execute(&mut self, engine: &mut Engine, at: usize) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        let mut connection = &mut **connection;
        mark(&mut self.flushable, at);
        connection.output.begin_turn();
        let was_held = connection.output.held_until();
        match &mut connection.protocol {
            Protocol::Resp => {}
            Protocol::Control(peer) => {
                let bytes = &connection.input[connection.parsed..];
                let result = peer.feed(bytes, engine, &self.node, self.now, connection.output.buffer());
                connection.parsed = connection.input.len();
                if let Err(error) = result {
                    tracing::info!(error = format!("{error:#}"), peer = %connection.session.client.peer, "control connection ends");
                    connection.dead = true;
                }
                return;
            }
        }
        let config = Arc::clone(&self.config);
        let now = self.now;
        loop {
            // Nothing of a killed client is executed after the reply to who killed it.
            let killed = connection.session.client.killed.load(Ordering::Acquire);
            if connection.blocked.is_some() || connection.close_after_flush || connection.dead || killed {
                break;
            }
            if connection.parsed == connection.input.len() || connection.output.pending() > OUTPUT_BURST_BYTES
            {
                break;
            }
            let limits = resp::Limits {
                max_bulk_len: config.proto_max_bulk_len,
                authenticated: connection.session.authenticated,
            };
            let Connection { session, input, parsed, decode, output, .. } = connection;
            let bytes = &mut input[*parsed..];
            let consumed = match resp::decode(bytes, &mut self.args, &limits, decode) {
                Ok(Decoded::Incomplete) => {
                    if bytes.len() > config.client_query_buffer_limit {
                        tracing::warn!(
                            client = session.client.id,
                            "closing client that reached max query buffer length"
                        );
                        connection.dead = true;
                    }
                    break;
                }
                Ok(Decoded::Empty { consumed }) => {
                    connection.parsed += consumed;
                    continue;
                }
                Ok(Decoded::Command { consumed }) => consumed,
                Err(error) => {
                    stats::add(&self.node.stats.protocol_errors, 1);
                    error.push_reply(output.buffer());
                    connection.close_after_flush = true;
                    break;
                }
            };
            let start = output.position();
            let mut hold = Lsn::ZERO;
            let mut call = Call {
                node: &self.node,
                config: &config,
                engine,
                session,
                out: output.buffer(),
                now,
                hold: &mut hold,
            };
            let bytes = &*bytes;
            let flow = with_argv(bytes, &self.args, |argv| match commands::dispatch(&mut call, argv) {
                Flow::Stall(obstacle) => {
                    let argv = argv.iter().map(|arg| arg.to_vec()).collect();
                    Flow::Block(Blocked::Retry { argv, obstacle })
                }
                flow => flow,
            });
            connection.parsed += consumed;
            if !self.after_command(engine, at, start, hold, flow) {
                return;
            }
            let Some(again) = self.connections.get_mut(at) else { return };
            connection = &mut **again;
        }
        connection.session.client.active_at_ms.store(now.unix_ms, Ordering::Relaxed);
        self.note_held(at, was_held);
    }

    /// What follows from a command's outcome. Returns whether the connection still speaks RESP.
    fn after_command(&mut self, engine: &mut Engine, at: usize, start: usize, hold: Lsn, flow: Flow) -> bool {
        let Some(connection) = self.connections.get_mut(at) else { return false };
        apply_reply_mode(connection, start);
        if engine.must_hold(hold) && connection.output.position() > start {
            connection.output.hold(start, hold);
        }
        match flow {
            Flow::Continue | Flow::Stall(_) => {}
            Flow::Close => connection.close_after_flush = true,
            Flow::Block(reason) => {
                if let Blocked::Retry { obstacle: Obstacle::LogFull { .. }, .. } = reason {
                    stats::add(&self.node.stats.log_full_waits, 1);
                    engine.make_room(&self.node, self.now);
                }
                connection.blocked = Some(reason);
                block(&mut self.blocked, at, &connection.session.client);
            }
            Flow::Control(peer) => {
                connection.session.client.kind.store(ClientKind::Replica as u32, Ordering::Relaxed);
                engine.pubsub.forget(&connection.session.client);
                connection.protocol = Protocol::Control(peer);
                self.controls.push(at);
                return false;
            }
            Flow::Window(session) => {
                if let Err(error) = self.hand_over_window(engine, at, session) {
                    tracing::warn!(%error, "a window connection could not be used");
                }
                return false;
            }
        }
        true
    }

    /// Gives a connection's socket to the engine as a follower's window.
    fn hand_over_window(&mut self, engine: &mut Engine, at: usize, session: u64) -> anyhow::Result<()> {
        let connection = self.connections.remove(at);
        engine.pubsub.forget(&connection.session.client);
        self.node.clients.remove(connection.session.client.id);
        self.flushable.retain(|&other| other != at);
        let leftover = connection.output.sendable().to_vec();
        self.poll.remove(connection.stream.as_fd())?;
        let Stream::Tcp(stream) = connection.stream else {
            anyhow::bail!("a window connection must be TCP");
        };
        rustix::net::send(&stream, &leftover, rustix::net::SendFlags::NOSIGNAL)?;
        crate::replication::attach_window(engine, session, stream, self.index, self.now)
    }

    fn cron(&mut self) {
        let config = self.node.config();
        self.fail_overdue_held(UNCONFIRMED);
        self.speak_to_followers();
        let mut idle = Vec::new();
        for (at, connection) in &self.connections {
            let client = &connection.session.client;
            client.query_len_bytes.store(connection.unparsed(), Ordering::Relaxed);
            client.output_len_bytes.store(connection.output.pending(), Ordering::Relaxed);
            client.db.store(connection.session.db as u32, Ordering::Relaxed);
            if connection.session.last_command.is_some() {
                client.names.lock().last_command = connection.session.last_command;
            }
            let quiet_ms = self.now.unix_ms.saturating_sub(client.active_at_ms.load(Ordering::Relaxed));
            if config.timeout_s > 0
                && client.kind() == ClientKind::Normal
                && connection.blocked.is_none()
                && quiet_ms > config.timeout_s * 1000
            {
                idle.push(at);
            }
        }
        for at in idle {
            self.close(at);
        }
        self.close_stalled();
    }

    /// Closes connections over a limit that neither read nor are told anything more.
    fn close_stalled(&mut self) {
        let waiting: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.output.pending() > OUTPUT_SOON_BYTES)
            .map(|(at, _)| at)
            .collect();
        for at in waiting {
            if self.over_output_limit(at) {
                tracing::warn!(connection = at, "client closed for overcoming of output buffer limits");
                self.close(at);
            }
        }
    }

    /// Sends heartbeats and the like on the control channels, and closes those whose session is over.
    fn speak_to_followers(&mut self) {
        let node = Arc::clone(&self.node);
        let mut controls = std::mem::take(&mut self.controls);
        controls.retain(|&at| {
            let Some(connection) = self.connections.get_mut(at) else { return false };
            let Protocol::Control(peer) = &connection.protocol else { return false };
            let Some(id) = peer.session() else { return true };
            let congested = connection.output.pending() > 0;
            let mut engine = node.engine.lock();
            let outbox = engine.leading().and_then(|(_, sessions)| sessions.take_outbox(id, congested));
            match outbox {
                Some(bytes) => connection.output.buffer().extend_from_slice(&bytes),
                // That a follower has taken over, it says while or after its window closes.
                None => connection.dead |= !engine.stands_down(),
            }
            mark(&mut self.flushable, at);
            true
        });
        self.controls = controls;
    }

    fn take_messages(&mut self) -> io::Result<()> {
        for message in self.node.workers[self.index].take() {
            match message {
                Message::Accepted { stream, peer, local } => self.adopt(stream, peer, local)?,
                Message::Kill(id) => {
                    let at =
                        self.connections.iter().find(|(_, c)| c.session.client.id == id).map(|(at, _)| at);
                    if let Some(at) = at {
                        mark(&mut self.flushable, at);
                    }
                }
            }
        }
        Ok(())
    }

    /// On an orderly stop, sends what may still be sent.
    fn say_goodbye(&mut self) {
        let node = Arc::clone(&self.node);
        {
            let mut engine = node.engine.lock();
            engine.end_turn(&node, self.now);
            self.committed = engine.committed();
        }
        self.release_held();
        self.flush();
    }
}

fn mark(list: &mut Vec<usize>, at: usize) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}

fn block(list: &mut Vec<usize>, at: usize, client: &Client) {
    client.blocked.store(true, Ordering::Relaxed);
    if !list.contains(&at) {
        list.push(at);
    }
}

fn apply_reply_mode(connection: &mut Connection, start: usize) {
    match connection.session.reply_mode {
        ReplyMode::On => {}
        ReplyMode::Off => connection.output.buffer().truncate(start),
        ReplyMode::SkipNext => {
            connection.output.buffer().truncate(start);
            connection.session.reply_mode = ReplyMode::Skip;
        }
        ReplyMode::Skip => {
            connection.output.buffer().truncate(start);
            connection.session.reply_mode = ReplyMode::On;
        }
    }
    connection.output.buffer().append(&mut connection.session.pushed);
}

/// Arguments up to this many need no allocation.
const INLINE_ARGS: usize = 16;

fn with_argv<R>(bytes: &[u8], args: &[std::ops::Range<usize>], run: impl FnOnce(&[&[u8]]) -> R) -> R {
    if args.len() <= INLINE_ARGS {
        let mut argv: [&[u8]; INLINE_ARGS] = [&[]; INLINE_ARGS];
        for (slot, range) in argv.iter_mut().zip(args) {
            *slot = &bytes[range.clone()];
        }
        run(&argv[..args.len()])
    } else {
        let argv: Vec<&[u8]> = args.iter().map(|range| &bytes[range.clone()]).collect();
        run(&argv)
    }
}
