//! What a follower listens on, and the window that is registered for its next session.
//!
//! Registering a window takes up to a quarter of a second. It is done when the node has time, for a session that does not
//! exist yet ([`Endpoint::prepare`]); [`Endpoint::open`] then only hands it over. The window of the session before stays
//! registered until that one is fenced: the same memory may be registered any number of times, and the new session's key
//! is no use to the old one's leader.

use std::ffi::CString;
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use farkeep_core::log::LogMap;
use farkeep_proto::control::FabricOffer;
use rpma_sys::rpma_ep;

use super::connection::never_wait_on;
use super::device::Device;
use super::error::Unusable;
use super::message::Mode;
use super::region::Registration;
use super::session::Session;
use crate::window::FabricKind;

/// Attempts to find a port that is free, where any will do.
const PORT_ATTEMPTS: u32 = 16;

/// The listening part, which sessions share.
pub(super) struct Listener {
    pub(super) device: Device,
    pub(super) ep: NonNull<rpma_ep>,
    pub(super) fd: i32,
    address: SocketAddr,
    /// The session that may take connection requests, or 0.
    pub(super) current: AtomicU64,
}

// SAFETY: the endpoint is only handed to calls that take turns under the device's lock.
unsafe impl Send for Listener {}
// SAFETY: as for Send.
unsafe impl Sync for Listener {}

impl Listener {
    fn new(device: &Device, address: SocketAddr) -> Result<Self, Unusable> {
        let host = CString::new(address.ip().to_string()).expect("an address has no zero byte");
        let port = CString::new(address.port().to_string()).expect("a number has no zero byte");
        let mut ep = ptr::null_mut();
        let turn = device.connecting();
        // SAFETY: strings, a peer that is alive, and a place for the answer.
        let answer =
            unsafe { device.rpma().rpma_ep_listen(device.peer(), host.as_ptr(), port.as_ptr(), &raw mut ep) };
        let listening = device.check("rpma_ep_listen", answer);
        drop(turn);
        listening.map_err(|source| Unusable::Listen { address, source })?;
        let ep = NonNull::new(ep).expect("librpma answered that there is one");
        let mut this = Self { device: device.clone(), ep, fd: -1, address, current: AtomicU64::new(0) };
        // SAFETY: the endpoint is alive, and the answer has a place.
        let answer = unsafe { device.rpma().rpma_ep_get_fd(ep.as_ptr(), &raw mut this.fd) };
        device.check("rpma_ep_get_fd", answer)?;
        never_wait_on(this.fd)?;
        Ok(this)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut ep = self.ep.as_ptr();
        let _turn = self.device.connecting();
        // SAFETY: the last owner; shut down once.
        unsafe { self.device.rpma().rpma_ep_shutdown(&raw mut ep) };
    }
}

/// A window that waits for its session.
struct Prepared {
    log: Arc<LogMap>,
    registration: Registration,
}

/// Where a follower can be reached by RDMA.
pub struct Endpoint {
    listener: Arc<Listener>,
    prepared: Option<Prepared>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.listener.address)
            .field("prepared", &self.prepared.is_some())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Listens at the device's address; with port 0 at any port that is free. Waits for nothing. Nobody is let in
    /// before a session is open.
    ///
    /// # Errors
    /// [`Unusable`], where the port is taken.
    pub fn listen(device: &Device, port: u16) -> Result<Self, Unusable> {
        let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            // librpma does not tell which port it got, so one is chosen for it. Ports of RDMA are not those of TCP; one
            // that is free there is as good a guess as any, and another one is tried if it is wrong.
            let port = match port {
                0 => TcpListener::bind((device.address(), 0))?.local_addr()?.port(),
                port => port,
            };
            match Listener::new(device, SocketAddr::new(device.address(), port)) {
                Ok(listener) => return Ok(Self { listener: Arc::new(listener), prepared: None }),
                Err(_) if attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.listener.device
    }

    /// What `Hello` says of it.
    pub fn offer(&self) -> FabricOffer {
        FabricOffer {
            name: FabricKind::Rdma.name().into(),
            address: self.listener.address.to_string(),
            ..FabricOffer::default()
        }
    }

    /// Registers the window of `log` for the next session, if that is not done already. Takes up to a quarter of a second: not
    /// for the way of a failover.
    ///
    /// # Errors
    /// [`Unusable`], where the memory cannot be registered; what was prepared for another log is gone then.
    pub fn prepare(&mut self, log: &Arc<LogMap>) -> Result<(), Unusable> {
        if self.prepared.as_ref().is_some_and(|prepared| Arc::ptr_eq(&prepared.log, log)) {
            return Ok(());
        }
        // A window that no session wants any more is given back first: both together may be too much to pin.
        self.prepared = None;
        let registration = Registration::window(&self.listener.device, log)?;
        self.prepared = Some(Prepared { log: Arc::clone(log), registration });
        Ok(())
    }

    /// Gives back what is prepared, so that the log's memory can go.
    pub fn forget(&mut self) {
        self.prepared = None;
    }

    /// Opens the window of `log` to the leader of this session, and to no other from now on. At once, if it was prepared.
    ///
    /// # Errors
    /// [`Unusable`], where the memory cannot be registered.
    pub fn open(&mut self, session: u64, log: &Arc<LogMap>, mode: Mode) -> Result<Session, Unusable> {
        self.prepare(log)?;
        let prepared = self.prepared.take().expect("just prepared");
        self.listener.current.store(session, Ordering::Release);
        Session::new(Arc::clone(&self.listener), session, mode, prepared.registration, log.window_len())
    }
}
