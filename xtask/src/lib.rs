//! What the doors of `cargo xtask` share with tests: starting commands, and the guest in which RDMA and persistent memory
//! exist.

pub mod guest;
pub mod phase;
