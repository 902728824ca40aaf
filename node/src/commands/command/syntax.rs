//! The syntax of commands, as `COMMAND DOCS` describes it: tools show it as a hint while one types.
//!
//! A row is written in a small notation and read when somebody asks. An argument is `name:type`, then, where it has
//! them, `#` and the number of its key specification, `=` and the word that introduces it, `@` and the version that had
//! it first, `~` and the version that deprecated it, `?` if it may be missing, `*` if it may be repeated, `!` if its
//! word is repeated with it, and its parts in parentheses.

use farkeep_proto::resp::Encoder;

/// Rows are sorted by name.
static SYNTAX: &[(&str, &str)] = &[
    ("append", "key:key#0 value:string"),
    ("auth", "username:string@6.0.0? password:string"),
    (
        "bitcount",
        "key:key#0 index:block?(start:integer end:integer index_unit:oneof@7.0.0?(byte:pure-token=BYTE bit:pure-token=BIT))",
    ),
    (
        "bitfield",
        "key:key#0 operation:oneof?*(encoding_offset:block=GET(encoding:string offset:integer) write:block(wrap_sat_fail:oneof=OVERFLOW?(wrap:pure-token=WRAP sat:pure-token=SAT fail:pure-token=FAIL) write_operation:oneof(encoding_offset_value:block=SET(encoding:string offset:integer value:integer) encoding_offset_increment:block=INCRBY(encoding:string offset:integer increment:integer))))",
    ),
    ("bitfield_ro", "key:key#0 encoding_offset:block=GET?*!(encoding:string offset:integer)"),
    ("bitop", "operation:string destkey:key#0 key:key#1*"),
    (
        "bitpos",
        "key:key#0 bit:integer index:block?(start:integer end_index:block?(end:integer index_unit:oneof@7.0.0?(byte:pure-token=BYTE bit:pure-token=BIT)))",
    ),
    ("client|caching", "mode:oneof(yes:pure-token=YES no:pure-token=NO)"),
    (
        "client|kill",
        "filter:oneof(ip:port:string~2.8.12 new-format:oneof*(client-id:integer=ID@2.8.12? normal_master_slave_pubsub:oneof=TYPE@2.8.12?(normal:pure-token=NORMAL master:pure-token=MASTER@3.2.0 slave:pure-token=SLAVE replica:pure-token=REPLICA@5.0.0 pubsub:pure-token=PUBSUB) username:string=USER? ip:port:string=ADDR? ip:port:string=LADDR@6.2.0? yes/no:string=SKIPME?))",
    ),
    (
        "client|list",
        "normal_master_replica_pubsub:oneof=TYPE@5.0.0?(normal:pure-token=NORMAL master:pure-token=MASTER replica:pure-token=REPLICA pubsub:pure-token=PUBSUB) id:block=ID@6.2.0?(client-id:integer*)",
    ),
    ("client|no-evict", "enabled:oneof(on:pure-token=ON off:pure-token=OFF)"),
    ("client|pause", "timeout:integer mode:oneof@6.2.0?(write:pure-token=WRITE all:pure-token=ALL)"),
    ("client|reply", "on_off_skip:oneof(on:pure-token=ON off:pure-token=OFF skip:pure-token=SKIP)"),
    ("client|setname", "connection-name:string"),
    (
        "client|tracking",
        "status:oneof(on:pure-token=ON off:pure-token=OFF) client-id:integer=REDIRECT? prefix:string=PREFIX?*! bcast:pure-token=BCAST? optin:pure-token=OPTIN? optout:pure-token=OPTOUT? noloop:pure-token=NOLOOP?",
    ),
    (
        "client|unblock",
        "client-id:integer timeout_error:oneof?(timeout:pure-token=TIMEOUT error:pure-token=ERROR)",
    ),
    ("command|docs", "command-name:string?*"),
    ("command|info", "command-name:string?*"),
    (
        "command|list",
        "filterby:oneof=FILTERBY?(module-name:string=MODULE category:string=ACLCAT pattern:pattern=PATTERN)",
    ),
    ("config|get", "parameter:block*(parameter:string)"),
    ("config|set", "parameter_value:block*(parameter:string value:string)"),
    ("copy", "source:key#0 destination:key#1 destination-db:integer=DB? replace:pure-token=REPLACE?"),
    ("decr", "key:key#0"),
    ("decrby", "key:key#0 decrement:integer"),
    ("del", "key:key#0*"),
    ("echo", "message:string"),
    ("exists", "key:key#0*"),
    (
        "expire",
        "key:key#0 seconds:integer condition:oneof@7.0.0?(nx:pure-token=NX xx:pure-token=XX gt:pure-token=GT lt:pure-token=LT)",
    ),
    (
        "expireat",
        "key:key#0 unix-time-seconds:unix-time condition:oneof@7.0.0?(nx:pure-token=NX xx:pure-token=XX gt:pure-token=GT lt:pure-token=LT)",
    ),
    ("expiretime", "key:key#0"),
    (
        "failover",
        "target:block=TO?(host:string port:integer force:pure-token=FORCE?) abort:pure-token=ABORT? milliseconds:integer=TIMEOUT?",
    ),
    ("flushall", "async:oneof?(async:pure-token=ASYNC@4.0.0 sync:pure-token=SYNC@6.2.0)"),
    ("flushdb", "async:oneof?(async:pure-token=ASYNC@4.0.0 sync:pure-token=SYNC@6.2.0)"),
    ("get", "key:key#0"),
    ("getbit", "key:key#0 offset:integer"),
    ("getdel", "key:key#0"),
    (
        "getex",
        "key:key#0 expiration:oneof?(seconds:integer=EX milliseconds:integer=PX unix-time-seconds:unix-time=EXAT unix-time-milliseconds:unix-time=PXAT persist:pure-token=PERSIST)",
    ),
    ("getrange", "key:key#0 start:integer end:integer"),
    ("getset", "key:key#0 value:string"),
    ("hdel", "key:key#0 field:string*"),
    (
        "hello",
        "arguments:block?(protover:integer username_password:block=AUTH?(username:string password:string) clientname:string=SETNAME?)",
    ),
    ("hexists", "key:key#0 field:string"),
    ("hget", "key:key#0 field:string"),
    ("hgetall", "key:key#0"),
    ("hincrby", "key:key#0 field:string increment:integer"),
    ("hincrbyfloat", "key:key#0 field:string increment:double"),
    ("hkeys", "key:key#0"),
    ("hlen", "key:key#0"),
    ("hmget", "key:key#0 field:string*"),
    ("hmset", "key:key#0 field_value:block*(field:string value:string)"),
    ("hrandfield", "key:key#0 options:block?(count:integer withvalues:pure-token=WITHVALUES?)"),
    ("hscan", "key:key#0 cursor:integer pattern:pattern=MATCH? count:integer=COUNT?"),
    ("hset", "key:key#0 field_value:block*(field:string value:string)"),
    ("hsetnx", "key:key#0 field:string value:string"),
    ("hstrlen", "key:key#0 field:string"),
    ("hvals", "key:key#0"),
    ("incr", "key:key#0"),
    ("incrby", "key:key#0 increment:integer"),
    ("incrbyfloat", "key:key#0 increment:double"),
    ("info", "section:string?*"),
    ("keys", "pattern:pattern"),
    (
        "lcs",
        "key1:key#0 key2:key#0 len:pure-token=LEN? idx:pure-token=IDX? len:integer=MINMATCHLEN? withmatchlen:pure-token=WITHMATCHLEN?",
    ),
    ("memory|usage", "key:key#0 count:integer=SAMPLES?"),
    ("mget", "key:key#0*"),
    ("move", "key:key#0 db:integer"),
    ("mset", "key_value:block*(key:key#0 value:string)"),
    ("msetnx", "key_value:block*(key:key#0 value:string)"),
    ("object|encoding", "key:key#0"),
    ("object|freq", "key:key#0"),
    ("object|idletime", "key:key#0"),
    ("object|refcount", "key:key#0"),
    ("persist", "key:key#0"),
    (
        "pexpire",
        "key:key#0 milliseconds:integer condition:oneof@7.0.0?(nx:pure-token=NX xx:pure-token=XX gt:pure-token=GT lt:pure-token=LT)",
    ),
    (
        "pexpireat",
        "key:key#0 unix-time-milliseconds:unix-time condition:oneof@7.0.0?(nx:pure-token=NX xx:pure-token=XX gt:pure-token=GT lt:pure-token=LT)",
    ),
    ("pexpiretime", "key:key#0"),
    ("ping", "message:string?"),
    ("psetex", "key:key#0 milliseconds:integer value:string"),
    ("psubscribe", "pattern:block*(pattern:pattern)"),
    ("pttl", "key:key#0"),
    ("publish", "channel:string message:string"),
    ("pubsub|channels", "pattern:pattern?"),
    ("pubsub|numsub", "channel:string?*"),
    ("pubsub|shardchannels", "pattern:pattern?"),
    ("pubsub|shardnumsub", "shardchannel:string?*"),
    ("punsubscribe", "pattern:pattern?*"),
    ("rename", "key:key#0 newkey:key#1"),
    ("renamenx", "key:key#0 newkey:key#1"),
    (
        "replicaof",
        "args:oneof(host-port:block(host:string port:integer) no-one:block(no:pure-token=NO one:pure-token=ONE))",
    ),
    ("scan", "cursor:integer pattern:pattern=MATCH? count:integer=COUNT? type:string=TYPE@6.0.0?"),
    ("select", "index:integer"),
    (
        "set",
        "key:key#0 value:string condition:oneof@2.6.12?(nx:pure-token=NX xx:pure-token=XX) get:pure-token=GET@6.2.0? expiration:oneof?(seconds:integer=EX@2.6.12 milliseconds:integer=PX@2.6.12 unix-time-seconds:unix-time=EXAT@6.2.0 unix-time-milliseconds:unix-time=PXAT@6.2.0 keepttl:pure-token=KEEPTTL@6.0.0)",
    ),
    ("setbit", "key:key#0 offset:integer value:integer"),
    ("setex", "key:key#0 seconds:integer value:string"),
    ("setnx", "key:key#0 value:string"),
    ("setrange", "key:key#0 offset:integer value:string"),
    (
        "shutdown",
        "nosave_save:oneof?(nosave:pure-token=NOSAVE save:pure-token=SAVE) now:pure-token=NOW@7.0.0? force:pure-token=FORCE@7.0.0? abort:pure-token=ABORT@7.0.0?",
    ),
    (
        "slaveof",
        "args:oneof(host-port:block(host:string port:integer) no-one:block(no:pure-token=NO one:pure-token=ONE))",
    ),
    ("spublish", "shardchannel:string message:string"),
    ("ssubscribe", "shardchannel:string*"),
    ("strlen", "key:key#0"),
    ("subscribe", "channel:string*"),
    ("substr", "key:key#0 start:integer end:integer"),
    ("sunsubscribe", "shardchannel:string?*"),
    ("swapdb", "index1:integer index2:integer"),
    ("touch", "key:key#0*"),
    ("ttl", "key:key#0"),
    ("type", "key:key#0"),
    ("unlink", "key:key#0*"),
    ("unsubscribe", "channel:string?*"),
    ("wait", "numreplicas:integer timeout:integer"),
    ("waitaof", "numlocal:integer numreplicas:integer timeout:integer"),
    ("watch", "key:key#0*"),
];

/// Writes the key `arguments` and its value, if the command has any.
pub(super) fn push(name: &str, out: &mut Encoder<'_>) {
    if let Some(text) = of(name) {
        out.bulk(b"arguments");
        push_arguments(text, out);
    }
}

/// Whether there is a syntax to tell.
pub(super) fn of(name: &str) -> Option<&'static str> {
    SYNTAX.binary_search_by_key(&name, |(name, _)| name).ok().map(|at| SYNTAX[at].1)
}

fn push_arguments(text: &str, out: &mut Encoder<'_>) {
    let mark = out.mark();
    let mut count = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = end_of_argument(rest);
        push_argument(&rest[..end], out);
        count += 1;
        rest = rest[end..].trim_start();
    }
    out.array_at(mark, count);
}

/// Where the first argument ends: at the first space outside of parentheses.
fn end_of_argument(text: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b' ' if depth == 0 => return at,
            _ => {}
        }
    }
    text.len()
}

fn push_argument(text: &str, out: &mut Encoder<'_>) {
    let (head, parts) = match text.split_once('(') {
        Some((head, parts)) => (head, parts.strip_suffix(')')),
        None => (text, None),
    };
    // A name may contain a colon (`ip:port`), what follows it does not.
    let (name, rest) = head.rsplit_once(':').unwrap_or((head, ""));
    let is_sign = |c: char| "#=@~?*!".contains(c);
    let (kind, mut rest) = rest.split_at(rest.find(is_sign).unwrap_or(rest.len()));
    let mut fields: Vec<(&str, &str)> = vec![("name", name), ("type", kind)];
    let mut flags = Vec::new();
    while let Some(sign) = rest.chars().next() {
        let (value, next) = rest[1..].split_at(rest[1..].find(is_sign).unwrap_or(rest.len() - 1));
        rest = next;
        match sign {
            '#' => fields.push(("key_spec_index", value)),
            '=' => fields.push(("token", value)),
            '@' => fields.push(("since", value)),
            '~' => fields.push(("deprecated_since", value)),
            '?' => flags.push("optional"),
            '*' => flags.push("multiple"),
            _ => flags.push("multiple_token"),
        }
    }
    out.map(fields.len() + usize::from(!flags.is_empty()) + usize::from(parts.is_some()));
    for (field, value) in fields {
        out.bulk(field.as_bytes());
        match value.parse() {
            Ok(number) if field == "key_spec_index" => out.int(number),
            _ => out.bulk(value.as_bytes()),
        }
    }
    if !flags.is_empty() {
        out.bulk(b"flags");
        out.set(flags.len());
        flags.iter().for_each(|flag| out.simple(flag));
    }
    if let Some(parts) = parts {
        out.bulk(b"arguments");
        push_arguments(parts, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted() {
        assert!(SYNTAX.is_sorted_by_key(|(name, _)| name));
    }

    #[test]
    fn notation_is_written_out_in_full() {
        let mut out = Vec::new();
        push_arguments(
            "ip:port:string=ADDR@6.2.0? k:key#0* c:oneof(a:pure-token=A b:integer)",
            &mut Encoder::new(&mut out, false),
        );
        let reply = farkeep_proto::resp::client::decode_reply(&out).unwrap().unwrap().0;
        let text = format!("{reply:?}").replace(' ', "");
        assert_eq!(
            text,
            r#"[["name","ip:port","type","string","token","ADDR","since","6.2.0","flags",[+optional]],"#
                .to_owned()
                + r#"["name","k","type","key","key_spec_index",:0,"flags",[+multiple]],"#
                + r#"["name","c","type","oneof","arguments",[["name","a","type","pure-token","token","A"],["name","b","type","integer"]]]]"#
        );
    }
}
