//! A leader's way to a follower's window. It waits for the network, so it has a thread of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use farkeep_fabric::rdma;
use farkeep_leader::FollowerId;
use farkeep_proto::control::{FabricOffer, RdmaWindow};

use super::Rdma;
use crate::node::Node;
use crate::replication;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

impl Rdma {
    /// Connects to the window of this session's follower, and hands what comes of it to [`replication::connected`].
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn connect(
        &self,
        node: &Arc<Node>,
        id: FollowerId,
        offer: FabricOffer,
        window: RdmaWindow,
    ) -> Result<()> {
        let node = Arc::clone(node);
        thread::Builder::new().name("rdma-connect".to_owned()).spawn(move || {
            let log = Arc::clone(node.engine.lock().pool().log());
            let connected = node.rdma.source(&log).and_then(|source| {
                rdma::connect(&source, &offer, &window, id.session(), CONNECT_TIMEOUT)
                    .map_err(|error| error.to_string())
            });
            let link = connected.map(|remote| {
                let staged = remote.is_staged();
                replication::Link { mode: remote.mode().name(), staged, remote: Box::new(remote) }
            });
            replication::connected(&node, id, link);
        })?;
        Ok(())
    }
}
