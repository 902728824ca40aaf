//! Composing requests: a template is copied, then its key and the head of its value are filled in.

use std::ops::Range;

use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use super::workload::{KeyOrder, Workload};

/// What every key starts with, where there is room beside the digits.
const KEY_PREFIX: &[u8] = b"key:";
/// Bytes at the head of a value that differ from SET to SET, so that no server can recognise a value it already has.
const STAMP_LEN: usize = 8;

/// Makes the bytes of one request after another.
#[derive(Debug)]
pub(super) struct Composer {
    set: Template,
    get: Template,
    set_percent: u32,
    order: KeyOrder,
    keys: u64,
    next_key: u64,
    rng: SmallRng,
}

impl Composer {
    /// # Errors
    /// A sentence that says why the workload makes no sense.
    pub(super) fn new(workload: &Workload) -> Result<Self, String> {
        if workload.keys == 0 {
            return Err("there must be at least one key".into());
        }
        let most_digits = (workload.keys - 1).max(1).ilog10() as usize + 1;
        if workload.key_len < most_digits {
            return Err(format!(
                "{} keys need keys of {most_digits} bytes, not {}",
                workload.keys, workload.key_len
            ));
        }
        let prefix_len = (workload.key_len - most_digits).min(KEY_PREFIX.len());
        let mut key = KEY_PREFIX[..prefix_len].to_vec();
        key.resize(workload.key_len, b'0');
        let mut rng = SmallRng::seed_from_u64(workload.seed);
        let value: Vec<u8> = (0..workload.value_len).map(|_| b'a' + (rng.next_u32() % 26) as u8).collect();
        let then = workload.then.as_ref().map(|words| {
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            command(&words)
        });
        let finish = |mut template: Template| {
            template.bytes.extend_from_slice(then.as_deref().unwrap_or_default());
            template
        };
        Ok(Self {
            set: finish(Template::new(&[b"SET", &key, &value], prefix_len)),
            get: finish(Template::new(&[b"GET", &key], prefix_len)),
            set_percent: workload.set_percent.min(100),
            order: workload.order,
            keys: workload.keys,
            next_key: 0,
            rng,
        })
    }

    /// Appends the next request to `out`.
    #[inline]
    pub(super) fn append(&mut self, out: &mut Vec<u8>) {
        let template = match self.set_percent {
            100 => &self.set,
            0 => &self.get,
            percent if below(self.rng.next_u64(), 100) < u64::from(percent) => &self.set,
            _ => &self.get,
        };
        let key = match self.order {
            KeyOrder::Uniform => below(self.rng.next_u64(), self.keys),
            KeyOrder::Sequential => {
                let key = self.next_key;
                self.next_key = if key + 1 == self.keys { 0 } else { key + 1 };
                key
            }
        };
        let start = out.len();
        out.extend_from_slice(&template.bytes);
        let request = &mut out[start..];
        write_digits(&mut request[template.digits.clone()], key);
        if let Some(stamp) = template.stamp.clone() {
            request[stamp].copy_from_slice(&self.rng.next_u64().to_le_bytes());
        }
    }
}

/// One command's bytes with the places that change.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    digits: Range<usize>,
    stamp: Option<Range<usize>>,
}

impl Template {
    /// `words[1]` is the key, whose digits start at `prefix_len`; `words[2]`, if there is one, is the value.
    fn new(words: &[&[u8]], prefix_len: usize) -> Self {
        let bytes = command(words);
        let key_end = command(&words[..2]).len() - 2;
        let digits = key_end - words[1].len() + prefix_len..key_end;
        let stamp = words.get(2).filter(|value| value.len() >= STAMP_LEN).map(|value| {
            let value_start = bytes.len() - 2 - value.len();
            value_start..value_start + STAMP_LEN
        });
        Self { bytes, digits, stamp }
    }
}

/// A command as an array of bulk strings.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Maps 64 random bits to `0..bound` without a division.
#[inline]
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// Writes `number` right-aligned into `place`, which was filled with zeros when its template was made and whose length
/// was found sufficient there.
#[inline]
fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::super::workload::Limit;
    use super::*;

    fn workload() -> Workload {
        Workload::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), Limit::Requests(1))
    }

    fn composed(workload: &Workload, requests: usize) -> Vec<u8> {
        let mut composer = Composer::new(workload).unwrap();
        let mut out = Vec::new();
        for _ in 0..requests {
            composer.append(&mut out);
        }
        out
    }

    #[test]
    fn sequential_keys_come_in_order_and_start_over() {
        let workload =
            Workload { order: KeyOrder::Sequential, keys: 11, key_len: 6, set_percent: 0, ..workload() };
        let all = String::from_utf8(composed(&workload, 12)).unwrap();
        let keys: Vec<&str> = all.split("\r\n").filter(|word| word.starts_with("key:")).collect();
        assert_eq!(keys[0], "key:00");
        assert_eq!(keys[10], "key:10");
        assert_eq!(keys[11], "key:00");
    }

    #[test]
    fn second_command_follows_every_request() {
        let workload = Workload {
            set_percent: 0,
            keys: 1,
            then: Some(vec!["WAIT".into(), "1".into(), "0".into()]),
            ..workload()
        };
        let wait = "*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n";
        let get = "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000000\r\n";
        assert_eq!(String::from_utf8(composed(&workload, 2)).unwrap(), format!("{get}{wait}{get}{wait}"));
    }

    #[test]
    fn set_has_key_and_value_of_the_lengths_asked_for() {
        let out = composed(&workload(), 1);
        let head = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:";
        assert!(out.starts_with(head));
        let value = &out[head.len() + 12..];
        assert!(value.starts_with(b"\r\n$64\r\n"));
        assert_eq!(value.len(), b"\r\n$64\r\n".len() + 64 + 2);
    }

    #[test]
    fn keys_too_short_for_their_number_are_refused() {
        assert!(Composer::new(&Workload { key_len: 5, keys: 1_000_000, ..workload() }).is_err());
        assert!(Composer::new(&Workload { key_len: 6, keys: 1_000_000, ..workload() }).is_ok());
    }
}
