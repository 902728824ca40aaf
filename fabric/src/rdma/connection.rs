//! One connection: a queue pair, its completion queues and its events.
//!
//! [`Connection`] is the poster's and can only be owned by one thread at a time. [`Raw`] is the part that may be
//! shared, and can do one thing: hang up. That is what a fence needs while another thread is asleep over the connection.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rpma_sys::{
    RPMA_CONN_ESTABLISHED, RPMA_CONN_REJECTED, RPMA_CONN_UNDEFINED, RPMA_CONN_UNREACHABLE,
    RPMA_E_NO_COMPLETION, RPMA_E_NO_EVENT, RPMA_F_COMPLETION_ALWAYS, RPMA_F_COMPLETION_ON_ERROR,
    RPMA_FLUSH_TYPE_PERSISTENT, ibv_wc,
    ibv_wc_status::{IBV_WC_SUCCESS, IBV_WC_WR_FLUSH_ERR},
    rpma_conn, rpma_conn_cfg, rpma_cq, rpma_mr_remote,
};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::device::Device;
use super::error::CallError;
use super::reaper::{self, Remains};
use super::region::Registration;
use crate::window::FabricError;

/// Completions taken from a queue at a time.
const COMPLETIONS_AT_A_TIME: usize = 16;

/// How large the queues of a connection are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queues {
    /// Operations that may be posted and not yet completed.
    pub(super) sends: u32,
    /// Messages that may arrive; with any, they complete in a queue of their own.
    pub(super) receives: u32,
}

/// A `rpma_conn_cfg`, as long as it is needed.
pub(super) struct Config {
    device: Device,
    cfg: *mut rpma_conn_cfg,
}

impl Config {
    pub(super) fn new(device: &Device, queues: Queues, timeout_ms: i32) -> Result<Self, CallError> {
        let rpma = device.rpma();
        let mut cfg = ptr::null_mut();
        // SAFETY: the answer has a place.
        let answer = unsafe { rpma.rpma_conn_cfg_new(&raw mut cfg) };
        device.check("rpma_conn_cfg_new", answer)?;
        let this = Self { device: device.clone(), cfg };
        // SAFETY: the configuration was just made and is nobody else's.
        unsafe {
            device.check("rpma_conn_cfg_set_timeout", rpma.rpma_conn_cfg_set_timeout(cfg, timeout_ms))?;
            device.check("rpma_conn_cfg_set_sq_size", rpma.rpma_conn_cfg_set_sq_size(cfg, queues.sends))?;
            device.check("rpma_conn_cfg_set_cq_size", rpma.rpma_conn_cfg_set_cq_size(cfg, queues.sends))?;
            if queues.receives > 0 {
                let receives = queues.receives;
                device.check("rpma_conn_cfg_set_rq_size", rpma.rpma_conn_cfg_set_rq_size(cfg, receives))?;
                device.check("rpma_conn_cfg_set_rcq_size", rpma.rpma_conn_cfg_set_rcq_size(cfg, receives))?;
            }
        }
        Ok(this)
    }

    pub(super) fn as_ptr(&self) -> *const rpma_conn_cfg {
        self.cfg
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: made in `new`, and deleted once.
        unsafe { self.device.rpma().rpma_conn_cfg_delete(&raw mut self.cfg) };
    }
}

/// What of a connection may be shared: its existence, and the right to end it.
pub(super) struct Raw {
    device: Device,
    conn: NonNull<rpma_conn>,
}

// SAFETY: the connection is used by one thread at a time, which owns the `Connection`; what `Raw` offers is made of calls
// that librdmacm takes from any thread.
unsafe impl Send for Raw {}
// SAFETY: as for Send.
unsafe impl Sync for Raw {}

impl Raw {
    /// The device that it goes through.
    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Ends the connection at once: everything open fails, here and at the peer, and nothing more is accepted. Waits
    /// for nobody.
    pub(super) fn disconnect(&self) -> Result<(), CallError> {
        // SAFETY: the connection lives as long as `self`. The call moves the queue pair into its error state and sends
        // a message; it touches nothing of librpma's that the poster uses.
        let answer = unsafe { self.device.rpma().rpma_conn_disconnect(self.conn.as_ptr()) };
        self.device.check("rpma_conn_disconnect", answer)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut conn = self.conn.as_ptr();
        // SAFETY: the last owner; nobody posts or polls any more.
        unsafe { self.device.rpma().rpma_conn_delete(&raw mut conn) };
    }
}

/// Something that was posted has come to an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// What it was posted with.
    pub(super) context: u64,
    /// 0, or why it failed.
    pub(super) status: u32,
    /// Length of a message that was received.
    pub(super) len: u32,
}

/// A completion queue whose descriptor becomes readable with its next completion.
struct Queue {
    cq: NonNull<rpma_cq>,
    fd: RawFd,
    /// A completion was taken since the queue was last armed, so the descriptor is readable or will be. It stays so, and costs
    /// no further completion anything, until somebody wants to sleep on it: [`arm`].
    announced: bool,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionEvent {
    Established,
    Ended,
    Refused,
}

/// A connection in the hands of its poster.
pub(super) struct Connection {
    raw: Arc<Raw>,
    sent: Queue,
    received: Option<Queue>,
    event_fd: RawFd,
    used: Vec<Arc<Registration>>,
    /// One poster: the type may move to another thread, but not be shared by two.
    _one_poster: PhantomData<Cell<()>>,
}

// SAFETY: all of it may be used by any one thread; the pointers belong to the connection.
unsafe impl Send for Connection {}

impl Connection {
    /// Takes over a connection that is being established. `used` is what will be posted from or received into.
    pub(super) fn new(
        device: &Device,
        conn: NonNull<rpma_conn>,
        used: Vec<Arc<Registration>>,
    ) -> Result<Self, CallError> {
        let raw = Arc::new(Raw { device: device.clone(), conn });
        let rpma = device.rpma();
        let (mut cq, mut rcq, mut event_fd) = (ptr::null_mut(), ptr::null_mut(), -1);
        // SAFETY: the connection is alive, and the answers have places.
        unsafe {
            device.check("rpma_conn_get_cq", rpma.rpma_conn_get_cq(conn.as_ptr(), &raw mut cq))?;
            device.check("rpma_conn_get_rcq", rpma.rpma_conn_get_rcq(conn.as_ptr(), &raw mut rcq))?;
            let answer = rpma.rpma_conn_get_event_fd(conn.as_ptr(), &raw mut event_fd);
            device.check("rpma_conn_get_event_fd", answer)?;
        }
        let queue = |cq: *mut rpma_cq| -> Result<Option<Queue>, CallError> {
            let Some(cq) = NonNull::new(cq) else { return Ok(None) };
            let mut fd = -1;
            // SAFETY: the queue belongs to the connection.
            let answer = unsafe { rpma.rpma_cq_get_fd(cq.as_ptr(), &raw mut fd) };
            device.check("rpma_cq_get_fd", answer)?;
            never_wait_on(fd)?;
            Ok(Some(Queue { cq, fd, announced: false }))
        };
        never_wait_on(event_fd)?;
        let sent = queue(cq)?.expect("every connection has a queue for what it sends");
        Ok(Self { sent, received: queue(rcq)?, event_fd, raw, used, _one_poster: PhantomData })
    }

    pub(super) fn raw(&self) -> &Arc<Raw> {
        &self.raw
    }

    fn conn(&self) -> *mut rpma_conn {
        self.raw.conn.as_ptr()
    }

    fn device(&self) -> &Device {
        &self.raw.device
    }

    /// Readable when there is an event.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the connection's and is closed with it.
        unsafe { BorrowedFd::borrow_raw(self.event_fd) }
    }

    /// Readable when something that was sent has completed and was asked to say so.
    pub(super) fn sent_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: as above.
        unsafe { BorrowedFd::borrow_raw(self.sent.fd) }
    }

    /// Readable when a message has arrived.
    pub(super) fn received_fd(&self) -> BorrowedFd<'_> {
        let fd = self.received.as_ref().map_or(self.sent.fd, |queue| queue.fd);
        // SAFETY: as above.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Says that the remote side's memory can be flushed to persistence by its card alone.
    pub(super) fn assume_direct_write(&mut self) -> Result<(), CallError> {
        let (device, rpma) = (self.device(), self.device().rpma());
        let mut cfg = ptr::null_mut();
        // SAFETY: the answer has a place; the configuration is deleted below, after librpma has copied what it says.
        unsafe {
            device.check("rpma_peer_cfg_new", rpma.rpma_peer_cfg_new(&raw mut cfg))?;
            let set = rpma.rpma_peer_cfg_set_direct_write_to_pmem(cfg, true);
            let applied = rpma.rpma_conn_apply_remote_peer_cfg(self.conn(), cfg);
            rpma.rpma_peer_cfg_delete(&raw mut cfg);
            device.check("rpma_peer_cfg_set_direct_write_to_pmem", set)?;
            device.check("rpma_conn_apply_remote_peer_cfg", applied)
        }
    }

    /// Posts a write of `len` bytes. The source's bytes stay as they are until it has completed, or something posted
    /// later has; the source is among the registrations that the connection owns.
    pub(super) fn write(
        &mut self,
        to: &RemoteRegion,
        to_offset: u64,
        from: &Registration,
        from_offset: usize,
        len: u32,
        post: Post,
    ) -> Result<(), CallError> {
        // SAFETY: all four objects are alive; the card reads the source only while the registration, which this connection
        // owns a share of until it is deleted, is.
        let answer = unsafe {
            self.device().rpma().rpma_write(
                self.conn(),
                to.as_ptr(),
                to_offset as usize,
                from.mr(),
                from_offset,
                len as usize,
                post.flags(),
                post.context(),
            )
        };
        self.device().check("rpma_write", answer)
    }

    /// Posts a persistent flush at an offset of at least 8 bytes before the region's end; all writes posted before are
    /// covered by it.
    pub(super) fn flush(&mut self, to: &RemoteRegion, at: u64, post: Post) -> Result<(), CallError> {
        // SAFETY: both objects are alive; what the card reads back goes into librpma's own buffer.
        let answer = unsafe {
            self.device().rpma().rpma_flush(
                self.conn(),
                to.as_ptr(),
                at as usize,
                FLUSH_LEN as usize,
                RPMA_FLUSH_TYPE_PERSISTENT,
                post.flags(),
                post.context(),
            )
        };
        self.device().check("rpma_flush", answer)
    }

    /// Posts a message. The bytes stay as they are until it has completed.
    pub(super) fn send(
        &mut self,
        from: &Registration,
        at: usize,
        len: usize,
        post: Post,
    ) -> Result<(), CallError> {
        // SAFETY: as for `write`.
        let answer = unsafe {
            self.device().rpma().rpma_send(self.conn(), from.mr(), at, len, post.flags(), post.context())
        };
        self.device().check("rpma_send", answer)
    }

    /// Gives the card a place for one message.
    pub(super) fn receive(&mut self, into: &Registration, slot: Slot) -> Result<(), CallError> {
        // SAFETY: as for `write`; the card stores into the place until the completion, and nobody looks there before.
        let answer = unsafe {
            let context = slot.number as usize as *const c_void;
            self.device().rpma().rpma_recv(self.conn(), into.mr(), slot.at(), slot.len, context)
        };
        self.device().check("rpma_recv", answer)
    }

    /// Adds what has completed of what was sent, in order.
    pub(super) fn take_sent(&mut self, into: &mut Vec<Done>) -> Result<(), CallError> {
        take(&self.raw.device, &mut self.sent, into)
    }

    /// Adds the messages that have arrived, in order.
    pub(super) fn take_received(&mut self, into: &mut Vec<Done>) -> Result<(), CallError> {
        match &mut self.received {
            Some(queue) => take(&self.raw.device, queue, into),
            None => Ok(()),
        }
    }

    /// From now on the next thing that completes makes [`Connection::sent_fd`] readable, if nothing did before. What came
    /// meanwhile does not: look once more before you sleep.
    pub(super) fn arm_sent(&mut self) -> Result<(), CallError> {
        arm(&self.raw.device, &mut self.sent)
    }

    /// The same for [`Connection::received_fd`] and messages.
    pub(super) fn arm_received(&mut self) -> Result<(), CallError> {
        match &mut self.received {
            Some(queue) => arm(&self.raw.device, queue),
            None => Ok(()),
        }
    }

    /// Takes the next event, if there is one.
    pub(super) fn next_event(&mut self) -> Result<Option<ConnectionEvent>, CallError> {
        let mut event = RPMA_CONN_UNDEFINED;
        // SAFETY: the connection is alive, and the answer has a place. The descriptor does not block.
        let answer = unsafe { self.device().rpma().rpma_conn_next_event(self.conn(), &raw mut event) };
        match self.device().check("rpma_conn_next_event", answer) {
            Ok(()) => {}
            Err(_) if answer == RPMA_E_NO_EVENT => return Ok(None),
            // librpma was made for descriptors that block, and passes on what one that does not says.
            Err(error) if error.is_errno(Errno::AGAIN) => return Ok(None),
            Err(error) => return Err(error),
        }
        Ok(Some(match event {
            RPMA_CONN_ESTABLISHED => ConnectionEvent::Established,
            RPMA_CONN_REJECTED | RPMA_CONN_UNREACHABLE => ConnectionEvent::Refused,
            _ => ConnectionEvent::Ended,
        }))
    }

    /// What it means for the link that something ended like this.
    pub(super) fn outcome(&self, done: Done) -> Result<(), FabricError> {
        match done.status {
            IBV_WC_SUCCESS => Ok(()),
            // Thrown out unfinished, because the connection has ended: it says nothing about why.
            IBV_WC_WR_FLUSH_ERR => Err(FabricError::Closed),
            status => Err(FabricError::Failed { status: self.device().libraries().status(status) }),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.raw.device.is_up() {
            // It may be gone already; then there is nothing to end.
            let _ = self.raw.disconnect();
        }
        reaper::bury(Remains { connection: Arc::clone(&self.raw), used: std::mem::take(&mut self.used) });
    }
}

/// Bytes that a flush reads back, whatever it is asked for.
pub(super) const FLUSH_LEN: u64 = 8;

/// How something is posted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Post {
    /// Comes back with the completion.
    pub(super) number: u64,
    /// Whether it completes also when it succeeds.
    pub(super) tells: bool,
}

impl Post {
    fn flags(self) -> c_int {
        (if self.tells { RPMA_F_COMPLETION_ALWAYS } else { RPMA_F_COMPLETION_ON_ERROR }) as c_int
    }

    fn context(self) -> *const c_void {
        self.number as usize as *const c_void
    }
}

/// A place for one message in a buffer of equal places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) len: usize,
}

impl Slot {
    pub(super) fn at(self) -> usize {
        self.number as usize * self.len
    }
}

/// A peer's registered memory, as its descriptor says.
pub(super) struct RemoteRegion {
    device: Device,
    region: NonNull<rpma_mr_remote>,
}

// SAFETY: never changed after it is made.
unsafe impl Send for RemoteRegion {}

impl RemoteRegion {
    pub(super) fn new(device: &Device, descriptor: &[u8]) -> Result<Self, CallError> {
        let mut region = ptr::null_mut();
        // SAFETY: librpma checks the length that it is told and copies what it needs.
        let answer = unsafe {
            device.rpma().rpma_mr_remote_from_descriptor(
                descriptor.as_ptr().cast(),
                descriptor.len(),
                &raw mut region,
            )
        };
        device.check("rpma_mr_remote_from_descriptor", answer)?;
        let region = NonNull::new(region).expect("librpma answered that there is one");
        Ok(Self { device: device.clone(), region })
    }

    pub(super) fn len(&self) -> Result<u64, CallError> {
        let mut len = 0;
        // SAFETY: alive, and the answer has a place.
        let answer = unsafe { self.device.rpma().rpma_mr_remote_get_size(self.as_ptr(), &raw mut len) };
        self.device.check("rpma_mr_remote_get_size", answer)?;
        Ok(len as u64)
    }

    fn as_ptr(&self) -> *mut rpma_mr_remote {
        self.region.as_ptr()
    }
}

impl Drop for RemoteRegion {
    fn drop(&mut self) {
        let mut region = self.as_ptr();
        // SAFETY: made in `new`, and deleted once.
        unsafe { self.device.rpma().rpma_mr_remote_delete(&raw mut region) };
    }
}

/// Takes all completions of a queue. No system call: the card has put them into memory.
fn take(device: &Device, queue: &mut Queue, into: &mut Vec<Done>) -> Result<(), CallError> {
    // SAFETY: all bytes zero is a value of this struct of numbers.
    let mut wcs: [ibv_wc; COMPLETIONS_AT_A_TIME] = unsafe { std::mem::zeroed() };
    loop {
        let mut count: c_int = 0;
        // SAFETY: the queue is the connection's, and there is room for as many completions as is said.
        let answer = unsafe {
            let room = COMPLETIONS_AT_A_TIME as c_int;
            device.rpma().rpma_cq_get_wc(queue.cq.as_ptr(), room, wcs.as_mut_ptr(), &raw mut count)
        };
        if answer == RPMA_E_NO_COMPLETION {
            return Ok(());
        }
        device.check("rpma_cq_get_wc", answer)?;
        queue.announced = true;
        let done = &wcs[..usize::try_from(count).unwrap_or(0)];
        into.extend(done.iter().map(|wc| Done { context: wc.wr_id, status: wc.status, len: wc.byte_len }));
        if done.len() < COMPLETIONS_AT_A_TIME {
            return Ok(());
        }
    }
}

/// Takes back the announcement of what was taken, and asks for one of what comes next.
fn arm(device: &Device, queue: &mut Queue) -> Result<(), CallError> {
    if !queue.announced {
        return Ok(());
    }
    // SAFETY: the queue is the connection's. Its descriptor does not block.
    let answer = unsafe { device.rpma().rpma_cq_wait(queue.cq.as_ptr()) };
    if answer == RPMA_E_NO_COMPLETION {
        // The announcement is still on its way. It makes the descriptor readable, and is taken back by a later call.
        return Ok(());
    }
    device.check("rpma_cq_wait", answer)?;
    queue.announced = false;
    Ok(())
}

/// Makes a descriptor say that there is nothing instead of waiting for something.
pub(super) fn never_wait_on(fd: RawFd) -> Result<(), CallError> {
    // SAFETY: the caller has just got the descriptor from an object that is alive.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let set = fcntl_getfl(fd).and_then(|flags| fcntl_setfl(fd, flags | OFlags::NONBLOCK));
    set.map_err(|errno| CallError { call: "fcntl", text: "O_NONBLOCK".to_owned(), errno: Some(errno.into()) })
}
