//! Integers: strict parsing and formatting without the standard formatter.

use std::ops::Deref;

/// The longest decimal `i64`: `-9223372036854775808`.
const MAX_LEN: usize = 20;

/// Parses the canonical decimal spelling of an `i64`; anything else is `None`.
#[must_use]
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    match text {
        [b'-', digits @ ..] => {
            let magnitude = parse_u64(digits)?;
            if magnitude == 0 || magnitude > 1 << 63 { None } else { Some(magnitude.wrapping_neg() as i64) }
        }
        digits => i64::try_from(parse_u64(digits)?).ok(),
    }
}

/// Parses the canonical decimal spelling of a `u64`; anything else is `None`.
#[must_use]
#[inline]
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    match text {
        [b'0'] => Some(0),
        [first @ b'1'..=b'9', rest @ ..] if rest.len() < MAX_LEN => {
            let mut value = u64::from(first - b'0');
            // Nineteen digits always fit, so only the twentieth is checked for overflow.
            let (safe, last) = rest.split_at(rest.len().min(18));
            for &byte in safe {
                let digit = byte.wrapping_sub(b'0');
                if digit > 9 {
                    return None;
                }
                value = value * 10 + u64::from(digit);
            }
            for &byte in last {
                let digit = byte.wrapping_sub(b'0');
                if digit > 9 {
                    return None;
                }
                value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
            }
            Some(value)
        }
        _ => None,
    }
}

/// The decimal spelling of an integer, held on the stack.
#[derive(Clone, Copy)]
pub struct DecimalI64 {
    digits: [u8; MAX_LEN],
    start: u8,
}

impl Deref for DecimalI64 {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.digits[usize::from(self.start)..]
    }
}

impl AsRef<[u8]> for DecimalI64 {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for DecimalI64 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(self))
    }
}

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

#[inline]
fn format(mut magnitude: u64, negative: bool) -> DecimalI64 {
    let mut digits = [0; MAX_LEN];
    let mut at = MAX_LEN;
    while magnitude >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(magnitude % 100) as usize]);
        magnitude /= 100;
    }
    if magnitude >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[magnitude as usize]);
    } else {
        at -= 1;
        digits[at] = b'0' + magnitude as u8;
    }
    if negative {
        at -= 1;
        digits[at] = b'-';
    }
    DecimalI64 { digits, start: at as u8 }
}

/// The decimal spelling of `value`.
#[must_use]
#[inline]
pub fn format_i64(value: i64) -> DecimalI64 {
    format(value.unsigned_abs(), value < 0)
}

/// Appends the decimal spelling of `value`.
#[inline]
pub fn push_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&format_i64(value));
}

/// Appends the decimal spelling of `value`.
#[inline]
pub fn push_u64(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
    } else {
        out.extend_from_slice(&format(value, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_canonical_spelling_is_a_number() {
        for text in ["", "-", "+1", "01", "-0", "-01", " 1", "1 ", "1.0", "0x1", "9223372036854775808"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_i64(b"-9223372036854775809"), None);
        assert_eq!(parse_i64(b"99999999999999999999999"), None);
        assert_eq!(parse_u64(b"18446744073709551616"), None);
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
    }

    #[test]
    fn extremes_survive_the_round_trip() {
        for value in [i64::MIN, i64::MIN + 1, -1, 0, 1, 9, 10, 99, 100, i64::MAX] {
            assert_eq!(&*format_i64(value), value.to_string().as_bytes());
            assert_eq!(parse_i64(&format_i64(value)), Some(value));
        }
        let mut out = Vec::new();
        push_u64(&mut out, u64::MAX);
        assert_eq!(out, u64::MAX.to_string().as_bytes());
    }

    proptest! {
        #[test]
        fn every_integer_survives_the_round_trip(value in any::<i64>(), shift in 0u32..64) {
            let value = value >> shift;
            prop_assert_eq!(format_i64(value).to_vec(), value.to_string().as_bytes().to_vec());
            prop_assert_eq!(parse_i64(&format_i64(value)), Some(value));
        }

        #[test]
        fn parsing_agrees_with_formatting(text in "[-+0-9a]{0,21}") {
            let expected = text.parse::<i64>().ok().filter(|v| v.to_string() == text);
            prop_assert_eq!(parse_i64(text.as_bytes()), expected);
        }
    }
}
