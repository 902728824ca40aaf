//! The RDMA fabric: the leader's network card writes into the follower's window.
//!
//! # The way of a batch
//!
//! A batch is one write from the leader's own log memory (two where the ring wraps) and one of these:
//!
//! - **APM** ([`Mode::Apm`]): a flush. Its completion says that the bytes are persistent; the follower's processor takes no
//!   part. A flush is an RDMA read behind the writes, so this holds only where the follower's network card writes past its
//!   caches (DDIO off) or the caches survive a power cut (eADR). The follower's operator asserts the former
//!   (`rdma-direct-write yes`), the latter is detected: [`Mode::choose`].
//! - **GPSPM** ([`Mode::Gpspm`], otherwise): a short message with the ranges that were written. The follower's agent, asleep on a
//!   descriptor until it comes, writes back exactly these ranges and answers with how far the follower is, as over tcp.
//!
//! The tail cell is a write that nobody flushes, and costs as much as a batch. One that comes with a batch waits for a kick without
//! one, because the batch's records say the same; a leader that rests kicks once more ([`crate::RemoteWindow::kick`]). In APM a
//! follower therefore looks for the next record in its log, not only at the cell. Completions that nobody needs are not asked for.
//!
//! A completion lies in memory where whoever looks finds it without a system call. Announcing it to a sleeper takes three, so that is
//! done only for those who are about to sleep ([`crate::RemoteWindow::rest`]), and who waits looks for a while
//! before that ([`crate::Patience`]).
//!
//! # Who owns what
//!
//! | type | side | is |
//! |---|---|---|
//! | [`Device`] | both | a network card with the libraries that drive it; cheap to clone; found by [`probe`] |
//! | [`Source`] | leader | its log, registered once for all followers; or the knowledge that it cannot be (fsdax) and why: then each [`Remote`] copies through a registered staging ring of its own, as it does with all that is not of the log |
//! | [`Remote`] | leader | a follower's window; one poster, as `&mut self` says; goes to another thread whole or not at all |
//! | [`Endpoint`] | follower | what listens, and the window registered *beforehand* for the next session |
//! | [`Session`] | follower | one leader's right to write; serves GPSPM, notices the end |
//! | [`Fence`] | follower | the other thread's handle on a session: takes that right away |
//!
//! A registration ([`region`]) shares ownership of the memory and is given up only when the connection that used it is gone, so that
//! no card ever touches memory that belongs to somebody else by then. Connections are taken apart by a thread of their own
//! ([`reaper`]): towards a dead peer that takes a second, and whoever drops a [`Remote`] or a [`Session`] must not wait for it.
//!
//! # The order of a session
//!
//! 1. Follower at start: [`probe`], [`Endpoint::listen`], [`Endpoint::prepare`]; `Hello` carries [`Endpoint::offer`].
//! 2. Leader: [`probe`] at start, [`Source::new`] once per reign; `Welcome` says `rdma` if both can.
//! 3. Follower: [`Endpoint::open`] with the session's number takes the prepared registration; `Ready` carries
//!    [`Session::window`]. A thread calls [`Session::turn`] until it fails, and [`Session::acknowledge`] where a batch ended.
//! 4. Leader, on a helper thread, because it waits for the network: [`connect`]. The [`Remote`] goes to a worker, whose epoll watches
//!    [`crate::RemoteWindow::readiness`] for reading. The follower accepts only the session that is open; another is rejected.
//! 5. Follower, off the failover path: [`Endpoint::prepare`] again, for the next session.
//!
//! # Fencing
//!
//! First the caller persists the new epoch. Then [`Fence::close`] deregisters the window *while the queue pair is alive*, so that a zombie's
//! next write or flush fails at once with a remote access error, and no answer to an earlier request goes out any more. Only
//! then the connection is taken down (the session's thread drops it) and the log's tail is read. When `close` has returned, nothing can
//! complete at the zombie that is not in the log already (I11).
//!
//! # Death
//!
//! A peer whose host has died never completes anything and raises no event: the hardware would try again forever. The
//! heartbeat on the control channel decides, with its deadline; whoever gives up drops the [`Remote`] or closes the session.
//! A peer whose process has died, or that disconnects, raises an event, which [`crate::RemoteWindow::poll`] reports as
//! [`crate::FabricError::Closed`].
//!
//! A link that is lost, as far as the own card knows, fails what is under way at once. Nothing goes out while it is: no connection is tried
//! ([`Unusable::PortDown`]), and none is taken apart ([`reaper`]).
//!
//! A crash of either side loses what was posted and not completed, and nothing else; this module keeps nothing.

mod agent;
mod connection;
mod device;
mod endpoint;
mod error;
mod message;
mod reaper;
mod region;
mod remote;
mod session;
mod staging;

pub use device::{Device, probe};
pub use endpoint::Endpoint;
pub use error::{CallError, Unusable};
pub use message::Mode;
pub use region::Source;
pub use remote::{ConnectError, MAX_IN_FLIGHT_BYTES, Remote, connect};
pub use session::{Fence, Session};

pub use crate::tcp::Burst;
