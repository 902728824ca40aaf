//! The follower's side of replication: joining a leader, knowing what its log holds and what may be replayed, and
//! taking over.
//!
//! [`Follower`] is the state machine of a node that follows. It is told what happened (a connection, a message, bytes
//! in the window, time) and answers with [`Action`]s, which its owner carries out in their order. It knows no
//! socket, no clock and no thread, and no Redis command.
//!
//! What must survive is in the pool, not here: after a crash a new `Follower` is made from what recovery found, and
//! says `Hello` again.

#![forbid(unsafe_code)]

mod apply;
mod follower;
mod join;
mod promote;
mod sync_target;

pub use apply::Progress;
pub use farkeep_fabric::Identity;
pub use follower::{Action, Config, Follower, Holdings, Link, Standing};
pub use join::JoinError;
pub use promote::{PromoteError, Promotion};
pub use sync_target::{TargetProgress, take_step};
