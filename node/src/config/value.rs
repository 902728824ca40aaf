//! Values of directives: parsing and printing, with Redis's error texts.

use std::borrow::Cow;

use farkeep_proto::number::parse_i64;

/// Why a value was refused: a text for the operator, in Redis's words where Redis has words for it.
pub type Invalid = Cow<'static, str>;

/// The only argument, for a directive that takes one.
pub(super) fn one<'a>(args: &[&'a str]) -> Result<&'a str, Invalid> {
    match args {
        [only] => Ok(only),
        _ => Err("wrong number of arguments".into()),
    }
}

/// `yes` or `no`, any case.
pub(super) fn parse_bool(text: &str) -> Result<bool, Invalid> {
    if text.eq_ignore_ascii_case("yes") {
        Ok(true)
    } else if text.eq_ignore_ascii_case("no") {
        Ok(false)
    } else {
        Err("argument must be 'yes' or 'no'".into())
    }
}

/// `yes` or `no`.
pub(super) fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// A decimal integer within bounds.
pub(super) fn parse_integer(text: &str, min: i64, max: i64) -> Result<i64, Invalid> {
    let value = parse_i64(text.as_bytes()).ok_or("argument couldn't be parsed into an integer")?;
    within(value, min, max)
}

/// An octal integer within bounds.
pub(super) fn parse_octal(text: &str, max: u32) -> Result<u32, Invalid> {
    let value = u32::from_str_radix(text, 8).map_err(|_| "argument couldn't be parsed as an octal number")?;
    if value > max {
        Err(format!("argument must be between 0 and {max:o} inclusive").into())
    } else {
        Ok(value)
    }
}

fn within(value: i64, min: i64, max: i64) -> Result<i64, Invalid> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(format!("argument must be between {min} and {max} inclusive").into())
    }
}

/// A number of bytes with an optional unit, within bounds. `k`, `m`, `g`, `t` are powers of 1000; with a `b` behind
/// them, of 1024.
pub(super) fn parse_memory(text: &str, min: i64, max: i64) -> Result<i64, Invalid> {
    let value = memory(text).ok_or("argument must be a memory value")?;
    within(value, min, max)
}

pub(super) fn memory(text: &str) -> Option<i64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit: i64 = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        "t" => 1_000_000_000_000,
        "tb" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<i64>().ok()?.checked_mul(unit)
}

/// A number of bytes as Redis writes it into a configuration file: with the largest binary unit that divides it.
pub(super) fn memory_with_unit(bytes: i64) -> String {
    for (shift, unit) in [(30, "gb"), (20, "mb"), (10, "kb")] {
        if bytes != 0 && bytes % (1 << shift) == 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Bytes, or a percentage of something the directive names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOrPercent {
    /// A number of bytes.
    Bytes(u64),
    /// 0 to 100, of what the directive says.
    Percent(u8),
}

impl MemoryOrPercent {
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::from("argument must be a memory or percent value");
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse() {
                Ok(percent @ 0..=100) => Ok(Self::Percent(percent as u8)),
                Ok(101u64..) => Err("percentage argument must be less or equal to 100".into()),
                Err(_) => Err(invalid()),
            };
        }
        memory(text).map(|bytes| Self::Bytes(bytes as u64)).ok_or_else(invalid)
    }
}

impl std::fmt::Display for MemoryOrPercent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// One of a fixed set of names.
pub(super) trait Choice: Copy + PartialEq + 'static {
    /// Every value with its name, in the order of error messages.
    const NAMES: &'static [(&'static str, Self)];

    fn parse(text: &str) -> Result<Self, Invalid> {
        Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, value)| *value)
            .ok_or_else(|| {
                let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
                one_of(&names)
            })
    }

    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }
}

/// The text that names the choices.
pub(super) fn one_of(names: &[&str]) -> Invalid {
    format!("argument(s) must be one of the following: {}", names.join(", ")).into()
}

/// Defines an enum whose values are words of the configuration.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $crate::config::value::Choice for $name {
            const NAMES: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($crate::config::value::Choice::name(*self))
            }
        }
    };
}
pub(super) use choice;

/// A text in double quotes, such that splitting the line into words gives it back.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for byte in text.bytes() {
        match byte {
            b'\\' | b'"' => out.extend(['\\', char::from(byte)]),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            7 => out.push_str("\\a"),
            8 => out.push_str("\\b"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_without_b_and_binary_with_it() {
        for (text, bytes) in [
            ("0", 0),
            ("1b", 1),
            ("1k", 1000),
            ("1KB", 1024),
            ("2m", 2_000_000),
            ("1Gb", 1 << 30),
            ("1tb", 1 << 40),
        ] {
            assert_eq!(memory(text), Some(bytes), "{text}");
        }
        for text in ["", "-1", "1x", "1 k", "k", "99999999999999999999", "9223372036854775807gb"] {
            assert_eq!(memory(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_with_the_largest_unit_that_fits() {
        for (bytes, text) in
            [(0, "0"), (1000, "1000"), (1 << 30, "1gb"), (100 << 20, "100mb"), (1536, "1536")]
        {
            assert_eq!(memory_with_unit(bytes), text);
        }
    }

    #[test]
    fn quoted_text_is_one_word_again() {
        for text in ["", "a b", "\"\\\n\r\t\x07\x08\x01", "grüße"] {
            let words = farkeep_proto::resp::split_args(quoted(text).as_bytes()).unwrap();
            assert_eq!(words, [text.as_bytes()]);
        }
    }
}
