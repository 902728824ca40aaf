//! The durable image: pool, log, heap, replay. Knows no Redis, no network, no clock, no threads of its own.

// Image, log and wire are little-endian, and the image is read in place.
const _: () = assert!(cfg!(target_endian = "little"), "farkeep needs a little-endian machine");

pub mod arbitrary;
pub mod chunk;
pub mod heap;
pub mod inspect;
pub mod log;
pub mod lsn;
pub mod pmem;
pub mod pool;
pub mod recover;
pub mod replay;
pub mod sched;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod recover_tests;

pub use lsn::{Epoch, Lsn, Watermarks};
