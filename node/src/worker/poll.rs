//! A thin, safe readiness poller over epoll: level-triggered, one token per descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// What a descriptor is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Wake when there is something to read, or the peer hung up.
    pub readable: bool,
    /// Wake when there is room to write.
    pub writable: bool,
}

impl Interest {
    /// Reads only.
    pub const READ: Self = Self { readable: true, writable: false };

    fn flags(self) -> EventFlags {
        let mut flags = EventFlags::empty();
        if self.readable {
            flags |= EventFlags::IN | EventFlags::RDHUP;
        }
        if self.writable {
            flags |= EventFlags::OUT;
        }
        flags
    }
}

/// A descriptor that became ready.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The token it was registered with.
    pub token: u64,
    /// There is something to read, or an error or hang-up that a read will tell.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

/// An epoll instance.
pub struct Poll {
    epoll: OwnedFd,
}

impl std::fmt::Debug for Poll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poll").field("epoll", &self.epoll).finish_non_exhaustive()
    }
}

/// Ready descriptors taken in one call, and so the most connections of one turn. With more, clients on other processors would
/// have nothing to do while their server works through a long turn, and it nothing while they all think; with fewer, too few
/// writes share a turn's persist and send.
const MAX_EVENTS: usize = 16;

impl Poll {
    /// Creates the epoll instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Starts watching a descriptor.
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Changes what a descriptor is watched for.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), interest.flags())?)
    }

    /// Stops watching a descriptor.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits for up to `timeout_ms` and appends what became ready. An interrupted wait is an empty one.
    pub fn wait(&self, timeout_ms: u64, ready: &mut Vec<Ready>) -> io::Result<()> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; MAX_EVENTS];
        let timeout =
            Timespec { tv_sec: (timeout_ms / 1000) as i64, tv_nsec: (timeout_ms % 1000 * 1_000_000) as i64 };
        let events = match epoll::wait(&self.epoll, &mut events, Some(&timeout)) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        ready.extend(events.iter().map(|event| {
            let flags = event.flags;
            let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP | EventFlags::RDHUP);
            Ready {
                token: event.data.u64(),
                readable: broken || flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

/// Wakes a worker out of its wait from another thread.
#[derive(Debug)]
pub struct Waker {
    fd: OwnedFd,
}

impl Waker {
    /// Creates the event descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self { fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // A full counter means that a wake-up is pending already.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable until the next wake.
    pub fn drain(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.fd, &mut count);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
