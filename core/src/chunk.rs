//! Chunks of the image: the pieces in which two nodes compare their images and one copies from the other.
//!
//! A walk over the image (a delta sync, or a scrub) compares chunk by chunk at equal LSN, where two images of the same
//! dataset are the same bytes (I5). A hash of 64 bits stands for the bytes: of two chunks that differ by chance one pair in
//! 2^64 would be taken for the same.
//!
//! Of a chunk that differs only a [`Patch`] travels: those of its blocks that are not the ones which the other side has described.
//! A block is described by 32 bits, as rsync does (Tridgell and Mackerras, "The rsync algorithm", 1996): what comes out is compared with
//! the hash of the whole chunk.

use std::borrow::Cow;
use std::ops::Range;

use twox_hash::XxHash3_64;

/// Length of a chunk of the image unless configured, in bytes.
pub const DEFAULT_CHUNK_LEN: u64 = 1 << 20;
/// Length of a chunk's blocks, in bytes; the last one may be shorter. An entry of some hundred bytes that has changed should not bring
/// much else along, and the description of a block should be much shorter than the block.
pub const BLOCK_LEN: usize = 1 << 10;

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

/// Describes each block of a chunk: the lower half of its hash.
pub fn describe(chunk: &[u8]) -> Vec<u32> {
    chunk.chunks(BLOCK_LEN).map(describe_block).collect()
}

fn describe_block(block: &[u8]) -> u32 {
    hash(block) as u32
}

/// What makes a chunk of another version of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// Which blocks these are: a bit for each block of the chunk, in bytes, the lowest first. Empty: all of them.
    pub blocks: Vec<u8>,
    /// The blocks, one behind the other.
    pub bytes: Vec<u8>,
}

impl Patch {
    /// What makes `chunk` of a version that was described so, or not at all: at least one block.
    pub fn of(chunk: &[u8], described: &[u32]) -> Self {
        if described.is_empty() {
            return Self { blocks: Vec::new(), bytes: chunk.to_vec() };
        }
        let mut patch = Self { blocks: vec![0; bitmap_len(chunk.len())], bytes: Vec::new() };
        for (number, block) in chunk.chunks(BLOCK_LEN).enumerate() {
            if described.get(number) != Some(&describe_block(block)) {
                patch.add(number, block);
            }
        }
        if let (true, Some(first)) = (patch.bytes.is_empty(), chunk.chunks(BLOCK_LEN).next()) {
            // The versions are the same by now, or a description has failed; the hash of the whole chunk says which.
            patch.add(0, first);
        }
        if patch.bytes.len() == chunk.len() {
            patch.blocks.clear();
        }
        patch
    }

    fn add(&mut self, number: usize, block: &[u8]) {
        self.blocks[number / 8] |= 1 << (number % 8);
        self.bytes.extend_from_slice(block);
    }
}

/// Bytes of a chunk's bitmap of blocks.
fn bitmap_len(chunk_len: usize) -> usize {
    chunk_len.div_ceil(BLOCK_LEN).div_ceil(8)
}

/// Whether `blocks` can be the blocks of a [`Patch`] of a chunk of this length.
pub fn are_blocks(blocks: &[u8], chunk_len: usize) -> bool {
    let beyond = (chunk_len.div_ceil(BLOCK_LEN)..blocks.len() * 8).any(|number| has_block(blocks, number));
    blocks.is_empty() || (blocks.len() == bitmap_len(chunk_len) && !beyond)
}

fn has_block(blocks: &[u8], number: usize) -> bool {
    blocks[number / 8] >> (number % 8) & 1 == 1
}

/// Where the blocks of a [`Patch`] lie in a chunk of this length.
pub fn ranges(blocks: &[u8], chunk_len: usize) -> impl Iterator<Item = Range<usize>> {
    let all = blocks.is_empty().then_some(0..chunk_len);
    let numbers = (0..blocks.len() * 8).filter(|&number| has_block(blocks, number));
    all.into_iter().chain(numbers.map(move |at| at * BLOCK_LEN..chunk_len.min((at + 1) * BLOCK_LEN)))
}

/// Length of the bytes of a [`Patch`] of a chunk of this length.
pub fn patch_len(blocks: &[u8], chunk_len: usize) -> usize {
    ranges(blocks, chunk_len).map(|range| range.len()).sum()
}

/// The version of `chunk` that a [`Patch`] makes of it. Panics if the bytes are not those of the blocks.
pub fn patched<'a>(chunk: &[u8], blocks: &[u8], mut bytes: &'a [u8]) -> Cow<'a, [u8]> {
    if blocks.is_empty() && bytes.len() == chunk.len() {
        return Cow::Borrowed(bytes);
    }
    let mut patched = chunk.to_vec();
    for range in ranges(blocks, chunk.len()) {
        let (block, rest) = bytes.split_at(range.len());
        patched[range].copy_from_slice(block);
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a patch of {} bytes too many", bytes.len());
    Cow::Owned(patched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_brings_the_blocks_that_differ_and_no_others() {
        let mut rng = 1u64;
        let mut byte = || {
            rng = rng.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (rng >> 56) as u8
        };
        for len in [1, 1023, 1024, 1025, 2048, 9 * 1024, 64 * 1024 + 7] {
            let old: Vec<u8> = (0..len).map(|_| byte()).collect();
            let mut new = old.clone();
            new[len - 1] ^= 1;
            new[len / 3] ^= 0x80;
            let patch = Patch::of(&new, &describe(&old));
            assert!(are_blocks(&patch.blocks, len));
            assert!(patch.bytes.len() <= 2 * BLOCK_LEN, "{} bytes of {len}", patch.bytes.len());
            assert_eq!(patch_len(&patch.blocks, len), patch.bytes.len());
            assert_eq!(patched(&old, &patch.blocks, &patch.bytes), new);
            assert_eq!(Patch::of(&new, &[]), Patch { blocks: Vec::new(), bytes: new });
        }
    }

    #[test]
    fn a_patch_of_a_chunk_that_has_grown_brings_what_has_been_added() {
        let old = vec![7; 3000];
        let new = vec![7; 5000];
        let patch = Patch::of(&new, &describe(&old));
        assert_eq!(
            ranges(&patch.blocks, 5000).map(|range| range.start).collect::<Vec<_>>(),
            [2048, 3072, 4096]
        );
        let same = Patch::of(&new, &describe(&new));
        assert_eq!(same.bytes, new[..BLOCK_LEN], "a patch is never empty");
    }

    #[test]
    fn a_bitmap_is_as_long_as_its_chunk_and_names_no_block_beyond() {
        assert!(are_blocks(&[0b111], 3000));
        assert!(are_blocks(&[], 3000));
        assert!(!are_blocks(&[0b1000], 3000));
        assert!(!are_blocks(&[1, 0], 3000));
    }

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
