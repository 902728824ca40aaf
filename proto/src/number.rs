//! Numbers as Redis reads and writes them.
//!
//! Integers are strict: only the one canonical spelling of a number is a number (`"07"`, `"+7"`, `" 7"`, `"-0"` are
//! not), because a value that looks like an integer is stored as one and must come back byte for byte.
//!
//! Floating point comes in two kinds. Scores and `RESP3` doubles are `f64`, written as C's `%.17g`. `INCRBYFLOAT` and
//! `HINCRBYFLOAT` compute in the x87 80-bit format ([`LongDouble`]) and write `%.17Lf` without trailing zeros: with
//! `f64` the last digits would differ from Redis in nine results of ten.

mod decimal;
mod float;
mod integer;

pub use float::{FloatError, LongDouble, format_f64, incr_by_float, parse_f64, push_f64};
pub use integer::{DecimalI64, format_i64, parse_i64, parse_u64, push_i64, push_u64};
