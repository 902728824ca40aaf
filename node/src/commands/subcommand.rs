//! Commands that are containers of subcommands: CLIENT, CONFIG and PUBSUB.
//!
//! Redis looks a subcommand up before anything else, as it does a command. So one that does not exist, or
//! that has the wrong number of arguments, is refused already when it is queued in a MULTI.

use farkeep_keystore::CommandError;
use farkeep_keystore::command::{self, Command};

use super::{Call, Flow, NodeFn};

/// Of what a client sent, at most this much is shown in an error.
const SHOWN_BYTES: usize = 128;

/// A subcommand's name in lower case, and what runs it. Its arity is in the command table.
pub type Subcommand = (&'static str, NodeFn);

/// The command that a request really means: the subcommand, if `command` is a container of them.
///
/// # Errors
/// When there is no such subcommand, or the number of words is wrong.
pub fn resolve(command: &'static Command, argv: &[&[u8]]) -> Result<&'static Command, CommandError> {
    let command = match argv.get(1) {
        Some(word) if !command.subcommands.is_empty() => command
            .subcommand(word)
            .ok_or_else(|| CommandError::unknown_subcommand(&command.name.to_ascii_uppercase(), word))?,
        _ => command,
    };
    if command.takes(argv.len()) { Ok(command) } else { Err(CommandError::arity(command.name)) }
}

/// Runs the subcommand of `container` that `argv[1]` names, whatever name the container was renamed to.
pub fn run(call: &mut Call<'_>, container: &str, table: &[Subcommand], argv: &[&[u8]]) -> Flow {
    match find(container, table, argv) {
        Ok(function) => function(call, argv),
        Err(error) => {
            call.error(&error.reply());
            Flow::Continue
        }
    }
}

fn find(container: &str, table: &[Subcommand], argv: &[&[u8]]) -> Result<NodeFn, CommandError> {
    let word = argv.get(1).copied().unwrap_or_default();
    let unknown = || CommandError::unknown_subcommand(&container.to_ascii_uppercase(), word);
    resolve(command::lookup(container.as_bytes()).ok_or_else(unknown)?, argv)?;
    let row = table.iter().find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
    row.map(|(_, function)| *function).ok_or_else(unknown)
}

/// Redis's answer of commands that look at their subcommand themselves, as DEBUG does.
pub fn syntax_error(call: &mut Call<'_>, container: &str, word: &[u8]) {
    call.error(&format!(
        "ERR unknown subcommand or wrong number of arguments for '{}'. Try {} HELP.",
        shown(word),
        container.to_ascii_uppercase()
    ));
}

fn shown(word: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&word[..word.len().min(SHOWN_BYTES)])
}

/// Answers with a help text as Redis lays it out: one status line each.
pub fn help(call: &mut Call<'_>, container: &str, lines: &[&str]) {
    let header = format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    let mut reply = call.reply();
    reply.array(lines.len() + 3);
    reply.simple(&header);
    for line in lines.iter().chain(&["HELP", "    Prints this help."]) {
        reply.simple(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(argv: &[&str]) -> Option<String> {
        let argv: Vec<&[u8]> = argv.iter().map(|word| word.as_bytes()).collect();
        let command = command::lookup(argv[0]).unwrap();
        resolve(command, &argv).err().map(|error| error.reply())
    }

    #[test]
    fn refusals_are_worded_as_redis_words_them() {
        for (argv, text) in [
            (&["client"][..], "ERR wrong number of arguments for 'client' command"),
            (&["client", "SETINFO", "a"], "ERR unknown subcommand 'SETINFO'. Try CLIENT HELP."),
            (&["config", "FOO"], "ERR unknown subcommand 'FOO'. Try CONFIG HELP."),
            (&["client", "Kill"], "ERR wrong number of arguments for 'client|kill' command"),
            (&["config", "resetstat", "a"], "ERR wrong number of arguments for 'config|resetstat' command"),
            (&["config", "set", "a"], "ERR wrong number of arguments for 'config|set' command"),
        ] {
            assert_eq!(refusal(argv).as_deref(), Some(text));
        }
        assert_eq!(refusal(&["client", "id"]), None);
        assert_eq!(refusal(&["get", "k"]), None);
        assert_eq!(refusal(&["client", &"x".repeat(1000)]).unwrap().matches('x').count(), 128);
    }

    #[test]
    fn every_subcommand_of_the_command_table_has_a_function() {
        for (container, table) in [
            ("client", super::super::client::SUBCOMMANDS),
            ("config", super::super::server::CONFIG_SUBCOMMANDS),
            ("pubsub", super::super::pubsub::SUBCOMMANDS),
        ] {
            let command = command::lookup(container.as_bytes()).unwrap();
            let mut listed: Vec<&str> =
                command.subcommands.iter().map(|sub| &sub.name[container.len() + 1..]).collect();
            let mut known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
            listed.sort_unstable();
            known.sort_unstable();
            assert_eq!(listed, known, "{container}");
        }
    }
}
