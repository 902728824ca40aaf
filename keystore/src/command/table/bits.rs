//! The table of commands about bit commands.

use super::{Command, acl, command, flag, key, noted_key};
use crate::command::{bitfield, bits};

pub(super) static TABLE: &[Command] = &[
    command("bitcount", -2, flag::READONLY, acl::READ | acl::BITMAP | acl::SLOW)
        .about("bitmap", "2.6.0", "O(N)", "Counts the bits that are set.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(bits::bitcount),
    command("bitfield", -2, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::BITMAP | acl::SLOW)
        .about(
            "bitmap",
            "3.2.0",
            "O(1) for each subcommand specified",
            "Reads and writes integers of any width inside a string.",
        )
        .keys(
            1,
            1,
            1,
            &[noted_key(
                "RW access update variable_flags",
                "This command allows both access and modification of the key",
                1,
                0,
                1,
            )],
        )
        .write(bitfield::bitfield),
    command("bitfield_ro", -2, flag::READONLY | flag::FAST, acl::READ | acl::BITMAP | acl::FAST)
        .about(
            "bitmap",
            "6.0.0",
            "O(1) for each subcommand specified",
            "Reads integers of any width inside a string.",
        )
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(bitfield::bitfield_ro),
    command("bitop", -4, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::BITMAP | acl::SLOW)
        .about("bitmap", "2.6.0", "O(N)", "Combines strings bit by bit into another.")
        .keys(2, -1, 1, &[key("OW update", 2, 0, 1), key("RO access", 3, -1, 1)])
        .write(bits::bitop),
    command("bitpos", -3, flag::READONLY, acl::READ | acl::BITMAP | acl::SLOW)
        .about("bitmap", "2.8.7", "O(N)", "Finds the first bit that is set or clear.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(bits::bitpos),
    command("getbit", 3, flag::READONLY | flag::FAST, acl::READ | acl::BITMAP | acl::FAST)
        .about("bitmap", "2.2.0", "O(1)", "Reads one bit of a string.")
        .keys(1, 1, 1, &[key("RO access", 1, 0, 1)])
        .read(bits::getbit),
    command("setbit", 4, flag::WRITE | flag::DENYOOM, acl::WRITE | acl::BITMAP | acl::SLOW)
        .about("bitmap", "2.2.0", "O(1)", "Writes one bit of a string.")
        .keys(1, 1, 1, &[key("RW access update", 1, 0, 1)])
        .write(bits::setbit),
];
