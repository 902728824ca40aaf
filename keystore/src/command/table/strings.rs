//! The table of commands about strings.

use super::{Command, acl, command, flag, key, noted_key};
use crate::command::{lcs, strings};

pub(super) static TABLE: &[Command] = &[
    command("append", 3, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "2.0.0", "O(1)", "Adds bytes to the end of a string.")
        .keys(1, 1, 1, &[key("RW insert", 1, 0, 1)])
        .write(strings::append),
    command("decr", 2, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Subtracts one from a number.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(strings::decr),
    command("decrby", 3, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Subtracts an integer from a number.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(strings::decrby),
    command("get", 2, flag::READONLY | flag::FAST, acl::READ | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Reads a string.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(strings::get),
    command("getdel", 2, flag::WRITE | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "6.2.0", "O(1)", "Reads a string and removes its key.")
        .keys(1, 1, 1, &[key("RW access delete", 1, 0, 1)])
        .write(strings::getdel),
    command("getex", -2, flag::WRITE | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "6.2.0", "O(1)", "Reads a string and sets or clears its expiry.")
        .keys(1, 1, 1, &[noted_key("RW access update", "RW and UPDATE because it changes the TTL", 1, 0, 1)])
        .write(strings::getex),
    command("getrange", 4, flag::READONLY, acl::READ | acl::STRING | acl::SLOW)
        .about("string", "2.4.0", "O(N)", "Reads a part of a string.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(strings::getrange),
    command("getset", 3, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Replaces a string and returns the old one.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(strings::getset),
    command("incr", 2, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Adds one to a number.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(strings::incr),
    command("incrby", 3, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Adds an integer to a number.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(strings::incrby),
    command("incrbyfloat", 3, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "2.6.0", "O(1)", "Adds a decimal fraction to a number.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(strings::incrbyfloat),
    command("lcs", -3, flag::READONLY, acl::READ | acl::STRING | acl::SLOW)
        .about("string", "7.0.0", "O(N*M)", "Finds the longest common subsequence of two strings.")
        .keys(1, 2, 1, &[key("RO access", 1, 1, 1)])
        .read(lcs::lcs),
    command("mget", -2, flag::READONLY | flag::FAST, acl::READ | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(N)", "Reads several strings.")
        .keys(1, -1, 1, &[key("RO access", 1, -1, 1)])
        .tips(&["request_policy:multi_shard"])
        .read(strings::mget),
    command("mset", -3, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::STRING | acl::SLOW)
        .about("string", "1.0.1", "O(N)", "Writes several strings.")
        .keys(1, -1, 2, &[key("OW update", 1, -1, 2)])
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"])
        .write(strings::mset),
    command("msetnx", -3, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::STRING | acl::SLOW)
        .about("string", "1.0.1", "O(N)", "Writes several strings if none of the keys is there.")
        .keys(1, -1, 2, &[key("OW insert", 1, -1, 2)])
        .tips(&["request_policy:multi_shard", "response_policy:agg_min"])
        .write(strings::msetnx),
    command("psetex", 4, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::STRING | acl::SLOW)
        .about("string", "2.6.0", "O(1)", "Writes a string with an expiry in milliseconds.")
        .keys(1, 1, 1, &[key("OW update", 1, 0, 1)])
        .write(strings::psetex),
    command("set", -3, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::STRING | acl::SLOW)
        .about("string", "1.0.0", "O(1)", "Writes a string, whatever the key held.")
        .keys(
            1,
            1,
            1,
            &[noted_key(
                "RW access update variable_flags",
                "RW and ACCESS due to the optional `GET` argument",
                1,
                0,
                1,
            )],
        )
        .write(strings::set),
    command("setex", 4, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::STRING | acl::SLOW)
        .about("string", "2.0.0", "O(1)", "Writes a string with an expiry in seconds.")
        .keys(1, 1, 1, &[key("OW update", 1, 0, 1)])
        .write(strings::setex),
    command("setnx", 3, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::STRING | acl::FAST)
        .about("string", "1.0.0", "O(1)", "Writes a string if the key is not there.")
        .keys(1, 1, 1, &[key("OW insert", 1, 0, 1)])
        .write(strings::setnx),
    command("setrange", 4, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::STRING | acl::SLOW)
        .about(
            "string",
            "2.2.0",
            "O(1), not counting the time taken to copy the new string in place",
            "Overwrites a part of a string.",
        )
        .keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
        .write(strings::setrange),
    command("strlen", 2, flag::READONLY | flag::FAST, acl::READ | acl::STRING | acl::FAST)
        .about("string", "2.2.0", "O(1)", "Tells the length of a string in bytes.")
        .keys(1, 1, 1, &[key("RO", 1, 0, 1)])
        .read(strings::strlen),
    command("substr", 4, flag::READONLY, acl::READ | acl::STRING | acl::SLOW)
        .about("string", "1.0.0", "O(N)", "Reads a part of a string; an old name of GETRANGE.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(strings::substr),
];
