//! A TCP path between two nodes that can be cut, stalled and slowed down.
//!
//! Replication's connections are all made by the follower, so one [`Path`] from a follower to a node carries all that the two
//! say to each other, in both directions. A *cut* path closes what is open and whatever is opened anew: both ends notice at once.
//! A *stalled* one keeps its connections and carries nothing, as a switch does that has lost its mind: only deadlines tell.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::server::free_port;

/// How often a thread that has nothing to carry looks at the path's state.
const TICK: Duration = Duration::from_millis(2);

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the one that connects.
    Forth,
    /// To the one that connects.
    Back,
}

/// What becomes of what is sent over a path.
#[derive(Debug, Default)]
struct State {
    ended: AtomicBool,
    cut: AtomicBool,
    /// Rises with every cut, so that a connection from before one does not outlive it.
    cuts: AtomicU64,
    stalled_forth: AtomicBool,
    stalled_back: AtomicBool,
    delay_us: AtomicU64,
    /// How many connections were made.
    opened: AtomicU64,
    /// Of a cut path: the connections that go on.
    kept: Mutex<Range<u64>>,
}

/// A way to a port, with a port of its own. It ends with this value.
#[derive(Debug)]
pub struct Path {
    port: u16,
    state: Arc<State>,
}

impl Path {
    /// A whole path to `target`.
    pub fn to(target: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port that is ours can be bound");
        let state = Arc::new(State::default());
        let theirs = Arc::clone(&state);
        std::thread::spawn(move || accept(&listener, target, &theirs));
        Self { port, state }
    }

    /// Where to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes everything, and whatever comes until [`Path::heal`].
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        self.state.cuts.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections were made so far: their numbers are those below.
    pub fn opened(&self) -> u64 {
        self.state.opened.load(Ordering::SeqCst)
    }

    /// As [`Path::cut`], but for the connections of these numbers: some of those who came this way are not cut off.
    pub fn cut_but(&self, kept: Range<u64>) {
        self.state.kept.lock().expect("no holder panics").clone_from(&kept);
        self.cut();
    }

    /// Carries nothing any more in one direction.
    pub fn stall(&self, direction: Direction) {
        self.state.stalled(direction).store(true, Ordering::SeqCst);
    }

    /// Carries everything later by this much.
    pub fn delay(&self, by: Duration) {
        self.state.delay_us.store(by.as_micros() as u64, Ordering::SeqCst);
    }

    /// Makes it whole again. What was stalled arrives now.
    pub fn heal(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
        self.state.stalled_forth.store(false, Ordering::SeqCst);
        self.state.stalled_back.store(false, Ordering::SeqCst);
        self.state.delay_us.store(0, Ordering::SeqCst);
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts; if that cannot be reached, nobody else can reach it either.
        drop(TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], self.port))));
    }
}

impl State {
    /// Whether a connection from the time of that many cuts goes on.
    fn carries(&self, number: u64, born: u64) -> bool {
        self.cuts.load(Ordering::SeqCst) == born
            || (!self.ended.load(Ordering::SeqCst)
                && self.kept.lock().expect("no holder panics").contains(&number))
    }

    fn stalled(&self, direction: Direction) -> &AtomicBool {
        match direction {
            Direction::Forth => &self.stalled_forth,
            Direction::Back => &self.stalled_back,
        }
    }
}

fn accept(listener: &TcpListener, target: u16, state: &Arc<State>) {
    for incoming in listener.incoming() {
        if state.ended.load(Ordering::SeqCst) {
            return;
        }
        let Ok(incoming) = incoming else { continue };
        if state.cut.load(Ordering::SeqCst) {
            continue;
        }
        let born = state.cuts.load(Ordering::SeqCst);
        let number = state.opened.fetch_add(1, Ordering::SeqCst);
        let target = SocketAddr::from(([127, 0, 0, 1], target));
        // A node that is not there is one that refuses: the connection is closed again.
        let Ok(outgoing) = TcpStream::connect_timeout(&target, Duration::from_secs(2)) else { continue };
        for (from, to, direction) in
            [(&incoming, &outgoing, Direction::Forth), (&outgoing, &incoming, Direction::Back)]
        {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let state = Arc::clone(state);
            std::thread::spawn(move || {
                carry(&from, &to, &state, direction, || state.carries(number, born));
                // Either end may have closed already, and then both are.
                drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
            });
        }
    }
}

/// Carries bytes in one direction until either end closes or the connection is no longer `alive`.
fn carry(
    mut from: &TcpStream,
    mut to: &TcpStream,
    state: &State,
    direction: Direction,
    alive: impl Fn() -> bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    if from.set_nodelay(true).is_err() || from.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    while alive() {
        let count = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(_) => return,
        };
        while state.stalled(direction).load(Ordering::SeqCst) && alive() {
            std::thread::sleep(TICK);
        }
        match state.delay_us.load(Ordering::SeqCst) {
            0 => {}
            delay_us => std::thread::sleep(Duration::from_micros(delay_us)),
        }
        if !alive() || to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    /// What a client gets back over a path to a server that echoes.
    fn echo() -> (Path, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
                });
            }
        });
        (Path::to(port), port)
    }

    fn say(mut stream: &TcpStream, byte: u8) -> std::io::Result<u8> {
        let mut answer = [0];
        stream.write_all(&[byte])?;
        stream.read_exact(&mut answer)?;
        Ok(answer[0])
    }

    #[test]
    fn a_cut_path_closes_what_is_open_and_a_healed_one_carries_again() {
        let (path, _) = echo();
        let stream = TcpStream::connect(("127.0.0.1", path.port())).unwrap();
        assert_eq!(say(&stream, 7).unwrap(), 7);
        path.cut();
        wait::until("the connection to be closed", || say(&stream, 8).is_err());
        let while_cut = TcpStream::connect(("127.0.0.1", path.port())).unwrap();
        assert!(say(&while_cut, 9).is_err());
        path.heal();
        let healed = TcpStream::connect(("127.0.0.1", path.port())).unwrap();
        assert_eq!(say(&healed, 10).unwrap(), 10);
        assert!(say(&stream, 11).is_err(), "a connection from before a cut does not come back");
    }

    #[test]
    fn a_stalled_path_keeps_its_connections_and_delivers_when_it_is_healed() {
        let (path, _) = echo();
        for direction in [Direction::Forth, Direction::Back] {
            let stream = TcpStream::connect(("127.0.0.1", path.port())).unwrap();
            assert_eq!(say(&stream, 1).unwrap(), 1);
            path.stall(direction);
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            assert_eq!(say(&stream, 2).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            path.heal();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut late = [0];
            (&stream).read_exact(&mut late).unwrap();
            assert_eq!(late, [2]);
        }
    }
}
