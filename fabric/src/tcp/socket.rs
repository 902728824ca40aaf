//! The real ends of a data channel: a non-blocking socket for the leader, a blocking loop for the follower.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::agent::Agent;
use super::remote::ByteStream;
use crate::window::{FabricError, Reported, Window};

/// What the follower's loop receives at a time. Large enough that a turn of a busy leader is one receive, and small enough that nobody
/// waits long for the processor: Linux may not take it from a thread in the middle of a system call.
const RECEIVE_LEN: usize = 64 << 10;
/// A payload that has so many bytes to come is received right where it belongs.
const MIN_DIRECT_LEN: u32 = 16 << 10;
/// As long as more of a payload is to come, the thread is woken for no less than this: a wake-up costs as much as to copy that.
const MAX_LOW_WATER: u32 = 256 << 10;

/// A connected socket that is never waited on.
#[derive(Clone, Debug)]
pub struct Socket(Arc<OwnedFd>);

impl Socket {
    /// Takes over a connected stream socket. Whether it is in blocking mode makes no difference.
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        Self(Arc::new(fd.into()))
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

    fn share(&self) -> Option<Box<dyn ByteStream + Send>> {
        Some(Box::new(self.clone()))
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
    let mut buffer = vec![0; RECEIVE_LEN];
    let once = |to: &mut [u8]| match recv(socket, to, RecvFlags::empty()) {
        Ok((0, _)) => Err(FabricError::Closed),
        Ok((received, _)) => Ok(received),
        Err(Errno::INTR) => Ok(0),
        Err(error) => Err(io::Error::from(error).into()),
    };
    let mut low_water = 1;
    loop {
        let direct = agent.wanted().filter(|&(_, wanted)| wanted >= MIN_DIRECT_LEN);
        // A receive may have taken all but one of its bytes when it begins to wait. So many are sure to come after that.
        let to_come = direct.map_or(0, |(_, wanted)| wanted.saturating_sub(RECEIVE_LEN as u32));
        let wake_at = to_come.clamp(1, MAX_LOW_WATER);
        if wake_at != low_water {
            wake_when_there_are(socket, wake_at)?;
            low_water = wake_at;
        }
        let fed = if let Some((at, wanted)) = direct {
            let mut received = Ok(0);
            window.fill(at, RECEIVE_LEN.min(wanted as usize), &mut |to| received = once(to));
            agent.received(received?)
        } else {
            let received = once(&mut buffer)?;
            agent.feed(&buffer[..received], window)?
        };
        let batch_ended = agent.persist(window)?;
        let burst = Burst { stored: fed.stored, tail_cell: fed.tail_cell, batch_ended };
        let reported = after_burst(window, burst);
        if let Some(ack) = agent.acknowledge(reported) {
            send_all(socket, &ack)?;
        }
    }
}

/// Has a receive wait until so many bytes have come, without being woken for less.
fn wake_when_there_are(socket: BorrowedFd<'_>, bytes: u32) -> io::Result<()> {
    let value = bytes as libc::c_int;
    // SAFETY: the option is read from a value of the length it is said to have, which lives as long as the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
