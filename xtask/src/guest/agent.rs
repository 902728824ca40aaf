//! The part that runs in the guest: reads requests from the serial port, starts commands, sends their output and exit
//! codes back. It is this same binary (`xtask guest-agent PORT`), seen by the guest in the host's file system.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::frame::{self, Kind, Request};

/// How long a command's output is waited for after its end. It ends at once unless something that left the command's
/// process group holds the pipe.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);

/// Output is read in pieces of this many bytes.
const PIECE_LEN_BYTES: usize = 64 * 1024;

type Port = Arc<Mutex<File>>;
type Groups = Arc<Mutex<HashMap<u32, u32>>>;

/// Serves the port until the host closes it. The guest is powered off by whoever started the agent.
///
/// # Errors
/// The port cannot be opened, or what comes from it is no frame.
pub fn serve(port: &Path) -> io::Result<()> {
    // The driver admits one opener, so the writers share a duplicate of the descriptor.
    let mut requests = OpenOptions::new().read(true).write(true).open(port)?;
    let replies: Port = Arc::new(Mutex::new(requests.try_clone()?));
    let groups = Groups::default();
    // Writing waits until the host's end is open; reading before that would see an end.
    send(&replies, 0, Kind::Ready, &[]);
    while let Some(frame) = frame::read(&mut requests)? {
        match frame.kind {
            Kind::Run => {
                let (replies, groups) = (replies.clone(), groups.clone());
                thread::spawn(move || run(frame.session, &frame.payload, &replies, &groups));
            }
            Kind::Signal => signal(&groups, frame.session, &String::from_utf8_lossy(&frame.payload)),
            other => eprintln!("farkeep-guest: the host sent {other:?}"),
        }
    }
    Ok(())
}

fn run(session: u32, payload: &[u8], replies: &Port, groups: &Groups) {
    let Some(request) = Request::decode(payload) else {
        return send(replies, session, Kind::NotStarted, b"the request is damaged");
    };
    let mut child = match command(&request).spawn() {
        Ok(child) => child,
        Err(error) => {
            let why = format!("cannot start {}: {error}", request.argv[0]);
            return send(replies, session, Kind::NotStarted, why.as_bytes());
        }
    };
    lock(groups).insert(session, child.id());
    let ended = forward_output(session, &mut child, replies);
    let status = child.wait();
    // What it leaves in its process group ends with it, as it would with the guest.
    kill_group(child.id(), "KILL");
    lock(groups).remove(&session);
    // Two pipes, two ends.
    for _ in 0..2 {
        if ended.recv_timeout(OUTPUT_GRACE).is_err() {
            break;
        }
    }
    match status {
        Ok(status) => send(replies, session, Kind::Exit, &exit_code(status).to_le_bytes()),
        Err(error) => send(replies, session, Kind::NotStarted, error.to_string().as_bytes()),
    }
}

/// The command as it is asked for. Limits are set by a shell and `setpriv` on the way, which end up being the command.
fn command(request: &Request) -> Command {
    let mut command = match request.memlock_kib {
        None => {
            let mut command = Command::new(&request.argv[0]);
            command.args(&request.argv[1..]);
            command
        }
        Some(kib) => {
            let mut command = Command::new("/bin/bash");
            command
                .arg("-c")
                .arg(format!(
                    "ulimit -l {kib} && exec setpriv --bounding-set -ipc_lock --inh-caps -ipc_lock \"$@\""
                ))
                .arg("bash")
                .args(&request.argv);
            command
        }
    };
    // The guest's own variables (where the devices are) are the agent's environment; the host's PATH and the rest come
    // on top of it.
    command
        .env_clear()
        .envs(std::env::vars().filter(|(name, _)| name.starts_with("FARKEEP_GUEST") || name == "HOME"))
        .envs(request.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&request.cwd)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts sending what the child prints; each pipe's end is announced on the channel.
fn forward_output(session: u32, child: &mut Child, replies: &Port) -> Receiver<()> {
    let (announce, ended) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        forward(session, Kind::Stdout, pipe, replies.clone(), announce.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        forward(session, Kind::Stderr, pipe, replies.clone(), announce);
    }
    ended
}

fn forward(session: u32, kind: Kind, mut pipe: impl Read + Send + 'static, replies: Port, ended: Sender<()>) {
    thread::spawn(move || {
        let mut piece = vec![0; PIECE_LEN_BYTES];
        while let Ok(len @ 1..) = pipe.read(&mut piece) {
            send(&replies, session, kind, &piece[..len]);
        }
        // Nobody listens any more if the grace is over.
        let _ = ended.send(());
    });
}

fn signal(groups: &Groups, session: u32, name: &str) {
    if let Some(group) = lock(groups).get(&session) {
        kill_group(*group, name);
    }
}

fn kill_group(group: u32, name: &str) {
    // A group that is gone already is what was wanted.
    let _ = Command::new("/bin/bash")
        .args(["-c", &format!("kill -s {name} -- -{group}")])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn send(replies: &Port, session: u32, kind: Kind, payload: &[u8]) {
    // The host is gone; so will the guest be.
    let _ = frame::write(&mut *lock(replies), session, kind, payload);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
