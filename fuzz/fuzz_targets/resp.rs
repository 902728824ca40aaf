//! Requests: whatever arrives is decoded or refused, and means the same however it was cut into packets. Replies:
//! whatever arrives is read or refused.

#![no_main]

use farkeep_proto::resp::{client, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fuzzing::pieces_mean_the_same_as_the_whole(data);
    let _ = client::decode_reply(data);
});
