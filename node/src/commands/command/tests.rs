//! Debian's redis-server is the oracle: what `COMMAND` says of a command we share is compared with what it says.

use std::collections::BTreeMap;

use farkeep_proto::resp::client::{Reply, decode_reply};

use super::*;
use crate::config::oracle::Redis;

fn table() -> Vec<(&'static [u8], &'static Command)> {
    farkeep_keystore::command::all().map(|command| (command.name.as_bytes(), command)).collect()
}

fn ours(words: &[&str]) -> Reply {
    let argv: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut out = Vec::new();
    if let Err(error) = reply(&table(), &argv, &mut Encoder::new(&mut out, true)) {
        out.clear();
        Encoder::new(&mut out, true).error(&error.reply());
    }
    let (reply, consumed) = decode_reply(&out).unwrap().expect("the reply is complete");
    assert_eq!(consumed, out.len(), "one reply and no more");
    reply
}

/// The names of all commands and subcommands that Redis 7.0 knows as well.
fn shared_names() -> Vec<&'static str> {
    let all =
        table().into_iter().flat_map(|(_, command)| std::iter::once(command).chain(command.subcommands));
    all.map(|command| command.name)
        .filter(|name| *name != "waitaof" && !name.starts_with("farkeep."))
        .collect()
}

/// What an entry of `COMMAND INFO` says, without its subcommands, sets in order.
fn canonical(entry: &Reply) -> Vec<String> {
    fn sorted(reply: &Reply) -> String {
        match reply {
            Reply::Set(items) => {
                let mut items: Vec<String> = items.iter().map(sorted).collect();
                items.sort();
                format!("{items:?}")
            }
            Reply::Map(pairs) => {
                let pairs: BTreeMap<String, String> =
                    pairs.iter().map(|(k, v)| (sorted(k), sorted(v))).collect();
                format!("{pairs:?}")
            }
            Reply::Array(items) => format!("{:?}", items.iter().map(sorted).collect::<Vec<_>>()),
            other => format!("{other:?}"),
        }
    }
    let Reply::Array(fields) = entry else { panic!("an entry is an array, not {entry:?}") };
    assert_eq!(fields.len(), 10);
    fields[..9].iter().map(sorted).collect()
}

#[test]
fn command_info_is_that_of_redis() {
    let mut redis = Redis::start();
    let mut differences = Vec::new();
    for name in shared_names() {
        let (Reply::Array(ours), Reply::Array(theirs)) =
            (ours(&["COMMAND", "INFO", name]), redis.ask(&["COMMAND", "INFO", name]))
        else {
            panic!("COMMAND INFO {name} replies with an array");
        };
        let (ours, theirs) = (canonical(&ours[0]), canonical(&theirs[0]));
        if ours != theirs {
            differences.push(format!("\nours   {ours:?}\ntheirs {theirs:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.concat());
}

#[test]
fn command_docs_tell_the_same_facts_in_our_own_words() {
    fn facts(reply: &Reply) -> BTreeMap<String, String> {
        let Reply::Map(pairs) = reply else { panic!("documentation is a map, not {reply:?}") };
        let own = ["\"summary\"", "\"history\"", "\"subcommands\""];
        let pairs = pairs.iter().map(|(key, value)| (format!("{key:?}"), format!("{value:?}")));
        // A full stop more or less in the complexity is no difference.
        pairs.filter(|(key, _)| !own.contains(&key.as_str()) && key != "\"complexity\"").collect()
    }
    fn collect(reply: &Reply, into: &mut BTreeMap<String, BTreeMap<String, String>>) {
        let Reply::Map(commands) = reply else { panic!("COMMAND DOCS replies with a map, not {reply:?}") };
        for (name, documentation) in commands {
            into.insert(format!("{name:?}").replace('"', ""), facts(documentation));
            let Reply::Map(pairs) = documentation else { continue };
            for (key, value) in pairs {
                if *key == Reply::Bulk(b"subcommands".to_vec()) {
                    collect(value, into);
                }
            }
        }
    }
    let mut redis = Redis::start();
    let (mut our_facts, mut their_facts) = (BTreeMap::new(), BTreeMap::new());
    collect(&ours(&["COMMAND", "DOCS"]), &mut our_facts);
    collect(&redis.ask(&["COMMAND", "DOCS"]), &mut their_facts);
    for name in shared_names() {
        assert_eq!(our_facts[name], their_facts[name], "{name}");
    }
    let Reply::Map(one) = ours(&["COMMAND", "DOCS", "nosuch", "GET"]) else { panic!("a map") };
    assert_eq!(one.len(), 1, "unknown names are left out");
}

#[test]
fn keys_of_a_request_are_found_as_by_redis() {
    let mut redis = Redis::start();
    for request in [
        "get k",
        "SET k v",
        "set k v GET",
        "set k v ex 5",
        "get",
        "get a b",
        "nosuch a",
        "ping",
        "ping a b",
        "mset a 1 b 2",
        "mset a 1 b",
        "mget a b c",
        "bitop and d a b",
        "bitop and d",
        "bitfield k get u4 0",
        "bitfield k get u4",
        "bitfield k overflow wrap get u4 0",
        "bitfield k set u4 0 1",
        "bitfield k incrby u4 0 1",
        "bitfield k",
        "copy a b",
        "rename a b",
        "hset h f v",
        "lcs a b",
        "object encoding k",
        "object nosuch k",
        "object",
        "memory usage k",
        "config get a",
        "watch a b",
        "del",
        "getex k persist",
    ] {
        let words: Vec<&str> = request.split(' ').collect();
        for subcommand in ["GETKEYS", "getkeysandflags"] {
            let words = [["COMMAND", subcommand].as_slice(), &words].concat();
            // One word is one too few for COMMAND itself, which is checked before we are asked.
            if words.len() >= 4 {
                assert_eq!(ours(&words), redis.ask(&words), "{words:?}");
            }
        }
    }
}

#[test]
fn command_list_filters_as_redis_does() {
    let mut redis = Redis::start();
    let names = |reply: Reply| -> Vec<String> {
        let Reply::Array(items) = reply else { panic!("COMMAND LIST replies with an array, not {reply:?}") };
        let shared = shared_names();
        let names = items.iter().map(|item| format!("{item:?}").replace('"', ""));
        let mut names: Vec<String> = names.filter(|name| shared.contains(&name.as_str())).collect();
        names.sort();
        names
    };
    for words in [
        "COMMAND LIST",
        "COMMAND LIST FILTERBY PATTERN conf*",
        "command list filterby pattern *GET*",
        "COMMAND LIST FILTERBY ACLCAT dangerous",
        "COMMAND LIST FILTERBY ACLCAT nosuch",
        "COMMAND LIST FILTERBY MODULE x",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(names(ours(&words)), names(redis.ask(&words)), "{words:?}");
    }
    for words in ["COMMAND LIST FILTERBY", "COMMAND LIST x", "COMMAND LIST FILTERBY x y", "COMMAND nosuch"] {
        let words: Vec<&str> = words.split(' ').collect();
        assert_eq!(ours(&words), redis.ask(&words), "{words:?}");
    }
}

#[test]
fn unknown_commands_have_no_entry() {
    assert_eq!(
        ours(&["COMMAND", "INFO", "nosuch", "config|nosuch"]),
        Reply::Array(vec![Reply::Null, Reply::Null])
    );
    assert_eq!(ours(&["COMMAND", "COUNT"]), Reply::Int(table().len() as i64));
    let (Reply::Array(all), Reply::Array(info)) = (ours(&["COMMAND"]), ours(&["COMMAND", "INFO"])) else {
        panic!("COMMAND replies with an array");
    };
    assert_eq!((all.len(), info), (table().len(), all.clone()));
}
