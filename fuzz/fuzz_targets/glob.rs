//! Patterns, numbers and quoted words: any bytes are matched, parsed or refused.

#![no_main]

use farkeep_proto::{glob, number, resp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (pattern, text) = data.split_at(data.len() / 2);
    let _ = glob::matches(pattern, text);
    let _ = glob::matches_ignore_case(pattern, text);
    let _ = number::incr_by_float(pattern, text);
    let _ = number::parse_f64(data);
    if let Some(value) = number::parse_i64(data) {
        assert_eq!(&*number::format_i64(value), data);
    }
    let _ = resp::split_args(data);
});
