//! How log bytes get into a follower's window: one contract, several implementations.
//!
//! [`window`] states the contract. [`tcp`] moves bytes in frames and has the follower's agent persist and
//! acknowledge them; [`shm`] stores straight into the window of a follower on the same host; [`sim`] is a link
//! whose every delay and fault the caller decides, for simulations and tests. All of them pass the same contract
//! suite. [`rdma`] has the network card store into the window; it comes with the cargo feature `rdma`, loads what it needs at run
//! time, and says what is missing.
//!
//! This crate knows neither leader nor follower: what is worth shipping, and what a completed flush means for a
//! commit, is decided by its users.

#![deny(unsafe_code)]

pub mod history;
mod identity;
mod log;
mod patience;
#[cfg(feature = "rdma")]
#[expect(unsafe_code, reason = "the network card is driven through a C library, see the module's essay")]
pub mod rdma;
pub mod shm;
pub mod sim;
pub mod tcp;
pub mod window;

pub use identity::Identity;
pub use log::LogWindow;
pub use patience::Patience;
pub use window::{
    Completion, FabricError, FabricKind, LogBytes, LogMemory, Outgoing, RemoteWindow, Sending, Ticket,
    Window, WindowError,
};
