//! RDMA in a node: the device, the follower's endpoint, the leader's source, and who serves what on which thread.
//!
//! The device is looked for once, at start ([`Rdma::new`]). What comes of it is said in every `Hello` or taken into account in
//! every `Welcome`, and is in `INFO` and in the log. Nothing here is needed for a node to work: whatever fails ends in
//! a reason and in tcp.
//!
//! **A follower** listens from its first `Hello` on, with its window registered ([`Rdma::offer`]). A session's window is served by a
//! thread of its own ([`serve`]). Under GPSPM that thread sleeps until the leader's messages come. Under APM nobody tells it anything,
//! and nobody needs it: records are durable without this processor. It looks at the tail cell now and then so that the
//! replayer gets to know of them, and leaves even that while the replayer stands still.
//!
//! **A leader** registers its log once and connects to a follower's window on a helper thread ([`Rdma::connect`]), which hands
//! over the link or the reason to the sessions. Whether a follower's RDMA is worth another attempt is
//! remembered there ([`memory`]).
//!
//! Without the cargo feature `rdma` there is a device that is never found.

pub mod memory;

#[cfg(not(feature = "rdma"))]
mod absent;
#[cfg(feature = "rdma")]
mod connect;
#[cfg(feature = "rdma")]
mod device;
#[cfg(feature = "rdma")]
mod serve;

#[cfg(not(feature = "rdma"))]
pub use absent::{Rdma, Served};
#[cfg(feature = "rdma")]
pub use device::Rdma;
#[cfg(feature = "rdma")]
pub use serve::Served;

use crate::config::{Config, FabricChoice};

/// What a session's acknowledgements rest on: `apm` or `gpspm`, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    /// The mode's name.
    pub mode: &'static str,
    /// Why this mode.
    pub why: &'static str,
}

/// Whether the configuration lets RDMA be used at all.
pub fn is_wanted(config: &Config) -> bool {
    matches!(config.fabric, FabricChoice::Auto | FabricChoice::Rdma)
}
