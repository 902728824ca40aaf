//! A worker's sockets: accepting, reading, writing, closing.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::connection::{Connection, Protocol, ReadOutcome, Session, Stream};
use super::poll::{Interest, Ready};
use super::{Listener, Worker, mark};
use crate::clients::ClientKind;
use crate::config::ClientClass;
use crate::node::Message;
use crate::stats;

/// Connections accepted in one go, so that a storm of them does not starve the others.
const ACCEPT_BURST: usize = 64;

impl Worker {
    pub(super) fn accept(&mut self, listener: usize) -> io::Result<()> {
        for _ in 0..ACCEPT_BURST {
            let accepted = match &self.listeners[listener] {
                Listener::Tcp(socket) => socket.accept().map(|(stream, peer)| {
                    let local = stream.local_addr().map_or_else(|_| String::new(), |addr| addr.to_string());
                    (Stream::Tcp(stream), peer.to_string(), local)
                }),
                Listener::Unix(socket) => socket.accept().map(|(stream, _)| {
                    let path = self.node.config().unixsocket.clone().unwrap_or_default();
                    (Stream::Unix(stream), format!("{path}:0"), format!("{path}:0"))
                }),
            };
            let (stream, peer, local) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    return Ok(());
                }
            };
            let target = self.next_worker % self.node.workers.len();
            self.next_worker += 1;
            if target == self.index {
                self.adopt(stream, peer, local)?;
            } else {
                self.node.workers[target].send(Message::Accepted { stream, peer, local });
            }
        }
        Ok(())
    }

    pub(super) fn adopt(&mut self, stream: Stream, peer: String, local: String) -> io::Result<()> {
        stats::add(&self.node.stats.connections, 1);
        let config = self.node.config();
        let refusal = if self.node.clients.len() >= config.maxclients {
            stats::add(&self.node.stats.rejected_connections, 1);
            Some("-ERR max number of clients reached\r\n")
        } else {
            config.protected_mode_refusal(&peer)
        };
        match &stream {
            Stream::Tcp(socket) => {
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                if config.tcp_keepalive_s > 0 {
                    rustix::net::sockopt::set_socket_keepalive(socket, true)?;
                    let idle = std::time::Duration::from_secs(config.tcp_keepalive_s);
                    rustix::net::sockopt::set_tcp_keepidle(socket, idle)?;
                }
            }
            Stream::Unix(socket) => socket.set_nonblocking(true)?,
        }
        if let Some(text) = refusal {
            // The client may be gone already; there is nobody else to tell.
            let _ = rustix::net::send(&stream, text.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
            return Ok(());
        }
        let fd = std::os::fd::AsRawFd::as_raw_fd(&stream.as_fd());
        let client = self.node.clients.add(peer, local, fd, self.index, self.now.unix_ms);
        let session = Session::new(Arc::clone(&client), config.requirepass.is_none());
        let entry = self.connections.vacant_entry();
        client.slot.store(entry.key(), Ordering::Relaxed);
        self.poll.add(&stream, entry.key() as u64, Interest::READ)?;
        entry.insert(Box::new(Connection::new(stream, session)));
        Ok(())
    }

    pub(super) fn flush(&mut self) {
        let mut flushable = std::mem::take(&mut self.flushable);
        for &at in &flushable {
            let Some(connection) = self.connections.get_mut(at) else { continue };
            let before = connection.output.pending();
            let result = if before == 0 { Ok(true) } else { connection.write() };
            let written = (before - connection.output.pending()) as u64;
            if written > 0 {
                self.tally.writes += 1;
                self.tally.output_bytes += written;
            }
            let killed = connection.session.client.killed.load(Ordering::Relaxed);
            let done = match result {
                Err(_) => true,
                Ok(_) if connection.dead || killed => true,
                Ok(all_sent) => {
                    if all_sent == connection.watches_writable {
                        connection.watches_writable = !all_sent;
                        let interest = Interest { readable: !connection.half_closed, writable: !all_sent };
                        if self.poll.modify(&connection.stream, at as u64, interest).is_err() {
                            connection.dead = true;
                        }
                    }
                    connection.close_after_flush && connection.output.pending() == 0
                }
            };
            if done {
                self.close(at);
            } else if self.over_output_limit(at) {
                tracing::warn!(connection = at, "client closed for overcoming of output buffer limits");
                self.close(at);
            } else if let Some(connection) = self.connections.get(at)
                && connection.unparsed() > 0
                && connection.blocked.is_none()
                && connection.output.pending() == 0
                && connection.output.sendable().is_empty()
                && !connection.decode.is_mid_command()
            {
                // The burst limit stopped it with commands left: go on in the next turn.
                self.runnable.push(at);
            }
        }
        flushable.clear();
        self.flushable = flushable;
        if !self.runnable.is_empty() {
            self.node.workers[self.index].waker.wake();
        }
    }

    /// Whether more waits to be sent to a connection than its class allows, at once or for too long.
    pub(super) fn over_output_limit(&mut self, at: usize) -> bool {
        let Some(connection) = self.connections.get_mut(at) else { return false };
        let class = match connection.session.client.kind() {
            ClientKind::Normal => ClientClass::Normal,
            ClientKind::Replica => ClientClass::Replica,
            ClientKind::Pubsub => ClientClass::Pubsub,
        };
        let limit = self.config.output_buffer_limit(class);
        let pending = connection.output.pending();
        if limit.hard_bytes > 0 && pending > limit.hard_bytes {
            return true;
        }
        if limit.soft_bytes == 0 || pending <= limit.soft_bytes {
            connection.over_soft_limit_since_ms = None;
            return false;
        }
        let since_ms = *connection.over_soft_limit_since_ms.get_or_insert(self.now.ms);
        self.now.ms - since_ms > limit.soft_s * 1000
    }

    pub(super) fn close(&mut self, at: usize) {
        let connection = self.connections.remove(at);
        // Closing the descriptor takes it out of the poller.
        self.node.clients.remove(connection.session.client.id);
        if connection.session.client.watching.load(Ordering::Relaxed) {
            self.node.engine.lock().unwatch(&connection.session.client);
        }
        if connection.session.client.subscribes() {
            self.node.engine.lock().pubsub.forget(&connection.session.client);
        }
        if let Protocol::Control(peer) = &connection.protocol {
            peer.closed(&mut self.node.engine.lock());
        }
    }

    pub(super) fn connection_ready(&mut self, at: usize, event: Ready) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        if event.writable {
            mark(&mut self.flushable, at);
        }
        if !event.readable || connection.dead {
            return;
        }
        if connection.unparsed() > 0 && connection.blocked.is_some() {
            // Backpressure: a connection that waits does not get to fill our memory, but its end is noticed.
            let limit = self.config.client_query_buffer_limit;
            if connection.unparsed() >= limit.min(1024 * 1024) {
                return;
            }
        }
        self.tally.reads += 1;
        let before = connection.input.len();
        match connection.read() {
            ReadOutcome::Data => {
                let count = connection.input.len().saturating_sub(before) as u64;
                self.tally.input_bytes += count;
                self.runnable.push(at);
            }
            ReadOutcome::Empty => {}
            ReadOutcome::Closed if connection.output.pending() > 0 && !connection.half_closed => {
                // The peer has said all it wanted to, but may still listen for the replies that are held.
                connection.half_closed = true;
                connection.close_after_flush = true;
                let interest = Interest { readable: false, writable: connection.watches_writable };
                connection.dead = self.poll.modify(&connection.stream, at as u64, interest).is_err();
                mark(&mut self.flushable, at);
            }
            ReadOutcome::Closed => {
                connection.dead = true;
                mark(&mut self.flushable, at);
            }
        }
    }
}
