//! Two machines on one wire, for what needs two hosts: a peer that loses its power, a packet that does not arrive.
//!
//! The wire is a pair of datagram sockets in the run directory, each named for the machine that reads it. A machine sends by
//! name, so moving the names away cuts the wire for as long as one likes: frames are lost without a sign, as in a switch that
//! has failed, and the cards keep their carrier. (A carrier is taken away inside: `ip link set eth0 down`.) A machine
//! that is switched on again takes its name back.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::image::Image;
use super::machine::{Guest, Machine, Network};
use super::rundir::RunDir;
use super::running::Error;

/// Address number of the first machine; the second has the next.
const FIRST_NUMBER: u8 = 15;
const NAMES: [&str; 2] = ["a", "b"];

/// Two machines that are joined by a wire. Each keeps its NVDIMMs as long as this lives.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The machine called `a`, 10.0.2.15.
    pub a: Machine,
    /// The machine called `b`, 10.0.2.16.
    pub b: Machine,
    dir: Arc<RunDir>,
}

impl Pair {
    /// Two new machines, switched off.
    ///
    /// # Errors
    /// Their files cannot be made.
    pub fn new(image: Arc<Image>) -> Result<Pair, Error> {
        let dir = Arc::new(RunDir::new().map_err(Error::Unavailable)?);
        let machine = |own: usize| {
            let network = Network::Wire {
                local: wire(NAMES[own]),
                remote: wire(NAMES[1 - own]),
                peer: FIRST_NUMBER + 1 - own as u8,
            };
            Machine::new(image.clone(), dir.clone(), NAMES[own], FIRST_NUMBER + own as u8, network)
        };
        Ok(Pair { a: machine(0)?, b: machine(1)?, dir })
    }

    /// Switches both on, side by side.
    ///
    /// # Errors
    /// One of them does not boot before the deadline.
    pub fn power_on(&self, deadline: Instant) -> Result<(Guest, Guest), Error> {
        let (a, b) = (self.a.start()?, self.b.start()?);
        Ok((a.ready(deadline)?, b.ready(deadline)?))
    }

    /// From now on nothing that one machine sends arrives at the other, and neither is told. Machines that are switched on
    /// while the wire is cut are connected again.
    ///
    /// # Errors
    /// A machine is not running, or the wire is cut already.
    pub fn cut_wire(&self) -> io::Result<()> {
        self.rename_wires(|name| (wire(name), cut_wire(name)))
    }

    /// Undoes [`cut_wire`](Self::cut_wire). Frames sent in between are lost.
    ///
    /// # Errors
    /// The wire is not cut.
    pub fn mend_wire(&self) -> io::Result<()> {
        self.rename_wires(|name| (cut_wire(name), wire(name)))
    }

    fn rename_wires(&self, names: impl Fn(&str) -> (String, String)) -> io::Result<()> {
        for name in NAMES {
            let (from, to) = names(name);
            fs::rename(self.dir.path().join(from), self.dir.path().join(to))?;
        }
        Ok(())
    }
}

fn wire(name: &str) -> String {
    format!("{name}.wire")
}

fn cut_wire(name: &str) -> String {
    format!("{name}.wire.cut")
}
