//! The device of this node, and what is made ready on it: a follower's endpoint, a leader's source.

use std::sync::Arc;
use std::thread;

use farkeep_core::log::LogMap;
use farkeep_fabric::FabricKind;
use farkeep_fabric::rdma::{Device, Endpoint, Mode, Session, Source, Unusable, probe};
use farkeep_proto::control::FabricOffer;
use parking_lot::Mutex;

use super::{Basis, is_wanted};
use crate::config::Config;
use crate::node::Node;

/// What this node has of RDMA.
#[derive(Debug)]
pub struct Rdma {
    device: Result<Device, String>,
    port: u16,
    direct_write: bool,
    /// A follower's; listens from the first offer on.
    endpoint: Mutex<Option<Endpoint>>,
    /// A leader's, for this log.
    source: Mutex<Option<(Arc<LogMap>, Source)>>,
}

impl Rdma {
    /// Looks for the device, if the configuration wants one. Waits for nothing.
    pub fn new(config: &Config) -> Self {
        let device = if is_wanted(config) {
            probe(config.rdma_device.as_deref(), config.rdma_bind).map_err(|error| error.to_string())
        } else {
            Err(format!("switched off (fabric {})", config.fabric))
        };
        Self {
            device,
            port: config.rdma_port,
            direct_write: config.rdma_direct_write,
            endpoint: Mutex::new(None),
            source: Mutex::new(None),
        }
    }

    /// The device in words, or why there is none.
    pub fn device(&self) -> Result<String, &str> {
        let device = self.device.as_ref().map_err(String::as_str)?;
        Ok(format!("{} at {}", device.name(), device.address()))
    }

    /// What a follower with this log offers. Registers the window, if that is not done already: up to a quarter of a second.
    pub fn offer(&self, log: &Arc<LogMap>) -> FabricOffer {
        self.try_offer(log).unwrap_or_else(|unusable| FabricOffer {
            name: FabricKind::Rdma.name().to_owned(),
            unusable,
            ..FabricOffer::default()
        })
    }

    fn try_offer(&self, log: &Arc<LogMap>) -> Result<FabricOffer, String> {
        let device = self.device.as_ref().map_err(Clone::clone)?;
        let mut endpoint = self.endpoint.lock();
        let endpoint = match &mut *endpoint {
            Some(endpoint) => endpoint,
            none => none.insert(Endpoint::listen(device, self.port).map_err(|error| error.to_string())?),
        };
        endpoint.prepare(log).map_err(|error| error.to_string())?;
        Ok(endpoint.offer())
    }

    /// Gives back what is registered for sessions to come: the log is about to change, or this node leads.
    pub fn forget(&self) {
        if let Some(endpoint) = &mut *self.endpoint.lock() {
            endpoint.forget();
        }
    }

    /// Opens the window to a session's leader.
    pub(super) fn open(&self, session: u64, log: &Arc<LogMap>) -> Result<(Session, Basis), Unusable> {
        let (mode, why) = Mode::choose(self.direct_write, log.region().persistence());
        let mut endpoint = self.endpoint.lock();
        // Whoever was welcomed over rdma has offered it, so there is one.
        let endpoint = endpoint.as_mut().ok_or(Unusable::NoDevice)?;
        Ok((endpoint.open(session, log, mode)?, Basis { mode: mode.name(), why }))
    }

    /// Registers the window for the session after this one, while nobody waits for it.
    pub(super) fn prepare_next(node: &Arc<Node>, log: &Arc<LogMap>) {
        let (node, log) = (Arc::clone(node), Arc::clone(log));
        let prepare = move || {
            if let Some(endpoint) = &mut *node.rdma.endpoint.lock()
                && let Err(error) = endpoint.prepare(&log)
            {
                // Twice the window may be too much to pin. The next session then registers it when the present one is gone.
                tracing::debug!(%error, "the next session's window is not registered ahead of need");
            }
        };
        if let Err(error) = thread::Builder::new().name("rdma-prepare".to_owned()).spawn(prepare) {
            tracing::debug!(%error, "no thread to register the next session's window");
        }
    }

    /// The leader's log as the device reads it. Registers it at first: not for a worker.
    pub(super) fn source(&self, log: &Arc<LogMap>) -> Result<Source, String> {
        let device = self.device.as_ref().map_err(Clone::clone)?;
        let mut source = self.source.lock();
        if let Some((of, source)) = &*source
            && Arc::ptr_eq(of, log)
        {
            return Ok(source.clone());
        }
        self.forget();
        let made = Source::new(device, log);
        match made.staged() {
            None => {
                tracing::info!(device = %device.name(), "the log is registered: followers are written to from where it lies")
            }
            Some(why) => tracing::warn!(%why, "what is written to followers by RDMA is copied on its way"),
        }
        *source = Some((Arc::clone(log), made.clone()));
        Ok(made)
    }
}
