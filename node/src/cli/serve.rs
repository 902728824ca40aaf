//! `farkeep serve`: from the configuration to a node that serves, and to its end.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{daemon, log};
use crate::commands::info::human;
use crate::commands::info::snapshot::{EngineInfo, RoleInfo};
use crate::config::{self, Config, ConfigError, Loaded};
use crate::engine::Engine;
use crate::node::Node;
use crate::runtime::{Running, listen};

/// With this in the environment, the node stops when the process that started it dies. For the demo and for
/// tests.
pub const STOP_WITH_PARENT: &str = "FARKEEP_STOP_WITH_PARENT";

/// Runs a node until it is told to stop.
///
/// # Errors
/// Whatever keeps the node from starting.
pub fn serve(directives: &[OsString]) -> Result<ExitCode> {
    let loaded = load(directives)?;
    if loaded.config.daemonize && !daemon::is_background() {
        return daemon::start(directives);
    }
    if daemon::is_background() {
        daemon::leave_session()?;
    }
    if std::env::var_os(STOP_WITH_PARENT).is_some() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    if let Some(dir) = &loaded.config.dir {
        std::env::set_current_dir(dir)
            .with_context(|| format!("cannot change into {} (--dir)", dir.display()))?;
    }
    let (logfile, loglevel) = (loaded.config.logfile.clone(), loaded.config.loglevel.to_string());
    log::init(&logfile, &loglevel, loaded.config.log_format)
        .with_context(|| format!("cannot write the log file {logfile} (--logfile)"))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    run(loaded.config, loaded.file.as_deref()).inspect_err(|error| {
        if !logfile.is_empty() {
            tracing::error!("{}", super::one_line(error));
        }
    })
}

/// Reads the configuration: `[FILE | -] [--DIRECTIVE VALUE…]…`.
fn load(directives: &[OsString]) -> Result<Loaded> {
    let mut words = Vec::with_capacity(directives.len());
    for word in directives {
        words
            .push(word.to_str().with_context(|| format!("{} is not UTF-8 text", word.display()))?.to_owned());
    }
    let from_stdin = words.first().is_some_and(|word| word == "-");
    let file = match words.first() {
        Some(word) if from_stdin || !word.starts_with("--") => Some(words.remove(0)),
        _ => None,
    };
    if from_stdin && daemon::is_background() {
        bail!("daemonize does not go together with a configuration on standard input: put it into a file");
    }
    let path = file.as_deref().map(|file| Path::new(if from_stdin { "/dev/stdin" } else { file }));
    let mut loaded = config::load(path, &words).map_err(|error| anyhow!(config_error(&error)))?;
    if from_stdin {
        loaded.file = None;
    }
    Ok(loaded)
}

/// A configuration error on one line: where, what, why.
fn config_error(error: &ConfigError) -> String {
    match error {
        ConfigError::Line { path: Some(path), line, text, reason } => {
            format!("configuration {}, line {line}: '{text}': {reason}", path.display())
        }
        ConfigError::Line { path: None, text, reason, .. } => format!("command line: --{text}: {reason}"),
        other => other.to_string(),
    }
}

fn run(config: Config, config_file: Option<&Path>) -> Result<ExitCode> {
    // Handlers come first: a signal during recovery ends the process in an orderly way, too.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot handle signals")?;
    farkeep_core::pmem::sigbus::install().context("cannot handle SIGBUS")?;
    let listeners = listen(&config)?;
    let http = crate::http::bind(&config)?;
    crate::commands::init(&config.rename_command).map_err(|text| anyhow!(text))?;
    let engine = Engine::open(&config)?;
    let pidfile = config.pidfile.clone();
    let run_id = run_id()?;
    let node = Arc::new(Node::new(config, config_file.map(Path::to_path_buf), engine, run_id)?);
    let running = Running::start(&node, listeners, http)?;
    let _pidfile = PidFile::write(&pidfile);
    announce(&node);
    tell_systemd(NotifyState::Ready);
    stop_on_signals(signals, &node)?;
    if daemon::is_background() {
        daemon::say_serving()?;
    }
    let clean = running.join();
    tell_systemd(NotifyState::Stopping);
    tracing::info!("Farkeep is now ready to exit, bye bye...");
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Under `Type=notify`, systemd waits for this. Anywhere else it does nothing.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}

/// 40 hexadecimal digits that no other start of any node has.
fn run_id() -> Result<String> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random numbers from the kernel: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The first signal stops the node, a second one ends the process at once. SIGHUP is for terminals that
/// close: ignored.
fn stop_on_signals(mut signals: Signals, node: &Arc<Node>) -> Result<()> {
    let node = Arc::clone(node);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
            match signal {
                SIGHUP => {}
                _ if stopping => {
                    tracing::warn!("{name} again: exiting at once; all that was acknowledged is durable");
                    std::process::exit(1);
                }
                _ => {
                    stopping = true;
                    tracing::info!("Received {name} scheduling shutdown...");
                    node.stop();
                }
            }
        }
    })?;
    Ok(())
}

/// Says in a few lines what this node is, as somebody wants to read it who was woken up by it.
fn announce(node: &Node) {
    let config = node.config();
    let info = node.engine.lock().info(node, node.now());
    log::set_role(if matches!(info.role, RoleInfo::Leader { .. }) { b'M' } else { b'S' });
    tracing::info!("Farkeep {}, pid {}", super::VERSION, std::process::id());
    tracing::info!(
        "Pool {}: image {}, log {}, dataset {}",
        info.pool,
        human(info.image_len_bytes),
        human(info.log_len_bytes),
        if info.dataset_id.bytes().all(|digit| digit == b'0') { "none yet" } else { &info.dataset_id }
    );
    let (durability, weak) = durability_line(&info);
    if weak {
        tracing::warn!("{durability}");
    } else {
        tracing::info!("{durability}");
    }
    tracing::info!("{}", role_line(&info));
    if info.rdma_unusable.is_empty() {
        tracing::info!("RDMA: {}", info.rdma_device);
    } else {
        tracing::info!("RDMA is not used: {}", info.rdma_unusable);
    }
    let places = config
        .bind
        .iter()
        .filter(|bind| !bind.starts_with('-'))
        .map(|bind| format!("{bind}:{}", config.port));
    let places: Vec<String> = places.filter(|_| config.port != 0).chain(config.unixsocket.clone()).collect();
    if config.http_port != 0 {
        let place = std::net::SocketAddr::from((config.http_bind, config.http_port));
        tracing::info!("Dashboard and metrics on http://{place}/");
    }
    tracing::info!("Ready to accept connections on {}", places.join(", "));
}

/// The durability domain in a sentence, and whether it deserves a warning.
fn durability_line(info: &EngineInfo) -> (String, bool) {
    let reason = if info.durability_reason.is_empty() {
        String::new()
    } else {
        format!(" ({})", info.durability_reason)
    };
    match info.durability.as_str() {
        "volatile" => (
            format!(
                "WARNING: durability is VOLATILE{reason}. This pool survives the death of the process, but NOT a power \
                 cut or a reboot. Use a pool on persistent memory or on a disk for data that matters."
            ),
            true,
        ),
        "disk" => {
            (format!("Durability: disk{reason}, every acknowledged write has gone through fdatasync"), false)
        }
        other => (format!("Durability: {other}{reason}"), false),
    }
}

/// What the node is to others, in a sentence.
fn role_line(info: &EngineInfo) -> String {
    match &info.role {
        RoleInfo::Follower(link) => {
            format!("Follower of {}:{}, durable up to LSN {}", link.host, link.port, info.durable_lsn)
        }
        RoleInfo::Leader { .. } => {
            let promise = match info.sync_followers {
                0 => "sync-followers 0: writes are durable on this node only".to_owned(),
                1 => "sync-followers 1: a write waits for a follower that holds it durably".to_owned(),
                n => format!("sync-followers {n}: a write waits for {n} followers that hold it durably"),
            };
            format!("Leader, epoch {}, durable up to LSN {}, {promise}", info.epoch_shown, info.durable_lsn)
        }
    }
}

/// The file with the process id, removed at the end. As with Redis, a node without it is better than no node.
#[derive(Debug)]
struct PidFile<'a>(&'a str);

impl<'a> PidFile<'a> {
    fn write(path: &'a str) -> Option<Self> {
        if path.is_empty() {
            return None;
        }
        match fs::write(path, format!("{}\n", std::process::id())) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                tracing::warn!(%error, path, "cannot write the pid file");
                None
            }
        }
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        // It may have been removed by somebody else, which is what we want.
        let _ = fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volatile_pool_is_a_loud_warning_and_others_are_not() {
        let line = |durability: &str| {
            durability_line(&EngineInfo {
                durability: durability.to_owned(),
                durability_reason: "tmpfs".to_owned(),
                ..EngineInfo::default()
            })
        };
        let (text, weak) = line("volatile");
        assert!(weak && text.contains("VOLATILE (tmpfs)") && text.contains("NOT a power cut"));
        assert_eq!(line("pmem"), ("Durability: pmem (tmpfs)".to_owned(), false));
        assert!(!line("disk").1);
    }

    #[test]
    fn bad_directive_is_one_line_with_place_and_reason() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("farkeep.conf");
        fs::write(&path, "port 1234\nfoo bar\n").unwrap();
        let error = load(&[path.clone().into()]).unwrap_err().to_string();
        let place = format!("configuration {}, line 2: 'foo bar': ", path.display());
        assert!(error.starts_with(&place) && !error.contains('\n'), "{error}");
        let error = load(&["--maxmemory".into(), "abc".into()]).unwrap_err().to_string();
        assert!(
            error.starts_with("command line: --maxmemory \"abc\": argument must be a memory value"),
            "{error}"
        );
        let error = load(&["/nowhere/farkeep.conf".into()]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/farkeep.conf"), "{error}");
    }

    #[test]
    fn run_ids_are_forty_hexadecimal_digits_and_differ() {
        let (a, b) = (run_id().unwrap(), run_id().unwrap());
        assert!(a.len() == 40 && a.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }

    #[test]
    fn pid_file_lives_as_long_as_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pid").display().to_string();
        let file = PidFile::write(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(file);
        assert!(!Path::new(&path).exists());
        assert!(PidFile::write("").is_none());
    }
}
