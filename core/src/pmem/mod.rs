//! Memory that outlives the process: mappings, persistence, and the raw access everything above is built on.
//!
//! This is the only module of the crate that contains `unsafe` code, but for one system call in [`crate::sched`].
//!
//! - [`domain`] finds out what makes bytes survive on the medium a file lies on;
//! - [`persist`] are the instructions that do it;
//! - [`map`] holds the mappings: [`map::Region`] for memory that is shared and persistent;
//! - [`image`] is the image file with its two mappings;
//! - [`mem`] is bounds-checked access to an image's bytes;
//! - [`crash`] stands in for the medium in tests and forgets what was never persisted;
//! - [`sigbus`] says which byte of which file could not be read or written, before the process ends.

pub mod crash;
pub mod domain;
pub mod image;
pub mod map;
pub mod mem;
pub mod persist;
pub mod sigbus;
