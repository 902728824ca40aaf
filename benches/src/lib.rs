//! The benches: a closed-loop load generator, and what is built on it.
//!
//! [`load`] drives any Redis-compatible server and says how fast it answered. It knows nothing of Farkeep.

#![forbid(unsafe_code)]

pub mod load;
pub mod stop;
