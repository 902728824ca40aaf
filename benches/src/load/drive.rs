//! The loop.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, recv};
use rustix::time::{ClockId, clock_gettime};

use super::connection::Connection;
use super::outcome::Outcome;
use super::reply::Reply;
use super::request::Composer;
use super::workload::{Limit, Workload};
use crate::stop::Stop;

/// Bytes that one read can bring. All connections share the buffer: what a read brought is counted before the next one.
const RECEIVE_LEN: usize = 64 << 10;
/// Sockets that one turn of the loop serves.
const EVENTS_MAX: usize = 1024;
/// How often the loop looks at the clock and at [`Stop`] when nothing arrives.
const IDLE_TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// A server that answers nobody for this long is given up.
const STALL: Duration = Duration::from_secs(30);

/// Why a run has no outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The workload contradicts itself.
    #[error("this workload makes no sense: {0}")]
    Workload(String),
    /// No connection could be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server.
        address: std::net::SocketAddr,
        /// What the kernel or, for AUTH, the server said.
        #[source]
        source: io::Error,
    },
    /// A connection broke in the middle of the run.
    #[error("connection broken after {requests} requests")]
    Broken {
        /// Requests that had ended.
        requests: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The server closed a connection.
    #[error("the server closed a connection after {requests} requests; errors before: {errors:?}")]
    Closed {
        /// Requests that had ended.
        requests: u64,
        /// Error replies until then, which may tell why.
        errors: super::ErrorTally,
    },
    /// The server sent something that is not RESP.
    #[error("not a reply: '{0}'")]
    Malformed(String),
    /// More replies came than were due.
    #[error("the server sent a reply that nobody asked for")]
    Unasked,
    /// No reply on any connection for a long time.
    #[error("no reply for {} s; {requests} requests had ended", STALL.as_secs())]
    Stalled {
        /// Requests that had ended.
        requests: u64,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// epoll failed.
    #[error("epoll")]
    Epoll(#[source] io::Error),
}

/// Runs `workload` to its limit.
///
/// # Errors
/// Anything that makes the figures worthless; error replies do not, they are counted.
pub fn run(workload: &Workload, stop: &Stop) -> Result<Outcome, LoadError> {
    if workload.connections == 0 || workload.pipeline == 0 {
        return Err(LoadError::Workload("there must be a connection and a request".into()));
    }
    let mut driver = Driver::new(workload)?;
    let mut connections = open_all(workload, &driver.epoll)?;
    let mut received = vec![0; RECEIVE_LEN];
    let mut events = Vec::with_capacity(EVENTS_MAX);
    driver.start_measuring();
    for (index, connection) in connections.iter_mut().enumerate() {
        driver.next_batch(connection, index)?;
    }
    while driver.busy > 0 {
        events.clear();
        match epoll::wait(&driver.epoll, rustix::buffer::spare_capacity(&mut events), Some(&IDLE_TICK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(LoadError::Epoll(error.into())),
        }
        driver.turn(events.is_empty(), stop)?;
        for event in &events {
            let index = event.data.u64() as usize;
            driver.serve(&mut connections[index], index, event.flags, &mut received)?;
        }
    }
    Ok(driver.finish())
}

fn open_all(workload: &Workload, epoll: &OwnedFd) -> Result<Vec<Connection>, LoadError> {
    let mut connections = Vec::with_capacity(workload.connections);
    for index in 0..workload.connections {
        let connection = Connection::open(workload)
            .map_err(|source| LoadError::Connect { address: workload.address, source })?;
        epoll::add(epoll, &connection.socket, EventData::new_u64(index as u64), connection.interest)
            .map_err(|error| LoadError::Epoll(error.into()))?;
        connections.push(connection);
    }
    Ok(connections)
}

/// The state of a run beside its connections.
struct Driver {
    epoll: OwnedFd,
    composer: Composer,
    pipeline: usize,
    /// Replies that one request brings.
    replies_each: usize,
    /// Requests that may still be sent.
    requests_left: u64,
    clock: Instant,
    /// When no further batch is sent, on `clock`.
    end_ns: u64,
    /// When measuring starts over, on `clock`; zero once it has.
    warm_ns: u64,
    measured_from_ns: u64,
    cpu_at_start: Duration,
    last_reply_ns: u64,
    /// Connections that have a batch on its way.
    busy: usize,
    outcome: Outcome,
}

impl Driver {
    fn new(workload: &Workload) -> Result<Self, LoadError> {
        let composer = Composer::new(workload).map_err(LoadError::Workload)?;
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| LoadError::Epoll(error.into()))?;
        let warm_ns = nanoseconds(workload.warmup);
        let (requests_left, end_ns) = match workload.limit {
            Limit::Requests(requests) => (requests, u64::MAX),
            Limit::Time(time) => (u64::MAX, warm_ns.saturating_add(nanoseconds(time))),
        };
        Ok(Self {
            epoll,
            composer,
            pipeline: workload.pipeline,
            replies_each: 1 + usize::from(workload.then.is_some()),
            requests_left,
            clock: Instant::now(),
            end_ns,
            warm_ns,
            measured_from_ns: 0,
            cpu_at_start: Duration::ZERO,
            last_reply_ns: 0,
            busy: 0,
            outcome: Outcome::new(),
        })
    }

    fn start_measuring(&mut self) {
        self.clock = Instant::now();
        self.cpu_at_start = process_cpu();
    }

    #[inline]
    fn now_ns(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// What happens once per turn of the loop and not per socket.
    fn turn(&mut self, idle: bool, stop: &Stop) -> Result<(), LoadError> {
        if stop.requested() {
            return Err(LoadError::Interrupted);
        }
        if idle && self.now_ns().saturating_sub(self.last_reply_ns) > nanoseconds(STALL) {
            return Err(LoadError::Stalled { requests: self.outcome.requests });
        }
        if self.warm_ns > 0 && self.last_reply_ns >= self.warm_ns {
            self.warm_ns = 0;
            self.measured_from_ns = self.last_reply_ns;
            self.cpu_at_start = process_cpu();
            self.outcome = Outcome::new();
        }
        Ok(())
    }

    /// Serves one socket that epoll found ready.
    #[inline]
    fn serve(
        &mut self,
        connection: &mut Connection,
        index: usize,
        ready: EventFlags,
        received: &mut [u8],
    ) -> Result<(), LoadError> {
        if ready.contains(EventFlags::OUT) {
            self.send(connection, index)?;
        }
        if !ready.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let len = match recv(&connection.socket, &mut *received, RecvFlags::empty()) {
            Ok((0, _)) => {
                return Err(LoadError::Closed {
                    requests: self.outcome.requests,
                    errors: self.outcome.errors.clone(),
                });
            }
            Ok((len, _)) => len,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(self.broken(error.into())),
        };
        let now_ns = self.now_ns();
        self.last_reply_ns = now_ns;
        self.count(connection, &received[..len], now_ns)?;
        if connection.replies_due > 0 {
            return Ok(());
        }
        self.busy -= 1;
        if now_ns < self.end_ns { self.next_batch_at(connection, index, now_ns) } else { Ok(()) }
    }

    /// Counts the replies in `bytes` and records the latency of the requests that they end.
    #[inline]
    fn count(&mut self, connection: &mut Connection, bytes: &[u8], now_ns: u64) -> Result<(), LoadError> {
        let outcome = &mut self.outcome;
        let mut replies = 0;
        connection
            .scanner
            .feed(bytes, |reply| {
                replies += 1;
                match reply {
                    Reply::Value => {}
                    Reply::Null => outcome.nulls += 1,
                    Reply::Error(text) => outcome.errors.add(text),
                }
            })
            .map_err(|malformed| LoadError::Malformed(malformed.0))?;
        let due_before = connection.replies_due;
        connection.replies_due = due_before.checked_sub(replies).ok_or(LoadError::Unasked)?;
        let ended = match self.replies_each {
            1 => replies,
            each => due_before.div_ceil(each) - connection.replies_due.div_ceil(each),
        } as u64;
        outcome.requests += ended;
        outcome.latency_ns.saturating_record_n(now_ns - connection.started_ns, ended);
        Ok(())
    }

    fn next_batch(&mut self, connection: &mut Connection, index: usize) -> Result<(), LoadError> {
        self.next_batch_at(connection, index, self.now_ns())
    }

    #[inline]
    fn next_batch_at(
        &mut self,
        connection: &mut Connection,
        index: usize,
        now_ns: u64,
    ) -> Result<(), LoadError> {
        let requests = self.requests_left.min(self.pipeline as u64);
        if requests == 0 {
            return Ok(());
        }
        self.requests_left -= requests;
        self.busy += 1;
        connection.begin_batch(now_ns);
        for _ in 0..requests {
            self.composer.append(&mut connection.out);
        }
        connection.replies_due = requests as usize * self.replies_each;
        self.send(connection, index)
    }

    /// Sends what the socket takes; only if that is not all does epoll watch for room.
    #[inline]
    fn send(&mut self, connection: &mut Connection, index: usize) -> Result<(), LoadError> {
        let all = connection.push_out().map_err(|error| self.broken(error))?;
        let interest = if all { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
        if interest != connection.interest {
            connection.interest = interest;
            epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(index as u64), interest)
                .map_err(|error| LoadError::Epoll(error.into()))?;
        }
        Ok(())
    }

    fn broken(&self, source: io::Error) -> LoadError {
        LoadError::Broken { requests: self.outcome.requests, source }
    }

    fn finish(mut self) -> Outcome {
        self.outcome.elapsed = Duration::from_nanos(self.last_reply_ns - self.measured_from_ns);
        self.outcome.client_cpu = process_cpu().saturating_sub(self.cpu_at_start);
        self.outcome
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time that this process has taken so far.
fn process_cpu() -> Duration {
    let taken = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(taken.tv_sec as u64, taken.tv_nsec as u32)
}
