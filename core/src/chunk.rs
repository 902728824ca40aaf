//! Chunks of the image: the pieces in which two nodes compare their images and one copies from the other.
//!
//! A walk over the image (a delta sync, or a scrub) compares chunk by chunk at equal LSN, where two images of the same
//! dataset are the same bytes (I5). A hash of 64 bits stands for the bytes: of two chunks that differ by chance one pair in
//! 2^64 would be taken for the same.

use twox_hash::XxHash3_64;

/// Length of a chunk of the image unless configured, in bytes.
pub const DEFAULT_CHUNK_LEN: u64 = 1 << 20;

/// What a chunk's bytes are, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Digest {
    /// All zero.
    Zero,
    /// Anything else: the xxh3 of the bytes, with seed 0.
    Hash(u64),
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        if is_zero(bytes) { Digest::Zero } else { Digest::Hash(hash(bytes)) }
    }
}

/// The hash that stands for a chunk's bytes.
pub fn hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// Whether all bytes are zero. A chunk that is in use mostly says so in its first words.
pub fn is_zero(bytes: &[u8]) -> bool {
    // SIMD-friendly: whole blocks are or-ed before anything is decided.
    bytes.chunks(4096).all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
}

/// Where the chunk of length `chunk_len` that begins at `offset` ends in an image of `image_len` bytes.
pub fn end(offset: u64, chunk_len: u64, image_len: u64) -> u64 {
    image_len.min(offset + chunk_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_makes_a_chunk_another_one() {
        let zero = vec![0; 10_000];
        assert_eq!(Digest::of(&zero), Digest::Zero);
        let mut seen = std::collections::HashSet::new();
        for at in [0, 1, 4095, 4096, 9_999] {
            let mut bytes = zero.clone();
            bytes[at] = 0x10;
            assert!(matches!(Digest::of(&bytes), Digest::Hash(hash) if seen.insert(hash)), "at {at}");
        }
    }
}
