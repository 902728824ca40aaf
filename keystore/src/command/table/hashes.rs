//! The table of commands about hashes.

use super::{Command, acl, command, flag, key};
use crate::command::hashes;

pub(super) static TABLE: &[Command] = &[
command("hdel", -3, flag::WRITE | flag::FAST, acl::WRITE | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(N)", "Removes fields.")
.keys(1, 1, 1, &[key("RW delete", 1, 0, 1)])
.write(hashes::hdel)
,
command("hexists", 3, flag::READONLY | flag::FAST, acl::READ | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(1)", "Tells whether a field is there.")
.keys(1, 1, 1, &[key("RO", 1, 0, 1)])
.read(hashes::hexists)
,
command("hget", 3, flag::READONLY | flag::FAST, acl::READ | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(1)", "Reads the value of a field.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.read(hashes::hget)
,
command("hgetall", 2, flag::READONLY, acl::READ | acl::HASH | acl::SLOW)
.about("hash", "2.0.0", "O(N)", "Reads all fields and values.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.tips(&["nondeterministic_output_order"])
.read(hashes::hgetall)
,
command("hincrby", 4, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(1)", "Adds an integer to the number in a field.")
.keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
.write(hashes::hincrby)
,
command("hincrbyfloat", 4, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::HASH | acl::FAST)
.about("hash", "2.6.0", "O(1)", "Adds a decimal fraction to the number in a field.")
.keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
.write(hashes::hincrbyfloat)
,
command("hkeys", 2, flag::READONLY, acl::READ | acl::HASH | acl::SLOW)
.about("hash", "2.0.0", "O(N)", "Lists the fields.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.tips(&["nondeterministic_output_order"])
.read(hashes::hkeys)
,
command("hlen", 2, flag::READONLY | flag::FAST, acl::READ | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(1)", "Counts the fields.")
.keys(1, 1, 1, &[key("RO", 1, 0, 1)])
.read(hashes::hlen)
,
command("hmget", -3, flag::READONLY | flag::FAST, acl::READ | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(N)", "Reads the values of several fields.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.read(hashes::hmget)
,
command("hmset", -4, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(N)", "Writes several fields; an old form of HSET.")
.keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
.write(hashes::hmset)
,
command("hrandfield", -2, flag::READONLY, acl::READ | acl::HASH | acl::SLOW)
.about("hash", "6.2.0", "O(N)", "Picks fields at random.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.tips(&["nondeterministic_output"])
.read(hashes::hrandfield)
,
command("hscan", -3, flag::READONLY, acl::READ | acl::HASH | acl::SLOW)
.about("hash", "2.8.0", "O(1) for every call", "Walks the fields and values step by step.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.tips(&["nondeterministic_output"])
.read(hashes::hscan)
,
command("hset", -4, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(1) for each field/value pair added, so O(N) to add N field/value pairs when the command is called", "Writes fields.")
.keys(1, 1, 1, &[key("RW update", 1, 0, 1)])
.write(hashes::hset)
,
command("hsetnx", 4, flag::WRITE | flag::DENYOOM | flag::FAST, acl::WRITE | acl::HASH | acl::FAST)
.about("hash", "2.0.0", "O(1)", "Writes a field if it is not there.")
.keys(1, 1, 1, &[key("RW insert", 1, 0, 1)])
.write(hashes::hsetnx)
,
command("hstrlen", 3, flag::READONLY | flag::FAST, acl::READ | acl::HASH | acl::FAST)
.about("hash", "3.2.0", "O(1)", "Tells the length of a field's value in bytes.")
.keys(1, 1, 1, &[key("RO", 1, 0, 1)])
.read(hashes::hstrlen)
,
command("hvals", 2, flag::READONLY, acl::READ | acl::HASH | acl::SLOW)
.about("hash", "2.0.0", "O(N)", "Lists the values.")
.keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
.tips(&["nondeterministic_output_order"])
.read(hashes::hvals)

];
