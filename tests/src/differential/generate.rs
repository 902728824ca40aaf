//! Random streams from a seed.
//!
//! Commands come from templates ([`templates`](mod@templates)) written in a small language:
//! `<name>` is a random argument of a kind, `{…}` repeats 1 to 4 times, `[…]` is there half of the time, `(a|b|c)` is one of
//! its branches. Some commands are then damaged: an argument dropped, doubled, or replaced by nonsense. Keys and fields come
//! from small sets, so that commands meet.

#[path = "templates.rs"]
mod templates;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::Step;
use super::compare::is_brief;

/// How many connections a stream uses: one more than WATCH needs.
const CONNECTIONS: usize = 3;

/// What a stream is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// All commands on small values; nothing expires while the stream runs.
    Data,
    /// As `Data` with values up to 64 KiB, and without commands whose cost is the product of two lengths.
    Large,
    /// Short expiries, each of which passes before the next step; without commands whose reply depends on when an expired key is removed.
    Expiry,
    /// Inline commands, malformed bytes and broken multibulks among ordinary commands.
    Protocol,
    /// Few keys, two connections: WATCH, MULTI and what aborts them.
    Transactions,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Data, Self::Large, Self::Expiry, Self::Protocol, Self::Transactions];
}

/// The stream of a seed. The same seed, length and flavour give the same stream on every machine.
pub fn stream(seed: u64, len: usize, flavour: Flavour) -> Vec<Step> {
    let mut source = Source { rng: SmallRng::seed_from_u64(seed), flavour };
    (0..len).map(|_| source.step()).collect()
}

struct Source {
    rng: SmallRng,
    flavour: Flavour,
}

impl Source {
    fn step(&mut self) -> Step {
        let connection = if self.rng.random_ratio(3, 4) { 0 } else { self.rng.random_range(0..CONNECTIONS) };
        let roll = self.rng.random_range(0..1000);
        match self.flavour {
            Flavour::Protocol if roll < 250 => return Step::Raw { connection, bytes: self.raw() },
            _ => {}
        }
        match self.rng.random_range(0..1000) {
            0..5 => Step::Reconnect { connection },
            5..20 => {
                let args: Vec<Vec<u8>> =
                    self.fill("SCAN 0 [MATCH <pattern>] [COUNT <count>] [TYPE (string|hash|list|nosuch)]");
                Step::Scan { connection, args, cursor_at: 1 }
            }
            20..35 => {
                let args = self.fill("HSCAN <key> 0 [MATCH <pattern>] [COUNT <count>]");
                Step::Scan { connection, args, cursor_at: 2 }
            }
            35..70 => {
                // Inside a pipeline a brief expiry would pass on one server earlier than on the other.
                let count = self.rng.random_range(2..12);
                let commands = (0..count).map(|_| self.command()).filter(|args| !is_brief(args)).collect();
                Step::Pipeline { connection, commands }
            }
            _ => Step::Command { connection, args: self.command() },
        }
    }

    fn command(&mut self) -> Vec<Vec<u8>> {
        let flavour = self.flavour;
        let group = loop {
            let group = templates::GROUPS
                .choose_weighted(&mut self.rng, |group| group.weight(flavour))
                .expect("every flavour has groups");
            if !group.templates.is_empty() {
                break group;
            }
        };
        let mut template = group.templates[self.rng.random_range(0..group.templates.len())];
        if flavour == Flavour::Expiry && template.starts_with("MEMORY USAGE") {
            // What Redis says of an expired key depends on whether somebody has looked at it since.
            template = "TTL <key>";
        }
        let mut args = self.fill(template);
        self.damage(&mut args);
        if self.rng.random_ratio(1, 10) {
            for byte in &mut args[0] {
                if self.rng.random_bool(0.5) {
                    *byte = byte.to_ascii_lowercase();
                }
            }
        }
        args
    }

    /// Now and then makes a command wrong.
    fn damage(&mut self, args: &mut Vec<Vec<u8>>) {
        let roll = self.rng.random_range(0..1000);
        if roll >= 60 || args.len() < 2 {
            return;
        }
        let at = self.rng.random_range(1..args.len());
        match roll {
            0..20 => {
                args.remove(at);
            }
            20..35 => args.insert(at, args[at].clone()),
            35..45 => args.truncate(1),
            45..50 => args.push(self.nonsense()),
            _ => args[at] = self.nonsense(),
        }
    }

    /// Expands a template into arguments.
    fn fill(&mut self, template: &str) -> Vec<Vec<u8>> {
        let mut args = Vec::new();
        self.expand(template, &mut args);
        args
    }

    fn expand(&mut self, template: &str, args: &mut Vec<Vec<u8>>) {
        let mut rest = template.trim_start();
        while let Some(first) = rest.chars().next() {
            match first {
                '{' => {
                    let (body, after) = enclosed(rest, '{', '}');
                    for _ in 0..self.rng.random_range(1..=4) {
                        self.expand(body, args);
                    }
                    rest = after;
                }
                '[' => {
                    let (body, after) = enclosed(rest, '[', ']');
                    if self.rng.random_bool(0.5) {
                        self.expand(body, args);
                    }
                    rest = after;
                }
                '(' => {
                    let (body, after) = enclosed(rest, '(', ')');
                    let branches = branches(body);
                    let branch = branches[self.rng.random_range(0..branches.len())];
                    self.expand(branch, args);
                    rest = after;
                }
                _ => {
                    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                    let word = &rest[..end];
                    match word.strip_prefix('<').and_then(|word| word.strip_suffix('>')) {
                        Some(kind) => args.push(self.argument(kind)),
                        None => args.push(word.as_bytes().to_vec()),
                    }
                    rest = &rest[end..];
                }
            }
            rest = rest.trim_start();
        }
    }

    /// A random argument of a kind.
    fn argument(&mut self, kind: &str) -> Vec<u8> {
        let text = match kind {
            "key" => return self.key(),
            "field" => return self.field(),
            "value" => return self.value(),
            "pattern" => self
                .pick(&["*", "k*", "?", "k[1-3]", "[^k]*", "h\\*", "nosuch", "", "*1*", "f?", "k[a"])
                .into(),
            "count" => self.pick(&["1", "2", "10", "1000"]).into(),
            "integer" => return self.integer(),
            "small" => self.rng.random_range(-4..12).to_string(),
            "index" => self.rng.random_range(-40..60).to_string(),
            "offset" => match self.flavour {
                Flavour::Large => self.rng.random_range(0..70_000).to_string(),
                _ => self.rng.random_range(0..300).to_string(),
            },
            "bit" => self.pick(&["0", "1", "1", "0", "2", "-1"]).into(),
            "float" => self
                .pick(&[
                    "1",
                    "1.5",
                    "-0.1",
                    "3.0e3",
                    "1e-7",
                    "0.00000000000000001",
                    "1e17",
                    "123456789.123456789",
                    "-5",
                    "0",
                    "inf",
                    "-inf",
                    "nan",
                    "1e400",
                    "abc",
                    "",
                    " 1",
                    "1 ",
                    "0x10",
                    "5.0",
                    "10.50",
                    "1e308",
                    "9007199254740993",
                ])
                .into(),
            "seconds" => self.seconds(),
            "milliseconds" => self.milliseconds(),
            // A key set with a past time is there until somebody looks; only `Expiry` can live with that.
            "unixtime" if self.flavour == Flavour::Expiry && self.rng.random_ratio(1, 3) => {
                self.pick(&["1", "1000000000"]).into()
            }
            "unixtime-ms" if self.flavour == Flavour::Expiry && self.rng.random_ratio(1, 3) => {
                self.pick(&["1", "1000000000000"]).into()
            }
            "unixtime" => {
                self.pick(&["33177117420", "33177117421", "0", "-1", "abc", "9223372036854775807"]).into()
            }
            "unixtime-ms" => {
                self.pick(&["33177117420000", "33177117420001", "0", "-1", "9223372036854775807"]).into()
            }
            "db" => self.pick(&["0", "0", "1", "2", "15", "16", "-1", "abc", "9223372036854775807"]).into(),
            "type" => self
                .pick(&[
                    "u1", "u2", "u8", "u16", "u31", "u32", "u63", "u64", "i1", "i2", "i5", "i8", "i16",
                    "i32", "i63", "i64", "i65", "u0", "x8", "i", "",
                ])
                .into(),
            "bit-offset" => {
                let offset = self.rng.random_range(0..200);
                match self.rng.random_range(0..8) {
                    0..2 => format!("#{}", offset / 8),
                    2 => self.pick(&["-1", "#-1", "#", "abc", "", "+1", "18446744073709551615"]).into(),
                    _ => offset.to_string(),
                }
            }
            "name" => self.pick(&["alice", "bob", "", "with space", "new\nline", "a-b_c"]).into(),
            "word" => return self.nonsense(),
            other => panic!("no argument kind <{other}>"),
        };
        text.into_bytes()
    }

    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.rng.random_range(0..choices.len())]
    }

    fn key(&mut self) -> Vec<u8> {
        let limit = if self.flavour == Flavour::Transactions { 4 } else { 14 };
        match self.rng.random_range(0..limit) {
            0 => b"k1".to_vec(),
            1 => b"k2".to_vec(),
            2 => b"h1".to_vec(),
            3 => b"h2".to_vec(),
            4 => b"k3".to_vec(),
            5 => b"counter".to_vec(),
            6 => b"bits".to_vec(),
            7 => b"h3".to_vec(),
            8 => b"missing".to_vec(),
            9 => Vec::new(),
            10 => b"bin\0\r\n\xff".to_vec(),
            11 => b"{tag}a".to_vec(),
            12 => [b'l'; 300].to_vec(),
            _ => format!("key:{}", self.rng.random_range(0..40)).into_bytes(),
        }
    }

    fn field(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..12) {
            0 => Vec::new(),
            1 => b"f\0\xfe".to_vec(),
            2 => vec![b'F'; self.pick(&["63", "64", "65", "300"]).parse().expect("a length")],
            3 => self.rng.random_range(0..20).to_string().into_bytes(),
            4 => format!("field:{}", self.rng.random_range(0..200)).into_bytes(),
            other => format!("f{other}").into_bytes(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..10) {
            0 => self
                .pick(&[
                    "9223372036854775807",
                    "-9223372036854775808",
                    "9223372036854775806",
                    "-9223372036854775807",
                    "9223372036854775808",
                    "-9223372036854775809",
                    "4611686018427387904",
                    "18446744073709551615",
                ])
                .into(),
            1 => self.pick(&["0", "-0", "+1", "01", " 1", "1 ", "", "1.0", "1e3", "abc", "0x1", "١"]).into(),
            2 => self.rng.random_range(-100_000..100_000).to_string().into_bytes(),
            _ => self.rng.random_range(-20..100).to_string().into_bytes(),
        }
    }

    /// Long times are drawn from so many that no two are the same: whether one passes as greater than its equal depends on how
    /// many milliseconds lie between two commands.
    fn seconds(&mut self) -> String {
        match self.rng.random_range(0..10) {
            0 => self
                .pick(&[
                    "0",
                    "-1",
                    "9223372036854775807",
                    "-9223372036854775808",
                    "9223372036854775",
                    "abc",
                    "",
                ])
                .into(),
            1 if self.flavour == Flavour::Expiry => self.pick(&["0", "-1", "-100"]).into(),
            _ => self.rng.random_range(100..10_000_000).to_string(),
        }
    }

    fn milliseconds(&mut self) -> String {
        match self.rng.random_range(0..9) {
            0 => self.pick(&["0", "-1", "9223372036854775807", "abc"]).into(),
            1..7 if self.flavour == Flavour::Expiry => self.pick(&["1", "2", "5"]).into(),
            _ => self.rng.random_range(100_000..10_000_000_000_u64).to_string(),
        }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..16) {
            0 => Vec::new(),
            1 | 2 => self.integer(),
            3 => self.argument("float"),
            4 => b"a b\r\n\0\xff\"".to_vec(),
            5 => vec![b'x'; self.pick(&["43", "44", "45", "63", "64", "65"]).parse().expect("a length")],
            6 => vec![b'y'; self.rng.random_range(100..700)],
            7 if self.flavour == Flavour::Large => {
                let len = self.rng.random_range(1_000..65_536);
                (0..len).map(|at| b'a' + u8::try_from(at % 26).unwrap_or(0)).collect()
            }
            8 => (0..self.rng.random_range(1..40)).map(|_| self.rng.random()).collect(),
            9 => self.pick(&["ohmytext", "mynewtext", "abcde", "abXde"]).into(),
            _ => format!("v{}", self.rng.random_range(0..1000)).into_bytes(),
        }
    }

    fn nonsense(&mut self) -> Vec<u8> {
        self.pick(&[
            "",
            "abc",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775809",
            "1.5",
            " 1",
            "+1",
            "NX",
            "XX",
            "GET",
            "EX",
            "KEEPTTL",
            "nan",
            "0",
            "100",
            "WITHVALUES",
            "two words",
            "\r\n",
            "MATCH",
            "f1",
            "k1",
            "h1",
        ])
        .into()
    }

    /// Bytes that are no well-formed multibulk, or are one written oddly.
    fn raw(&mut self) -> Vec<u8> {
        let choices: &[&[u8]] = &[
            b"PING\r\n",
            b"PING\n",
            b"\r\n",
            b"\r\n\r\nPING\r\n",
            b"   \r\n",
            b"SET k1 inline\r\n",
            b"SET k1 \"quoted \\x41\\n\\t\\\"\"\r\n",
            b"SET k1 'single \\' quoted'\r\n",
            b"SET k1 \"unbalanced\r\n",
            b"SET k1 'unbalanced\r\n",
            b"SET k1 \"a\"b\r\n",
            b"  GET   k1  \r\n",
            b"get k1\r\nget k2\r\n",
            b"ECHO\r\n",
            b"ECHO \"\"\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*-5\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"*1\r\n$4\r\nPINGxx",
            b"*abc\r\n",
            b"*1048577\r\n",
            b"*2147483648\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n$abc\r\n",
            b"*1\r\n$\r\n",
            b"*1\r\n:4\r\nPING\r\n",
            b"*1\r\nPING\r\n",
            b"*1\r\n$536870913\r\n",
            b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
            b"*1\r\n$0\r\n\r\n",
            b"*2\r\n$3\r\nGET\r\n$+2\r\nk1\r\n",
            b"*02\r\n$3\r\nGET\r\n$2\r\nk1\r\n",
            b"* 2\r\n$3\r\nGET\r\n$2\r\nk1\r\n",
            b"*2\n$3\nGET\n$2\nk1\n",
            b"GET \xfe\xff\r\n",
            b"nosuchcommand a b c\r\n",
            b"\"\"\r\n",
            b"+OK\r\n",
            b"-ERR\r\n",
            b"$4\r\nPING\r\n",
            b"POST / HTTP/1.1\r\n",
            b"Host: example.com\r\n",
            b"QUIT\r\n",
            b"*1\r\n$4\r\nQUIT\r\n",
        ];
        choices[self.rng.random_range(0..choices.len())].to_vec()
    }
}

/// The branches of an alternative: `body` cut at each `|` that no inner bracket encloses.
fn branches(body: &str) -> Vec<&str> {
    let mut depth = 0;
    body.split(|character| {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        character == '|' && depth == 0
    })
    .collect()
}

/// The text between the bracket that `text` starts with and its partner, and what follows.
fn enclosed(text: &str, open: char, close: char) -> (&str, &str) {
    let mut depth = 0;
    for (at, character) in text.char_indices() {
        if character == open {
            depth += 1;
        } else if character == close {
            depth -= 1;
            if depth == 0 {
                return (&text[1..at], &text[at + 1..]);
            }
        }
    }
    panic!("no {close} in template {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_stream_again_and_another_seed_another() {
        for flavour in Flavour::ALL {
            assert_eq!(stream(7, 300, flavour), stream(7, 300, flavour));
            assert_ne!(stream(7, 300, flavour), stream(8, 300, flavour));
        }
    }

    #[test]
    fn every_template_expands() {
        let mut source = Source { rng: SmallRng::seed_from_u64(1), flavour: Flavour::Large };
        for group in templates::GROUPS {
            for template in group.templates {
                for _ in 0..20 {
                    assert!(!source.fill(template).is_empty(), "{template}");
                }
            }
        }
    }
}
