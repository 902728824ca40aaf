//! The leader's side of replication: who follows, what to ship, what is committed, and which replies may go.
//!
//! [`Leader`] is the state machine: it is told what happened and says what follows from it. [`ship::pump`] and
//! [`ship::collect`] connect it with a follower's window; [`HeldReplies`] keeps what clients may not know yet.
//! Knows no Redis command, no socket, no clock and no thread: time comes in as milliseconds of whatever clock the
//! caller uses (microseconds, for [`lag`]), as long as it never goes back.
//!
//! A crash of the leader loses all of this state and nothing else: the registry is rebuilt by the followers'
//! joining, `committed_lsn` from the records and from what they hold.

#![forbid(unsafe_code)]

mod commit;
mod followers;
pub mod held;
mod join;
pub mod lag;
mod leader;
pub mod ship;
pub mod sync_source;

pub use farkeep_fabric::Identity;
pub use followers::{FollowerEntry, FollowerId, FollowerState};
pub use held::HeldReplies;
pub use leader::{
    Action, Availability, Config, ImageAt, Join, Leader, LeaderError, LocalWatermarks, NoReplicas,
    OnFollowerLoss, Peer, ResyncError, Shipment, Start, Walked,
};
