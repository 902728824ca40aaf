//! The instructions that make a store survive a power cut.
//!
//! A store lands in a cache line. Writing the line back towards memory and fencing puts it into the persistence
//! domain; where the platform flushes its caches on power loss (eADR), the fence alone does. Write-back and fence
//! are separate, so that a batch of records pays for one fence.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("farkeep knows the cache write-back instructions of x86-64 only");

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, __m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// Length of a cache line: the unit of write-back.
pub const LINE_LEN: usize = 64;

/// The instruction that writes a cache line back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writeback {
    /// Writes back, keeps the line in the cache.
    Clwb,
    /// Writes back and evicts, without ordering between lines.
    ClflushOpt,
    /// Writes back and evicts, one line after the other.
    Clflush,
    /// None is needed: the caches themselves are in the persistence domain.
    Nothing,
}

impl Writeback {
    /// The best instruction this CPU has.
    pub fn of_this_cpu() -> Writeback {
        static BEST: OnceLock<Writeback> = OnceLock::new();
        *BEST.get_or_init(|| {
            let highest = __cpuid(0).eax;
            let features = if highest >= 7 { __cpuid_count(7, 0).ebx } else { 0 };
            match () {
                () if features & 1 << 24 != 0 => Writeback::Clwb,
                () if features & 1 << 23 != 0 => Writeback::ClflushOpt,
                () => Writeback::Clflush,
            }
        })
    }

    /// The instruction's name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Writeback::Clwb => "clwb",
            Writeback::ClflushOpt => "clflushopt",
            Writeback::Clflush => "clflush",
            Writeback::Nothing => "none (eADR)",
        }
    }

    /// Starts to write back the lines that `bytes` touch. They have left the caches when [`fence`] returns.
    #[inline]
    pub fn write_back(self, bytes: &[u8]) {
        if self == Writeback::Nothing || bytes.is_empty() {
            return;
        }
        let first = bytes.as_ptr() as usize & !(LINE_LEN - 1);
        let end = bytes.as_ptr() as usize + bytes.len();
        for line in (first..end).step_by(LINE_LEN) {
            // SAFETY: the three instructions change no byte and fault only where a load would; the line holds a byte
            // of `bytes`, which is readable. The CPU has the instruction: `of_this_cpu` has looked.
            unsafe {
                match self {
                    Writeback::Clwb => asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags)),
                    Writeback::ClflushOpt => {
                        asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                    }
                    Writeback::Clflush => {
                        asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags))
                    }
                    Writeback::Nothing => {}
                }
            }
        }
    }
}

/// Copies `from` to `to`, of the same length, past the caches: for a lot of bytes that nobody looks at soon. When it returns they are
/// in the persistence domain, and so are all lines that were written back before.
pub fn store_through(to: &mut [u8], from: &[u8], writeback: Writeback) {
    assert_eq!(to.len(), from.len(), "what is copied has one length");
    // SAFETY: a vector register holds any 16 bytes.
    let (head, body, tail) = unsafe { to.align_to_mut::<__m128i>() };
    let (first, from) = from.split_at(head.len());
    let (vectors, last) = from.as_chunks::<16>();
    for (to, from) in body.iter_mut().zip(vectors) {
        // SAFETY: SSE2 is part of every x86-64 CPU; `to` is aligned, and `from` need not be. The fence below comes before anybody
        // is told of these stores, which are not ordered with others.
        unsafe { _mm_stream_si128(to, _mm_loadu_si128(from.as_ptr().cast())) };
    }
    for (to, from) in [(head, first), (tail, last)] {
        to.copy_from_slice(from);
        writeback.write_back(to);
    }
    fence();
}

/// Waits until every line written back before is in the persistence domain.
#[inline]
pub fn fence() {
    // SAFETY: SFENCE is part of every x86-64 CPU and touches nothing.
    unsafe { _mm_sfence() }
}

/// Whether the platform says, for every persistent memory region it has, that power loss flushes the CPU's caches.
/// `devices` is `/sys/bus/nd/devices` but in tests. No region, or one that says nothing, means no.
pub fn caches_are_persistent(devices: &Path) -> bool {
    let Ok(entries) = fs::read_dir(devices) else { return false };
    let mut regions = 0;
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("region") {
            continue;
        }
        regions += 1;
        match fs::read_to_string(entry.path().join("persistence_domain")) {
            Ok(domain) if domain.trim() == "cpu_cache" => {}
            _ => return false,
        }
    }
    regions > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_back_takes_any_alignment() {
        let bytes = vec![7u8; 1000];
        for kind in [Writeback::of_this_cpu(), Writeback::Clflush, Writeback::Nothing] {
            for (from, to) in [(0, 0), (3, 4), (60, 70), (0, 1000)] {
                kind.write_back(&bytes[from..to]);
            }
            fence();
        }
    }

    #[test]
    fn what_is_stored_past_the_caches_is_all_there_at_any_alignment() {
        let from: Vec<u8> = (0..200).map(|at| at as u8 + 1).collect();
        for (start, len) in (0..20).flat_map(|start| (0..150).map(move |len| (start, len))) {
            let mut to = [0; 200];
            store_through(&mut to[start..start + len], &from[start + 1..start + 1 + len], Writeback::Clflush);
            assert_eq!(to[start..start + len], from[start + 1..start + 1 + len], "{len} bytes at {start}");
            assert!(
                to[..start].iter().chain(&to[start + len..]).all(|&byte| byte == 0),
                "{len} bytes at {start}"
            );
        }
    }

    #[test]
    fn eadr_needs_every_region_to_say_so() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!caches_are_persistent(dir.path()), "no region");
        assert!(!caches_are_persistent(&dir.path().join("missing")));
        for (region, domain) in [("region0", "cpu_cache\n"), ("region1", "memory_controller\n")] {
            fs::create_dir(dir.path().join(region)).unwrap();
            fs::write(dir.path().join(region).join("persistence_domain"), domain).unwrap();
            assert_eq!(caches_are_persistent(dir.path()), region == "region0");
        }
    }
}
