//! Redis on top of the durable image: index, expiry, data types, commands. Knows no replica, no sockets, no
//! clock.
//!
//! All data is in the image of `farkeep-core` and is changed through its transactions only, so every command
//! is atomic, durable and replicated without doing anything for it. See [`layout`] for what lies where,
//! [`index`] and [`entry`] for how a key is found, [`command`] for what can be done with it.
//!
//! Invariant: a reading command changes nothing, not even an expired key. Invariant: nothing here reads a
//! clock or a random device; time and seeds are passed in, so that a whole cluster can run under one seed.

#![forbid(unsafe_code)]

pub mod command;
pub mod entry;
pub mod error;
pub mod expiry;
pub mod hash;
pub mod index;
pub mod keys;
pub mod keystore;
pub mod layout;
mod payload;
mod reclaim;
pub mod signal;
mod string;
pub mod verify;

pub use command::{Command, Handler, lookup};
pub use error::CommandError;
pub use expiry::active_expire;
pub use keystore::{DbStats, KeyHash, Keystore, Limits, ReadCtx, Slot, WriteCtx};
pub use signal::{EventClass, Signal};
pub use verify::{Verified, verify};
