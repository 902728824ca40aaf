//! SUBSCRIBE and its kin, PUBLISH, SPUBLISH, PUBSUB.
//!
//! What a subscriber is told stands outside the row of replies: CLIENT REPLY OFF does not silence it. Who publishes to a
//! channel that it subscribes to itself reads the message before the number of receivers, also inside an EXEC, as in Redis
//! 7.0.

use farkeep_keystore::command::Command;
use farkeep_proto::glob;
use farkeep_proto::resp::Encoder;

use super::subcommand::{self, Subcommand};
use super::{Call, Flow};
use crate::pubsub::Topic;
use crate::worker::connection::ReplyMode;

/// In the order of the help text.
pub const SUBCOMMANDS: &[Subcommand] = &[
    ("channels", |call, argv| list(call, Topic::Channel, argv)),
    ("numpat", numpat),
    ("numsub", |call, argv| count(call, Topic::Channel, argv)),
    ("shardchannels", |call, argv| list(call, Topic::Shard, argv)),
    ("shardnumsub", |call, argv| count(call, Topic::Shard, argv)),
    ("help", help),
];

/// Why a connection that subscribes to something may not send this command, if it may not. In RESP2 it cannot tell replies
/// from messages, so there may be none but those about its subscriptions.
pub fn refusal(call: &Call<'_>, command: &Command) -> Option<String> {
    const ALLOWED: [&str; 9] = [
        "ping",
        "subscribe",
        "ssubscribe",
        "unsubscribe",
        "sunsubscribe",
        "psubscribe",
        "punsubscribe",
        "quit",
        "reset",
    ];
    let restricted = !call.session.resp3 && call.session.client.subscribes();
    (restricted && !ALLOWED.contains(&command.name)).then(|| {
        let code =
            if command.name == "exec" { "EXECABORT Transaction discarded because of:" } else { "ERR" };
        format!(
            "{code} Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed \
             in this context",
            command.name
        )
    })
}

/// SUBSCRIBE channel [channel ...]
pub fn subscribe(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    begin(call, Topic::Channel, "subscribe", argv)
}

/// PSUBSCRIBE pattern [pattern ...]
pub fn psubscribe(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    begin(call, Topic::Pattern, "psubscribe", argv)
}

/// SSUBSCRIBE shardchannel [shardchannel ...]
pub fn ssubscribe(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    if call.session.in_exec {
        call.error("ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client");
        return Flow::Continue;
    }
    begin(call, Topic::Shard, "ssubscribe", argv)
}

/// UNSUBSCRIBE [channel ...]
pub fn unsubscribe(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    end(call, Topic::Channel, "unsubscribe", argv)
}

/// PUNSUBSCRIBE [pattern ...]
pub fn punsubscribe(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    end(call, Topic::Pattern, "punsubscribe", argv)
}

/// SUNSUBSCRIBE [shardchannel ...]
pub fn sunsubscribe(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    end(call, Topic::Shard, "sunsubscribe", argv)
}

fn begin(call: &mut Call<'_>, topic: Topic, word: &str, argv: &[&[u8]]) -> Flow {
    for name in &argv[1..] {
        call.engine.pubsub.subscribe(&call.session.client, topic, name);
        confirm(call, topic, word, Some(name));
    }
    Flow::Continue
}

fn end(call: &mut Call<'_>, topic: Topic, word: &str, argv: &[&[u8]]) -> Flow {
    if argv.len() > 1 {
        for name in &argv[1..] {
            call.engine.pubsub.unsubscribe(&call.session.client, topic, name);
            confirm(call, topic, word, Some(name));
        }
        return Flow::Continue;
    }
    let names = call.engine.pubsub.names_of(&call.session.client, topic);
    for name in &names {
        call.engine.pubsub.unsubscribe(&call.session.client, topic, name);
        confirm(call, topic, word, Some(name));
    }
    if names.is_empty() {
        confirm(call, topic, word, None);
    }
    Flow::Continue
}

fn confirm(call: &mut Call<'_>, topic: Topic, word: &str, name: Option<&[u8]>) {
    let client = &call.session.client;
    let count = match topic {
        Topic::Shard => client.subscribed(Topic::Shard),
        Topic::Channel | Topic::Pattern => {
            client.subscribed(Topic::Channel) + client.subscribed(Topic::Pattern)
        }
    };
    tell(call, |out| {
        out.push(3);
        out.bulk(word.as_bytes());
        match name {
            Some(name) => out.bulk(name),
            None => out.null(),
        }
        out.int(i64::from(count));
    });
}

/// Writes what is no reply, and so is wanted also by who wants no replies.
fn tell(call: &mut Call<'_>, write: impl FnOnce(&mut Encoder<'_>)) {
    let start = call.out.len();
    write(&mut call.reply());
    if call.session.reply_mode != ReplyMode::On {
        call.session.pushed.extend_from_slice(&call.out[start..]);
    }
}

/// PUBLISH channel message
pub fn publish(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    send(call, false, argv)
}

/// SPUBLISH shardchannel message
pub fn spublish(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    send(call, true, argv)
}

fn send(call: &mut Call<'_>, sharded: bool, argv: &[&[u8]]) -> Flow {
    // It may speak of what this client has written before.
    let message = call.engine.message(sharded, argv[1], argv[2], call.session.last_write);
    let receivers = call.engine.publish(&message, Some(call.session.client.id));
    for pattern in &receivers.own {
        tell(call, |out| message.push(pattern.as_deref(), out));
    }
    call.reply().int(receivers.count as i64);
    Flow::Continue
}

/// PUBSUB subcommand …
pub fn pubsub(call: &mut Call<'_>, argv: &[&[u8]]) -> Flow {
    subcommand::run(call, "pubsub", SUBCOMMANDS, argv)
}

fn list(call: &mut Call<'_>, topic: Topic, argv: &[&[u8]]) -> Flow {
    let pattern = match argv {
        [_, _] => None,
        [_, _, pattern] => Some(*pattern),
        _ => {
            subcommand::syntax_error(call, "pubsub", argv[1]);
            return Flow::Continue;
        }
    };
    let mut reply = Encoder::new(call.out, call.session.resp3);
    let mark = reply.mark();
    let mut count = 0;
    for name in call.engine.pubsub.active(topic) {
        if pattern.is_none_or(|pattern| glob::matches(pattern, name)) {
            reply.bulk(name);
            count += 1;
        }
    }
    reply.array_at(mark, count);
    Flow::Continue
}

fn count(call: &mut Call<'_>, topic: Topic, argv: &[&[u8]]) -> Flow {
    let mut reply = Encoder::new(call.out, call.session.resp3);
    reply.array((argv.len() - 2) * 2);
    for name in &argv[2..] {
        reply.bulk(name);
        reply.int(call.engine.pubsub.subscribers(topic, name) as i64);
    }
    Flow::Continue
}

fn numpat(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    let count = call.engine.pubsub.len(Topic::Pattern) as i64;
    call.reply().int(count);
    Flow::Continue
}

fn help(call: &mut Call<'_>, _argv: &[&[u8]]) -> Flow {
    const HELP: &[&str] = &[
        "CHANNELS [<pattern>]",
        "    Return the currently active channels matching a <pattern> (default: '*').",
        "NUMPAT",
        "    Return number of subscriptions to patterns.",
        "NUMSUB [<channel> ...]",
        "    Return the number of subscribers for the specified channels, excluding",
        "    pattern subscriptions(default: no channels).",
        "SHARDCHANNELS [<pattern>]",
        "    Return the currently active shard level channels matching a <pattern> (default: '*').",
        "SHARDNUMSUB [<shardchannel> ...]",
        "    Return the number of subscribers for the specified shard level channel(s)",
    ];
    subcommand::help(call, "PUBSUB", HELP);
    Flow::Continue
}
