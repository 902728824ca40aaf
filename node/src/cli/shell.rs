//! `farkeep completions` and `farkeep man`: what a package puts beside the binary.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

/// Arguments of `farkeep completions`.
#[derive(Debug, Args)]
pub struct CompletionsArguments {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `farkeep man`.
#[derive(Debug, Args)]
pub struct ManArguments {
    /// Writes a page for each command into this directory, instead of the first page to standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints a shell's completions.
pub fn completions(arguments: &CompletionsArguments, mut command: Command) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "farkeep", &mut text);
    say!("{}", String::from_utf8_lossy(&text).trim_end());
    ExitCode::SUCCESS
}

/// Prints or writes manual pages.
///
/// # Errors
/// When a page cannot be written.
pub fn man(arguments: &ManArguments, command: Command) -> Result<ExitCode> {
    if let Some(dir) = &arguments.dir {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        clap_mangen::generate_to(command, dir)
            .with_context(|| format!("cannot write the pages into {}", dir.display()))?;
    } else {
        let mut text = Vec::new();
        clap_mangen::Man::new(command).render(&mut text)?;
        say!("{}", String::from_utf8_lossy(&text).trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
