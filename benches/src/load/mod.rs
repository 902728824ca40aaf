//! The load generator: a closed loop of N connections against one server.
//!
//! Each connection sends a batch of P requests, waits for the last of their replies, and sends the next batch, as
//! redis-benchmark does. A request is one SET or one GET, optionally with a second command (such as `WAIT 1 0`) that is
//! sent together with it and belongs to it: the request has ended when both replies are in. A request's latency runs
//! from just before its batch is handed to the kernel until the read that brought its last reply.
//!
//! Client and servers usually share the machine, so every cycle spent here is one that the servers do not have. Hence
//! one thread, two system calls per batch, a level-triggered epoll that never changes a socket's interest in the normal
//! case, replies that are counted where they were received instead of being copied, and one clock reading per batch.
//!
//! State is owned by the loop in `drive` alone. [`Workload`] says what to do, [`Outcome`] what came of it.

mod connection;
mod drive;
mod outcome;
mod reply;
mod request;
mod workload;

pub use drive::{LoadError, run};
pub use outcome::{ErrorTally, Outcome};
pub use workload::{KeyOrder, Limit, Workload};
