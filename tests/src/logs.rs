//! Reading a server's log for what a test did not expect.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// Ports of servers that the harness itself has killed, stopped or frozen: their peers may well complain.
static DISTURBED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Notes that the harness has disturbed the server at `port`: from now on, complaints that name it are no surprise.
pub fn disturbed(port: u16) {
    DISTURBED.lock().expect("no holder panics").insert(port);
}

/// What every Farkeep in a test pool may warn about: pools of tests lie on tmpfs, and a volatile pool is told so loudly.
const ALWAYS_EXPECTED: &[&str] = &["volatile", "tmpfs", "power cut"];

/// The lines of `log` that are warnings, errors or panics and contain none of the `expected` texts.
pub fn unexpected<'a>(log: &'a str, expected: &[String]) -> Vec<&'a str> {
    let disturbed: Vec<String> =
        DISTURBED.lock().expect("no holder panics").iter().map(|port| format!(":{port} ")).collect();
    log.lines()
        .filter(|line| is_warning(line))
        .filter(|line| !disturbed.iter().any(|port| format!("{line} ").contains(port)))
        .filter(|line| !ALWAYS_EXPECTED.iter().any(|text| line.contains(text)))
        .filter(|line| !expected.iter().any(|text| line.contains(text.as_str())))
        .collect()
}

/// Whether a line tells of a failed assertion or of memory misused: never expected, whatever befalls a node.
pub fn is_failure(line: &str) -> bool {
    line.contains("panicked at") || line.contains("Sanitizer") || line.contains("failed an assertion")
}

/// Whether a line is a warning or worse: in Redis's format (`pid:role day month year time LEVEL message`, where the level is
/// `#`), in the usual `WARN`/`ERROR` form, or as Rust announces a panic.
fn is_warning(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let redis_format = words.next().and_then(|word| word.split_once(':')).is_some_and(|(pid, role)| {
        !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) && role.len() == 1
    });
    if redis_format && words.nth(4) == Some("#") {
        return true;
    }
    let named = line.split_ascii_whitespace().take(6).any(|word| matches!(word, "WARN" | "ERROR"));
    named || is_failure(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found_in_either_format_and_ordinary_lines_are_not() {
        let log = "12:M 20 Nov 2026 11:27:54.123 * Ready to accept connections\n\
                   12:M 20 Nov 2026 11:27:54.123 # The replayer stopped: # of records 3\n\
                   12:M 20 Nov 2026 11:27:54.123 # this pool is volatile\n\
                   2026-11-20T11:27:54Z  WARN node: slow\n\
                   thread 'main' panicked at core/src/lib.rs:1:1:\n";
        let lines = unexpected(log, &["slow".into()]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("replayer") && lines[1].contains("panicked"));
    }
}
