//! The real ends of a data channel: a non-blocking socket for the leader, a blocking loop for the follower.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::agent::Agent;
use super::remote::ByteStream;
use crate::window::{FabricError, Reported, Window};

/// What the follower's loop receives at a time. Large enough that a turn of a busy leader is one receive.
const RECEIVE_BUFFER_LEN: usize = 256 << 10;

/// A connected socket that is never waited on.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Takes over a connected stream socket. Whether it is in blocking mode makes no difference.
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        Self(fd.into())
    }
}

impl ByteStream for Socket {
    fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(sendmsg(&self.0, pieces, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, into, RecvFlags::DONTWAIT)?.1)
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// What one receive of [`serve`] brought, when its bytes are in the window.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Bytes stored into the window.
    pub stored: u64,
    /// Whether a whole tail cell was among them.
    pub tail_cell: bool,
    /// Whether a batch ended: all that came before is persistent, and the answer is sent to the leader at once.
    pub batch_ended: bool,
}

/// Serves a data channel until it ends: receives on a blocking `socket`, stores into `window`, persists, and
/// acknowledges with what `after_burst` reports.
///
/// `after_burst` is called once for every burst, after its bytes are stored and, where a batch ended, persistent. To
/// end the loop from another thread (a fence does), shut the socket down.
///
/// # Errors
/// Always: [`FabricError::Closed`] when the leader or a shutdown ended the channel, or what else went wrong.
pub fn serve<W: Window + ?Sized>(
    socket: BorrowedFd<'_>,
    window: &mut W,
    mut after_burst: impl FnMut(&mut W, Burst) -> Reported,
) -> Result<std::convert::Infallible, FabricError> {
    let mut agent = Agent::new(window.len());
    let mut buffer = vec![0; RECEIVE_BUFFER_LEN];
    loop {
        let received = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Err(FabricError::Closed),
            Ok((received, _)) => received,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let fed = agent.feed(&buffer[..received], window)?;
        let batch_ended = agent.persist(window)?;
        let burst = Burst { stored: fed.stored, tail_cell: fed.tail_cell, batch_ended };
        let reported = after_burst(window, burst);
        if let Some(ack) = agent.acknowledge(reported) {
            send_all(socket, &ack)?;
        }
    }
}

fn send_all(socket: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), FabricError> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(())
}
