//! Exact decimal output of binary fractions, and the grammar of C's `strtod`.

use super::push_u64;

/// Digits behind the point that `%.17Lf` writes.
const FRACTION_DIGITS: usize = 17;
const FRACTION_SCALE: u128 = 10u128.pow(FRACTION_DIGITS as u32);

/// Appends `mantissa × 2^exponent` as `%.17Lf` would, rounded half to even, then without trailing zeros and without a
/// bare point. Returns whether anything but zero was written.
pub(super) fn push_fixed(out: &mut Vec<u8>, mantissa: u64, exponent: i32) -> bool {
    if exponent >= 0 {
        push_shifted(out, mantissa, exponent.unsigned_abs());
        return mantissa != 0;
    }
    let shift = exponent.unsigned_abs();
    let (mut whole, fraction) = match shift {
        1..64 => (mantissa >> shift, mantissa & ((1 << shift) - 1)),
        _ => (0, mantissa),
    };
    let scaled = u128::from(fraction) * FRACTION_SCALE;
    let mut digits = if shift < 128 {
        let quotient = scaled >> shift;
        let remainder = scaled & ((1 << shift) - 1);
        let half = 1u128 << (shift - 1);
        let up = remainder > half || (remainder == half && quotient & 1 == 1);
        quotient + u128::from(up)
    } else {
        // scaled < 2^121: less than half a unit of the last digit.
        0
    };
    if digits == FRACTION_SCALE {
        whole += 1;
        digits = 0;
    }
    push_u64(out, whole);
    if digits != 0 {
        out.push(b'.');
        let start = out.len();
        out.resize(start + FRACTION_DIGITS, b'0');
        for at in (start..start + FRACTION_DIGITS).rev() {
            out[at] = b'0' + (digits % 10) as u8;
            digits /= 10;
        }
        while out.last() == Some(&b'0') {
            out.pop();
        }
        return true;
    }
    whole != 0
}

/// Appends `mantissa × 2^shift`, an integer of up to 16 447 bits.
fn push_shifted(out: &mut Vec<u8>, mantissa: u64, shift: u32) {
    if mantissa == 0 || shift <= mantissa.leading_zeros() {
        return push_u64(out, mantissa << if mantissa == 0 { 0 } else { shift });
    }
    // Little-endian limbs of 32 bits, divided by 10^9 until nothing is left.
    let mut limbs = vec![0u32; (shift / 32) as usize];
    let mut carry = u128::from(mantissa) << (shift % 32);
    while carry != 0 {
        limbs.push(carry as u32);
        carry >>= 32;
    }
    let mut groups = Vec::new();
    while !limbs.is_empty() {
        let mut remainder = 0u64;
        for limb in limbs.iter_mut().rev() {
            let value = remainder << 32 | u64::from(*limb);
            *limb = (value / 1_000_000_000) as u32;
            remainder = value % 1_000_000_000;
        }
        groups.push(remainder as u32);
        while limbs.last() == Some(&0) {
            limbs.pop();
        }
    }
    let (first, rest) = groups.split_last().expect("a number above zero has digits");
    push_u64(out, u64::from(*first));
    for group in rest.iter().rev() {
        out.extend_from_slice(format!("{group:09}").as_bytes());
    }
}

/// A number's text, taken apart by the grammar of `strtod`.
#[derive(Debug, PartialEq)]
pub(super) enum Literal {
    /// `inf` or `infinity`, any case.
    Infinity { negative: bool },
    /// Decimal: `digits × 10^exponent`, digits without leading zeros (empty for zero).
    Decimal { negative: bool, digits: String, exponent: i64 },
    /// Hexadecimal: the text behind `0x`, up to the exponent, and the binary exponent.
    Hexadecimal { negative: bool, digits: String, exponent: i64 },
}

/// Exponents beyond this are out of every format's range, however many digits go with them.
const EXPONENT_LIMIT: i64 = 100_000;

/// Parses `text` if it is, as a whole, one number. NaN is not taken for a number.
pub(super) fn literal(text: &[u8]) -> Option<Literal> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity") {
        return Some(Literal::Infinity { negative });
    }
    let hexadecimal = text.len() > 2 && text[..2].eq_ignore_ascii_case(b"0x");
    let text = if hexadecimal { &text[2..] } else { text };
    let is_digit = |b: &u8| if hexadecimal { b.is_ascii_hexdigit() } else { b.is_ascii_digit() };
    let whole = text.iter().take_while(|b| is_digit(b)).count();
    let mut at = whole;
    let mut digits = text[..whole].to_vec();
    if text.get(at) == Some(&b'.') {
        let fraction = text[at + 1..].iter().take_while(|b| is_digit(b)).count();
        digits.extend_from_slice(&text[at + 1..at + 1 + fraction]);
        at += 1 + fraction;
    }
    if digits.is_empty() {
        return None;
    }
    let behind_point = (digits.len() - whole) as i64;
    let mut exponent = 0;
    if at < text.len() {
        let marker = if hexadecimal { b'p' } else { b'e' };
        if !text[at].eq_ignore_ascii_case(&marker) {
            return None;
        }
        exponent = clamped_exponent(&text[at + 1..])?;
    }
    let significant = digits.iter().position(|&b| b != b'0').unwrap_or(digits.len());
    let digits = String::from_utf8(digits.split_off(significant)).expect("digits are ASCII");
    Some(if hexadecimal {
        Literal::Hexadecimal { negative, digits, exponent: exponent - 4 * behind_point }
    } else {
        Literal::Decimal { negative, digits, exponent: exponent - behind_point }
    })
}

fn clamped_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |acc, b| (acc * 10 + i64::from(b - b'0')).min(EXPONENT_LIMIT));
    Some(if negative { -value } else { value })
}
