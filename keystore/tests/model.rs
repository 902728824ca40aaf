//! The keystore against a model made of maps, with crashes and restarts among the operations.

mod support;

use std::collections::BTreeMap;

use farkeep_core::heap;
use farkeep_keystore::verify;
use proptest::prelude::*;
use support::Store;

const MAX_LEN: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq)]
enum Value {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
}

/// Keys with their values and, in milliseconds since 1970, when they expire.
type Database = BTreeMap<Vec<u8>, (Value, Option<u64>)>;

#[derive(Clone, Debug, Default)]
struct Model {
    databases: Vec<Database>,
}

#[derive(Clone, Debug)]
enum Step {
    Run(Vec<Vec<u8>>),
    /// The same, but the process dies before the transaction is in the log.
    Lose(Vec<Vec<u8>>),
    Select(usize),
    Advance(u64),
    Expire,
    Reclaim(usize),
    Reopen,
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    (0..8u8).prop_map(|number| format!("key:{number}").into_bytes())
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    (0..40u8).prop_map(|number| format!("field:{number}").into_bytes())
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0..100usize).prop_map(|len| vec![b'v'; len]),
        2 => any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        1 => (3000..9000usize).prop_map(|len| vec![b'w'; len]),
        1 => (0..100_000usize).prop_map(|len| vec![b'x'; len]),
    ]
}

fn words(parts: &[&[u8]]) -> Vec<Vec<u8>> {
    parts.iter().map(|part| part.to_vec()).collect()
}

fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop_oneof![
        6 => (key(), bytes()).prop_map(|(k, v)| words(&[b"SET", &k, &v])),
        2 => (key(), bytes(), 1..50u32).prop_map(|(k, v, s)| words(&[b"SETEX", &k, s.to_string().as_bytes(), &v])),
        2 => (key(), bytes()).prop_map(|(k, v)| words(&[b"SET", &k, &v, b"KEEPTTL"])),
        3 => (key(), bytes()).prop_map(|(k, v)| words(&[b"APPEND", &k, &v])),
        2 => (key(), 0..6000u32, bytes()).prop_map(|(k, at, v)| words(&[b"SETRANGE", &k, at.to_string().as_bytes(), &v])),
        2 => key().prop_map(|k| words(&[b"INCR", &k])),
        6 => (key(), field(), bytes()).prop_map(|(k, f, v)| words(&[b"HSET", &k, &f, &v])),
        3 => (key(), field(), field(), field()).prop_map(|(k, a, b, c)| words(&[b"HSET", &k, &a, b"1", &b, b"2", &c, b"3"])),
        4 => (key(), field(), field()).prop_map(|(k, a, b)| words(&[b"HDEL", &k, &a, &b])),
        3 => key().prop_map(|k| words(&[b"DEL", &k])),
        2 => (key(), 1..50u32).prop_map(|(k, s)| words(&[b"EXPIRE", &k, s.to_string().as_bytes()])),
        1 => key().prop_map(|k| words(&[b"PERSIST", &k])),
        2 => (key(), key()).prop_map(|(a, b)| words(&[b"RENAME", &a, &b])),
        2 => (key(), key(), 0..2u8).prop_map(|(a, b, db)| words(&[b"COPY", &a, &b, b"DB", db.to_string().as_bytes(), b"REPLACE"])),
        1 => (key(), 0..2u8).prop_map(|(k, db)| words(&[b"MOVE", &k, db.to_string().as_bytes()])),
        1 => Just(words(&[b"SWAPDB", b"0", b"1"])),
        1 => Just(words(&[b"FLUSHDB"])),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => command().prop_map(Step::Run),
        3 => command().prop_map(Step::Lose),
        2 => (0..2usize).prop_map(Step::Select),
        3 => (1..20_000u64).prop_map(Step::Advance),
        2 => Just(Step::Expire),
        2 => (1..50usize).prop_map(Step::Reclaim),
        1 => Just(Step::Reopen),
    ]
}

impl Model {
    fn forget_expired(&mut self, now_ms: u64) {
        for database in &mut self.databases {
            database.retain(|_, (_, expire)| expire.is_none_or(|at| at > now_ms));
        }
    }

    /// Does what the command does, if it is one that succeeds.
    fn run(&mut self, db: usize, now_ms: u64, args: &[Vec<u8>]) {
        self.forget_expired(now_ms);
        let number = |at: usize| std::str::from_utf8(&args[at]).unwrap().parse::<usize>().unwrap();
        let name = std::str::from_utf8(&args[0]).unwrap();
        match name {
            "SET" => {
                let kept = if args.len() > 3 {
                    self.databases[db].get(&args[1]).and_then(|old| old.1)
                } else {
                    None
                };
                self.databases[db].insert(args[1].clone(), (Value::String(args[2].clone()), kept));
            }
            "SETEX" => {
                let at = now_ms + 1000 * number(2) as u64;
                self.databases[db].insert(args[1].clone(), (Value::String(args[3].clone()), Some(at)));
            }
            "APPEND" | "SETRANGE" | "INCR" => {
                let is_new = !self.databases[db].contains_key(&args[1]);
                if name == "SETRANGE" && args[3].is_empty() && is_new {
                    return;
                }
                let entry = self.databases[db]
                    .entry(args[1].clone())
                    .or_insert_with(|| (Value::String(Vec::new()), None));
                let Value::String(bytes) = &mut entry.0 else { return };
                match name {
                    "APPEND" => bytes.extend_from_slice(&args[2]),
                    "SETRANGE" if args[3].is_empty() => {}
                    "SETRANGE" => {
                        let end = number(2) + args[3].len();
                        bytes.resize(bytes.len().max(end), 0);
                        bytes[number(2)..end].copy_from_slice(&args[3]);
                    }
                    _ => {
                        let text = if is_new { "0" } else { std::str::from_utf8(bytes).unwrap_or("x") };
                        let canonical = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
                        match canonical.and_then(|number| number.checked_add(1)) {
                            Some(sum) => *bytes = sum.to_string().into_bytes(),
                            None => assert!(!is_new),
                        }
                    }
                }
            }
            "HSET" => {
                let entry = self.databases[db]
                    .entry(args[1].clone())
                    .or_insert_with(|| (Value::Hash(BTreeMap::new()), None));
                let Value::Hash(hash) = &mut entry.0 else { return };
                for pair in args[2..].chunks_exact(2) {
                    hash.insert(pair[0].clone(), pair[1].clone());
                }
            }
            "HDEL" => {
                let Some((Value::Hash(hash), _)) = self.databases[db].get_mut(&args[1]) else { return };
                hash.retain(|field, _| !args[2..].contains(field));
                if hash.is_empty() {
                    self.databases[db].remove(&args[1]);
                }
            }
            "DEL" => {
                self.databases[db].remove(&args[1]);
            }
            "EXPIRE" => {
                if let Some(entry) = self.databases[db].get_mut(&args[1]) {
                    entry.1 = Some(now_ms + 1000 * number(2) as u64);
                }
            }
            "PERSIST" => {
                if let Some(entry) = self.databases[db].get_mut(&args[1]) {
                    entry.1 = None;
                }
            }
            "RENAME" => {
                if let Some(entry) = self.databases[db].remove(&args[1]) {
                    self.databases[db].insert(args[2].clone(), entry);
                }
            }
            "COPY" => {
                if db == number(4) && args[1] == args[2] {
                    return;
                }
                if let Some(entry) = self.databases[db].get(&args[1]).cloned() {
                    self.databases[number(4)].insert(args[2].clone(), entry);
                }
            }
            "MOVE" => {
                let target = number(2);
                if target != db
                    && !self.databases[target].contains_key(&args[1])
                    && let Some(entry) = self.databases[db].remove(&args[1])
                {
                    self.databases[target].insert(args[1].clone(), entry);
                }
            }
            "SWAPDB" => self.databases.swap(0, 1),
            "FLUSHDB" => self.databases[db].clear(),
            other => unreachable!("{other}"),
        }
    }
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

/// The image holds what the model says, and nothing is lost, torn or leaked.
fn assert_same(store: &mut Store, model: &mut Model) {
    model.forget_expired(store.now_ms);
    let selected = store.db;
    for db in 0..2 {
        store.db = db;
        for (key, (value, expire)) in &model.databases[db] {
            match value {
                Value::String(bytes) => assert_eq!(store.run(&[b"GET", key]), bulk(bytes)),
                Value::Hash(fields) => {
                    assert_eq!(store.run(&[b"HLEN", key]), format!(":{}\r\n", fields.len()).into_bytes());
                    for (field, value) in fields {
                        assert_eq!(store.run(&[b"HGET", key, field]), bulk(value));
                    }
                }
            }
            let time = expire.map_or(-1, |at| at as i64);
            assert_eq!(store.run(&[b"PEXPIRETIME", key]), format!(":{time}\r\n").into_bytes());
        }
        let listed = store.run(&[b"SCAN", b"0", b"COUNT", b"1000"]);
        let header = format!("*2\r\n$1\r\n0\r\n*{}\r\n", model.databases[db].len());
        assert!(listed.starts_with(header.as_bytes()), "{:?}", String::from_utf8_lossy(&listed));
    }
    store.db = selected;
    assert_sound(store);
}

fn assert_sound(store: &mut Store) {
    let verified = verify(store.heap.view());
    assert!(verified.findings.is_empty(), "{:#?}", verified.findings);
    let findings = heap::verify(store.heap.view(), verified.blocks);
    assert!(findings.is_empty(), "{findings:#?}");
    store.assert_replayed();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_keystore_is_what_the_model_is_whatever_happens(steps in prop::collection::vec(step(), 1..250)) {
        let mut store = Store::new(MAX_LEN, true);
        store.ks.limits.hash_max_listpack_entries = 6;
        let mut model = Model { databases: vec![BTreeMap::new(); 2] };
        for step in &steps {
            match step {
                Step::Run(args) => {
                    let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                    store.run(&words);
                    model.run(store.db, store.now_ms, args);
                }
                Step::Lose(args) => {
                    let words: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
                    store.run_and_lose(&words);
                    store.reopen();
                }
                Step::Select(db) => store.db = *db,
                Step::Advance(millis) => store.now_ms += millis,
                Step::Expire => {
                    store.work(|ctx| farkeep_keystore::active_expire(ctx, 10)).unwrap();
                }
                Step::Reclaim(budget) => {
                    store.work(|ctx| ctx.reclaim(*budget)).unwrap();
                }
                Step::Reopen => {
                    store.reopen();
                    assert_same(&mut store, &mut model);
                }
            }
        }
        assert_same(&mut store, &mut model);
        store.run(&[b"FLUSHALL"]);
        store.reclaim_all();
        assert_sound(&mut store);
        prop_assert_eq!(verify(store.heap.view()).blocks.len(), 2, "only the table and the records are left");
    }
}

#[test]
fn a_table_grows_to_many_keys_and_shrinks_to_none() {
    let mut store = Store::new(MAX_LEN, true);
    let empty = store.heap.used_bytes();
    for round in 0..2 {
        for number in 0..30_000 {
            store.say(&format!("SET key:{number} value:{round}"));
        }
        assert_eq!(store.say("DBSIZE"), ":30000\r\n");
        assert_sound(&mut store);
        for number in 0..30_000 {
            assert_eq!(store.say(&format!("DEL key:{number}")), ":1\r\n");
        }
        assert_sound(&mut store);
        let left = store.heap.used_bytes() - empty;
        assert!(left < 8192, "an empty database still takes {left} bytes");
    }
}

#[test]
fn a_flushed_database_is_empty_at_once_and_freed_in_pieces_across_crashes() {
    let mut store = Store::new(MAX_LEN, true);
    for number in 0..5000 {
        store.say(&format!("SETEX key:{number} 1000 value"));
        if number % 100 == 0 {
            for field in 0..200 {
                store.say(&format!("HSET hash:{number} field:{field} value"));
            }
        }
    }
    let before = store.log.appended;
    store.say("FLUSHALL");
    assert!(store.log.appended - before < 4096, "FLUSHALL took {} redo bytes", store.log.appended - before);
    assert_eq!(store.say("DBSIZE"), ":0\r\n");
    assert_eq!(store.say("SET key:1 again"), "+OK\r\n");
    let mut pieces = 0;
    while store.work(|ctx| ctx.reclaim(500)).unwrap() > 0 {
        pieces += 1;
        if pieces % 5 == 0 {
            store.reopen();
            assert_sound(&mut store);
        }
    }
    assert!(pieces > 20, "{pieces} pieces");
    assert_eq!(store.say("GET key:1"), "$5\r\nagain\r\n");
    assert_sound(&mut store);
    assert_eq!(verify(store.heap.view()).keys, 1);
}

#[test]
fn a_full_image_refuses_and_serves_on() {
    let mut store = Store::new(8 << 20, true);
    let refused = (0..1_000_000)
        .find(|number| store.say(&format!("SET key:{number} {}", "v".repeat(500))).starts_with("-OOM"));
    let refused = refused.expect("8 MiB do not hold a million values");
    assert_sound(&mut store);
    assert_eq!(store.say("GET key:1"), format!("$500\r\n{}\r\n", "v".repeat(500)));
    let pairs: Vec<String> = (0..100_000).map(|number| format!("field:{number} value")).collect();
    assert!(store.say(&format!("HSET h {}", pairs.join(" "))).starts_with("-OOM"));
    assert_sound(&mut store);
    for number in 0..refused / 2 {
        assert_eq!(store.say(&format!("DEL key:{number}")), ":1\r\n");
    }
    assert_eq!(store.say("SET key:1 again"), "+OK\r\n");
    store.reopen();
    assert_eq!(store.say("GET key:1"), "$5\r\nagain\r\n");
    assert_sound(&mut store);
}
