//! The leader's end: a follower's window behind a network card.
//!
//! What the worker posts goes into a queue here, and from there to the card as far as its send queue, the staging ring and
//! the agent's patience allow; what did not fit goes with the next [`RemoteWindow::poll`] that has found something
//! completed. The card is asked to tell of an operation's success only where somebody needs to know: of a flush, of a request, and of
//! one operation in [`TELL_EVERY`], because its send queue gets its places back only with a completion.
//!
//! Operations are numbered as they are posted. A completion says that all up to its number are over, and so gives
//! back their places in the send queue, the places of the small messages (there is one for each place in the send queue) and what
//! they took of the staging ring.

use std::collections::VecDeque;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farkeep_proto::control::{FabricOffer, RdmaWindow};
use farkeep_proto::window::{TAIL_CELL_AT, TailCell};
use rpma_sys::{rpma_conn_private_data, rpma_conn_req};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::{
    Config, Connection, ConnectionEvent, Done, FLUSH_LEN, Post, Queues, RemoteRegion, Slot,
};
use super::device::Device;
use super::error::{CallError, Unusable};
use super::message::{Greeting, Mode, REQUEST_LEN, Request};
use super::region::{Registration, Source};
use super::staging::{SIDE_STAGING_LEN, STAGING_LEN, Staging};
use crate::tcp::frame::{ACK_LEN, Ack};
use crate::window::{Completion, FabricError, FabricKind, LogBytes, RemoteWindow, Sending, Ticket};

/// How many bytes may be posted to one follower before it has completed earlier ones; as over tcp.
pub const MAX_IN_FLIGHT_BYTES: u64 = 16 << 20;

/// Operations that may be with the card.
const MAX_POSTED: u32 = 256;
/// The card tells of one operation in so many at least.
const TELL_EVERY: u64 = 64;
/// Looks that find nothing completed for one that asks after events.
const LOOKS_PER_EVENT: u32 = 8;
/// Batches without a pause after which a tail cell goes with one.
const TAIL_EVERY: u64 = 64;
/// Messages to the agent that it has not answered; it has a place for each.
pub(super) const MAX_MESSAGES: u32 = 64;

/// Why a follower's window cannot be reached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The offer or the window makes no sense.
    #[error("the follower's offer makes no sense: {what} {found:?}")]
    Offer {
        /// What of it.
        what: &'static str,
        /// As it came.
        found: String,
    },
    /// The window is not as long as it is said to be.
    #[error("the follower's registered window has {found} bytes, {expected} were announced")]
    Length {
        /// What was announced.
        expected: u64,
        /// What is registered.
        found: u64,
    },
    /// The follower does not let this session in, or is not there.
    #[error("the follower at {0} does not accept the connection")]
    Refused(SocketAddr),
    /// No answer.
    #[error("the follower at {0} did not answer the connection request in time")]
    TimedOut(SocketAddr),
    /// Our own side is not up to it.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// A call failed.
    #[error("the connection to the follower failed: {0}")]
    Call(#[from] CallError),
    /// A call of the operating system failed.
    #[error("the connection to the follower failed: {0}")]
    System(#[from] io::Error),
}

enum Op {
    Write { offset: u64, source: LogBytes, done: u32 },
    Tail(TailCell),
    Flush(Ticket),
}

/// A follower's window.
pub struct Remote {
    connection: Connection,
    region: RemoteRegion,
    mode: Mode,
    /// Watches all that [`RemoteWindow::poll`] looks at.
    watch: OwnedFd,
    /// The leader's log, where the card reads it itself.
    ring: Option<Arc<Registration>>,
    /// For everything else.
    staging: Staging,
    /// Tail cells and requests on their way, one place for each place in the send queue.
    outbox: Arc<Registration>,
    /// Answers.
    inbox: Option<Arc<Registration>>,
    max_write_len: u32,
    window_len: u64,
    /// Not yet with the card.
    queue: VecDeque<Op>,
    /// The latest tail cell, if it has not gone, and the last ticket when one went.
    tail: Option<TailCell>,
    tail_after: Ticket,
    /// The number of the next operation.
    next: u64,
    /// All operations before this one are over.
    over: u64,
    /// The last operation that the card was asked to tell of.
    told: u64,
    /// The last ticket given out.
    issued: Ticket,
    /// Open tickets with the bytes that each of them covers.
    open: VecDeque<(Ticket, u64)>,
    /// Flushes with the card: number and ticket.
    flushes: VecDeque<(u64, Ticket)>,
    /// Bytes posted since the last flush.
    unflushed: u64,
    /// Bytes posted and not completed.
    in_flight: u64,
    /// Where the last write began: the place of the next flush.
    flush_at: u64,
    /// GPSPM: what the next request will say.
    request: Request,
    /// GPSPM: requests not yet answered: ticket, and messages sent up to it.
    requests: VecDeque<(Ticket, u64)>,
    /// GPSPM: the last ticket that was requested.
    requested: u64,
    /// GPSPM: messages sent, and those of them that the agent has surely taken.
    messages: u64,
    taken: u64,
    completions: Vec<Done>,
    /// Found when the caller was about to sleep; for the next [`RemoteWindow::poll`].
    early: Vec<Completion>,
    idle_looks: u32,
    broken: bool,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("mode", &self.mode)
            .field("staged", &self.is_staged())
            .field("issued", &self.issued)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

/// A connection request that deletes itself unless it becomes a connection.
pub(super) struct ConnectionRequest {
    device: Device,
    request: *mut rpma_conn_req,
}

impl ConnectionRequest {
    pub(super) fn new(device: &Device, request: *mut rpma_conn_req) -> Self {
        Self { device: device.clone(), request }
    }

    pub(super) fn as_ptr(&self) -> *mut rpma_conn_req {
        self.request
    }

    /// Gives the card places for the first messages, which may come as soon as there is a connection.
    pub(super) fn receive(&self, into: &Registration, count: u32, len: usize) -> Result<(), CallError> {
        for number in 0..count {
            let slot = Slot { number, len };
            // SAFETY: both objects are alive; whoever makes the connection makes it own the registration.
            let answer = unsafe {
                let context = number as usize as *const std::ffi::c_void;
                let rpma = self.device.rpma();
                rpma.rpma_conn_req_recv(self.request, into.mr(), slot.at(), len, context)
            };
            self.device.check("rpma_conn_req_recv", answer)?;
        }
        Ok(())
    }

    /// Asks for, or accepts, the connection. `used` is what will be posted from and received into.
    pub(super) fn connect(
        mut self,
        greeting: Option<Greeting>,
        used: Vec<Arc<Registration>>,
    ) -> Result<Connection, CallError> {
        let mut bytes = greeting.map(Greeting::to_bytes);
        let data = bytes
            .as_mut()
            .map(|bytes| rpma_conn_private_data { ptr: bytes.as_mut_ptr().cast(), len: bytes.len() as u8 });
        let data = data.as_ref().map_or(ptr::null(), ptr::from_ref);
        let mut conn = ptr::null_mut();
        // SAFETY: the request is alive and is used up by the call; librpma copies the private data.
        let answer =
            unsafe { self.device.rpma().rpma_conn_req_connect(&raw mut self.request, data, &raw mut conn) };
        self.device.check("rpma_conn_req_connect", answer)?;
        let conn = NonNull::new(conn).expect("librpma answered that there is one");
        Connection::new(&self.device, conn, used)
    }
}

impl Drop for ConnectionRequest {
    fn drop(&mut self) {
        if !self.request.is_null() {
            // SAFETY: not used up, and deleted once. To a request from a peer this is a refusal.
            unsafe { self.device.rpma().rpma_conn_req_delete(&raw mut self.request) };
        }
    }
}

/// Connects to a follower's window: `offer` is what its `Hello` offered, `window` what its `Ready` said. Waits for up to `timeout`,
/// so it is for a thread of its own.
///
/// # Errors
/// [`ConnectError`]; nothing has been written then.
pub fn connect(
    source: &Source,
    offer: &FabricOffer,
    window: &RdmaWindow,
    session: u64,
    timeout: Duration,
) -> Result<Remote, ConnectError> {
    let started = Instant::now();
    let address: SocketAddr = offer
        .address
        .parse()
        .map_err(|_| ConnectError::Offer { what: "address", found: offer.address.clone() })?;
    let mode = Mode::from_name(&window.mode)
        .ok_or_else(|| ConnectError::Offer { what: "mode", found: window.mode.clone() })?;
    let device = source.device();
    if !device.is_up() {
        return Err(Unusable::PortDown { device: device.name().to_owned() }.into());
    }
    let region = RemoteRegion::new(device, &window.descriptor)?;
    let found = region.len()?;
    if found != window.window_len || found < FLUSH_LEN {
        return Err(ConnectError::Length { expected: window.window_len, found });
    }

    let buffer = |len: usize, what| Registration::buffer(device, len, what).map(Arc::new);
    let outbox = buffer(MAX_POSTED as usize * REQUEST_LEN, "a buffer for messages")?;
    let inbox = match mode {
        Mode::Apm => None,
        Mode::Gpspm => Some(buffer(MAX_MESSAGES as usize * ACK_LEN, "a buffer for answers")?),
    };
    let staging_len = if source.ring().is_some() { SIDE_STAGING_LEN } else { STAGING_LEN };
    let staging = buffer(staging_len as usize, "a staging ring")?;
    let used = [Some(&outbox), inbox.as_ref(), source.ring(), Some(&staging)];
    let used: Vec<_> = used.into_iter().flatten().cloned().collect();

    let queues = Queues { sends: MAX_POSTED, receives: if inbox.is_some() { MAX_MESSAGES } else { 0 } };
    let config = Config::new(device, queues, timeout.as_millis().min(i32::MAX as u128) as i32)?;
    let mut connection = {
        let _turn = device.connecting();
        let request = new_request(device, address, &config)?;
        if let Some(inbox) = &inbox {
            request.receive(inbox, MAX_MESSAGES, ACK_LEN)?;
        }
        request.connect(Some(Greeting { session }), used)?
    };
    establish(&mut connection, address, timeout.saturating_sub(started.elapsed()))?;
    if mode == Mode::Apm {
        connection.assume_direct_write()?;
    }
    let watch = epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?;
    let completions = if mode == Mode::Apm { connection.sent_fd() } else { connection.received_fd() };
    for fd in [connection.event_fd(), completions] {
        epoll::add(&watch, fd, EventData::new_u64(0), EventFlags::IN).map_err(io::Error::from)?;
    }
    Ok(Remote {
        connection,
        region,
        mode,
        watch,
        ring: source.ring().cloned(),
        staging: Staging::new(staging, staging_len),
        outbox,
        inbox,
        max_write_len: device.max_write_len(),
        window_len: window.window_len,
        queue: VecDeque::new(),
        tail: None,
        tail_after: Ticket::default(),
        next: 0,
        over: 0,
        told: 0,
        issued: Ticket::default(),
        open: VecDeque::new(),
        flushes: VecDeque::new(),
        unflushed: 0,
        in_flight: 0,
        flush_at: TAIL_CELL_AT,
        request: Request::default(),
        requests: VecDeque::new(),
        requested: 0,
        messages: 0,
        taken: 0,
        completions: Vec::new(),
        early: Vec::new(),
        idle_looks: 0,
        broken: false,
    })
}

fn new_request(
    device: &Device,
    address: SocketAddr,
    config: &Config,
) -> Result<ConnectionRequest, CallError> {
    let host = CString::new(address.ip().to_string()).expect("an address has no zero byte");
    let port = CString::new(address.port().to_string()).expect("a number has no zero byte");
    let mut request = ptr::null_mut();
    // SAFETY: strings, a peer and a configuration that are alive, and a place for the answer.
    let answer = unsafe {
        device.rpma().rpma_conn_req_new(
            device.peer(),
            host.as_ptr(),
            port.as_ptr(),
            config.as_ptr(),
            &raw mut request,
        )
    };
    device.check("rpma_conn_req_new", answer)?;
    Ok(ConnectionRequest::new(device, request))
}

/// Waits until the connection is there.
fn establish(
    connection: &mut Connection,
    address: SocketAddr,
    timeout: Duration,
) -> Result<(), ConnectError> {
    let deadline = Instant::now() + timeout;
    loop {
        match connection.next_event()? {
            Some(ConnectionEvent::Established) => return Ok(()),
            Some(ConnectionEvent::Refused | ConnectionEvent::Ended) => {
                return Err(ConnectError::Refused(address));
            }
            None => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ConnectError::TimedOut(address));
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let fd = connection.event_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

impl Remote {
    /// What a completed ticket rests on.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether batches are copied on their way.
    pub fn is_staged(&self) -> bool {
        self.ring.is_none()
    }

    /// The number of the next operation and how to post it; `wanted` if somebody waits for its completion.
    fn number(&mut self, wanted: bool) -> Post {
        let number = self.next;
        let tells = wanted || number - self.told >= TELL_EVERY;
        if tells {
            self.told = number;
        }
        self.next += 1;
        Post { number, tells }
    }

    /// The place in the outbox of an operation.
    fn place(post: Post) -> usize {
        (post.number % u64::from(MAX_POSTED)) as usize * REQUEST_LEN
    }

    /// Lets a tail cell go, unless it comes with a batch. A write of its own costs as much as the batch does, and the records
    /// of the batch say the same to whoever looks for them; only when nothing follows them there is something to say. A link that
    /// never rests sends one now and then all the same.
    fn queue_tail(&mut self) {
        let batches = self.issued.get() - self.tail_after.get();
        if !self.queue.is_empty() && batches < TAIL_EVERY {
            return;
        }
        if let Some(cell) = self.tail.take() {
            self.tail_after = self.issued;
            self.queue.push_back(Op::Tail(cell));
        }
    }

    /// Hands to the card what it takes now.
    fn post_queue(&mut self) -> Result<Sending, FabricError> {
        while !self.queue.is_empty() {
            if self.next - self.over >= u64::from(MAX_POSTED) || !self.post_first()? {
                return Ok(Sending::Blocked);
            }
        }
        Ok(Sending::Done)
    }

    /// Posts the first operation of the queue, or a piece of it; `false` if there is no room for any of it.
    fn post_first(&mut self) -> Result<bool, FabricError> {
        match self.queue.front() {
            None => Ok(true),
            Some(Op::Write { .. }) => self.post_write(),
            Some(&Op::Tail(cell)) => {
                self.queue.pop_front();
                let post = self.number(false);
                self.outbox.store(Self::place(post), &cell.to_bytes());
                let len = farkeep_proto::window::TAIL_CELL_LEN as u32;
                self.connection
                    .write(&self.region, TAIL_CELL_AT, &self.outbox, Self::place(post), len, post)
                    .map_err(failed)?;
                self.nudge()?;
                Ok(true)
            }
            Some(&Op::Flush(ticket)) => match self.mode {
                Mode::Apm => {
                    self.queue.pop_front();
                    let post = self.number(true);
                    let at = self.flush_at.min(self.window_len - FLUSH_LEN);
                    self.connection.flush(&self.region, at, post).map_err(failed)?;
                    self.flushes.push_back((post.number, ticket));
                    Ok(true)
                }
                Mode::Gpspm if self.messages - self.taken >= u64::from(MAX_MESSAGES) => Ok(false),
                Mode::Gpspm => {
                    self.queue.pop_front();
                    let request = Request { seq: ticket.get(), ..std::mem::take(&mut self.request) };
                    self.send(&request)?;
                    self.requested = ticket.get();
                    self.requests.push_back((ticket, self.messages));
                    Ok(true)
                }
            },
        }
    }

    /// Posts a piece of the write at the head of the queue.
    fn post_write(&mut self) -> Result<bool, FabricError> {
        let Some(Op::Write { offset, source, done }) = self.queue.front_mut() else { return Ok(true) };
        let bytes = &source.bytes()[*done as usize..];
        let to = *offset + u64::from(*done);
        let direct = self.ring.as_ref().and_then(|ring| Some((ring, ring.offset_of(bytes)?)));
        let mut wanted = false;
        let (from, at, len) = match direct {
            Some((ring, at)) => {
                (Arc::clone(ring), at, (bytes.len() as u64).min(u64::from(self.max_write_len)))
            }
            None => {
                let number = self.next;
                match self.staging.copy(bytes, u64::from(self.max_write_len), number) {
                    Some(copied) => {
                        wanted = copied.tell;
                        (Arc::clone(self.staging.ring()), copied.at, copied.len)
                    }
                    None if bytes.is_empty() => (Arc::clone(self.staging.ring()), 0, 0),
                    None => return Ok(false),
                }
            }
        };
        *done += len as u32;
        if *done == source.len() {
            self.queue.pop_front();
        }
        if len == 0 {
            return Ok(true);
        }
        let post = self.number(wanted);
        self.connection.write(&self.region, to, &from, at, len as u32, post).map_err(failed)?;
        self.flush_at = to;
        if self.mode == Mode::Gpspm {
            self.request.add(to, to + len);
        }
        Ok(true)
    }

    /// Tells the agent that a tail cell has come, if it has a place to spare. It is a hint about a hint: where there is
    /// no room the next request does.
    fn nudge(&mut self) -> Result<(), FabricError> {
        let spare = self.messages - self.taken < u64::from(MAX_MESSAGES / 2)
            && self.next - self.over < u64::from(MAX_POSTED);
        if self.mode == Mode::Gpspm && spare {
            self.send(&Request::default())?;
        }
        Ok(())
    }

    fn send(&mut self, request: &Request) -> Result<(), FabricError> {
        let post = self.number(request.seq != 0);
        self.outbox.store(Self::place(post), &request.to_bytes());
        self.connection.send(&self.outbox, Self::place(post), REQUEST_LEN, post).map_err(failed)?;
        self.messages += 1;
        Ok(())
    }

    /// Takes completions; says whether there were any.
    fn collect(&mut self, done: &mut Vec<Completion>) -> Result<bool, FabricError> {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        let mut result = self.connection.take_sent(&mut completions).map_err(failed);
        let mut found = !completions.is_empty();
        let mut newest = None;
        for &completion in &completions {
            result = result.and_then(|()| self.connection.outcome(completion));
            if result.is_ok() {
                self.over_up_to(completion.context, &mut newest);
            }
        }
        if let Some(ticket) = newest {
            self.close_up_to(ticket);
            done.push(Completion { ticket, reported: None });
        }
        if result.is_ok() && self.mode == Mode::Gpspm {
            completions.clear();
            result = self.connection.take_received(&mut completions).map_err(failed);
            found |= !completions.is_empty();
            for &completion in &completions {
                result = result.and_then(|()| self.answered(completion, done));
            }
        }
        self.completions = completions;
        result.map(|()| found)
    }

    /// The card tells that the operation with this number is over, and with it all before.
    fn over_up_to(&mut self, number: u64, newest: &mut Option<Ticket>) {
        self.over = number + 1;
        self.staging.over_up_to(number);
        while let Some(&(flush, ticket)) = self.flushes.front()
            && flush <= number
        {
            *newest = Some(ticket);
            self.flushes.pop_front();
        }
    }

    fn close_up_to(&mut self, ticket: Ticket) {
        while let Some(&(open, bytes)) = self.open.front()
            && open <= ticket
        {
            self.in_flight -= bytes;
            self.open.pop_front();
        }
    }

    /// An answer of the agent.
    fn answered(&mut self, completion: Done, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        self.connection.outcome(completion)?;
        let Some(inbox) = &self.inbox else { return Ok(()) };
        let slot = Slot { number: completion.context as u32, len: ACK_LEN };
        if completion.len as usize != ACK_LEN {
            return Err(FabricError::Malformed { what: "an answer of another length" });
        }
        let ack = Ack::from_bytes(&inbox.load::<ACK_LEN>(slot.at()));
        self.connection.receive(inbox, slot).map_err(failed)?;
        if ack.seq > self.requested {
            return Err(FabricError::AcknowledgedTooMuch { acknowledged: ack.seq, posted: self.requested });
        }
        let ticket = Ticket::new(ack.seq);
        while let Some(&(request, messages)) = self.requests.front()
            && request <= ticket
        {
            self.taken = messages;
            self.requests.pop_front();
        }
        self.close_up_to(ticket);
        done.push(Completion { ticket, reported: Some(ack.reported) });
        Ok(())
    }

    /// Makes the descriptor tell of what completes; says whether nothing has yet.
    fn arm(&mut self) -> Result<bool, FabricError> {
        match self.mode {
            Mode::Apm => self.connection.arm_sent(),
            Mode::Gpspm => self.connection.arm_received(),
        }
        .map_err(failed)?;
        let mut early = std::mem::take(&mut self.early);
        let found = self.collect(&mut early);
        self.early = early;
        if found? {
            self.post_queue()?;
            return Ok(false);
        }
        // Whoever sleeps is woken by an event and looks once: that look has to find it.
        self.idle_looks = LOOKS_PER_EVENT - 1;
        Ok(self.early.is_empty())
    }

    fn advance(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        if self.collect(done)? {
            self.post_queue()?;
            return Ok(());
        }
        // Looking for an event is a system call. Whoever looks because the descriptor is readable comes back at once; whoever
        // looks all the time should not pay for it each time.
        self.idle_looks = (self.idle_looks + 1) % LOOKS_PER_EVENT;
        if self.idle_looks != 0 {
            return Ok(());
        }
        match self.connection.next_event().map_err(failed)? {
            Some(ConnectionEvent::Ended | ConnectionEvent::Refused) => Err(FabricError::Closed),
            Some(ConnectionEvent::Established) | None => Ok(()),
        }
    }
}

/// A call that fails on a connection means that the connection is of no more use.
pub(super) fn failed(error: CallError) -> FabricError {
    FabricError::Failed { status: error.to_string() }
}

impl RemoteWindow for Remote {
    fn kind(&self) -> FabricKind {
        FabricKind::Rdma
    }

    fn room(&self) -> u64 {
        MAX_IN_FLIGHT_BYTES - self.in_flight
    }

    fn write(&mut self, offset: u64, source: LogBytes) {
        let len = u64::from(source.len());
        assert!(len <= self.room(), "a write of {len} bytes was posted where {} fit", self.room());
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.window_len);
        assert!(fits, "a write of {len} bytes at {offset:#x} is beyond the window");
        self.in_flight += len;
        self.unflushed += len;
        self.queue.push_back(Op::Write { offset, source, done: 0 });
    }

    fn flush(&mut self) -> Ticket {
        self.issued = self.issued.next();
        self.open.push_back((self.issued, std::mem::take(&mut self.unflushed)));
        self.queue.push_back(Op::Flush(self.issued));
        self.issued
    }

    fn write_tail(&mut self, cell: TailCell) {
        self.tail = Some(cell);
    }

    fn kick(&mut self) -> Result<Sending, FabricError> {
        if self.broken {
            return Err(FabricError::Closed);
        }
        self.queue_tail();
        let result = self.post_queue();
        self.broken = result.is_err();
        result
    }

    fn poll(&mut self, done: &mut Vec<Completion>) -> Result<(), FabricError> {
        if self.broken {
            return Err(FabricError::Closed);
        }
        done.append(&mut self.early);
        let result = self.advance(done);
        self.broken = result.is_err();
        result
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.watch.as_fd())
    }

    fn rest(&mut self) -> Result<bool, FabricError> {
        if self.broken {
            return Err(FabricError::Closed);
        }
        let result = self.arm();
        self.broken = result.is_err();
        result
    }
}
