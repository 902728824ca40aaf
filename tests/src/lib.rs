//! What process-level tests share: servers that clean up after themselves, a RESP client that shows raw bytes, a pair of
//! leader and follower, writers that know what was acknowledged, and the differential engine that compares a server with redis-server.
//!
//! Apart from [`sim`], nothing here looks into a pool or links the keystore: these tests see Farkeep as its users do,
//! through the command line, the RESP port and the log. Tests wait for conditions ([`wait::until`]), never for time to pass, except where time itself
//! is what is tested (expiry).

#![forbid(unsafe_code)]

pub mod binary;
pub mod browser;
pub mod client;
pub mod differential;
pub mod faults;
pub mod group;
pub mod guest;
pub mod http;
pub mod load;
pub mod logs;
pub mod mount;
pub mod pair;
pub mod seed;
pub mod sentinel;
pub mod server;
pub mod sim;
pub mod wait;

pub use client::{Client, Value};
pub use pair::Pair;
pub use server::{Server, ServerBuilder};
