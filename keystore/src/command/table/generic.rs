//! The table of commands about keys of any type, databases and memory.

use super::{Command, acl, command, flag, key};
use crate::command::{databases, expire, generic, inspect, scan};

pub(super) static TABLE: &[Command] = &[
    command("copy", -3, flag::WRITE | flag::DENYOOM, acl::KEYSPACE | acl::WRITE | acl::SLOW)
        .about(
            "generic",
            "6.2.0",
            "O(N) worst case for collections",
            "Copies a key with its value and expiry.",
        )
        .keys(1, 2, 1, &[key("RO access", 1, 0, 1), key("OW update", 2, 0, 1)])
        .write(generic::copy),
    command("dbsize", 1, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("server", "1.0.0", "O(1)", "Counts the keys of the database.")
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
        .read(databases::dbsize),
    command("del", -2, flag::WRITE, acl::KEYSPACE | acl::WRITE | acl::SLOW)
        .about("generic", "1.0.0", "O(N)", "Removes keys.")
        .keys(1, -1, 1, &[key("RM delete", 1, -1, 1)])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .write(generic::del),
    command("exists", -2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "1.0.0", "O(N)", "Counts which of the keys are there.")
        .keys(1, -1, 1, &[key("RO", 1, -1, 1)])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .read(generic::exists),
    command("expire", -3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "1.0.0", "O(1)", "Lets a key live for so many seconds.")
        .keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
        .write(expire::expire),
    command("expireat", -3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "1.2.0", "O(1)", "Lets a key live until a time in seconds since 1970.")
        .keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
        .write(expire::expireat),
    command("expiretime", 2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "7.0.0", "O(1)", "Tells until when a key lives, in seconds since 1970.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(expire::expiretime),
    command("flushall", -1, flag::WRITE, acl::KEYSPACE | acl::WRITE | acl::SLOW | acl::DANGEROUS)
        .about("server", "1.0.0", "O(N)", "Removes all keys of all databases.")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .write(databases::flushall),
    command("flushdb", -1, flag::WRITE, acl::KEYSPACE | acl::WRITE | acl::SLOW | acl::DANGEROUS)
        .about("server", "1.0.0", "O(N)", "Removes all keys of the database.")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .write(databases::flushdb),
    command("keys", 2, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW | acl::DANGEROUS)
        .about("generic", "1.0.0", "O(N)", "Lists the keys that match a pattern.")
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .read(scan::keys),
    command("memory", -2, 0, acl::SLOW)
        .about("server", "4.0.0", "Depends on subcommand", "Looks at how memory is used.")
        .subcommands(&[
            command("memory|doctor", 2, 0, acl::SLOW)
                .about("server", "4.0.0", "O(1)", "Says what is remarkable about memory use.")
                .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
                .read(inspect::memory_doctor),
            command("memory|help", 2, flag::LOADING | flag::STALE, acl::SLOW)
                .about("server", "4.0.0", "O(1)", "Lists the subcommands.")
                .read(inspect::memory_help),
            command("memory|malloc-stats", 2, 0, acl::SLOW)
                .about(
                    "server",
                    "4.0.0",
                    "Depends on how much memory is allocated, could be slow",
                    "Reports the allocator's own statistics.",
                )
                .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]),
            command("memory|purge", 2, 0, acl::SLOW)
                .about(
                    "server",
                    "4.0.0",
                    "Depends on how much memory is allocated, could be slow",
                    "Asks the allocator to give memory back.",
                )
                .tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
            command("memory|stats", 2, 0, acl::SLOW)
                .about("server", "4.0.0", "O(1)", "Reports memory use in detail.")
                .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]),
            command("memory|usage", -3, flag::READONLY, acl::READ | acl::SLOW)
                .about("server", "4.0.0", "O(N)", "Tells how many bytes a key takes.")
                .keys(2, 2, 1, &[key("RO", 2, 0, 1)])
                .read(inspect::memory_usage),
        ]),
    command("move", 3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "1.0.0", "O(1)", "Moves a key to another database.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(generic::move_key),
    command("object", -2, 0, acl::SLOW)
        .about("generic", "2.2.3", "Depends on subcommand", "Looks at how a value is stored.")
        .subcommands(&[
            command("object|encoding", 3, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW)
                .about("generic", "2.2.3", "O(1)", "Tells how a value is encoded.")
                .keys(2, 2, 1, &[key("RO", 2, 0, 1)])
                .tips(&["nondeterministic_output"])
                .read(inspect::object_encoding),
            command("object|freq", 3, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW)
                .about("generic", "4.0.0", "O(1)", "Tells how often a key is used.")
                .keys(2, 2, 1, &[key("RO", 2, 0, 1)])
                .tips(&["nondeterministic_output"])
                .read(inspect::object_freq),
            command("object|help", 2, flag::LOADING | flag::STALE, acl::KEYSPACE | acl::SLOW)
                .about("generic", "6.2.0", "O(1)", "Lists the subcommands.")
                .read(inspect::object_help),
            command("object|idletime", 3, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW)
                .about("generic", "2.2.3", "O(1)", "Tells for how many seconds a key was not used.")
                .keys(2, 2, 1, &[key("RO", 2, 0, 1)])
                .tips(&["nondeterministic_output"])
                .read(inspect::object_idletime),
            command("object|refcount", 3, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW)
                .about("generic", "2.2.3", "O(1)", "Tells how many references a value has.")
                .keys(2, 2, 1, &[key("RO", 2, 0, 1)])
                .tips(&["nondeterministic_output"])
                .read(inspect::object_refcount),
        ]),
    command("persist", 2, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "2.2.0", "O(1)", "Takes a key's expiry away.")
        .keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
        .write(expire::persist),
    command("pexpire", -3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "2.6.0", "O(1)", "Lets a key live for so many milliseconds.")
        .keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
        .write(expire::pexpire),
    command("pexpireat", -3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "2.6.0", "O(1)", "Lets a key live until a time in milliseconds since 1970.")
        .keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
        .write(expire::pexpireat),
    command("pexpiretime", 2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "7.0.0", "O(1)", "Tells until when a key lives, in milliseconds since 1970.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(expire::pexpiretime),
    command("pttl", 2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "2.6.0", "O(1)", "Tells how many milliseconds a key has to live.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .tips(&["nondeterministic_output"])
        .read(expire::pttl),
    command("randomkey", 1, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW)
        .about("generic", "1.0.0", "O(1)", "Names a random key.")
        .tips(&["request_policy:all_shards", "nondeterministic_output"])
        .read(scan::randomkey),
    command("rename", 3, flag::WRITE, acl::KEYSPACE | acl::WRITE | acl::SLOW)
        .about("generic", "1.0.0", "O(1)", "Gives a key another name, replacing what had it.")
        .keys(1, 2, 1, &[key("RW access delete", 1, 0, 1), key("OW update", 2, 0, 1)])
        .write(generic::rename),
    command("renamenx", 3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about("generic", "1.0.0", "O(1)", "Gives a key another name if that is free.")
        .keys(1, 2, 1, &[key("RW access delete", 1, 0, 1), key("OW insert", 2, 0, 1)])
        .write(generic::renamenx),
    command("scan", -2, flag::READONLY, acl::KEYSPACE | acl::READ | acl::SLOW)
        .about("generic", "2.8.0", "O(1) for every call", "Walks the keys step by step.")
        .tips(&["nondeterministic_output", "request_policy:special"])
        .read(scan::scan),
    command("swapdb", 3, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST | acl::DANGEROUS)
        .about("server", "4.0.0", "O(N)", "Lets two databases change places.")
        .write(databases::swapdb),
    command("touch", -2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "3.2.1", "O(N)", "Counts which of the keys are there and marks them as used.")
        .keys(1, -1, 1, &[key("RO", 1, -1, 1)])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .read(generic::touch),
    command("ttl", 2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "1.0.0", "O(1)", "Tells how many seconds a key has to live.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .tips(&["nondeterministic_output"])
        .read(expire::ttl),
    command("type", 2, flag::READONLY | flag::FAST, acl::KEYSPACE | acl::READ | acl::FAST)
        .about("generic", "1.0.0", "O(1)", "Tells the type of a value.")
        .keys(1, 1, 1, &[key("RO", 1, 0, 1)])
        .read(generic::type_of),
    command("unlink", -2, flag::WRITE | flag::FAST, acl::KEYSPACE | acl::WRITE | acl::FAST)
        .about(
            "generic",
            "4.0.0",
            "O(1) for each key removed regardless of its size",
            "Removes keys; their memory is freed later.",
        )
        .keys(1, -1, 1, &[key("RM delete", 1, -1, 1)])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .write(generic::unlink),
];
