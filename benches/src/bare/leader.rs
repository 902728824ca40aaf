//! The leader: one turn of the loop reads, appends, persists, ships, and answers what is acknowledged.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use farkeep_core::pmem::map::Region;
use farkeep_proto::redo::{Flags, RecordBuilder, RecordMeta, bytes_header_len, record_len};
use farkeep_proto::resp::{DecodeState, Decoded, Limits, decode};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::ring::RING_LEN;

/// Bytes that one read can bring, and that a connection's unfinished request can have.
const RECEIVE_LEN: usize = 256 << 10;
/// Sockets that one turn of the loop serves.
const EVENTS_MAX: usize = 1024;
/// Bytes of the table that stands in for the keystore; keys are spread over it by their digits.
const TABLE_LEN: usize = 128 << 20;
/// A follower that does not listen after this long is given up …
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
/// … and until then tried again this often.
const CONNECT_AGAIN: Duration = Duration::from_millis(5);
/// Marks the listener among the loop's events.
const LISTENER: u64 = u64::MAX;
/// Marks the follower among the loop's events.
const FOLLOWER: u64 = u64::MAX - 1;

struct Client {
    socket: TcpStream,
    /// The first part of a request whose end has not arrived.
    pending: Vec<u8>,
    state: DecodeState,
    replies: Vec<u8>,
}

struct Leader {
    ring: Region,
    epoll: OwnedFd,
    follower: Option<TcpStream>,
    /// The first part of an acknowledgement.
    ack: Vec<u8>,
    clients: Vec<Option<Client>>,
    table: Vec<u8>,
    prev_crc: u32,
    appended: u64,
    shipped: u64,
    committed: u64,
    /// Who waits for what, in order.
    held: VecDeque<(u64, usize)>,
}

/// Serves until it fails or is killed.
pub fn run(ring: Region, address: SocketAddr, follower: Option<SocketAddr>) -> anyhow::Result<()> {
    let follower = follower.map(connect).transpose().context("cannot reach the follower")?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    if let Some(follower) = &follower {
        follower.set_nodelay(true)?;
        epoll::add(&epoll, follower, EventData::new_u64(FOLLOWER), EventFlags::IN)?;
    }
    let mut leader = Leader {
        ring,
        epoll,
        follower,
        ack: Vec::new(),
        clients: Vec::new(),
        table: vec![0; TABLE_LEN],
        prev_crc: 0,
        appended: 0,
        shipped: 0,
        committed: 0,
        held: VecDeque::new(),
    };
    let mut events = Vec::with_capacity(EVENTS_MAX);
    let mut received = vec![0; RECEIVE_LEN];
    let mut args = Vec::new();
    loop {
        events.clear();
        match epoll::wait(&leader.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => leader.accept(&listener)?,
                FOLLOWER => leader.take_acks(&mut received)?,
                index => leader.take_requests(index as usize, &mut received, &mut args)?,
            }
        }
        leader.persist_and_ship()?;
        leader.answer()?;
    }
}

/// Connects to a follower that may have been started a moment ago and not listen yet.
fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Err(error)
                if error.kind() == io::ErrorKind::ConnectionRefused && begun.elapsed() < LISTENS_WITHIN =>
            {
                thread::sleep(CONNECT_AGAIN);
            }
            outcome => return outcome,
        }
    }
}

impl Leader {
    fn accept(&mut self, listener: &TcpListener) -> anyhow::Result<()> {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let vacant = self.clients.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.clients.len());
        epoll::add(&self.epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        let client =
            Client { socket, pending: Vec::new(), state: DecodeState::default(), replies: Vec::new() };
        match vacant {
            Some(index) => self.clients[index] = Some(client),
            None => self.clients.push(Some(client)),
        }
        Ok(())
    }

    /// Executes whatever a client has sent. Its replies are held.
    fn take_requests(
        &mut self,
        index: usize,
        received: &mut [u8],
        args: &mut Vec<Range<usize>>,
    ) -> anyhow::Result<()> {
        let Some(mut client) = self.clients[index].take() else { return Ok(()) };
        let kept = client.pending.len();
        received[..kept].copy_from_slice(&client.pending);
        let len = match recv(&client.socket, &mut received[kept..], RecvFlags::empty()) {
            Ok((0, _)) | Err(_) => return Ok(()),
            Ok((len, _)) => kept + len,
        };
        let mut done = 0;
        loop {
            match decode(&mut received[done..len], args, &Limits::default(), &mut client.state)? {
                Decoded::Command { consumed } => {
                    self.execute(&received[done..len], args, &mut client.replies)?;
                    done += consumed;
                }
                Decoded::Empty { consumed } => done += consumed,
                Decoded::Incomplete => break,
            }
        }
        client.pending.clear();
        client.pending.extend_from_slice(&received[done..len]);
        self.held.push_back((self.appended, index));
        self.clients[index] = Some(client);
        Ok(())
    }

    fn execute(
        &mut self,
        request: &[u8],
        args: &[Range<usize>],
        replies: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        match args {
            [ping] if request[ping.clone()].eq_ignore_ascii_case(b"PING") => {
                replies.extend_from_slice(b"+PONG\r\n");
            }
            [set, key, value] if request[set.clone()].eq_ignore_ascii_case(b"SET") => {
                self.store(&request[key.clone()], &request[value.clone()]);
                replies.extend_from_slice(b"+OK\r\n");
            }
            _ => replies.extend_from_slice(b"-ERR the bare loop knows PING and SET\r\n"),
        }
        ensure!(self.appended - self.committed < RING_LEN / 2, "the follower is too far behind");
        Ok(())
    }

    /// Stores key and value in the table and the same bytes, as a record, in the ring.
    fn store(&mut self, key: &[u8], value: &[u8]) {
        let number = key.iter().fold(0_usize, |number, digit| number.wrapping_mul(10) + usize::from(*digit));
        let entry_len = key.len() + value.len();
        let at = (number * entry_len) % (TABLE_LEN - entry_len);
        let entry = &mut self.table[at..at + entry_len];
        entry[..key.len()].copy_from_slice(key);
        entry[key.len()..].copy_from_slice(value);
        let len = record_len(bytes_header_len(entry_len) + entry_len) as u64;
        if self.appended % RING_LEN + len > RING_LEN {
            self.appended = self.appended.next_multiple_of(RING_LEN);
        }
        let meta = RecordMeta {
            lsn: self.appended,
            prev_crc: self.prev_crc,
            epoch: 1,
            committed_lsn: self.committed / 8 * 8,
            flags: Flags::COMMIT,
        };
        self.prev_crc = self.ring.with_mut(self.appended % RING_LEN, len as usize, |record| {
            let mut builder = RecordBuilder::new(record);
            builder.bytes(at as u64, entry);
            builder.finish(meta)
        });
        self.appended += len;
    }

    fn persist_and_ship(&mut self) -> anyhow::Result<()> {
        while self.shipped < self.appended {
            let at = self.shipped % RING_LEN;
            let len = (self.appended - self.shipped).min(RING_LEN - at) as usize;
            self.ring.flush(at, len);
            if let Some(follower) = &mut self.follower {
                follower.write_all(self.ring.bytes(at, len)).context("the follower is gone")?;
            }
            self.shipped += len as u64;
        }
        self.ring.fence();
        if self.follower.is_none() {
            self.committed = self.appended;
        }
        Ok(())
    }

    fn take_acks(&mut self, received: &mut [u8]) -> anyhow::Result<()> {
        let Some(follower) = &self.follower else { return Ok(()) };
        let len = recv(follower, &mut *received, RecvFlags::empty())?.0;
        ensure!(len > 0, "the follower is gone");
        self.ack.extend_from_slice(&received[..len]);
        let whole = self.ack.len() / 8 * 8;
        if let Some(last) = self.ack[..whole].last_chunk::<8>() {
            self.committed = u64::from_le_bytes(*last);
            self.ack.drain(..whole);
        }
        Ok(())
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        while let Some((_, index)) = self.held.pop_front_if(|(lsn, _)| *lsn <= self.committed) {
            let Some(client) = &mut self.clients[index] else { continue };
            // Replies are few and short: they fit the socket's buffer, for a client has at most one batch unanswered.
            if !client.replies.is_empty()
                && send(&client.socket, &client.replies, SendFlags::NOSIGNAL).is_err()
            {
                self.clients[index] = None;
                continue;
            }
            client.replies.clear();
        }
        Ok(())
    }
}
