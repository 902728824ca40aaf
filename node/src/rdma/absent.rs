//! A build without RDMA: the device is never found, so nothing beyond saying so is ever asked for.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Result, bail};
use farkeep_core::log::LogMap;
use farkeep_leader::FollowerId;
use farkeep_proto::control::{FabricOffer, RdmaWindow};

use super::Basis;
use crate::config::Config;
use crate::node::{Node, OpenWindow};

const WHY: &str = "this build has no RDMA (cargo feature rdma)";

/// What there is instead of a device.
#[derive(Debug)]
pub struct Rdma;

impl Rdma {
    /// Nothing.
    pub fn new(_config: &Config) -> Self {
        Self
    }

    /// Why there is no device.
    pub fn device(&self) -> Result<String, &str> {
        Err(WHY)
    }

    /// An offer that says why it is none.
    pub fn offer(&self, _log: &Arc<LogMap>) -> FabricOffer {
        FabricOffer { name: "rdma".to_owned(), unusable: WHY.to_owned(), ..FabricOffer::default() }
    }

    /// Nothing to forget.
    pub fn forget(&self) {}

    /// Never called: no leader is given an offer.
    pub fn connect(
        &self,
        _node: &Arc<Node>,
        _id: FollowerId,
        _offer: FabricOffer,
        _window: RdmaWindow,
    ) -> Result<()> {
        bail!(WHY)
    }
}

/// Never there.
#[derive(Debug)]
pub struct Served(Infallible);

impl Served {
    /// Fails.
    pub fn open(_node: &Arc<Node>, _session: u64, _log: &Arc<LogMap>, _open: OpenWindow) -> Result<Self> {
        bail!(WHY)
    }

    /// Never called.
    pub fn window(&self) -> &RdmaWindow {
        match self.0 {}
    }

    /// Never called.
    pub fn basis(&self) -> Basis {
        match self.0 {}
    }

    /// Never called.
    pub fn is_connected(&self) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn is_finished(&self) -> bool {
        match self.0 {}
    }

    /// Never called.
    pub fn close(self, _node: &Node) -> std::thread::Result<()> {
        match self.0 {}
    }
}
