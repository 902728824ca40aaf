//! The commands of random streams, by group. See `generate` for the language.

use super::Flavour;

/// Templates that are drawn with the same weight.
pub struct Group {
    /// Weight in the flavours `Data`, `Large`, `Expiry`, `Protocol`, `Transactions`.
    weights: [u32; 5],
    pub templates: &'static [&'static str],
}

impl Group {
    pub fn weight(&self, flavour: Flavour) -> u32 {
        self.weights[Flavour::ALL.iter().position(|known| *known == flavour).unwrap_or(0)]
    }
}

pub const GROUPS: &[Group] = &[
    Group { weights: [30, 30, 25, 20, 12], templates: STRINGS },
    Group { weights: [16, 16, 8, 5, 3], templates: BITS },
    Group { weights: [24, 24, 12, 8, 8], templates: HASHES },
    Group { weights: [16, 16, 10, 8, 6], templates: GENERIC },
    Group { weights: [3, 3, 0, 2, 1], templates: COUNTED },
    Group { weights: [8, 6, 20, 3, 3], templates: EXPIRY },
    Group { weights: [0, 0, 12, 0, 0], templates: SHORT_EXPIRY },
    Group { weights: [8, 5, 6, 5, 30], templates: TRANSACTIONS },
    Group { weights: [4, 2, 2, 12, 2], templates: CONNECTION },
    Group { weights: [1, 1, 0, 0, 1], templates: FLUSHES },
    Group { weights: [2, 0, 1, 1, 0], templates: SLOW },
    Group { weights: [2, 1, 1, 3, 2], templates: UNKNOWN },
];

const STRINGS: &[&str] = &[
    "SET <key> <value>",
    "SET <key> <value>",
    "SET <key> <value> [(NX|XX)] [GET] [(EX <seconds>|PX <milliseconds>|EXAT <unixtime>|PXAT <unixtime-ms>|KEEPTTL)]",
    "SET <key> <value> [(EX <seconds>|KEEPTTL)] [(nx|xx)] [get]",
    "SET <key> <value> {(NX|XX|GET|KEEPTTL|EX 100|PX 100000)}",
    "GET <key>",
    "GET <key>",
    "GETDEL <key>",
    "GETEX <key> [(EX <seconds>|PX <milliseconds>|EXAT <unixtime>|PXAT <unixtime-ms>|PERSIST)]",
    "GETEX <key> {(EX 100|PERSIST|PX 100000)}",
    "GETSET <key> <value>",
    "SETNX <key> <value>",
    "SETEX <key> <seconds> <value>",
    "PSETEX <key> <milliseconds> <value>",
    "MGET {<key>}",
    "MSET {<key> <value>}",
    "MSETNX {<key> <value>}",
    "APPEND <key> <value>",
    "STRLEN <key>",
    "SETRANGE <key> <offset> <value>",
    "SETRANGE <key> <integer> <value>",
    "GETRANGE <key> <index> <index>",
    "GETRANGE <key> <integer> <integer>",
    "SUBSTR <key> <index> <index>",
    "INCR <key>",
    "DECR <key>",
    "INCR counter",
    "INCRBY <key> <integer>",
    "DECRBY <key> <integer>",
    "INCRBY counter <integer>",
    "INCRBYFLOAT <key> <float>",
    "INCRBYFLOAT counter <float>",
    "SET counter <integer>",
    "SET counter <float>",
];

const BITS: &[&str] = &[
    "SETBIT <key> <offset> <bit>",
    "SETBIT bits <offset> (0|1)",
    "GETBIT <key> <offset>",
    "SETBIT <key> (-1|abc|4294967296|9223372036854775807) 1",
    "GETBIT <key> (-1|abc|4294967295|4294967296)",
    "BITCOUNT <key>",
    "BITCOUNT <key> <index> <index> [(BYTE|BIT|byte|bit|NIBBLE)]",
    "BITCOUNT <key> <integer>",
    "BITPOS <key> <bit>",
    "BITPOS <key> (0|1) <index> [<index> [(BYTE|BIT)]]",
    "BITPOS <key> (0|1) <index> <index> (BYTE|BIT)",
    "BITOP (AND|OR|XOR) <key> {<key>}",
    "BITOP NOT <key> <key>",
    "BITOP (NOT|and|nand) <key> {<key>}",
    "BITFIELD <key> {(GET <type> <bit-offset>|SET <type> <bit-offset> <integer>|INCRBY <type> <bit-offset> <integer>|OVERFLOW (WRAP|SAT|FAIL)|OVERFLOW WRAP|OVERFLOW SAT|OVERFLOW FAIL)}",
    "BITFIELD bits {(GET u8 <bit-offset>|SET i8 <bit-offset> <integer>|INCRBY u4 <bit-offset> <small>)}",
    "BITFIELD bits OVERFLOW SAT {INCRBY (u8|i8|i16|u63|i64) <bit-offset> <integer>}",
    "BITFIELD bits OVERFLOW FAIL {INCRBY (u8|i8|i16|u63|i64) <bit-offset> <integer>}",
    "BITFIELD <key>",
    "BITFIELD_RO <key> {GET <type> <bit-offset>}",
    "BITFIELD_RO <key> {(GET u8 0|SET u8 0 1)}",
];

const HASHES: &[&str] = &[
    "HSET <key> {<field> <value>}",
    "HSET h1 {<field> <value>}",
    "HSET h2 {<field> <value>}",
    "HSET h3 {<field> <value>} {<field> <value>} {<field> <value>} {<field> <value>} {<field> <value>} {<field> <value>}",
    "HMSET h1 {<field> <value>}",
    "HSETNX h1 <field> <value>",
    "HGET <key> <field>",
    "HGET h1 <field>",
    "HMGET h1 {<field>}",
    "HMGET <key> {<field>}",
    "HDEL h1 {<field>}",
    "HDEL <key> {<field>}",
    "HDEL h3 {<field>} {<field>}",
    "HEXISTS h1 <field>",
    "HLEN <key>",
    "HLEN h3",
    "HSTRLEN h1 <field>",
    "HKEYS <key>",
    "HVALS <key>",
    "HGETALL <key>",
    "HGETALL h1",
    "HINCRBY h1 <field> <integer>",
    "HINCRBY <key> <field> <integer>",
    "HINCRBYFLOAT h1 <field> <float>",
    "HINCRBYFLOAT <key> <field> <float>",
    "HRANDFIELD <key> [<small> [WITHVALUES]]",
    "HRANDFIELD h1 (0|1|3|100|-1|-3|-100|abc) [WITHVALUES]",
    "HSCAN <key> (0|abc|1x) [MATCH <pattern>] [COUNT (10000|0|-1|abc)]",
    "HSCAN h1 0 COUNT 10000",
];

const GENERIC: &[&str] = &[
    "DEL {<key>}",
    "UNLINK {<key>}",
    "EXISTS {<key>}",
    "TOUCH {<key>}",
    "TYPE <key>",
    "RENAME <key> <key>",
    "RENAMENX <key> <key>",
    "COPY <key> <key> [DB <db>] [REPLACE]",
    "COPY <key> <key> {(DB 1|REPLACE|FOO)}",
    "MOVE <key> <db>",
    "SWAPDB <db> <db>",
    "OBJECT ENCODING <key>",
    "OBJECT ENCODING <key>",
    "OBJECT (IDLETIME|REFCOUNT|FREQ|NOSUCH) <key>",
    "MEMORY USAGE <key> [SAMPLES (0|5|-1|abc)]",
    "SCAN (0|abc|-x|18446744073709551616) [MATCH <pattern>] [COUNT (100000|0|-1|abc)] [TYPE (string|hash|zset)]",
    "SCAN 0 COUNT 100000",
    "SELECT <db>",
    "SELECT 0",
    "TTL <key>",
    "PTTL <key>",
    "PERSIST <key>",
];

/// Replies that count or pick among all keys.
const COUNTED: &[&str] = &["DBSIZE", "RANDOMKEY", "KEYS <pattern>", "KEYS *"];

const EXPIRY: &[&str] = &[
    "EXPIRE <key> <seconds> [(NX|XX|GT|LT)]",
    "PEXPIRE <key> <milliseconds> [(NX|XX|GT|LT)]",
    "EXPIREAT <key> <unixtime> [(NX|XX|GT|LT)]",
    "PEXPIREAT <key> <unixtime-ms> [(NX|XX|GT|LT)]",
    "EXPIRE <key> <seconds> {(NX|XX|GT|LT|FOO)}",
    "TTL <key>",
    "PTTL <key>",
    "EXPIRETIME <key>",
    "PEXPIRETIME <key>",
    "PERSIST <key>",
];

const SHORT_EXPIRY: &[&str] = &[
    "SET <key> <value> PX (1|2|5)",
    "PEXPIRE <key> (1|2|5)",
    "PEXPIRE h1 1",
    "PSETEX <key> 1 <value>",
    "GETEX <key> PX 1",
];

const TRANSACTIONS: &[&str] = &[
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH {<key>}",
    "WATCH k1",
    "UNWATCH",
    "SET k1 <value>",
    "INCR k2",
    "GET",
    "NOSUCHCOMMAND",
];

const CONNECTION: &[&str] = &[
    "PING [<word>]",
    "ECHO <value>",
    "SELECT <db>",
    "HELLO (2|3|3|4|abc)",
    "HELLO 3 SETNAME <name>",
    "HELLO 3 AUTH (default|nobody) <word>",
    "HELLO (2|3) {(AUTH default x|SETNAME me|FOO)}",
    "HELLO",
    "AUTH <word>",
    "AUTH (default|nobody) <word>",
    "CLIENT SETNAME <name>",
    "CLIENT GETNAME",
    "CLIENT ID",
    "CLIENT INFO",
    "CLIENT NO-EVICT (ON|OFF|abc)",
    "CLIENT SETINFO LIB-NAME x",
    "CLIENT UNBLOCK (999999|abc) [(TIMEOUT|ERROR|FOO)]",
    "CLIENT KILL (ID 999999|TYPE nosuch|FOO bar|127.0.0.1:1)",
    "CLIENT GETREDIR",
    "CLIENT <word>",
    "RESET",
    "QUIT",
];

const FLUSHES: &[&str] = &["FLUSHDB [(ASYNC|SYNC|FOO)]", "FLUSHALL [(ASYNC|SYNC|FOO)]"];

/// Commands whose cost grows with the product of two lengths.
const SLOW: &[&str] = &[
    "LCS <key> <key> [LEN]",
    "LCS <key> <key> [IDX] [MINMATCHLEN <small>] [WITHMATCHLEN]",
    "LCS k1 k2 {(LEN|IDX|FOO)}",
];

const UNKNOWN: &[&str] = &[
    "NOSUCHCOMMAND {<word>}",
    "GETT <key>",
    "OBJECT <word>",
    "CONFIG GET (databases|nosuch|proto-max-bulk-len)",
    "CONFIG <word>",
    "COMMAND GETKEYS (GET k1|SET k1 v|MSET a 1 b 2|PING|NOSUCH a|BITOP AND d a b|GET)",
    "WAIT 0 0",
    "WAIT (abc|-1) (0|-1|abc)",
    "TIME",
];
