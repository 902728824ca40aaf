//! The last words of a process that touched a mapped byte it could not have.
//!
//! The kernel answers a media error, or a store that the file system has no space for, with SIGBUS. Nothing can be
//! resumed after that: the store or load did not happen. The handler says which byte of which file it was and ends
//! the process; recovery starts from what is persistent, as after any crash.
//!
//! The table of mapped files is fixed and lock-free because a signal handler may look at it at any moment. A slot is
//! filled before its address is published and cleared before it is reused.

use std::cell::UnsafeCell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many mappings can be told apart; any beyond are reported without a name.
const SLOTS_MAX: usize = 64;
/// The longest part of a path that is remembered.
const NAME_LEN_MAX: usize = 232;
/// The exit status after a SIGBUS: `EX_IOERR` of sysexits.h.
pub const EXIT_STATUS: i32 = 74;

struct Slot {
    base: AtomicUsize,
    len: AtomicUsize,
    name_len: AtomicUsize,
    name: UnsafeCell<[u8; NAME_LEN_MAX]>,
}

/// Address of a slot that is being filled.
const RESERVED: usize = 1;

// SAFETY: `name` is written only by whoever has moved `base` from 0 to RESERVED, and read only while `base` holds a
// real address, which is stored after the name with release order.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; SLOTS_MAX] = [const {
    Slot {
        base: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        name_len: AtomicUsize::new(0),
        name: UnsafeCell::new([0; NAME_LEN_MAX]),
    }
}; SLOTS_MAX];

/// A mapping's entry in the table; leaves it when dropped.
#[derive(Debug)]
pub(super) struct Registration(Option<usize>);

impl Registration {
    /// Enters the mapping of `len` bytes at `base`.
    pub(super) fn new(base: usize, len: usize, name: &str) -> Registration {
        let free = SLOTS.iter().position(|slot| {
            slot.base.compare_exchange(0, RESERVED, Ordering::Acquire, Ordering::Relaxed).is_ok()
        });
        if let Some(index) = free {
            let slot = &SLOTS[index];
            let name = &name.as_bytes()[..name.len().min(NAME_LEN_MAX)];
            // SAFETY: this thread has just reserved the slot, so nobody else reads or writes the name.
            unsafe { (&mut *slot.name.get())[..name.len()].copy_from_slice(name) };
            slot.name_len.store(name.len(), Ordering::Relaxed);
            slot.len.store(len, Ordering::Relaxed);
            slot.base.store(base, Ordering::Release);
        }
        Registration(free)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(index) = self.0 {
            SLOTS[index].base.store(0, Ordering::Release);
        }
    }
}

/// The file and the offset in it that an address belongs to.
fn find(address: usize) -> Option<(&'static [u8], usize)> {
    SLOTS.iter().find_map(|slot| {
        let base = slot.base.load(Ordering::Acquire);
        let len = slot.len.load(Ordering::Relaxed);
        if base <= RESERVED || address < base || address - base >= len {
            return None;
        }
        // SAFETY: `base` is a real address, so the name was published before it and is not changed while it stands.
        let name = unsafe { &*slot.name.get() };
        Some((&name[..slot.name_len.load(Ordering::Relaxed)], address - base))
    })
}

/// Text assembled without allocating, as a signal handler must.
struct Message {
    bytes: [u8; 512],
    len: usize,
}

impl Message {
    fn push(&mut self, text: &[u8]) {
        let room = self.bytes.len() - self.len;
        let text = &text[..text.len().min(room)];
        self.bytes[self.len..][..text.len()].copy_from_slice(text);
        self.len += text.len();
    }

    fn push_hex(&mut self, number: usize) {
        let mut digits = [b'0'; 16];
        for (place, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[number >> (60 - 4 * place) & 15];
        }
        let first = digits.iter().position(|&digit| digit != b'0').unwrap_or(15);
        self.push(b"0x");
        self.push(&digits[first..]);
    }
}

fn describe(address: usize, media_error: bool) -> Message {
    let mut message = Message { bytes: [0; 512], len: 0 };
    message.push(b"farkeep: SIGBUS: ");
    message.push(if media_error { b"media error" } else { b"no memory or space" });
    match find(address) {
        Some((name, offset)) => {
            message.push(b" at offset ");
            message.push_hex(offset);
            message.push(b" of ");
            message.push(name);
        }
        None => {
            message.push(b" at address ");
            message.push_hex(address);
            message.push(b", which belongs to no pool file");
        }
    }
    message.push(b"; stopping, nothing that was acknowledged is lost\n");
    message
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let message = describe(address, code == libc::BUS_MCEERR_AR || code == libc::BUS_MCEERR_AO);
    // SAFETY: write and _exit are async-signal-safe, and the buffer is ours.
    unsafe {
        libc::write(libc::STDERR_FILENO, message.bytes.as_ptr().cast(), message.len);
        libc::_exit(EXIT_STATUS);
    }
}

/// Installs the handler for the whole process. Call it once, at start; the alternate stack that Rust's runtime has
/// given each thread is used.
pub fn install() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid value; every field that matters is set below.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is initialized and the handler does async-signal-safe things only.
    let failed = unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) != 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_file_and_offset() {
        let registration = Registration::new(0x7000_0000, 0x1000, "/pool/image");
        let message = describe(0x7000_0abc, true);
        let text = String::from_utf8_lossy(&message.bytes[..message.len]).into_owned();
        assert!(text.contains("media error at offset 0xabc of /pool/image"), "{text}");
        drop(registration);
        let message = describe(0x7000_0abc, false);
        let text = String::from_utf8_lossy(&message.bytes[..message.len]).into_owned();
        assert!(text.contains("address 0x70000abc, which belongs to no pool file"), "{text}");
    }
}
