//! The calling thread and the scheduler: its class, which this workspace needs and no library offers safely, and what it got.

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Scheduling classes that need no privilege. `man 7 sched`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// `SCHED_OTHER`.
    Ordinary,
    /// `SCHED_IDLE`: runs where no ordinary thread wants to.
    Idle,
}

/// Puts the calling thread into a class. Its nice value stays.
///
/// # Errors
/// `EPERM`: a thread whose nice value is beyond `RLIMIT_NICE` may not leave `SCHED_IDLE`.
pub fn set_class(class: Class) -> io::Result<()> {
    let policy = match class {
        Class::Ordinary => libc::SCHED_OTHER,
        Class::Idle => libc::SCHED_IDLE,
    };
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads `param` during the call and nothing else; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How long the calling thread has had a processor.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
