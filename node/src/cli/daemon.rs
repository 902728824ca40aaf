//! `daemonize yes`: the node as a process of its own, in the background.
//!
//! A process with threads must not fork, and ours would have to fork before it knows whether the node can
//! start at all. So the process in front starts the same program again and waits until that one either says
//! that it serves or ends with an error; the error is then shown where the person is, and not only in a log.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

/// Set in the environment of the process in the background.
const BACKGROUND: &str = "FARKEEP_BACKGROUND";

/// What the process in the background says on standard error when it serves.
const SERVING: &str = "farkeep: serving\n";

/// Whether this is the process in the background.
pub fn is_background() -> bool {
    std::env::var_os(BACKGROUND).is_some()
}

/// Starts the process in the background and waits until it serves.
///
/// # Errors
/// When it cannot be started. An error of its own is printed as it is.
pub fn start(directives: &[OsString]) -> Result<ExitCode> {
    let program = std::env::current_exe().context("cannot find the program to start in the background")?;
    let mut child = Command::new(&program)
        .arg("serve")
        .args(directives)
        .env(BACKGROUND, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {} in the background", program.display()))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut said).context("the process in the background cannot be heard")?;
    }
    if let Some(before) = said.strip_suffix(SERVING) {
        eprint!("{before}");
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{said}");
    child.wait().context("the process in the background cannot be waited for")?;
    Ok(ExitCode::FAILURE)
}

/// In the background: leaves the session of the terminal.
///
/// # Errors
/// When the kernel refuses it.
pub fn leave_session() -> Result<()> {
    rustix::process::setsid().context("cannot leave the session of the terminal (setsid)")?;
    Ok(())
}

/// In the background: tells the process in front that the node serves, and lets go of its standard error.
///
/// # Errors
/// When `/dev/null` cannot take its place.
pub fn say_serving() -> Result<()> {
    // The process in front may have been interrupted; the node goes on without it.
    let _ = std::io::stderr().write_all(SERVING.as_bytes());
    let nowhere = File::options().write(true).open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stderr(&nowhere).context("cannot close standard error")?;
    Ok(())
}
