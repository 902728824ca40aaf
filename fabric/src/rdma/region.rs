//! Memory that the card may read or write.
//!
//! A [`Registration`] owns a share of the memory it is for. It is deregistered when its last owner drops it, and every connection
//! owns the registrations that it uses until it is gone for good (`reaper`), so the card never touches memory that has been
//! given back. The one exception is deliberate: a fence deregisters the window under the leader's hands.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use farkeep_core::log::LogMap;
use farkeep_proto::window::RING_AT;
use rpma_sys::{
    RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT, RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY, RPMA_MR_USAGE_RECV,
    RPMA_MR_USAGE_SEND, RPMA_MR_USAGE_WRITE_DST, RPMA_MR_USAGE_WRITE_SRC, rpma_mr_local,
};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::device::Device;
use super::error::{CallError, Unusable};

const PAGE: usize = 4096;

/// Pages of anonymous memory, zero at first.
struct Pages {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory; who may touch which byte when is decided by the owner of the registration.
unsafe impl Send for Pages {}
// SAFETY: as for Send.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(len: usize) -> Self {
        let layout = Layout::from_size_align(len.next_multiple_of(PAGE), PAGE).expect("a length, and a page");
        assert!(layout.size() > 0, "a buffer has bytes");
        // SAFETY: the layout is not empty.
        let base =
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        for at in (0..layout.size()).step_by(PAGE) {
            // SAFETY: within the allocation, which nobody else knows yet. Pinning pages that are there already is a
            // hundred times faster; a volatile store is one that the compiler does not leave out.
            unsafe { base.as_ptr().add(at).write_volatile(0) };
        }
        Self { base, layout }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// What keeps the memory where it is.
enum Memory {
    Log(Arc<LogMap>),
    Pages(Pages),
}

/// A registered piece of memory.
pub(super) struct Registration {
    device: Device,
    /// Always there until it is given back.
    mr: Option<NonNull<rpma_mr_local>>,
    base: NonNull<u8>,
    len: usize,
    /// Given back after the memory is deregistered: see `Drop`.
    memory: Memory,
}

// SAFETY: the registration itself is never changed after it is made; librpma only reads it when something is posted.
unsafe impl Send for Registration {}
// SAFETY: as for Send. The bytes are memory that the card reads or writes; the protocol says who else may when.
unsafe impl Sync for Registration {}

impl Registration {
    fn new(
        device: &Device,
        memory: Memory,
        base: NonNull<u8>,
        len: usize,
        usage: u32,
        what: &'static str,
    ) -> Result<Self, Unusable> {
        let mut mr = ptr::null_mut();
        let turn = device.registering();
        // SAFETY: the memory is mapped for the whole length and stays so as long as `memory` is owned; the peer lives as
        // long as the device, which the registration owns a share of.
        let answer = unsafe {
            device.rpma().rpma_mr_reg(device.peer(), base.as_ptr().cast(), len, usage as i32, &raw mut mr)
        };
        let registered = device.check("rpma_mr_reg", answer);
        drop(turn);
        registered.map_err(|source| why_not(device, &memory, len as u64, what, source))?;
        Ok(Self { device: device.clone(), mr: NonNull::new(mr), base, len, memory })
    }

    /// The window of a log, for a leader to write into and to flush.
    pub(super) fn window(device: &Device, log: &Arc<LogMap>) -> Result<Self, Unusable> {
        let usage = RPMA_MR_USAGE_WRITE_DST
            | RPMA_MR_USAGE_FLUSH_TYPE_PERSISTENT
            | RPMA_MR_USAGE_FLUSH_TYPE_VISIBILITY;
        let base = log_address(log, LogMap::window_file_offset(), log.window_len());
        let memory = Memory::Log(Arc::clone(log));
        Self::new(device, memory, base, log.window_len() as usize, usage, "the log's window")
    }

    /// The ring of a log, to be written from.
    fn ring(device: &Device, log: &Arc<LogMap>) -> Result<Self, Unusable> {
        let len = log.geometry().ring_len();
        let base = log_address(log, LogMap::window_file_offset() + RING_AT, len);
        let memory = Memory::Log(Arc::clone(log));
        Self::new(device, memory, base, len as usize, RPMA_MR_USAGE_WRITE_SRC, "the log's ring")
    }

    /// A buffer of our own, for anything but being written into by a peer.
    pub(super) fn buffer(device: &Device, len: usize, what: &'static str) -> Result<Self, Unusable> {
        let pages = Pages::new(len);
        let base = pages.base;
        let usage = RPMA_MR_USAGE_WRITE_SRC | RPMA_MR_USAGE_SEND | RPMA_MR_USAGE_RECV;
        Self::new(device, Memory::Pages(pages), base, len, usage, what)
    }

    pub(super) fn mr(&self) -> *mut rpma_mr_local {
        self.mr.expect("a registration that can be used is there").as_ptr()
    }

    /// Where `bytes` lie in the registered memory, if they do.
    pub(super) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let at = (bytes.as_ptr() as usize).checked_sub(self.base.as_ptr() as usize)?;
        at.checked_add(bytes.len()).is_some_and(|end| end <= self.len).then_some(at)
    }

    fn own(&self, at: usize, len: usize) -> *mut u8 {
        assert!(matches!(self.memory, Memory::Pages(_)), "only buffers are stored to or read here");
        assert!(
            at.checked_add(len).is_some_and(|end| end <= self.len),
            "beyond a buffer of {} bytes",
            self.len
        );
        // SAFETY: just bounded.
        unsafe { self.base.as_ptr().add(at) }
    }

    /// Stores into a buffer. The caller sees to it that the card is not reading there: the operation that used the place
    /// has completed.
    pub(super) fn store(&self, at: usize, bytes: &[u8]) {
        let to = self.own(at, bytes.len());
        // SAFETY: `own` has bounded the range; the bytes come from elsewhere, because nobody gets a reference to a
        // buffer; the caller keeps the card out.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// Copies out of a buffer what the card has received there. The caller has seen the completion and has not yet
    /// posted the place again.
    pub(super) fn load<const LEN: usize>(&self, at: usize) -> [u8; LEN] {
        let from = self.own(at, LEN);
        let mut bytes = [0; LEN];
        // SAFETY: `own` has bounded the range, and the caller keeps the card out.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), LEN) };
        bytes
    }

    /// What a peer has to know to write here.
    pub(super) fn descriptor(&self) -> Result<Vec<u8>, CallError> {
        let rpma = self.device.rpma();
        let mut len = 0;
        // SAFETY: the registration is alive, and the answer has a place.
        let answer = unsafe { rpma.rpma_mr_get_descriptor_size(self.mr(), &raw mut len) };
        self.device.check("rpma_mr_get_descriptor_size", answer)?;
        let mut descriptor = vec![0u8; len];
        // SAFETY: the buffer is as long as librpma wants it.
        let answer = unsafe { rpma.rpma_mr_get_descriptor(self.mr(), descriptor.as_mut_ptr().cast()) };
        self.device.check("rpma_mr_get_descriptor", answer)?;
        Ok(descriptor)
    }

    /// Takes the memory away from the card, whoever may be using it just now: their operations fail.
    pub(super) fn deregister(mut self) -> Result<(), CallError> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<(), CallError> {
        let Some(mr) = self.mr.take() else { return Ok(()) };
        let mut mr = mr.as_ptr();
        let turn = self.device.registering();
        // SAFETY: registered in `new`, and given back once, because the field is empty from now on.
        let answer = unsafe { self.device.rpma().rpma_mr_dereg(&raw mut mr) };
        let result = self.device.check("rpma_mr_dereg", answer);
        drop(turn);
        if result.is_err() {
            // The card may still hold on to the memory: it must never become somebody else's.
            match &mut self.memory {
                Memory::Log(log) => std::mem::forget(Arc::clone(log)),
                Memory::Pages(pages) => std::mem::forget(std::mem::replace(pages, Pages::new(1))),
            }
        }
        result
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // What could not be taken away stays mapped for good; there is nobody to tell.
        let _ = self.take_away();
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({} bytes on {})", self.len, self.device.name())
    }
}

fn log_address(log: &LogMap, at: u64, len: u64) -> NonNull<u8> {
    let region = log.region();
    assert!(at.checked_add(len).is_some_and(|end| end <= region.len()), "beyond the log's mapping");
    // SAFETY: just bounded by the mapping's length.
    unsafe { region.base_address().add(at as usize) }
}

/// Makes sense of a refusal to register.
fn why_not(device: &Device, memory: &Memory, len: u64, what: &'static str, source: CallError) -> Unusable {
    if source.is_errno(Errno::NOMEM) {
        let pinned = pinned_bytes();
        if let Some(limit) = getrlimit(Resource::Memlock).current
            && pinned.saturating_add(len) > limit
        {
            return Unusable::Memlock { what, needed: len, pinned, limit };
        }
    }
    if source.is_errno(Errno::OPNOTSUPP) && matches!(memory, Memory::Log(_)) && !device.pages_on_demand() {
        return Unusable::FsDax { what, device: device.name().to_owned() };
    }
    Unusable::NotRegistrable { what, len, source }
}

/// What this process has pinned, as far as the kernel says.
fn pinned_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Where a leader's writes come from: its own log, registered once for all followers; or, where that cannot be
/// registered, a staging ring of each connection. Clones share the registration.
#[derive(Clone, Debug)]
pub struct Source {
    device: Device,
    ring: Result<Arc<Registration>, Arc<Unusable>>,
}

impl Source {
    /// Registers the ring of `log`. That takes 50 to 240 ms for 256 MiB of devdax, so it is not for a worker. Where it
    /// is refused, the source is a staged one and [`Source::staged`] says why.
    pub fn new(device: &Device, log: &Arc<LogMap>) -> Self {
        let ring = Registration::ring(device, log).map(Arc::new).map_err(Arc::new);
        Self { device: device.clone(), ring }
    }

    /// A source that copies every batch, for memory that is no log.
    pub fn copying(device: &Device, why: Unusable) -> Self {
        Self { device: device.clone(), ring: Err(Arc::new(why)) }
    }

    /// Why batches have to be copied on their way; `None` when the card reads the log itself.
    pub fn staged(&self) -> Option<&Unusable> {
        self.ring.as_ref().err().map(AsRef::as_ref)
    }

    /// The device that the log is registered with.
    pub fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn ring(&self) -> Option<&Arc<Registration>> {
        self.ring.as_ref().ok()
    }
}
