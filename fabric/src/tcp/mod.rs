//! The TCP fabric: log bytes in frames, persisted and acknowledged by the follower's agent.
//!
//! A data channel is a second connection of the follower to the leader's port, which `FARKEEP.WINDOW <session>` has
//! turned over to frames. Towards the follower: a [`frame::Header`] of 24 bytes and the bytes to store at its offset.
//! Back: acknowledgements of 32 bytes, one for each burst that held the end of a batch. The flush of a batch is a
//! flag on its last frame, so that a turn of the leader's loop costs one system call however many transactions it
//! committed, and a turn of the follower's one receive, one fence and one send.
//!
//! [`Remote`] is the leader's end and [`Agent`] the follower's. Neither knows a socket: `Remote` sends through a
//! [`ByteStream`], `Agent` is fed. [`Socket`] and [`serve`] are the thin real ends.

mod agent;
pub mod frame;
mod remote;
#[expect(unsafe_code, reason = "rustix has no SO_RCVLOWAT")]
mod socket;

pub use agent::{Agent, Fed};
pub use remote::{ByteStream, MAX_IN_FLIGHT_BYTES, Remote};
pub use socket::{Burst, Socket, serve};
