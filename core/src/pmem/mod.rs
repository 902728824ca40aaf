//! Memory that outlives the process: mappings, persistence, and the raw access everything above is built on.
//!
//! This is the only module of the crate that contains `unsafe` code.

pub mod mem;
