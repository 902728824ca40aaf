//! What a request costs before and after its execution: decoding it, encoding its reply.
//!
//! `cargo bench -p farkeep-proto`. Prints the best of several rounds in ns per operation: noise only ever adds.

use std::hint::black_box;
use std::time::Instant;

use farkeep_proto::glob;
use farkeep_proto::number::{format_i64, incr_by_float, parse_i64, push_f64};
use farkeep_proto::resp::client::push_command;
use farkeep_proto::resp::{DecodeState, Decoded, Encoder, Limits, decode};

const ROUNDS: usize = 15;
const PER_ROUND: u32 = 200_000;

fn measure(what: &str, mut operation: impl FnMut()) {
    let best = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        (0..PER_ROUND).for_each(|_| operation());
        start.elapsed()
    });
    let best = best.min().unwrap_or_default();
    println!("{what:<44} {:>8.1} ns", best.as_nanos() as f64 / f64::from(PER_ROUND));
}

fn decoding(what: &str, request: &[&[u8]]) {
    let mut buf = Vec::new();
    push_command(&mut buf, request);
    let (mut args, mut state, limits) = (Vec::new(), DecodeState::default(), Limits::default());
    measure(what, || {
        let decoded = decode(black_box(&mut buf), &mut args, &limits, &mut state);
        assert!(matches!(decoded, Ok(Decoded::Command { .. })));
        black_box(&args);
    });
}

fn main() {
    let (key, value) = ([b'k'; 16], [b'v'; 64]);
    decoding("decode GET, 16-byte key", &[b"GET", &key]);
    decoding("decode SET, 16-byte key, 64-byte value", &[b"SET", &key, &value]);
    decoding("decode SET, 16-byte key, 4 KiB value", &[b"SET", &key, &[b'v'; 4096]]);
    decoding("decode MGET of 100", &[key.as_slice(); 101]);

    let mut out = Vec::with_capacity(1 << 16);
    let mut encode = |what: &str, write: fn(&mut Encoder<'_>)| {
        measure(what, || {
            out.clear();
            write(&mut Encoder::new(black_box(&mut out), false));
            black_box(&out);
        });
    };
    encode("encode OK", |e| e.ok());
    encode("encode bulk of 64 bytes", |e| e.bulk(&[b'v'; 64]));
    encode("encode integer", |e| e.int(black_box(123_456)));
    encode("encode null", |e| e.null());
    encode("encode double 0.1", |e| e.double(black_box(0.1)));

    measure("parse i64, 10 digits", || {
        black_box(parse_i64(black_box(b"1234567890")));
    });
    measure("format i64, 10 digits", || {
        black_box(format_i64(black_box(1_234_567_890)));
    });
    let mut text = Vec::new();
    measure("format f64 as %.17g", || {
        text.clear();
        push_f64(black_box(&mut text), black_box(1234.5678));
    });
    measure("increment by float", || {
        black_box(incr_by_float(black_box(b"10.50"), black_box(b"0.1")).is_ok());
    });
    measure("glob user:*:name", || {
        black_box(glob::matches(black_box(b"user:*:name"), black_box(b"user:123456:name")));
    });
}
