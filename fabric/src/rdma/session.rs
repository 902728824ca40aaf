//! The follower's end of one session: one leader's right to write into the window, until it is taken away.
//!
//! One thread serves a session ([`Session::turn`]); any other may end it ([`Fence::close`]). Both meet at the gate, a lock
//! under which the session accepts its connection and sends its answers, and under which the fence takes both away. So
//! once `close` has returned, no answer goes out, whatever the serving thread was about to do.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farkeep_proto::control::RdmaWindow;
use rpma_sys::{RPMA_E_NO_EVENT, rpma_conn_private_data};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::agent::{Agent, MAX_ANSWERS};
use super::connection::{Config, Connection, ConnectionEvent, Queues, Raw};
use super::endpoint::Listener;
use super::error::Unusable;
use super::message::{Greeting, Mode};
use super::region::Registration;
use super::remote::{ConnectionRequest, MAX_MESSAGES, failed};
use crate::tcp::Burst;
use crate::window::{FabricError, Reported, Window};

/// Strangers turned away in one turn; the next one goes on.
const MAX_REQUESTS_AT_A_TIME: usize = 16;
/// How long librpma waits for the network where it has to; it does not when it accepts.
const ACCEPT_TIMEOUT_MS: i32 = 1000;

/// What the fence takes away.
struct Gate {
    fenced: bool,
    region: Option<Registration>,
    connection: Option<Arc<Raw>>,
}

struct Shared {
    gate: Mutex<Gate>,
    /// Readable once fenced.
    wake: OwnedFd,
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) -> Result<(), FabricError> {
        let mut gate = self.gate();
        if std::mem::replace(&mut gate.fenced, true) {
            return Ok(());
        }
        // In this order: a peer whose connection ends before its key is refused is left without an answer.
        let deregistered = gate.region.take().map_or(Ok(()), Registration::deregister);
        let result = match (deregistered, gate.connection.take()) {
            // Either is enough to keep the leader out. Without a link there is nobody to tell, and who has no key is out anyway.
            (Ok(()), Some(connection)) if connection.device().is_up() => {
                // Ending a connection that the leader has ended already is an error, and none of ours.
                drop(connection.disconnect());
                Ok(())
            }
            (Ok(()), _) => Ok(()),
            (Err(_), Some(connection)) => connection.disconnect().map_err(failed),
            (Err(error), None) => Err(failed(error)),
        };
        // A full counter means that it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        result
    }
}

/// The right to end a session from any thread.
#[derive(Clone)]
pub struct Fence(Arc<Shared>);

impl Fence {
    /// Takes the window away from the session's leader, then the connection, and makes [`Session::turn`] fail. When this
    /// returns, nothing more completes at that leader. The caller has persisted its promise to another epoch before, if
    /// that is what it is for. Calling it again does nothing.
    ///
    /// # Errors
    /// When neither the memory nor the connection could be taken away. The leader may then still write: the node has to stop.
    pub fn close(&self) -> Result<(), FabricError> {
        self.0.close()
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fence").field("fenced", &self.0.gate().fenced).finish()
    }
}

/// One leader's session.
pub struct Session {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    session: u64,
    mode: Mode,
    descriptor: Vec<u8>,
    window_len: u64,
    /// Watches all that a turn looks at.
    watch: OwnedFd,
    agent: Option<Agent>,
    connection: Option<Connection>,
    established: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("session", &self.session)
            .field("mode", &self.mode)
            .field("established", &self.established)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn new(
        listener: Arc<Listener>,
        session: u64,
        mode: Mode,
        region: Registration,
        window_len: u64,
    ) -> Result<Self, Unusable> {
        let descriptor = region.descriptor()?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let agent = match mode {
            Mode::Apm => None,
            Mode::Gpspm => Some(Agent::new(&listener.device, window_len)?),
        };
        let watch = epoll::create(CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let gate = Gate { fenced: false, region: Some(region), connection: None };
        let this = Self {
            shared: Arc::new(Shared { gate: Mutex::new(gate), wake }),
            listener,
            session,
            mode,
            descriptor,
            window_len,
            watch,
            agent,
            connection: None,
            established: false,
        };
        this.watch(this.shared.wake.as_fd())?;
        this.watch(this.listening_fd())?;
        Ok(this)
    }

    fn listening_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the listener's, which the session owns a share of.
        unsafe { BorrowedFd::borrow_raw(self.listener.fd) }
    }

    fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::add(&self.watch, fd, EventData::new_u64(0), EventFlags::IN)?)
    }

    /// What `Ready` says of the window.
    pub fn window(&self) -> RdmaWindow {
        RdmaWindow {
            descriptor: self.descriptor.clone(),
            window_len: self.window_len,
            mode: self.mode.name().into(),
        }
    }

    /// What a completed flush rests on.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The means to end the session from another thread.
    pub fn fence(&self) -> Fence {
        Fence(Arc::clone(&self.shared))
    }

    /// Whether the leader is connected.
    pub fn is_connected(&self) -> bool {
        self.established
    }

    /// Serves the session for one turn: waits for up to `timeout` (`None`: as long as it takes) for the leader's connection,
    /// for messages or for the end. It may return early without a burst.
    ///
    /// In GPSPM a burst whose batch has ended is persistent in `window`, which is the window that the session was opened on, and
    /// [`Session::acknowledge`] is due. In APM there are no bursts, because nobody tells this side of anything: between turns the caller
    /// looks for the next record in its log, and at the tail cell. Without a timeout the thread sleeps until the end.
    ///
    /// # Errors
    /// [`FabricError::Closed`] when the leader is gone or the session was fenced, or what else went wrong. The session is over.
    pub fn turn<W: Window + ?Sized>(
        &mut self,
        window: &mut W,
        timeout: Option<Duration>,
    ) -> Result<Option<Burst>, FabricError> {
        if let Some(burst) = self.look(window)? {
            return Ok(Some(burst));
        }
        if timeout == Some(Duration::ZERO) {
            return Ok(None);
        }
        if let (Some(agent), Some(connection)) = (&mut self.agent, &mut self.connection) {
            connection.arm_received().map_err(failed)?;
            // What came before that is not announced.
            if let Some(burst) = agent.serve(connection, window)? {
                return Ok(Some(burst));
            }
        }
        self.wait(timeout)?;
        self.look(window)
    }

    fn wait(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let mut events = [const { MaybeUninit::uninit() }; 4];
        match epoll::wait(&self.watch, &mut events, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn look<W: Window + ?Sized>(&mut self, window: &mut W) -> Result<Option<Burst>, FabricError> {
        if self.shared.gate().fenced {
            return Err(FabricError::Closed);
        }
        if self.connection.is_none() {
            self.accept()?;
        }
        let Some(connection) = &mut self.connection else { return Ok(None) };
        if let Some(agent) = &mut self.agent
            && let Some(burst) = agent.serve(connection, window)?
        {
            return Ok(Some(burst));
        }
        match connection.next_event().map_err(failed)? {
            None => {}
            Some(ConnectionEvent::Established) => self.established = true,
            Some(_) if self.established => return Err(FabricError::Closed),
            // The leader gave up before it was connected, and may try again.
            Some(_) => self.listen_again()?,
        }
        Ok(None)
    }

    /// Lets the session's leader in and turns everybody else away.
    fn accept(&mut self) -> Result<(), FabricError> {
        for _ in 0..MAX_REQUESTS_AT_A_TIME {
            if self.listener.current.load(Ordering::Acquire) != self.session {
                return Err(FabricError::Closed);
            }
            let device = self.listener.device.clone();
            let receives = if self.agent.is_some() { MAX_MESSAGES } else { 0 };
            let queues = Queues { sends: MAX_ANSWERS, receives };
            let config = Config::new(&device, queues, ACCEPT_TIMEOUT_MS).map_err(failed)?;
            let _turn = device.connecting();
            let mut request = ptr::null_mut();
            // SAFETY: endpoint and configuration are alive, and the answer has a place. The descriptor does not block.
            let answer = unsafe {
                let ep = self.listener.ep.as_ptr();
                device.rpma().rpma_ep_next_conn_req(ep, config.as_ptr(), &raw mut request)
            };
            match device.check("rpma_ep_next_conn_req", answer) {
                Ok(()) => {}
                Err(_) if answer == RPMA_E_NO_EVENT => return Ok(()),
                // As with the events of a connection.
                Err(error) if error.is_errno(Errno::AGAIN) => return Ok(()),
                // A caller that is gone already.
                Err(_) => continue,
            }
            let request = ConnectionRequest::new(&device, request);
            if greeting_of(&device, &request).is_none_or(|greeting| greeting.session != self.session) {
                continue;
            }
            if let Some(agent) = &self.agent {
                agent.receive(&request).map_err(failed)?;
            }
            let used = self.agent.as_ref().map_or_else(Vec::new, Agent::used);
            let mut gate = self.shared.gate();
            if gate.fenced {
                return Err(FabricError::Closed);
            }
            // A leader that is gone by now may try again.
            let Ok(connection) = request.connect(None, used) else { continue };
            gate.connection = Some(Arc::clone(connection.raw()));
            drop(gate);
            self.watch(connection.event_fd())?;
            if self.agent.is_some() {
                self.watch(connection.received_fd())?;
            }
            epoll::delete(&self.watch, self.listening_fd()).map_err(io::Error::from)?;
            self.connection = Some(connection);
            return Ok(());
        }
        Ok(())
    }

    fn listen_again(&mut self) -> Result<(), FabricError> {
        self.shared.gate().connection = None;
        if let Some(connection) = self.connection.take() {
            epoll::delete(&self.watch, connection.event_fd()).map_err(io::Error::from)?;
            if self.agent.is_some() {
                epoll::delete(&self.watch, connection.received_fd()).map_err(io::Error::from)?;
            }
        }
        if self.agent.is_some() {
            // The places of the old one may still be stored to.
            let agent = Agent::new(&self.listener.device, self.window_len);
            self.agent = Some(agent.map_err(|error| FabricError::Failed { status: error.to_string() })?);
        }
        self.watch(self.listening_fd())?;
        Ok(())
    }

    /// GPSPM: answers all that is persistent, with what the owner has found in its log.
    ///
    /// # Errors
    /// [`FabricError::Closed`] when the session was fenced; nothing has gone out then. Or what else went wrong.
    pub fn acknowledge(&mut self, reported: Reported) -> Result<(), FabricError> {
        let (Some(agent), Some(connection)) = (&mut self.agent, &mut self.connection) else { return Ok(()) };
        let gate = self.shared.gate();
        if gate.fenced {
            return Err(FabricError::Closed);
        }
        agent.answer(connection, reported)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever must know whether it has worked has called `Fence::close` before.
        let _ = self.shared.close();
    }
}

fn greeting_of(device: &super::Device, request: &ConnectionRequest) -> Option<Greeting> {
    let mut data = rpma_conn_private_data { ptr: ptr::null_mut(), len: 0 };
    // SAFETY: the request is alive, and the answer has a place.
    let answer = unsafe { device.rpma().rpma_conn_req_get_private_data(request.as_ptr(), &raw mut data) };
    if answer != 0 || data.ptr.is_null() {
        return None;
    }
    // SAFETY: librpma keeps the bytes as long as the request is alive.
    Greeting::from_bytes(unsafe { std::slice::from_raw_parts(data.ptr.cast(), usize::from(data.len)) })
}
