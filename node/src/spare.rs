//! Work that is done in a machine's spare time.
//!
//! A delta sync moves an image's bytes beside clients that are to notice nothing. A low priority is not enough for that: as long
//! as an ordinary thread runs on a processor, however nice, Linux does not take that processor for idle, and lets a client and
//! the worker that answers it share the other one. A thread of the class `SCHED_IDLE` it passes over: whoever wakes up gets the
//! processor at once (`sched_idle_cpu` in the kernel's fair scheduler, since 5.4).
//!
//! On a machine without spare time such a thread would stand still. So what it has covered is compared with the time that it took, and
//! below a rate it works as an ordinary thread until it has caught up. A rate, and not a share of a processor: where the memory or the
//! medium is slow the operator wants the sync to end all the same, and where it is fast the clients may have the rest. Nobody else waits
//! for a thread in [`Spare::run`], unless for what it holds: take no lock into it that a client's command needs.

use std::io::ErrorKind;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use farkeep_core::sched::{Class, set_class};
use rustix::process::setpriority_process;

/// Bytes of the image, or of log, that the work covers in a second in any case: some four times as many as a redis-server on the same
/// machine does in a full sync, of a dataset that takes up less there.
const RATE: u64 = 320 << 20;
/// What was longer ago than this counts less and less.
const MEMORY: Duration = Duration::from_millis(100);
/// Less than this proves nothing.
const GRAIN: Duration = Duration::from_millis(2);
/// Nice value where a thread may not come back from `SCHED_IDLE`: about a third of an ordinary thread's weight.
const NICENESS: i32 = 5;

/// Whether threads of this process may come back from `SCHED_IDLE`. One that may not would be stuck there, so another one tries, once.
fn may_come_back() -> bool {
    static TRIED: OnceLock<bool> = OnceLock::new();
    *TRIED.get_or_init(|| {
        let there_and_back = || set_class(Class::Idle).and_then(|()| set_class(Class::Ordinary));
        let probe = std::thread::Builder::new().name("spare-probe".to_owned()).spawn(there_and_back);
        let result = probe.and_then(|probe| probe.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())));
        if let Err(error) = &result {
            tracing::debug!(
                %error,
                "threads may not come back from SCHED_IDLE here (RLIMIT_NICE): delta syncs run at the clients' expense"
            );
        }
        result.is_ok()
    })
}

/// For the thread that makes it.
#[derive(Debug, Default)]
pub struct Spare {
    /// How long the work has taken lately, ...
    took: Duration,
    /// ... and how long it may have taken for what it has covered.
    allowed: Duration,
}

impl Spare {
    /// For a thread that does nothing else: one that is nice, where it may not do better.
    pub fn or_nice() -> Self {
        if !may_come_back()
            && let Err(error) = setpriority_process(Some(rustix::thread::gettid()), NICENESS)
        {
            tracing::debug!(%error, "the thread stays an ordinary one");
        }
        Self::default()
    }

    /// Does some work, of milliseconds rather than more.
    pub fn run<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let gives_way = !self.is_starved() && may_come_back() && set_class(Class::Idle).is_ok();
        let began = Instant::now();
        let result = work();
        self.took += began.elapsed();
        if self.took > MEMORY {
            (self.took, self.allowed) = (self.took / 2, self.allowed / 2);
        }
        if gives_way && let Err(error) = set_class(Class::Ordinary) {
            tracing::warn!(%error, "a thread could not come back from SCHED_IDLE; it works when nobody else does");
        }
        result
    }

    /// So many bytes have been covered by what was run.
    pub fn covered(&mut self, bytes: u64) {
        let allowed = self.allowed + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / RATE);
        // A good time is not drawn on for longer than a bad one is remembered.
        self.allowed = allowed.min(self.took + MEMORY);
    }

    fn is_starved(&self) -> bool {
        self.took > self.allowed + GRAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_is_slower_than_its_rate_stops_giving_way_until_it_has_caught_up() {
        let mut spare = Spare { took: Duration::from_millis(2), ..Spare::default() };
        assert!(!spare.is_starved(), "a moment proves nothing");
        spare.took = Duration::from_millis(500);
        spare.covered(RATE / 4);
        assert!(spare.is_starved());
        spare.covered(RATE / 4);
        assert!(!spare.is_starved());
        spare.covered(100 * RATE);
        spare.took += MEMORY + 2 * GRAIN;
        assert!(spare.is_starved(), "what went well long ago helps nobody");
    }

    #[test]
    fn work_runs_in_the_idle_class_and_leaves_the_thread_as_it_was() {
        // The 41st field of its stat is the thread's class: 0 is SCHED_OTHER, 5 is SCHED_IDLE.
        let class = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(38).unwrap().to_owned()
        };
        std::thread::spawn(move || {
            let inside = Spare::default().run(class);
            assert_eq!(inside, if may_come_back() { "5" } else { "0" });
            assert_eq!(class(), "0");
        })
        .join()
        .unwrap();
    }
}
