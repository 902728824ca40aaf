//! The table of commands about the node: connections, server, transactions.

use super::{Command, acl, command, flag, key};

pub(super) static TABLE: &[Command] = &[
    command(
        "auth",
        -2,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
        acl::FAST | acl::CONNECTION,
    )
    .about("connection", "1.0.0", "O(N)", "Proves who the client is."),
    command("client", -2, 0, acl::SLOW)
        .about("connection", "2.4.0", "Depends on subcommand", "Looks after connections.")
        .subcommands(&[
            command(
                "client|caching",
                3,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about(
                "connection",
                "6.0.0",
                "O(1)",
                "Says whether the next keys read are to be tracked.",
            ),
            command(
                "client|getname",
                2,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "2.6.9", "O(1)", "Tells the name of the connection."),
            command(
                "client|getredir",
                2,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "6.0.0", "O(1)", "Tells where invalidations go."),
            command("client|help", 2, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION).about(
                "connection",
                "5.0.0",
                "O(1)",
                "Lists the subcommands.",
            ),
            command(
                "client|id",
                2,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "5.0.0", "O(1)", "Tells the number of the connection."),
            command(
                "client|info",
                2,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "6.2.0", "O(1)", "Describes the connection.")
            .tips(&["nondeterministic_output"]),
            command(
                "client|kill",
                -3,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS | acl::CONNECTION,
            )
            .about("connection", "2.4.0", "O(N)", "Closes connections."),
            command(
                "client|list",
                -2,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS | acl::CONNECTION,
            )
            .about("connection", "2.4.0", "O(N)", "Describes all connections.")
            .tips(&["nondeterministic_output"]),
            command(
                "client|no-evict",
                3,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS | acl::CONNECTION,
            )
            .about("connection", "7.0.0", "O(1)", "Spares the connection when memory is short."),
            command(
                "client|pause",
                -3,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS | acl::CONNECTION,
            )
            .about("connection", "2.9.50", "O(1)", "Lets clients wait for a while."),
            command(
                "client|reply",
                3,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "3.2.0", "O(1)", "Says whether replies are wanted."),
            command(
                "client|setname",
                3,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "2.6.9", "O(1)", "Names the connection."),
            command(
                "client|tracking",
                -3,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "6.0.0", "O(1)", "Turns the tracking of keys read on or off."),
            command(
                "client|trackinginfo",
                2,
                flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::SLOW | acl::CONNECTION,
            )
            .about("connection", "6.2.0", "O(1)", "Describes what is tracked."),
            command(
                "client|unblock",
                -3,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS | acl::CONNECTION,
            )
            .about("connection", "5.0.0", "O(log N)", "Wakes a connection that waits."),
            command(
                "client|unpause",
                2,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS | acl::CONNECTION,
            )
            .about(
                "connection",
                "6.2.0",
                "O(N) Where N is the number of paused clients",
                "Lets clients go on.",
            ),
        ]),
    command("command", -1, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION)
        .about("server", "2.8.13", "O(N)", "Describes the commands.")
        .tips(&["nondeterministic_output_order"])
        .subcommands(&[
            command("command|count", 2, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION).about(
                "server",
                "2.8.13",
                "O(1)",
                "Counts the commands.",
            ),
            command("command|docs", -2, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION)
                .about("server", "7.0.0", "O(N)", "Documents commands.")
                .tips(&["nondeterministic_output_order"]),
            command("command|getkeys", -4, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION).about(
                "server",
                "2.8.13",
                "O(N)",
                "Finds the keys in a request.",
            ),
            command("command|getkeysandflags", -4, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION)
                .about("server", "7.0.0", "O(N)", "Finds the keys in a request and what happens to them."),
            command("command|help", 2, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION).about(
                "server",
                "5.0.0",
                "O(1)",
                "Lists the subcommands.",
            ),
            command("command|info", -2, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION)
                .about("server", "2.8.13", "O(N)", "Describes commands.")
                .tips(&["nondeterministic_output_order"]),
            command("command|list", -2, flag::LOADING | flag::STALE, acl::SLOW | acl::CONNECTION)
                .about("server", "7.0.0", "O(N)", "Lists the names of commands.")
                .tips(&["nondeterministic_output_order"]),
        ]),
    command("config", -2, 0, acl::SLOW)
        .about("server", "2.0.0", "Depends on subcommand", "Looks after the configuration.")
        .subcommands(&[
            command(
                "config|get",
                -3,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS,
            )
            .about(
                "server",
                "2.0.0",
                "O(N) when N is the number of configuration parameters provided",
                "Reads directives.",
            ),
            command("config|help", 2, flag::LOADING | flag::STALE, acl::SLOW).about(
                "server",
                "5.0.0",
                "O(1)",
                "Lists the subcommands.",
            ),
            command(
                "config|resetstat",
                2,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS,
            )
            .about("server", "2.0.0", "O(1)", "Sets the counters to zero."),
            command(
                "config|rewrite",
                2,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS,
            )
            .about(
                "server",
                "2.8.0",
                "O(1)",
                "Writes the directives into the file they came from.",
            ),
            command(
                "config|set",
                -4,
                flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
                acl::ADMIN | acl::SLOW | acl::DANGEROUS,
            )
            .about(
                "server",
                "2.0.0",
                "O(N) when N is the number of configuration parameters provided",
                "Changes directives.",
            )
            .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]),
        ]),
    command(
        "debug",
        -2,
        flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE,
        acl::ADMIN | acl::SLOW | acl::DANGEROUS,
    )
    .about("server", "1.0.0", "Depends on subcommand", "Things that only those who test need."),
    command(
        "discard",
        1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
        acl::FAST | acl::TRANSACTION,
    )
    .about(
        "transactions",
        "2.0.0",
        "O(N), when N is the number of queued commands",
        "Gives up a transaction.",
    ),
    command("echo", 2, flag::LOADING | flag::STALE | flag::FAST, acl::FAST | acl::CONNECTION).about(
        "connection",
        "1.0.0",
        "O(1)",
        "Returns what it is given.",
    ),
    command(
        "exec",
        1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::SKIP_SLOWLOG,
        acl::SLOW | acl::TRANSACTION,
    )
    .about(
        "transactions",
        "1.2.0",
        "Depends on commands in the transaction",
        "Carries out a transaction.",
    ),
    command(
        "failover",
        -1,
        flag::ADMIN | flag::NOSCRIPT | flag::STALE,
        acl::ADMIN | acl::SLOW | acl::DANGEROUS,
    )
    .about("server", "6.2.0", "O(1)", "Hands the leader's place over to one of its followers."),
    command(
        "hello",
        -1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
        acl::FAST | acl::CONNECTION,
    )
    .about("connection", "6.0.0", "O(1)", "Agrees on the protocol, and logs in on the way."),
    command("info", -1, flag::LOADING | flag::STALE, acl::SLOW | acl::DANGEROUS)
        .about("server", "1.0.0", "O(1)", "Reports on the server.")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]),
    command(
        "multi",
        1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
        acl::FAST | acl::TRANSACTION,
    )
    .about("transactions", "1.2.0", "O(1)", "Begins a transaction."),
    command("ping", -1, flag::FAST, acl::FAST | acl::CONNECTION)
        .about("connection", "1.0.0", "O(1)", "Asks for a sign of life.")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
    command(
        "quit",
        -1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
        acl::FAST | acl::CONNECTION,
    )
    .about("connection", "1.0.0", "O(1)", "Closes the connection."),
    command(
        "replicaof",
        3,
        flag::ADMIN | flag::NOSCRIPT | flag::STALE | flag::NO_ASYNC_LOADING,
        acl::ADMIN | acl::SLOW | acl::DANGEROUS,
    )
    .about("server", "5.0.0", "O(1)", "Makes the node follow another, or lead."),
    command(
        "reset",
        1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::NO_AUTH | flag::ALLOW_BUSY,
        acl::FAST | acl::CONNECTION,
    )
    .about("connection", "6.2.0", "O(1)", "Puts the connection back into its first state."),
    command(
        "role",
        1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST,
        acl::ADMIN | acl::FAST | acl::DANGEROUS,
    )
    .about("server", "2.8.12", "O(1)", "Tells the role of the node."),
    command("select", 2, flag::LOADING | flag::STALE | flag::FAST, acl::FAST | acl::CONNECTION).about(
        "connection",
        "1.0.0",
        "O(1)",
        "Chooses the database of the connection.",
    ),
    command(
        "shutdown",
        -1,
        flag::ADMIN | flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::NO_MULTI | flag::ALLOW_BUSY,
        acl::ADMIN | acl::SLOW | acl::DANGEROUS,
    )
    .about("server", "1.0.0", "O(N) when saving", "Stops the server."),
    command(
        "slaveof",
        3,
        flag::ADMIN | flag::NOSCRIPT | flag::STALE | flag::NO_ASYNC_LOADING,
        acl::ADMIN | acl::SLOW | acl::DANGEROUS,
    )
    .about("server", "1.0.0", "O(1)", "An old name of REPLICAOF."),
    command("time", 1, flag::LOADING | flag::STALE | flag::FAST, acl::FAST)
        .about("server", "2.6.0", "O(1)", "Tells the time.")
        .tips(&["nondeterministic_output"]),
    command(
        "unwatch",
        1,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
        acl::FAST | acl::TRANSACTION,
    )
    .about("transactions", "2.2.0", "O(1)", "Forgets the watched keys."),
    command("wait", 3, flag::NOSCRIPT, acl::SLOW | acl::CONNECTION)
        .about("generic", "3.0.0", "O(1)", "Waits until followers hold the writes of this connection.")
        .tips(&["request_policy:all_shards", "response_policy:agg_min"]),
    command(
        "watch",
        -2,
        flag::NOSCRIPT | flag::LOADING | flag::STALE | flag::FAST | flag::ALLOW_BUSY,
        acl::FAST | acl::TRANSACTION,
    )
    .about(
        "transactions",
        "2.2.0",
        "O(1) for every key",
        "Lets the next transaction fail if keys change before it.",
    )
    .keys(1, -1, 1, &[key("RO", 1, -1, 1)]),
    command("waitaof", 4, flag::NOSCRIPT, acl::SLOW | acl::CONNECTION)
        .about(
            "generic",
            "7.2.0",
            "O(1)",
            "Waits until the writes of this connection are durable, here and on followers.",
        )
        .tips(&["request_policy:all_shards", "response_policy:agg_min"]),
];
