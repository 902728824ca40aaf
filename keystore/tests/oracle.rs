//! Random command streams go to the keystore and to Redis itself; the replies are compared byte for byte.
//!
//! Needs a `redis-server` 7.0 in the path; without one the tests say so and pass.

#[expect(dead_code, reason = "not every helper is needed here")]
mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farkeep_keystore::command::{Handler, table};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::Store;

struct Oracle {
    process: Child,
    link: UnixStream,
    _dir: tempfile::TempDir,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Oracle {
    fn start() -> Option<Self> {
        let version = Command::new("redis-server").arg("--version").output().ok()?;
        if !String::from_utf8_lossy(&version.stdout).contains("v=7.0.") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(link) = UnixStream::connect(&socket) {
                return Some(Self { process, link, _dir: dir });
            }
            assert!(Instant::now() < deadline, "redis-server does not come up");
            std::thread::yield_now();
        }
    }

    fn run(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        const MARK: &[u8] = b"$15\r\n--end-of-reply\r\n";
        let mut request = encode(args);
        request.extend_from_slice(&encode(&[b"ECHO".to_vec(), b"--end-of-reply"[..].to_vec()]));
        // The marker is 14 bytes long.
        let mark = [b"$14\r\n".as_slice(), &MARK[5..]].concat();
        self.link.write_all(&request).unwrap();
        let mut reply = Vec::new();
        let mut chunk = [0; 65536];
        while !reply.ends_with(&mark) {
            let len = self.link.read(&mut chunk).unwrap();
            assert!(len > 0, "redis-server hung up");
            reply.extend_from_slice(&chunk[..len]);
        }
        reply.truncate(reply.len() - mark.len());
        reply
    }
}

fn encode(args: &[Vec<u8>]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        request.extend_from_slice(arg);
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// The reply with what has no order put into one.
fn normalised(name: &str, reply: &[u8]) -> Vec<u8> {
    let unordered = ["HGETALL", "HKEYS", "HVALS", "KEYS", "SCAN", "HSCAN"];
    if !unordered.contains(&name) {
        return reply.to_vec();
    }
    let mut lines: Vec<&[u8]> = reply.split(|&byte| byte == b'\n').collect();
    lines.sort();
    lines.concat()
}

const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "-1",
    "7",
    "9999",
    "10000",
    "9223372036854775807",
    "-9223372036854775808",
    "007",
    " 1",
    "1.5",
    "-0",
    "3.0e3",
    "abc",
    "foobar",
    "hello world",
    "nan",
    "inf",
    "1e400",
    "0.1",
    "ohmytext",
    "mynewtext",
    "this value is exactly forty-four bytes long!",
    "this value is exactly forty-five bytes long!!",
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "-2",
    "5",
    "7",
    "8",
    "10",
    "63",
    "64",
    "100",
    "-100",
    "1000",
    "4294967296",
    "536870912",
    "-9223372036854775808",
    "9223372036854775807",
    "x",
    "",
    "1.5",
];

/// Makes words: `k` a key, `f` a field, `v` a value, `n` a number, `s` a small number, `t` a time to come,
/// `b` a bit, `y` a field type, `d` a database.
fn word(random: &mut SmallRng, kind: char) -> Vec<u8> {
    let pick =
        |random: &mut SmallRng, from: &[&str]| from[random.random_range(0..from.len())].as_bytes().to_vec();
    match kind {
        'k' => format!("k{}", random.random_range(0..6)).into_bytes(),
        'h' => format!("h{}", random.random_range(0..4)).into_bytes(),
        'f' => format!("f{}", random.random_range(0..12)).into_bytes(),
        'F' => format!("f{}", random.random_range(0..400)).into_bytes(),
        'v' if random.random_bool(0.05) => vec![b'z'; random.random_range(0..9000)],
        'v' => pick(random, VALUES),
        'V' => vec![b'y'; random.random_range(60..70)],
        'n' => pick(random, NUMBERS),
        's' => random.random_range(-12..40i32).to_string().into_bytes(),
        'p' => random.random_range(0..300u32).to_string().into_bytes(),
        't' => pick(
            random,
            &["4102444800", "4102444801", "5000000000", "1", "0", "-5", "9223372036854775807", "x"],
        ),
        'T' => pick(
            random,
            &["4102444800000", "4102444800500", "4102444800499", "5000000000001", "1", "9223372036854775807"],
        ),
        'b' => pick(random, &["0", "1", "1", "0", "2", "x"]),
        'y' => pick(random, &["i8", "u8", "i5", "u63", "i64", "u64", "i16", "u1", "i1", "u32", "x8", "u0"]),
        'o' => pick(random, &["0", "1", "7", "100", "#0", "#1", "#3", "-1", "13", "#x"]),
        'w' => pick(random, &["WRAP", "SAT", "FAIL", "sat", "NONE"]),
        'd' => pick(random, &["0", "1", "2", "15", "16", "-1", "x", "99999999999"]),
        'u' => pick(random, &["BYTE", "BIT", "bit", "BITS"]),
        'c' => pick(random, &["NX", "XX", "GT", "LT", "nx", "QQ"]),
        'g' => pick(random, &["*", "k*", "k[0-3]", "f?", "*1*", "h\\*", "nothing", "f1"]),
        'x' => pick(
            random,
            &[
                "NX",
                "XX",
                "GET",
                "KEEPTTL",
                "EX",
                "EXAT 4102444800",
                "PXAT 4102444800123",
                "PXAT 5",
                "BAD",
                "EX 0",
                "EX -1",
                "EX 9223372036854775807",
                "PX x",
            ],
        ),
        'e' => pick(
            random,
            &["PERSIST", "EXAT 4102444800", "PXAT 4102444800123", "PXAT 5", "BAD", "EX 0", "NX", "EX"],
        ),
        'O' => pick(random, &["AND", "OR", "XOR", "NOT", "not", "NAND"]),
        'l' => pick(random, &["LEN", "IDX", "WITHMATCHLEN", "MINMATCHLEN 2", "MINMATCHLEN x", "BAD"]),
        other => unreachable!("no words of kind {other}"),
    }
}

const SHAPES: &[&str] = &[
    "GET %k",
    "GET %h",
    "SET %k %v",
    "SET %k %v",
    "SET %h %v",
    "SET %k %v %x",
    "SET %k %v %x %x",
    "SET %k %v %x %x %x",
    "SETNX %k %v",
    "GETSET %k %v",
    "GETSET %h %v",
    "GETDEL %k",
    "GETEX %k",
    "GETEX %k %e",
    "GETEX %k %e %e",
    "GETEX %h %e",
    "MGET %k %h %k",
    "MSET %k %v %k %v",
    "MSET %k %v %k",
    "MSETNX %k %v %k %v",
    "APPEND %k %v",
    "APPEND %h %v",
    "STRLEN %k",
    "STRLEN %h",
    "GETRANGE %k %s %s",
    "GETRANGE %k %n %n",
    "SUBSTR %k %s %s",
    "SETRANGE %k %p %v",
    "SETRANGE %k %s %v",
    "SETRANGE %k %n %v",
    "INCR %k",
    "DECR %k",
    "INCRBY %k %n",
    "DECRBY %k %n",
    "INCRBYFLOAT %k %v",
    "INCRBYFLOAT %k %n",
    "INCR %h",
    "LCS %k %k",
    "LCS %k %k %l",
    "LCS %k %k %l %l",
    "LCS %k %h",
    "SETEX %k %n",
    "PSETEX %k 0 %v",
    "SETEX %k -1 %v",
    "SETBIT %k %p %b",
    "SETBIT %k %n %b",
    "GETBIT %k %p",
    "GETBIT %k %n",
    "BITCOUNT %k",
    "BITCOUNT %k %s",
    "BITCOUNT %k %s %s",
    "BITCOUNT %k %s %s %u",
    "BITCOUNT %k %n %n %u",
    "BITPOS %k %b",
    "BITPOS %k %b %s",
    "BITPOS %k %b %s %s",
    "BITPOS %k %b %s %s %u",
    "BITPOS %k %b %n %n %u",
    "BITOP %O %k %k",
    "BITOP %O %k %k %k",
    "BITOP %O %k %k %h",
    "BITFIELD %k GET %y %o",
    "BITFIELD %k SET %y %o %n",
    "BITFIELD %k OVERFLOW %w INCRBY %y %o %n GET %y %o",
    "BITFIELD %k INCRBY %y %o %s OVERFLOW %w SET %y %o %n",
    "BITFIELD %k",
    "BITFIELD_RO %k GET %y %o",
    "BITFIELD_RO %k SET u8 0 1",
    "BITFIELD %h GET u8 0",
    "HSET %h %f %v",
    "HSET %h %f %v %f %v",
    "HSET %h %f",
    "HSET %h %F %v %F %v %F %v %F %v %F %v",
    "HSET %k %f %v",
    "HSET %h %f %V",
    "HMSET %h %f %v",
    "HMSET %h %f %v %f",
    "HSETNX %h %f %v",
    "HGET %h %f",
    "HGET %k %f",
    "HMGET %h %f %f %f",
    "HMGET %k %f",
    "HGETALL %h",
    "HKEYS %h",
    "HVALS %h",
    "HKEYS %k",
    "HLEN %h",
    "HLEN %k",
    "HSTRLEN %h %f",
    "HEXISTS %h %f",
    "HDEL %h %f",
    "HDEL %h %f %f %f",
    "HDEL %h %F %F %F %F %F %F %F",
    "HINCRBY %h %f %n",
    "HINCRBYFLOAT %h %f %v",
    "HINCRBYFLOAT %h %f %n",
    "HSCAN %h 0 COUNT 1000",
    "HSCAN %h 0 COUNT 1000 MATCH %g",
    "HSCAN %h %n MATCH",
    "HSCAN %h x",
    "HRANDFIELD %h 0",
    "HRANDFIELD %h 100 BAD",
    "HRANDFIELD %h x",
    "HRANDFIELD nope",
    "HRANDFIELD nope 5",
    "HRANDFIELD nope 9223372036854775807 WITHVALUES",
    "HRANDFIELD nope 9223372036854775807",
    "HRANDFIELD nope -9223372036854775808",
    "DEL %k",
    "DEL %h",
    "DEL %k %h %k",
    "UNLINK %h %k",
    "EXISTS %k %k %h",
    "TOUCH %k %h",
    "TYPE %k",
    "TYPE %h",
    "RENAME %k %k",
    "RENAME %h %h",
    "RENAMENX %k %k",
    "RENAMENX %h %k",
    "COPY %k %k",
    "COPY %h %h REPLACE",
    "COPY %k %k DB %d",
    "COPY %k %h DB %d REPLACE",
    "COPY %k %k BAD",
    "MOVE %k %d",
    "MOVE %h %d",
    "SWAPDB %d %d",
    "SELECT %d",
    "EXPIRE %k %n",
    "EXPIREAT %k %t",
    "EXPIREAT %h %t %c",
    "EXPIREAT %k %t %c %c",
    "PEXPIREAT %k %T",
    "PEXPIREAT %h %T %c",
    "EXPIRETIME %k",
    "PEXPIRETIME %k",
    "PEXPIRETIME %h",
    "TTL nope",
    "PTTL nope",
    "PERSIST %k",
    "PERSIST %h",
    "OBJECT ENCODING %k",
    "OBJECT ENCODING %h",
    "OBJECT ENCODING %k",
    "OBJECT REFCOUNT %k",
    "OBJECT BAD %k",
    "OBJECT ENCODING",
    "OBJECT",
    "KEYS %g",
    "SCAN 0 COUNT 1000",
    "SCAN 0 COUNT 1000 MATCH %g",
    "SCAN 0 COUNT 1000 TYPE hash",
    "SCAN 0 COUNT 1000 TYPE string MATCH %g",
    "SCAN 0 COUNT 0",
    "SCAN x",
    "SCAN 0 BAD",
    "SCAN 0 COUNT x",
    "DBSIZE",
    "FLUSHDB",
    "FLUSHALL BAD",
    "NOSUCH a b c",
    "GET",
    "GET a b",
    "HSET a",
    "hget",
];

fn request(random: &mut SmallRng) -> Vec<Vec<u8>> {
    let shape = SHAPES[random.random_range(0..SHAPES.len())];
    let mut args = Vec::new();
    for part in shape.split(' ') {
        match part.strip_prefix('%') {
            Some(kind) => {
                let kind = kind.chars().next().unwrap();
                let made = word(random, kind);
                // Options with an argument are two words; values may contain spaces.
                if "xel".contains(kind) {
                    args.extend(made.split(|&byte| byte == b' ').map(<[u8]>::to_vec));
                } else {
                    args.push(made);
                }
            }
            None => args.push(part.as_bytes().to_vec()),
        }
    }
    args
}

/// Whether two integer replies are the same but for the time between the two calls.
fn is_about(ours: &[u8], theirs: &[u8]) -> bool {
    let number =
        |reply: &[u8]| std::str::from_utf8(reply).ok()?.trim_end().strip_prefix(':')?.parse::<i64>().ok();
    number(ours).zip(number(theirs)).is_some_and(|(ours, theirs)| ours.abs_diff(theirs) < 2000)
}

fn compare(seed: u64, steps: usize, resp3: bool) {
    let Some(mut oracle) = Oracle::start() else {
        eprintln!("no redis-server 7.0 here: nothing compared");
        return;
    };
    let mut random = SmallRng::seed_from_u64(seed);
    let mut store = Store::new(1 << 30, false);
    store.resp3 = resp3;
    if resp3 {
        oracle.run(&[b"HELLO".to_vec(), b"3".to_vec()]);
    }
    let mut history: Vec<String> = Vec::new();
    for step in 0..steps {
        let args = request(&mut random);
        let name = String::from_utf8_lossy(&args[0]).into_owned();
        history.push(
            args.iter()
                .map(|arg| format!("{:?}", String::from_utf8_lossy(&arg[..arg.len().min(60)])))
                .collect::<Vec<_>>()
                .join(" "),
        );
        if name == "DBSIZE" {
            // Both count expired keys until somebody has met them.
            oracle.run(&["SCAN", "0", "COUNT", "1000"].map(|word| word.as_bytes().to_vec()));
            store.work(|ctx| farkeep_keystore::active_expire(ctx, 1000)).unwrap();
        }
        let theirs = oracle.run(&args);
        if name == "SELECT" {
            if theirs.starts_with(b"+OK") {
                store.db = std::str::from_utf8(&args[1]).unwrap().parse().unwrap();
            }
            continue;
        }
        store.now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
        let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let ours = store.run(&words);
        if name.ends_with("EXPIRETIME") && is_about(&ours, &theirs) {
            continue;
        }
        if normalised(&name, &ours) != normalised(&name, &theirs) {
            let recent = history[history.len().saturating_sub(40)..].join("\n  ");
            panic!(
                "seed {seed}, step {step}: {}\n ours   {:?}\n theirs {:?}\n after\n  {recent}",
                history[step],
                String::from_utf8_lossy(&ours[..ours.len().min(600)]),
                String::from_utf8_lossy(&theirs[..theirs.len().min(600)]),
            );
        }
    }
}

#[test]
fn replies_are_those_of_redis_in_resp2() {
    for seed in 0..4 {
        compare(seed, 6000, false);
    }
}

#[test]
fn replies_are_those_of_redis_in_resp3() {
    for seed in 100..104 {
        compare(seed, 6000, true);
    }
}

/// Everything that `COMMAND INFO` tells clients, but for the key specifications and the summaries.
#[test]
fn the_table_states_what_command_info_states() {
    let Some(mut oracle) = Oracle::start() else {
        eprintln!("no redis-server 7.0 here: nothing compared");
        return;
    };
    for command in table::all().filter(|command| !matches!(command.handler, Handler::Node)) {
        let theirs = oracle.run(&[b"COMMAND".to_vec(), b"INFO".to_vec(), command.name.into()]);
        let theirs = String::from_utf8_lossy(&theirs).into_owned();
        let mut ours =
            format!("*1\r\n*10\r\n${}\r\n{}\r\n:{}\r\n", command.name.len(), command.name, command.arity);
        let flags: Vec<_> = command.flags.names().collect();
        ours += &format!("*{}\r\n", flags.len());
        flags.iter().for_each(|flag| ours += &format!("+{flag}\r\n"));
        ours += &format!(":{}\r\n:{}\r\n:{}\r\n", command.first_key, command.last_key, command.step);
        let categories: Vec<_> = command.categories.names().collect();
        ours += &format!("*{}\r\n", categories.len());
        categories.iter().for_each(|category| ours += &format!("+@{category}\r\n"));
        assert!(theirs.starts_with(&ours), "{}:\n{ours:?}\n{theirs:?}", command.name);
    }
}
