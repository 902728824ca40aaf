//! The log: a ring of segments in persistent memory that holds the last stretch of the redo stream.
//!
//! - [`geometry`] says where in the ring an LSN lies and where a record may begin;
//! - [`ring`] is the mapped log, [`LogMap`], shared by all who touch it;
//! - [`append`] is the leader's end: transactions become records;
//! - [`scan`] is everybody else's: records are believed one by one (I4);
//! - [`state`] is the little that must be known before the first record can be believed;
//! - [`history`] are the reigns that have written to this log;
//! - [`promise`] is what keeps the node out of other ones.
//!
//! How a record looks is `farkeep_proto::redo`; what is done with one is `replay` and `recover`.

pub mod append;
pub mod geometry;
pub mod history;
pub mod promise;
pub mod ring;
pub mod scan;
pub mod state;

pub use append::Appender;
pub use geometry::Geometry;
pub use history::{Beginning, EpochHistory, Reign, Replid};
pub use promise::{Claim, Promise};
pub use ring::{LogFileError, LogMap};
pub use scan::{Position, Scanner, Stop, Tail};
pub use state::LogState;

#[cfg(test)]
mod log_tests;
