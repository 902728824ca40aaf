//! Pools: whatever the files hold, recovery ends in a working node or an error.

#![no_main]

use farkeep_core::arbitrary::recover_pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| recover_pieces(data));
