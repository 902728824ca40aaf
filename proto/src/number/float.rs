//! Floating point: `f64` for scores and `RESP3`, the x87 format for `INCRBYFLOAT`.

use std::fmt::Write as _;

use rustc_apfloat::{
    Float,
    ieee::{Double, X87DoubleExtended},
};

use super::decimal::{Literal, literal, push_fixed};
use super::push_i64;

/// Redis copies a float's text into a buffer of this size (with its final NUL) and refuses what does not fit.
const MAX_LONG_DOUBLE_CHARS: usize = 5 * 1024;

/// Longest text taken for an `f64`, for the same reason.
const MAX_DOUBLE_CHARS: usize = 5 * 1024;

/// Why an increment by a float was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FloatError {
    /// The stored value is not a number.
    #[error("value is not a valid float")]
    ValueNotFloat,
    /// The increment is not a number.
    #[error("value is not a valid float")]
    IncrementNotFloat,
    /// The sum is not finite.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
}

/// C's `long double` on x86-64: 64 bits of mantissa, 15 of exponent, computed in software.
#[derive(Clone, Copy, Debug)]
pub struct LongDouble(X87DoubleExtended);

impl LongDouble {
    /// Parses what `strtold` takes as a whole: decimal, hexadecimal and infinity, but no NaN, no surrounding space, and
    /// nothing that overflows or vanishes.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= MAX_LONG_DOUBLE_CHARS {
            return None;
        }
        apfloat(literal(text)?).map(Self)
    }

    /// The exact value of an integer.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Self(X87DoubleExtended::from_i128(value.into()).value)
    }

    /// Whether the value is neither infinite nor NaN.
    #[must_use]
    pub fn is_finite(self) -> bool {
        self.0.is_finite()
    }

    /// Appends the value as `%.17Lf` without trailing zeros, never in exponent notation.
    pub fn push_human(self, out: &mut Vec<u8>) {
        if self.0.is_nan() {
            return out.extend_from_slice(b"nan");
        }
        let sign_at = out.len();
        out.push(b'-');
        let not_zero = if self.0.is_infinite() {
            out.extend_from_slice(b"inf");
            true
        } else {
            let bits = self.0.to_bits();
            let exponent = ((bits >> 64) & 0x7fff) as i32;
            // The integer bit is explicit in this format; exponent 0 (subnormal) scales as exponent 1.
            push_fixed(out, bits as u64, exponent.max(1) - 16383 - 63)
        };
        if !(self.0.is_negative() && not_zero) {
            out.remove(sign_at);
        }
    }
}

impl std::ops::Add for LongDouble {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self((self.0 + other.0).value)
    }
}

fn apfloat<F: Float>(literal: Literal) -> Option<F> {
    let (text, negative, is_zero) = match literal {
        Literal::Infinity { negative } => {
            return Some(if negative { -F::INFINITY } else { F::INFINITY });
        }
        Literal::Decimal { negative, digits, exponent } => {
            (format!("{digits}e{exponent}"), negative, digits.is_empty())
        }
        Literal::Hexadecimal { negative, digits, exponent } => {
            (format!("0x{digits}p{exponent}"), negative, digits.is_empty())
        }
    };
    if is_zero {
        return Some(if negative { -F::ZERO } else { F::ZERO });
    }
    let value = F::from_str_r(&text, rustc_apfloat::Round::NearestTiesToEven).ok()?.value;
    // strtold reports ERANGE for both, and Redis then refuses the text.
    if value.is_infinite() || value.is_zero() {
        return None;
    }
    Some(if negative { -value } else { value })
}

/// `INCRBYFLOAT`: the text of `value + increment`, as Redis on x86-64 stores it.
///
/// # Errors
/// When either side is not a number, or the sum is not finite.
pub fn incr_by_float(value: &[u8], increment: &[u8]) -> Result<Vec<u8>, FloatError> {
    let value = LongDouble::parse(value).ok_or(FloatError::ValueNotFloat)?;
    let increment = LongDouble::parse(increment).ok_or(FloatError::IncrementNotFloat)?;
    let sum = value + increment;
    if !sum.is_finite() {
        return Err(FloatError::NotFinite);
    }
    let mut text = Vec::with_capacity(24);
    sum.push_human(&mut text);
    Ok(text)
}

/// Parses an `f64` as `strtod` does, as a whole; NaN, surrounding space, overflow and underflow to zero are `None`.
#[must_use]
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    if text.len() >= MAX_DOUBLE_CHARS {
        return None;
    }
    match literal(text)? {
        Literal::Infinity { negative } => Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
        Literal::Decimal { digits, .. } => {
            let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            let vanished = value == 0.0 && !digits.is_empty();
            (value.is_finite() && !vanished).then_some(value)
        }
        hexadecimal @ Literal::Hexadecimal { .. } => {
            let value: Double = apfloat(hexadecimal)?;
            Some(f64::from_bits(value.to_bits() as u64))
        }
    }
}

/// The text of `value` as C's `%.17g` writes it.
#[must_use]
pub fn format_f64(value: f64) -> String {
    let mut out = Vec::with_capacity(24);
    push_f64(&mut out, value);
    String::from_utf8(out).expect("digits are ASCII")
}

/// Appends `value` as C's `%.17g` writes it (`inf`, `-inf` and `nan` where it is not finite).
pub fn push_f64(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if value.is_infinite() {
        return out.extend_from_slice(if value > 0.0 { b"inf" } else { b"-inf" });
    }
    if value == value.trunc() && value.abs() < 1e15 && (value != 0.0 || value.is_sign_positive()) {
        return push_i64(out, value as i64);
    }
    let mut text = Fixed { bytes: [0; 32], len: 0 };
    write!(text, "{value:.16e}").expect("seventeen digits and an exponent fit 32 bytes");
    let text = &text.bytes[..text.len];
    let e = text.iter().position(|&b| b == b'e').expect("{:e} writes an exponent");
    let exponent: i32 = std::str::from_utf8(&text[e + 1..])
        .ok()
        .and_then(|t| t.parse().ok())
        .expect("{:e} writes an integer");
    let mantissa = &text[..e];
    if let [b'-', ..] = mantissa {
        out.push(b'-');
    }
    let mut digits = [0; 17];
    for (slot, digit) in digits.iter_mut().zip(mantissa.iter().filter(|b| b.is_ascii_digit())) {
        *slot = *digit;
    }
    let significant = digits.iter().rposition(|&b| b != b'0').map_or(1, |last| last + 1);
    let digits = &digits[..significant];
    if !(-4..17).contains(&exponent) {
        out.push(digits[0]);
        push_fraction(out, &digits[1..]);
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.push(b'0');
        }
        push_i64(out, exponent.abs().into());
    } else if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-exponent - 1) as usize, b'0');
        out.extend_from_slice(digits);
    } else {
        let whole = exponent as usize + 1;
        out.extend_from_slice(&digits[..whole.min(significant)]);
        out.resize(out.len() + whole.saturating_sub(significant), b'0');
        push_fraction(out, digits.get(whole..).unwrap_or(&[]));
    }
}

fn push_fraction(out: &mut Vec<u8>, digits: &[u8]) {
    if !digits.is_empty() {
        out.push(b'.');
        out.extend_from_slice(digits);
    }
}

/// A formatter's target on the stack.
struct Fixed {
    bytes: [u8; 32],
    len: usize,
}

impl std::fmt::Write for Fixed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incr(value: &str, increment: &str) -> String {
        match incr_by_float(value.as_bytes(), increment.as_bytes()) {
            Ok(text) => String::from_utf8(text).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn increments_round_as_the_x87_does() {
        assert_eq!(incr("10.50", "0.1"), "10.6");
        assert_eq!(incr("5.0e3", "2.0e2"), "5200");
        assert_eq!(incr("0", "0.1"), "0.1");
        assert_eq!(incr("3", "-3"), "0");
        assert_eq!(incr("-1e-30", "0"), "0");
        assert_eq!(incr("0x10", "0x.8p1"), "17");
        assert_eq!(incr("1e4932", "0").len(), 4933);
    }

    #[test]
    fn increments_refuse_what_redis_refuses() {
        for text in ["", " 1", "1 ", "nan", "1e", "0x", "1e5000", "1e-5000", "abc", "--1", "1.2.3", "."] {
            assert_eq!(incr_by_float(b"1", text.as_bytes()), Err(FloatError::IncrementNotFloat), "{text:?}");
            assert_eq!(incr_by_float(text.as_bytes(), b"1"), Err(FloatError::ValueNotFloat), "{text:?}");
        }
        assert_eq!(incr_by_float(b"1", b"inf"), Err(FloatError::NotFinite));
        assert_eq!(incr_by_float(b"1e4932", b"1e4932"), Err(FloatError::NotFinite));
    }

    #[test]
    fn doubles_print_as_seventeen_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.10000000000000001"),
            (1e15, "1000000000000000"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1.5e300, "1.5000000000000001e+300"),
            (1e-5, "1.0000000000000001e-05"),
            (0.0001, "0.0001"),
            (5e-324, "4.9406564584124654e-324"),
            (3.5, "3.5"),
            (-12345.678, "-12345.678"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(format_f64(value), text);
        }
    }

    #[test]
    fn doubles_parse_as_strtod_does() {
        assert_eq!(parse_f64(b"+1.5"), Some(1.5));
        assert_eq!(parse_f64(b".5"), Some(0.5));
        assert_eq!(parse_f64(b"5."), Some(5.0));
        assert_eq!(parse_f64(b"0x1p-2"), Some(0.25));
        assert_eq!(parse_f64(b"-Infinity"), Some(f64::NEG_INFINITY));
        for text in ["", "nan", "1e400", "1e-400", " 1", "1e+", "0x1g"] {
            assert_eq!(parse_f64(text.as_bytes()), None, "{text:?}");
        }
    }
}
