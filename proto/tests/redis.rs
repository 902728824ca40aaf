//! Debian's redis-server as the oracle: what it accepts, refuses and computes, we do too, byte for byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farkeep_proto::glob;
use farkeep_proto::number::{format_f64, incr_by_float, parse_f64, parse_i64};
use farkeep_proto::resp::client::{Reply, decode_reply, push_command};
use farkeep_proto::resp::{Limits, fuzzing, split_args};

/// A redis-server of this test's own, gone with it.
struct Redis {
    server: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start(password: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Another process may take a port between our finding it free and redis-server's binding it.
        for _ in 0..5 {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
            let mut command = Command::new("redis-server");
            command.args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--bind",
                "127.0.0.1",
                "--daemonize",
                "no",
            ]);
            command.arg("--dir").arg(folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Some(password) = password {
                command.args(["--requirepass", password]);
            }
            let mut server = command.spawn().expect("redis-server is installed");
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && server.try_wait().is_ok_and(|status| status.is_none()) {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { server, port, _folder: folder };
                }
                std::thread::yield_now();
            }
            let _ = server.kill();
            let _ = server.wait();
        }
        panic!("redis-server does not start");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("redis-server accepts");
        stream.set_nodelay(true).expect("TCP_NODELAY can be set");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        stream
    }

    /// Sends all commands at once and reads a reply for each.
    fn ask(&self, commands: &[Vec<Vec<u8>>]) -> Vec<Reply> {
        let mut stream = self.connect();
        let mut replies = Vec::new();
        for batch in commands.chunks(1000) {
            let mut request = Vec::new();
            for command in batch {
                push_command(&mut request, command);
            }
            stream.write_all(&request).expect("redis-server reads");
            let mut buf = Vec::new();
            let mut wanted = batch.len();
            while wanted > 0 {
                while wanted > 0
                    && let Some((reply, consumed)) = decode_reply(&buf).expect("redis-server speaks RESP")
                {
                    replies.push(reply);
                    buf.drain(..consumed);
                    wanted -= 1;
                }
                if wanted > 0 {
                    let mut piece = [0; 65536];
                    let read = stream.read(&mut piece).expect("redis-server replies");
                    assert_ne!(read, 0, "redis-server closed the connection");
                    buf.extend_from_slice(&piece[..read]);
                }
            }
        }
        replies
    }

    /// Everything redis-server says to a stream of bytes until it closes, or until it has answered what is there.
    fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // What a closed peer no longer wants is of no interest.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece) {
                Ok(0) => return answer,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A small generator (splitmix64) with a fixed seed: the same cases every time.
struct Cases(u64);

impl Cases {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// The text of a number, mostly, in one of the many ways to write one.
    fn number(&mut self) -> String {
        let sign = *self.pick(&["", "", "-", "+"]);
        let digits = self.next() >> self.below(64);
        let text = match self.below(12) {
            0 => format!("{digits}"),
            1 => format!("{digits}.{}", self.next() >> self.below(64)),
            2 => format!("{}.{}e{}", digits % 10, self.next() >> self.below(64), self.below(80) as i64 - 40),
            3 => format!("{digits}e-{}", self.below(40)),
            4 => format!("0x{digits:x}.{:x}p{}", self.below(1 << 20), self.below(60) as i64 - 30),
            5 => format!("{}", f64::from_bits(self.next())),
            6 => format!("{:.17e}", self.below(1 << 53) as f64 / 1e7),
            7 => format!("0.{:0>width$}", digits % 1000, width = 1 + self.below(25) as usize),
            8 => format!("{}e{}", digits % 100, self.below(11_000) as i64 - 5_500),
            9 => (*self.pick(&[
                "inf", "nan", "1e", ".", "", "0x", " 1", "1 ", "0x.8", "5.", ".5", "infinity", "1f",
            ]))
            .to_owned(),
            10 => format!("{}", digits as f64 / 100.0),
            _ => format!("{}.5", digits % 1_000_000),
        };
        format!("{sign}{text}")
    }
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn float_increments_equal_those_of_redis() {
    let redis = Redis::start(None);
    let mut cases = Cases(7);
    let pairs: Vec<(String, String)> = (0..20_000).map(|_| (cases.number(), cases.number())).collect();
    let commands: Vec<_> = pairs
        .iter()
        .flat_map(|(value, by)| [words(&["SET", "k", value]), words(&["INCRBYFLOAT", "k", by])])
        .collect();
    let replies = redis.ask(&commands);
    let mut computed = 0;
    for ((value, by), reply) in pairs.iter().zip(replies.chunks(2)) {
        let ours = match incr_by_float(value.as_bytes(), by.as_bytes()) {
            Ok(text) => Reply::Bulk(text),
            Err(error) => Reply::Error(format!("ERR {error}").into_bytes()),
        };
        computed += usize::from(matches!(ours, Reply::Bulk(_)));
        assert_eq!(ours, reply[1], "INCRBYFLOAT {value:?} {by:?}");
    }
    assert!(computed > 10_000, "most cases are numbers, but only {computed} were");
}

#[test]
fn repeated_float_increments_do_not_drift_from_redis() {
    let redis = Redis::start(None);
    let mut cases = Cases(8);
    let steps: Vec<String> =
        (0..3_000).map(|_| format!("{}", cases.below(2_000_000) as f64 / 1e5 - 10.0)).collect();
    let replies =
        redis.ask(&steps.iter().map(|by| words(&["HINCRBYFLOAT", "h", "f", by])).collect::<Vec<_>>());
    let mut value = b"0".to_vec();
    for (by, reply) in steps.iter().zip(replies) {
        value = incr_by_float(&value, by.as_bytes()).expect("both are numbers");
        assert_eq!(Reply::Bulk(value.clone()), reply, "after adding {by}");
    }
}

#[test]
fn doubles_are_read_and_written_as_by_redis() {
    let redis = Redis::start(None);
    let mut cases = Cases(9);
    let numbers: Vec<String> = (0..20_000).map(|_| cases.number()).collect();
    let commands: Vec<_> = numbers
        .iter()
        .flat_map(|number| {
            [words(&["DEL", "z"]), words(&["ZADD", "z", number, "m"]), words(&["ZSCORE", "z", "m"])]
        })
        .collect();
    let replies = redis.ask(&commands);
    for (number, reply) in numbers.iter().zip(replies.chunks(3)) {
        let ours = match parse_f64(number.as_bytes()) {
            // A small sorted set keeps its scores as text and takes "-0" for the integer 0.
            Some(0.0) => Reply::Bulk(b"0".to_vec()),
            Some(value) => Reply::Bulk(format_f64(value).into_bytes()),
            None => Reply::Null,
        };
        assert_eq!(ours, reply[2], "ZADD {number:?}: {:?}", reply[1]);
    }
}

#[test]
fn integers_are_read_as_by_redis() {
    let redis = Redis::start(None);
    let mut cases = Cases(10);
    let texts: Vec<String> = (0..3_000)
        .map(|_| {
            let number = cases.next() >> cases.below(64);
            let sign = *cases.pick(&["", "", "-", "+", " ", "0"]);
            let tail = *cases.pick(&["", "", "", " ", ".0", "0", "x"]);
            format!("{sign}{number}{tail}")
        })
        .chain(
            ["9223372036854775807", "9223372036854775808", "-9223372036854775808", "-0", "", "-"]
                .map(str::to_owned),
        )
        .collect();
    let commands: Vec<_> =
        texts.iter().flat_map(|text| [words(&["SET", "k", text]), words(&["INCRBY", "k", "0"])]).collect();
    for (text, reply) in texts.iter().zip(redis.ask(&commands).chunks(2)) {
        match parse_i64(text.as_bytes()) {
            Some(value) => assert_eq!(Reply::Int(value), reply[1], "{text:?}"),
            None => assert!(matches!(reply[1], Reply::Error(_)), "{text:?}: {:?}", reply[1]),
        }
    }
}

#[test]
fn globs_match_as_in_redis() {
    let redis = Redis::start(None);
    let mut cases = Cases(11);
    let alphabet = b"abAB-]^[*?\\\x80\xff";
    let mut text = |max: u64| {
        let len = cases.below(max);
        (0..len).map(|_| *cases.pick(alphabet)).collect::<Vec<u8>>()
    };
    let pairs: Vec<(Vec<u8>, Vec<u8>)> = (0..30_000).map(|_| (text(9), text(7))).collect();
    let mut commands = Vec::new();
    for (pattern, key) in &pairs {
        commands.push(words(&["FLUSHALL"]));
        commands.push(vec![b"SET".to_vec(), key.clone(), b"".to_vec()]);
        commands.push(vec![b"KEYS".to_vec(), pattern.clone()]);
    }
    for ((pattern, key), reply) in pairs.iter().zip(redis.ask(&commands).chunks(3)) {
        let Reply::Array(found) = &reply[2] else { panic!("KEYS replies with an array, not {:?}", reply[2]) };
        let ours = pattern == b"*" || glob::matches(pattern, key);
        assert_eq!(ours, !found.is_empty(), "{} against {}", pattern.escape_ascii(), key.escape_ascii());
    }
}

/// What our decoder makes of a stream whose commands are all ECHO, as redis-server would answer it.
fn echoed(stream: &[u8], limits: &Limits) -> Vec<u8> {
    let outcome = fuzzing::feed(stream, limits, || usize::MAX);
    let mut answer = Vec::new();
    for command in &outcome.commands {
        match command.as_slice() {
            [name, text] if name.eq_ignore_ascii_case(b"echo") => {
                answer.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
                answer.extend_from_slice(text);
                answer.extend_from_slice(b"\r\n");
            }
            [name] if name.eq_ignore_ascii_case(b"ping") => answer.extend_from_slice(b"+PONG\r\n"),
            _ => return answer,
        }
    }
    if let Err(error) = outcome.end {
        error.push_reply(&mut answer);
    }
    answer
}

#[test]
fn requests_are_understood_and_refused_as_by_redis() {
    let redis = Redis::start(None);
    let long = |text: &str| [text.as_bytes(), &vec![b'1'; 70_000]].concat();
    let mut streams: Vec<Vec<u8>> = [
        "*2\r\n$4\r\nECHO\r\n$3\r\nabc\r\nping\r\n",
        "echo \"a\\x41\\n\\\"b\"\r\necho 'it\\'s'\necho ''\n\r\n\nPING\n",
        "echo a\"b c\"\n",
        "echo \"abc\n",
        "echo 'abc'd\n",
        "echo \"abc\"d\n",
        "*0\r\nping\r\n*-1\r\n*-5\r\nping\r\n",
        "*x\r\n",
        "*1x\r\n",
        "*01\r\n",
        "*+1\r\n",
        "* 1\r\n",
        "*\r\n",
        "*2147483647\r\n$1\r\n",
        "*2147483648\r\n",
        "*99999999999999999999\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n\r\n\r\n",
        "*1\r\n\n\r\n",
        "*1\r\n\u{fc}\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$04\r\nping\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\n$9223372036854775807\r\n",
        "*1\r\n$4\rxping..*1\rx$4\r\nPINGxx",
        "*1\r\n$4\r\nping\r\n*1\r\n$3\r\n",
        "$4\r\nping\r\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    streams.extend([long("*"), long("*1\r\n$"), long("*1\r\n")]);
    for stream in &streams {
        // An inline request that is no ECHO ends our comparison, so those are left to the first words of the answer.
        let (theirs, ours) = (redis.say(stream), echoed(stream, &Limits::default()));
        assert!(
            theirs == ours
                || (theirs.starts_with(&ours)
                    && theirs
                        .get(ours.len()..)
                        .is_some_and(|rest| rest.starts_with(b"-ERR unknown command"))),
            "{:.60}: redis-server says {}, we say {}",
            stream.escape_ascii().to_string(),
            theirs.escape_ascii(),
            ours.escape_ascii()
        );
    }
}

#[test]
fn limits_before_authentication_are_those_of_redis() {
    let redis = Redis::start(Some("secret"));
    let limits = Limits { authenticated: false, ..Limits::default() };
    for stream in ["*11\r\n", "*1\r\n$16385\r\n", "*10\r\n$16384\r\n", "*1\r\n$536870913\r\n"] {
        assert_eq!(redis.say(stream.as_bytes()), echoed(stream.as_bytes(), &limits), "{stream:?}");
    }
}

#[test]
fn inline_words_are_those_of_redis() {
    let redis = Redis::start(None);
    let mut cases = Cases(12);
    let alphabet = b"ab \"'\\xn41\t";
    for _ in 0..2_000 {
        let len = cases.below(14);
        let line: Vec<u8> = (0..len).map(|_| *cases.pick(alphabet)).collect();
        // MGET of no existing key replies with a null for every word.
        let request = [b"mget a ".as_slice(), &line, b"\n"].concat();
        let theirs = redis.say(&request);
        let ours = match split_args(&request) {
            Some(words) => {
                [format!("*{}\r\n", words.len() - 1).into_bytes(), b"$-1\r\n".repeat(words.len() - 1)]
                    .concat()
            }
            None => b"-ERR Protocol error: unbalanced quotes in request\r\n".to_vec(),
        };
        assert_eq!(ours, theirs, "{}", request.escape_ascii());
    }
}
