//! The table of commands about messages: publish and subscribe. The node carries them all out.

use super::{Command, KeySpec, acl, command, flag};

/// What a command that changes a connection's subscriptions may do, and when.
const SUBSCRIBES: u32 = flag::PUBSUB | flag::NOSCRIPT | flag::LOADING | flag::STALE;
/// What a command that publishes may do, and when.
const PUBLISHES: u32 = flag::PUBSUB | flag::LOADING | flag::STALE | flag::FAST;
/// What a command that asks who subscribes may do, and when.
const ASKS: u32 = flag::PUBSUB | flag::LOADING | flag::STALE;

/// Shard channels are placed like keys and are none.
const SHARD_CHANNELS: &[KeySpec] = &[super::key("not_key", 1, -1, 1)];
const SHARD_CHANNEL: &[KeySpec] = &[super::key("not_key", 1, 0, 1)];

pub(super) static TABLE: &[Command] = &[
    command("psubscribe", -2, SUBSCRIBES, acl::PUBSUB | acl::SLOW).about(
        "pubsub",
        "2.0.0",
        "O(N) where N is the number of patterns the client is already subscribed to.",
        "Subscribes to all channels that match a pattern.",
    ),
    command("publish", 3, PUBLISHES, acl::PUBSUB | acl::FAST).about(
        "pubsub",
        "2.0.0",
        "O(N+M) where N is the number of clients subscribed to the receiving channel and M is the total number of subscribed patterns (by any client).",
        "Sends a message to those who subscribe to a channel.",
    ),
    command("pubsub", -2, 0, acl::SLOW)
        .about("pubsub", "2.8.0", "Depends on subcommand.", "Tells who subscribes to what.")
        .subcommands(&[
            command("pubsub|channels", -2, ASKS, acl::PUBSUB | acl::SLOW).about(
                "pubsub",
                "2.8.0",
                "O(N) where N is the number of active channels, and assuming constant time pattern matching (relatively short channels and patterns)",
                "Lists the channels that somebody subscribes to.",
            ),
            command("pubsub|help", 2, flag::LOADING | flag::STALE, acl::SLOW).about(
                "pubsub",
                "6.2.0",
                "O(1)",
                "Lists the subcommands.",
            ),
            command("pubsub|numpat", 2, ASKS, acl::PUBSUB | acl::SLOW).about(
                "pubsub",
                "2.8.0",
                "O(1)",
                "Counts the patterns that somebody subscribes to.",
            ),
            command("pubsub|numsub", -2, ASKS, acl::PUBSUB | acl::SLOW).about(
                "pubsub",
                "2.8.0",
                "O(N) for the NUMSUB subcommand, where N is the number of requested channels",
                "Counts the subscribers of channels.",
            ),
            command("pubsub|shardchannels", -2, ASKS, acl::PUBSUB | acl::SLOW).about(
                "pubsub",
                "7.0.0",
                "O(N) where N is the number of active shard channels, and assuming constant time pattern matching (relatively short shard channels).",
                "Lists the shard channels that somebody subscribes to.",
            ),
            command("pubsub|shardnumsub", -2, ASKS, acl::PUBSUB | acl::SLOW).about(
                "pubsub",
                "7.0.0",
                "O(N) for the SHARDNUMSUB subcommand, where N is the number of requested shard channels",
                "Counts the subscribers of shard channels.",
            ),
        ]),
    command("punsubscribe", -1, SUBSCRIBES, acl::PUBSUB | acl::SLOW).about(
        "pubsub",
        "2.0.0",
        "O(N+M) where N is the number of patterns the client is already subscribed and M is the number of total patterns subscribed in the system (by any client).",
        "Ends subscriptions to patterns.",
    ),
    command("spublish", 3, PUBLISHES, acl::PUBSUB | acl::FAST)
        .about(
            "pubsub",
            "7.0.0",
            "O(N) where N is the number of clients subscribed to the receiving shard channel.",
            "Sends a message to those who subscribe to a shard channel.",
        )
        .keys(1, 1, 1, SHARD_CHANNEL),
    command("ssubscribe", -2, SUBSCRIBES, acl::PUBSUB | acl::SLOW)
        .about(
            "pubsub",
            "7.0.0",
            "O(N) where N is the number of shard channels to subscribe to.",
            "Subscribes to shard channels.",
        )
        .keys(1, -1, 1, SHARD_CHANNELS),
    command("subscribe", -2, SUBSCRIBES, acl::PUBSUB | acl::SLOW).about(
        "pubsub",
        "2.0.0",
        "O(N) where N is the number of channels to subscribe to.",
        "Subscribes to channels.",
    ),
    command("sunsubscribe", -1, SUBSCRIBES, acl::PUBSUB | acl::SLOW)
        .about(
            "pubsub",
            "7.0.0",
            "O(N) where N is the number of clients already subscribed to a shard channel.",
            "Ends subscriptions to shard channels.",
        )
        .keys(1, -1, 1, SHARD_CHANNELS),
    command("unsubscribe", -1, SUBSCRIBES, acl::PUBSUB | acl::SLOW).about(
        "pubsub",
        "2.0.0",
        "O(N) where N is the number of clients already subscribed to a channel.",
        "Ends subscriptions to channels.",
    ),
];
