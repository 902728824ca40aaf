//! Wakes a thread that sleeps until a socket has something for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::worker::poll::Waker;

/// For one sleeper.
#[derive(Debug)]
pub struct Alarm {
    waker: Waker,
    resting: AtomicBool,
}

impl Alarm {
    /// Creates the event descriptor.
    ///
    /// # Errors
    /// When there is none to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self { waker: Waker::new()?, resting: AtomicBool::new(false) })
    }

    /// Wakes the sleeper, now or at its next wait.
    pub fn raise(&self) {
        self.waker.wake();
    }

    /// Wakes the sleeper if it is about to sleep for long. For what it looks at soon anyway otherwise: only then is waking it paid for.
    pub fn raise_if_resting(&self) {
        if self.resting.swap(false, Ordering::SeqCst) {
            self.raise();
        }
    }

    /// Whether the sleeper is about to sleep for long. It says so before it looks for the last time whether there is anything to do.
    pub fn set_resting(&self, resting: bool) {
        self.resting.store(resting, Ordering::SeqCst);
    }

    /// Sleeps until raised, or for at most `timeout`.
    ///
    /// # Errors
    /// What the system call says.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        self.wait_watching(None, timeout).map(drop)
    }

    /// Sleeps until raised, until `fd` is readable or at its end, or for at most `timeout`. Says whether it is the former or the latter
    /// of `fd`, which a read tells apart.
    ///
    /// # Errors
    /// What the system call says.
    pub fn wait_for(&self, fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
        self.wait_watching(Some(fd), timeout)
    }

    fn wait_watching(&self, fd: Option<BorrowedFd<'_>>, timeout: Duration) -> io::Result<bool> {
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let alarm = self.waker.as_fd();
        let mut watched = [
            PollFd::new(&alarm, PollFlags::IN),
            PollFd::from_borrowed_fd(fd.unwrap_or(alarm), PollFlags::IN),
        ];
        match poll(&mut watched[..1 + usize::from(fd.is_some())], Some(&timeout)) {
            // A process that was stopped goes on with this.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [raised, readable] = watched.map(|watched| !watched.revents().is_empty());
        if raised {
            self.waker.drain();
        }
        Ok(readable && fd.is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_sleeper_is_woken_by_the_alarm_by_its_socket_and_by_time() {
        let alarm = Alarm::new().unwrap();
        let (mut there, here) = UnixStream::pair().unwrap();
        let began = Instant::now();
        assert!(!alarm.wait_for(here.as_fd(), Duration::from_millis(1)).unwrap(), "by time");
        alarm.raise();
        alarm.raise();
        assert!(!alarm.wait_for(here.as_fd(), LONG).unwrap(), "by the alarm, though it was raised before");
        std::thread::scope(|scope| {
            scope.spawn(|| alarm.raise());
            alarm.wait(LONG).unwrap();
        });
        there.write_all(b"x").unwrap();
        assert!(alarm.wait_for(here.as_fd(), LONG).unwrap(), "by the socket");
        drop(there);
        assert!(alarm.wait_for(here.as_fd(), LONG).unwrap(), "by its end");
        alarm.set_resting(true);
        alarm.raise_if_resting();
        alarm.wait(LONG).unwrap();
        alarm.raise_if_resting();
        let (_there, quiet) = UnixStream::pair().unwrap();
        assert!(!alarm.wait_for(quiet.as_fd(), Duration::from_millis(1)).unwrap());
        assert!(began.elapsed() < LONG);
    }
}
